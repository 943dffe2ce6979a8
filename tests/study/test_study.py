"""The mixed-action study on planted networks, and its arithmetic against plain Python."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import simulations
import torch
from simulations import near

import models
from lrcn.checkpoints import READOUTS
from lrcn.evaluation.intervals import Units
from lrcn.study import figures, graphs, results_table
from lrcn.study.movies import CONTROLS, draw_movies
from lrcn.study.network import Clips, analyse, cell_memory, gate_means, unroll, window_logits


def planted_clips(T, actions=6, videos=4, noise=1.0, seed=0):
    """network.Clips whose features say the action aloud, with noise; every video a group."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(actions), videos)
    features = 4 * np.eye(actions)[labels][:, None] + rng.normal(0, noise, (len(labels), T, actions))
    names = [f"v{i}" for i in range(len(labels))]
    return Clips(names, names, labels, np.full(len(labels), T),
                 torch.tensor(features, dtype=torch.float32),
                 torch.tensor(features.mean(1), dtype=torch.float32), torch.zeros(1, actions))


class Reader(torch.nn.Module):
    """A network that by construction looks at these steps alone, all alike."""
    lstm, readout = None, "none"

    def __init__(self, steps):
        super().__init__()
        self.steps_read = steps

    def forward(self, x):
        return x[:, self.steps_read].mean(1)


def study_of(head, clips, T, movies=20, movie_clips=8, segment_frames=None, seed=3):
    made = draw_movies(clips.labels, movies, movie_clips, clips.frames, seed, segment_frames)
    classes = [f"class {i}" for i in range(clips.labels.max() + 1)]
    return analyse(head, classes, clips, made, T, seed)


@pytest.mark.parametrize("T", [2, 5])
@pytest.mark.parametrize("step, truth", [(-1, 1), (0, -1)])
def test_readers_of_the_last_and_of_the_first_frame_have_the_ends_of_the_recency_index(T, step, truth):
    found = study_of(Reader([step]), planted_clips(T, noise=0.3), T).figures
    for control in ("hard", "backwards"):
        assert found["switching"][control].recency.value == pytest.approx(truth, abs=0.1)
    assert found["recency_index"].value == pytest.approx(truth, abs=0.05)
    assert found["influence_by_position"]["grey"][step].value > 1
    for costs in found["influence_by_position"].values():
        assert all(e.value == 0 for e in (costs[:-1] if step else costs[1:]))
    if step == -1:
        assert found["switching"]["hard"].point.value == pytest.approx(0.5, abs=0.03)
        assert found["majority_or_last_frame"]["last_frame"].value == 1 or T == 2   # of two no majority


@pytest.mark.parametrize("T", [2, 5])
def test_a_mean_over_frames_has_zero_within_its_interval(T):
    found = study_of(Reader(slice(None)), planted_clips(T, noise=2, videos=8), T, movies=40)
    for control in CONTROLS:
        low, high = found.figures["switching"][control].recency.ci95
        assert low < 0 < high and high - low < 0.5
    assert all(e.value == pytest.approx(0, abs=1e-6) for e in found.figures["hard_minus_mixed"].values())


def test_windows_of_one_or_two_frames_have_figures_where_they_make_sense():
    one, two = (results_table.metrics(study_of(Reader(slice(None)), planted_clips(T), T), {}) for T in (1, 2))
    assert one["windows"] == 20 * 8 and two["windows"] == 20 * 15
    assert one["recency_index"]["value"] is None and one["windows_tied"] == 0
    assert list(one["shares_by_mix"]) == ["1"]
    assert two["windows_tied"] == 20 * 7 and two["shares_by_mix"]["1+1"]["right"] is None
    assert list(two["accuracy_by_frames"]) == ["2"]


def test_the_logistic_fit_finds_a_planted_curve():
    k = np.arange(6)
    planted = 0.1 + 0.8 / (1 + np.exp(-3 * (k - 3.1)))
    point, slope, lapse = figures.fit_logistic(planted, np.full(6, 100))
    assert point == pytest.approx(3.1, abs=0.02) and slope == pytest.approx(3, rel=0.1)
    assert lapse == pytest.approx(0.1, abs=0.005)
    for other in (np.full(6, 0.4), planted[::-1]):              # flat, and falling
        assert np.isnan(figures.fit_logistic(other, np.ones(6))).all()


def test_a_network_that_cannot_tell_whole_clips_apart_has_no_recency_index():
    blunt = np.random.default_rng(0).normal(size=(9, 5))
    assert np.isnan(figures.recency_index(blunt, Units.of(np.arange(9))).value)


@pytest.mark.parametrize("kernel", simulations.KERNELS)
def test_the_recency_index_of_a_planted_network_comes_back(kernel):
    held = []
    for gain, drift in ((0.3, 0), (3, 0.5)):
        truth, index, covered, alone = simulations.recency(simulations.KERNELS[kernel], gain, drift, 40, 20)
        assert index == pytest.approx(truth, abs=0.02)
        assert (abs(alone - truth) > 0.2) == (drift > 0)
        held.append(covered)
    assert np.mean(held) == 1 or near(np.mean(held), 0.93, 0.97, 40)


def variants_of(studies, flags):
    settings = {"readout": "final", "bidirectional": True, "per_step": False}
    return results_table.variants([(settings | {"training_seed": i}, given, study)
                                   for i, (study, given) in enumerate(zip(studies, flags, strict=True))])


@pytest.fixture(scope="module")
def last_and_first():
    """Studies of readers of the last and of the first frame."""
    clips = planted_clips(4, noise=0.5)
    return [study_of(Reader([step]), clips, 4, movies=8) for step in (-1, 0)]


def test_only_runs_that_differ_in_their_seed_alone_are_pooled(last_and_first):
    flags = [{"hidden_size": 8, "modality": "rgb"}, {"hidden_size": 8, "modality": "rgb"},
             {"hidden_size": 16, "modality": "rgb"}, {"hidden_size": 8, "modality": "rgbdiff"}]
    assert [(v.name, len(v.seeds)) for v in variants_of(last_and_first[:1] * 4, flags)] == [
        ("final, both ways, hidden_size 8, modality rgb", 2),
        ("final, both ways, hidden_size 16, modality rgb", 1),
        ("final, both ways, hidden_size 8, modality rgbdiff", 1)]


def test_a_pool_has_the_mean_of_its_runs_and_seeds_that_differ_widen_its_intervals(last_and_first):
    last, first = last_and_first
    (apart,), (alike,) = (variants_of(runs, [{}] * 3) for runs in ([last, first, last], [last] * 3))
    index, alone = "recency_index", last.figures["recency_index"]
    assert apart.figures[index].value == pytest.approx((2 * alone.value + first.figures[index].value) / 3)
    assert alike.figures[index].ci95 == pytest.approx(alone.ci95, abs=1e-9)
    width, narrow = (np.diff(v.figures[index].ci95)[0] for v in (apart, alike))
    assert width > 2 and narrow < 0.5
    assert alike.verdict == "late" and apart.verdict == "neither"
    header, rows = results_table.table([apart])
    assert len(header) == len(rows[0]) and "last frame" in results_table.printed_table([apart])[0]


def test_every_figure_and_picture_of_a_real_head(tmp_path):
    torch.manual_seed(4)
    clips = planted_clips(4)
    head = models.Head(6, 6, latent_dim=8, hidden_size=5, readout="attention").eval()
    found = study_of(head, clips, 4, movies=6, segment_frames=(2, 4))
    drawn = graphs.draw(found, tmp_path, "planted")
    assert all((tmp_path / f"{name}.png").is_file() and p.shape[2] == 3 for name, p in drawn.items())
    assert {"heat_map", "switching_curve", "controls", "gates_window", "gates_movie",
            "memory", "three_actions"} <= set(drawn)
    assert sum(e.value for e in found.figures["attention_by_position"]) == pytest.approx(1, abs=1e-5)
    lines = [SimpleNamespace(**dict(zip(results_table.WINDOW_COLUMNS, row, strict=True)))
             for row in results_table.window_rows(found)]
    assert len(lines) == len(found.windows.movie)
    third = [line for line in lines if line.mix.count("+") == 2]
    assert third and all(line.third and line.p_third for line in third)


@pytest.mark.parametrize("layers, bidirectional", [(1, False), (2, True)])
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
