"""What is asked next, what is drawn at random, and whether the accuracy beside the page can be believed."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcn.teaching import asking
from lrcn.teaching.asking import Moments


def clouds(rng, films, each, classes, spread=1.0, effect=0.5, dimensions=12):
    """(Moments, classes int (M,)): clouds of classes, each film with an effect of its own."""
    centres = np.random.default_rng(5).normal(size=(classes, dimensions))
    film = np.repeat(np.arange(films), each)
    true = rng.integers(classes, size=len(film))
    features = centres[true] + effect * rng.normal(size=(films, dimensions))[film] \
        + spread * rng.normal(size=(len(film), dimensions))
    return Moments(features.astype(np.float32), film, rng.random(len(film))), true


def ask(moments, true, keys, others=(), diverse=True, every=5):
    """The Model after so many keys of a person who knows the truth, one in five or all of moments that are
    drawn at random. others: films that are not asked."""
    labels, passed = np.full(len(true), -1), np.isin(moments.films, others)
    for _ in range(0, keys, every):
        model = asking.learn(moments, labels.copy(), passed, int(true.max()) + 1)
        by_lot = model.free[np.argsort(moments.drawn[model.free])][:1 if diverse else every]
        waits = np.isin(np.arange(len(true)), by_lot)
        asked = [*by_lot, *(i for i, _ in model.ranking(every - len(by_lot), waits))]
        labels[asked] = true[asked]
    return asking.learn(moments, labels, passed, int(true.max()) + 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**20), st.integers(0, 40), st.integers(1, 12))
def test_what_has_a_label_or_was_passed_over_is_not_asked_and_nothing_twice(seed, labelled, most):
    rng = np.random.default_rng(seed)
    moments, true = clouds(rng, 4, 12, 3)
    labels, passed = np.full(48, -1), rng.random(48) < 0.1
    chosen = rng.permutation(48)[:labelled]
    labels[chosen] = true[chosen]
    model = asking.learn(moments, labels, passed, 4)
    ranked = [i for i, _ in model.ranking(most)]
    assert len(set(ranked)) == len(ranked) == min(most, len(model.free)) and set(ranked) <= set(model.free)
    # Drawn at random are those with the lowest numbers, whoever asked for them
    share, first = model.share(), moments.drawn[model.free].min(initial=2)
    assert set(share) == {i for i in range(48) if labels[i] >= 0 and moments.drawn[i] < first}


def test_every_film_is_looked_at_and_a_rare_class_is_met_sooner_than_by_chance():
    rng = np.random.default_rng(1)
    moments, true = clouds(rng, 8, 30, 4, spread=0.3, effect=0.1)
    rare = np.flatnonzero(true == 3)
    true[rare[4:]] = 0      # four moments of 240 are of class 3, and lie far from the others
    moments.features[rare[4:]] = moments.features[true == 0].mean(0)
    model = ask(moments, true, 24)
    assert set(moments.films[model.labels >= 0]) == set(range(8))
    assert (model.labels == 3).sum() > (ask(moments, true, 24, diverse=False).labels == 3).sum()
    assert {why for _, why in model.ranking(5)} == {"unsure"}


def test_what_is_held_out_does_not_see_its_film():
    moments, true = clouds(np.random.default_rng(2), 5, 10, 3, spread=0.3, effect=0.1)
    said = []
    for labels in (true, np.where(moments.films == 2, (true + 1) % 3, true)):
        model = asking.learn(moments, labels, np.zeros(50, bool), 3)
        asking.hold_out(model)
        said.append(model.held[moments.films == 2])
    assert np.array_equal(*said)
    # The labels of that film are wrong, and they are what is suspected first
    assert set(moments.films[model.suspects()[:8]]) == {2}


@pytest.mark.parametrize("films, none", [(1, True), (2, False)])
def test_of_one_film_alone_there_is_no_accuracy(films, none):
    moments, true = clouds(np.random.default_rng(3), films, 10, 2)
    model = asking.learn(moments, true, np.zeros(len(true), bool), 2)
    asking.hold_out(model)
    assert (asking.accuracy(model) is None) == none


def test_the_interval_beside_the_page_holds_the_accuracy_on_other_films():
    """In 18 of 20 sessions or more, though most labels are those that a network was unsure of."""
    held = 0
    for seed in range(20):
        moments, true = clouds(np.random.default_rng(seed), 50, 25, 4, spread=0.5)
        others = moments.films >= 10
        model = ask(moments, true, 60, range(10, 50))
        asking.hold_out(model)
        right = (model.answers.argmax(1) == true)[others].mean()
        said = asking.accuracy(model)
        assert said["high"] - said["low"] < 0.9 and 12 <= said["n"] <= 40
        held += said["low"] <= right <= said["high"]
    assert held >= 18
