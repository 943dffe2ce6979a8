"""A stream that comes one frame at a time is seen as training sees the same frames in a clip."""
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
from lrcn.watching.recogniser import Recogniser, Stream

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
    assert windows.shape == (1, 5, 3) and stream.encoded == 5
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
