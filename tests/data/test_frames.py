"""Which frames make a clip: windows, views, one crop and one flip for all of it."""
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcn.data.frames import AUGMENT, LEFT, Clip, ClipSampler, Transform, clip_frames, crop_box
from lrcn.data.manifest import SampledVideo
from lrcn.video.writer import write_clip

SMALL = Transform(32, 28, (0.5,) * 3, (0.2,) * 3)
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


def test_one_window_is_the_middle_one():
    assert ClipSampler(5).windows(SampledVideo("v", "A", "g", 9))[0].frames == (2, 3, 4, 5, 6)
    assert ClipSampler(5).windows(SampledVideo("v", "A", "g", 3))[0].frames == (0, 1, 2, 2, 2)


TRANSFORM = Transform(36, 32, (0.5,) * 3, (0.5,) * 3)


@settings(max_examples=200)
@given(st.integers(20, 400), st.integers(20, 400), VIDEOS, st.integers(-1, 9), st.integers(0, 99))
def test_a_crop_lies_inside_the_frame(height, width, video, view, seed):
    x, y, w, h, flipped = crop_box(height, width, TRANSFORM, Clip(video, (0,), view), seed)
    assert min(x, y) >= 0 and x + w <= width and y + h <= height and min(w, h) > 0
    if view <= 0:
        assert w == h == round(min(height, width) * 32 / 36) and flipped == (view == -1)
        assert abs(2 * x + w - width) <= 1 and abs(2 * y + h - height) <= 1
    else:
        assert w * h >= 0.9 * min(0.4 * height * width, min(height, width)**2 * 0.4) * 0.75


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


def test_a_clip_has_one_crop_and_one_flip_for_all_its_frames(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    (tmp_path / "A").mkdir()
    write_clip(tmp_path / "A" / "v.avi", [frame] * 5, 2.5)
    video = SampledVideo("v", "A", "g", 5)
    seen = []
    for view in (-1, 0, 1, 2, 3, 4):
        clip = Clip(video, (0, 1, 2, 3, 4), view)
        frames = clip_frames(tmp_path, clip, TRANSFORM, 0)
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


def test_an_augmented_clip_has_one_change_of_colours_and_the_same_one_again(tmp_path):
    (tmp_path / "A").mkdir()
    frame = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    write_clip(tmp_path / "A" / "v.avi", [frame] * 3, 2.5)
    clip = Clip(SampledVideo("v", "A", "g", 3), (0, 1, 2), 1)
    seen = {how: clip_frames(tmp_path, clip, replace(SMALL, augment=how), 5) for how in AUGMENT}
    for how, frames in seen.items():
        assert (frames == frames[:1]).all() and frames.dtype == np.uint8
        assert np.array_equal(frames, clip_frames(tmp_path, clip, replace(SMALL, augment=how), 5))
        plain = clip_frames(tmp_path, replace(clip, view=0), replace(SMALL, augment=how), 5)
        assert np.array_equal(plain, clip_frames(tmp_path, replace(clip, view=0), SMALL, 5))
        assert np.array_equal(frames, plain) == (how == "none")


def test_a_squeezed_frame_is_all_of_it_and_the_usual_spec_is_as_it_was(tmp_path):
    assert crop_box(240, 320, replace(SMALL, fit="squeeze"), Clip(None, (0,)), 0) == (0, 0, 320, 240, False)
    assert set(SMALL.spec()) == {"resize", "crop", "mean", "std", "interpolation", "modality"}
    assert replace(SMALL, fit="squeeze").spec()["fit"] == "squeeze"
