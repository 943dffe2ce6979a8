"""A stretch that is cut out of a film holds the frames that it says, and the sound of their time."""
import av
import numpy as np
import pytest
from zoo import encode, numbers_and_times

from lrcn.video.cut import copy, cut
from lrcn.video.reader import VideoError

BEEP, RATE = 0.5, 48_000        # seconds from beep to beep, each of 0.1 s


def variable(count):
    """Frame times of a film whose rate goes from 30 to 10 a second and back."""
    return np.concatenate([[0], np.cumsum(np.tile([1 / 30] * 20 + [1 / 10] * 8, count)[:count - 1])])


def film_with_beeps(path, times, sound="aac", gop=25):
    """Numbered frames shown at `times`; it beeps at every half second."""
    seconds = np.arange(round((times[-1] + 0.2) * RATE)) / RATE
    wave = np.where(seconds % BEEP < 0.1, 0.5 * np.sin(2 * np.pi * 880 * seconds), 0).astype(np.float32)
    avi = path.suffix == ".avi"
    encode(path, "mpeg4" if avi else "libx264", len(times), fps=round((len(times) - 1) / times[-1]),
           times=None if avi else times, sound=(sound, RATE, wave), g=str(gop))
    return path


def heard(path):
    """(samples (N,), seconds of the first) of a file's sound."""
    with av.open(str(path)) as file:
        frames = list(file.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray().mean(0) for frame in frames])
    return samples, float(frames[0].pts * frames[0].time_base)


def beeps(path):
    """Seconds at which it begins to beep, but for one that the cut goes through."""
    samples, begin = heard(path)
    loud = np.abs(samples) > 0.1
    loud = np.convolve(loud, np.ones(480), "full")[:len(loud)] > 0      # no gap within a wave
    starts = np.flatnonzero(loud[1:] & ~loud[:-1]) + 1
    return starts / RATE + begin


def in_step(found, start, seconds):
    """Every beep of the stretch is heard within 40 ms of its time in the film."""
    due = np.arange(np.ceil((start + 0.02) / BEEP), (start + seconds - 0.02) / BEEP) * BEEP - start
    assert len(due) and all(np.abs(found - moment).min() < 0.04 for moment in due), (found, due)


TIMES = {"25": np.arange(500) / 25, "29.97": np.arange(600) * 1001 / 30_000, "variable": variable(400)}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return {name: film_with_beeps(folder / f"{name}.mp4", times) for name, times in TIMES.items()}


@pytest.mark.parametrize("rate", TIMES)
@pytest.mark.parametrize("first, last", [(0, 100), (133, 201), (257, 399)])
def test_a_cut_begins_and_ends_at_its_frames_with_the_sound_in_step(films, tmp_path, rate, first, last):
    times, clip = TIMES[rate], tmp_path / "clip.mp4"
    start, end = (round(float(times[n]), 3) for n in (first, last))
    *_, count = cut(films[rate], clip, start, end)
    numbers, shown = numbers_and_times(clip)
    assert list(numbers) == list(range(first, last)) and count == last - first
    np.testing.assert_allclose(shown, times[first:last] - times[first], atol=0.002)
    in_step(beeps(clip), times[first], times[last] - times[first])
    samples, begin = heard(clip)
    assert begin + len(samples) / RATE == pytest.approx(end - start, abs=0.04)


@pytest.mark.parametrize("name, sound", [("film.avi", "pcm_s16le"), ("film.mkv", "aac"), ("film.ts", "mp2")])
def test_other_containers_are_cut_to_the_frame_too(tmp_path, name, sound):
    times = TIMES["25"][:300]
    film = film_with_beeps(tmp_path / name, times, sound)
    list(cut(film, tmp_path / "clip.mp4", 7.0, 9.0))
    assert list(numbers_and_times(tmp_path / "clip.mp4")[0]) == list(range(175, 225))
    in_step(beeps(tmp_path / "clip.mp4"), 7.0, 2.0)


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts"])
def test_a_copy_begins_at_a_key_frame_and_says_where(tmp_path, name):
    film = film_with_beeps(tmp_path / name, TIMES["25"][:300], "aac" if name != "film.ts" else "mp2", gop=50)
    start, end = copy(film, tmp_path / "clip.mp4", 5.0, 8.0)
    assert start == pytest.approx(4.0, abs=0.001) and end == pytest.approx(8.0, abs=0.13)
    numbers = list(numbers_and_times(tmp_path / "clip.mp4")[0])
    assert numbers[:100] == list(range(100, 200)) and len(numbers) == pytest.approx((end - start) * 25, abs=3)
    in_step(beeps(tmp_path / "clip.mp4"), 4.0, 4.0)


def test_what_cannot_be_cut_is_said_and_leaves_nothing(films, tmp_path):
    target = tmp_path / "clip.mp4"
    with pytest.raises(VideoError, match="no frame from 60"):
        list(cut(films["25"], target, 60, 65))
    steps = cut(films["25"], target, 1, 5)      # a reader who goes away
    next(steps)
    steps.close()
    assert list(tmp_path.iterdir()) == []
