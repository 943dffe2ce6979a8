"""fuse.py: the mean of several runs' probabilities, against arithmetic by hand and scikit-learn, and heads
that are trained over several streams."""
import itertools
import re
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import call
from runs import HEAD, answered_run, data_flags, last_line, load, read_json, refused, report_of, table, train
from sklearn.metrics import accuracy_score, log_loss

import utils
from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.data import splits
from lrcn.evaluation import scores
from lrcn.training.recipe import parse
from lrcn.video.reader import read_frames
from lrcn.watching.recogniser import Recogniser

CLASSES = ["A", "B", "C"]
# Two streams that know different things: {video: (class, what the first says, what the second says)}
KNOWN = {"v_A_g01_c01": ("A", (0.6, 0.3, 0.1), (0.2, 0.7, 0.1)),      # means 0.4, 0.5, 0.1: B, wrong
         "v_B_g01_c01": ("B", (0.5, 0.4, 0.1), (0.1, 0.8, 0.1)),      # 0.3, 0.6, 0.1: B
         "v_B_g02_c01": ("B", (0.2, 0.5, 0.3), (0.4, 0.35, 0.25)),    # 0.3, 0.425, 0.275: B
         "v_C_g01_c01": ("C", (0.1, 0.5, 0.4), (0.3, 0.1, 0.6))}      # 0.2, 0.3, 0.5: C


@pytest.fixture
def streams(tmp_path):
    return [answered_run(tmp_path / name, {video: (row[0], row[k]) for video, row in KNOWN.items()}, CLASSES)
            for k, name in enumerate(("frames", "motion"), 1)]


def fuse(tmp_path, *words):
    """(metrics.json, probabilities (N, C), rows of predictions.csv) of fuse.py."""
    folder = last_line(call("fuse.py", *words, "--local_dir", tmp_path))
    rows = table(folder / "test" / "predictions.csv")
    shares = np.array([[float(v) for k, v in row.items() if k.startswith("p_")] for row in rows])
    return read_json(folder / "test" / "metrics.json"), shares, rows


def test_the_fusion_is_the_weighted_mean_by_hand_and_its_figures_are_scikit_learns(streams, tmp_path):
    metrics, shares, rows = fuse(tmp_path, *streams)
    np.testing.assert_allclose(shares, [(0.4, 0.5, 0.1), (0.3, 0.6, 0.1), (0.3, 0.425, 0.275),
                                        (0.2, 0.3, 0.5)], atol=1e-6)
    labels = [CLASSES.index(row["class"]) for row in rows]
    assert metrics["top1"] == accuracy_score(labels, shares.argmax(1)) == 0.75
    assert metrics["loss"] == pytest.approx(log_loss(labels, shares, labels=range(3)))
    assert [s["top1"] for s in metrics["streams"]] == [0.5, 0.5]
    assert [s["gain"] for s in metrics["streams"]] == [0.25, 0.25]
    assert all(s["mcnemar_p"] > 0.4 and s["gain_ci95"][0] < 0.25 < s["gain_ci95"][1]
               for s in metrics["streams"]), "one video won, none lost: a coin's toss"
    assert metrics["encoder"] == "frames + motion" and metrics["parameters"] == 14
    metrics, shares, _ = fuse(tmp_path, *streams, "--weights", 1, 2, "--output_dir", tmp_path / "both")
    np.testing.assert_allclose(shares[0], [1 / 3, 1.7 / 3, 0.1], rtol=1e-5)
    assert [s["weight"] for s in metrics["streams"]] == pytest.approx([1 / 3, 2 / 3])
    both, out = tmp_path / "both", ("--output", tmp_path / "out")
    row = table(last_line(call("compare.py", streams[0], both, "--no-speed", *out)) / "comparison.csv")[1]
    assert float(row["minus_first"]) == metrics["top1"] - 0.5 and row["parameters"] == "14"
    call("compare.py", both, both, *out)    # nothing of it can be timed


def test_the_likeliest_weights_are_the_best_of_a_fine_grid():
    random = np.random.default_rng(1)
    chosen = random.uniform(0.05, 1, (2, 40)) ** [[2], [1]]
    found = scores.likeliest_weights(chosen)
    grid = np.linspace(0, 1, 2001)
    loss = -np.log(grid[:, None] * chosen[0] + (1 - grid[:, None]) * chosen[1]).mean(1)
    assert found[0] == pytest.approx(grid[loss.argmin()], abs=1e-3) and found.sum() == pytest.approx(1)


def test_runs_of_something_else_and_wrong_words_are_refused_in_one_line(streams, tmp_path):
    (tmp_path / "bare").mkdir()
    same = {video: (row[0], row[2]) for video, row in KNOWN.items()}
    more = {video: (cls, (*shares, 0.0)) for video, (cls, shares) in same.items()}
    split = answered_run(tmp_path / "split", same, CLASSES, split="2")
    four = answered_run(tmp_path / "four", more, [*CLASSES, "D"])
    many = answered_run(tmp_path / "many", same, CLASSES, windows="many")
    short = answered_run(tmp_path / "short", dict(list(same.items())[:3]), CLASSES)
    damaged = answered_run(tmp_path / "damaged", {"v_A_g01_c01": ("A", (0.6, 0.9, 0.1))}, CLASSES)
    for words, says in (((streams[0], split), "tested on split 2"),
                        ((streams[0], four), "knows other classes"),
                        ((many, many, "--weights", "tuned"), "windows: expected"),
                        ((streams[0], short), "tested on other videos"),
                        ((streams[0], tmp_path / "bare"), "run test.py on it"),
                        ((streams[0],), "a fusion needs two or more runs"),
                        ((streams[0], tmp_path / "no"), "does not exist"),
                        ((*streams, "--weights", "1"), "expected 2 numbers"),
                        ((*streams, "--weights", "1", "x"), "--weights: invalid number"),
                        ((*streams, "--weights", "0", "0"), "expected 2 numbers"),
                        ((*streams, "--weights", "1", "-1"), "expected a number >= 0, or tuned, not -1"),
                        ((streams[0], damaged), "add up to 1")):
        refused("fuse.py", *words, "--local_dir", tmp_path / "out", says=says)
    assert not (tmp_path / "out").exists()


def test_tuned_weights_are_those_of_the_least_loss_on_the_validation_videos(two_runs, tmp_path):
    result = call("fuse.py", two_runs / "rgb", two_runs / "rgbdiff", "--weights", "tuned", "--local_dir",
                  tmp_path, "--num_videos", 2, "--num_workers", 0, "--device", "cpu")
    folder = last_line(result)
    val = sum(row["part"] == "val" for row in table(two_runs / "rgb" / "splits.csv"))
    assert val and f"chosen on {val} validation videos" in result.out
    metrics = read_json(folder / "test" / "metrics.json")
    assert metrics["weights"] == f"tuned on {val} validation videos"
    assert sum(s["weight"] for s in metrics["streams"]) == pytest.approx(1)
    assert len(list((folder / "test" / "videos").rglob("*.mp4"))) == 2, "the first run's clips are at hand"
    assert table(folder / "test" / "accuracy_per_class.csv")[0]["train_videos"] != "0"


def test_without_common_validation_videos_nothing_is_tuned(two_runs, tmp_path):
    other = shutil.copytree(two_runs / "rgbdiff", tmp_path / "other")
    swapped, settings = {"train": "val", "val": "train"}, read_json(other / "settings.json")
    splits.write_splits(other / "splits.csv", [replace(row, part=swapped[row.part]) for row in
                                               splits.read_splits(other / "splits.csv")])
    settings.pop("splits")      # its digest
    files.write_json(other / "settings.json", settings)
    refused("fuse.py", two_runs / "rgb", other, "--weights", "tuned", "--local_dir", tmp_path,
            says="no video is in the validation part of all runs")
    refused("fuse.py", two_runs / "rgb", other, "--output_dir", other, says="a run of train.py")


def test_frozen_streams_of_one_encoder_are_the_run_that_sees_both(two_runs, demo, sampled, tmp_path):
    result = call("fuse.py", "--train", two_runs / "rgb", two_runs / "rgbdiff", *HEAD, "--local_dir",
                  tmp_path)
    assert result.out.count("are in the feature store") == 2 and "encoding" not in result.out, \
        "each stream's features are those that its run has left"
    joined = last_line(result)
    whole = train(demo, sampled, tmp_path / "whole", "--epochs", 3, "--modality", "rgb+rgbdiff")
    ours, theirs = load(joined)["head"], load(whole)["head"]
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():     # features differ by the rounding of other batches
        torch.testing.assert_close(value, theirs[key], atol=5e-3, rtol=0.05)
    assert table(joined / "splits.csv") == table(whole / "splits.csv")


def test_a_fused_run_is_a_run_like_any_other(fused, two_runs, tmp_path, monkeypatch):
    run = shutil.copytree(fused, tmp_path / "fused")
    assert read_json(report_of(run) / "metrics.json")["videos"] == 42
    with monkeypatch.context() as clock:    # it times for seconds
        clock.setattr(time, "monotonic", itertools.count(0, 10).__next__)
        compared = call("compare.py", two_runs / "rgb", run, "--output", tmp_path / "out", "--device", "cpu")
    rows = table(last_line(compared) / "comparison.csv")
    assert float(rows[1]["frames_per_second"]) > 0 and "streams" in rows[1]["flags"]
    study = last_line(call("test_continues_movie.py", "--model_dir", run, "--num_movies", 5, "--movie_clips",
                           4, "--no-pictures", "--num_workers", 0, "--device", "cpu"))
    assert read_json(study / "metrics.json")["windows"] > 0
    refused("export.py", run, says="a fused run has several encoders")
    resumed = call("train.py", "--resume", run, "--epochs", 4)
    assert last_line(resumed) == run and len(table(run / "metrics.csv")) == 4


@pytest.mark.parametrize("change, says", [
    (lambda spec: spec["streams"].pop(), "a head for each"),
    (lambda spec: spec["heads"][0].update(hidden_size=900_000), "heads.0.lstm"),
    (lambda spec: spec["heads"][1].update(classes=7), "7 classes, expected 6"),
    (lambda spec: spec["streams"][1].update(crop=10 ** 9), "stream 2: crop"),
    (lambda spec: spec["streams"][1].update(streams=[]), "unknown entry 'streams'")])
def test_a_foreign_spec_of_streams_is_one_line(fused, tmp_path, change, says):
    state = load(fused, "best")
    change(state["encoder_spec"])
    torch.save(state, tmp_path / "best.pth.tar")
    refused("test.py", "--model_dir", tmp_path / "best.pth.tar", says=says)


def test_a_film_of_a_fusion_has_the_bars_of_every_stream(fused, two_runs, demo, tmp_path):
    film, sizes, counts = sorted((demo / "UCF-101" / "Grow").glob("*.avi"))[0], [], []
    for folder in (two_runs / "rgb", fused):
        result = call("test_on_video.py", "--model_dir", folder, "--video_path", film, "--output_dir",
                      tmp_path / folder.name, "--device", "cpu")
        [frame] = read_frames(last_line(result) / "labelled.mp4", [0])
        sizes.append(len(frame))
        counts.append(re.search(r"(\d+) frames encoded, (\d+) windows", result.out).groups())
    assert sizes[1] > sizes[0] == 240 and frame[250:].std() > 10, "the panels stand under the frame"
    assert counts[0] == counts[1], "each stream sees every frame once"


def test_the_sliders_answers_are_the_fusions_and_each_runs_own(fused, two_runs, demo):
    frames = read_frames(sorted((demo / "UCF-101" / "Grow").glob("*.avi"))[0], range(0, 48, 6))
    sliders = [Recogniser.of_run(utils.load_trained(folder), torch.device("cpu"))
               for folder in (fused, two_runs / "rgb", two_runs / "rgbdiff")]
    both, *alone = [slider.answers([slider.crop(frame) for frame in frames]) for slider in sliders]
    assert both.shape == (4, 3, 6) and sliders[0].names == ["rgb", "rgbdiff"]
    np.testing.assert_allclose(both[:, 1:], np.concatenate(alone, 1), atol=1e-5)
    assert np.abs(both[:, 0] - both[:, 1]).max() > 1e-3


def test_streams_that_do_not_suit_train_py_are_one_line(fused, two_runs, demo, sampled, tmp_path):
    both = f"{two_runs / 'rgb'},{two_runs / 'rgbdiff'}"
    for words, says in ((("--streams", two_runs / "rgb"), "a fusion needs two or more runs"),
                        (("--streams", f"{two_runs / 'rgb'},{fused}"), "itself a fusion"),
                        (("--streams", both, "--train_encoder", "all"), "--train_encoder"),
                        (("--streams", both, "--no-feature_cache"), "--no-feature_cache"),
                        (("--streams", both, "--classes", "Grow,Shrink"), "train all on the same"),
                        (("--streams", both, "--parts", tmp_path / "no.csv"), "does not exist"),
                        (("--streams", both), "--encoder squeezenet1_1: --streams uses the encoders"),
                        (("--streams", both, "--encoder", "resnet152", "--encoder_weights", "DEFAULT",
                          "--img_dim", "none", "--augment", "heavy"), "--augment heavy: --streams uses the")):
        refused("train.py", *data_flags(demo, sampled), *HEAD, "--encoder", "squeezenet1_1",
                "--encoder_weights", "none", "--img_dim", 32, "--local_dir", tmp_path / "x", *words,
                says=says)


@pytest.mark.parametrize("table", [None, "cross_fit.csv"])
def test_a_fusion_of_when_there_was_cross_fitting_loads(fused, tmp_path, table):
    state = load(fused)
    state["settings"]["cross_fit"] = table
    old = shutil.copytree(fused / "Saved_model_checkpoint", tmp_path / "old") / "last.pth.tar"
    torch.save(state, old)
    now, words = utils.load_trained(fused), ("--load_checkpoint", "--checkpoint_path", str(old))
    assert utils.load_trained(old).recipe == now.recipe
    if table:
        with pytest.raises(UserError, match="cross-fitted"):
            parse("", words)
    else:
        assert parse("", words)[0].streams == now.recipe.streams
