"""lrcn/scores.py against the libraries that know its figures."""
import pytest
import torch
from sklearn import metrics as sk

from lrcn import scores


def test_scores_are_scikit_learns():
    logits = torch.randn(200, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(7, (200,), generator=torch.Generator().manual_seed(1))
    got = scores.score(logits, labels)
    shares = logits.softmax(1).numpy()
    for k in (1, 3, 5):
        assert got[f"top{k}"] == pytest.approx(sk.top_k_accuracy_score(labels, shares, k=k))
    assert got["loss"] == pytest.approx(sk.log_loss(labels, shares), rel=1e-5)
