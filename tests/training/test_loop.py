"""What a training step is fed, in an order that seed and epoch alone decide; its loss, rate and weights."""
import inspect
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lrcn.data.frames import ClipSampler
from lrcn.data.manifest import SampledVideo
from lrcn.features.features import Features
from lrcn.training import feeds, loop
from lrcn.training.feeds import FeatureFeed, epoch_steps
from lrcn.training.recipe import Recipe


def learner(network, clips=13, **changes):
    recipe = replace(Recipe(lr=0.1, weight_decay=0, scheduler="constant", warmup_epochs=0, label_smoothing=0,
                            clip_grad=0, amp="none"), **changes)
    groups = [{"params": list(network.parameters()), "lr": recipe.lr}]
    feed = SimpleNamespace(labels=torch.zeros(clips), lengths=None)
    return loop.Learner(network, groups, recipe, feed, torch.device("cpu"))


def test_the_loss_takes_logits_and_knows_no_softmax():
    logits = torch.zeros(4, 101)
    labels = torch.tensor([0, 5, 50, 100])
    logits[torch.arange(4), labels] = 50
    network = torch.nn.Linear(101, 101)
    with torch.no_grad():
        network.weight.copy_(torch.eye(101))
        network.bias.zero_()
    loss, got = learner(network).loss(logits, labels)
    assert loss < 1e-4 and torch.equal(got, logits)
    smooth, _ = learner(network, label_smoothing=0.1).loss(logits, labels)
    assert smooth.item() == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=0.1).item())


@pytest.mark.parametrize("name", ["cosine", "step", "plateau", "constant"])
def test_every_schedule_warms_up_and_never_rises_again(name):
    course = [loop.schedule_factor(name, step, 10, 100) for step in range(100)]
    assert 0 < course[0] < 0.2 and course[:11] == sorted(course[:11]) and max(course) <= 1
    assert course[10:] == sorted(course[10:], reverse=True) and course[10] == pytest.approx(1, abs=0.01)
    assert (course[-1] < 0.02) == (name in ("cosine", "step"))


@pytest.mark.parametrize("total", [10, 33])
def test_one_cycle_is_torchs(total):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    oracle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=total)
    for step in range(total):
        factor = loop.schedule_factor("onecycle", step, 0, total)
        assert factor == pytest.approx(oracle.get_last_lr()[0], rel=1e-6), step
        optimizer.step()
        oracle.step() if step < total - 1 else None
    for short in range(1, 5):
        assert all(0 < loop.schedule_factor("onecycle", s, 0, short) <= 1 for s in range(short + 1))


@pytest.mark.parametrize("wrap", [None, inspect.unwrap, lambda method: lambda *args: method(*args)])
@pytest.mark.parametrize("name", loop.OPTIMIZERS)
def test_an_optimiser_is_torchs_also_where_its_methods_are_wrapped_otherwise(name, wrap, monkeypatch):
    ours, theirs = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    kind, options = getattr(torch.optim, loop.OPTIMIZERS[name][0]), loop.OPTIMIZERS[name][1]

    def train(weight, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            weight.exp().sum().backward()
            optimizer.step()
    train(theirs, kind([theirs], lr=0.1, weight_decay=0.1, **options))
    for owner in (torch.optim.Optimizer, kind) if wrap else ():
        for key, method in list(vars(owner).items()):
            if inspect.isfunction(method) and hasattr(method, "__wrapped__"):
                monkeypatch.setattr(owner, key, wrap(method))
    train(ours, loop.plain_optimizer([ours], Recipe(optimizer=name, lr=0.1, weight_decay=0.1)))
    assert torch.equal(ours, theirs) and ours.max() < 1


def test_gradients_of_several_steps_make_the_update_of_one_large_batch():
    x, labels = torch.randn(13, 3, generator=torch.Generator().manual_seed(0)), torch.arange(13) % 2
    results = []
    for size, steps in ((12, 1), (3, 4), (4, 3)):
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 2)
        one = learner(network, accumulate=steps, batch_size=size)
        feed = SimpleNamespace(names=[], batches=lambda todo: ((x[c], labels[c], None) for c, _ in todo))
        assert next(loop.epochs(one, feed, loop.Progress(), 1))
        results.append([p.detach().clone() for p in network.parameters()])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_the_average_of_the_weights_is_used_for_testing_and_put_back():
    network = torch.nn.Linear(3, 2)
    one, seen = learner(network, ema=0.5), [network.weight.detach().clone()]
    for _ in range(3):
        network(torch.ones(1, 3)).sum().backward()
        one.update()
    seen.append(network.weight.detach().clone())
    with one.averaged():
        between = network.weight.detach().clone()
    assert torch.equal(network.weight, seen[1])
    assert ((between > torch.minimum(*seen)) & (between < torch.maximum(*seen))).all()


def steps_of(count, size, views, seed, epoch, world=1):
    feed = SimpleNamespace(labels=torch.zeros(count), lengths=None)
    return epoch_steps(feed, Recipe(batch_size=size, views=views, seed=seed), epoch, world)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 200), size=st.integers(1, 40), views=st.integers(1, 4),
       seed=st.integers(0, 2**31), epoch=st.integers(1, 50), world=st.integers(1, 4))
def test_an_epochs_order_depends_on_seed_and_epoch_alone(count, size, views, seed, epoch, world):
    steps = steps_of(count, size, views, seed, epoch, world)
    clips = torch.cat([clips for clips, _ in steps])
    drawn = torch.cat([drawn for _, drawn in steps])
    assert sorted(clips.tolist()) == [*range(count)] and int(drawn.max()) < views
    assert all(len(clips) >= min(world, count) for clips, _ in steps)
    again = steps_of(count, size, views, seed, epoch, world)
    assert str(again) == str(steps)
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
    feed = FeatureFeed(views, samples, torch.device("cpu"))
    assert isinstance(feed.views[0], torch.Tensor) == bool(pinned)
    steps = steps_of(12, 5, 3, 0, 1)
    for (clips, drawn), (x, labels, _) in zip(steps, feed.batches(steps), strict=True):
        expected = [np.asarray(views[v])[i] for i, v in zip(clips.tolist(), drawn.tolist(), strict=True)]
        assert np.array_equal(x.numpy(), np.array(expected, np.float32))
        assert labels.tolist() == (clips % 4).tolist()


@given(frames=st.integers(1, 40), length=st.integers(1, 8), view=st.integers(0, 3), number=st.integers(2, 12))
def test_the_clips_of_a_video_are_different_and_as_many_as_asked_or_there_are(frames, length, view, number):
    sampler, video = ClipSampler(length), SampledVideo("v", "A", "g", frames)
    clips = sampler.training(video, view, 42, number)
    assert clips == sampler.training(replace(video), view, 42, number)
    assert all(clip.view == view and len(clip.frames) == length for clip in clips)
    assert len({clip.frames for clip in clips}) == len(clips) == min(number, max(1, frames - length + 1))
    assert all(np.diff(clip.frames[:frames - clip.frames[0]]).tolist() == [1] * (min(length, frames) - 1)
               for clip in clips if frames >= length)
