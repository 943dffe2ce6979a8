"""Films as people bring them: joined, begun late, mirrored, with pauses, of two sizes."""
import itertools
import struct

import numpy as np
import pytest
from videos import number_of
from zoo import beeping, beeps, encode, numbers_and_times, written_again

from lrcn.video.cut import copy, cut
from lrcn.video.flow import sample_video
from lrcn.video.reader import Video, VideoError, read_frames
from lrcn.video.sampling import Rate, read_clip


def apart(path):
    """Seconds between each beep and the frame that it belongs to (a number that 25 divides)."""
    numbers, seconds = numbers_and_times(path)
    heard, whole = beeps(path)[0], seconds[numbers % 25 == 0]
    assert len(whole) == len(heard) > 1
    return np.abs(whole - heard).max()


JOINED = [(".vob", "mpeg2video", "mp2", 0, 2), (".mpg", "mpeg1video", "mp2", 0, 0),
          (".ts", "libx264", "aac", 0, 2), (".ts", "mpeg2video", "mp2", 3600, 0),
          (".ts", "libx264", "mp2", -3, 0), (".ts", "libx264", "aac", 3.7, 0),
          (".m2ts", "libx264", "ac3", 40, 2)]


@pytest.mark.parametrize("ending, codec, sound, jump, between", JOINED)
def test_joined_recordings_go_on_in_time_with_their_sound(tmp_path, ending, codec, sound, jump, between):
    halves = [beeping(tmp_path / f"{i}{ending}", codec, sound, 100, g="25", bf=str(between),
                      container={"output_ts_offset": str(10 + i * jump)}) for i in range(2)]
    film = tmp_path / f"joined{ending}"
    film.write_bytes(b"".join(half.read_bytes() for half in halves))
    numbers, seconds = numbers_and_times(film)
    # Where a transport stream was joined, the packet on the seam is damaged
    first, second = numbers[:-100], numbers[-100:]
    assert list(second) == [*range(100)] and (np.diff(first) > 0).all() and len(first) > 98
    np.testing.assert_allclose(seconds, [*first / 25, *(first[-1] + 1 + second) / 25], atol=2e-3)
    assert apart(written_again(film, tmp_path / "out.mp4")) < 0.04
    *_, count = cut(film, tmp_path / "cut.mp4", 2, 7)
    assert count in (124, 125) and apart(tmp_path / "cut.mp4") < 0.04
    with pytest.raises(VideoError, match="time stamps start over"):
        copy(film, tmp_path / "copy.mp4", 5, 7)


def test_a_recording_of_one_piece_is_copied_from_its_first_picture_that_can_be_decoded(tmp_path):
    whole = beeping(tmp_path / "whole.ts", count=200, g="25", bf="0").read_bytes()
    for part in (4, 9, 30):
        late = tmp_path / f"late{part}.ts"
        late.write_bytes(whole[len(whole) // part // 188 * 188:])
        numbers = list(numbers_and_times(late)[0])
        assert numbers == list(range(int(numbers[0]), 200)) and numbers[0] % 25 == 0
        assert apart(written_again(late, tmp_path / "out.mp4")) < 0.04
        begin, _ = copy(late, tmp_path / "copy.mp4", 3, 5)
        with Video(tmp_path / "copy.mp4") as video:
            assert video.grab() and number_of(video.frame()) == numbers[0] + round(25 * begin)
        assert begin <= 3 and apart(tmp_path / "copy.mp4") < 0.04
        with pytest.raises(VideoError, match="no frame from"):
            copy(late, tmp_path / "copy.mp4", 30, 32)


ONE = 1 << 16


@pytest.mark.parametrize("a, b, c, d", [(a, 0, 0, d) for a, d in itertools.product((ONE, -ONE), repeat=2)]
                         + [(0, b, c, 0) for b, c in itertools.product((ONE, -ONE), repeat=2)])
def test_all_eight_display_matrices(tmp_path, a, b, c, d):
    film = encode(tmp_path / "film.mp4", count=3, width=64, height=48, bf="0")
    plain = read_frames(film, [1])[0]
    raw = bytearray(film.read_bytes())
    at = raw.rindex(b"tkhd") + 44
    raw[at:at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    film.write_bytes(raw)
    # Every pixel goes where the matrix says, and all of them to where the picture begins
    y, x = np.mgrid[:48, :64]
    column, row = (np.sign(a) * x + np.sign(c) * y, np.sign(b) * x + np.sign(d) * y)
    column, row = column - column.min(), row - row.min()
    expected = np.zeros((row.max() + 1, column.max() + 1, 3), np.uint8)
    expected[row, column] = plain
    assert np.array_equal(read_frames(film, [1])[0], expected)
    with Video(film) as video:
        assert (video.info.height, video.info.width) == expected.shape[:2]


@pytest.mark.parametrize("ending, fps", [(".mp4", 30), (".mov", 25), (".mkv", 30), (".mp4", 10)])
def test_a_film_with_long_pauses_is_sampled_by_its_times(tmp_path, ending, fps):
    burst = [k / fps for k in range(4 * fps)]
    film = encode(tmp_path / f"screen{ending}", count=8 * fps, fps=fps, g="30",
                  times=[*burst, *(400 + t for t in burst)])
    with Video(film) as video:
        seconds = [seconds for _, seconds, *_ in sample_video(video, Rate())]
    due = [0.4 * k for k in range(10)]
    np.testing.assert_allclose(seconds, [*due, *(400 + t for t in due)], atol=0.51 / fps)
    for fraction in (0, 0.999):
        frames, _, indices, _ = read_clip(film, 5, Rate(), fraction)
        assert [number_of(frame) for frame in frames] == list(indices)
        np.testing.assert_allclose(np.diff(indices), 0.4 * fps, atol=1)
    slow = encode(tmp_path / "slow.mp4", count=8, fps=1, times=range(8))
    assert list(read_clip(slow, 5, Rate(), 0)[2]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("second", [(128, 96), (48, 64), (32, 24)])
def test_a_recording_whose_size_changes_keeps_the_first_one(tmp_path, second):
    halves = [encode(tmp_path / f"{i}.ts", "mpeg2video", count=30, width=wide, height=high, bf="0")
              for i, (wide, high) in enumerate([(64, 48), second])]
    film = tmp_path / "call.ts"
    film.write_bytes(b"".join(half.read_bytes() for half in halves))
    with Video(film) as video:
        frames = [video.frame() for _ in iter(video.grab, False)]
    assert {frame.shape for frame in frames} == {(48, 64, 3)} and len(frames) >= 58
    wide = round(48 * second[0] / second[1])        # the picture within its black sides
    left = (64 - wide) // 2
    assert [number_of(frame[:, left:left + wide]) for frame in frames[-28:]] == list(range(2, 30))
