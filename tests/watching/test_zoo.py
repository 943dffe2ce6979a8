"""Odd films are labelled whole: every picture at its time, the sound in step, playable in a browser."""
from urllib.parse import quote

import av
import numpy as np
import pytest
from videos import served
from zoo import ZOO, beeping, beeps, make, numbers_and_times, times_of, written_again

from lrcn.video.reader import probe

# Every film of the zoo is read in tests/video/test_zoo.py; these differ in what a writer has to follow
WRITTEN = ("hdr", "anamorphic", "variable_mkv", "edit_list", "transport", "one", "odd", "fps_23")


@pytest.mark.parametrize("name", WRITTEN)
def test_a_film_written_again_has_every_frame_at_its_time(name, tmp_path):
    path = written_again(make(tmp_path, name), tmp_path / "labelled.mp4")
    numbers, seconds = numbers_and_times(path)
    assert list(numbers) == list(range(len(times_of(name))))
    np.testing.assert_allclose(seconds, times_of(name), atol=4e-3)
    with av.open(str(path)) as film:
        assert not film.streams.video[0].sample_aspect_ratio or film.streams.video[0].sample_aspect_ratio == 1
        length = float(film.streams.video[0].duration * film.streams.video[0].time_base)
    assert length == pytest.approx(times_of(name)[-1] + 1 / float(ZOO[name][1].get("fps", 25)), abs=0.04)


SOUNDS = [("aac", ".mp4"), ("libmp3lame", ".mp4"), ("pcm_s16le", ".mkv"), ("flac", ".mkv"),
          ("libopus", ".mkv"), ("ac3", ".mkv")]


@pytest.mark.parametrize("codec, ending, shift", [*((*one, 0) for one in SOUNDS), ("aac", ".mp4", 1.5),
                                                  ("flac", ".mkv", 1.5)])
def test_sound_stays_in_step(codec, ending, shift, tmp_path):
    source = beeping(tmp_path / f"film{ending}", sound=codec, count=80, shift=shift)
    heard, end = beeps(written_again(source, tmp_path / "labelled.mp4"))
    np.testing.assert_allclose(heard, range(4), atol=0.04)
    assert end == pytest.approx(3.2, abs=0.06)


def test_sound_stays_in_step_at_a_variable_rate_and_ends_with_a_film_that_was_stopped(tmp_path):
    times = np.sort(np.random.default_rng(0).choice(320, 80, replace=False)) / 100
    times[0] = 0
    source = beeping(tmp_path / "film.mkv", count=80, times=list(times))
    np.testing.assert_allclose(beeps(written_again(source, tmp_path / "whole.mp4"))[0], range(4), atol=0.04)
    heard, end = beeps(written_again(source, tmp_path / "stopped.mp4", until=1.6))
    np.testing.assert_allclose(heard, range(2), atol=0.04)
    assert end == pytest.approx(1.6, abs=0.1)


PLAY = """
const done = arguments[arguments.length - 1], film = document.createElement("video");
const say = () => done([film.error && film.error.message, film.currentTime, film.videoWidth]);
film.onerror = say;
film.ontimeupdate = () => film.currentTime > 0.2 && say();
film.src = arguments[0];
document.body.append(film);
film.play().catch(say);
"""


def test_a_browser_plays_what_is_written(browser, tmp_path):
    sources = [make(tmp_path / name, name) for name in ("variable_mp4", "hdr", "anamorphic")]
    sources += [beeping(tmp_path / codec / f"{codec}{ending}", sound=codec, count=80)
                for codec, ending in SOUNDS[:3]]
    films = [written_again(source, tmp_path / f"{source.stem}.mp4") for source in sources]
    with served(tmp_path) as address:
        browser.get(address)
        for film in films:
            error, time, width = browser.execute_async_script(PLAY, f"/{quote(film.name)}")
            assert not error and time > 0.2 and width == probe(film).width, (film, error, time, width)
