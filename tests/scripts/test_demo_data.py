"""The embedded data set: UCF-101's layout, and classes that only the order of frames tells apart."""
import numpy as np
import pytest
from commands import call
from runs import refused

import demo_data
from lrcn.video.reader import probe, read_frames
from lrcn.video.sampling import Rate

TWINS = list(demo_data.PAIRS.values())


def path_of(demo, name, group, clip=1):
    return demo / "UCF-101" / name / f"v_{name}_g{group:02}_c{clip:02}.avi"


def all_frames(path):
    return read_frames(path, range(probe(path).frames)).astype(np.float32)


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_videos_are_mpeg4_in_ucf101s_size_rates_and_layout(demo):
    rates = set()
    for name in demo_data.CLASSES:
        found = sorted(path.name for path in (demo / "UCF-101" / name).iterdir())
        assert found == [f"v_{name}_g{group:02}_c01.avi" for group in range(1, 12)]
        for path in (demo / "UCF-101" / name).iterdir():
            info = probe(path)
            assert (info.width, info.height) == (320, 240)
            assert 4 * Rate().stride(info.fps) + 1 <= info.frames <= 80
            rates.add(round(info.fps, 2))
    assert rates == {25.0, 29.97}
    assert path.read_bytes()[:200].count(b"XVID") >= 1


@pytest.mark.parametrize("first, second", TWINS)
def test_twins_show_the_same_frames_backwards(demo, first, second):
    for group in (1, 5, 9):
        there, back = all_frames(path_of(demo, first, group)), all_frames(path_of(demo, second, group))
        assert there.shape == back.shape
        assert abs(there - back[::-1]).mean() < 4, "the same but for the codec's noise"
        assert abs(there.mean(0) - back.mean(0)).mean() < 3, "the mean over the frames says nothing"
        assert abs(there - back).mean() > 12, "in order they differ"


def phases(pair, frames):
    """Where the bright object is in its round, in [0, 1), for each of the frames (N, H, W, 3)."""
    bright = frames.max(-1) > 140
    y, x = np.mgrid[:240, :320]
    if pair == "size":
        return (np.sqrt(bright.sum((1, 2)) / np.pi) - 15) / 100
    angle = 2 * np.pi * x / 320 if pair == "move" else np.arctan2(y - 120, x - 160)
    turn = (np.exp(1j * angle) * bright).sum((1, 2))
    return np.angle(turn) / (2 * np.pi) % 1


@pytest.mark.parametrize("pair", demo_data.PAIRS)
def test_the_order_of_the_sampled_frames_tells_the_class_and_the_first_does_not(demo, pair):
    for sign, name in zip((1, -1), demo_data.PAIRS[pair], strict=True):
        paths = [path_of(demo, name, group) for group in range(1, 12)]
        frames = [read_frames(path, np.arange(5) * Rate().stride(probe(path).fps)) for path in paths]
        rounds = np.stack([phases(pair, clip) for clip in frames])
        steps = sign * ((np.diff(rounds) + 0.5) % 1 - 0.5)
        assert ((steps > 0.1) & (steps < 0.35)).all(), (name, steps)
        starts = rounds[:, 0]       # the first frame does not tell the class: both twins start anywhere
        assert min(starts) < 0.35 and max(starts) > 0.65


def test_the_seed_alone_decides_and_a_second_run_does_nothing(demo, tmp_path):
    before, again = stamps(demo), ("demo_data.py", "--output_dir", demo, "--groups", 11, "--clips", 1)
    assert call(*again).out.splitlines()[-1] == str(demo)
    assert stamps(demo) == before
    refused(*again, "--seed", 7, says="--output_dir")
    for seed in (42, 7):
        for name in TWINS[0]:
            (tmp_path / "UCF-101" / name).mkdir(parents=True, exist_ok=True)
        demo_data.write_group((tmp_path, next(iter(demo_data.PAIRS)), 3, 1, seed, True))
        for name in TWINS[0]:
            same = path_of(tmp_path, name, 3).read_bytes() == path_of(demo, name, 3).read_bytes()
            assert same == (seed == 42)
