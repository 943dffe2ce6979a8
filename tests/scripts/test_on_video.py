"""test_on_video.py: files, folders, streams; what it writes, and that it encodes every frame once."""
import errno
import itertools
import os
import re
import shutil
import signal
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, patch

import cv2
import numpy as np
import pytest
import torch
from commands import call
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from runs import last_line, load, read_json, refused, report_of, table
from videos import join, numbered, served, write_video

import test_on_video
from lrcn.base.cli import UserError
from lrcn.base.signals import Stop, handled
from lrcn.video.reader import Video, VideoError, probe, read_frames
from lrcn.video.sampling import Rate
from lrcn.video.writer import Writer, write_clip
from lrcn.watching import films, live
from lrcn.watching import history as joining
from lrcn.watching.history import History, find_segments


def label(model, source, *flags, **options):
    return call("test_on_video.py", "--model_dir", model, "--video_path", source, *flags, **options)


def check_outputs(folder, source, width=None, height=None):
    """The tables agree with each other and with the source, and the film has its frames."""
    info = probe(source)
    windows, segments = table(folder / "predictions.csv"), table(folder / "segments.csv")
    starts = [float(row["start"]) for row in windows]
    assert starts == sorted(starts) and starts[0] == 0
    for row in windows:
        shares = [float(value) for column, value in row.items() if column.startswith("probability_")]
        assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1.01
    edges = [(float(row["start"]), float(row["end"])) for row in segments]
    assert edges[0][0] == 0 and all(a[1] == b[0] for a, b in zip(edges, edges[1:], strict=False))
    assert edges[-1][1] == pytest.approx(info.frames / info.fps, abs=0.01)
    drawn = probe(folder / "labelled.mp4")
    assert drawn.frames == len(Video(folder / "labelled.mp4").times()) == info.frames
    assert drawn.fps == pytest.approx(info.fps, abs=0.001)
    assert (drawn.width, drawn.height) == (width or info.width, height or info.height)
    assert (folder / "timeline.png").stat().st_size > 1000
    return windows, segments


def test_a_file_becomes_tables_a_picture_and_a_film_of_its_own_size_rate_and_length(trained, tmp_path):
    model = shutil.copytree(trained, tmp_path / "model")
    source, folder = tmp_path / "clip one.mp4", model / "test_on_video" / "clip one"
    write_video(source, [np.full((240, 320, 3), 80 + i, np.uint8) for i in range(120)], 30000 / 1001)
    result = label(model, source, "--gif")
    windows, _ = check_outputs(folder, source)
    # 120 frames, every twelfth is sampled: 10 frames, 6 windows of five
    assert "10 frames encoded, 6 windows" in result.out and len(windows) == 6
    starts = [float(window["start"]) for window in windows]
    assert starts == pytest.approx([i * 12 / 29.97 for i in range(6)], abs=2e-3)
    assert float(windows[0]["end"]) == pytest.approx(48 / 29.97, abs=2e-3)
    gif = Image.open(folder / "labelled.gif")
    assert (gif.n_frames, gif.size, gif.info["duration"]) == (40, (320, 240), 100)
    # The labels cover the upper left corner, the timeline the lowest lines.
    before, after = (read_frames(p, [100])[0].astype(int) for p in (source, folder / "labelled.mp4"))
    difference = abs(before - after).mean(-1)
    assert difference[:60, :200].mean() > 40 and difference[-5:].mean() > 40
    assert difference[100:200].mean() < 8
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert last_line(label(model, source, "--no-video", "--min_probability", 1)) == folder
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != before.pop(path.name)}
    assert not before and "timeline.png" in changed <= {"segments.csv", "segments.srt", "timeline.png"}
    (segment,) = table(folder / "segments.csv")
    assert segment["label"] == "unsure" and float(segment["probability"]) < 1


def test_the_background_is_nothing_in_films_no_candidate_and_counted_apart(trained, demo, tmp_path):
    model, source = shutil.copytree(trained, tmp_path / "model"), tmp_path / "film.mp4"
    join(source, sorted((demo / "UCF-101").rglob("*_g01_c01.avi"))[:3])
    before = table(last_line(label(model, source, "--no-video", "--min_probability", 0)) / "segments.csv")
    background = before[0]["label"]
    state = load(model, "best")
    state["settings"]["background"] = background
    torch.save(state, model / "Saved_model_checkpoint" / "best.pth.tar")
    result = label(model, source, "--no-video", "--min_probability", 0)
    assert table(last_line(result) / "segments.csv") == [
        {**row, "label": "none" if row["label"] == background else row["label"]} for row in before]
    assert (last_line(result) / "segments.srt").read_text().count("none ") == sum(
        row["label"] == background for row in before)
    find = ("find_clips.py", "--model_dir", model, "--video_path", source, "--min_probability", 0,
            "--clip_seconds", 1, "--output_dir", tmp_path / "found")
    refused(*find, "--classes", background, says=(f"--classes {background}", "--background"))
    found = {row["class"] for row in table(last_line(call(*find)) / "candidates.csv")}
    assert found and background not in found
    figures = read_json(report_of(model) / "metrics.json")["background"]
    assert (figures["class"], figures["classes_videos"]) == (background, 35)


def test_a_folder_of_odd_and_broken_files_is_done_as_far_as_it_can_be(trained, tmp_path):
    folder, out = tmp_path / "films", tmp_path / "out"
    write_video(folder / "phone.mp4", 240, 60, 90, 160)
    (folder / "deeper").mkdir(parents=True)
    write_clip(folder / "deeper" / "odd.avi", [numbered(i, 65, 49) for i in range(38)], 12.5)
    shutil.copy(write_video(folder / "short.avi", 20), os.fsencode(folder) + b"/\xff\xfe.avi")
    write_video(folder / "same.avi", 50)
    write_video(folder / "same.mp4", 20, 10)
    (folder / "broken.mp4").write_bytes(b"no film")
    (folder / "notes.txt").write_text("no film either")
    result = label(trained, folder, "--output_dir", out, ok=False)
    assert result.code == 1 and last_line(result) == out
    assert "broken.mp4: no video" in result.err and "Traceback" not in result.err
    assert "1 of 7 videos could not be read" in result.err
    films = {"phone": ("phone.mp4", 6), "odd": ("deeper/odd.avi", 4, 66, 50), "short": ("short.avi", 1),
             "same_avi": ("same.avi", 1), "same_mp4": ("same.mp4", 1)}
    assert {os.fsencode(path.name) for path in out.iterdir()} == {
        *map(str.encode, films), b"\xff\xfe", b"summary.csv"}
    for name, (source, count, *size) in films.items():
        assert len(check_outputs(out / name, folder / source, *size)[0]) == count
    # As in training, a short video is seen with a smaller stride.
    window = table(out / "short" / "predictions.csv")[0]
    assert float(window["end"]) == pytest.approx(4 * 4 / 25)


@pytest.mark.parametrize("source, message", [
    ("{}/absent.mp4", "this file does not exist"), ("{}", "no video in this folder"),
    ("{}/text.txt", "cannot read this video"), ("97", "no such camera"),
    ("http://me:secret@127.0.0.1:9/x.mp4", "http://127.0.0.1:9/x.mp4: the stream cannot"),
    ("https://m.youtube.com/watch?v=x", "a page, not of a stream"),
    ("https://vimeo.com/1", "a page, not of a stream")])
def test_what_cannot_be_labelled_is_one_line(trained, tmp_path, source, message):
    (tmp_path / "text.txt").write_text("words")
    said = refused("test_on_video.py", "--model_dir", trained, "--video_path", source.format(tmp_path),
                   "--output_dir", tmp_path / "out", says=message)
    assert "secret" not in said


def test_the_source_is_never_overwritten(trained, tmp_path):
    source = write_video(tmp_path / "labelled" / "labelled.mp4", 50)
    before = source.read_bytes()
    refused("test_on_video.py", "--model_dir", trained, "--video_path", source, "--output_dir", tmp_path,
            says="would be overwritten")
    assert source.read_bytes() == before


def test_ctrl_c_keeps_a_film_and_tables_and_memory_does_not_grow(trained, tmp_path, monkeypatch):
    source, folder = write_video(tmp_path / "film.avi", 220, 2.5, 320, 240), tmp_path / "out" / "film"
    write, used = Writer.write, []

    def counted(*args):     # every frame of 2.5 a second is sampled: 23 MB if they were all kept
        used.append(tracemalloc.get_traced_memory()[0])
        if len(used) == 150:
            signal.raise_signal(signal.SIGINT)
        return write(*args)
    monkeypatch.setattr(Writer, "write", counted)
    tracemalloc.start()
    with handled(signal.default_int_handler):
        result = label(trained, source, "--output_dir", tmp_path / "out", ok=False)
    tracemalloc.stop()
    assert max(used[-50:]) - max(used[:50]) < 10e6
    assert result.code == 130 and last_line(result) == folder
    assert "Traceback" not in result.err and "of film are in" in result.err
    assert probe(folder / "labelled.mp4").frames == len(Video(folder / "labelled.mp4").times()) == 150
    windows, segments = table(folder / "predictions.csv"), table(folder / "segments.csv")
    assert 130 < len(windows) < 216
    assert float(segments[-1]["end"]) == float(windows[-1]["end"])
    assert not list(folder.glob(".*"))


def test_a_stream_is_recorded_and_classified_as_it_plays_and_a_short_one_leaves_nothing(trained, tmp_path):
    write_video(tmp_path / "stream.avi", 65)
    write_video(tmp_path / "short.avi", 25)
    with served(tmp_path) as address:
        result = label(trained, f"{address}/stream.avi", "--no-display", "--output_dir", tmp_path / "out")
        refused("test_on_video.py", "--model_dir", trained, "--video_path", f"{address}/short.avi",
                "--no-display", "--output_dir", tmp_path / "none", says="before a window of 5 was full")
    assert not [p for p in (tmp_path / "none").rglob("*") if p.is_file()]
    out = last_line(result)
    assert re.fullmatch(r"127_0_0_1_stream_avi_\d{8}-\d{6}", out.name)
    assert re.search(r"frames a second shown, \d+ classified, \d+ skipped, mean delay [\d.]+ s", result.out)
    film_info = probe(out / "labelled.mp4")
    assert film_info.fps == 25 and 55 <= film_info.frames <= 66
    windows = table(out / "predictions.csv")
    assert 1 <= len(windows) <= 3 and table(out / "segments.csv")


class Stream:
    """What a server sends: frames with these time stamps in seconds, then nothing more."""

    def __init__(self, stamps=(), codec="H264"):
        self.count, self.stamps, self.codec = 0, stamps, cv2.VideoWriter.fourcc(*codec)

    def get(self, what):
        return {cv2.CAP_PROP_FPS: 25, cv2.CAP_PROP_FRAME_COUNT: 0, cv2.CAP_PROP_FOURCC: self.codec,
                cv2.CAP_PROP_POS_MSEC: 1000 * self.stamps[self.count - 1] if self.count else 0}[what]

    def grab(self):
        self.count += 1
        return self.count <= len(self.stamps)

    def retrieve(self):
        return True, np.full((8, 8, 3), self.count, np.uint8)

    def release(self):
        pass


def frames(count, fps):
    return (live.Frame(i, i / fps, 0.0, np.full((2, 2, 3), i, np.uint8)) for i in range(count))


def test_a_slow_network_skips_sampled_frames_and_is_never_late(monkeypatch):
    monkeypatch.setattr(live, "open_live", lambda _: Stream())
    source, history, coming, seen = live.Source("0", Rate(100, 2)), History(3), frames(100, 100), []

    def answers(crops):     # takes as long as ten frames of the source
        seen.append(int(crops[0][0, 0, 0]))
        for frame in itertools.islice(coming, 10):
            source.take(frame)
        return np.full((int(len(seen) >= 3), 1, 2), 0.5, np.float32)
    slow = SimpleNamespace(flow=None, restart=lambda: None, crop=lambda frame, flow: frame,
                           moment=lambda crops: crops[0], answers=answers)
    source.take(next(coming))
    source.end()
    classifier = live.Classifier(slow, history, source)
    classifier.loop()
    # What it takes next is the newest sampled frame, not the next one in a queue.
    assert seen == [*range(0, 100, 10), 98] and source.newest.index == 99
    assert (source.sampled, classifier.skipped, classifier.known, len(history.windows)) == (50, 39, 9, 9)


def test_a_camera_s_chunks_are_of_neighbouring_frames_whatever_is_skipped(monkeypatch):
    """They are held in the size that the network sees."""
    monkeypatch.setattr(live, "open_live", lambda _: Stream())
    sees = SimpleNamespace(chunk=(4, 3), flow=None, crop=lambda image: [int(image[0, 0, 0])])
    source, due = live.Source("0", Rate(25, 2), sees), []
    for frame in frames(20, 25):
        source.take(frame)
        due += [source.due] if source.due else []
        source.due = None
    assert [[frame.crop[0] for frame in moment] for moment in due] == [[0, 2, 4, 6], [6, 8, 10, 12],
                                                                      [12, 14, 16, 18]]
    assert source.sampled == 3 and not any(frame.image is not None for moment in due for frame in moment)


def streamed(monkeypatch, address, *captures):
    """(seconds of the frames that a Source gave, how long it slept in all, its seconds of waiting)."""
    coming, slept, waits = iter(captures), [], []

    def opened(_):
        found = next(coming)
        if found is None:
            raise VideoError("the stream cannot be opened")
        return found
    monkeypatch.setattr(live, "open_live", opened)
    monkeypatch.setattr(live.time, "sleep", slept.append)
    monkeypatch.setattr(live.time, "monotonic", lambda: sum(slept))
    source, seconds = live.Source(address, Rate()), []
    monkeypatch.setattr(source.changed, "wait_for", lambda _, wait: bool(waits.append(wait)))
    monkeypatch.setattr(source, "take", lambda frame: seconds.append(frame.seconds))
    source.loop()
    return seconds, sum(slept), waits


@pytest.mark.parametrize("stamps", [np.arange(50) / 25, 7 + np.arange(50) / 25, np.zeros(50),
                                    np.tile(np.arange(25) / 25, 2),
                                    np.arange(50) / 25 + 3600 * (np.arange(50) > 24)])
def test_a_film_at_an_address_that_tells_no_length_is_played_by_its_time_stamps(monkeypatch, stamps):
    seconds, slept, waits = streamed(monkeypatch, "http://a/whole.ts", Stream(stamps), Stream(stamps))
    assert seconds == pytest.approx(np.arange(50) / 25) and slept == pytest.approx(49 / 25)
    assert waits == [1]     # then it begins anew


def test_a_camera_s_stream_that_drops_is_opened_again_a_few_times(monkeypatch, capsys):
    stamps = np.arange(10) / 25
    for address, codec in (("rtsp://cam/a", "H264"), ("http://cam/video", "MJPG")):
        seconds, slept, waits = streamed(monkeypatch, address, Stream(stamps, codec=codec), None,
                                         Stream(stamps, codec=codec), None, Stream([]), None)
        assert len(seconds) == 20 and slept == 0 and waits == [1, 2, 1, 2, 4]
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 6 and "the stream dropped" in said[0] and "did not come back" in said[-1]


def test_one_film_s_fault_costs_that_film_alone(monkeypatch, tmp_path):
    faults = {"a": OSError(errno.EACCES, "Permission denied"), "b": VideoError("broken"), "d": UserError("x")}

    def labelled(labeller, path, name, *_):
        if name in faults:
            raise faults[name]
        return films.Done(f"{name} is done", [(0, 1, "A", 0.5)], 1.0, [0.0])
    monkeypatch.setattr(films.Labeller, "film", labelled)

    def label_all(names):
        labeller = films.Labeller(SimpleNamespace(known=["A"]), None, Stop())
        return test_on_video.label_films({name: tmp_path / name for name in names}, tmp_path, labeller, {})
    assert label_all("abcde") == (tmp_path, 3)
    assert [Path(row["file"]).name for row in table(tmp_path / "summary.csv")] == ["c", "e"]
    for name in "abd":
        with pytest.raises(UserError):
            label_all(name)
    faults["a"] = OSError(errno.ENOSPC, "No space left")
    with pytest.raises(OSError, match="No space"):
        label_all("ab")


def test_escape_or_q_ends_the_window_and_no_display_is_seen(monkeypatch):
    monkeypatch.setattr(live, "cv2", MagicMock(**{
        "waitKey.side_effect": [255, ord("x"), 27, ord("q")], "getWindowProperty.return_value": 1.0}))
    closed = []
    for window in (live.Window(), live.Window()):
        while not window.closed:
            window.show(np.zeros((4, 4, 3), np.uint8))
            closed.append(window.closed)
    assert closed == [False, False, True, True]
    monkeypatch.setattr(live.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not live.has_display()


def test_a_live_recording_has_a_name_without_a_password():
    for source, name in (("rtsp://me:secret@cam.local:554/a/b?token=x", "cam_local_a_b"), ("0", "camera_0")):
        assert re.fullmatch(name + r"_\d{8}-\d{6}", test_on_video.live_name(source))


def test_a_moment_is_the_mean_of_the_windows_that_contain_it():
    history = History(3, times=[0, 1, 2, 3, 4], spans=[(t, t) for t in range(5)])
    history.add(np.array([[[0.9]], [[0.3]], [[0.6]]], np.float32))
    assert history.smoothed()[:, 0] == pytest.approx([0.9, 0.6, 0.6, 0.45, 0.6], abs=1e-3)
    assert [history.at(f)[0] for f in range(5)] == pytest.approx(history.smoothed()[:, 0])
    cut = history.cut(2)
    assert (cut.times, len(cut.windows), cut.end) == ([0, 1, 2, 3], 2, 3)


def test_short_runs_join_the_more_probable_neighbour():
    shares = np.array([[.9, .1, 0]] * 5 + [[.3, .1, .6]] + [[.1, .9, 0]] * 4 + [[.3, .3, .3]] * 4)
    segments = find_segments(list(range(14)), 14, shares, 0.4, least=3)
    assert [(a, b, c) for a, b, c, _ in segments] == [(0, 5.5, 0), (5.5, 9.5, 1), (9.5, 14, -1)]
    assert [p for *_, p in segments] == pytest.approx([0.8, 0.9, 0.3])
    assert len(find_segments(list(range(14)), 14, shares, 0.4, least=1)) == 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=40),
       st.floats(0, 1), st.integers(1, 6) | st.sampled_from([2.5, 1e12, 1e300 * 1e12]))
def test_segments_cover_the_video_and_are_long_enough(shares, limit, least):
    frames = len(shares)
    with patch.object(joining, "_join", wraps=joining._join) as join:
        segments = find_segments(list(range(frames)), frames, np.array(shares, np.float32), limit, least)
    assert join.call_count < frames
    assert segments[0][0] == 0 and segments[-1][1] == frames
    for before, after in zip(segments, segments[1:], strict=False):
        assert before[1] == after[0] and before[2] != after[2]
    if len(segments) > 1:   # an end lies half a frame off the middle of the last sampled one
        assert all(b - a >= least - 0.5 for a, b, *_ in segments)
