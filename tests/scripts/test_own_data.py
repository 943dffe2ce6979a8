"""A data set of one's own: class folders without lists, groups, other lists, other endings and depths."""
import csv
import shutil
from collections import defaultdict
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from commands import call
from runs import flags, last_line, read_json, report_of, table
from videos import write_video

import dataset
import utils
from lrcn.data.learned import Learned
from lrcn.data.manifest import SampledVideo
from lrcn.data.splits import PARTS
from lrcn.evaluation import results

CLASSES = {"Jumping Jack": (200, 60, 60), "run": (60, 200, 60), "wave_hands": (60, 60, 200)}
ROOMS, ENDINGS = ("attic", "garden", "kitchen", "yard"), (".mp4", ".avi", ".mov", ".mkv", ".webm")
ROOM = ("--group_pattern", r"([a-z]+)_\d+$")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """3 classes x 12 videos in five formats: three from each of four rooms, at two depths."""
    folder, random = tmp_path_factory.mktemp("own") / "my_videos", np.random.default_rng(0)
    for number, (cls, color) in enumerate(CLASSES.items()):
        place = folder / cls / "more" if number == 1 else folder / cls
        for i, room in enumerate(r for r in ROOMS for _ in range(3)):
            frames = random.integers(-40, 40, (12, 48, 64, 3)) + color
            write_video(place / f"{room}_{i % 3 + 1}{ENDINGS[i % 5]}", list(frames.astype(np.uint8)), fps=5)
    return folder


@pytest.fixture(scope="module")
def clips(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips") / "my_clips"
    assert last_line(call("preprocessing_data.py", "--row_data_dir", videos, "--sampled_data_dir", folder,
                          "--no-report")) == folder
    return folder


def train(clips, folder, *words):
    result = call("train.py", *flags(None, clips, folder, "--epochs", 1, *words))
    return last_line(result), result


def parts_of_groups(rows):
    parts = defaultdict(set)
    for row in rows:
        parts[row["group"]].add(row["part"])
    return parts


def test_from_class_folders_to_a_labelled_video(videos, clips, tmp_path):
    rows = table(clips / "manifest.csv")
    assert len(rows) == 36 and {row["class"] for row in rows} == set(CLASSES)
    assert {Path(row["source"]).suffix for row in rows} == set(ENDINGS)
    assert {row["frames"] for row in rows} == {"5"} and not (clips / "failed.csv").exists()
    folder, result = train(clips, tmp_path, *ROOM, "--lr", 0.01, "--latent_dim", 64, "--hidden_size", 32,
                           "--epochs", 15)
    assert "warning: " not in result.err
    rows = table(folder / "splits.csv")
    parts = parts_of_groups(rows)
    assert len(rows) == 36 and set(parts) == set(ROOMS) and all(len(p) == 1 for p in parts.values())
    for part in PARTS:
        assert {row["class"] for row in rows if row["part"] == part} == set(CLASSES)
    report = report_of(folder)
    metrics = read_json(report / "metrics.json")
    assert (metrics["split"], metrics["videos"], metrics["groups"]) == ("drawn", 9, 1)
    assert report == folder / "test" and metrics["top1"] > 0.7
    predicted = {(row["class"], row["video"]) for row in table(report / "predictions.csv")}
    assert predicted == {(r["class"], r["video"]) for r in rows if r["part"] == "test"}
    room = next(row["group"] for row in rows if row["part"] == "test")
    source = next((videos / "run" / "more").glob(f"{room}_1.*"))
    out = last_line(call("test_on_video.py", "--model_dir", folder, "--video_path", source, "--output_dir",
                         tmp_path / "out", "--no-video"))
    assert [row["label"] for row in table(out / "segments.csv")] == ["run"]


def edited(run_folder, change):
    """Change best.pth.tar of a run as `change` does it to the dict."""
    path = run_folder / "Saved_model_checkpoint/best.pth.tar"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def test_what_an_encoder_has_learned_is_held_out_by_no_later_run(clips, tmp_path):
    first, said = train(clips, tmp_path, "--train_encoder", "last:1")
    assert said.err.count("warning: ") == 1 and "--group_pattern" in said.err

    def leaks(start, seed):     # said behind the warning of names that look alike
        words = flags(None, clips, tmp_path, "--init_from", start, "--seed", seed)
        result = call("train.py", *words, ok=False)
        said = result.err.splitlines()[-1]
        return result.code == 2 and f"--init_from {start}: it was trained on " in said and "--parts" in said
    assert leaks(first, 7)
    second, said = train(clips, tmp_path, "--init_from", first, "--seed", 7, "--parts", first / "splits.csv")
    assert table(second / "splits.csv") == table(first / "splits.csv")
    assert "36 of its 36 videos are there and keep their part" in said.out
    for change in (lambda state: None, lambda state: state.pop("learned")):
        edited(second, change)
        assert leaks(second, 8)
    for old in (first, second):     # and nothing is left that could tell
        edited(old, lambda state: state.pop("learned", None))
        (old / "splits.csv").rename(old / "elsewhere.csv")
    third, said = train(clips, tmp_path, "--init_from", second, "--seed", 8)
    assert "it is not known what its weights were trained on before" in said.err
    tested = dataset.test_data(utils.load_trained(third))
    assert "is not known" in tested.note and not tested.leak


def test_a_run_that_is_tested_on_what_it_began_with_is_called_leaky(clips, tmp_path):
    folder, _ = train(clips, tmp_path)
    rows = [r for r in table(folder / "splits.csv") if r["part"] == "test"][:3]
    videos = [SampledVideo(r["video"], r["class"], r["group"], 5) for r in rows]

    def leak(state):
        state["learned"] = Learned.of(state["learned"], "x").after(videos, frozen=False).state()
    assert read_json(report_of(folder) / "metrics.json")["leaky"] is False
    honest = shutil.copytree(folder, tmp_path / "honest")
    edited(folder, leak)
    with mock.patch.object(results, "draw"):
        said = call("test.py", "--model_dir", folder, "--num_workers", 0).out
        fused = call("fuse.py", honest, folder, "--local_dir", tmp_path).out
    metrics = read_json(folder / "test" / "metrics.json")
    assert metrics["leaky"] is True and "trained on 3 of these 6 videos" in metrics["leak"]
    assert "split drawn, LEAKY: a run that it started from was trained on 3 of these 6 videos" in said
    assert "LEAKY: a run that it started from" in fused


def test_a_data_set_that_grows_keeps_its_test(clips, tmp_path):
    mine = shutil.copytree(clips, tmp_path / "clips")
    folder, _ = train(mine, tmp_path, *ROOM)
    before = {(r["class"], r["video"]): r for r in table(folder / "splits.csv")}
    tested = next(r["group"] for r in before.values() if r["part"] == "test")
    rows = table(mine / "manifest.csv")
    old, added = dict(rows[0]), []
    for cls, name in (("run", f"more_{tested}_9"), ("wave_hands", "cellar_1"), ("wave_hands", "cellar_2")):
        shutil.copy(mine / old["class"] / f"{old['video']}.avi", mine / cls / f"{name}.avi")
        added.append({**old, "class": cls, "video": name, "source": f"{cls}/{name}.avi"})
    places = [mine / row["class"] / f"{row['video']}.avi" for row in rows]
    for one, other in ((3, 4), (5, 6)):     # two corrected clips: other content
        shutil.copy(places[one], places[other])
    with open(mine / "manifest.csv", "a", newline="") as f:
        csv.DictWriter(f, rows[0].keys()).writerows(added)
    again, said = train(mine, tmp_path, *ROOM, "--seed", 9, "--parts", folder / "splits.csv")
    after = {(r["class"], r["video"]): r for r in table(again / "splits.csv")}
    assert {key: r for key, r in after.items() if key in before} == before and len(after) == 39
    assert after["run", f"more_{tested}_9"]["part"] == "test"       # its group is tested
    assert all(len(parts) == 1 for parts in parts_of_groups(after.values()).values())
    assert "36 of its 36 videos are there and keep their part; 3 new ones: " in said.out
    resumed = call("train.py", "--resume", folder, "--epochs", 2, "--no-pictures")
    assert "3 videos that are not in" in resumed.out        # rule 14: a resumed run leaves them out
    assert {(r["class"], r["video"]): r for r in table(folder / "splits.csv")} == before
