"""Recurrent recognisers of the field, the three official splits, runs on optical flow: from one train.py."""
import shutil

import cv2
import numpy as np
import pytest
import torch
from commands import call
from runs import (
    HEAD,
    TINY,
    flags,
    last_line,
    launched,
    metrics,
    patched,
    read_json,
    refused,
    report_of,
    sample,
    table,
    train,
)

import utils
from lrcn.base.cli import UserError
from lrcn.data import split_lists
from lrcn.video.flow import Flow, fields_at
from lrcn.video.reader import read_frames
from lrcn.watching.recogniser import Recogniser

# Commands of docs/experiments/systems.md: what makes each one what it is, and every other option at once.
# Encoder and size are replaced by tiny ones, so that a system trains in a second.
SYSTEMS = {
    "forty small frames and attention": ("--num_frames_video", 40, "--lstm_layers", 1,
                                         "--readout", "attention"),
    "a prediction at every step": ("--num_frames_video", 16, "--lstm_layers", 1, "--no-bidirectional",
                                   "--readout", "last", "--loss_per_step"),
    "every option": ("--loss_per_step", "--mixup", 0.2, "--ema", 0.9, "--scheduler", "step", "--readout",
                     "attention", "--recompute", "--train_encoder", "last:1", "--clip_grad", 0,
                     "--label_smoothing", 0, "--warmup_epochs", 0.5, "--pictures"),
}


@pytest.fixture(scope="module")
def forty(demo, tmp_path_factory):
    """Two classes of the demo sampled to 40 frames each, at a smaller stride than a second's 2.5 frames."""
    folder = tmp_path_factory.mktemp("forty") / "sampled"
    sample(demo, folder, "--classes", "Grow,Shrink", "--num_frames_to_extract", 40, "--no-report")
    rows = table(folder / "manifest.csv")
    assert {int(row["frames"]) for row in rows} == {40} and {int(row["stride"]) for row in rows} != {10}
    return folder


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_of_the_field_trains_and_tests(demo, forty, tmp_path, system):
    folder = train(demo, forty, tmp_path, "--epochs", 1, *SYSTEMS[system])
    figures = read_json(report_of(folder) / "metrics.json")
    settings = read_json(folder / "settings.json")
    words = dict(zip(SYSTEMS[system], (*SYSTEMS[system][1:], True), strict=True))
    assert figures["readout"] == words.get("--readout", "final") and figures["videos"] == 14
    assert settings["num_frames_video"] == words.get("--num_frames_video", 5)
    assert np.isfinite(float(metrics(folder)[0]["train_loss"]))


def three_splits(demo, folder):
    """The demo's videos on lists of three splits, each of which tests other groups."""
    shutil.copytree(demo / "ucfTrainTestlist", folder)
    index = split_lists.read_class_index(folder)
    videos = sorted(path.relative_to(demo / "UCF-101") for path in (demo / "UCF-101").rglob("*.avi"))
    for split in (1, 2, 3):
        parts = {"test": [], "train": []}
        for path in videos:
            group = int(path.stem.split("_g")[1][:2])
            held_out = 3 * split - 2 <= group <= 3 * split
            parts["test" if held_out else "train"].append(
                f"{path}" if held_out else f"{path} {index[path.parent.name]}")
        for name, lines in parts.items():
            (folder / f"{name}list0{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


# The tests take place in the process that trained, without pictures.
TESTED = """
from lrcn.base import cli
from lrcn.evaluation import results
results.draw = lambda *_: None
def run_script(script, *words, env):
    argv, environ = sys.argv, dict(os.environ)
    sys.argv = [*map(str, (script, *words)), "--num_workers", "0"]
    for name in environ.keys() - env.keys():
        del os.environ[name]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv = argv
        os.environ.update(environ)
cli.run_script = run_script
"""


def test_all_three_splits_are_trained_and_tested_in_turn_by_two_processes(demo, sampled, tmp_path):
    words = ("--sampled_data_path", sampled, "--ucf_list_dir", three_splits(demo, tmp_path / "lists"), *TINY,
             "--local_dir", tmp_path, "--split", "all", "--epochs", 1)
    folder = last_line(launched(patched(tmp_path, "train.py", TESTED), *words))
    rows = table(folder / "splits_summary.csv")
    assert [row["split"] for row in rows] == ["1", "2", "3", "mean", "deviation"]
    top1 = []
    for row in rows[:3]:
        figures = read_json(folder / f"split_{row['split']}" / "test" / "metrics.json")
        assert (figures["split"], figures["videos"]) == (row["split"], 18) and figures["leaky"] is False
        assert float(row["top1"]) == pytest.approx(figures["top1"], abs=1e-6)
        seen = {r["video"] for r in table(folder / f"split_{row['split']}" / "splits.csv")}
        assert not seen & {r["video"] for r in table(folder / f"split_{row['split']}" / "test" /
                                                     "predictions.csv")}
        top1.append(figures["top1"])
    assert float(rows[3]["top1"]) == pytest.approx(np.mean(top1), abs=1e-6)
    assert float(rows[4]["top1"]) == pytest.approx(np.std(top1, ddof=1), abs=1e-6)


def test_all_splits_from_a_run_that_has_learned_a_test_are_refused_before_any(demo, sampled, tmp_path):
    data = ("--sampled_data_path", sampled, "--ucf_list_dir", three_splits(demo, tmp_path / "lists"), *TINY,
            "--epochs", 1)
    first = last_line(call("train.py", *data, "--train_encoder", "last:1", "--local_dir", tmp_path))
    refused("train.py", *data, "--split", "all", "--init_from", first, "--local_dir", tmp_path / "all",
            says=f"--init_from {first}: it was trained on")
    assert not (tmp_path / "all").exists()


STACK = "--modality", "flow", "--flow_length", 2


def test_a_stack_of_flow_trains_its_own_encoder_or_is_refused(demo, sampled, tmp_path):
    for more, words in ((STACK, ("--flow_length 2", "--train_encoder all or last:K")),
                        ((*STACK, "--modality", "rgb+flow"), ("--flow_length 2", "fuse.py"))):
        refused("train.py", *flags(demo, sampled, tmp_path, *more), says=words)


def test_a_run_on_frames_and_flow_trains_and_tests_without_a_store(demo, flowing, tmp_path):
    folder = train(demo, flowing, tmp_path, "--modality", "rgb+flow", "--train_encoder", "all", "--epochs", 1)
    assert read_json(report_of(folder) / "metrics.json")["videos"] == 42


def test_a_run_on_flow_goes_on_labels_a_film_and_is_a_stream_of_a_fusion(demo, flowing, two_runs, tmp_path,
                                                                         capsys):
    rgb = two_runs / "rgb"
    flow = train(demo, flowing, tmp_path, *STACK, "--train_encoder", "last:1", "--epochs", 1)
    report_of(flow)
    assert last_line(call("train.py", "--resume", flow, "--epochs", 2)) == flow
    film = next((demo / "UCF-101").rglob("*.avi"))
    result = call("test_on_video.py", "--model_dir", flow, "--video_path", film, "--no-video")
    assert table(last_line(result) / "predictions.csv")
    call("fuse.py", rgb, flow, "--output_dir", tmp_path / "mean")
    assert read_json(tmp_path / "mean" / "test" / "metrics.json")["videos"] == 42
    both = last_line(call("fuse.py", "--train", rgb, flow, *HEAD, "--sampled_data_path", flowing, "--rnn",
                          "gru", "--readout", "attention", "--local_dir", tmp_path / "both"))
    assert read_json(report_of(both) / "metrics.json")["videos"] == 42
    joined, *apart = (utils.load_recogniser(run, None, "cpu") for run in (both, rgb, flow))
    frames, fields = read_frames(film, [0, 10, 20]), fields_at(film, [0, 10, 20], joined.flow)
    parts = [apart[0].features(frames), apart[1].features(frames, fields)]
    torch.testing.assert_close(joined.features(frames, fields), torch.cat(parts, 1))
    with pytest.raises(ValueError, match="expected flow uint8 .3, H, W, 4."):
        apart[1].features(frames)
    fused = utils.load_trained(both)
    fused.settings["flow"].update(backend="tvl1", preset="default")
    if not hasattr(cv2, "optflow"):
        with pytest.raises(UserError, match="or take --flow dis"):
            Recogniser.of_run(fused, torch.device("cpu"))
    one = Recogniser.of_run(fused, torch.device("cpu"), "torch", flow="dis")
    assert one.flow == Flow("dis", length=2)
    assert "the training used tvl1" in capsys.readouterr().out
    assert len(one.predict(film).times) > 5
