"""preprocessing_data.py on a folder of one's own: parts and names, a source that changes, the data report."""
import shutil

import cv2
import numpy as np
import pytest
from commands import call
from runs import TINY, last_line, refused, table
from videos import write_video

from dataset import training_samples
from lrcn.data.manifest import read_sampled
from lrcn.training.recipe import Recipe
from tests.scripts.test_preprocessing import SCRIPT, manifest, preprocess, snapshot, write_lists


def scene(seed, frames=60, size=(96, 128)):
    """Frames of a picture of its own that drifts slowly: to be told from others by any of them."""
    small = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), np.uint8)
    large = cv2.resize(small, (size[1] + frames // 4, size[0]), interpolation=cv2.INTER_CUBIC)
    return [large[:, i // 4:i // 4 + size[1]] for i in range(frames)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two classes of three videos, each a scene of its own."""
    folder = tmp_path_factory.mktemp("source") / "raw"
    for number, name in enumerate(("jump/a", "jump/b", "jump/c", "wave/a", "wave/b", "wave/c")):
        write_video(folder / f"{name}.avi", scene(number))
    return folder


def names(out):
    return {f"{cls}/{name}" for cls, name in manifest(out)}


def test_what_is_gone_is_taken_out_and_said_but_most_of_a_folder_not_unasked(tmp_path):
    """With --keep it stays: test_journal.py."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    for i in range(18):
        write_video(raw / "AB"[i % 2] / f"{i}.avi", 12)
    preprocess(raw, out)
    (raw / "A" / "0.avi").unlink()
    said = preprocess(raw, out).out
    assert "taken out: 1 clips" in said and "A/0" in said and "--keep" in said and "A/0" not in names(out)
    for path in (raw / "A" / "2.avi", raw / "A" / "4.avi", *(raw / "B").glob("*")):
        path.unlink()
    before = snapshot(out)
    result = preprocess(raw, out, ok=False)
    assert result.code == 2 and "11 of the 17" in result.err and "--no-keep" in result.err
    assert snapshot(out) == before
    preprocess(raw, out, "--no-keep")
    assert len(names(out)) == 6 and not (out / "B").exists()


def test_a_damaged_table_is_one_line_and_clips_of_a_lost_one_are_sampled_again(source, tmp_path):
    out = tmp_path / "out"
    preprocess(source, out)
    before = snapshot(out)
    for name, column in (("clips.csv", "light"), ("clips.csv", "hashes"), ("manifest.csv", "source_fps")):
        header, first, *rest = (out / name).read_text().splitlines()
        cells = first.split(",")
        cells[header.split(",").index(column)] = "xy"
        (out / name).write_text("\n".join([header, ",".join(cells), *rest]) + "\n")
        refused(SCRIPT, "--report", "--sampled_data_dir", out, says=("clips.csv", "jump/"))
        (out / name).write_bytes(before[name])
    (out / "clips.csv").unlink()
    assert "6 of them differ in their time only" in preprocess(source, out).out
    assert snapshot(out) == before


def test_folders_of_parts_are_the_parts_of_the_training_and_of_the_test(source, tmp_path):
    """A run on such parts: test_pictures.py."""
    def sampled_parts():
        preprocess(raw, tmp_path / "out")
        samples, _ = training_samples(Recipe(sampled_data_path=str(tmp_path / "out"), split_size=0.5))
        return {(sample.part, sample.cls, sample.name) for sample in samples}

    raw, parts = tmp_path / "raw", {"train": "ab", "val": "c", "test": "ab"}
    named = {(part, cls, f"{name}_{part}") for part, names in parts.items() for cls in ("jump", "wave")
             for name in names}
    for part, cls, name in named:
        (raw / part / cls).mkdir(parents=True, exist_ok=True)
        shutil.copy(source / cls / f"{name[0]}.avi", raw / part / cls / f"{name}.avi")
    assert sampled_parts() == named
    shutil.rmtree(raw / "test")     # val becomes the test, and a part of train val
    left = sampled_parts()
    assert {name for part, _, name in left if part == "test"} == {"c_val"}
    assert {part for part, _, name in left if name.endswith("_train")} == {"train", "val"}


def test_consecutive_pictures_of_videos_in_a_class_folder_are_videos(tmp_path):
    for part in ("train", "val", "test"):
        for place in range(4):
            folder = tmp_path / "raw" / part / f"action{place % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            for i, frame in enumerate(scene(place, 6), 1):
                cv2.imwrite(str(folder / f"clip{place}_{i:04d}.jpg"), frame)
    words = SCRIPT, "--row_data_dir", tmp_path / "raw", "--no-report", "--sampling_rate", "source"
    assert "72 pictures in" in call(*words, "--stills", "--sampled_data_dir", tmp_path / "stills").out
    said = call(*words, "--num_frames_to_extract", "all", "--sampled_data_dir", tmp_path / "out",
                "--write_frames", tmp_path / "frames").out
    assert len([*(tmp_path / "frames").rglob("*.jpg")]) == 72
    assert "72 pictures are 12 sequences" in said and "parts by folder: 4 train, 4 val, 4 test" in said
    assert {(v.frames, v.step) for v in read_sampled(tmp_path / "out")} == {(6, 1 / 25)}


def test_clips_without_class_folders_and_table_are_trained_on_and_tested(tmp_path):
    names = {"Jump": "Jump", "Handstand": "HandStand"}      # as on the lists, and in the files' names
    flat, listed = tmp_path / "flat", {cls: [] for cls in names}
    for cls, name in names.items():
        for group in range(1, 6):
            file = write_video(flat / f"v_{name}_g{group:02d}_c01.avi", scene(group, 5), fps=2.5)
            listed[cls].append(f"{cls}/{file.name}")
    write_video(flat / "other.avi", 5)
    lists = write_lists(tmp_path / "lists", [f for files in listed.values() for f in files[:4]],
                        [files[4] for files in listed.values()])
    words = "--sampled_data_path", flat, "--ucf_list_dir", lists, *TINY, "--split_size", 0.4, "--no-pictures"
    result = call("train.py", *words, "--epochs", 1, "--local_dir", tmp_path)
    assert "its 10 clips are taken as they are, of 5 frames" in result.out and "other.avi" in result.err
    folder = last_line(result)
    assert {(row["class"], row["video"][2:6], row["group"][:-4]) for row in table(folder / "splits.csv")} == {
        ("Jump", "Jump", "Jump"), ("Handstand", "Hand", "Handstand")}
    call("test.py", "--model_dir", folder, "--num_videos", 0, "--num_workers", 0)
    assert len(table(folder / "test/predictions.csv")) == 2
    assert "epoch 2/2" in call("train.py", "--resume", folder, "--epochs", 2).out
    by_name, _ = training_samples(Recipe(sampled_data_path=str(flat), split_size=0.5))
    assert {(v.cls, v.group) for v in by_name} == {
        (name, f"{name}/g{group:02d}") for name in names.values() for group in range(1, 6)}


def test_chosen_classes_alone_are_sampled_and_the_folder_remembers_them(source, tmp_path):
    preprocess(source, tmp_path / "out", "--classes", "wave")
    assert {cls for cls, _ in manifest(tmp_path / "out")} == {"wave"}
    result = preprocess(source, tmp_path / "out", ok=False)
    assert result.code == 2 and "classes ['wave']" in result.err and len(result.err.splitlines()) == 1


@pytest.fixture(scope="module")
def reported(source, tmp_path_factory):
    """(result, folder of clips) of a data set with everything that the report looks for."""
    raw = tmp_path_factory.mktemp("reported") / "raw"
    shutil.copytree(source, raw)
    write_video(raw / "jump/black.avi", [np.zeros((96, 128, 3), np.uint8)] * 60)
    write_video(raw / "jump/frozen.avi", scene(9)[:1] * 60)
    write_video(raw / "jump/tiny.avi", scene(10)[::20])
    shutil.copy(raw / "jump/a.avi", raw / "wave/copy of a.avi")
    write_video(raw / "wave/again.mp4", [cv2.resize(f, (160, 120)) for f in scene(4)])     # wave/b, anew
    (raw / "wave/broken.mkv").write_text("no video")
    (raw / "wave/notes.txt").write_text("no video")
    write_video(raw / "loose.avi", 30)
    out = raw.parent / "out"
    return call(SCRIPT, "--row_data_dir", raw, "--sampled_data_dir", out, "--num_workers", 2), out


def test_the_report_takes_about_ten_lines_of_the_terminal(reported):
    result, out = reported
    lines = (out / "data_report/report.txt").read_text().splitlines()
    assert 8 <= len(lines) <= 12
    assert result.out.splitlines()[-1 - len(lines):-1] == lines
    said = "\n".join(lines)
    for words in ("data: 11 videos of 2 classes", "128x96 (10), 160x120 (1)", "25 (11)", "black: 1 clip",
                  "frozen: 1 clip", "no video (.txt) (1), in no class folder (1); cannot be read (1)",
                  "near doubles: 4 clips in 2 sets", "--groups", "its last frame is repeated"):
        assert words in said, said


def test_the_report_names_black_frozen_and_nearly_identical_clips_groups_these_and_shows_all(reported):
    folder = reported[1] / "data_report"
    odd = {(row["class"], row["video"]): row["what"] for row in table(folder / "odd.csv")}
    assert odd["jump", "black"] == "black" and odd["jump", "frozen"] == "frozen"
    assert odd["jump", "tiny"] == "its last frame is repeated"
    sets = {}
    for row in table(folder / "near_doubles.csv"):
        sets.setdefault(row["set"], set()).add(f"{row['class']}/{row['video']}")
    assert sorted(map(sorted, sets.values())) == [["jump/a", "wave/copy of a"], ["wave/again", "wave/b"]]
    assert {row["source"]: row["reason"].split(" (")[0] for row in table(folder / "left_out.csv")} == {
        "loose.avi": "in no class folder", "wave/notes.txt": "no video",
        "wave/broken.mkv": "no video in it that can be decoded"}
    rows = {row["class"]: row for row in table(folder / "classes.csv")}
    assert (rows["jump"]["videos"], rows["wave"]["videos"]) == ("6", "5")
    videos = read_sampled(folder.parent, group_table=folder / "groups.csv")
    group = {v.path: v.group for v in videos}
    assert group["jump/a.avi"] == group["wave/copy of a.avi"]
    assert group["wave/again.avi"] == group["wave/b.avi"]
    assert len(set(group.values())) == len(videos) - 2
    sheets = folder / "sheets"
    assert {p.name for p in sheets.iterdir()} == {"jump.png", "wave.png"}
    picture = cv2.imread(str(sheets / "jump.png"))
    assert picture.shape[1] > 5 * 160 and picture.shape[0] > 2 * 120
    assert (picture == (46, 16, 200)).all(2).any()      # red around what is odd


def test_the_report_by_itself_is_the_same(reported, tmp_path):
    _, done = reported
    out = shutil.copytree(done, tmp_path / "out")
    shutil.rmtree(out / "data_report")
    again = call(SCRIPT, "--report", "--sampled_data_dir", out, "--num_workers", 1)
    assert snapshot(out / "data_report") == snapshot(done / "data_report")
    assert again.out.splitlines()[:-1] == (out / "data_report/report.txt").read_text().splitlines()


def test_near_doubles_across_the_lists_of_a_split_are_called_a_leak(reported, tmp_path):
    raw, out = reported[1].parent / "raw", tmp_path / "listed"
    lists = write_lists(tmp_path / "lists", ["jump/a.avi"], ["wave/copy of a.avi", "jump/c.avi"])
    said = call(SCRIPT, "--row_data_dir", raw, "--sampled_data_dir", out, "--ucf_list_dir", lists).out
    assert "LEAK: sets across train and test: 1 in split 1" in said
    assert [row["split 1"] for row in table(out / "data_report/near_doubles.csv")] == ["train", "test"]
