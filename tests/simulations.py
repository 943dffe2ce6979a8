"""How often the intervals hold the truth, on planted data whose truth is known.

Tests run single cells of the tables of docs/experiments/statistics.md, with fewer replicates (see `near`).
"""
import numpy as np
from scipy import stats

from lrcn.evaluation import scores
from lrcn.evaluation.scores import Units
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


def sizes(rng, groups, single):
    """int (G,): one clip a group, or four to seven of them as in UCF-101's test lists."""
    return np.ones(groups, int) if single else rng.integers(4, 8, groups)


def accuracy(groups, truth, correlation, replicates, seed=0):
    """Coverage of the interval of an accuracy. Groups of one clip where correlation is None; else the
    groups' own accuracies follow a beta distribution with that correlation within a group."""
    rng, held = np.random.default_rng((seed, groups)), 0
    for _ in range(replicates):
        n, own = sizes(rng, groups, correlation is None), np.full(groups, truth)
        if correlation:
            a = 1 / correlation - 1
            own = rng.beta(truth * a, (1 - truth) * a, groups)
        right = rng.random(n.sum()) < np.repeat(own, n)
        held += holds(scores.share_of(right, np.repeat(np.arange(groups), n)).ci95, truth)
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
    """Of the paired interval of two recipes over groups of `size` clips: {coverage, width, excludes: share of
    intervals without zero, mcnemar: share of p under 0.05}. runs: training seeds of each, whose true
    accuracies have the standard deviation `spread`. within: correlation of the clips of a group."""
    rng, rows = np.random.default_rng((seed, groups, size)), []
    group = np.repeat(np.arange(groups), size)
    for _ in range(replicates):
        truths = [np.clip(p + spread * rng.normal(size=(runs, 1)), 0.01, 0.99) for p in (first, other)]
        _, ends, p = scores.paired(*two_recipes(rng, group, truths, runs, agreement, within), group)
        rows.append((holds(ends, other - first), ends[1] - ends[0], not holds(ends, 0),
                     p is not None and p < 0.05))
    return dict(zip(("coverage", "width", "excludes", "mcnemar"), np.mean(rows, 0).tolist(), strict=True))


def windows(groups, truth, replicates, seed=0):
    """(coverage of a share of windows, of the difference of that share and one that excludes it) over windows
    of clips of two groups each, whose effects are normal. The other share is half of what is left."""
    rng, held = np.random.default_rng((seed, groups)), []
    for _ in range(replicates):
        pairs = np.array([rng.choice(groups, 2, replace=False) for _ in range(10 * groups)])
        effect = np.sqrt(0.3) * rng.normal(size=groups)
        score = effect[pairs].sum(1) + np.sqrt(0.4) * rng.normal(size=len(pairs))
        units, rest = Units(pairs), (1 - truth) / 2
        won, lost = (units.means(own, share=True)[0] for own in (score < stats.norm.ppf(truth),
                                                                 score > stats.norm.ppf(1 - rest)))
        held.append((holds(won.ci95, truth), holds(scores.difference(won, lost, True).ci95, truth - rest)))
    return np.mean(held, 0)


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
