"""Video networks as encoders of chunks: torchvision's own features, chunks by hand, each encoded once."""
import json
import re
import shutil

import numpy as np
import pytest
import torch
import torchvision.models as zoo
from commands import call
from runs import TINY, last_line, load, refused

import models
from lrcn.base.cli import UserError
from lrcn.data import chunks, frames
from lrcn.data.chunks import VIDEO_ENCODERS, chunk_of
from lrcn.data.frames import Clip, ClipSampler, clip_frames
from lrcn.data.manifest import SampledVideo, read_sampled
from lrcn.features import surgery
from lrcn.features.features import Options, encode_clips
from lrcn.video.reader import read_frames
from lrcn.video.writer import write_clip

# random weights give features below float16's
STORE = Options(torch.device("cpu"), num_workers=0, dtype="float32")
# Frames of a chunk, the fewest with which a test is short
SMALL = {"r3d_18": 2, "mc3_18": 4, "r2plus1d_18": 4, "s3d": 14, "mvit_v1_b": 16, "mvit_v2_s": 16,
         "swin3d_t": 2, "swin3d_s": 2, "swin3d_b": 2}


def small(name, stride=None, **more):
    torch.manual_seed(0)
    return models.build_encoder(f"video/{name}", None, chunk_frames=SMALL[name], chunk_stride=stride, **more)


@pytest.fixture
def clips(chunked):
    """Folder of sampled clips that hold 15 frames a second of all of their videos."""
    return chunked / "clips"


# ---------------------------------------------------------------- torchvision's own

def test_the_table_names_all_of_torchvisions_video_networks_and_how_their_weights_were_measured():
    measured = {}
    for name in zoo.list_models(module=zoo.video):
        words = zoo.get_model_weights(name).DEFAULT.meta["_docs"]
        said = dict(re.findall(r"(frame_rate|clip_len)=(\d+(?:\.\d+)?)", words))
        measured[name] = int(said["clip_len"]), float(said["frame_rate"])
    assert measured == VIDEO_ENCODERS


@pytest.fixture
def chunk(clips):
    """chunk(name, start): that of a clip, as the network's own preset prepares it, (1, 3, K, S, S)."""
    def make(name, start=0):
        path, frames = clips / read_sampled(clips)[0].path, range(start, start + SMALL[name])
        preset = zoo.get_model_weights(name).DEFAULT.transforms()
        return preset(torch.from_numpy(np.stack(read_frames(path, frames))).movedim(-1, 1))[None]
    return make


@pytest.mark.parametrize("name", SMALL)
def test_a_video_encoder_is_torchvisions_network_without_its_classifier_behind_its_preset(clips, chunk, name):
    with torch.device("meta"):
        encoder, whole = small(name), zoo.get_model(name)
    left = whole.load_state_dict(encoder.backbone.state_dict(), strict=False, assign=True).missing_keys
    assert [whole.get_parameter(key).shape[0] for key in left] == [400, 400]
    assert encoder.feature_dim == whole.get_parameter(left[0]).shape[1]
    sees = models.Encoder(name, torch.nn.Identity(), encoder.transform)     # gives what a network reads
    frames = clip_frames(clips, Clip(read_sampled(clips)[0], (0,)), encoder.transform, 42)
    ours, theirs = sees(torch.from_numpy(frames).movedim(-1, -3)), chunk(name).flatten(1)
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() < 1e-5


def test_features_of_chunks_in_the_store_are_those_of_torchvisions_own_model(clips, chunk, tmp_path):
    encoder, folder = small("r3d_18", 9), tmp_path / "sampled"
    shutil.copytree(clips, folder, ignore=shutil.ignore_patterns("features"))
    ours = encode_clips(encoder, [Clip(read_sampled(folder)[0], (0, 9))], folder, STORE)
    whole = zoo.get_model("r3d_18").eval()
    whole.load_state_dict(encoder.backbone.state_dict(), strict=False)
    whole.fc = torch.nn.Identity()
    with torch.inference_mode():
        theirs = whole(torch.cat([chunk("r3d_18", start) for start in (0, 9)]))
    ours = torch.from_numpy(np.asarray(ours)[0])
    assert (ours - theirs).abs().max() <= 1e-4 * min(theirs.abs().max(), 1)
    # and that is far below what tells one chunk from another
    assert (ours - theirs).norm() < 0.01 * (theirs[0] - theirs[1]).norm()


@pytest.mark.parametrize("name", ["r3d_18", "swin3d_t"])
def test_a_video_network_is_built_again_cut_and_folded(name):
    encoder = small(name, img_dim=32)
    spec = json.loads(json.dumps(encoder.spec()))
    again = models.encoder_from_spec(spec)
    again.load_state_dict(encoder.state_dict())
    assert again.transform == encoder.transform and again.feature_dim == encoder.feature_dim
    chunk = torch.randint(0, 256, (2, *encoder.transform.shape), dtype=torch.uint8).movedim(-1, -3)
    frozen, tail = surgery.cut(again, 2)
    with torch.inference_mode():
        expected = encoder(chunk)
        for other in (tail(frozen(chunk)).flatten(1), surgery.for_inference(encoder)(chunk)):
            assert (other - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert len(surgery.units(encoder.backbone)) > 4
    if name != "swin3d_t":      # which has no batch norm to fold
        folded = surgery.for_inference(encoder).backbone
        assert not any(isinstance(m, torch.nn.BatchNorm3d) for m in folded.modules())


# ---------------------------------------------------------------- chunks by hand

@pytest.mark.parametrize("count, length, stride, starts", [
    (1, 4, 4, (0,)), (3, 4, 4, (0,)), (4, 4, 4, (0,)), (7, 4, 4, (0,)), (8, 4, 4, (0, 4)),
    (9, 4, 2, (0, 2, 4)), (10, 4, 6, (0, 6)), (9, 4, 6, (0,)), (12, 4, 1, tuple(range(9)))])
def test_a_chunk_begins_at_every_stride_as_long_as_a_whole_one_fits(count, length, stride, starts):
    video = SampledVideo("v", "A", "v", count)
    assert ClipSampler(None, chunk=length, chunk_stride=stride).windows(video)[0].frames == starts
    one = ClipSampler(1, chunk=length, chunk_stride=stride)
    assert [clip.frames for clip in one.windows(video, "all")] == [(start,) for start in starts]
    drawn = {one.training(video, view, 42)[0].frames[0] for view in range(99)}
    assert drawn == set(starts)


def test_clips_count_chunks_as_others_count_frames():
    video, chunked = SampledVideo("v", "A", "v", 14), dict(chunk=4, chunk_stride=2)     # at 0, 2, ..., 10
    assert ClipSampler(3, **chunked).windows(video)[0].frames == (4, 6, 8)
    assert ClipSampler(3, **chunked).windows(video, "all")[-1].frames == (6, 8, 10)
    assert ClipSampler(3, stride=2, **chunked).windows(video)[0].frames == (2, 6, 10)
    assert ClipSampler(3, spread=True, **chunked).windows(video)[0].frames == (2, 6, 10)
    assert ClipSampler(9, **chunked).windows(video)[0].frames == (0, 2, 4, 6, 8, 10, 10, 10, 10)
    assert ClipSampler(9, repeat=False, **chunked).windows(video)[0].frames == (0, 2, 4, 6, 8, 10)


def test_chunks_hold_their_frames_the_last_one_repeated_and_each_is_decoded_once(tmp_path, monkeypatch):
    reads, real = [], frames.source_frames
    monkeypatch.setattr(frames, "source_frames", lambda folder, video, indices: (
        reads.append(list(indices)), real(folder, video, indices))[1])
    transform = frames.Transform((16, 24), 16, (0.5,) * 3, (0.25,) * 3, chunk=4, chunk_stride=2, rate=15)
    video, levels = SampledVideo("v", "A", "v", 8), range(10, 250, 30)
    (tmp_path / "A").mkdir()
    write_clip(tmp_path / "A" / "v.avi", [np.full((16, 24, 3), level, np.uint8) for level in levels], 15)
    seen = clip_frames(tmp_path, Clip(video, (0, 2, 6)), transform, 42)
    assert seen.shape == (3, 4, 16, 16, 3) and reads == [[0, 1, 2, 3, 4, 5, 6, 7]]
    levels = np.array([[0, 1, 2, 3], [2, 3, 4, 5], [6, 7, 7, 7]]) * 30 + 10
    assert np.abs(seen.mean((2, 3, 4)) - levels).max() < 3
    mirrored = clip_frames(tmp_path, Clip(video, (0,), -1), transform, 42)
    assert (mirrored == seen[:1, :, :, ::-1]).all()


def test_a_view_crops_all_frames_of_all_chunks_of_a_clip_alike(clips):
    transform = small("mc3_18", 2).transform
    video = read_sampled(clips)[0]
    whole = clip_frames(clips, Clip(video, (0, 2), 3), transform, 42)
    assert (whole[0, 2:] == whole[1, :2]).all()
    assert (clip_frames(clips, Clip(video, (2,), 3), transform, 42)[0] == whole[1]).all()
    assert (clip_frames(clips, Clip(video, (2,), 4), transform, 42)[0] != whole[1]).any()


# ---------------------------------------------------------------- each once

def test_a_chunk_is_encoded_once_for_all_lengths_strides_and_orders_of_clips(clips, tmp_path, encoded):
    folder = shutil.copytree(clips, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))
    videos = read_sampled(folder)[:3]

    def encode(stride, length, number=1):
        encoder = small("mc3_18", stride, img_dim=16)
        sampler = ClipSampler(length, chunk=4, chunk_stride=stride)
        clips = [clip for v in videos for clip in sampler.windows(v, number)]
        return np.asarray(encode_clips(encoder, clips, folder, STORE)), clips

    every, clips = encode(4, 1, "all")
    [first] = encoded
    assert first == len(clips) == sum((v.frames - 4) // 4 + 1 for v in videos)
    encode(4, 3)                        # another T: nothing is encoded
    assert len(encoded) == 1
    videos.reverse()
    again, others = encode(4, 1, "all")
    assert len(encoded) == 1
    places = {(clip.video, clip.frames): i for i, clip in enumerate(clips)}
    assert (again == every[[places[clip.video, clip.frames] for clip in others]]).all()
    encode(2, 1, "all")                 # those between are new
    assert encoded[1] == sum((v.frames - 4) // 2 - (v.frames - 4) // 4 for v in videos)


def test_all_blocks_of_a_video_network_are_trained_on_chunks(chunked, tmp_path):
    video = chunked / "video"
    run = last_line(call("train.py", "--sampled_data_path", chunked / "clips", *TINY[2:], "--epochs", 1,
                         "--smaller_dataset", "--parts", video / "splits.csv", "--init_from", video,
                         "--num_frames_video", 2, "--train_encoder", "all", "--local_dir", tmp_path))
    before, after = (load(folder, "best")["encoder"] for folder in (video, run))
    for key in ("backbone.stem.0.weight", "backbone.layer4.1.conv1.0.weight"):
        assert not torch.equal(before[key], after[key])
    assert json.loads((run / "settings.json").read_text())["chunk_frames"] == 4


# ---------------------------------------------------------------- refusals

def test_what_does_not_go_together_is_refused_in_one_line(sampled, chunked, tmp_path):
    data = "--sampled_data_path", chunked / "clips", *TINY, "--local_dir", tmp_path
    for words, says in (
            (("--encoder", "video/resnet18"), "video/r3d_18"),
            (("--encoder", "video/r3d_18", "--modality", "rgbdiff"), "--modality rgbdiff"),
            (("--chunk_frames", 8), "--chunk_frames 8: --encoder squeezenet1_1"),
            (("--encoder", "video/mvit_v2_s", "--chunk_frames", 8), "takes 16"),
            (("--encoder", "video/s3d", "--chunk_frames", 8), "takes 14 or more"),
            (("--encoder", "video/mvit_v2_s"), "--for video/mvit_v2_s")):
        refused("train.py", *data, *words, says=says)
    refused("train.py", "--sampled_data_path", sampled, *TINY, "--encoder", "video/mc3_18", "--local_dir",
            tmp_path, says=("2.5 frames a second", "wants 15", "preprocessing_data.py --for video/mc3_18"))
    refused("test.py", "--model_dir", chunked / "video", "--sampled_data_path", sampled,
            says="2.5 frames a second")


def test_a_checkpoints_chunk_goes_with_its_encoder():
    spec = small("r3d_18", img_dim=16).spec()
    for wrong in ({"name": "resnet18"}, {"name": "video/nothing"}, {"modality": "flow"}, {"chunk": 0}):
        with pytest.raises(UserError):
            models.encoder_from_spec({**spec, **wrong})


def test_the_rate_of_the_sources_themselves_counts_where_every_frame_was_taken(tmp_path):
    from lrcn.training.recipe import Recipe
    recipe = Recipe(encoder="video/r3d_18")
    (tmp_path / "settings.json").write_text(json.dumps({"FPS": 25, "sampling_rate": 0}))
    for fps, right in ((15, True), (14.985, True), (25, False)):
        (tmp_path / "manifest.csv").write_text(
            "video,class,source,source_fps,source_frames,start,stride,frames\n"
            f"v,A,A/v.avi,{fps},30,0,1,30\n")
        if right:
            chunks.require_rate(tmp_path, recipe)
        else:
            with pytest.raises(UserError, match="hold 25 frames a second"):
                chunks.require_rate(tmp_path, recipe)
    assert chunk_of("video/mvit_v2_s") == (16, 16, 7.5) and chunk_of("resnet18") == (0, 0, 0)
