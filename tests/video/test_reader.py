"""video.py and avi.py: exactly the frames asked for, sampled by time, written whole or not at all."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from videos import CODECS, number_of, numbered, write_sound, write_video

from lrcn.video import avi, reader
from lrcn.video.flow import sample_video
from lrcn.video.reader import Video, VideoError, frames_at, probe, read_frames
from lrcn.video.sampling import Beat, Rate, read_clip, sample_by_time
from lrcn.video.writer import write_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


def sampled(path):
    with Video(path) as opened:
        yield from (kept[:3] for kept in sample_video(opened, Rate()))


def numbers(frames):
    return [number_of(frame) for frame in frames]


@pytest.mark.parametrize("fps, stride", [(25, 10), (29.97, 12), (12.5, 5), (30, 12), (24, 10), (60, 24),
                                         (59.94, 24), (15, 6), (2, 1), (0.5, 1)])
def test_the_stride_follows_the_source_rate(fps, stride):
    assert Rate().stride(fps) == stride


@given(length=st.integers(1, 300), fps=st.sampled_from([12.5, 24, 25, 29.97, 60]),
       count=st.integers(1, 8), fraction=st.floats(0, 1, exclude_max=True))
@example(41, 25, 5, 0.999)
def test_a_clip_lies_inside_its_video_at_one_stride(length, fps, count, fraction):
    asked = Rate().stride(fps)
    indices, stride = sample_by_time(np.arange(length) / fps, fps, asked, count, fraction)
    assert len(indices) == count and indices[0] >= 0 and indices[-1] < length
    steps = set(np.diff(indices))
    if length >= (count - 1) * asked + 1:
        assert stride == asked and steps <= {asked}
    elif length >= count:
        # The largest stride that fits.
        assert steps == {stride} and stride < asked and (count - 1) * (stride + 1) + 1 > length
    else:
        assert list(indices) == [*range(length), *[length - 1] * (count - length)] and stride == 1


@given(durations=st.lists(st.integers(1, 8), min_size=60, max_size=200),
       fraction=st.floats(0, 1, exclude_max=True))
def test_at_a_variable_rate_each_frame_is_the_one_on_screen_at_its_time(durations, fraction):
    times = np.cumsum([0, *durations[:-1]]) / 25
    indices, stride = sample_by_time(times, 25, 10, 5, fraction)
    assert stride == 10 and list(indices) == sorted(indices)
    for k, index in enumerate(indices):
        due = times[indices[0]] + 0.4 * k
        shown_until = times[index + 1] if index + 1 < len(times) else times[index] + 0.04
        # A frame and a half of tolerance, for the frames that a constant rate drops.
        assert times[index] - 1.5 / 25 - 1e-9 <= due <= shown_until + 1.5 / 25 + 1e-9


@given(fps=st.sampled_from([12.5, 24, 25, 29.97, 30, 59.94]), drift=st.floats(0.998, 1.002))
def test_a_constant_rate_is_sampled_at_one_stride_even_if_the_header_rounds_it(fps, drift):
    beat = Beat(fps, Rate().stride(fps))
    kept = [i for i in range(2000) if beat.keep(i / fps * drift)]
    assert set(np.diff(kept)) == {Rate().stride(fps)}


@given(st.lists(st.integers(0, 8), min_size=1, max_size=80), st.floats(0, 1, exclude_max=True))
def test_every_frame_of_a_source_is_kept_whatever_its_rate_and_times(durations, fraction):
    times = np.cumsum(durations) / 29.97
    beat, count = Rate(25, 0).beat(29.97), min(5, len(times))
    assert all(map(beat.keep, times))
    spacing, step = Rate(25, 0).spacing(29.97), Rate(25, 0).seconds(29.97)
    indices, _ = sample_by_time(times, 29.97, spacing, count, fraction, step)
    assert list(np.diff(indices)) == [1] * (count - 1)


@pytest.mark.parametrize("ending", CODECS)
def test_the_frames_asked_for_and_no_others(folder, ending):
    path = write_video(folder / f"any{ending}", 150)
    for indices in ([0], [149], [3, 3, 4, 90, 149, 149], [70, 80, 90, 100, 110]):
        assert numbers(read_frames(path, indices)) == indices
    with Video(path) as opened:
        assert ending != ".avi" or len(opened.key_frames) > 5
    for index in range(0, 150, 7 if ending == ".avi" else 40):
        assert numbers(read_frames(path, [index])) == [index]
    with pytest.raises(ValueError, match="ascending"):
        read_frames(path, [3, 2])
    with pytest.raises(VideoError, match="frame 150 is not there: the video ends after 150 frames"):
        read_frames(path, [149, 150])


def test_an_avi_with_dropped_frames_is_not_seeked(folder):
    path = folder / "dropped.avi"
    with open(path, "wb") as stream:
        writer = avi.Writer(stream, 25, 64, 48)
        for i in range(100):
            writer.write(numbered(i)[:, :, ::-1])
            if i % 10 == 5:     # an empty chunk: the last picture stays for another 1/25 s
                writer.entries.append((stream.tell() - writer.HEAD + 4, 0))
                stream.write(b"00dc" + bytes(4))
        writer.release()
    with Video(path) as opened:
        assert opened.key_frames is None
    assert numbers(read_frames(path, [60, 99])) == [60, 99]
    kept = list(sampled(path))
    spans = np.diff([seconds for _, seconds, _ in kept])
    assert (abs(spans - 0.4) < 2.1 / 25).all() and len(kept) == 11     # in 110/25 s


@pytest.mark.parametrize("make, reason", [
    (lambda p: None, "does not exist"),
    (lambda p: p.write_bytes(b""), "empty"),
    (lambda p: p.mkdir(), "folder"),
    (lambda p: p.write_text("this is a letter\n" * 99), "no video"),
    (write_sound, "no video"),
])
def test_a_file_that_is_no_video_has_a_reason_and_no_noise(tmp_path, capfd, make, reason):
    path = tmp_path / "bad.avi"
    make(path)
    for use in (probe, lambda p: read_frames(p, [0]), lambda p: list(sampled(p))):
        with pytest.raises(VideoError, match=reason) as error:
            use(path)
        assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_damaged_file_gives_right_frames_or_a_video_error(folder, data):
    path = folder / "whole.avi"
    whole = path.read_bytes() if path.exists() else write_video(path, 60).read_bytes()
    raw = bytearray(whole[:data.draw(st.integers(0, len(whole)))])
    flips = data.draw(st.lists(st.tuples(st.integers(0, 8000), st.integers(0, 255)), max_size=5))
    for at, value in flips if raw else []:
        raw[at % len(raw)] = value
    damaged = folder / "damaged.avi"
    damaged.write_bytes(raw)
    try:
        frames = read_clip(damaged, 5, Rate(), 0.5)[0]
    except VideoError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert len(frames) == 5 and len({frame.shape for frame in frames}) == 1
        if not flips:
            assert numbers(frames) == sorted(numbers(frames)) and max(numbers(frames)) < 60


def as_a_container(path, wanted):
    with Video(path) as video:
        return np.stack(frames_at(video, wanted))


def outcome(read, path, wanted):
    try:
        return read(path, wanted).tobytes()
    except VideoError:
        return VideoError


@pytest.fixture(scope="module")
def own(folder):
    """A sampled clip as preprocessing_data.py writes it: 12 frames of noise, 48 x 32."""
    path = folder / "own.avi"
    noise = [np.random.default_rng(i).integers(0, 256, (32, 48, 3), np.uint8) for i in range(12)]
    write_clip(path, [np.ascontiguousarray(frame[..., ::-1]) for frame in noise], 2.5)
    return path


def test_a_sampled_clip_is_read_by_its_index_as_its_container_says(own, monkeypatch):
    wanted = [0, 3, 3, 11]
    expected = as_a_container(own, wanted)
    monkeypatch.setattr(reader, "Video", None)      # nothing is opened
    assert np.array_equal(read_frames(own, wanted), expected)


@given(st.integers(0, 29_000), st.lists(st.tuples(st.integers(0, 29_000), st.integers(1, 255)), max_size=3),
       st.lists(st.integers(0, 12), min_size=1, max_size=4).map(sorted))
@example(0, [(8531, 1)], [3])     # a picture that breaks off halfway, which the decoder alone would pass on
@settings(max_examples=80, deadline=None)
def test_a_damaged_sampled_clip_gives_frames_of_one_size_or_an_error(own, lost, flips, wanted):
    whole = own.read_bytes()
    data = bytearray(whole[:max(1, len(whole) - lost)])
    for place, flip in flips:
        data[place % len(data)] ^= flip
    path = own.with_name("damaged_own.avi")
    path.write_bytes(data)
    found = outcome(read_frames, path, wanted)
    assert found is VideoError or len(found) % len(wanted) == 0
    if flips == [(8531, 1)] and not lost:
        assert reader._of_our_own(path, wanted) is None
    elif not flips:
        assert found in (outcome(as_a_container, own, wanted), VideoError)
