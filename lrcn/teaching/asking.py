"""What the labels so far teach a network, what it says of all moments, and which moment to ask next.

    model = learn(moments, labels, passed, classes)     # Model
    model.ranking(30)                                   # [(moment, why)], the one that teaches most first
    hold_out(model); accuracy(model)                    # over films held out, with its interval

The network is a multinomial logistic regression on a moment's features, the mean over its frames and the
deviation, reduced to principal components. "None of these" is a class of its own, the last one.

Which moments are drawn at random does not depend on who labels what: each has a number of its own, and the
random share is the moments with the lowest numbers, up to the first without a label. Whatever they were asked
for, they are a random sample.
"""
import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lrcn.base import Lazy
from lrcn.evaluation import intervals

linear_model = Lazy("sklearn.linear_model")

SEED = 42
DIMENSIONS, FITTED = 256, 500      # principal components at most, of so many moments
FOLDS = 10                          # parts of the films, at most
STRENGTH = 30                       # C of scikit-learn's logistic regression, of features of the length 1
NEAR = 0.1                          # share of the moments that count as the most unsure ones


def drawn(film, start):
    """The number from 0 to 1 by which a moment is drawn at random."""
    digest = hashlib.sha256(f"{SEED}/{film}/{start:.3f}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


@dataclass
class Moments:
    """M moments. features: float32 (M, D), mean and deviation over the frames of each; films: int (M,), the
    film of each; drawn: float (M,)."""
    features: np.ndarray
    films: np.ndarray
    drawn: np.ndarray

    @cached_property
    def points(self):
        """float32 (M, P): the features, reduced to their principal components, with a root mean square length
        of 1."""
        values = self.features - self.features.mean(0)
        some = values[np.linspace(0, len(values) - 1, min(FITTED, len(values))).astype(int)]
        axes = np.linalg.svd(some, full_matrices=False)[2][:DIMENSIONS].T
        return values @ (axes / max(1e-9, np.sqrt(((some @ axes) ** 2).sum(1).mean())))


def answered(asked, points, labels, classes):
    """Probabilities float32 (n, classes) of the points `asked` (n, P), by the logistic regression of labels
    (N,) on points (N, P)."""
    answers, there = np.zeros((len(asked), classes), np.float32), np.unique(labels)
    if len(there) == 1:
        answers[:, there] = 1
    else:
        regression = linear_model.LogisticRegression(C=STRENGTH, max_iter=300).fit(points, labels)
        answers[:, regression.classes_] = regression.predict_proba(asked)
    return answers


@dataclass
class Model:
    """What was learned. labels: int (M,), a class, `classes` - 1 for none of them, -1 without a label;
    passed: bool (M,), moments that are not to be asked; answers: float (M, classes), what a network says of
    each, None before there is one; held: the same for the moments with labels, by networks that have not seen
    their film, NaN where there is none."""
    moments: Moments
    labels: np.ndarray
    passed: np.ndarray
    classes: int
    answers: np.ndarray | None = None
    held: np.ndarray | None = None

    @property
    def free(self):
        """The moments that may be asked."""
        return np.flatnonzero((self.labels < 0) & ~self.passed)

    def share(self):
        """The moments with labels of the share that is drawn at random."""
        end = self.moments.drawn[self.free].min(initial=2)
        return np.flatnonzero((self.labels >= 0) & (self.moments.drawn < end))

    def pairs(self):
        """int (N, 3): moment, its label and the answer of a network that has not seen its film."""
        if self.held is None:
            return np.zeros((0, 3), int)
        there = np.flatnonzero(np.isfinite(self.held).all(1))
        return np.stack([there, self.labels[there], self.held[there].argmax(1)], 1)

    def suspects(self):
        """The moments whose label such networks contradict, the most contradicted first."""
        wrong = [moment for moment, label, answer in self.pairs() if label != answer]
        return sorted(wrong, key=lambda moment: self.held[moment, self.labels[moment]])

    def surest(self, cls):
        """The moments without a label that are the surest of a class."""
        if self.answers is None:
            return []
        return self.free[np.argsort(-self.answers[self.free, cls], kind="stable")]

    def nearest(self, moment):
        """The moments without a label that are most like this one."""
        points, free = self.moments.points, self.free[self.free != moment]
        return free[np.argsort(((points[free] - points[moment]) ** 2).sum(1), kind="stable")]

    def ranking(self, most, waits=False):
        """[(moment, why)]: the next to ask, the one that teaches most first: of the moments that a network is
        most unsure of (by the margin between the two best classes) those that are unlike what has a label.
        waits: bool (M,), those that are asked before them."""
        near = self.free[~np.broadcast_to(waits, len(self.labels))[self.free]]
        why = "unlike"
        if self.answers is not None:
            best = np.partition(self.answers[near], -2, axis=1)
            near = near[np.argsort(best[:, -1] - best[:, -2], kind="stable")]
            near, why = near[:max(most, int(NEAR * len(self.labels)))], "unsure"
        taken = np.flatnonzero((self.labels >= 0) | waits)
        return [(int(i), why) for i in self._farthest(near, taken, most)]

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
    """The Model of the labels so far, without `held`. prior: float (M, classes), what another network says,
    which counts until two classes have labels."""
    model, there = Model(moments, labels, passed, classes, prior), np.flatnonzero(labels >= 0)
    if len(np.unique(labels[there])) > 1:
        model.answers = answered(moments.points, moments.points[there], labels[there], classes)
    return model


def hold_out(model, stop=lambda: False):
    """Give a Model its `held`: each film's labels by a network of the other films' (FOLDS parts of the films
    at most). stop: called between two parts; True leaves `held` as it was. One film alone has none: NaN."""
    labels, points = model.labels, model.moments.points
    there = np.flatnonzero(labels >= 0)
    part = np.unique(model.moments.films[there], return_inverse=True)[1] % FOLDS
    held = np.full((len(labels), model.classes), np.nan, np.float32)
    for number in np.unique(part) if part.any() else ():
        if stop():
            return
        others, mine = there[part != number], there[part == number]
        held[mine] = answered(points[mine], points[others], labels[others], model.classes)
    model.held = held


def accuracy(model):
    """{value, low, high, n, films}: how often networks that have not seen the film are right, over the
    moments drawn at random, with its 95% interval, films as groups; None where there is none yet. None is
    narrower than that of n independent answers: a few films hardly tell how they differ."""
    moment, label, answer = model.pairs().T
    drawn = np.isin(moment, model.share())
    if not drawn.any():
        return None
    right, films = (label == answer)[drawn], model.moments.films[moment[drawn]]
    estimate = intervals.share_of(right, films)
    variance, freedom, groups = estimate.units.variance(estimate.errors.mean(0), estimate.counts > 0)
    value, n = estimate.value, len(right)
    low, high = intervals.wilson(value, max(variance, value * (1 - value) / n), freedom, groups, n)
    return {"value": value, "low": low, "high": high, "n": n, "films": groups}
