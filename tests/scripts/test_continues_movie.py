"""test_continues_movie.py as a user runs it, on synthetic videos."""
import shutil
from collections import Counter, defaultdict

import cv2
import numpy as np
import pytest
from commands import call
from PIL import Image
from runs import last_line, read_json, refused, table, train


def study(*words):
    return call("test_continues_movie.py", "--num_workers", 0, "--model_dir", *words)


def read(folder):
    return read_json(folder / "metrics.json"), table(folder / "windows.csv")


@pytest.fixture(scope="module")
def runs(demo, sampled, tmp_path_factory):
    """{name: run folder}: two seeds of one network, and one without an LSTM."""
    return {name: train(demo, sampled, tmp_path_factory.mktemp(name), "--epochs", 2, *flags)
            for name, flags in (("last1", ("--readout", "last", "--seed", 1)),
                                ("last2", ("--readout", "last", "--seed", 2)),
                                ("none", ("--readout", "none")))}


@pytest.fixture(scope="module")
def studied(runs):
    return last_line(study(runs["last1"], "--num_movies", 5, "--movie_clips", 6, "--gif"))


def check_counts(metrics, rows):
    """The shares and accuracies of metrics.json, counted again from windows.csv alone."""
    parts, right, mixes, tied = ("first", "second", "third"), defaultdict(list), defaultdict(list), 0
    for row in rows:
        frames, p = Counter(), {row["other"]: float(row["p_other"])}
        for part in filter(row.get, parts):
            frames[row[part]] += int(row[f"frames_{part}"])
            p[row[part]] = float(row[f"p_{part}"])
        best = max(p, key=p.get)
        who = next((part for part in parts if row[part] == best), "neither")
        assert (best, who) == (row["predicted"], row["outcome"])
        mixes["+".join(row[f"frames_{part}"] for part in filter(row.get, parts))].append(who)
        most = max(frames.values())
        if list(frames.values()).count(most) > 1:
            tied += 1
            assert row["majority"] == row["right"] == ""
        else:
            right[str(most)].append(frames[best] == most)
            assert int(row["right"]) == right[str(most)][-1]
    assert (metrics["windows"], metrics["windows_tied"]) == (len(rows), tied)
    assert metrics["accuracy"] == pytest.approx(np.mean(sum(right.values(), [])), abs=1e-4)
    assert metrics["windows_by_frames"] == {k: len(hits) for k, hits in right.items()}
    assert metrics["accuracy_by_frames"] == pytest.approx({k: np.mean(v) for k, v in right.items()}, abs=1e-4)
    assert metrics["shares_by_mix"].keys() == mixes.keys()
    for mix, won in mixes.items():
        shares = metrics["shares_by_mix"][mix]
        assert shares["n"] == len(won)
        for outcome in shares.keys() & {*parts, "neither"}:
            assert shares[outcome]["value"] == pytest.approx(won.count(outcome) / len(won), abs=1e-4)


def test_shares_in_both_files_agree_with_an_independent_count(studied):
    metrics, rows = read(studied)
    check_counts(metrics, rows)
    assert metrics["movies"] == 5 and metrics["windows"] == 5 * (6 * 5 - 5 + 1)
    assert metrics["ci95"][0] < metrics["accuracy"] < metrics["ci95"][1]
    assert metrics["shares_by_mix"]["3+2"]["n"] == 5 * 5


def test_it_leaves_pictures_a_movie_and_tensorboard_events(studied):
    folder = studied
    names = {p.stem for p in folder.glob("*.png")}
    assert {"sliding_window", "heat_map", "accuracy_by_frames", "accuracy_by_phase", "shares_by_mix",
            "switching_curve", "controls", "influence_by_position", "gates_window", "gates_movie",
            "memory", "windows_by_class"} == names
    with Image.open(folder / "movie.gif") as gif, Image.open(folder / "sliding_window.gif") as window:
        assert gif.n_frames == 30 and window.n_frames == 6 and window.size[0] <= 900
    movie = cv2.VideoCapture(str(folder / "movie.mp4"))
    assert movie.get(cv2.CAP_PROP_FRAME_COUNT) == 30 and movie.get(cv2.CAP_PROP_FPS) == 2.5
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {tag.split("/")[-1] for tag in events.Tags()["images"]} == names


def test_the_same_seed_gives_the_same_figures(studied, runs):
    before = read(studied)
    study(runs["last1"], "--num_movies", 5, "--movie_clips", 6, "--no-pictures")
    assert read(studied) == before


def test_clips_of_unequal_length_give_windows_of_three_actions(runs):
    result = study(runs["last2"], "--num_movies", 4, "--movie_clips", 8, "--segment_frames", 2, 8,
                   "--no-pictures")
    assert "5 frames" in result.out                 # the sampled videos hold no more
    metrics, rows = read(last_line(result))
    check_counts(metrics, rows)
    assert any(row["third"] for row in rows) and "1+3+1" in metrics["shares_by_mix"]


def test_several_runs_are_compared_in_one_table_and_picture(runs, tmp_path):
    result = study(*runs.values(), "--num_movies", 4, "--movie_clips", 5, "--output_dir", tmp_path / "all")
    assert last_line(result) == tmp_path / "all" and (tmp_path / "all" / "comparison.png").is_file()
    rows = {row["variant"]: row for row in table(tmp_path / "all" / "comparison.csv")}
    assert set(rows) == {"last, both ways", "none (no LSTM)"}
    assert rows["last, both ways"]["seeds"] == "1 2" and rows["none (no LSTM)"]["runs"] == "1"
    alone = [read(runs[name] / "test_continues_movie")[0]["clip_accuracy"]["value"]
             for name in ("last1", "last2")]
    assert float(rows["last, both ways"]["clip_accuracy"]) == pytest.approx(sum(alone) / 2, abs=1e-4)
    for row in rows.values():
        assert float(row["won_by_majority_low"]) <= float(row["won_by_majority"])
    assert rows["none (no LSTM)"]["old_state_left_after_clip"] == ""
    assert "last, both ways" in result.out and "recency index" in result.out


@pytest.mark.parametrize("flags, words", [
    (("--model_dir", "nowhere"), "--model_dir nowhere"),
    (("--segment_frames", 1, 4), "--segment_frames 1 4"),
    (("--segment_frames", 4, 3), "--segment_frames 4 3"),
    (("--segment_frames", 6, 9), "--segment_frames 6 9"),
    (("--movie_clips", 1), "--movie_clips"),
    (("--cut_flow",), "--cut_flow: this run sees no optical flow"),
    (("--sampled_data_path", "nowhere"), "--sampled_data_path nowhere"),
    (("--model_name", "epoch_77"), "--model_name epoch_77")])
def test_wrong_flags_take_one_line(runs, flags, words):
    refused("test_continues_movie.py", "--model_dir", runs["none"], *flags, says=words)


def test_a_run_on_flow_sees_its_clips_own_flow_or_that_of_the_cut(flow_run, tmp_path):
    folder = shutil.copytree(flow_run, tmp_path / "run")
    said = {}
    for name, more in {"own": (), "cut": ("--cut_flow",)}.items():
        said[name] = read(last_line(study(folder, "--num_movies", 2, "--movie_clips", 4, "--no-pictures",
                                          *more)))
    assert said["cut"][0]["measured_on"]["cut_flow"]
    alike = [own["start"] for own, cut in zip(said["own"][1], said["cut"][1], strict=True) if own == cut]
    assert alike == ["15", "15"]
