"""The model in a notebook: torch.hub.load on this folder; and one Recogniser for all who watch films."""
import shutil
import sys

import numpy as np
import pytest
import torch
from commands import ROOT
from runs import load, table
from videos import write_video

import app
import find_clips
import hubconf
import test_on_video
from lrcn.base.cli import UserError
from lrcn.video.reader import VideoError
from lrcn.watching.recogniser import Recogniser


@pytest.fixture(scope="module")
def model(trained):
    return torch.hub.load(str(ROOT), "lrcn", run=str(trained), device="cpu", source="local")


def test_one_film_and_one_run_are_the_same_to_all_who_watch(two_runs, tmp_path, monkeypatch):
    """The engine that the training kept and the rate of its clips: the same probabilities in a notebook, in
    test_on_video.py's tables, in find_clips.py's candidates and on the page of app.py."""
    pytest.importorskip("onnxruntime")
    folder, built, of_run = shutil.copytree(two_runs / "rgb", tmp_path / "run"), [], Recogniser.of_run
    state = load(folder, "best")
    assert state["settings"]["engines"] == [["torch", "float32", "cpu"]]
    state["settings"].update(encoder_backend="auto", encoder_precision="auto", frame_step=0.2,
                             engines=[["onnxruntime", "float32", "cpu"]])
    torch.save(state, folder / "Saved_model_checkpoint" / "best.pth.tar")
    film = write_video(tmp_path / "film.mp4", 150)
    monkeypatch.setattr(Recogniser, "of_run", lambda *args: built.append(of_run(*args)) or built[-1])
    prediction = hubconf.lrcn(folder, device="cpu").predict(film)

    def call(main, *words):
        monkeypatch.setattr(sys, "argv", ["script", "--model_dir", str(folder), "--device", "cpu", *words])
        return main()
    assert call(test_on_video.main, "--video_path", str(film), "--no-video") == 0
    rows = table(folder / "test_on_video" / "film" / "segments.csv")
    assert [tuple(row.values()) for row in rows] == [
        (f"{a:.3f}", f"{b:.3f}", label, f"{p:.4f}") for a, b, label, p in prediction.segments]

    assert call(find_clips.main, "--video_path", str(film), "--clip_seconds", "0.1", "--min_probability", "0",
                "--clips_per_class", "1") == 0
    best = max(float(row["probability"]) for row in table(folder / "find_clips" / "candidates.csv"))
    assert best == pytest.approx(prediction.probabilities.max(), abs=1e-4)

    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="app.py needs gradio: pip install -r requirements-app.txt"):
        call(app.main)
    args = app.make_parser().parse_args(["--model_dir", str(folder)])
    *_, segments, _, _ = app.Desk(built[-1], args, tmp_path).label(film, lambda *_, **__: None)
    assert segments == [[round(a, 2), round(b, 2), label, round(p, 3)]
                        for a, b, label, p in prediction.segments]

    assert len(built) == 4 and {one.encoders[0].engine.backend for one in built} == {"onnxruntime"}
    for one in built:
        assert one.rate.step == pytest.approx(0.2)
        np.testing.assert_array_equal(one.predict(film).probabilities, prediction.probabilities)


def test_what_is_no_run_is_a_value_error_and_a_film_that_is_not_there_is_named(model, tmp_path):
    with pytest.raises(ValueError, match="no run folder"):
        torch.hub.load(str(ROOT), "lrcn", run=str(tmp_path), source="local")
    with pytest.raises(VideoError, match="nothere.mp4: "):
        model.predict("nothere.mp4")


@pytest.mark.parametrize("frames, says", [
    (torch.zeros(1, 5, 3, 32, 32), "float32"),
    (torch.zeros(5, 3, 32, 32, dtype=torch.uint8), "B, T, 3, H, W"),
    (torch.zeros(1, 5, 32, 32, 3, dtype=torch.uint8), "B, T, 3, H, W"),
    (np.zeros((1, 5, 3, 32, 32)), "ndarray")])
def test_frames_of_another_kind_are_refused_with_the_right_one(model, frames, says):
    network = model.trained.model
    for mode in (True, False):      # a loop of one's own trains on floats that are normalised already
        with pytest.raises(ValueError, match="expected frames uint8") as error:
            network.train(mode)(frames)
        assert says in str(error.value)
