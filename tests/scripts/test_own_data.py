"""A data set of one's own: class folders without lists, groups, other lists, other endings and depths."""
import csv
import json
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run
from videos import write_video

from dataset import training_samples
from lrcn.data.learned import Learned
from lrcn.data.manifest import SampledVideo
from lrcn.training.recipe import Recipe

pytestmark = pytest.mark.slow

TINY = ("--encoder", "resnet18", "--encoder_weights", "none", "--img_dim", 32, "--num_workers", 0)
CLASSES = {"Jumping Jack": (200, 60, 60), "run": (60, 200, 60), "wave_hands": (60, 60, 200)}
ROOMS, ENDINGS = ("attic", "garden", "kitchen", "yard"), (".mp4", ".avi", ".mov", ".mkv", ".webm")


def table(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


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
    result = run("preprocessing_data.py", "--row_data_dir", videos, "--sampled_data_dir", folder,
                 "--num_workers", 2, "--no-report")
    assert result.out.splitlines()[-1] == str(folder)
    return folder


def train(clips, folder, *flags, epochs=15):
    result = run("train.py", "--sampled_data_path", clips, *TINY, "--epochs", epochs, "--local_dir", folder,
                 *flags)
    return Path(result.out.splitlines()[-1]), result


def parts_of_groups(rows):
    """{group: parts that it is in}."""
    parts = defaultdict(set)
    for row in rows:
        parts[row["group"]].add(row["part"])
    return parts


def test_every_format_is_sampled_and_the_class_is_the_folder(clips):
    rows = table(clips / "manifest.csv")
    assert len(rows) == 36 and {row["class"] for row in rows} == set(CLASSES)
    assert {Path(row["source"]).suffix for row in rows} == set(ENDINGS)
    assert {row["frames"] for row in rows} == {"5"} and not (clips / "failed.csv").exists()


def test_from_class_folders_to_a_labelled_video(videos, clips, tmp_path):
    folder, result = train(clips, tmp_path, "--group_pattern", r"([a-z]+)_\d+$")
    assert "warning: " not in result.err
    rows = table(folder / "splits.csv")
    assert len(rows) == 36
    parts = parts_of_groups(rows)
    assert set(parts) == set(ROOMS) and all(len(p) == 1 for p in parts.values())
    for part in ("train", "val", "test"):
        assert {row["class"] for row in rows if row["part"] == part} == set(CLASSES)
    tested = run("test.py", "--model_dir", folder, "--num_videos", 2, "--num_workers", 0)
    metrics = json.loads((folder / "test" / "metrics.json").read_text())
    assert tested.out.splitlines()[-1] == str(folder / "test")
    assert (metrics["split"], metrics["videos"], metrics["groups"]) == ("drawn", 9, 1)
    assert metrics["top1"] > 0.7
    predicted = {(row["class"], row["video"]) for row in table(folder / "test" / "predictions.csv")}
    assert predicted == {(r["class"], r["video"]) for r in rows if r["part"] == "test"}
    room = next(row["group"] for row in rows if row["part"] == "test")
    source = next((videos / "run" / "more").glob(f"{room}_1.*"))
    out = Path(run("test_on_video.py", "--model_dir", folder, "--video_path", source,
                   "--output_dir", tmp_path / "out").out.splitlines()[-1])
    assert [row["label"] for row in table(out / "segments.csv")] == ["run"]
    assert (out / "labelled.mp4").is_file()


def test_without_groups_every_file_is_its_own_and_look_alikes_are_warned_of(clips, tmp_path):
    folder, result = train(clips, tmp_path, epochs=1)
    assert result.err.count("warning: ") == 1 and "--group_pattern" in result.err
    rows = table(folder / "splits.csv")
    assert all(row["group"].endswith(row["video"]) for row in rows)
    counts = Counter((row["class"], row["part"]) for row in rows)
    for cls in CLASSES:
        assert [counts[cls, part] for part in ("train", "val", "test")] == [8, 2, 2]
    again, _ = train(clips, tmp_path / "again", epochs=1)
    assert table(again / "splits.csv") == rows


def test_a_table_of_groups_does_what_it_says(clips, tmp_path, capsys):
    groups = tmp_path / "groups.csv"
    groups.write_text("video,group\n" + "".join(
        f"{row['class']}/{row['video']},{row['video'].split('_')[-2]}\n"
        for row in table(clips / "manifest.csv")))
    recipe = Recipe(sampled_data_path=str(clips), groups=str(groups))
    parts = {}
    for sample in training_samples(recipe)[0]:
        parts.setdefault(sample.video.group, set()).add(sample.part)
    assert "warning: " not in capsys.readouterr().err
    assert set(parts) == set(ROOMS) and all(len(p) == 1 for p in parts.values())


# ---------------------------------------------------------------- what a run that is begun with has learned

def edited(run_folder, change):
    """Change best.pth.tar of a run as `change` does it to the dict."""
    path = run_folder / "Saved_model_checkpoint/best.pth.tar"
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def begun(clips, folder, start, *flags, ok=True):
    """(run folder or None, result) of a training that begins with another."""
    result = run("train.py", "--sampled_data_path", clips, *TINY, "--epochs", 1, "--local_dir", folder,
                 "--no-pictures", "--init_from", start, *flags, ok=ok)
    return None if result.code else Path(result.out.splitlines()[-1]), result


def test_what_an_encoder_has_learned_is_held_out_by_no_later_run(clips, tmp_path):
    """Through two links, by a checkpoint that says it and by an older one's splits.csv; --parts keeps it."""
    first, _ = train(clips, tmp_path, "--train_encoder", "last:1", "--no-pictures", epochs=1)
    _, refused = begun(clips, tmp_path, first, "--seed", 7, ok=False)
    assert refused.code == 2 and len(refused.err.strip().splitlines()[-1:]) == 1
    assert f"--init_from {first}: it was trained on " in refused.err and "--parts" in refused.err
    second, said = begun(clips, tmp_path, first, "--seed", 7, "--parts", first / "splits.csv")
    assert table(second / "splits.csv") == table(first / "splits.csv")
    assert "36 of its 36 videos are there and keep their part" in said.out
    for change in (lambda state: None, lambda state: state.pop("learned")):
        edited(second, change)
        _, refused = begun(clips, tmp_path, second, "--seed", 8, ok=False)
        assert refused.code == 2 and f"--init_from {second}: it was trained on " in refused.err
    for old in (first, second):     # and nothing is left that could tell
        edited(old, lambda state: state.pop("learned", None))
        (old / "splits.csv").rename(old / "elsewhere.csv")
    third, said = begun(clips, tmp_path, second, "--seed", 8)
    assert "what its weights had learned before is not known" in said.err
    tested = run("test.py", "--model_dir", third, "--num_videos", 0, "--num_workers", 0)
    assert "is not known" in tested.out and "LEAKY" not in tested.out


def test_a_run_that_is_tested_on_what_it_began_with_is_called_leaky(clips, tmp_path):
    """As older runs are: made before anybody asked. A fusion's mean says it too."""
    folder, _ = train(clips, tmp_path, "--no-pictures", epochs=1)
    rows = [r for r in table(folder / "splits.csv") if r["part"] == "test"][:3]
    videos = [SampledVideo(r["video"], r["class"], r["group"], 5) for r in rows]

    def leak(state):
        state["learned"] = Learned.of(state["learned"], "x").after(videos, frozen=False).state()
    run("test.py", "--model_dir", folder, "--num_videos", 0, "--num_workers", 0)
    assert json.loads((folder / "test/metrics.json").read_text())["leaky"] is False
    honest = shutil.copytree(folder, tmp_path / "honest")
    edited(folder, leak)
    said = run("test.py", "--model_dir", folder, "--num_videos", 0, "--num_workers", 0).out
    metrics = json.loads((folder / "test/metrics.json").read_text())
    assert metrics["leaky"] is True and "trained on 3 of these 6 videos" in metrics["leak"]
    assert "split drawn, LEAKY: a run that it began with was trained on 3 of these 6 videos" in said
    fused = run("fuse.py", honest, folder, "--local_dir", tmp_path, "--num_videos", 0).out
    assert "LEAKY: a run that it began with" in fused


# ---------------------------------------------------------------- a data set that grows

def test_a_data_set_that_grows_keeps_its_test(clips, tmp_path):
    """Three clips come and two are corrected: all others keep their part, new ones go by their group."""
    mine = shutil.copytree(clips, tmp_path / "clips")
    rooms = ("--group_pattern", r"([a-z]+)_\d+$")
    folder, _ = train(mine, tmp_path, "--no-pictures", *rooms, epochs=1)
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
    again, said = train(mine, tmp_path, "--no-pictures", *rooms, "--seed", 9, "--parts",
                        folder / "splits.csv", epochs=1)
    after = {(r["class"], r["video"]): r for r in table(again / "splits.csv")}
    assert {key: r for key, r in after.items() if key in before} == before and len(after) == 39
    assert after["run", f"more_{tested}_9"]["part"] == "test"       # its group is tested
    assert all(len(parts) == 1 for parts in parts_of_groups(after.values()).values())
    assert "36 of its 36 videos are there and keep their part; 3 new ones: " in said.out
    resumed = run("train.py", "--resume", folder, "--sampled_data_path", mine, "--epochs", 2, "--no-pictures")
    assert "3 videos that are not in" in resumed.out        # rule 14: a resumed run leaves them out
    assert {(r["class"], r["video"]): r for r in table(folder / "splits.csv")} == before
