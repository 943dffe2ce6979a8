"""A step of training: loss, schedules, accumulated gradients, averaged weights."""
import inspect
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from lrcn.training import loop
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


@pytest.mark.parametrize("total", [10, 33, 1000])
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
@pytest.mark.parametrize("name, kind, options", [
    ("adamw", torch.optim.AdamW, {}), ("adam", torch.optim.Adam, {}),
    ("sgd", torch.optim.SGD, {"momentum": 0.9})])
def test_an_optimiser_is_torchs_also_where_its_methods_are_wrapped_otherwise(name, kind, options, wrap,
                                                                             monkeypatch):
    ours, theirs = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))

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
    one = learner(network, ema=0.5)
    start = network.weight.detach().clone()
    for _ in range(3):
        network(torch.ones(1, 3)).sum().backward()
        one.update()
    raw = network.weight.detach().clone()
    with one.averaged():
        between = network.weight.detach().clone()
    assert torch.equal(network.weight, raw)
    low, high = torch.minimum(start, raw), torch.maximum(start, raw)
    assert ((between > low) & (between < high)).all()
