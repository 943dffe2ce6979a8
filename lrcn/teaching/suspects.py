"""Which labels a network contradicts that has not seen the group of their clip.

    said = suspicion(features, labels, groups)      # probabilities (N, C)
    doubt = 1 - said[np.arange(len(labels)), labels]

The network is ridge regression on the features: what it would say of a group without having learned from it
follows from one fit of all, so that every group is held out by itself at the price of one training: no
other group of its class is missing, as in the parts of asking.hold_out.
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
    truth, best, least = np.eye(labels.max() + 1)[labels], None, np.inf
    if part.max() < 1:
        return np.full_like(truth, np.nan)
    values = np.asarray(features, np.float64)
    values = values - values.mean(0)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    left, sizes, _ = np.linalg.svd(np.hstack([values, np.ones((len(values), 1))]), full_matrices=False)
    members = np.split(np.argsort(part, kind="stable"), np.cumsum(np.bincount(part))[:-1])
    for strength in STRENGTHS:
        shrunk, scores = sizes ** 2 / (sizes ** 2 + strength * len(values)), np.empty_like(truth)
        rest = truth - (left * shrunk) @ (left.T @ truth)
        for rows in members:    # truth less (I - H)^-1 rest, H the group's block of the hat matrix
            own = left[rows]
            hat = (own * shrunk) @ own.T
            scores[rows] = truth[rows] - np.linalg.solve(np.eye(len(rows)) - hat, rest[rows])
        for sharp in SHARPNESS:
            said = np.exp(sharp * (scores - scores.max(1, keepdims=True)))
            said /= said.sum(1, keepdims=True)
            loss = -np.log(np.maximum(said[np.arange(len(labels)), labels], 1e-6)).mean()
            if loss < least:
                best, least = said, loss
    return best
