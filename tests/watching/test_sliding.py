"""A stream that comes one frame at a time is seen as training sees the same frames in a clip."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lrcn.clips.streams import as_modality, change_at, differences
from lrcn.watching.sliding import Slider


@pytest.mark.parametrize("modality", ["rgb", "rgbdiff", "rgb+rgbdiff"])
def test_frames_pushed_one_by_one_are_encoded_as_those_of_a_clip(modality):
    transform = SimpleNamespace(crop=8, modality=modality)
    seen = []
    slider = Slider.__new__(Slider)
    slider.length, slider.transform = 5, transform
    slider.head = lambda windows: windows.mean(1)
    slider.head.spec = {"classes": 3}

    def encoder(inputs):
        seen.append(inputs.numpy())
        return torch.zeros(len(inputs), 3)
    slider.encoder = encoder
    slider.restart()
    crops = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 3), np.uint8)
    for crop in crops:
        shares = slider.push([crop])
    assert len(shares) == 1 and slider.encoded == 5
    pairs = np.array([change_at(i, 5) for i in range(5)])
    whole = crops if modality == "rgb" else as_modality(
        crops, differences(crops[pairs[:, 1]], crops[pairs[:, 0]]), transform)
    np.testing.assert_allclose(np.concatenate(seen).astype(float), whole.astype(float), atol=1e-4)
