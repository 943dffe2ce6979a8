"""The LSTM's states written out, against torch's and against planted cells."""
import math

import numpy as np
import pytest
import torch

import models
from lrcn.checkpoints import READOUTS
from lrcn.evaluation.scores import Units
from lrcn.study import figures
from lrcn.study.network import cell_memory, gate_means, unroll, window_logits


@pytest.mark.parametrize("layers, bidirectional", [(1, False), (2, True), (3, False)])
def test_states_by_hand_equal_those_of_the_lstm(layers, bidirectional):
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(7, 5, layers, batch_first=True, bidirectional=bidirectional)
    x = torch.randn(4, 6, 7)
    with torch.inference_mode():
        out, (h, c) = lstm(x)
        states = unroll(lstm, x)
        means = gate_means(lstm, x, batch=3)
    hand = torch.cat([s["h"] for s in states[-1]], 2)
    assert torch.allclose(out, hand, atol=1e-5)
    ways = 2 if bidirectional else 1
    for layer in range(layers):
        for d in range(ways):
            end = 0 if d else -1
            assert torch.allclose(h[layer * ways + d], states[layer][d]["h"][:, end], atol=1e-5)
            assert torch.allclose(c[layer * ways + d], states[layer][d]["c"][:, end], atol=1e-5)
    assert means.shape == (layers, ways, 3, 4, 6)
    assert np.allclose(means[0, 0, 1], states[0][0]["forget"].mean(2), atol=1e-6)


def test_the_memory_of_a_planted_cell_decays_by_its_forget_gate():
    lstm = torch.nn.LSTM(2, 3, 1, batch_first=True)
    with torch.no_grad():
        for p in lstm.parameters():
            p.zero_()
        lstm.bias_ih_l0[3:6] = math.log(0.8 / 0.2)              # forget gates of 0.8
        lstm.bias_ih_l0[6:9] = 1.0
    traces = cell_memory(lstm, torch.randn(2, 12, 2), np.array([0, 1, 1]), np.array([4, 6, 9]), 5)
    assert np.allclose(traces[0, 0, 0], 0.8 ** np.arange(6), atol=1e-5)
    assert np.isnan(traces[0, 0, 2, 4:]).all()                  # the movie ends three frames after that cut
    life, _ = figures.half_life(traces[0, 0], Units.of(["a", "b", "c"]))
    assert life["value"] == pytest.approx(math.log(0.5) / math.log(0.8), abs=0.05)
    assert life["n"] == 3


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_logits_of_windows_equal_the_heads_own(readout, bidirectional):
    torch.manual_seed(2)
    head = models.Head(6, 4, latent_dim=8, hidden_size=5, bidirectional=bidirectional, readout=readout,
                       per_step=readout == "max" and bidirectional).eval()
    features = torch.randn(5, 3, 6)
    rng = np.random.default_rng(0)
    video, frame = rng.integers(5, size=(40, 3)), rng.integers(3, size=(40, 3))
    found = window_logits(head, features, video, frame, batch=7)
    with torch.inference_mode():
        own = head(features[torch.tensor(video), torch.tensor(frame)]).softmax(1).numpy()
    assert np.allclose(torch.from_numpy(found).softmax(1), own, atol=1e-5)
