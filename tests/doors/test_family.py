"""The recurrent recognisers of the field from one train.py, and the tables that set runs side by side."""
import csv
import json
import shutil

import cv2
import numpy as np
import pytest
from commands import run
from runs import ONE_THREAD, TINY, data_flags, flags, last_line, one_line, read_json, table, train
from scipy.stats import binomtest

from lrcn.clips import splits

# The README's commands for four systems: what makes each one what it is. Encoder and size are replaced by
# tiny ones, so that a system trains in a second.
SYSTEMS = {
    "the original": ("--readout", "last", "--lstm_layers", 2),
    "forty small frames and attention": ("--num_frames_video", 40, "--lstm_layers", 1,
                                         "--readout", "attention"),
    "a prediction at every step": ("--num_frames_video", 16, "--lstm_layers", 1, "--no-bidirectional",
                                   "--readout", "last", "--loss_per_step"),
    "sixteen frames and accumulated gradients": ("--num_frames_video", 16, "--batch_size", 4,
                                                 "--accumulate", 8, "--scheduler", "plateau",
                                                 "--readout", "mean"),
    "frames and their differences": ("--modality", "rgb+rgbdiff"),
}


def report_of(folder, *more):
    return last_line(run("test.py", "--model_dir", folder, "--num_workers", 0, "--num_videos", 0,
                         "--device", "cpu", *more, env=ONE_THREAD))


@pytest.fixture(scope="module")
def forty(demo, tmp_path_factory):
    """The demo's videos sampled to 40 frames each, at a smaller stride than a second's 2.5 frames."""
    folder = tmp_path_factory.mktemp("forty") / "sampled"
    run("preprocessing_data.py", "--row_data_dir", demo / "UCF-101", "--sampled_data_dir", folder,
        "--ucf_list_dir", demo / "ucfTrainTestlist", "--num_frames_to_extract", 40)
    return folder


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_system_of_the_field_trains_and_tests(demo, forty, tmp_path, system):
    folder = train(demo, forty, tmp_path, "--epochs", 1, *SYSTEMS[system])
    figures = read_json(report_of(folder) / "metrics.json")
    settings = read_json(folder / "settings.json")
    words = dict(zip(SYSTEMS[system], (*SYSTEMS[system][1:], True), strict=True))
    assert figures["readout"] == words.get("--readout", "final") and figures["videos"] == 42
    assert settings["num_frames_video"] == words.get("--num_frames_video", 5)
    rows = table(forty / "manifest.csv")
    assert {int(row["frames"]) for row in rows} == {40} and {int(row["stride"]) for row in rows} != {10}


def test_an_lrcn_starts_from_a_frame_classifier(demo, forty, tmp_path):
    """First a classifier of single frames, then an LSTM on top of what it has learnt."""
    frames = train(demo, forty, tmp_path, "--num_frames_video", 1, "--readout", "none", "--epochs", 1,
                   "--train_encoder", "last:1")
    result = run("train.py", *flags(demo, forty, tmp_path, "--init_from", frames, "--num_frames_video", 16,
                               "--loss_per_step", "--epochs", 1))
    assert "tensors taken over (encoder and projection)" in result.out
    assert read_json(report_of(last_line(result)) / "metrics.json")["videos"] == 42


# ---------------------------------------------------------------- three splits

def three_splits(demo, folder):
    """The demo's videos on lists of three splits, each of which tests other groups."""
    shutil.copytree(demo / "ucfTrainTestlist", folder)
    index = splits.read_class_index(folder)
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


def test_all_three_splits_are_trained_and_tested_in_turn(demo, sampled, tmp_path):
    lists = three_splits(demo, tmp_path / "lists")
    result = run("train.py", "--sampled_data_path", sampled, "--ucf_list_dir", lists, *TINY,
                 "--local_dir", tmp_path, "--split", "all", "--epochs", 2, env=ONE_THREAD)
    folder = last_line(result)
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


def test_a_split_by_video_warns_in_every_output(demo, sampled, tmp_path):
    result = run("train.py", *flags(demo, sampled, tmp_path, "--split", "random", "--epochs", 1))
    assert "warning: --split random" in result.err
    folder = last_line(result)
    assert read_json(folder / "settings.json")["split"] == "random"
    figures = read_json(report_of(folder) / "metrics.json")
    assert figures["split"] == "random" and figures["leaky"] is True


# ---------------------------------------------------------------- compare.py

def made_up_run(folder, right, videos=None, **metrics):
    """A run folder with nothing but the test results that compare.py --no-speed reads."""
    (folder / "test").mkdir(parents=True)
    videos = videos or [f"v_A_g{i // 2:02}_c{i % 2:02}" for i in range(len(right))]
    with open(folder / "test" / "predictions.csv", "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(("video", "class", "group", "right"))
        for video, hit in zip(videos, right, strict=True):
            writer.writerow((video, "A", video[:7], int(hit)))
    (folder / "test" / "metrics.json").write_text(json.dumps(
        {"encoder": "e", "readout": "final", "split": "1", "parameters": 7, "checkpoint": "best.pth.tar",
         **metrics}))
    return folder


def test_two_runs_are_compared_video_by_video(tmp_path):
    random = np.random.default_rng(0)
    one, other = random.random(60) < 0.6, random.random(60) < 0.8
    runs = [made_up_run(tmp_path / name, right) for name, right in (("one", one), ("other", other))]
    result = run("compare.py", *runs, "--output", tmp_path / "out", "--no-speed", "--names", "frames", "lrcn")
    first, second = table(last_line(result) / "comparison.csv")
    assert (first["run"], second["run"]) == ("frames", "lrcn") and first["minus_first"] == ""
    assert float(first["top1"]) == pytest.approx(one.mean())
    assert float(second["minus_first"]) == pytest.approx(other.mean() - one.mean())
    won, lost = int((other & ~one).sum()), int((one & ~other).sum())
    assert float(second["mcnemar_p"]) == pytest.approx(binomtest(won, won + lost).pvalue)
    low, high = float(second["minus_first_low"]), float(second["minus_first_high"])
    assert low < other.mean() - one.mean() < high
    assert cv2.imread(str(tmp_path / "out" / "comparison.png")).std() > 1


def test_runs_of_several_seeds_are_averaged_and_other_videos_are_not_paired(tmp_path):
    right = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)
    seeds = [made_up_run(tmp_path / f"seed{i}", row) for i, row in enumerate(right)]
    others = made_up_run(tmp_path / "others", right[0], videos=[f"v_A_g{i}9_c01" for i in range(4)])
    result = run("compare.py", f"{seeds[0]},{seeds[1]}", seeds[1], others, "--output", tmp_path / "out",
                 "--no-speed")
    rows = table(last_line(result) / "comparison.csv")
    assert [(row["runs"], row["top1"]) for row in rows] == [("2", "0.375"), ("1", "0.25"), ("1", "0.5")]
    assert float(rows[1]["minus_first"]) == pytest.approx(-0.125) and rows[1]["mcnemar_p"] == ""
    assert rows[2]["minus_first"] == "" == rows[2]["minus_first_low"]


def test_a_run_that_was_not_tested_is_one_line(tmp_path):
    (tmp_path / "run").mkdir()
    for words, says in (((tmp_path / "run",), "run test.py on it first"), ((tmp_path / "absent",), "absent"),
                        ((made_up_run(tmp_path / "one", [True]), "--names", "a", "b"), "--names")):
        one_line(run("compare.py", *words, "--output", tmp_path / "out", "--no-speed", ok=False), says)
    assert not (tmp_path / "out").exists()


def test_real_runs_are_timed(demo, sampled, tmp_path):
    folder = train(demo, sampled, tmp_path, "--epochs", 1)
    report_of(folder)
    result = run("compare.py", folder, folder, "--output", tmp_path / "out")
    rows = table(last_line(result) / "comparison.csv")
    assert [float(row["minus_first"] or 0) for row in rows] == [0, 0] and rows[1]["mcnemar_p"] == "1.0"
    assert all(int(row["parameters"]) > 1e5 and float(row["frames_per_second"]) > 1 for row in rows)


# ---------------------------------------------------------------- benchmark.py

def test_the_benchmark_leaves_every_rate_apart(demo, sampled, tmp_path):
    output = tmp_path / "rates.json"
    before = sorted(sampled.iterdir())
    result = run("benchmark.py", *data_flags(demo, sampled), "--row_data_dir", demo / "UCF-101",
                 "--encoder", "squeezenet1_1", "--img_dim", 32, "--frames", 40, "--clips", 20, "--epochs", 2,
                 "--repeats", 1, "--num_workers", 0, "--device", "cpu", "--end_to_end", "--output", output)
    figures = read_json(output)
    for name in ("sampling", "decode", "encode_bare", "encode_cached", "fraction", "head", "train", "test",
                 "epoch_without_cache", "times_faster"):
        assert figures[name]["median"] > 0 and figures[name]["values"], name
    assert figures["fraction"]["median"] == pytest.approx(
        figures["encode_cached"]["median"] / figures["encode_bare"]["median"])
    assert figures["machine"]["device"] == "cpu" and "frames/s" in result.out
    assert sorted(sampled.iterdir()) == before, "it measures on a copy"
