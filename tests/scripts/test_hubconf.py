"""The model in a notebook: torch.hub.load on this folder."""
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import ROOT, environment, run
from runs import last_line, train
from videos import write_video

import utils
from lrcn.video.flow import fields_at
from lrcn.video.reader import VideoError, read_frames

NOTEBOOK = """
import sys, torch
root, run, film = sys.argv[1:]
model = torch.hub.load(root, "lrcn", run=run, source="local")
said = model.predict(film)
assert said.probabilities.shape == (len(said.times), len(model.classes))
for start, end, label, probability in said.segments:
    print(f"{start:.1f} {end:.1f} {label} {probability:.3f}")
"""


@pytest.fixture(scope="module")
def model(trained):
    return torch.hub.load(str(ROOT), "lrcn", run=str(trained), device="cpu", source="local")


@pytest.mark.slow
def test_a_notebook_elsewhere_gets_segments_that_cover_the_film(trained, tmp_path):
    film = write_video(tmp_path / "film.avi", 100)
    (tmp_path / "cell.py").write_text(NOTEBOOK)
    done = subprocess.run([sys.executable, tmp_path / "cell.py", ROOT, trained, film], cwd=tmp_path,
                          text=True, capture_output=True, env=environment({}))
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows and float(rows[0][0]) == 0 and float(rows[-1][1]) == pytest.approx(4.0, abs=0.1)
    assert [row[1] for row in rows[:-1]] == [row[0] for row in rows[1:]]


def test_features_are_the_encoders(model, trained, demo):
    film = next((demo / "UCF-101").rglob("*.avi"))
    frames = read_frames(film, [0, 10, 20])
    found = model.features(frames)
    network = utils.load_trained(trained).model
    crops = np.stack([model.crop(frame)[0]["rgb"] for frame in frames])
    with torch.inference_mode():
        wanted = network.features(torch.from_numpy(crops).movedim(-1, -3)[None])[0]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_what_is_no_run_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match="no run folder"):
        torch.hub.load(str(ROOT), "lrcn", run=str(tmp_path), source="local")


@pytest.mark.parametrize("frames, says", [
    (torch.zeros(1, 5, 3, 32, 32), "float32"),
    (torch.zeros(5, 3, 32, 32, dtype=torch.uint8), "B, T, 3, H, W"),
    (torch.zeros(1, 5, 32, 32, 3, dtype=torch.uint8), "B, T, 3, H, W"),
    (np.zeros((1, 5, 3, 32, 32)), "ndarray")])
def test_frames_of_another_kind_are_refused_with_the_right_one(model, frames, says):
    with pytest.raises(ValueError, match="expected frames uint8") as error:
        model.trained.model(frames)
    assert says in str(error.value)


def test_a_film_that_is_not_there_is_named(model):
    with pytest.raises(VideoError, match="nothere.mp4: "):
        model.predict("nothere.mp4")


def test_features_of_flow_and_of_a_fusion_are_what_the_head_reads(demo, flowing, tmp_path):
    runs = [train(demo, flowing, tmp_path / name, "--modality", name, "--epochs", 1)
            for name in ("rgb", "flow")]
    both = last_line(run("fuse.py", "--train", *runs, "--epochs", 1, "--device", "cpu", "--num_workers", 0,
                         "--no-pictures", "--encoder_backend", "torch", "--local_dir", tmp_path))
    rgb, flow, fused = (torch.hub.load(str(ROOT), "lrcn", run=str(one), device="cpu", source="local")
                        for one in (*runs, both))
    assert utils.load_trained(runs[0]).settings["engines"] == [["torch", "float32", "cpu"]]
    film = next((demo / "UCF-101").rglob("*.avi"))
    frames, fields = read_frames(film, [0, 10, 20]), fields_at(film, [0, 10, 20], flow.trained.flow)
    parts = [rgb.features(frames), flow.features(frames, fields)]
    torch.testing.assert_close(fused.features(frames, fields), torch.cat(parts, 1))
    assert fused.features(frames, fields).shape[1] == fused.trained.model.encoder.feature_dim
    with pytest.raises(ValueError, match="expected flow uint8 .3, H, W, 2."):
        flow.features(frames)
