"""Which videos a folder holds: classes, parts and names by folder or by lists, and what is left out."""
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcn.base.cli import UserError
from lrcn.clips import sources, splits
from lrcn.clips.manifest import part_of
from lrcn.clips.sources import find_sources


def folder(path, *names):
    """A folder with empty files of these names."""
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"")
    return path


def keys(found):
    return {job.source: job.key for job in found.jobs}


def test_the_class_is_the_first_folder_however_deep_the_video_lies(tmp_path):
    found = find_sources(folder(tmp_path, "jump/day1/a.avi", "wave/day1/a.avi", "wave/b.MP4"))
    assert keys(found) == {"jump/day1/a.avi": ("jump", "day1_a"), "wave/day1/a.avi": ("wave", "day1_a"),
                           "wave/b.MP4": ("wave", "b")}
    assert "2 videos lie deeper" in found.words[0]


def test_one_folder_with_all_the_classes_in_it_is_pointed_at(tmp_path):
    found = find_sources(folder(tmp_path, "all/jump/a.avi", "all/wave/b.avi"))
    assert f"--row_data_dir {tmp_path / 'all'}" in found.words[0] and "one class, 'all'" in found.words[0]


def test_train_val_and_test_on_top_are_parts_and_a_class_may_be_called_so(tmp_path):
    found = find_sources(folder(tmp_path / "a", "train/jump/1.avi", "Test/jump/1.avi",
                                "validation/wave/x/2.avi", "train/loose.avi", "extra/jump/3.avi"))
    assert keys(found) == {"train/jump/1.avi": ("jump", "train_1"), "Test/jump/1.avi": ("jump", "Test_1"),
                           "validation/wave/x/2.avi": ("wave", "x_2")}
    assert {source: part_of(source, cls) for source, (cls, _) in keys(found).items()} == {
        "train/jump/1.avi": "train", "Test/jump/1.avi": "test", "validation/wave/x/2.avi": "val"}
    assert dict(found.left_out) == {"train/loose.avi": "in no class folder",
                                    "extra/jump/3.avi": "beside train/ and test/, in none of them"}
    assert found.words[0] == "parts by folder: 1 train, 1 val, 1 test"
    vehicles = find_sources(folder(tmp_path / "b", "train/red/1.avi", "bus/2.avi"))
    assert keys(vehicles) == {"train/red/1.avi": ("train", "red_1"), "bus/2.avi": ("bus", "2")}
    assert part_of("train/red/1.avi", "train") is None


def test_two_videos_of_one_name_both_live(tmp_path):
    found = find_sources(folder(tmp_path, "A/clip.mov", "A/clip.mp4", "A/other.mp4", "A/clip.mov.avi",
                                "A/d_e.avi", "A/d/e.avi"))
    names = keys(found)
    assert names["A/clip.mp4"] == ("A", "clip.mp4") and names["A/other.mp4"] == ("A", "other")
    assert names["A/clip.mov.avi"] == ("A", "clip.mov")
    assert len(set(names.values())) == 6
    assert keys(find_sources(folder(tmp_path / "two", "A/clip.mov", "A/clip.mp4"))) == {
        "A/clip.mov": ("A", "clip.mov"), "A/clip.mp4": ("A", "clip.mp4")}


NAME = st.text("ab._1", min_size=1, max_size=3).filter(lambda s: s.strip("."))
PATH = st.tuples(st.lists(NAME, min_size=1, max_size=3), NAME, st.sampled_from([".avi", ".mp4"]))
PATHS = st.sets(PATH.map(lambda t: "/".join(t[0]) + f"/{t[1]}{t[2]}"), min_size=1, max_size=12)


@given(PATHS, st.randoms())
def test_every_video_gets_one_name_that_the_order_does_not_change(paths, random):
    jobs = [(path.split("/")[0], path) for path in sorted(paths)]
    named = {job.source: job.key for job in sources._name(jobs, 0)}
    assert set(named) == paths and len(set(named.values())) == len(paths)
    assert not any("/" in name for _, name in named.values())
    random.shuffle(jobs)
    assert {job.source: job.key for job in sources._name(jobs, 0)} == named


def test_what_is_no_video_or_lies_nowhere_is_listed_with_its_reason(tmp_path):
    found = find_sources(folder(tmp_path, "A/a.m4v", "A/b.mts", "A/c.wmv", "A/d.3gp", "A/e.flv", "A/f.mpg",
                                "A/g.gif", "A/notes.txt", "A/README", "A/.hidden.avi", "loose.avi"))
    assert len(found.jobs) == 7
    assert dict(found.left_out) == {"A/notes.txt": "no video (.txt)", "A/README": "no video (no ending)",
                                    "loose.avi": "in no class folder"}
    with pytest.raises(UserError, match="1 videos lie in no folder"):
        find_sources(folder(tmp_path / "flat", "a.avi"))


def test_links_are_followed_but_not_in_circles_nor_into_the_clips(tmp_path):
    raw = folder(tmp_path / "raw", "A/a.avi")
    folder(tmp_path / "else", "b.avi")
    clips = folder(tmp_path / "clips", "c.avi")
    for name, target in (("B", tmp_path / "else"), ("A/up", raw), ("A/self", raw / "A"), ("C", clips)):
        os.symlink(target, raw / name)
    os.symlink("nowhere", raw / "A/gone.avi")
    assert set(keys(find_sources(raw, clips.resolve()))) == {"A/a.avi", "A/gone.avi", "B/b.avi"}


def test_a_job_knows_its_files_size_and_time(tmp_path):
    path = folder(tmp_path, "A/a.avi") / "A/a.avi"
    path.write_bytes(b"12345")
    os.utime(path, ns=(7, 1234567890123456789))
    [job] = find_sources(tmp_path).jobs
    assert (job.bytes, job.modified) == (5, 1234567890123456789)


def listed(*names):
    return [splits.Listed(*name.split("/"), None, "") for name in names]


def test_with_lists_the_class_is_the_folder_that_the_list_names(tmp_path):
    raw = folder(tmp_path, "deep/Run/more/a.avi", "Jump/b.mp4", "Jump/b.avi", "Jump/unknown.avi")
    found = find_sources(raw, lists={1: (listed("Run/a", "Run/absent"), listed("Jump/b"))})
    assert keys(found) == {"deep/Run/more/a.avi": ("Run", "a"), "Jump/b.avi": ("Jump", "b")}
    assert dict(found.left_out) == {"Jump/b.mp4": "the listed Jump/b is Jump/b.avi",
                                    "Jump/unknown.avi": "on no list"}
    assert found.words == [
        "split 1: 1 of 2 listed training videos present, 1 of 1 listed test videos present"]


def test_kinetics_videos_are_found_by_their_name_in_whatever_folder(tmp_path):
    raw = folder(tmp_path, "train/qwertyuiopa_000010_000020.mp4",
                 "val/air_drumming/qwertyuiopb_000003_000013.mp4")
    found = find_sources(raw, lists={1: (listed("air drumming/qwertyuiopa_000010_000020"),
                                         listed("air drumming/qwertyuiopb_000003_000013"))})
    assert {key[0] for key in keys(found).values()} == {"air drumming"} and len(found.jobs) == 2


def test_classes_are_chosen_by_name(tmp_path):
    raw = folder(tmp_path, "A/a.avi", "B/b.avi", "C/c.avi")
    found = find_sources(raw, classes=sources.class_names("C, A"))
    assert [job.cls for job in found.jobs] == ["A", "C"]
    assert found.left_out == [("B/b.avi", "of another class")]
    with pytest.raises(UserError, match="no video of D; there are A, B, C"):
        find_sources(raw, classes=["D"])


@pytest.mark.parametrize("name", ["features", "data_report"])
def test_a_class_cannot_have_the_name_of_a_folder_of_the_scripts(tmp_path, name):
    with pytest.raises(UserError, match=f"cannot be named '{name}'"):
        find_sources(folder(tmp_path, f"{name}/a.avi"))
