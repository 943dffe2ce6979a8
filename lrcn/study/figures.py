"""The mixed-action study's figures: who wins a window, with intervals, and how early or late counts.

    margin   of a window of two actions, the later one's logit minus the other's
    r        of their probabilities the later one's share, p2 / (p1 + p2), the logistic of the margin

Arrays only, as in movies.py. units: intervals.Units.
"""
from dataclasses import dataclass

import numpy as np

from lrcn.base.lazy import Lazy
from lrcn.evaluation.intervals import Estimate, combined, difference, ratio
from lrcn.study.movies import mixes

optimize = Lazy("scipy.optimize")
special = Lazy("scipy.special")

FIRST, SECOND, THIRD, NEITHER = range(4)
OUTCOMES = ("first", "second", "third", "neither")
RIDGE = 3e-5        # on the squared slope of a switching curve


def by_column(values, units, share=False):
    """[Estimate] of the mean of every column of values (N, K)."""
    return [units.means(column, share=share)[0] for column in np.asarray(values).T]


def outcomes(windows, predicted):
    """Which action won: FIRST, SECOND, THIRD or NEITHER, int (N,). predicted: labels (N,)."""
    hit = windows.actions == np.asarray(predicted)[:, None]
    return np.where(hit.any(1), hit.argmax(1), NEITHER)


def shares(windows, predicted, units):
    """{mix: its frame counts, n, the Estimates of who won it, and of being right: None of a tie}."""
    (names, code), who = mixes(windows), outcomes(windows, predicted)
    won = {name: units.means(who == i, code, len(names), share=True) for i, name in enumerate(OUTCOMES)}
    right = units.means(np.asarray(predicted) == windows.majority,
                        np.where(windows.majority >= 0, code, -1), len(names), share=True)
    return {name: {"counts": [int(n) for n in name.split("+")], "n": won["first"][i].n,
                   **{o: won[o][i] for o in (*OUTCOMES[:name.count("+") + 1], "neither")},
                   "right": right[i] if right[i].n else None} for i, name in enumerate(names)}


def logistic(x, point, slope, lapse=0.0):
    """The share at x: one half at `point`, `slope` logits a frame, its ends `lapse` away from 0 and 1."""
    return lapse + (1 - 2 * lapse) * (1 / (1 + np.exp(-np.clip(slope * (x - point), -60, 60))))


def fit_logistic(share, weight):
    """The logistic curve through share (K,) at x = 0 ... K-1 -> (point, slope, lapse). weight: (K,). NaN
    where the curve does not rise, or by less than a fifth from end to end. A little ridge keeps the slope
    finite where no window is in doubt, and the point in the middle between the two sides."""
    x, weight = np.arange(len(share)), weight / max(weight.sum(), 1e-12)
    y = np.where(weight > 0, np.nan_to_num(share, nan=0.5), 0.5)
    if (weight * (x - (weight * x).sum()) * y).sum() <= 1e-6:
        return np.full(3, np.nan)
    rise = np.clip(y[-1] - y[0], 0.2, 1)
    middle = np.clip(x[-1] + 0.5 - ((y[1:] - y[0]) / rise).sum(), 0, x[-1])
    fits = [_fit(y, weight, (middle, slope, lapse)) for slope in (0.5, 3) for lapse in (0.02, 0.25)]
    best = min(fits, key=lambda fit: fit.cost).x
    return best if best[1] > 1e-2 and best[2] < 0.4 else np.full(3, np.nan)


def _fit(y, weight, start):
    """scipy's OptimizeResult of the logistic curve from one start."""
    x, root = np.arange(len(y)), np.sqrt(weight)

    def errors(fit):
        return np.append(root * (logistic(x, *fit) - y), np.sqrt(RIDGE) * fit[1])

    bounds = (-np.inf, -np.inf, 0), (np.inf, np.inf, 0.49)
    return optimize.least_squares(errors, start, "3-point", bounds, xtol=1e-12, ftol=1e-12, gtol=1e-12)


def fitted(curve):
    """Estimates (point, slope, lapse) of the logistic curve through Estimates, errors by Gauss and Newton."""
    y, weight = np.array([e.value for e in curve]), np.array([e.n for e in curve], float)
    best, slopes = fit_logistic(y, weight), np.full((3, len(y)), np.nan)
    if np.isfinite(best).all():
        weight = weight / weight.sum()
        again, free = _fit(np.nan_to_num(y), weight, best), best > (-np.inf, -np.inf, 1e-6)
        slopes[:] = 0                                               # a lapse of nil stays nil
        slopes[free] = np.linalg.pinv(again.jac[:, free])[:, :-1] * np.sqrt(weight)
    return [combined(curve, value, np.nan_to_num(row)) for value, row in zip(best, slopes, strict=True)]


@dataclass(frozen=True)
class Switching:
    """A switching curve, the Estimates of its logistic fit, and the recency index."""
    curve: list         # [Estimate] of r for k = 0 ... T frames of the later action
    point: Estimate
    slope: Estimate
    lapse: Estimate
    recency: Estimate

    @property
    def has_fit(self):
        return self.point.ci95 is not None and bool(np.isfinite(self.point.value))

    def as_json(self):
        return {"recency_index": self.recency.as_json(), "point_of_equality": self.point.as_json(),
                "slope": self.slope.as_json(), "lapse": self.lapse.as_json(),
                "curve": {str(k): e.as_json() for k, e in enumerate(self.curve)}}


def switching(margin, units):
    """margin: (M, T+1), the later action's logit minus the other's; NaN is left out. units: of the cuts."""
    curve = by_column(special.expit(margin), units, share=True)
    return Switching(curve, *fitted(curve), recency_index(margin, units))


def recency_index(margin, units):
    """+1: the last frame alone decides, 0: all frames alike, -1: the first frame alone. An Estimate.

    Where between the two actions a mixed window lies, mean over its T-1 mixes: with margins m(k) of k late
    frames, s(k) = (m(k) - m(0)) / (m(T) - m(0)) and the index is 2 mean(s(1) ... s(T-1)) - 1. For a network
    that adds up its frames' evidence with weights, it is the weights' centre of mass from the first frame to
    the last. NaN for windows of one frame, and where whole clips are not told apart."""
    first, *mixed, last = by_column(margin, units)
    if not mixed:
        return combined([first], np.nan, [0])
    middle = combined(mixed, np.mean([e.value for e in mixed]), [1 / len(mixed)] * len(mixed))
    share = ratio(difference(middle, first), difference(last, first))
    return combined([share], 2 * share.value - 1, [2])


def duel(windows, predicted, units):
    """Where the majority of two actions is the first, and the last frame the second: who wins? Estimates by
    name; under `agree` the other windows of two actions, where majority and last frame are one."""
    two = (windows.counts[:, 1] > 0) & (windows.counts[:, 2] == 0) & (windows.majority >= 0)
    apart = two & (windows.counts[:, 0] > windows.counts[:, 1])
    who = outcomes(windows, predicted)
    key = np.where(apart, 0, np.where(two, 1, -1))
    won = [units.means(who == i, key, 2, share=True) for i in (FIRST, SECOND, NEITHER)]
    return {"majority": won[0][0], "last_frame": won[1][0], "neither": won[2][0],
            "last_frame_minus_majority": difference(won[1][0], won[0][0], exclusive=True),
            "agree": {"both": won[1][1], "first": won[0][1], "neither": won[2][1]}}


def half_life(traces, units):
    """({value, ci95, n}, the mean trace as [Estimate]) of traces (M, L+1), 1 at the cut, NaN where the movie
    ends: frames until the trace, and the ends of its intervals, fall under one half; None where they do not
    within those followed."""
    def falls(curve):
        under = np.flatnonzero(curve < 0.5)
        if len(under):
            after, before = under[0], curve[max(under[0] - 1, 0)]
            step = (0.5 - curve[after]) / (before - curve[after]) if before >= 0.5 else after
            return round(float(after - step), 4)

    means = by_column(traces, units)
    value, low, high = np.array([(e.value, *(e.ci95 or (np.nan, np.nan))) for e in means]).T
    return {"value": falls(value), "ci95": [falls(low), falls(high)], "n": len(traces)}, means
