"""What the labels so far teach a network, what it says of all moments, and which moment to ask next.

    model = learn(moments, labels, passed, classes)     # Model
    model.ranking("diverse", 30)                        # [(moment, why)], the one that teaches most first
    hold_out(model); accuracy(model)                    # over films held out, with its interval

The network is a multinomial logistic regression on a moment's features, the mean over its frames and the
deviation, reduced to principal components. "None of these" is a class of its own to it, the last one.

Which moments are drawn at random does not depend on who labels what: each has a number of its own, and the
share that is drawn at random is those with the lowest numbers, up to the first without a label. Whoever asked
for them, they are a random sample.
"""
import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lrcn.base.lazy import Lazy
from lrcn.evaluation import intervals

linear_model = Lazy("sklearn.linear_model")

ORDERS = ("random", "margin", "diverse")
DIMENSIONS, FITTED = 256, 500      # principal components at most, of so many moments
FOLDS = 10                          # of films, at most
STRENGTH = 30                       # C of scikit-learn's logistic regression, of features of the length 1
NEAR = 0.1                          # share of the moments that count as the most unsure ones


def drawn(seed, film, start):
    """The number from 0 to 1 by which a moment is drawn."""
    digest = hashlib.sha256(f"{seed}/{film}/{start:.3f}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


@dataclass
class Moments:
    """What is known of M moments. features: float32 (M, D), mean and deviation over the frames of each;
    films: int (M,); drawn: float (M,)."""
    features: np.ndarray
    films: np.ndarray
    drawn: np.ndarray

    @cached_property
    def _reduced(self):
        """(mean (D,), matrix (D, P)) of what features are reduced by: to their principal components, of the
        length 1 in the root mean square."""
        mean = self.features.mean(0)
        some = self.features[np.linspace(0, len(self.features) - 1,
                                         min(FITTED, len(self.features))).astype(int)] - mean
        axes = np.linalg.svd(some, full_matrices=False)[2][:DIMENSIONS]
        return mean, axes.T / max(1e-9, np.sqrt(((some @ axes.T) ** 2).sum(1).mean()))

    def project(self, features):
        """float32 (n, P): features (n, D) as these are reduced."""
        mean, axes = self._reduced
        return (features - mean) @ axes

    @cached_property
    def points(self):
        """float32 (M, P): the features, reduced."""
        return self.project(self.features)


def fitted(points, labels, classes):
    """The logistic regression of labels (N,) on points (N, D), as a function: points to probabilities
    float32 (n, classes)."""
    there = np.unique(labels)
    if len(there) == 1:
        return lambda more: np.eye(classes, dtype=np.float32)[np.full(len(more), there[0])]
    regression = linear_model.LogisticRegression(C=STRENGTH, max_iter=300).fit(points, labels)

    def probabilities(more):
        out = np.zeros((len(more), classes), np.float32)
        out[:, regression.classes_] = regression.predict_proba(more)
        return out
    return probabilities


@dataclass
class Model:
    """What was learned. labels: int (M,), a class, `classes` - 1 for none of them, -1 where there is no
    label; passed: bool (M,), moments not to be asked; probabilities: float32 (M, classes), None before two
    classes have labels; held: the same for the moments with labels, by networks that have not seen their
    film."""
    moments: Moments
    labels: np.ndarray
    passed: np.ndarray
    classes: int
    prior: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    held: np.ndarray | None = None

    @property
    def free(self):
        """The moments that may be asked."""
        return np.flatnonzero((self.labels < 0) & ~self.passed)

    def share(self):
        """The moments with labels of the share that is drawn at random."""
        labelled = self.labels >= 0
        end = self.moments.drawn[self.free].min(initial=2)
        return np.flatnonzero(labelled & (self.moments.drawn < end))

    def said(self):
        """float (M, classes): what is known of each moment, None where nothing is."""
        return self.prior if self.probabilities is None else self.probabilities

    def pairs(self):
        """int (N, 2): true class and the one that was said by a network that has not seen the film."""
        there = np.flatnonzero((self.labels >= 0) & np.isfinite(self.held).all(1))
        return np.stack([self.labels[there], self.held[there].argmax(1)], 1)

    def suspects(self):
        """The moments whose label such networks contradict, the most contradicted first."""
        if self.held is None:
            return []
        there = np.flatnonzero((self.labels >= 0) & np.isfinite(self.held).all(1))
        there = there[self.held[there].argmax(1) != self.labels[there]]
        return there[np.argsort(self.held[there, self.labels[there]], kind="stable")]

    def surest(self, cls):
        """The moments without a label that are the surest of a class."""
        said = self.said()
        return [] if said is None else self.free[np.argsort(-said[self.free, cls], kind="stable")]

    def nearest(self, moment):
        """The moments without a label that are most like this one."""
        points, free = self.moments.points, self.free[self.free != moment]
        return free[np.argsort(((points[free] - points[moment]) ** 2).sum(1), kind="stable")]

    def margins(self):
        """float (M,): how much surer the best class is than the second."""
        said = self.said()
        if said is None or said.shape[1] < 2:
            return np.zeros(len(self.labels), np.float32)
        best = np.partition(said, -2, axis=1)[:, -2:]
        return best[:, 1] - best[:, 0]

    def ranking(self, order, most, waits=False):
        """[(moment, why)]: the next to ask, the one that teaches most first. waits: bool (M,), those that are
        asked before them, whatever they teach."""
        free = self.free[~np.broadcast_to(waits, len(self.labels))[self.free]]
        if order == "random" or not len(free):
            by_lot = free[np.argsort(self.moments.drawn[free], kind="stable")]
            return [(int(i), "random") for i in by_lot[:most]]
        unsure = free[np.argsort(self.margins()[free], kind="stable")]
        if order == "margin" and self.probabilities is not None:
            return [(int(i), "unsure") for i in unsure[:most]]
        known = self.probabilities is not None or self.prior is not None
        near = unsure[:max(most, int(NEAR * len(self.labels)))] if known else unsure
        taken = np.flatnonzero((self.labels >= 0) | waits)
        return [(int(i), "unsure" if known else "unlike") for i in self._farthest(near, taken, most)]

    def _farthest(self, candidates, taken, most):
        """Of the candidates those that lie farthest from the moments `taken`, and from one another, one by
        one (k-centre, greedily). A film counts as nearer the more of its moments are taken."""
        points, films = self.moments.points, self.moments.films
        seen = np.bincount(films[taken], minlength=films.max() + 1).astype(float)
        distance = np.full(len(candidates), np.inf)
        for i in taken:
            np.minimum(distance, ((points[candidates] - points[i]) ** 2).sum(1), out=distance)
        if np.isinf(distance).all():
            distance = -((points[candidates] - points.mean(0)) ** 2).sum(1) + 1e3
        for _ in range(min(most, len(candidates))):
            best = int((distance / (1 + seen[films[candidates]])).argmax())
            yield candidates[best]
            seen[films[candidates[best]]] += 1
            np.minimum(distance, ((points[candidates] - points[candidates[best]]) ** 2).sum(1), out=distance)
            distance[best] = -np.inf


def learn(moments, labels, passed, classes, prior=None):
    """The Model of the labels so far, its `held` aside."""
    model = Model(moments, labels, passed, classes, prior)
    there = np.flatnonzero(labels >= 0)
    if len(np.unique(labels[there])) > 1:
        model.probabilities = fitted(moments.points[there], labels[there], classes)(moments.points)
    return model


def hold_out(model, stop=lambda: False):
    """Give a Model its `held`: each film's labels by a network of the other films' (FOLDS parts of the films
    at most). stop: called between two parts; True leaves `held` as it was. One film alone has none: NaN."""
    films, labels, points = model.moments.films, model.labels, model.moments.points
    there = np.flatnonzero(labels >= 0)
    names, part = np.unique(films[there], return_inverse=True)
    part, held = part % FOLDS, np.full((len(labels), model.classes), np.nan, np.float32)
    for number in range(min(FOLDS, len(names)) if len(names) > 1 else 0):
        if stop():
            return
        others, mine = there[part != number], there[part == number]
        held[mine] = fitted(points[others], labels[others], model.classes)(points[mine])
    model.held = held


def accuracy(model):
    """{value, low, high, n, films}: how often networks that have not seen the film are right, over the
    moments drawn at random, with its 95% interval, films as groups; None where there is none yet. None is
    narrower than that of n independent answers: a few films hardly tell how they differ."""
    if model.held is None:
        return None
    share = model.share()
    share = share[np.isfinite(model.held[share]).all(1)]
    if not len(share):
        return None
    right, films = model.held[share].argmax(1) == model.labels[share], model.moments.films[share]
    estimate = intervals.share_of(right, films)
    variance, freedom, groups = estimate.units.variance(estimate.errors.mean(0), estimate.counts > 0)
    value, n = estimate.value, len(share)
    low, high = intervals.wilson(value, max(variance, value * (1 - value) / n), freedom, groups, n)
    return {"value": value, "low": low, "high": high, "n": n, "films": groups}
