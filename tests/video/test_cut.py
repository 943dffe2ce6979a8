"""A stretch that is cut out of a film holds the frames that it says, and the sound of their time."""
import numpy as np
import pytest
from zoo import beeping, beeps, numbers_and_times

from lrcn.video.cut import copy, cut
from lrcn.video.reader import VideoError


def variable(count):
    """Frame times of a film whose rate goes from 30 to 10 a second and back."""
    return np.concatenate([[0], np.cumsum(np.tile([1 / 30] * 20 + [1 / 10] * 8, count)[:count - 1])])


def in_step(found, start, seconds):
    """Every beep of the stretch is heard within 40 ms of its time in the film."""
    due = np.arange(np.ceil(start + 0.02), start + seconds - 0.02) - start
    assert len(due) and all(np.abs(found - moment).min() < 0.04 for moment in due), (found, due)


TIMES = {"25": np.arange(300) / 25, "29.97": np.arange(300) * 1001 / 30_000, "variable": variable(300)}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return {name: beeping(folder / f"{name}.mp4", count=len(times), times=times, g="25",
                          fps=round((len(times) - 1) / times[-1])) for name, times in TIMES.items()}


@pytest.mark.parametrize("rate", TIMES)
@pytest.mark.parametrize("first, last", [(0, 60), (133, 201), (217, 290)])
def test_a_cut_begins_and_ends_at_its_frames_with_the_sound_in_step(films, tmp_path, rate, first, last):
    times, clip = TIMES[rate], tmp_path / "clip.mp4"
    start, end = (round(float(times[n]), 3) for n in (first, last))
    *_, count = cut(films[rate], clip, start, end)
    numbers, shown = numbers_and_times(clip)
    assert list(numbers) == list(range(first, last)) and count == last - first
    np.testing.assert_allclose(shown, times[first:last] - times[first], atol=0.002)
    heard, until = beeps(clip)
    in_step(heard, times[first], times[last] - times[first])
    assert until == pytest.approx(end - start, abs=0.04)


@pytest.mark.parametrize("name, sound", [("film.avi", "pcm_s16le"), ("film.mkv", "aac"), ("film.ts", "mp2")])
def test_other_containers_are_cut_to_the_frame_too(tmp_path, name, sound):
    film = beeping(tmp_path / name, "mpeg4" if name == "film.avi" else "libx264", sound, 300, g="25")
    list(cut(film, tmp_path / "clip.mp4", 7.0, 9.0))
    assert list(numbers_and_times(tmp_path / "clip.mp4")[0]) == list(range(175, 225))
    in_step(beeps(tmp_path / "clip.mp4")[0], 7.0, 2.0)


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts"])
def test_a_copy_begins_at_a_key_frame_and_says_where(tmp_path, name):
    film = beeping(tmp_path / name, sound="aac" if name != "film.ts" else "mp2", count=300, g="50")
    start, end = copy(film, tmp_path / "clip.mp4", 5.0, 8.0)
    assert start == pytest.approx(4.0, abs=0.001) and end == pytest.approx(8.0, abs=0.13)
    numbers = list(numbers_and_times(tmp_path / "clip.mp4")[0])
    assert numbers[:100] == list(range(100, 200)) and len(numbers) == pytest.approx((end - start) * 25, abs=3)
    in_step(beeps(tmp_path / "clip.mp4")[0], 4.0, 4.0)


def test_what_cannot_be_cut_is_said_and_leaves_nothing(films, tmp_path):
    target = tmp_path / "clip.mp4"
    with pytest.raises(VideoError, match="no frame from 60"):
        list(cut(films["25"], target, 60, 65))
    steps = cut(films["25"], target, 1, 5)      # a reader who goes away
    next(steps)
    steps.close()
    assert list(tmp_path.iterdir()) == []
