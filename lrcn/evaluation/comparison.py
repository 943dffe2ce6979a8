"""Runs side by side: the accuracy of each, and its difference from another one on the same videos.

    figures = compare(right, groups)            # right: bool (runs, N), of runs that differ in their seed
    figures = compare(right, groups, first)     # and the paired difference from the answers `first`
"""
from dataclasses import dataclass

import numpy as np

from lrcn.evaluation import scores


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
        return scores.with_interval(self.top1, self.ci95)

    @property
    def difference(self):
        """`minus` with its interval, as text; empty where there is none."""
        return "" if self.minus is None else scores.with_interval(self.minus, self.minus_ci95, "+")


def compare(right, groups, first=None):
    """The Figures of right answers, bool (N,) or (runs, N), on clips of `groups`.

    first: those of another recipe on the same clips, in the same order.
    """
    right = np.atleast_2d(right)
    sd = float(np.std(right.mean(1), ddof=1)) if len(right) > 1 else None
    paired = () if first is None else scores.paired(np.atleast_2d(first), right, groups)
    return Figures(float(right.mean()), scores.share_of(right, groups).ci95, sd, *paired)


def differing(flags, first):
    """{flag: value} of what `flags` has other than `first`; a flag unknown to `first` says nothing."""
    return {name: value for name, value in flags.items() if name in first and value != first[name]}
