"""A stream that comes one frame at a time is seen as training sees the same frames, or chunks, in a clip."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from videos import number_of, write_video

from lrcn.data.frames import (
    MODALITIES,
    Transform,
    as_modality,
    change_at,
    differences,
    plain_box,
    to_flow_input,
)
from lrcn.video.sampling import Rate
from lrcn.watching.recogniser import Chunks, Recogniser, Stream

PLAIN = Transform(8, 8, (0.5,) * 3, (0.2,) * 3)


@pytest.mark.parametrize("transform", [*(replace(PLAIN, modality=m) for m in MODALITIES),
                                       replace(PLAIN, modality="flow", flow_length=10)],
                         ids=lambda t: f"{t.modality}, {t.flow_length}")
def test_frames_pushed_one_by_one_are_encoded_as_those_of_a_clip(transform):
    seen = []

    def encoder(inputs):
        seen.append(inputs.numpy())
        return torch.zeros(len(inputs), 3)
    encoder.transform = transform
    stream, random = Stream(encoder, 5), np.random.default_rng(0)
    frames = random.integers(0, 255, (5, 8, 8, 3), np.uint8)
    fields = random.integers(0, 255, (5, 8, 8, 2 * transform.flow_length), np.uint8)
    for frame, flow in zip(frames, fields, strict=True):
        windows = stream.push([stream.crop(frame, flow)])
    assert windows.shape == (1, 5, 3)
    pairs = np.array([change_at(i, 5) for i in range(5)])
    whole = as_modality({"rgb": frames, "rgbdiff": differences(frames[pairs[:, 1]], frames[pairs[:, 0]]),
                         "flow": to_flow_input(fields, plain_box(8, 8, transform), transform)}, transform)
    assert whole.shape == (5, *transform.shape)
    np.testing.assert_array_equal(np.concatenate(seen), whole)


@pytest.mark.parametrize("extract, frames", [("all", [0, 10, 20, 20, 20]), (5, [0, 7, 14, 21, 28]),
                                             (None, [0, 7, 14, 21, 28])])
def test_a_film_shorter_than_a_window_is_seen_as_in_training(tmp_path, extract, frames):
    film, seen = write_video(tmp_path / "film.avi", 29), []

    def encoder(inputs):
        seen.extend(number_of(picture) for picture in inputs.numpy())
        return torch.zeros(len(inputs), 2)
    encoder.transform = replace(PLAIN, resize=240, crop=240)
    recogniser = Recogniser([encoder], lambda windows: torch.full((len(windows), 2), 0.5), ["A", "B"], 5,
                            Rate(), extract=extract)
    seen.clear()
    history = recogniser.look_through(film)
    assert len(history.windows) == 1 and seen == frames
    assert history.times == pytest.approx([i / 25 for i in frames])


@pytest.mark.parametrize("size, stride, frames, made", [
    (1, 1, 3, [[0], [1], [2]]), (4, 4, 11, [[0, 1, 2, 3], [4, 5, 6, 7]]), (4, 4, 3, []),
    (4, 2, 8, [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]), (2, 5, 12, [[0, 1], [5, 6], [10, 11]])])
def test_chunks_of_a_film(size, stride, frames, made):
    assert list(filter(None, map(Chunks(size, stride).push, range(frames)))) == made


def chunky(length, extract="all"):
    """A Recogniser of every frame in chunks of 4, one every 3 frames: A where the first one is below 12, and
    the numbers of the frames that it was shown."""
    seen = []

    def encoder(inputs):
        seen.extend([number_of(picture) for picture in chunk] for chunk in inputs.numpy())
        return torch.tensor([[chunk[0] < 12, chunk[0] >= 12] for chunk in seen[-len(inputs):]]).float()
    encoder.transform = replace(PLAIN, resize=48, crop=48, chunk=4, chunk_stride=3)
    recogniser = Recogniser([encoder], lambda windows: windows.mean(1), ["A", "B"], length, Rate(25, 1),
                            extract=extract, chunk=(4, 3))
    seen.clear()
    return recogniser, seen


def test_a_film_in_chunks(tmp_path):
    recogniser, seen = chunky(2)
    film = write_video(tmp_path / "film.avi", 29, width=48)
    history = recogniser.look_through(film)
    starts = range(0, 25, 3)
    assert seen == [[s, s + 1, s + 2, s + 3] for s in starts]
    assert history.spans == [pytest.approx((s / 25, (s + 3) / 25)) for s in starts]
    assert history.times == pytest.approx([(s + 1.5) / 25 for s in starts])
    assert [window.tolist() for window in history.windows] == [[1, 0]] * 3 + [[0.5, 0.5]] + [[0, 1]] * 4
    recogniser, _ = chunky(1)
    segments = recogniser.predict(film, min_segment=0.2).segments
    assert [row[2] for row in segments] == ["A", "B"]       # the border between frames 11 and 12
    assert np.ravel([row[:2] for row in segments]) == pytest.approx([0, 0.48, 0.48, 29 / 25])
    # 4 and 5 moments of 3 / 25 s each are shorter than 0.7 s
    assert len(recogniser.segments(recogniser.look_through(film), 0.4, 0.7)) == 1
    frames = np.random.default_rng(0).integers(0, 255, (8, 48, 48, 3), np.uint8)
    assert recogniser.features(frames).shape == (2, 2)


@pytest.mark.parametrize("frames, extract, made, windows", [
    (3, "all", [[0, 1, 2, 2]] * 2, 1), (6, "all", [[0, 1, 2, 3]] * 2, 1),
    (5, 7, [[0, 1, 2, 3], [3, 4, 4, 4]], 1), (14, 7, [[0, 1, 2, 3], [3, 4, 5, 6]], 3)])
def test_a_film_shorter_than_its_chunks_is_seen_as_in_training(tmp_path, frames, extract, made, windows):
    recogniser, seen = chunky(2, extract)
    history = recogniser.look_through(write_video(tmp_path / "film.avi", frames, width=48))
    assert seen[:2] == made and len(history.windows) == windows
