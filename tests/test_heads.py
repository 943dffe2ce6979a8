"""The heads of the first, the second and the fifth system, layer by layer beside
their descriptions in torch."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import models
from lrcn.base.cli import UserError
from lrcn.training.recipe import Recipe

DIM, CLASSES, FRAMES = 24, 5, 4


class First(nn.Module):
    """A linear layer, an LSTM read at its last step, a linear layer; no norm, no ReLU, no dropout."""

    def __init__(self, latent=512, hidden=256, layers=2):
        super().__init__()
        self.fc = nn.Linear(DIM, latent)
        self.lstm = nn.LSTM(latent, hidden, layers, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * hidden, CLASSES)

    def forward(self, x):
        return self.out(self.lstm(self.fc(x))[0][:, -1])


class Second(nn.Module):
    """A linear layer and a batch norm, one LSTM layer, attention over time, a layer of 1,024 with batch
    norm and ReLU, a linear layer."""

    def __init__(self, latent=512, hidden=1024):
        super().__init__()
        self.fc, self.norm = nn.Linear(DIM, latent), nn.BatchNorm1d(latent, momentum=0.01)
        self.lstm = nn.LSTM(latent, hidden, 1, batch_first=True, bidirectional=True)
        self.score = nn.Linear(2 * hidden, 1)
        self.between, self.second_norm = nn.Linear(2 * hidden, 1024), nn.BatchNorm1d(1024, momentum=0.01)
        self.out = nn.Linear(1024, CLASSES)

    def forward(self, x):
        latent = self.norm(self.fc(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        steps = self.lstm(latent)[0]
        read = (self.score(steps).softmax(1) * steps).sum(1)
        return self.out(F.relu(self.second_norm(self.between(read))))


class Fifth(nn.Module):
    """Dropout on the features, a GRU, attention over time, 64 SELU, a linear layer (Keras' words: GRU(128,
    dropout=0.5, return_sequences), Dense(1), softmax over time, Dense(64, selu), Dense(classes))."""

    def __init__(self, hidden=128):
        super().__init__()
        self.gru, self.score = nn.GRU(DIM, hidden, batch_first=True), nn.Linear(hidden, 1)
        self.between, self.out = nn.Linear(hidden, 64), nn.Linear(64, CLASSES)

    def forward(self, x):
        steps = self.gru(F.dropout(x, 0.5, self.training))[0]
        read = (self.score(steps).softmax(1) * steps).sum(1)
        return self.out(F.selu(self.between(read)))


# The options that build each, and what the description's layers are called in models.Head.
SYSTEMS = {
    "first": (First, dict(projection="linear", readout="last", dropout=0),
              {"fc": "projection.0", "lstm": "lstm", "out": "classifier.1"}),
    "second": (Second, dict(projection="batchnorm", readout="attention", dropout=0, lstm_layers=1,
                            hidden_size=1024, classifier_hidden=1024),
               {"fc": "projection.0", "norm": "projection.1", "lstm": "lstm", "score": "score",
                "between": "classifier.1", "second_norm": "classifier.2", "out": "classifier.4"}),
    "fifth": (Fifth, dict(rnn="gru", projection="none", hidden_size=128, lstm_layers=1, bidirectional=False,
                          readout="attention", dropout=0.5, classifier_hidden=64, classifier_dropout=0,
                          classifier_activation="selu"),
              {"gru": "lstm", "score": "score", "between": "classifier.1", "out": "classifier.3"})}


def both(name):
    """(the description with some weights, the Head that the options build with the same ones)."""
    kind, options, names = SYSTEMS[name]
    torch.manual_seed(0)
    described, head = kind(), models.Head(DIM, CLASSES, **options)
    state = {".".join([names[layer], rest]): value for key, value in described.state_dict().items()
             for layer, _, rest in [key.partition(".")]}
    head.load_state_dict(state)     # strict: neither has a layer that the other lacks
    return described, head


@pytest.fixture
def features():
    return torch.randn(6, FRAMES, DIM, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_head_is_the_described_one_in_training_and_in_test(name, features):
    described, head = both(name)
    for mode in (True, False):      # in training first: the running statistics move alike
        answers = []
        for network in (head, described):
            torch.manual_seed(2)    # of the dropout
            answers.append(network.train(mode)(features))
        torch.testing.assert_close(*answers)
    for moved, expected in zip(head.buffers(), described.buffers(), strict=True):
        torch.testing.assert_close(moved, expected)


def test_a_batch_of_one_clip_trains_a_head_with_batch_norms(features):
    """An epoch's last batch may be one clip, whose hidden layer has no spread to normalise by."""
    _, head = both("second")
    head.train()(features[:1]).sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_a_recipes_head_is_the_default_one_and_an_unknown_choice_is_refused():
    head = models.Head(DIM, CLASSES)
    assert models.Head.of(Recipe(), DIM, CLASSES).spec == head.spec == models.Head(**head.spec).spec
    assert models.Head.of(Recipe(loss_per_step=True), DIM, CLASSES).spec["per_step"]
    for wrong, says in (({"projection": "layers"}, "projection: expected one of norm"),
                        ({"readout": "middle"}, "readout: expected"), ({"layers": 2}, "'layers'")):
        with pytest.raises(UserError, match=says):
            models.Head(DIM, CLASSES, **wrong)
