"""A data set of one's own: class folders without lists, groups, other lists, other endings and depths."""
import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from commands import run
from videos import write_video

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


def test_a_table_of_groups_does_what_it_says(clips, tmp_path):
    groups = tmp_path / "groups.csv"
    rows = table(clips / "manifest.csv")
    groups.write_text("video,group\n" + "".join(
        f"{row['class']}/{row['video']},{row['video'].split('_')[-2]}\n" for row in rows))
    folder, result = train(clips, tmp_path, "--groups", groups, epochs=1)
    assert "warning: " not in result.err
    parts = parts_of_groups(table(folder / "splits.csv"))
    assert set(parts) == set(ROOMS) and all(len(p) == 1 for p in parts.values())
    run("test.py", "--model_dir", folder, "--num_videos", 0, "--num_workers", 0)
    groups.write_text("video,group\nattic_1,attic\n")
    result = run("train.py", "--sampled_data_path", clips, *TINY, "--groups", groups, "--local_dir", tmp_path,
                 ok=False)
    assert result.code == 2 and "no group for video" in result.err


@pytest.mark.parametrize("pattern, message", [("(", "not a regular expression"),
                                              (r"room(\d+)", "does not match the video")])
def test_a_group_pattern_that_fits_nothing_is_one_line(clips, tmp_path, pattern, message):
    result = run("train.py", "--sampled_data_path", clips, *TINY, "--group_pattern", pattern,
                 "--local_dir", tmp_path, ok=False)
    assert result.code == 2 and message in result.err and len(result.err.strip().splitlines()) == 1


def listed(videos, held):
    """[(path below the folder, is it in the room that is held out)] of all videos."""
    return [(path.relative_to(videos), path.name.startswith(held))
            for path in sorted(videos.rglob("*")) if path.is_file()]


def check_listed(videos, lists, tmp_path):
    """The three scripts with lists in which the attic is for the test."""
    clips = tmp_path / "clips"
    run("preprocessing_data.py", "--row_data_dir", videos, "--sampled_data_dir", clips,
        "--ucf_list_dir", lists, "--num_workers", 2, "--no-report")
    folder, result = train(clips, tmp_path, "--ucf_list_dir", lists, epochs=1)
    assert "27 of 27 listed training videos present" in result.out
    run("test.py", "--model_dir", folder, "--num_videos", 0, "--num_workers", 0)
    metrics = json.loads((folder / "test" / "metrics.json").read_text())
    assert (metrics["split"], metrics["videos"], metrics["classes"]) == ("1", 9, 3)
    assert {row["video"][:5] for row in table(folder / "test" / "predictions.csv")} == {"attic"}
    assert "attic" not in {row["group"].split("/")[-1][:5] for row in table(folder / "splits.csv")}


def test_lists_of_ucf101s_format_with_spaces_endings_and_depths(videos, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    names = sorted(CLASSES)
    (lists / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    rows = [(path.parts[0], path.name, held) for path, held in listed(videos, "attic")]
    (lists / "trainlist01.txt").write_text("".join(f"all/{cls}/{name} {names.index(cls) + 1}\n"
                                                   for cls, name, held in rows if not held))
    (lists / "testlist01.txt").write_text("".join(f"{cls}/{name}\n" for cls, name, held in rows if held))
    check_listed(videos, lists, tmp_path)


def test_lists_of_hmdb51s_format(videos, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    for cls in CLASSES:
        (lists / f"{cls}_test_split1.txt").write_text("".join(
            f"{path.name} {2 if held else 1} \n" for path, held in listed(videos, "attic")
            if path.parts[0] == cls))
    check_listed(videos, lists, tmp_path)


def test_a_format_that_cannot_be_read_is_named(tmp_path):
    raw = tmp_path / "raw"
    for cls in ("a", "b"):
        for i in range(12):
            write_video(raw / cls / f"{i}.mp4", 10, fps=5)
    (raw / "a" / "strange.mov").write_bytes(b"no codec that anybody knows")
    result = run("preprocessing_data.py", "--row_data_dir", raw, "--sampled_data_dir", tmp_path / "clips",
                 "--num_workers", 1)
    (failed,) = table(tmp_path / "clips" / "failed.csv")
    assert failed["source"] == "a/strange.mov" and "strange.mov" in result.err
