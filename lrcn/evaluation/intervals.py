"""How sure one can be of a figure: 95% intervals, paired tests, and runs side by side.

Clips of one recording succeed or fail together, so groups, not clips, are what an interval counts. Every
interval comes from the same three steps (docs/experiments/statistics.md: their coverage):

    errors     what each group adds to the error of a figure (its influence, from the linearised figure)
    variance   of their sum, and its degrees of freedom, few where few groups carry it
    interval   Wilson's for shares, which never ends on its estimate, Tango's for the difference of two
               shares of the same answers; Student's for other figures
"""
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np

from lrcn.base.lazy import Lazy

stats, special = Lazy("scipy.stats"), Lazy("scipy.special")     # special loads in a fifth of the time

# ---------------------------------------------------------------- groups

class Units:
    """Which groups each observation depends on; observations of the same groups are one unit. members: int
    (N, S), numbers of S groups at most, -1 for none. unit (N,): each one's unit of U."""

    def __init__(self, members):
        members = np.sort(np.asarray(members).reshape(len(members), -1), 1)
        members[:, 1:][members[:, 1:] == members[:, :-1]] = -1          # a group counts once
        self.members, unit = np.unique(np.sort(members, 1), axis=0, return_inverse=True)
        self.unit = unit.reshape(-1)

    @classmethod
    def of(cls, groups):
        """One group, of any type, for every observation (N,)."""
        return cls(np.unique(np.asarray(groups), return_inverse=True)[1])

    def __getitem__(self, chosen):
        """The Units of some observations."""
        return Units(self.members[self.unit[chosen]])

    @cached_property
    def _shared(self):
        """[(size, rows of units, number of the set)]: the sets of 1, 2 ... groups that units have."""
        shared, most = [], self.members.shape[1]
        for size in range(1, most + 1):
            columns = [list(chosen) for chosen in combinations(range(most), size)]
            rows = [np.flatnonzero((self.members[:, chosen] >= 0).all(1)) for chosen in columns]
            sets = np.concatenate([self.members[there][:, chosen]
                                   for there, chosen in zip(rows, columns, strict=True)])
            if len(sets):
                number = np.unique(sets, axis=0, return_inverse=True)[1].reshape(-1)
                shared.append((size, np.concatenate(rows), number))
        return shared

    def variance(self, errors, seen, alike=None):
        """(variance, degrees of freedom, groups) of a figure with these errors by unit, (U,), that was
        counted over the units `seen`, bool (U,).

        Two units vary together where they share a group (dyadic clustering: Cameron, Gelbach and
        Miller 2011, Aronow, Samii and Assenova 2015): sums over groups, minus those over pairs of groups
        that were counted twice, and so on. Degrees of freedom: Satterthwaite's, from how far the groups'
        squared sums lie from those expected: all the same, or in proportion to `alike` (U,). Where few of
        many groups carry the variance, it is known that badly.
        """
        total, squares, expected = 0.0, np.zeros(1), None
        there = self.members[seen] >= 0
        groups, size = len(np.unique(self.members[seen][there])), there.sum() / max(len(there), 1)
        for shared, rows, number in self._shared:
            sums = np.bincount(number, errors[rows]) ** 2
            total += (-1) ** (shared + 1) * sums.sum()
            if shared == 1:
                squares, expected = sums, None if alike is None else np.bincount(number, alike[rows])
        square = squares.sum()
        # What chance leaves of windows over S groups each is counted S times in `square`, and no more
        total = max(total, square / self.members.shape[1])
        # Errors are measured from the groups' own mean: G / (G - 1) where a unit is of one group,
        # G (G - 1) / ((G - 2) (G - 3)) where it is of two, and the mean holds the effects of both
        room = max(groups - size, 1), max(groups - size - 1, 1)
        total *= groups / room[0] * (max(groups - 1, 1) / room[1]) ** (size - 1)
        if expected is None or not expected.sum():
            spread = (squares ** 2).sum() - square ** 2 / max(groups, 1)
        else:
            spread = ((squares - expected * square / expected.sum()) ** 2).sum()
        freedom = 2 * square ** 2 / spread if spread > 1e-9 * square ** 2 else np.inf
        return total, freedom, groups

    def means(self, values, key=None, keys=1, share=False):
        """[Estimate] of the mean of values (N,) for every key (N,); the key -1 and NaN are left out."""
        values = np.asarray(values, np.float64)
        key = np.where(np.isfinite(values), 0 if key is None else key, -1)
        chosen = key >= 0
        n = np.bincount(key[chosen], minlength=keys)
        total = np.bincount(key[chosen], values[chosen], minlength=keys)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / n
        errors, counts = np.zeros((keys, len(self.members))), np.zeros((keys, len(self.members)), int)
        where = key[chosen], self.unit[chosen]
        np.add.at(errors, where, (values[chosen] - mean[where[0]]) / n[where[0]])
        np.add.at(counts, where, 1)
        return [Estimate(mean[i:i + 1], errors[i:i + 1], self, counts[i], n[i], share) for i in range(keys)]


# ---------------------------------------------------------------- estimates

def student(freedom):
    """Deviations to either side that hold 95% of Student's distribution."""
    return special.stdtrit(max(freedom, 1), 0.975)


def wilson(share, variance, freedom, groups, n):
    """95% interval (low, high) of a share of n answers whose estimate has that variance (Wilson 1927).

    The effective n is the number of independent answers with that variance. Where it is nil, because
    all groups agree, it is the number of groups; and answers that by chance differ more within groups
    than between them are never taken for more than half as many again.
    """
    spread = share * (1 - share)
    n = min(spread / variance, 1.5 * n) if variance > 1e-12 * max(spread, 1e-12) else groups
    t = student(freedom)
    middle, half = share + t * t / (2 * n), t * np.sqrt(spread / n + t * t / (4 * n * n))
    low, high = (middle - half) / (1 + t * t / n), (middle + half) / (1 + t * t / n)
    return float(np.clip(low, 0, share)), float(np.clip(high, share, 1))


@dataclass(frozen=True)
class Estimate:
    """A figure: its values in R runs of several training seeds, their errors by unit (R, U), and the n that
    it was counted over: `counts` observations of each unit, int (U,). share: whether it lies between 0 and 1.
    parts: the two shares whose difference it is, or None."""
    values: np.ndarray
    errors: np.ndarray
    units: Units
    counts: np.ndarray
    n: int
    share: bool = False
    parts: tuple = None

    @property
    def value(self):
        return float(np.mean(self.values))

    @cached_property
    def of_seeds(self):
        """(variance, degrees of freedom) for other training seeds: what their runs disagree in more than
        by chance in these groups."""
        mean, runs = self.errors.mean(0), len(self.values)
        if runs == 1:
            return 0.0, np.inf
        chance = sum(self.units.variance(own - mean, self.counts > 0)[0] for own in self.errors)
        return max(np.var(self.values, ddof=1) / runs - chance / (runs * (runs - 1)), 0.0), runs - 1

    @property
    def ci95(self):
        """[low, high], or None where there is none."""
        variance, freedom, groups = self.units.variance(self.errors.mean(0), self.counts > 0)
        # Five degrees more: with few groups Wilson's interval is wide enough by itself
        variance, freedom = _together((variance, freedom + 5 * self.share), self.of_seeds)
        if not (np.isfinite(self.value) and self.n) or groups < 2 and not self.share:
            return None
        if self.share:
            return list(wilson(self.value, variance, freedom, groups, self.n * len(self.values)))
        if self.parts:
            return of_difference(*self.parts)
        half = float(student(min(freedom, groups - 1)) * np.sqrt(variance))
        return [self.value - half, self.value + half]

    def as_json(self, digits=4):
        value = round(self.value, digits) if np.isfinite(self.value) else None
        ci95 = self.ci95 if value is not None else None
        return {"value": value, "ci95": ci95 and [round(x, digits) for x in ci95], "n": int(self.n)}


def _together(*sources):
    """(variance, degrees of freedom) of a sum of independent errors, each (variance, freedom)."""
    total = sum(variance for variance, _ in sources)
    least = sum(variance ** 2 / freedom for variance, freedom in sources)
    return total, total ** 2 / least if least > 0 else np.inf


def share_of(right, groups):
    """The Estimate of the mean of `right`, bool or share (N,) or (runs, N), over clips of `groups`."""
    units = Units.of(groups)
    return pool([units.means(own, share=True)[0] for own in np.atleast_2d(right)])


def pool(estimates):
    """The mean over runs of one Estimate a run, over the same observations."""
    first = estimates[0]
    parts = first.parts and tuple(pool(part) for part in zip(*(e.parts for e in estimates), strict=True))
    return replace(first, values=np.concatenate([e.values for e in estimates]), parts=parts,
                   errors=np.concatenate([e.errors for e in estimates]))


def combined(estimates, value, slopes):
    """The Estimate of a figure made of others, of one run each: its value, and its slope for each of them."""
    errors = sum(slope * e.errors for slope, e in zip(slopes, estimates, strict=True) if slope)
    return Estimate(np.atleast_1d(value), errors + np.zeros_like(estimates[0].errors), estimates[0].units,
                    np.max([e.counts for e in estimates], 0), min(e.n for e in estimates))


def difference(a, b, exclusive=False):
    """The Estimate of a - b, over the same observations. exclusive: they are shares of answers of which each
    counts for one of them at most."""
    return replace(combined([a, b], a.value - b.value, (1, -1)), parts=(a, b) if exclusive else None)


def of_difference(won, lost, seeds=(0.0, np.inf), runs=1):
    """95% interval [low, high] of the difference of two shares, Estimates over the same observations of
    which each counts for one of them at most. seeds: (variance, degrees of freedom) of what comes on top,
    where the answers are means over `runs`.

    Tango's, with the effective n as in `wilson`. A score interval knows the variance that an answer has
    under each difference it asks about; what is left to learn from the groups is how many times that they
    vary, and the degrees of freedom are those of this ratio: infinitely many where a group is one clip.
    """
    value, other = won.value, lost.value
    spread = value + other - (value - other) ** 2
    errors, counts = (won.errors - lost.errors).mean(0), won.counts
    gained, missed = (e.errors.mean(0) * e.n + counts * e.value for e in (won, lost))
    alike = gained + missed - 2 * (value - other) * (gained - missed) + counts * (value - other) ** 2
    variance, freedom, groups = won.units.variance(errors, counts > 0, alike)
    most = 1.5 * won.n * max(runs, len(won.values))
    n = min(spread / variance, most) if variance > 1e-12 * max(spread, 1e-12) else groups
    more, _ = _together(won.of_seeds, lost.of_seeds, seeds)
    t = student(_together((variance, freedom), won.of_seeds, lost.of_seeds, seeds)[1])
    low, high = tango(n * value, n * other, n, t)
    down, up = (np.sqrt((end - value + other) ** 2 + t * t * more) for end in (low, high))
    return [float(max(value - other - down, -1)), float(min(value - other + up, 1))]


def tango(won, lost, n, z):
    """Interval [low, high] of (won - lost) / n, of n pairs of answers of which `won` are right in the first
    alone and `lost` in the other alone (Tango 1998): all differences that a score test does not refuse.
    Where neither ever happened it still has a width."""
    def refused(d):
        b = (2 * n - won + lost) * d - won - lost
        share = (np.sqrt(max(b * b + 8 * n * lost * d * (1 - d), 0)) - b) / (4 * n)    # likeliest of `lost`
        return (won - lost - n * d) ** 2 > z * z * n * max(2 * share + d * (1 - d), 0)

    ends = []
    for far in (-1.0, 1.0):
        near = (won - lost) / n
        for _ in range(50):
            middle = (near + far) / 2
            near, far = (near, middle) if refused(middle) else (middle, far)
        ends.append(far)
    return ends


def paired(first, other, groups):
    """(difference of top-1, its 95% interval, McNemar's p or None), other minus first.

    first, other: right answers, bool (runs, N), of recipes tested on the same clips. McNemar (1947)
    counts the clips that only one of two classifiers has right; the p is the mid-P one (Lancaster 1961),
    which takes groups for one clip each, and is given where each recipe has one run.
    """
    change, units = other.mean(0) - first.mean(0), Units.of(groups)
    won, lost = (units.means(np.maximum(part, 0), share=True)[0] for part in (change, -change))
    seeds = _together(*(share_of(right, groups).of_seeds for right in (first, other)))
    ends = of_difference(won, lost, seeds, max(len(first), len(other)))
    p = None
    if len(first) == len(other) == 1:
        n, k = int((change != 0).sum()), int(min((change > 0).sum(), (change < 0).sum()))
        p = float(min(2 * stats.binom.cdf(k, n, 0.5) - stats.binom.pmf(k, n, 0.5), 1))
    return float(change.mean()), ends, p


def with_interval(value, ends, sign=""):
    """0.912 [0.874, 0.941]; sign: "+" of a difference."""
    return f"{value:{sign}.3f} [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]"


def ratio(a, b):
    """The Estimate of a / b, of one run, by linearisation; NaN where b is not told from nil."""
    ends = b.ci95
    value = np.nan if ends is None or ends[0] <= 0 <= ends[1] else a.value / b.value
    return combined([a, b], value, (1 / b.value, -value / b.value) if np.isfinite(value) else (0, 0))


# ---------------------------------------------------------------- runs side by side

@dataclass(frozen=True)
class Figures:
    """top1: the mean over the runs; sd: that of the runs around it, None of one run; minus: the paired
    difference from another recipe, with its interval and McNemar's p, None where there is none."""
    top1: float = None
    ci95: list = (None, None)
    sd: float = None
    minus: float = None
    minus_ci95: list = (None, None)
    p: float = None

    def __str__(self):
        return with_interval(self.top1, self.ci95)

    @property
    def difference(self):
        """`minus` with its interval, as text; empty where there is none."""
        return "" if self.minus is None else with_interval(self.minus, self.minus_ci95, "+")


def compare(right, groups, first=None):
    """The Figures of right answers, bool (N,) or (runs, N) of runs that differ in their seed, on clips of
    `groups`. first: those of another recipe on the same clips, in the same order."""
    right = np.atleast_2d(right)
    sd = float(np.std(right.mean(1), ddof=1)) if len(right) > 1 else None
    minus = () if first is None else paired(np.atleast_2d(first), right, groups)
    return Figures(float(right.mean()), share_of(right, groups).ci95, sd, *minus)


def differing(flags, first):
    """{flag: value} of recipe.read_flags() in which a run differs from the first; a flag that the first does
    not know is left out."""
    return {name: value for name, value in flags.items() if name in first and value != first[name]}
