"""Which videos a folder holds: classes, parts and names by folder or by lists, and what is left out."""
import errno
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcn.base.cli import UserError
from lrcn.data import sources, split_lists
from lrcn.data.groups import find_groups
from lrcn.data.manifest import RESERVED, part_folders, part_of
from lrcn.data.sources import find_sources
from lrcn.watching.films import find_films


def folder(path, *names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"")
    return path


def keys(found):
    return {job.source: job.key for job in found.jobs}


def listed(*names):
    return [split_lists.Listed(*name.split("/")) for name in names]


def test_the_class_is_the_first_folder_however_deep_the_video_lies(tmp_path):
    found = find_sources(folder(tmp_path, "jump/day1/a.avi", "wave/day1/a.avi", "wave/b.MP4"))
    assert keys(found) == {"jump/day1/a.avi": ("jump", "day1_a"), "wave/day1/a.avi": ("wave", "day1_a"),
                           "wave/b.MP4": ("wave", "b")}
    assert "2 videos lie deeper" in found.notes[0]
    found = find_sources(folder(tmp_path / "one", "all/jump/a.avi", "all/wave/b.avi"))
    assert f"--row_data_dir {tmp_path / 'one/all'}" in found.notes[0] and "one class, 'all'" in found.notes[0]


def test_what_lies_in_no_class_folder_has_the_class_of_its_name_or_of_the_list(tmp_path):
    clips = folder(tmp_path, "v_Jump_g01_c01.avi", "v_HandStand_g02_c01.avi", "holiday.avi")
    assert keys(find_sources(clips)) == {"v_Jump_g01_c01.avi": ("Jump", "v_Jump_g01_c01"),
                                         "v_HandStand_g02_c01.avi": ("HandStand", "v_HandStand_g02_c01")}
    both = listed("Handstand/v_HandStand_g02_c01"), listed("Jump/holiday")
    assert keys(find_sources(clips, lists={1: both})) == {
        "v_HandStand_g02_c01.avi": ("Handstand", "v_HandStand_g02_c01"), "holiday.avi": ("Jump", "holiday")}


def test_pictures_whose_names_and_numbers_tell_sequences_are_videos(tmp_path):
    raw = folder(tmp_path / "raw", *(f"{part}/action{c}/{word}{c}_g0{g}_c01-{i:04}.jpg" for part, g in
                                     (("train", 1), ("train", 2), ("test", 3)) for c in (0, 1)
                                     for word in ("v_A", "v_B") for i in range(5)))
    found = find_sources(raw)
    assert len(found.jobs) == 12 and "60 pictures are 12 sequences" in found.notes[0]
    assert keys(found)["test/action1/v_B1_g03_c01-*"] == ("action1", "v_B1_g03_c01")
    groups = find_groups([job.key for job in found.jobs])
    assert groups["action0", "v_A0_g01_c01"] == groups["action0", "v_B0_g01_c01"] == "action0/g01"
    assert len(find_sources(raw, stills=True).jobs) == 60
    assert keys(find_sources(raw, lists={1: (listed("A1/v_A1_g03_c01"), [])})) == {
        "test/action1/v_A1_g03_c01-*": ("A1", "v_A1_g03_c01")}
    # one sequence a folder is enough where other folders have several, a camera's word with a number too
    few = folder(tmp_path / "few", *(f"{place}{i:03}.jpg" for i in range(4) for place in (
        "train/a/clip1_", "train/a/clip2_", "test/a/clip3.", "test/b/v_A_g01_c01.frame")))
    assert {job.video for job in find_sources(few).jobs} == {"clip1", "clip2", "clip3", "v_A_g01_c01"}
    for number, stills in enumerate((("{}.jpg", "a.jpg"), ("IMG_{}.jpg", "DSC_{}.jpg"), ("Jump_{:03}.jpg",),
                                     ("v_A_g01_c0{}.jpg", "v_A_g02_c0{}.jpg"), ("20190501_{}.jpg",),
                                     ("film_00012.{}00.jpg", "film_00013.{}00.jpg"), ("a{}7.jpg", "b9.jpg"))):
        names = {f"Jump/{name.format(i)}" for name in stills for i in range(9)}
        photos = folder(tmp_path / str(number), *names)
        assert {job.source for job in find_sources(photos).jobs} == {
            f"Jump/{path.name}" for path in photos.rglob("*.jpg")}


def test_train_val_and_test_on_top_are_parts_and_a_class_may_be_called_so(tmp_path):
    found = find_sources(folder(tmp_path / "a", "train/jump/1.avi", "Test/jump/1.avi",
                                "validation/wave/x/2.avi", "train/loose.avi", "extra/jump/3.avi"))
    assert keys(found) == {"train/jump/1.avi": ("jump", "train_1"), "Test/jump/1.avi": ("jump", "Test_1"),
                           "validation/wave/x/2.avi": ("wave", "x_2")}
    assert {source: part_of(source, cls) for source, (cls, _) in keys(found).items()} == {
        "train/jump/1.avi": "train", "Test/jump/1.avi": "test", "validation/wave/x/2.avi": "val"}
    assert dict(found.left_out) == {"train/loose.avi": "in no class folder",
                                    "extra/jump/3.avi": "beside train/ and test/, in none of them"}
    assert found.notes[0] == "parts by folder: 1 train, 1 val, 1 test"
    vehicles = find_sources(folder(tmp_path / "b", "train/red/1.avi", "bus/2.avi"))
    assert keys(vehicles) == {"train/red/1.avi": ("train", "red_1"), "bus/2.avi": ("bus", "2")}
    assert part_of("train/red/1.avi", "train") is None


TRAIN = ("train", "Training", "TRAIN_256", "train-videos", "trainset", "01_train", "train_set", "trainval")
VAL = ("val", "Valid", "validation", "val_256", "dev", "validate", "Val2017")
TEST = ("test", "Testing", "test_256", "testset", "Test Videos", "TEST_SET")


@given(st.sampled_from(TRAIN), st.sampled_from(VAL), st.sampled_from(TEST))
def test_the_parts_are_told_however_their_folders_are_called(train, val, test):
    names = [f"{top}/{cls}/1.avi" for top in (train, val, test) for cls in ("jump", "wave")]
    parts = part_folders(names)
    assert parts == {train: "train", val: "val", test: "test"}
    assert [part_of(name, name.split("/")[1]) for name in names[::2]] == ["train", "val", "test"]
    assert part_folders([f"{top}_mine/jump/1.avi" for top in (train, val)]) == {
        f"{train}_mine": "train", f"{val}_mine": "val"}
    assert not part_folders([f"{train}_station/red/1.avi", f"{test}_drive/red/1.avi"])
    assert not part_folders([f"{train}/red/1.avi", "bus/red/1.avi"])


def test_names_that_might_be_parts_and_classes_of_one_part_alone_are_asked_about(tmp_path):
    found = find_sources(folder(tmp_path / "a", "train_a/jump/1.avi", "val_b/jump/1.avi"))
    assert {job.cls for job in found.jobs} == {"train_a", "val_b"}
    assert any("train_a, val_b are taken for classes" in words for words in found.notes)
    found = find_sources(folder(tmp_path / "b", "train/Jump/1.avi", "train/Run Fast/1.avi", "test/Jump/2.avi",
                                "test/Run_Fast/2.avi", "test/jump/2.avi"))
    [said] = [words for words in found.notes if "one side" in words]
    assert "Run Fast in the training only; Run_Fast, jump in the test only" in said


def test_what_systems_leave_is_passed_over_among_classes_and_among_frames(tmp_path):
    folders = ("$RECYCLE.BIN", "@eaDir", "System Volume Information", "__MACOSX", "#recycle", "lost+found",
               ".Trashes", "RECYCLER")
    names = ("Thumbs.db", "desktop.ini", ".DS_Store", "._001.jpg", "ehthumbs.db")
    names = (*names, *(f"{name}/1.jpg" for name in folders))
    junk = [f"{at}/{name}" for name in names for at in (".", "A", "A/one")]
    found = find_sources(folder(tmp_path / "raw", "A/one/001.jpg", "A/one/002.jpg", *junk))
    assert keys(found) == {"A/one": ("A", "one")} and not found.left_out
    films = folder(tmp_path / "films", "a.avi", "._e.avi", *(f"c/{x}/d.mp4" for x in folders))
    assert list(find_films(films)) == ["a.avi"]


@pytest.mark.parametrize("look", [find_sources, find_films])
@pytest.mark.parametrize("shut", ["Run", "Jump/deep"])
def test_a_folder_that_may_not_be_listed_is_an_error(tmp_path, monkeypatch, look, shut):
    folder(tmp_path, "Jump/a.avi", "Jump/deep/b.avi", "Run/a.avi", "lost+found/c.avi")
    whole = os.scandir

    def scandir(path="."):
        if str(path).endswith((shut, "lost+found")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return whole(path)
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=f"{shut} .Permission denied"):
        look(tmp_path)


def test_a_folder_of_frames_that_cannot_be_told_is_named(tmp_path):
    found = find_sources(folder(tmp_path, "A/one/001.jpg", "A/one/002.jpg", "A/two/a1.jpg", "A/two/a2.jpg",
                                "A/two/b1.jpg", "A/two/b2.jpg", "A/with film/1.jpg", "A/with film/2.mp4"))
    assert set(keys(found)) == {"A/one", "A/with film/2.mp4"}
    assert "several series" in dict(found.left_out)["A/two"] and "A/two" in found.notes[-1] + found.notes[0]


def test_a_long_name_is_shortened_and_one_from_a_mac_is_as_others_write_it(tmp_path):
    long, accent = "я" * 120, unicodedata.normalize("NFD", "Übung é")
    found = find_sources(folder(tmp_path, f"A/{long}1.mp4", f"A/{long}2.mp4", f"{accent}/{accent}.avi",
                                unicodedata.normalize("NFC", accent) + "/other.avi"))
    assert {(job.cls, job.video) for job in found.jobs if job.cls != "A"} == {("Übung é", "Übung é"),
                                                                             ("Übung é", "other")}
    names = [job.video for job in found.jobs if job.cls == "A"]
    assert len(set(names)) == 2 and all(len(name.encode()) <= 230 and name.startswith("яя") for name in names)
    assert len(find_sources(tmp_path, classes=[unicodedata.normalize("NFD", "Übung é")]).jobs) == 2


def test_every_ending_of_a_film_is_taken_and_what_is_none_or_lies_nowhere_is_listed_with_its_reason(tmp_path):
    endings = ("h264 264 mod tod m2t lrv insv f4v qt rm rmvb ogm m2v mpe divx mjpeg MJPG vro 3gpp 360 wtv "
               "dvr-ms mk3d hevc ivf y4m nut m4v mts wmv 3gp flv mpg gif")
    folder(tmp_path, *(f"A/{ending}.{ending}" for ending in endings.split()))
    assert len(find_sources(tmp_path).jobs) == len(find_films(tmp_path)) == len(endings.split())
    found = find_sources(folder(tmp_path, "A/notes.txt", "A/README", "A/.hidden.avi", "loose.avi"))
    assert dict(found.left_out) == {"A/notes.txt": "no video (.txt)", "A/README": "no video (no ending)",
                                    "loose.avi": "in no class folder"}
    with pytest.raises(UserError, match="1 left out: in no class folder"):
        find_sources(folder(tmp_path / "flat", "a.avi"))


def test_two_videos_of_one_name_both_live(tmp_path):
    names = keys(find_sources(folder(tmp_path, "A/clip.mov", "A/clip.mp4", "A/other.mp4", "A/clip.mov.avi",
                                     "A/d_e.avi", "A/d/e.avi")))
    assert names["A/clip.mp4"] == ("A", "clip.mp4") and names["A/other.mp4"] == ("A", "other")
    assert names["A/clip.mov.avi"] == ("A", "clip.mov") and len(set(names.values())) == 6


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


def test_links_are_followed_but_not_in_circles_nor_into_the_clips(tmp_path):
    raw = folder(tmp_path / "raw", "A/a.avi")
    folder(tmp_path / "else", "b.avi")
    clips = folder(tmp_path / "clips", "c.avi")
    for name, target in (("B", tmp_path / "else"), ("A/up", raw), ("A/self", raw / "A"), ("C", clips)):
        os.symlink(target, raw / name)
    os.symlink("nowhere", raw / "A/gone.avi")
    assert set(keys(find_sources(raw, clips.resolve()))) == {"A/a.avi", "A/gone.avi", "B/b.avi"}


def test_with_lists_the_class_is_the_folder_that_the_list_names(tmp_path):
    raw = folder(tmp_path, "deep/Run/more/a.avi", "Jump/b.mp4", "Jump/b.avi", "Jump/unknown.avi")
    found = find_sources(raw, lists={1: (listed("Run/a", "Run/absent"), listed("Jump/b"))})
    assert keys(found) == {"deep/Run/more/a.avi": ("Run", "a"), "Jump/b.avi": ("Jump", "b")}
    assert dict(found.left_out) == {"Jump/b.mp4": "the listed Jump/b is Jump/b.avi",
                                    "Jump/unknown.avi": "on no list"}
    assert found.notes == [
        "split 1: 1 of 2 listed training videos present, 1 of 1 listed test videos present"]


def test_kinetics_videos_are_found_by_their_name_in_whatever_folder(tmp_path):
    raw = folder(tmp_path, "train/qwertyuiopa_000010_000020.mp4",
                 "val/air_drumming/qwertyuiopb_000003_000013.mp4", "all/qwertyuiopc.mp4", "twice12345x.mp4")
    found = find_sources(raw, lists={1: (
        listed("air drumming/qwertyuiopa_000010_000020", "ski/qwertyuiopc_000001_000011"),
        listed("air drumming/qwertyuiopb_000003_000013", "ski/twice12345x_000001_000011",
               "run/twice12345x_000011_000021"))})
    assert sorted(keys(found).values()) == [     # the address alone, where one clip has it
        ("air drumming", "qwertyuiopa_000010_000020"), ("air drumming", "qwertyuiopb_000003_000013"),
        ("ski", "qwertyuiopc_000001_000011")]


def test_a_class_cannot_have_the_name_of_a_folder_of_the_scripts(tmp_path):
    for name in RESERVED:
        with pytest.raises(UserError, match=f"cannot be named '{name}'"):
            find_sources(folder(tmp_path / name, f"{name}/a.avi"))
