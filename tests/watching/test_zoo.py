"""Odd films are labelled whole: every picture at its time, the sound in step, playable in a browser."""
import shutil
from urllib.parse import quote

import av
import numpy as np
import pytest
from commands import run
from runs import last_line
from videos import served
from zoo import ZOO, beeping, beeps, make, numbers_and_times, times_of

from lrcn.video.reader import Video, probe
from lrcn.video.writer import Writer

# Every film of the zoo is read in tests/video/test_zoo.py; these differ in what a writer has to follow
WRITTEN = ("interlaced_h264", "hdr", "anamorphic", "variable_mkv", "edit_list", "shifted", "transport", "one",
           "odd", "fps_23")


def copy(source, target, seconds=None, sound=True):
    """What labelling does to a film, without labels: every frame at its time, the sound along."""
    with Video(source) as video:
        out = None
        while video.grab() and (seconds is None or video.time < seconds):
            frame = video.frame()
            high, wide = frame.shape[:2]
            frame = np.pad(frame, ((0, high % 2), (0, wide % 2), (0, 0)), "edge")
            out = out or Writer(target, video.info.fps, *frame.shape[1::-1], source if sound else None)
            out.write(frame, video.time)
        out.close()
    return target


@pytest.mark.parametrize("name", WRITTEN)
def test_a_copy_has_every_frame_at_its_time(name, tmp_path):
    path = copy(make(tmp_path, name), tmp_path / "labelled.mp4")
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
    heard, end = beeps(copy(source, tmp_path / "labelled.mp4"))
    np.testing.assert_allclose(heard, range(4), atol=0.04)
    assert end == pytest.approx(3.2, abs=0.06)


def test_sound_stays_in_step_at_a_variable_rate_and_ends_with_a_film_that_was_stopped(tmp_path):
    times = np.sort(np.random.default_rng(0).choice(320, 80, replace=False)) / 100
    times[0] = 0
    source = beeping(tmp_path / "film.mkv", count=80, times=list(times))
    np.testing.assert_allclose(beeps(copy(source, tmp_path / "whole.mp4"))[0], range(4), atol=0.04)
    heard, end = beeps(copy(source, tmp_path / "stopped.mp4", seconds=1.6))
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


def check_played(browser, films):
    """Every film, served from its own folder, gets going in the browser at its own width."""
    for film in films:
        with served(film.parent) as address:
            browser.get(address)
            error, time, width = browser.execute_async_script(PLAY, f"/{quote(film.name)}")
            assert not error and time > 0.2 and width == probe(film).width, (film, error, time, width)


def test_a_browser_plays_what_is_written(browser, tmp_path):
    sources = [make(tmp_path / name, name) for name in ("variable_mp4", "hdr", "anamorphic")]
    sources += [beeping(tmp_path / codec / f"{codec}{ending}", sound=codec, count=80)
                for codec, ending in SOUNDS]
    check_played(browser, [copy(source, tmp_path / f"{source.stem}.mp4") for source in sources])


def test_a_browser_plays_the_movie_of_a_study_and_the_videos_of_a_test(browser, trained, tmp_path):
    model = shutil.copytree(trained, tmp_path / "run")
    flags = ("--model_dir", model, "--num_workers", 0, "--device", "cpu", "--encoder_backend", "torch")
    study = last_line(run("test_continues_movie.py", *flags, "--num_movies", 2, "--movie_clips", 3,
                          "--pictures"))
    report = last_line(run("test.py", *flags, "--num_videos", 1))
    (video,) = (report / "videos").rglob("*.mp4")
    check_played(browser, [study / "movie.mp4", video])
