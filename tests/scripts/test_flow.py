"""A run on optical flow, from the sampled clips to a labelled film: one field as a picture, and a stack."""
import cv2
import pytest
import torch
from commands import call
from runs import flags, last_line, load, read_json, refused, report_of, table, train

import utils
from lrcn.base.cli import UserError
from lrcn.video.flow import Flow
from lrcn.watching.recogniser import Recogniser

STACK = "--modality", "flow", "--flow_length", 2


def test_what_cannot_be_trained_is_refused_in_one_line(demo, sampled, flowing, tmp_path):
    for folder, more, words in (
            (flowing, STACK, ("--flow_length 2", "--train_encoder all or last:K")),
            (flowing, ("--modality", "rgb+flow", "--flow_length", 2), ("--flow_length 2", "fuse.py")),
            (sampled, ("--modality", "flow"), ("no optical flow", "--flow dis")),
            (flowing, ("--modality", "flow", "--flow_length", 9, "--train_encoder", "all"), ("2 fields",))):
        refused("train.py", *flags(demo, folder, tmp_path, *more), says=words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [("--modality", "rgb+flow"), (*STACK, "--train_encoder", "all"),
                                  (*STACK, "--train_encoder", "last:1")], ids=lambda m: " ".join(map(str, m)))
def test_a_run_on_flow_trains_tests_goes_on_and_labels_a_film(demo, flowing, tested, tmp_path, more, capsys):
    folder = train(demo, flowing, tmp_path, *more, "--epochs", 1)
    assert load(folder)["settings"]["flow"]["backend"] == "dis"
    assert read_json(report_of(folder) / "metrics.json")["videos"] == 42
    assert last_line(call("train.py", "--resume", folder, "--epochs", 2)) == folder
    film = next((demo / "UCF-101").rglob("*.avi"))
    result = call("test_on_video.py", "--model_dir", folder, "--video_path", film, "--no-video",
                  "--flow", "dis", "--encoder_backend", "torch")
    assert table(last_line(result) / "predictions.csv")
    if more[-1] != "last:1":
        return
    call("fuse.py", tested, folder, "--output_dir", tmp_path / "mean")
    assert read_json(tmp_path / "mean" / "test" / "metrics.json")["videos"] == 42
    both = last_line(call("fuse.py", "--train", tested, folder, "--sampled_data_path", flowing,
                          "--epochs", 1, "--rnn", "gru", "--readout", "attention", "--no-pictures",
                          "--device", "cpu", "--num_workers", 0, "--encoder_backend", "torch", "--local_dir",
                          tmp_path / "both"))
    assert read_json(report_of(both) / "metrics.json")["videos"] == 42
    fused = utils.load_trained(both)
    fused.settings["flow"].update(backend="tvl1", preset="default")
    if not hasattr(cv2, "optflow"):
        with pytest.raises(UserError, match="or take --flow dis"):
            Recogniser.of_run(fused, torch.device("cpu"))
    one = Recogniser.of_run(fused, torch.device("cpu"), "torch", flow="dis")
    assert one.flow == Flow("dis", length=2)
    assert "the training used tvl1" in capsys.readouterr().out
    assert len(one.predict(film).times) > 5
