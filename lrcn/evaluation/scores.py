"""How good the answers are: top-k, losses, figures of each class, late fusion, calibrated confidence.

probabilities (N, C) are of N clips, labels int (N,) their true classes.
"""
import math

import numpy as np

from lrcn.base.lazy import Lazy
from lrcn.evaluation.intervals import share_of

torch = Lazy("torch")
F = Lazy("torch.nn.functional")
stats, special = Lazy("scipy.stats"), Lazy("scipy.special")

# ---------------------------------------------------------------- accuracy and losses


def score(logits, labels):
    """Cross-entropy in nats, and top_k."""
    labels = torch.as_tensor(labels)
    return {"loss": F.cross_entropy(logits, labels).item(), **top_k(logits, labels)}


def top_k(values, labels):
    """{top1, top3, top5}: the share of right answers among the best 1, 3 and 5 of values (N, C), logits or
    probabilities; of equals the first counts as the best."""
    values, labels = torch.as_tensor(values), torch.as_tensor(labels)
    best = values.sort(dim=1, descending=True, stable=True).indices[:, :5] == labels[:, None]
    return {f"top{k}": best[:, :k].any(1).double().mean().item() for k in (1, 3, 5)}


def apart(guesses, labels, groups, background):
    """Figures without the background class: {classes_videos, top1, ci95, called_background} of the videos of
    the other classes, {background_videos, called_a_class} of its own. guesses, labels: int (N,); background:
    its label. top1 and ci95 are None where there is no video."""
    of_class, none = labels != background, guesses == background
    right = (guesses == labels)[of_class]
    share = share_of(right, np.asarray(groups)[of_class]) if len(right) else None
    return {"classes_videos": len(right), "top1": share and share.value, "ci95": share and share.ci95,
            "called_background": int((of_class & none).sum()), "background_videos": int((~of_class).sum()),
            "called_a_class": int((~of_class & ~none).sum())}


def summarise(probabilities, labels, groups):
    """{top1, top3, top5, mean_class_accuracy, macro_f1, mean_average_precision, loss, ci95, ece, ece_bins,
    videos, groups, classes}. Means over classes are over those that have a video."""
    classes = by_class(probabilities, labels)
    chosen = np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)
    return {**top_k(probabilities, labels),
            **{name: float(np.nanmean(classes[one])) for name, one in
               (("mean_class_accuracy", "recall"), ("macro_f1", "f1"),
                ("mean_average_precision", "average_precision"))},
            "loss": float(-np.log(chosen).mean()),
            "ci95": share_of(probabilities.argmax(1) == labels, groups).ci95,
            "ece": expected_error(reliability(probabilities, labels)), "ece_bins": BINS,
            "videos": len(labels), "groups": len(set(groups)), "classes": int((classes["videos"] > 0).sum())}


def by_class(probabilities, labels):
    """{"videos": int (C,), "precision", "recall" (the accuracy of a class), "f1", "average_precision": float
    (C,)}; NaN for a class without a video, and the precision of one that is never answered is 0."""
    guesses, classes = probabilities.argmax(1), probabilities.shape[1]
    n, answered = (np.bincount(some, minlength=classes) for some in (labels, guesses))
    hits = np.bincount(labels[guesses == labels], minlength=classes)
    figures = {"precision": hits / np.maximum(answered, 1), "recall": hits / np.maximum(n, 1),
               "f1": 2 * hits / np.maximum(n + answered, 1),
               "average_precision": np.array([average_precision(p, labels == c)
                                              for c, p in enumerate(probabilities.T)])}
    return {"videos": n, **{name: np.where(n > 0, values, np.nan) for name, values in figures.items()}}


def average_precision(values, positive):
    """The mean over the positives, bool (N,), of the precision among all whose value (N,) is as high."""
    order = np.argsort(-values, kind="stable")
    last = np.flatnonzero(np.diff(values[order], append=-np.inf))       # of equal values
    hits = np.cumsum(positive[order])[last]
    return float((np.diff(hits, prepend=0) * hits / (last + 1)).sum() / max(hits[-1], 1))


FEW_MEANS = "at most 0.9 of the mean number of training videos"


def under_represented(train_counts):
    """bool (C,): classes with as few training videos as FEW_MEANS says; 26 of 101 on UCF-101's split 1."""
    return (train_counts <= 0.9 * np.mean(train_counts)) & np.any(train_counts)     # none: not known


def correlation_words(counts, accuracy):
    """Spearman's rank correlation of accuracy and training videos over the classes, (C,) each, in words."""
    if len(counts) < 8 or len(np.unique(counts)) < 2 or len(np.unique(accuracy)) < 2:
        return "no rank correlation: fewer than 8 classes, or all alike"
    rank, p = stats.spearmanr(counts, accuracy)
    return f"Spearman's rank correlation {rank:+.2f} (p {p:.2g}, {len(counts)} classes)"


# ---------------------------------------------------------------- late fusion

def weighted_mean(probabilities, weights):
    """The fusion (N, C) of several streams' probabilities, each (N, C), the same in any order of them."""
    total = math.fsum(weights)
    parts = np.stack([p * (w / total) for p, w in zip(probabilities, weights, strict=True)])
    return np.sort(parts, 0).sum(0)


def likeliest_weights(chosen):
    """Weights (S,), of sum 1, with which the mean of S streams has the least cross-entropy. chosen: what each
    stream says of the true classes, (S, N). The loss is convex in the weights; this is expectation
    maximisation for the shares of a mixture (Dempster, Laird and Rubin 1977, section 4.3)."""
    chosen = np.maximum(chosen, 1e-12)
    weights = np.full(len(chosen), 1 / len(chosen))
    for _ in range(10_000):
        before, mixed = weights, weights @ chosen
        weights = weights * (chosen / mixed).mean(1)
        if np.abs(weights - before).max() < 1e-9:
            break
    return weights / weights.sum()


# ---------------------------------------------------------------- confidence

BINS, COLDEST = 15, 0.05    # as in Guo et al. 2017; the lowest temperature, and of the highest the inverse
NINE_OF_TEN = 0.9


def temperature(logits, labels):
    """What to divide logits (N, C) by for the least cross-entropy of their softmax (Guo et al. 2017, section
    4.2), from COLDEST to 1 / COLDEST. As if there were one clip more, of which nobody knows the class: where
    all N answers are right, nothing else would keep the softmax from being quite sure."""
    z = np.asarray(logits, np.float64)
    z = z - z.max(1, keepdims=True)
    true = z[np.arange(len(z)), labels]
    wanted = (true + (z.mean(1) - true) / (len(z) + 1)).mean()
    low, high = math.log(COLDEST), -math.log(COLDEST)       # of the inverse, in which the loss is convex
    for _ in range(40):
        middle = (low + high) / 2
        slope = (special.softmax(math.exp(middle) * z, 1) * z).sum(1).mean() - wanted
        low, high = (middle, high) if slope < 0 else (low, middle)
    return math.exp(-middle)


def nine_of_ten(probabilities, labels):
    """The lowest confidence of an answer such that of it and of all that are as sure or surer nine of ten are
    right, by probabilities (N, C); None where there is none."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    order = np.argsort(-confidence, kind="stable")
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    confidence = confidence[order]
    last = np.append(confidence[1:] != confidence[:-1], True)       # of some that are equally sure
    enough = np.flatnonzero(last & (share >= NINE_OF_TEN))
    return float(confidence[enough[-1]]) if len(enough) else None


def reliability(probabilities, labels):
    """(mean confidence, share right, how many), each (BINS,), of answers (N, C) by their confidence; the
    bins are equally wide, and the first two NaN where there is none."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    number = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    n = np.bincount(number, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return *(np.bincount(number, values, BINS) / n for values in (confidence, right)), n


def expected_error(bins):
    """Expected calibration error: the mean over the answers of how far their bin's confidence lies from its
    share of right ones. bins: of `reliability`."""
    confidence, right, n = bins
    return float(np.nansum(np.abs(confidence - right) * n) / n.sum())
