"""find_clips.py: films to candidates, to a data set; what stops it, and how it goes on."""
import itertools
import shutil
import signal

import pytest
from commands import call
from runs import half_files, last_line, one_line, refused, table
from videos import join, number_of, write_video

from lrcn.base.signals import handled
from lrcn.data.sampler import read_picture
from lrcn.video.reader import Video, probe, read_frames
from lrcn.video.writer import Writer
from lrcn.watching.recogniser import Recogniser

WINDOW = ("--clip_seconds", 1.6, "--min_probability", 0.2, "--encoder_backend", "torch")


@pytest.fixture(scope="module")
def films(demo, tmp_path_factory):
    """Three films of joined test clips of the demo, one in a folder of its own."""
    folder = tmp_path_factory.mktemp("films")
    clips = sorted((demo / "UCF-101").rglob("*_g0[12]_c01.avi"))
    for n, name in enumerate(("one.mp4", "two.mp4", "deep/one.mp4")):
        (folder / name).parent.mkdir(exist_ok=True)
        join(folder / name, clips[n::3])
    return folder


def find(model, films, out, **options):
    return call("find_clips.py", "--model_dir", model, "--video_path", films, "--output_dir", out, *WINDOW,
                **options)


def whole(out):
    """The candidates, and {path: bytes} of the clips."""
    return table(out / "candidates.csv"), {p.relative_to(out): p.read_bytes() for p in out.rglob("*.mp4")}


@pytest.fixture(scope="module")
def found(trained, films, tmp_path_factory):
    out = tmp_path_factory.mktemp("found") / "found"
    assert last_line(find(trained, films, out)) == out
    return out


def test_films_become_a_data_set_of_clips_in_a_table(found, films):
    rows = table(found / "candidates.csv")
    names = {"one.mp4": "one_mp4", "two.mp4": "two", "deep/one.mp4": "deep_one_mp4"}
    assert {row["film"] for row in rows} == names.keys()
    clips = set()
    for row in rows:
        start, end = float(row["start"]), float(row["end"])
        clip = found / row["class"] / f"{names[row['film']]}_{start:09.3f}-{end:09.3f}.mp4"
        clips.add(clip)
        assert end - start == pytest.approx(1.6, abs=0.002) and 0.2 <= float(row["probability"]) <= 1
        assert probe(clip).frames == 40
    assert clips == set(found.rglob("*.mp4"))
    films_table = {row["film"]: row for row in table(found / "films.csv")}
    assert {film: int(row["candidates"]) for film, row in films_table.items()} == {
        film: sum(row["film"] == film for row in rows) for film in names}
    assert (found / "candidates.png").stat().st_size > 5000 and not half_files(found)


def test_rows_that_a_person_deleted_are_taken_out_and_the_rest_is_not_written_again(found, films, tmp_path):
    out = tmp_path / "found"
    shutil.copytree(found, out)
    lines = (out / "candidates.csv").read_text().splitlines(keepends=True)
    (out / "candidates.csv").write_text("".join(lines[:1] + lines[3:]))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    said = call("find_clips.py", "--from", out / "candidates.csv", "--video_path", films, "--output_dir", out)
    assert "0 clips written, 2 files removed" in said.out
    left = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    assert len(left) == len(before) - 2 and left.items() <= before.items()
    (next(iter(left))).unlink()
    before = (out / "candidates.csv").read_text()
    words = ("find_clips.py", "--from", out / "candidates.csv", "--output_dir", out, "--video_path")
    assert "1 clips written" in call(*words, films).out
    call(*words, films / "two.mp4")
    assert set(out.rglob("*.mp4")) == set(left)     # what was cut out of other films is as it was
    assert sorted((out / "candidates.csv").read_text().splitlines()) == sorted(before.splitlines())


def test_ctrl_c_keeps_whole_clips_and_the_same_command_goes_on(trained, films, found, tmp_path, monkeypatch):
    out, write, left = tmp_path / "out", Writer.write, itertools.count(60, -1)

    def interrupted(*args):     # in the middle of the second clip
        if next(left) == 0:
            signal.raise_signal(signal.SIGINT)
        return write(*args)
    monkeypatch.setattr(Writer, "write", interrupted)
    with handled(signal.default_int_handler):
        one_line(find(trained, films, out, ok=False), "stopped", code=130)
    [clip] = out.rglob("*.mp4")
    assert len(Video(clip).times()) == probe(clip).frames == 40 and not half_files(out)
    result = find(trained, films, out)
    assert whole(out) == whole(found)
    assert f"{len(table(found / 'candidates.csv')) - 1} clips written" in result.out
    again = find(trained, films, out)
    assert "0 clips written" in again.out and "candidates (" not in again.out.split("candidates of")[0]


def test_films_that_cannot_be_read_are_listed_and_cost_nobody_else(trained, films, tmp_path):
    folder, out, two = tmp_path / "films", tmp_path / "out", (films / "two.mp4").read_bytes()
    folder.mkdir()
    for name, content in (("two", two), ("broken", b"no film"), ("cut", two[:len(two) // 3])):
        (folder / f"{name}.mp4").write_bytes(content)
    result = find(trained, folder, out, ok=False)
    assert result.code == 1 and "cannot read broken.mp4" in result.err
    assert "1 of 3 films could not be read" in result.err
    assert [bool(row["reason"]) for row in table(out / "films.csv")] == [True, False, False]
    assert {row["film"] for row in table(out / "candidates.csv")} == {"cut.mp4", "two.mp4"}


def test_a_table_of_times_is_cut_to_the_frame_without_a_model_kinetics_too(tmp_path):
    write_video(tmp_path / "films" / "x [-3B32lodo2M].mp4", 250)
    write_video(tmp_path / "films" / "holiday.mp4", 250)
    (tmp_path / "k.csv").write_text("label,youtube_id,time_start,time_end,split\n"
                                    "tying a knot,-3B32lodo2M,2,4,train\nabseiling,xxxxxxxxxxx,1,2,train\n"
                                   "tying a knot,-3B32lodo2M,6,8,validate\n")
    result = call("find_clips.py", "--from", tmp_path / "k.csv", "--video_path", tmp_path / "films",
                  "--output_dir", tmp_path / "k")
    assert "1 of the table are missing, such as xxxxxxxxxxx" in result.err
    assert table(tmp_path / "k" / "films.csv")[0]["reason"] == "not there"
    clip = tmp_path / "k" / "tying a knot" / "-3B32lodo2M_000002_000004.mp4"
    assert [number_of(f) for f in read_frames(clip, range(50))] == list(range(50, 100))
    assert probe(clip).frames == 50
    (tmp_path / "mine.csv").write_text("film,class,start,end\nholiday.mp4,Jump,1.2,2.4\nholiday,Run,5,6\n")
    call("find_clips.py", "--from", tmp_path / "mine.csv", "--video_path", tmp_path / "films", "--output_dir",
         tmp_path / "mine", "--classes", "Jump")
    assert [p.name for p in (tmp_path / "mine").rglob("*.mp4")] == ["holiday_00001.200-00002.400.mp4"]
    call("preprocessing_data.py", "--row_data_dir", tmp_path / "k", "--ucf_list_dir", tmp_path,
         "--sampled_data_dir", tmp_path / "sampled")
    assert [row["video"] for row in table(tmp_path / "sampled" / "manifest.csv")] == [
        "-3B32lodo2M_000002_000004", "-3B32lodo2M_000006_000008"]


def cut_out(tmp_path, row, *words):
    """Result of --from a table of one row over a film of 250 frames."""
    if not (tmp_path / "films").exists():
        write_video(tmp_path / "films" / "holiday.mp4", 250)
        (tmp_path / "t.csv").write_text(f"film,class,start,end\n{row}\n")
    return call("find_clips.py", "--from", tmp_path / "t.csv", "--video_path", tmp_path / "films",
                "--output_dir", tmp_path / "out", *words)


@pytest.mark.parametrize("flags, numbers", [
    ((), [30, 40, 50]), (("--every", 4), [30, 34, 38, 42, 46, 50, 54, 58]),
    (("--sampling_rate", 20), [30, 50])])
def test_frames_of_films_become_pictures_of_the_film_s_group(tmp_path, flags, numbers):
    words = "holiday.mp4,Jump,1.2,2.4", "--frames", *flags
    assert "1 candidates' frames written" in cut_out(tmp_path, *words).out
    pictures = sorted((tmp_path / "out" / "Jump").glob("*.jpg"))
    assert [number_of(read_picture(p)) for p in pictures] == numbers
    assert pictures[0].name == "holiday_00001.200.jpg"
    assert "0 candidates' frames written" in cut_out(tmp_path, *words).out


def test_copies_begin_at_key_frames_and_it_says_so(tmp_path):
    result = cut_out(tmp_path, "holiday.mp4,Jump,3.2,5", "--copy")
    [clip] = (tmp_path / "out").rglob("*.mp4")
    first = number_of(read_frames(clip, [0])[0])
    assert first <= 80 and f"copies begin up to {3.2 - first / 25:.2f} s early" in result.out


def test_wrong_words_are_one_line(trained, films, found, tmp_path, monkeypatch):
    monkeypatch.setattr(Recogniser, "of_run", None)     # said before an engine is built
    model, rows = ("--model_dir", trained), found / "candidates.csv"
    absent, hostile = tmp_path / "absent.csv", tmp_path / "hostile.csv"
    absent.write_text("film,class,start,end\nnothing.mp4,Jump,1,2\n")
    hostile.write_text("film,class,start,end\ntwo.mp4,candidates.csv,1,2\n")
    for words, says in (
            ((), "--model_dir is missing"),
            ((*model, "--video_path", tmp_path / "no"), ("--video_path", "does not exist")),
            ((*model, "--video_path", tmp_path), ("--video_path", "no video in this folder")),
            ((*model, "--every", 2), ("--every 2", "--sampling_rate")),
            ((*model, "--classes", "Fly"), ("--classes Fly", "there are")),
            ((*model, "--output_dir", found, "--clip_seconds", 9), "made with clip_seconds 1.6, not 9"),
            ((*model, "--output_dir", trained), ("--output_dir", "holds other files")),
            (("--from", films / "two.mp4", "--output_dir", tmp_path / "x"), "--from"),
            (("--from", rows), "--output_dir is missing"),
            (("--from", rows, "--output_dir", films / "x"), ("--output_dir", "folder of the films")),
            (("--from", absent, "--output_dir", tmp_path / "y"), ("--from", "none of its 1 films")),
            (("--from", hostile, "--output_dir", tmp_path / "z"), ("line 2", "no class can be called"))):
        refused("find_clips.py", "--video_path", films, *words, says=says)
    assert not (tmp_path / "z").exists()
