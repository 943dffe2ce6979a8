"""Which labels a network contradicts that has not seen the group of their clip.

    said = suspicion(features, labels, groups)      # probabilities (N, C)
    doubt = 1 - said[np.arange(len(labels)), labels]

The network is ridge regression on the features: what it would say of a group without having learned from it
follows from one fit of all (the rows of the hat matrix that are the group's), so that every group is held out
by itself, exactly, at the price of one training.
"""
import numpy as np

STRENGTHS = (1e-3, 1e-2, 1e-1)      # of the penalty, as shares of the features' mean square
SHARPNESS = np.geomspace(1, 100, 25)    # what scores are multiplied by to be logits


def suspicion(features, labels, groups):
    """Probabilities float64 (N, C) of the classes by networks that have not seen the clip's group; NaN in all
    rows where there is one group alone. A class of one group has no chance there. features: (N, D); labels:
    int (N,) from 0 to C - 1; groups: N names. Penalty and sharpness are those with the lowest cross-entropy
    of what is held out."""
    labels, part = np.asarray(labels), np.unique(groups, return_inverse=True)[1]
    count = np.bincount(part)
    if len(count) < 2:
        return np.full((len(labels), labels.max(initial=0) + 1), np.nan)
    truth = np.eye(labels.max() + 1)[labels]
    values = np.asarray(features, np.float64)
    values = values - values.mean(0)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    values = np.hstack([values, np.ones((len(values), 1))])     # the last is what the others add to
    squares, axes = np.linalg.eigh(values.T @ values if values.shape[1] < len(values) else values @ values.T)
    kept = squares > 1e-9 * squares[-1]
    squares, axes = squares[kept], axes[:, kept]
    # left: orthonormal (N, R), the values' left singular vectors
    left = values @ axes / np.sqrt(squares) if values.shape[1] < len(values) else axes
    members = np.split(np.argsort(part, kind="stable"), np.cumsum(count)[:-1])
    held = [_held_out(left, squares / (squares + strength * len(values)), truth, members)
            for strength in STRENGTHS]
    right = np.arange(len(labels)), labels
    return min((_softmax(sharp * scores) for scores in held for sharp in SHARPNESS),
               key=lambda said: -np.log(np.maximum(said[right], 1e-6)).mean())


def _held_out(left, shrunk, truth, members):
    """Scores (N, C) of every group by the fit of the others: truth less (I - H_gg)^-1 times what the whole
    fit leaves of it, H = left diag(shrunk) left'."""
    rest, scores = truth - (left * shrunk) @ (left.T @ truth), np.empty_like(truth)
    for rows in members:
        own = left[rows]
        if len(rows) <= len(shrunk):
            whole = np.linalg.solve(np.eye(len(rows)) - (own * shrunk) @ own.T, rest[rows])
        else:       # the same, by a matrix of the features' size
            inner = np.linalg.solve(np.diag(1 / shrunk) - own.T @ own, own.T @ rest[rows])
            whole = rest[rows] + own @ inner
        scores[rows] = truth[rows] - whole
    return scores


def _softmax(logits):
    values = np.exp(logits - logits.max(1, keepdims=True))
    return values / values.sum(1, keepdims=True)
