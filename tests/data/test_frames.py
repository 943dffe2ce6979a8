"""Which frames make a clip, cropped and flipped alike; frames and differences as the encoder sees them."""
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import models
from lrcn.data.frames import AUGMENT, LEFT, MODALITIES, Clip, ClipSampler, Transform, clip_frames, crop_box
from lrcn.data.manifest import SampledVideo
from lrcn.features import surgery
from lrcn.features.features import FrameEncoder
from lrcn.video.writer import write_clip

SMALL, TRANSFORM = (Transform(resize, crop, (0.5,) * 3, (0.5,) * 3) for resize, crop in ((32, 28), (36, 32)))
VIDEOS = st.builds(SampledVideo, st.text("abc", min_size=1, max_size=4), st.sampled_from("AB"), st.just("g"),
                   st.integers(1, 60))


@given(VIDEOS, st.integers(1, 20), st.one_of(st.just("all"), st.integers(1, 12)))
def test_windows_are_consecutive_frames_spread_over_the_video(video, length, number):
    found = ClipSampler(length).windows(video, number)
    starts = [clip.frames[0] for clip in found]
    assert starts == sorted(set(starts))
    assert len(found) == min(max(1, video.frames - length + 1), number if number != "all" else 10**6)
    for clip in found:
        expected = [min(clip.frames[0] + i, video.frames - 1) for i in range(length)]
        assert list(clip.frames) == expected and clip.view == 0
    if video.frames >= length:      # no window runs over the end, and they lie evenly
        assert max(clip.frames[-1] for clip in found) < video.frames
        assert all(len(set(clip.frames)) == length for clip in found)
        gaps = np.diff(starts)
        assert not len(gaps) or max(gaps) - min(gaps) <= 1
    assert ClipSampler(5).windows(SampledVideo("v", "A", "g", 9))[0].frames == (2, 3, 4, 5, 6)    # the middle


@given(st.integers(20, 400), st.integers(20, 400), VIDEOS, st.integers(-1, 9), st.integers(0, 99))
def test_a_crop_lies_inside_the_frame_and_a_squeezed_one_is_all_of_it(height, width, video, view, seed):
    x, y, w, h, flipped = crop_box(height, width, TRANSFORM, Clip(video, (0,), view), seed)
    assert min(x, y) >= 0 and x + w <= width and y + h <= height and min(w, h) > 0
    if view <= 0:
        assert w == h == round(min(height, width) * 32 / 36) and flipped == (view == -1)
        assert abs(2 * x + w - width) <= 1 and abs(2 * y + h - height) <= 1
    else:
        assert w * h >= 0.9 * min(0.4 * height * width, min(height, width)**2 * 0.4) * 0.75
    whole = replace(TRANSFORM, fit="squeeze")
    assert crop_box(height, width, whole, Clip(video, (0,)), seed) == (0, 0, width, height, False)
    assert whole.spec()["fit"] == "squeeze"
    assert set(TRANSFORM.spec()) == {"resize", "crop", "mean", "std", "interpolation", "modality"}


def test_crops_and_flips_vary_from_view_to_view_and_video_to_video():
    clips = [ClipSampler(5).training(SampledVideo(name, "A", "g", 1000), view, 0)[0]
             for name in "abcdefghijklmnop" for view in range(1, 17)]
    boxes = [crop_box(240, 320, TRANSFORM, clip, 0) for clip in clips]
    assert len(set(boxes)) > 245 and len({clip.frames for clip in clips}) > 200
    assert 96 < sum(flipped for *_, flipped in boxes) < 160
    draws = np.array([[clip.frames[0], w * h, x, flipped] for clip, (x, _, w, h, flipped) in
                      zip(clips, boxes, strict=True)], float)
    start_with = np.corrcoef(draws.T)[0, 1:]
    assert np.abs(start_with).max() < 0.25, "the window tells the crop"


@pytest.fixture
def still(tmp_path):
    """(folder, video) of one sampled video whose five frames are the same."""
    frame = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    (tmp_path / "A").mkdir()
    write_clip(tmp_path / "A" / "v.avi", [frame] * 5, 2.5)
    return tmp_path, SampledVideo("v", "A", "g", 5)


def test_a_clip_has_one_crop_and_one_flip_for_all_its_frames(still):
    folder, video = still
    seen = []
    for view in (-1, 0, 1, 2, 3, 4):
        frames = clip_frames(folder, Clip(video, (0, 1, 2, 3, 4), view), TRANSFORM, 0)
        assert frames.shape == (5, 32, 32, 3) and (frames == frames[0]).all()
        seen.append(frames[0])
    assert np.array_equal(seen[0], seen[1][:, ::-1]), "view -1 is the plain one in the mirror"
    assert all(np.abs(a.astype(int) - b).mean() > 5 for i, a in enumerate(seen) for b in seen[:i])


@pytest.mark.parametrize("strength", ["light", "medium", "heavy"])
def test_an_augmented_view_crops_its_sides_as_much_as_it_says(strength):
    transform = replace(SMALL, fit="squeeze", augment=strength)
    boxes = np.array([crop_box(240, 320, transform, Clip(SampledVideo(f"v{i}", "A", "g", 9), (0,), 1), 3)
                      for i in range(400)])
    x, y, w, h, flipped = boxes.T
    assert (x >= 0).all() and (x + w <= 320).all() and (y >= 0).all() and (y + h <= 240).all()
    assert (w >= LEFT * 320 - 1).all() and 0.4 < flipped.mean() < 0.6
    most = AUGMENT[strength].most
    assert x.max() <= most * 320 and x.max() > 0.8 * min(most, 1 - LEFT) * 320
    assert ((w == 320) & (h == 240)).mean() == pytest.approx(1 - AUGMENT[strength].chance, abs=0.1)


def test_an_augmented_clip_has_one_change_of_colours_and_the_same_one_again(still):
    folder, video = still
    clip = Clip(video, (0, 1, 2), 1)
    plain = clip_frames(folder, replace(clip, view=0), SMALL, 5)
    for how in AUGMENT:
        transform = replace(SMALL, augment=how)
        frames, again, unchanged = (clip_frames(folder, replace(clip, view=view), transform, 5)
                                    for view in (1, 1, 0))
        assert (frames == frames[:1]).all() and frames.dtype == np.uint8 and np.array_equal(frames, again)
        assert np.array_equal(unchanged, plain) and np.array_equal(frames, plain) == (how == "none")


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
