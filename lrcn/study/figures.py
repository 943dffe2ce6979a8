"""The mixed-action study's figures: who wins a window, with intervals, and how early or late counts.

    r   of the probabilities of a window's two actions, the later one's share: p2 / (p1 + p2)

Arrays only: no files, no network, no torch. Movies, windows and cuts are those of movies.py;
labels are ints, -1 stands for "none".
"""
from dataclasses import dataclass

import numpy as np

from lrcn.study.movies import mixes

FIRST, SECOND, THIRD, NEITHER = range(4)
OUTCOMES = ("first", "second", "third", "neither")
RIDGE = 3e-5        # on the squared slope of a switching curve


# ---------------------------------------------------------------- intervals

@dataclass(frozen=True)
class Estimate:
    """A figure, its bootstrap replicates (R,) and the n that it was counted over."""
    value: float
    replicates: np.ndarray
    n: int

    @property
    def ci95(self):
        """[low, high], or None where too few replicates have a value."""
        good = self.replicates[np.isfinite(self.replicates)]
        if len(good) < max(2, len(self.replicates) / 2):
            return None
        return [float(x) for x in np.quantile(good, (0.025, 0.975))]

    def as_json(self, digits=4):
        value = round(float(self.value), digits) if np.isfinite(self.value) else None
        ci95 = self.ci95 if value is not None else None
        return {"value": value, "ci95": ci95 and [round(x, digits) for x in ci95], "n": int(self.n)}


class Bootstrap:
    """Intervals by resampling the source groups of the test videos.

    What a figure is meant to hold for is other recordings. Movies are no sample of those: all of
    them share the same videos, and the clips of a group are nearly one picture. So the groups are
    drawn with replacement, and a window counts as often as all of its groups were drawn, multiplied
    (the pigeonhole bootstrap of two crossed factors, Owen 2007, arXiv:0712.1111): a window over
    a cut between groups a and b has the weight n_a * n_b. It errs on the wide side.
    A replicate is a row of weights, and every figure a matrix product over all replicates.
    """

    def __init__(self, groups, replicates=1000, seed=0):
        """groups: the group of every video, of any type, (V,)."""
        _, self.group = np.unique(np.asarray(groups), return_inverse=True)
        count = self.group.max() + 1
        rng = np.random.default_rng((seed, 2))
        self.drawn = rng.multinomial(count, np.full(count, 1 / count), replicates).astype(np.float32)

    def weigh(self, videos):
        """Weights for windows over `videos` (N, S), -1 for none."""
        videos = np.asarray(videos).reshape(len(videos), -1)
        groups = np.sort(np.where(videos >= 0, self.group[videos], -1), 1)
        groups[:, 1:][groups[:, 1:] == groups[:, :-1]] = -1          # a group counts once
        units, unit = np.unique(groups, axis=0, return_inverse=True)
        weights = np.ones((len(self.drawn), len(units)), np.float32)
        for column in units.T:
            weights[:, column >= 0] *= self.drawn[:, column[column >= 0]]
        return Weights(weights, unit.reshape(-1))


@dataclass(frozen=True)
class Weights:
    """weights (R, U): how often each combination of groups was drawn; unit (N,): a window's."""
    weights: np.ndarray
    unit: np.ndarray

    def totals(self, values, key, keys):
        """Weighted sums (R, keys) of values (N,) by key (N,); the key -1 is left out."""
        chosen = key >= 0
        table = np.zeros((self.weights.shape[1], keys), np.float32)
        np.add.at(table, (self.unit[chosen], key[chosen]), values[chosen])
        return self.weights @ table

    def means(self, values, key=None, keys=1):
        """[Estimate] of the mean of values (N,) for every key (N,); the key -1 is left out."""
        values = np.asarray(values, np.float64)
        key = np.where(np.isfinite(values), 0 if key is None else key, -1)
        chosen = key >= 0
        n = np.bincount(key[chosen], minlength=keys)
        total = np.bincount(key[chosen], values[chosen], minlength=keys)
        with np.errstate(invalid="ignore", divide="ignore"):
            replicates = self.totals(values, key, keys) / self.totals(np.ones(len(values)), key, keys)
            return [Estimate(total[i] / n[i], replicates[:, i], n[i]) for i in range(keys)]


# ---------------------------------------------------------------- who wins

def outcomes(windows, predicted):
    """Which action won: FIRST, SECOND, THIRD or NEITHER, int (N,). predicted: labels (N,)."""
    hit = windows.actions == np.asarray(predicted)[:, None]
    return np.where(hit.any(1), hit.argmax(1), NEITHER)


def probabilities(windows, p):
    """(of the three actions (N, 3), NaN where there is none; the best other label; its own).

    p: (N, C), rows add up to one. The best other one is -1 and 0 when the window shows all classes.
    """
    rows = np.arange(len(p))
    own = np.where(windows.actions >= 0, p[rows[:, None], windows.actions], np.nan)
    rest = p.copy()
    for part in range(3):
        there = windows.actions[:, part] >= 0
        rest[rows[there], windows.actions[there, part]] = -1
    other = rest.argmax(1)
    best = rest[rows, other]
    return own, np.where(best < 0, -1, other), np.maximum(best, 0)


def shares(windows, predicted, weights):
    """A dict for every mix: n, its frame counts, the Estimates of who won it, and of being right.

    `right` is None where the majority is a tie.
    """
    names, code = mixes(windows)
    who = outcomes(windows, predicted)
    won = {name: weights.means(who == i, code, len(names)) for i, name in enumerate(OUTCOMES)}
    right = weights.means(np.asarray(predicted) == windows.majority,
                          np.where(windows.majority >= 0, code, -1), len(names))
    rows = []
    for i, name in enumerate(names):
        parts = name.count("+") + 1
        rows.append({"mix": name, "counts": [int(n) for n in name.split("+")], "n": won["first"][i].n,
                     **{o: won[o][i] for o in (*OUTCOMES[:parts], "neither")},
                     "right": right[i] if right[i].n else None})
    return rows


# ---------------------------------------------------------------- switching

def fit_logistic(share, weight):
    """Logistic curves through share (R, K) at x = 0 ... K-1 -> (point, slope, lapse), each (R,).

    share = lapse + (1 - 2 lapse) / (1 + exp(-slope (x - point))), so that the curve passes one half
    at `point`. The lapse is how far its ends stay from 0 and 1, for a network that errs on windows
    of one action would otherwise look as if it changed its mind slowly. slope: logits a frame.
    NaN where the curve does not rise, or by less than a fifth from end to end. weight: (R, K).
    Least squares (Levenberg and Marquardt), with a touch of ridge on the slope: where no window is
    in doubt it keeps the slope finite, and the point in the middle between the two sides.
    """
    x, eye = np.arange(share.shape[1]), np.eye(3)
    weight = np.nan_to_num(weight / np.maximum(weight.sum(1, keepdims=True), 1e-12))
    y = np.where(weight > 0, np.nan_to_num(share, nan=0.5), 0.5)

    def curve(fit):
        step = 1 / (1 + np.exp(-np.clip(fit[:, 1:2] * (x - fit[:, :1]), -60, 60)))
        error = fit[:, 2:] + (1 - 2 * fit[:, 2:]) * step - y
        return step, error, (weight * error ** 2).sum(1) + RIDGE * fit[:, 1] ** 2

    lapse = np.clip((y[:, 0] + 1 - y[:, -1]) / 2, 0.01, 0.4)
    middle = x[-1] + 0.5 - ((y[:, 1:] - lapse[:, None]) / (1 - 2 * lapse[:, None])).sum(1)
    fit = np.stack([np.clip(middle, 0, x[-1]), np.ones(len(y)), lapse], 1)
    damping, (step, error, loss) = np.full(len(y), 1e-3), curve(fit)
    for _ in range(80):
        bend = (1 - 2 * fit[:, 2:]) * step * (1 - step)
        slopes = np.stack([-fit[:, 1:2] * bend, (x - fit[:, :1]) * bend, 1 - 2 * step], 2)   # (R, K, 3)
        gradient = ((weight * error)[..., None] * slopes).sum(1)
        hessian = np.einsum("rk,rki,rkj->rij", weight, slopes, slopes)
        gradient[:, 1] += RIDGE * fit[:, 1]
        hessian[:, 1, 1] += RIDGE
        there = fit - np.linalg.solve(hessian + damping[:, None, None] * eye, gradient[..., None])[..., 0]
        there[:, 2] = np.clip(there[:, 2], 0, 0.49)
        new_step, new_error, new_loss = curve(there)
        better = (new_loss < loss)[:, None]
        fit, step, error = (np.where(better, new, old) for new, old in
                            ((there, fit), (new_step, step), (new_error, error)))
        loss = np.where(better[:, 0], new_loss, loss)
        damping = np.clip(np.where(better[:, 0], damping / 4, damping * 4), 1e-10, 1e6)
    centred = x - (weight * x).sum(1, keepdims=True)
    rises = ((weight * centred * y).sum(1) > 1e-6) & (fit[:, 1] > 1e-2) & (fit[:, 2] < 0.4)
    return tuple(np.where(rises, column, np.nan) for column in fit.T)


def recency_index(point, length):
    """+1: the last frame alone decides, 0: half of the frames, -1: the first frame alone.

    A reader of the last frame turns between 0 and 1 frames of the second action, at 1/2; one
    that counts frames at T/2; a reader of the first frame between T-1 and T. So the index is
    (T/2 - point) / (T/2 - 1/2), cut off at its ends. NaN for windows of one frame.
    """
    if length < 2:
        return np.full_like(np.asarray(point, float), np.nan)
    return np.clip((length - 2 * np.asarray(point)) / (length - 1), -1, 1)


@dataclass(frozen=True)
class Switching:
    """curve: [Estimate] of r for k = 0 ... T frames of the later action; Estimates of the fit."""
    curve: list
    point: Estimate
    slope: Estimate
    lapse: Estimate
    recency: Estimate

    def as_json(self):
        return {"recency_index": self.recency.as_json(), "point_of_equality": self.point.as_json(),
                "slope": self.slope.as_json(), "lapse": self.lapse.as_json(),
                "curve": {str(k): e.as_json() for k, e in enumerate(self.curve)}}


def switching(r, weights):
    """r: (M, T+1), the later action's share of the two probabilities; NaN is left out.

    weights: of the M cuts.
    """
    cuts, steps = r.shape
    spread = Weights(weights.weights, np.repeat(weights.unit, steps))
    k = np.where(np.isfinite(r), np.arange(steps), -1).reshape(-1)
    values = np.nan_to_num(r).reshape(-1)
    n = np.bincount(k[k >= 0], minlength=steps)
    total = np.bincount(k[k >= 0], values[k >= 0], minlength=steps)
    counts = np.vstack([n, spread.totals(np.ones(len(k)), k, steps)])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.vstack([total, spread.totals(values, k, steps)]) / counts
    point, slope, lapse = fit_logistic(mean, counts)
    index = recency_index(point, steps - 1)
    fit = [Estimate(x[0], x[1:], cuts) for x in (point, slope, lapse, index)]
    return Switching([Estimate(mean[0, i], mean[1:, i], n[i]) for i in range(steps)], *fit)


def play_order(r, control):
    """r of the second action -> r of the action that comes late when `control` is played.

    Backwards, the first action comes late, with T-k frames.
    """
    return 1 - r[:, ::-1] if control == "backwards" else r


def duel(windows, predicted, weights):
    """Where the majority shows one action and the last frame another: who wins? Estimates by name.

    Windows of two actions whose second has fewer frames than the first. Under `agree` the other
    windows of two actions, where majority and last frame are one.
    """
    two = (windows.counts[:, 1] > 0) & (windows.counts[:, 2] == 0) & (windows.majority >= 0)
    apart = two & (windows.counts[:, 0] > windows.counts[:, 1])
    who = outcomes(windows, predicted)
    key = np.where(apart, 0, np.where(two, 1, -1))
    won = [weights.means(who == i, key, 2) for i in (FIRST, SECOND, NEITHER)]
    difference = (who == SECOND).astype(float) - (who == FIRST)
    return {"majority": won[0][0], "last_frame": won[1][0], "neither": won[2][0],
            "last_frame_minus_majority": weights.means(difference, key, 2)[0],
            "agree": {"both": won[1][1], "first": won[0][1], "neither": won[2][1]}}


def half_life(traces, weights):
    """(frames until the mean trace falls under one half, the mean trace), Estimate and [Estimate].

    traces: (M, L+1), 1 at the cut, NaN where the movie ends. inf: never within L frames.
    """
    cuts, steps = traces.shape
    spread = Weights(weights.weights, np.repeat(weights.unit, steps))
    key = np.where(np.isfinite(traces), np.arange(steps), -1).reshape(-1)
    means = spread.means(np.nan_to_num(traces).reshape(-1), key, steps)
    curves = np.vstack([[e.value for e in means], np.stack([e.replicates for e in means], 1)])
    lives = _crossing(curves, 0.5)
    return Estimate(lives[0], lives[1:], cuts), means


def _crossing(curves, level):
    """Where each row of curves (R, K) first falls under `level`, between two steps; inf if nowhere."""
    under = curves < level
    after = under.argmax(1)
    rows = np.arange(len(curves))
    before, now = curves[rows, np.maximum(after - 1, 0)], curves[rows, after]
    with np.errstate(divide="ignore", invalid="ignore"):
        where = after - (level - now) / (before - now)
    return np.where(under.any(1), where, np.inf)


# ---------------------------------------------------------------- several runs

def pool(estimates, seed=0):
    """The mean over runs of one Estimate a run, whose replicates drew the same groups.

    In each replicate the runs are drawn with replacement too, so that the interval is for other
    recordings and other training seeds. With three seeds it is a rough one.
    """
    table = np.stack([e.replicates for e in estimates])                   # (runs, R)
    rng = np.random.default_rng((seed, 3))
    drawn = rng.integers(0, len(table), table.shape)
    replicates = np.take_along_axis(table, drawn, 0).mean(0)
    return Estimate(float(np.mean([e.value for e in estimates])), replicates,
                    int(np.mean([e.n for e in estimates])))


def difference(a, b):
    """a - b, for two Estimates whose replicates drew the same groups."""
    return Estimate(a.value - b.value, a.replicates - b.replicates, min(a.n, b.n))
