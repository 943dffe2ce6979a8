"""What the encoder sees: frames, their differences from the frame before, or both."""
import cv2
import numpy as np
import pytest
import torch

import models
from lrcn.data.frames import MODALITIES, Clip, ClipSampler, clip_frames
from lrcn.data.manifest import SampledVideo
from lrcn.features import surgery
from lrcn.features.features import FrameEncoder
from lrcn.video.writer import write_clip

BOTH = "rgb+rgbdiff"


def encoder_for(modality, name="squeezenet1_1"):
    torch.manual_seed(0)
    return models.build_encoder(name, None, 32, modality)


@pytest.fixture
def clip_of(tmp_path):
    """Writes a sampled video of random frames; returns its folder and SampledVideo."""
    def write(frames):
        (tmp_path / "A").mkdir(exist_ok=True)
        random = np.random.default_rng(frames)
        coarse = [random.integers(0, 256, (3, 4, 3), dtype=np.uint8) for _ in range(frames)]
        write_clip(tmp_path / "A" / "v.avi",
                   [cv2.resize(c, (64, 48), interpolation=cv2.INTER_CUBIC) for c in coarse], 2.5)
        return tmp_path, SampledVideo("v", "A", "g", frames)
    return write


@pytest.mark.parametrize("view", [-1, 0, 1])
def test_a_difference_is_that_from_the_sampled_frame_before_around_grey(clip_of, view):
    folder, video = clip_of(7)
    transforms = {m: encoder_for(m).transform for m in MODALITIES}
    whole = Clip(video, tuple(range(7)), view)
    plain = clip_frames(folder, whole, transforms["rgb"], 0).astype(int)
    expected = np.clip(128 + np.diff(plain, axis=0), 0, 255)
    expected = np.concatenate([expected[:1], expected])     # the first frame has the second's
    for frames in (range(7), range(2, 7), (0,), (5, 6, 6)):
        clip = Clip(video, tuple(frames), view)
        found = clip_frames(folder, clip, transforms["rgbdiff"], 0)
        assert np.array_equal(found, expected[list(frames)]) and found.dtype == np.uint8
        both = clip_frames(folder, clip, transforms[BOTH], 0)
        assert both.shape == (len(frames), *transforms[BOTH].shape)
        assert np.array_equal(both[:, 0], plain[list(frames)]) and np.array_equal(both[:, 1], found)
    folder, video = clip_of(1)      # which has a grey difference
    found = clip_frames(folder, ClipSampler(5).windows(video)[0], encoder_for("rgbdiff").transform, 0)
    assert found.shape == (5, 32, 32, 3) and (found == 128).all()


def test_the_features_of_two_modalities_stand_after_one_another():
    both, one = encoder_for(BOTH, "resnet18"), encoder_for("rgb", "resnet18")
    frames = torch.randint(0, 256, (4, 2, 3, 32, 32), dtype=torch.uint8)
    assert both.feature_dim == 2 * one.feature_dim
    with torch.inference_mode():
        expected = torch.cat([one(frames[:, 0]), one(frames[:, 1])], 1)
        torch.testing.assert_close(both(frames), expected)
        fast = FrameEncoder(both, torch.device("cpu"))(frames.movedim(-3, -1))
        torch.testing.assert_close(fast, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
        frozen, blocks = surgery.cut(both, 2)
        tail = models.Tail(both, blocks, models.Head(both.feature_dim, 3))
        torch.testing.assert_close(tail.features(frozen(frames)[None])[0], expected, rtol=1e-3, atol=1e-4)
    assert models.encoder_from_spec(both.spec()).transform == both.transform
