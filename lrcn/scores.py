"""How good the answers are, and how sure one can be of it: top-k, losses, intervals, paired tests."""

import numpy as np
import torch
from torch.nn import functional as F


def score(logits, labels):
    """Cross-entropy in nats and the share of right answers among the best 1, 3 and 5."""
    labels = torch.as_tensor(labels)
    return {"loss": F.cross_entropy(logits, labels).item(), **top_k(logits, labels)}


def top_k(values, labels):
    """{top1, top3, top5}: the share of right answers among the best 1, 3 and 5.

    values: logits or probabilities (N, C); of equals the first counts as the best.
    """
    values, labels = torch.as_tensor(values), torch.as_tensor(labels)
    best = values.sort(dim=1, descending=True, stable=True).indices[:, :5] == labels[:, None]
    return {f"top{k}": best[:, :k].any(1).double().mean().item() for k in (1, 3, 5)}


def bootstrap_interval(right, groups, seed=0, replicates=10_000):
    """95% interval of the mean of `right` (N,), whole groups drawn with replacement; [low, high].

    Percentile bootstrap over clusters (Davison and Hinkley 1997, section 3.8): clips of one
    recording succeed or fail together, so that clips are no independent draws.
    """
    _, index = np.unique(groups, return_inverse=True)
    hits, sizes = np.bincount(index, right), np.bincount(index)
    random = np.random.default_rng(seed)
    means = []
    for _ in range(0, replicates, 1000):  # in parts: 101 classes of 25 groups make large tables
        times = random.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=1000)
        means.append(times @ hits / (times @ sizes))
    return [float(x) for x in np.percentile(np.concatenate(means), [2.5, 97.5])]


def summarise(probabilities, labels, groups):
    """{top1, top3, top5, mean_class_accuracy, loss, ci95, videos, groups, classes} of (N, C)."""
    right = probabilities.argmax(1) == labels
    accuracy = per_class(right, labels, probabilities.shape[1])[0]
    chosen = np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)
    return {**top_k(probabilities, labels), "mean_class_accuracy": float(np.nanmean(accuracy)),
            "loss": float(-np.log(chosen).mean()), "ci95": bootstrap_interval(right, groups),
            "videos": len(labels), "groups": len(set(groups)), "classes": int(len(set(labels.tolist())))}


def per_class(right, labels, classes):
    """(accuracy (C,), NaN where there is no video; videos (C,))."""
    n = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels, right, minlength=classes)
    return np.divide(hits, n, out=np.full(classes, np.nan), where=n > 0), n


FEW_MEANS = "at most 0.9 of the training videos of a mean class"


def under_represented(train_counts):
    """bool (C,): classes with as few training videos as FEW_MEANS says; 26 of 101 on UCF-101's split 1."""
    return train_counts <= 0.9 * np.mean(train_counts)


def paired(first, other):
    """(difference of top-1, its 95% interval over groups, McNemar's exact p or None), other minus first.

    McNemar (1947) counts the videos that only one of two classifiers has right; it is given where
    each recipe has one run. None for all where the test videos differ.
    """
    if first.videos != other.videos:
        return None, (None, None), None
    difference = other.right.mean(0) - first.right.mean(0)
    low, high = bootstrap_interval(difference, first.groups)
    p = None
    if len(first.right) == len(other.right) == 1:
        from scipy.stats import binomtest  # scikit-learn brings it
        won, lost = int((difference > 0).sum()), int((difference < 0).sum())
        p = binomtest(won, won + lost).pvalue if won + lost else 1.0
    return float(difference.mean()), (low, high), p
