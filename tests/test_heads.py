"""The heads of the first, the second and the fifth system, layer by layer beside
their descriptions in torch."""
import pytest
import torch
from networks import one_direction
from torch import nn
from torch.nn import functional as F

import models

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


def lstm_parameters(inputs, hidden, layers):
    """Of both directions: four gates, each with its inputs, its own outputs and two biases."""
    return sum(2 * 4 * hidden * (read + hidden + 2) for read in (inputs, *[2 * hidden] * (layers - 1)))


@pytest.mark.parametrize("name, expected", [
    ("first", DIM * 512 + 512 + lstm_parameters(512, 256, 2) + 512 * CLASSES + CLASSES),
    ("second", DIM * 512 + 512 + 2 * 512 + lstm_parameters(512, 1024, 1) + 2048 + 1
     + 2048 * 1024 + 1024 + 2 * 1024 + 1024 * CLASSES + CLASSES),
    ("fifth", 3 * 128 * (DIM + 128 + 2) + 128 + 1 + 128 * 64 + 64 + 64 * CLASSES + CLASSES)])
def test_the_parameters_are_those_of_the_description(name, expected):
    assert [sum(p.numel() for p in net.parameters()) for net in both(name)] == [expected] * 2


@torch.no_grad()
def test_the_first_heads_forward_pass_by_hand(features):
    _, head = both("first")
    x = features[0] @ head.projection[0].weight.T + head.projection[0].bias
    for layer in range(2):
        x = torch.cat([one_direction(head.lstm, layer, x, ""),
                       one_direction(head.lstm, layer, x.flip(0), "_reverse").flip(0)], 1)
    by_hand = head.classifier[1].weight @ x[-1] + head.classifier[1].bias
    torch.testing.assert_close(head.eval()(features[:1])[0], by_hand)


@torch.no_grad()
def test_the_second_heads_forward_pass_by_hand(features):
    _, head = both("second")
    head.train()(features)      # statistics that are not 0 and 1
    norm = lambda x, n: (x - n.running_mean) / (n.running_var + n.eps).sqrt() * n.weight + n.bias   # noqa: E731
    x = norm(features[0] @ head.projection[0].weight.T + head.projection[0].bias, head.projection[1])
    x = torch.cat([one_direction(head.lstm, 0, x, ""),
                   one_direction(head.lstm, 0, x.flip(0), "_reverse").flip(0)], 1)
    shares = (x @ head.score.weight[0] + head.score.bias).exp()
    read = (shares[:, None] * x).sum(0) / shares.sum()
    hidden = norm(head.classifier[1].weight @ read + head.classifier[1].bias, head.classifier[2]).clamp(min=0)
    by_hand = head.classifier[4].weight @ hidden + head.classifier[4].bias
    torch.testing.assert_close(head.eval()(features[:1])[0], by_hand)


def test_a_batch_of_one_clip_trains_a_head_with_batch_norms(features):
    """An epoch's last batch may be one clip, whose hidden layer has no spread to normalise by."""
    _, head = both("second")
    head.train()(features[:1]).sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_an_old_spec_without_the_new_words_builds_the_default_head():
    head = models.Head(DIM, CLASSES)
    later = ("projection", "classifier_hidden", "rnn", "classifier_activation", "classifier_dropout")
    old = {k: v for k, v in head.spec.items() if k not in later}
    assert models.Head(**old).state_dict().keys() == head.state_dict().keys()
    with pytest.raises(ValueError, match="projection 'layers' is none of"):
        models.Head(DIM, CLASSES, projection="layers")
