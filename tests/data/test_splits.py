"""Split lists, groups and drawn splits: read rightly, or refused with file and line."""
import re
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import dataset
from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.data import groups, split_lists, splits
from lrcn.data.manifest import MANIFEST_COLUMNS, SampledVideo, read_sampled
from lrcn.training.recipe import Recipe


def lists(folder, train="A/v_A_g01_c01.avi 1\nB/v_B_g01_c01.avi 2\n",
          test="A/v_A_g02_c01.avi\nB/v_B_g02_c01.avi\n", index="1 A\n2 B\n"):
    """A folder of split lists with these texts (or bytes); None leaves a file out."""
    folder.mkdir(exist_ok=True)
    for name, text in (("trainlist01.txt", train), ("testlist01.txt", test), ("classInd.txt", index)):
        if text is not None:
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def Video(cls, name, group):
    return SampledVideo(name, cls, group)


def names(rows):
    return [f"{row.cls}/{row.video}" for row in rows]


@pytest.mark.parametrize("train", [
    "A/v_A_g01_c01.avi 1\r\nB/v_B_g01_c01.avi 2\r\n",
    "\n\nA/v_A_g01_c01.avi 1   \n \t \nB/v_B_g01_c01.avi 2\n\n",
    b"\xef\xbb\xbfA/v_A_g01_c01.avi 1\nB/v_B_g01_c01.avi 2",
    "A/v_A_g01_c01.avi\nB/v_B_g01_c01.avi\n",
    "A/v_A_g01_c01.avi\t1\nB/v_B_g01_c01.avi     2",
    "UCF-101/A/v_A_g01_c01.avi 1\ndeep/er/B/v_B_g01_c01.mp4 2",
    "A\\v_A_g01_c01.avi 1\nB\\v_B_g01_c01.avi 2",
    "A/v_A_g01_c01.avi 1\nB/v_B_g01_c01.avi 2\nA/v_A_g01_c01.avi 1\n",
])
def test_a_list_is_read_whatever_its_line_ends_spaces_labels_and_depth(tmp_path, train):
    found, test = split_lists.official_lists(lists(tmp_path, train), 1)
    assert names(found) == ["A/v_A_g01_c01", "B/v_B_g01_c01"]
    assert names(test) == ["A/v_A_g02_c01", "B/v_B_g02_c01"]


@pytest.mark.parametrize("train, where, what", [
    ("A/v_A_g01_c01.avi 1\nC/v_C_g01_c01.avi 2\n", "trainlist01.txt line 2", "'C' is not in classInd.txt"),
    ("A/v_A_g01_c01.avi 2\n", "trainlist01.txt line 1", "label 2 disagrees with classInd.txt"),
    ("\n\nA/v_A_g02_c01.avi 1\n", "testlist01.txt line 1", "training list too"),
    ("A/v_A_g01_c01.avi 1\n../A/v.avi 1\n", "trainlist01.txt line 2", "leaves the data set's folder"),
    ("A/../../v.avi 1\n", "trainlist01.txt line 1", "leaves the data set's folder"),
    ("/v.avi 1\n", "trainlist01.txt line 1", "expected Class/video.avi"),
    ("C:\\v.avi 1\n", "trainlist01.txt line 1", "expected Class/video.avi"),
    ("A\\..\\..\\v.avi 1\n", "trainlist01.txt line 1", "leaves the data set's folder"),
    ("v_A_g01_c01.avi 1\n", "trainlist01.txt line 1", "expected Class/video.avi"),
    ("A/ 1\n", "trainlist01.txt line 1", "expected Class/video.avi"),
    (b"A/v\x81\x8d.avi 1\n", "trainlist01.txt", "cannot read the split list"),
    ("A/v\0.avi 1\n", "trainlist01.txt line 1", "leaves the data set's folder"),
])
def test_a_bad_line_is_refused_with_file_and_line(tmp_path, train, where, what):
    with pytest.raises(UserError) as error:
        split_lists.official_lists(lists(tmp_path, train), 1)
    assert where in str(error.value) and what in str(error.value)


def test_a_bad_class_index_is_refused_with_its_line_and_a_folder_without_lists_with_their_names(tmp_path):
    for index, line in (("1 A\nB\n", 2), ("1 A\n1 B\n", 2), ("1 A\n2 A\n", 2), ("x A\n", 1)):
        with pytest.raises(UserError, match=f"classInd.txt line {line}"):
            split_lists.official_lists(lists(tmp_path / "bad", index=index), 1)
    for folder in (tmp_path, lists(tmp_path / "half", test=None)):
        with pytest.raises(UserError, match=r"--ucf_list_dir .*trainlist01\.txt and testlist01\.txt"):
            split_lists.official_lists(folder, 1)


def test_hmdb_lists_are_read_by_their_marks(tmp_path):
    for cls in ("brush_hair", "cartwheel"):
        (tmp_path / f"{cls}_test_split2.txt").write_text(f"a_{cls}.avi 1 \nb_{cls}.avi 2 \nc_{cls}.avi 0 \n")
    train, test = split_lists.official_lists(tmp_path, 2)
    assert names(train) == ["brush_hair/a_brush_hair", "cartwheel/a_cartwheel"]
    assert names(test) == ["brush_hair/b_brush_hair", "cartwheel/b_cartwheel"]
    (tmp_path / "cartwheel_test_split2.txt").write_text("a.avi 1\nb.avi 3\n")
    with pytest.raises(UserError, match=r"cartwheel_test_split2\.txt line 2"):
        split_lists.official_lists(tmp_path, 2)


KINETICS = "label,youtube_id,time_start,time_end,split\n"


def test_kinetics_tables_are_lists_whose_classes_have_names_with_spaces(tmp_path):
    (tmp_path / "train.csv").write_text(KINETICS + '"air drumming",-abcdefghij,5,15,train\n'
                                        'abseiling,klmnopqrst0,120,130,train\n')
    (tmp_path / "validate.csv").write_text(KINETICS + "abseiling,klmnopqrst1,0.0,10.0,validate\n")
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    train, test = split_lists.official_lists(tmp_path, 1)
    assert names(train) == ["air drumming/-abcdefghij_000005_000015", "abseiling/klmnopqrst0_000120_000130"]
    assert names(test) == ["abseiling/klmnopqrst1_000000_000010"]
    (tmp_path / "test.csv").write_text(KINETICS + "abseiling,klmnopqrst2,7,17,test\n,klmnopqrst3,7,17,test\n")
    assert names(split_lists.official_lists(tmp_path, 1)[1]) == ["abseiling/klmnopqrst2_000007_000017"]
    with pytest.raises(UserError, match="trainlist02"):
        split_lists.official_lists(tmp_path, 2)
    for row in ("abseiling,klmnopqrst0,five,15,train", "a/b,klmnopqrst0,5,15,train",
                "abseiling,../opqrst0,5,15,train", "..,klmnopqrst0,5,15,train"):
        (tmp_path / "train.csv").write_text(f"{KINETICS}abseiling,klmnopqrst9,5,15,train\n{row}\n")
        with pytest.raises(UserError, match=r"train\.csv line 3"):
            split_lists.official_lists(tmp_path, 1)


def test_classes_are_in_the_order_of_the_class_index_else_of_the_alphabet(tmp_path):
    rows = [Video(cls, "v", "g") for cls in ("Zebra", "Ant bear", "Bee")]
    assert split_lists.class_order(None, rows) == ["Ant bear", "Bee", "Zebra"]
    folder = lists(tmp_path, "Ant bear/my clip 3.avi 3\n", "Zebra/a b.mkv\n", "1 Zebra\n2 Cow\n3 Ant bear\n")
    assert split_lists.class_order(folder, rows) == ["Zebra", "Ant bear", "Bee"]
    train, test = split_lists.official_lists(folder, 1)
    assert names(train) == ["Ant bear/my clip 3"] and names(test) == ["Zebra/a b"]


def bare(name):
    return name and not {"/", "\\", "\0"} & set(name)


# What each file's reader gives, and whether a value of it is one; of a table also its columns
READERS = {
    "trainlist01.txt": (lambda path: split_lists.read_list(path, {"A": 1, "B": 2}), lambda path, rows: all(
        row.cls in "AB" and bare(row.video) and re.search(r"line \d+$", row.where) for row in rows)),
    "classInd.txt": (lambda path: split_lists.read_class_index(path.parent), lambda path, index: all(
        isinstance(number, int) for number in index.values())),
    "run_test_split1.txt": (lambda path: split_lists.read_hmdb(path.parent, 1), lambda path, rows: True),
    "settings.json": (files.read_json, lambda path, value: isinstance(value, dict)),
    "manifest.csv": (lambda path: read_sampled(path.parent), lambda path, rows: all(
        (path.parent / row.path).resolve().parent.parent == path.parent.resolve() and row.frames >= 1
        for row in rows), MANIFEST_COLUMNS),
    "train.csv": (lambda path: split_lists.read_kinetics(path.parent), lambda path, rows: all(
        bare(line.cls) and bare(line.video) for part in rows for line in part), split_lists.KINETICS_COLUMNS),
    "splits.csv": (splits.read_splits, lambda path, rows: all(
        row.part in splits.PARTS and row.label >= 0 for row in rows), splits.SPLIT_COLUMNS)}
LINE = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"[AB]/v_[AB]_g0[1-9]_c0[1-9]\.avi( [12])?", fullmatch=True),
    st.from_regex(r"([A-C.]{1,2}[/\\]){0,3}[\w. ]{0,8}\.(avi|mp4)?[ \t]*\d{0,3}", fullmatch=True),
    st.sampled_from(["1", "null", '"a"', "[NaN, 1e999]", '{"FPS": 1}', '{"FPS": [null]}']))
FIELD = st.one_of(st.sampled_from(["A", "v_A_g01_c01", "5", "0", "-1", "train", "val", "²", "9" * 5000, "..",
                                   "a/b", "a\\b", "\0", ""]),
                  st.text(max_size=10))


@st.composite
def file_and_content(draw):
    """(name, bytes): lines, rows of about as many fields as the table has columns, or anything at all."""
    name = draw(st.sampled_from(list(READERS)))
    if READERS[name][2:]:
        size, quote = len(READERS[name][2]), draw(st.sampled_from(['"', ""]))
        rows = draw(st.lists(st.lists(FIELD, min_size=size - 1, max_size=size + 1), max_size=4))
        lines = [",".join(quote + x.replace(quote, 2 * quote) + quote for x in row) for row in rows]
    else:
        lines = draw(st.lists(LINE, max_size=6))
    text = draw(st.sampled_from(["\n", "\r\n"])).join(lines)
    code = draw(st.sampled_from(["utf-8", "utf-16", None]))
    return name, text.encode(code, "replace") if code else draw(st.binary(max_size=200))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file_and_content())
@example(("trainlist01.txt", b"A/v.avi " + b"9" * 5000))
@example(("trainlist01.txt", "A/v.avi ²".encode()))
@example(("trainlist01.txt", b"A/.avi 1"))
@example(("trainlist01.txt", b"./v.avi"))
@example(("classInd.txt", b"1" * 5000 + b" A"))
@example(("settings.json", b"[" * 100_000))
@example(("settings.json", b'{"FPS": ' + b"9" * 5000 + b"}"))
@example(("manifest.csv", b"v_A_g01_c01,A,x.avi,25,100,3,10," + b"9" * 5000))
@example(("manifest.csv", b"v,.,x.avi,25,100,3,10,5"))
@example(("splits.csv", b"v,A,\xc2\xb2,g,train"))
def test_any_content_of_a_file_is_read_or_refused_in_a_line_that_names_it(tmp_path, drawn):
    name, content = drawn
    read, fits, *columns = READERS[name]
    path = tmp_path / Path(name).stem / name
    path.parent.mkdir(exist_ok=True)
    header = b"" if not columns else ",".join(columns[0]).encode() + b"\n"
    for raw in {content, header + content}:
        path.write_bytes(raw)
        try:
            value = read(path)
        except UserError as error:
            assert name in str(error)
        else:
            assert fits(path, value)


def test_splits_csv_that_is_not_as_the_run_wrote_it_is_refused(tmp_path):
    """Cut at any row's end, a part changed, rows exchanged; other line ends, a copy elsewhere and a run that
    wrote no digest are read."""
    videos = [Video('A, "quoted"', f"v {i}", f"g{i}") for i in range(9)]
    path, settings = tmp_path / "splits.csv", tmp_path / "settings.json"
    splits.write_splits(path, splits.make_samples({"train": videos[:6], "test": videos[6:]}, [videos[0].cls]))
    files.write_json(settings, {"splits": splits.splits_seal(path)})
    whole, rows = path.read_bytes(), splits.read_splits(path)
    assert rows[0] == replace(Video('A, "quoted"', "v 0", "g0"), label=0, part="train")
    lines = whole.splitlines(keepends=True)
    for damaged in [*(lines[:n] for n in range(1, 10)), [lines[0], *lines[:0:-1]], [*lines, lines[-1]],
                    [line.replace(b",test", b",train") for line in lines]]:
        path.write_bytes(b"".join(damaged))
        with pytest.raises(UserError, match=r"splits\.csv: it holds .* rows .*settings\.json"):
            splits.read_splits(path)
        assert splits.read_splits(path.rename(tmp_path / "mine.csv")) is not None
    path.write_bytes(b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n"))
    assert splits.read_splits(path) == rows
    path.write_bytes(b"".join(lines[:4]))
    files.write_json(settings, {"classes": ["A"]})
    assert len(splits.read_splits(path)) == 3


def test_classes_that_one_side_alone_has_are_named(tmp_path, capsys):
    rows = [(f"v{i}", cls, f"{part}/{cls}/v{i}.avi", 25, 100, 0, 10, 5) for i, (part, cls) in enumerate(
        [("train", "Run Fast"), ("train", "wave")] * 3 + [("test", "Run_Fast"), ("test", "wave")] * 2)]
    files.write_csv(tmp_path / "manifest.csv", MANIFEST_COLUMNS, rows)
    dataset.training_samples(Recipe(sampled_data_path=str(tmp_path)))
    assert "classes of one side: Run Fast in the training only; Run_Fast in the test only" in \
        capsys.readouterr().err


def test_a_pattern_that_would_take_for_ever_is_one_line(monkeypatch):
    monkeypatch.setattr(groups, "MATCHING", 0.05)
    with pytest.raises(UserError, match=r"--group_pattern \^\(a\+\)\+\$: more than 0.05 s for A/a"):
        groups.find_groups([("A", "a" * 60 + "!")], r"^(a+)+$")


def test_the_group_is_that_of_a_table_a_pattern_or_the_name_or_it_is_refused(tmp_path):
    found = [("A", "v_A_g01_c01"), ("A", "v_A_g01_c02"), ("B", "v_B_g01_c01"), ("B", "holiday_3")]
    assert list(groups.find_groups(found).values()) == ["A/g01", "A/g01", "B/g01", "B/holiday_3"]
    for behind in ("-0001", "_frame12", ".7", "_0003"):     # a picture of a clip
        assert groups.find_groups([("A", f"v_A_g03_c01{behind}")]) == {("A", f"v_A_g03_c01{behind}"): "A/g03"}
    others = [("hug", "April_09_hug_u_nm_np2_fr_goo_0"), ("hug", "April_09_hug_u_nm_np2_fr_goo_1"),
              ("kiss", "qwertyuiopa_000010_000020"), ("hug", "qwertyuiopa_000031_000041")]
    assert list(groups.find_groups(others).values()) == [
        *["April_09_hug_u_nm_np2_fr_goo"] * 2, *["qwertyuiopa"] * 2]
    assert groups.look_alike(others) is None
    assert list(groups.find_groups(found, pattern=r"c?0?(\d)$").values()) == ["1", "2", "1", "3"]
    for pattern, what in (("(", "not a regular expression"), (r"g\d+", "does not match the video B/holiday")):
        with pytest.raises(UserError, match=f"--group_pattern .*{what}"):
            groups.find_groups(found, pattern=pattern)
    path = tmp_path / "groups.csv"
    path.write_text("video,group\nA/v_A_g01_c01,one\nv_A_g01_c02,two\nv_B_g01_c01,two\nholiday_3,one\n")
    assert list(groups.find_groups(found, table=path).values()) == ["one", "two", "two", "one"]
    with pytest.raises(UserError, match="no group for video other"):
        groups.find_groups([*found, ("B", "other")], table=path)


def test_names_that_look_cut_from_one_recording_are_shown_with_what_to_do_but_not_a_cameras():
    said = groups.look_alike([("A", "walk1"), ("A", "walk2"), ("A", "run1"), ("B", "walk3")])
    assert said.startswith("2 of 4 videos") and "walk1, walk2 of A" in said
    assert "--group_pattern" in said and "--groups" in said
    pattern = re.search(r"--group_pattern '(.*?)'", said)[1]
    assert set(groups.find_groups([("A", "walk1"), ("A", "walk2"), ("A", "run")], pattern).values()) == \
        {"walk", "run"}
    # a class of one such name would be one group, and could not be split: no pattern that makes it one
    said = groups.look_alike([("A", "walk1"), ("A", "walk2"), ("A", "run1"), ("B", "ski1"), ("B", "ski2")])
    assert said.startswith("2 of 5 videos") and "--group_pattern" not in said and "--groups" in said
    for names in (["v_A_g01_c01", "v_A_g01_c02"], ["jump_1", "jump_2", "jump_3"], ["1", "2"],
                  ["IMG_0001", "IMG_0002"], ["DSC00017", "DSC00018"], ["GX010041", "GX010042"],
                  ["VID_20240131_101112", "VID_20240131_1"], ["20240131_101112", "20240131_1"],
                  ["walk", "walk"], ["day1_IMG_0001", "day1_IMG_0002"]):
        assert groups.look_alike([("A", name) for name in names]) is None


def check_held_out(videos, share, seed):
    """No group on both sides; every class's count within half a group of `share` of it, unless one
    group alone is left for training; returns both sides."""
    kept, held = splits.hold_out(videos, share, seed)
    assert Counter(kept + held) == Counter(videos)
    assert not {v.group for v in kept} & {v.group for v in held}
    for cls in {v.cls for v in videos}:
        sizes = Counter(v.group for v in videos if v.cls == cls)
        count = sum(v.cls == cls for v in held)
        left = {v.group for v in kept if v.cls == cls}
        assert left, f"{cls} lost its last group"
        assert abs(count - share * sum(sizes.values())) <= max(sizes.values()) / 2 or len(left) == 1, \
            f"{cls}: {count} of {sum(sizes.values())} at {share}"
    return kept, held


CLASSES = st.dictionaries(st.text("ABCxyz", min_size=1, max_size=3),
                          st.lists(st.integers(1, 7), min_size=1, max_size=25), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(CLASSES, st.floats(0.01, 0.99), st.integers(0, 2**31), st.randoms())
def test_whole_groups_are_held_out_about_the_share_of_every_class(classes, share, seed, random):
    videos = [Video(cls, f"v_{cls}_g{g:02d}_c{c:02d}", f"{cls}/g{g:02d}")
              for cls, sizes in classes.items() for g, n in enumerate(sizes) for c in range(n)]
    _, held = check_held_out(videos, share, seed)
    random.shuffle(videos)
    assert set(splits.hold_out(videos, share, seed)[1]) == set(held), "the order of the videos matters"
    videos = [Video("A", f"{g}", f"A/{g}") for g in range(25)]
    assert len({frozenset(splits.hold_out(videos, 0.2, seed + k)[1]) for k in range(8)}) > 6


def test_no_group_crosses_the_parts_of_an_official_split(ucf101):
    train, test = split_lists.official_lists(ucf101 / "ucfTrainTestlist", 2)
    listed = {(row.cls, row.video) for row in train + test}
    assert len(listed) == len(train) + len(test) == 13320
    group = groups.find_groups(listed)
    train, test = ([Video(r.cls, r.video, group[r.key]) for r in rows] for rows in (train, test))
    assert not {v.group for v in train} & {v.group for v in test}
    for seed, share in ((42, 0.2), (7, 0.35)):
        kept, held = check_held_out(train, share, seed)
        assert len({v.cls for v in held}) == len({v.cls for v in kept}) == 101
        assert abs(len(held) / len(train) - share) < 0.01


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12), st.booleans()), min_size=6, max_size=60,
                unique_by=lambda t: t), st.integers(0, 50))
def test_a_data_set_that_grows_keeps_its_parts_and_no_group_crosses(drawn, seed):
    videos = [(Video(f"c{cls}", f"c{cls}_g{group}_{old}", f"g{group}"), old)
              for cls, group, old in drawn]
    before = [v for v, old in videos if old]
    kept, held = splits.hold_out(before, 0.3, seed)
    rows = [replace(v, part=part) for part, videos in (("train", kept), ("test", held)) for v in videos]
    known = {g: part == "test" for g, part in splits.known_parts(rows, before).items()}
    train, test = splits.hold_out([v for v, _ in videos], 0.3, seed + 1, known=known)
    assert set(held) <= set(test) and set(kept) <= set(train) and len(train) + len(test) == len(videos)
    assert not {v.group for v in train} & {v.group for v in test}


def test_a_smaller_data_set_is_a_tenth_of_every_class_and_four_videos_at_the_least():
    videos = [Video(cls, str(i), str(i)) for cls, n in (("A", 100), ("B", 12), ("C", 3)) for i in range(n)]
    assert splits.smaller(videos) == [*videos[:10], *videos[100:104], *videos[112:]]


def test_absolute_paths_and_names_from_a_mac_are_matched(tmp_path):
    mac = [unicodedata.normalize("NFD", word) for word in ("Übung", "é")]
    (tmp_path / "list.txt").write_bytes("/data/set/Übung/é.avi 1\nC:\\set\\Übung\\b.avi\n".encode("utf-16"))
    rows = split_lists.read_list(tmp_path / "list.txt")
    assert [(row.cls, row.video) for row in rows] == [("Übung", "é"), ("Übung", "b")]
    [found], said = split_lists.present(rows, [SampledVideo(mac[1], mac[0], "g", 5)], "training")
    assert found.name == mac[1] and said.startswith("1 of 2")
    (tmp_path / "groups.csv").write_bytes("video;group\nÜbung/é;one\n".encode("cp1252"))
    assert groups.find_groups([tuple(mac)], table=tmp_path / "groups.csv") == {tuple(mac): "one"}


def test_slowfasts_lists_of_paths_and_labels_are_split_1(tmp_path):
    (tmp_path / "train.csv").write_text("/data/Archery/v_Archery_g08_c01.avi 0\n/data/Surfing/a.mp4,1\n")
    (tmp_path / "val.csv").write_text("/data/ucf/Archery/v_Archery_g01_c01.avi 0\n")
    assert [*map(names, split_lists.official_lists(tmp_path, 1))] == [
        ["Archery/v_Archery_g08_c01", "Surfing/a"], ["Archery/v_Archery_g01_c01"]]
    (tmp_path / "test.csv").write_text("/data/ucf/Surfing/b.mp4 1\n")
    assert names(split_lists.official_lists(tmp_path, 1)[1]) == ["Surfing/b"], "the test goes before val"
    with pytest.raises(UserError, match="no trainlist02.txt"):
        split_lists.official_lists(tmp_path, 2)
