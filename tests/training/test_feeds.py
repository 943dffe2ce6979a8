"""What a training step is fed: every clip once an epoch, in an order that seed and epoch alone decide."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcn.data.frames import ClipSampler
from lrcn.data.manifest import SampledVideo
from lrcn.features.features import Features
from lrcn.training import feeds
from lrcn.training.feeds import FeatureFeed, epoch_steps
from lrcn.training.recipe import Recipe

CPU = torch.device("cpu")


def steps_of(count, size, views, seed, epoch, world=1):
    feed = SimpleNamespace(labels=torch.zeros(count), lengths=None)
    return epoch_steps(feed, Recipe(batch_size=size, views=views, seed=seed), epoch, world)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 200), size=st.integers(1, 40), views=st.integers(1, 4),
       seed=st.integers(0, 2**31), epoch=st.integers(1, 50), world=st.integers(1, 4))
def test_an_epochs_order_depends_on_seed_and_epoch_alone(count, size, views, seed, epoch, world):
    steps = steps_of(count, size, views, seed, epoch, world)
    clips = torch.cat([clips for clips, _ in steps])
    drawn = torch.cat([drawn for _, drawn in steps])
    assert sorted(clips.tolist()) == [*range(count)] and int(drawn.max()) < views
    assert all(len(clips) >= min(world, count) for clips, _ in steps)
    again = steps_of(count, size, views, seed, epoch, world)
    assert all(torch.equal(a, b) for one, two in zip(steps, again, strict=True)
               for a, b in zip(one, two, strict=True))
    other = steps_of(count, size // 2 + 1, views, seed, epoch)
    assert torch.equal(torch.cat([clips for clips, _ in other]), clips), "the batch size changes the order"
    if count > 20:
        following = steps_of(count, size, views, seed, epoch + 1, world)
        assert not torch.equal(torch.cat([clips for clips, _ in following]), clips)


@pytest.mark.parametrize("pinned", [0, 1 << 20])
def test_a_batch_has_every_clip_in_its_view_whether_it_is_in_memory_or_on_disk(monkeypatch, pinned):
    monkeypatch.setattr(feeds, "PINNED", pinned)
    random = np.random.default_rng(0)
    rows = random.standard_normal((40, 6)).astype(np.float16)
    views = [Features(rows.__getitem__, random.integers(0, 40, (12, 3)), (6,), rows.dtype) for _ in range(3)]
    samples = [SampledVideo(f"v{i}", "c", "g", 5, "train", label=i % 4) for i in range(12)]
    feed = FeatureFeed(views, samples, CPU)
    assert isinstance(feed.views[0], torch.Tensor) == bool(pinned)
    steps = steps_of(12, 5, 3, 0, 1)
    for (clips, drawn), (x, labels, _) in zip(steps, feed.batches(steps), strict=True):
        expected = [np.asarray(views[v])[i] for i, v in zip(clips.tolist(), drawn.tolist(), strict=True)]
        assert np.array_equal(x.numpy(), np.array(expected, np.float32))
        assert labels.tolist() == (clips % 4).tolist()


@given(frames=st.integers(1, 40), length=st.integers(1, 8), view=st.integers(0, 3), number=st.integers(2, 12))
def test_the_clips_of_a_video_are_different_and_as_many_as_asked_or_there_are(frames, length, view, number):
    video = SampledVideo("v", "A", "g", frames)
    clips = ClipSampler(length).training(video, view, 42, number)
    assert clips == ClipSampler(length).training(SampledVideo("v", "A", "g", frames), view, 42, number)
    assert all(clip.view == view and len(clip.frames) == length for clip in clips)
    assert len({clip.frames for clip in clips}) == len(clips) == min(number, max(1, frames - length + 1))
    assert all(np.diff(clip.frames[:frames - clip.frames[0]]).tolist() == [1] * (min(length, frames) - 1)
               for clip in clips if frames >= length)
    assert len(ClipSampler(length).training(video, view, 42)) == 1
