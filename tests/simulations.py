"""How often the intervals hold the truth, on planted data whose truth is known.

Tests run single cells of the tables of docs/experiments/statistics.md, with fewer replicates (see `near`).
"""
import numpy as np
from scipy import stats

from lrcn.evaluation import intervals
from lrcn.evaluation.intervals import Units
from lrcn.study import figures
from lrcn.study.movies import draw_movies, find_cuts, play
from lrcn.study.network import late_margins

KERNELS = {"blind to order": np.ones(5), "1 to 5": np.arange(1, 6.0),
           "last frames": np.array([0, 0, 0, 0.2, 0.8]), "first frames": np.exp(-np.arange(5.0))}


def near(covered, low, high, replicates):
    """Whether a share of covered intervals agrees with a coverage in [low, high], chance (4 sd) allowed."""
    spread = 4 * np.sqrt(0.05 * 0.95 / replicates)
    return low - spread <= covered <= high + spread


def holds(ends, truth):
    return ends[0] - 1e-9 <= truth <= ends[1] + 1e-9


def accuracy(groups, truth, correlation, replicates, seed=0):
    """Coverage of the interval of an accuracy, with four to seven clips a group as in UCF-101's test lists.
    The groups' own accuracies follow a beta distribution with that correlation within a group."""
    rng, held = np.random.default_rng((seed, groups)), 0
    for _ in range(replicates):
        n, a = rng.integers(4, 8, groups), 1 / correlation - 1
        own = rng.beta(truth * a, (1 - truth) * a, groups)
        right = rng.random(n.sum()) < np.repeat(own, n)
        held += holds(intervals.share_of(right, np.repeat(np.arange(groups), n)).ci95, truth)
    return held / replicates


def two_recipes(rng, group, truths, runs, agreement, within):
    """[right bool (runs, N)] of two recipes. Answers come from normal variables that share the clip's effect
    between recipes (correlation `agreement`; half of the rest with a recipe's own seeds, where it has
    several), and a group's within each (correlation `within`)."""
    def effect(*more):
        group_s = rng.normal(size=(*more, group[-1] + 1))[..., group]
        return np.sqrt(within) * group_s + np.sqrt(1 - within) * rng.normal(size=(*more, len(group)))

    common, found = np.sqrt(agreement) * effect(), []
    for truth in truths:
        recipe, own = (1, 0) if runs == 1 else (0.5, 0.5)
        score = np.sqrt(recipe * (1 - agreement)) * effect() + np.sqrt(own * (1 - agreement)) * effect(runs)
        found.append(np.atleast_2d(common + score) < stats.norm.ppf(truth))
    return found


def difference(groups, size, first, other, agreement, within, replicates, runs=1, spread=0, seed=0):
    """Coverage of the paired interval of two recipes over groups of `size` clips. runs: training seeds of
    each, whose true accuracies have the standard deviation `spread`. within: correlation in a group."""
    rng, held = np.random.default_rng((seed, groups, size)), 0
    group = np.repeat(np.arange(groups), size)
    for _ in range(replicates):
        truths = [np.clip(p + spread * rng.normal(size=(runs, 1)), 0.01, 0.99) for p in (first, other)]
        _, ends, _ = intervals.paired(*two_recipes(rng, group, truths, runs, agreement, within), group)
        held += holds(ends, other - first)
    return held / replicates


def planted_margins(rng, weights, gain, drift, groups, seed):
    """({control: margins (M, T+1)}, Units of the cuts) of a network that adds up its frames' evidence.

    weights (T,): what each place counts; gain: logits for evidence; drift: how far a clip's evidence
    grows (or fades) from its mean to its last frame, as a share of it.
    """
    T, classes = len(weights), 8
    group = np.repeat(np.arange(groups), 2)
    labels = group % classes
    x = 4 * np.eye(classes)[labels][:, None] * (1 + drift * np.linspace(-1, 1, T))[:, None]
    x = x + rng.normal(size=(groups, 1, classes))[group] + 0.3 * rng.normal(size=(groups, T, classes))[group]
    x = x + rng.normal(size=x.shape)
    cuts = find_cuts(draw_movies(labels, 60, 12, np.full(len(labels), T), seed), labels, T)
    played = {control: gain * np.einsum("mktc,t->mkc", x[play(cuts, control, seed)], weights / weights.sum())
              for control in ("hard", "backwards")}
    return late_margins(played, cuts), Units(group[cuts.videos])


def recency(weights, gain, drift, groups, replicates, seed=0):
    """(the truth, mean index, coverage of its interval, mean index of the hard cut alone)."""
    truth = float(np.dot(weights / weights.sum(), np.linspace(-1, 1, len(weights))))
    rng, found, alone, held = np.random.default_rng((seed, groups, int(10 * gain))), [], [], 0
    for i in range(replicates):
        margins, units = planted_margins(rng, weights, gain, drift, groups, i)
        both = figures.recency_index(margins["both ways"], units)
        found.append(both.value)
        alone.append(figures.recency_index(margins["hard"], units).value)
        held += holds(both.ci95, truth)
    return truth, np.mean(found), held / replicates, np.mean(alone)
