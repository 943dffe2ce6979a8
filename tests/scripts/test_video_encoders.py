"""A run over chunks of frames goes through the scripts as any other one, or is refused in one line."""
import itertools

import numpy as np
import pytest
import torch
from commands import call
from runs import HEAD, last_line, read_json, refused, table, train
from torch import nn

import export
import models
import utils
from lrcn.data.frames import ClipSampler, clip_frames
from lrcn.data.manifest import read_sampled
from lrcn.features.features import head_logits, softmax
from lrcn.video.reader import read_frames
from lrcn.watching import exported
from lrcn.watching.recogniser import Recogniser

PLAIN = ("--encoder_backend", "torch", "--encoder_precision", "float32", "--device", "cpu")


def test_the_clips_are_sampled_as_the_encoder_wants(chunked, demo, tmp_path):
    videos = read_sampled(chunked / "clips")
    assert {round(1 / v.step, 1) for v in videos} == {15.0} and min(v.frames for v in videos) > 25
    for flags, says in ((("--for", "resnet18"), "--for resnet18: an image encoder"),
                        (("--for", "video/c3d"), "video/c3d"),
                        (("--for", "video/s3d", "--num_frames_to_extract", 5), "wants all"),
                        (("--for", "video/mvit_v2_s", "--sampling_rate", 10), "wants 3.33333")):
        refused("preprocessing_data.py", "--row_data_dir", demo / "UCF-101", "--sampled_data_dir",
                tmp_path / "new", *flags, says=says)


def test_a_film_says_what_the_store_says_of_the_same_frames(chunked, tmp_path):
    """The film is a sampled clip itself, so that its frames are those of the data set."""
    run = utils.load_trained(chunked / "video")
    video = max(read_sampled(chunked / "clips"), key=lambda v: v.frames)
    film = chunked / "clips" / video.path
    windows = ClipSampler.of(run.recipe).windows(video, "all")
    starts = list(range(0, video.frames - 3, 2))
    assert [clip.frames for clip in windows] == [tuple(starts[i:i + 3]) for i in range(len(starts) - 2)]
    crops = np.stack([clip_frames(chunked / "clips", clip, run.sees, 0) for clip in windows])
    with torch.inference_mode():
        features = run.model.features(torch.from_numpy(crops).movedim(-1, -3)).float()
    model = utils.load_recogniser(chunked / "video", None, "cpu", "torch", "float32")
    said = model.features(read_frames(film, range(video.frames)))
    assert said.shape == (len(starts), 512)
    assert said.unfold(0, 3, 1).movedim(-1, 1).numpy() == pytest.approx(features.numpy(), rel=1e-4, abs=1e-4)

    folder = last_line(call("test_on_video.py", "--model_dir", chunked / "video", "--video_path", film,
                            "--output_dir", tmp_path, *PLAIN))
    rows, shares = table(folder / "predictions.csv"), softmax(head_logits(run.model.head, features.numpy()))
    assert [(row["start"], row["end"]) for row in rows] == [
        (f"{clip.frames[0] / 15:.3f}", f"{(clip.frames[-1] + 3) / 15:.3f}") for clip in windows]
    best = shares.max(1).values.tolist()
    assert [float(row["probability_1"]) for row in rows] == pytest.approx(best, abs=2e-3)
    segments = [(float(row["start"]), float(row["end"])) for row in table(folder / "segments.csv")]
    assert segments[0][0] == 0 and segments[-1][1] == pytest.approx(video.frames / 15, abs=0.01)
    borders = {f"{(start + 2.5) / 15:.3f}" for start in starts}     # between the middles of two chunks
    assert all(f"{a[1]:.3f}" in borders and a[1] == b[0] for a, b in itertools.pairwise(segments))


def test_what_the_other_scripts_do_with_chunks(chunked, demo, tmp_path):
    run, image, film = chunked / "video", chunked / "image", next((demo / "UCF-101").glob("Grow/*"))
    rows = call("compare.py", run, image, "--no-speed", "--output", tmp_path / "compared").out
    assert "chunk_frames None" in rows
    fused = last_line(call("fuse.py", run, image, "--num_videos", 0, "--output_dir", tmp_path / "mean"))
    assert read_json(fused / "test" / "metrics.json")["encoder"] == "video/mc3_18 + squeezenet1_1"
    found = last_line(call("find_clips.py", "--model_dir", run, "--video_path", film, "--min_probability", 0,
                           "--clip_seconds", 1, "--output_dir", tmp_path / "found", *PLAIN))
    lengths = [float(row["end"]) - float(row["start"]) for row in table(found / "candidates.csv")]
    assert lengths and lengths == pytest.approx([1] * len(lengths), abs=0.0011)     # of times in milliseconds
    assert last_line(call("report.py", run)).is_file()
    refused("find_clips.py", "--model_dir", run, "--video_path", film, "--every", 2, says="clips of 8 frames")
    refused("test_continues_movie.py", "--model_dir", run, says="reads chunks")
    refused("teach.py", "--video_path", film, "--output_dir", tmp_path / "taught", "--encoder", "video/s3d",
            "--no-open", says="chunks of frames")
    refused("teach.py", "--video_path", film, "--output_dir", tmp_path / "taught", "--model_dir", run,
            "--no-open", says="chunks of frames")


def test_a_head_over_chunks_and_the_first_frame_of_each(chunked, demo, tmp_path):
    """fuse.py --train: the image stream steps as far as the chunks do, else it is refused."""
    fused = last_line(call("fuse.py", "--train", chunked / "image", chunked / "video", *HEAD, "--local_dir",
                           tmp_path))
    run = utils.load_trained(fused)
    assert (run.chunk, run.length, run.frames, run.step) == ((4, 2), 3, 8, pytest.approx(2 / 15))
    video = next(v for v in read_sampled(chunked / "clips") if v.cls == "Grow")
    frames = read_frames(chunked / "clips" / video.path, range(8))
    both = utils.load_recogniser(fused, None, "cpu", "torch", "float32").features(frames)
    image, chunks = (utils.load_recogniser(chunked / name, None, "cpu", "torch", "float32")
                     for name in ("image", "video"))
    apart = torch.cat([image.features(frames[[0, 2, 4]]), chunks.features(frames)], 1)
    assert both.numpy() == pytest.approx(apart.numpy(), rel=1e-4, abs=1e-4)
    call("test_on_video.py", "--model_dir", fused, "--video_path", chunked / "clips" / video.path,
         "--no-video", "--output_dir", tmp_path, *PLAIN)
    assert len(table(tmp_path / video.name / "predictions.csv")) == len(range(0, video.frames - 3, 2)) - 2
    dense = train(demo, chunked / "clips", tmp_path, "--num_frames_video", 3, "--epochs", 1)
    refused("fuse.py", "--train", dense, chunked / "video", *HEAD, "--local_dir", tmp_path,
            says="with --stride 2")


def test_an_onnx_file_takes_chunks(chunked, demo, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    run = utils.load_trained(chunked / "video")
    run.model.encoder.backbone = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 512))
    run.model.head = models.Head(512, 2, latent_dim=4, readout="none").eval()      # quickly exported
    about = exported.describe(run, "model")
    assert about["input"].startswith("frames: uint8 (B, 3, 4, 3, 16, 16)")
    export.write_onnx(tmp_path / "model.onnx", *export.parts(run)["model"], about)
    film = next((demo / "UCF-101").glob("Grow/*"))
    file = Recogniser.of_file(tmp_path / "model.onnx")
    own = Recogniser.of_run(run, torch.device("cpu"), "torch", "float32")
    ours, theirs = (one.predict(film).probabilities for one in (file, own))
    assert len(ours) > 5 and ours == pytest.approx(theirs, abs=1e-4)
