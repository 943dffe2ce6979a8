"""Odd films come in right: the frames nearest to each 0.4 s, no black ones, and the pixels of FFmpeg's."""
import shutil
import subprocess

import numpy as np
import pytest
from videos import number_of
from zoo import ZOO, make, numbers_and_times, times_of

from lrcn.video.flow import sample_video
from lrcn.video.reader import Video, read_frames
from lrcn.video.sampling import Rate, read_clip


@pytest.fixture(scope="module", params=ZOO)
def film(request, tmp_path_factory):
    name = request.param
    return name, make(tmp_path_factory.mktemp("zoo"), name)


def test_every_frame_comes_once_at_its_time_and_the_sampled_ones_are_the_nearest_to_each_step(film):
    name, path = film
    times, half = times_of(name), 0.5 / float(ZOO[name][1].get("fps", 25))
    numbers, seconds = numbers_and_times(path)
    assert list(numbers) == list(range(len(times)))
    np.testing.assert_allclose(seconds, times, atol=2e-3)
    with Video(path) as video:
        seen = [(number_of(frame), seconds) for _, seconds, frame, _ in sample_video(video, Rate())]
    for k, (number, seconds) in enumerate(seen):
        assert seconds == pytest.approx(times[number], abs=2e-3)
        if "variable" not in name:
            assert abs(seconds - 0.4 * k) <= half + 1e-3
    longest = 2.5 if "variable" in name else 0.4 + 2 * half + 1e-3
    assert np.diff([s for _, s in seen]).max(initial=0) <= longest
    for fraction in (0, 0.5, 0.99):
        frames, _, indices, _ = read_clip(path, 5, Rate(), fraction)
        assert [number_of(frame) for frame in frames] == list(indices)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg here")
def test_frame_means_are_those_of_ffmpegs_command_line(film):
    name, path = film
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-frames:v", "3", "-f", "rawvideo", "-pix_fmt",
                          "rgb24", "-"], capture_output=True, check=True).stdout
    frames = read_frames(path, range(min(3, len(times_of(name)))))
    stored = np.frombuffer(raw, np.uint8).reshape(len(frames), -1)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), stored.mean(1), atol=3)
    assert frames.mean() > 20
