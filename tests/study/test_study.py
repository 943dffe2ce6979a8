"""The mixed-action study on planted networks, and its arithmetic against plain Python."""
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from lrcn.study import figures, pictures, report, states
from lrcn.study.movies import CONTROLS, draw_movies, find_cuts, interleaved, play, slide
from lrcn.study.network import Clips, analyse
from lrcn.study.states import gate_means, logits, run_through, unroll


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
    return analyse(head, classes, clips, made, T, seed, replicates=200)


# ---------------------------------------------------------------- planted networks

@pytest.mark.parametrize("T", [2, 4, 5])
def test_a_reader_of_the_last_frame_has_the_greatest_recency_index(T):
    found = study_of(Reader([-1]), planted_clips(T, noise=0.3), T)
    assert found.switching["hard"].recency.value == pytest.approx(1, abs=0.05)
    assert found.switching["hard"].point.value == pytest.approx(0.5, abs=0.03)
    assert found.switching["backwards"].recency.value == pytest.approx(1, abs=0.05)
    assert found.duel["last_frame"].value == 1 or T == 2        # two frames: no majority against the last
    assert found.influence["grey"][-1].value > 1
    assert all(e.value == 0 for e in found.influence["grey"][:-1])


@pytest.mark.parametrize("T", [2, 4, 5])
def test_a_reader_of_the_first_frame_has_the_least(T):
    found = study_of(Reader([0]), planted_clips(T, noise=0.3), T)
    assert found.switching["hard"].recency.value == pytest.approx(-1, abs=0.05)
    assert found.switching["backwards"].recency.value == pytest.approx(-1, abs=0.05)
    assert all(e.value == 0 for e in found.influence["mean frame"][1:])


@pytest.mark.parametrize("T", [2, 4, 5])
def test_a_mean_over_frames_has_zero_within_its_interval(T):
    found = study_of(Reader(slice(None)), planted_clips(T, noise=2, videos=8), T, movies=40)
    for control in CONTROLS:
        low, high = found.switching[control].recency.ci95
        assert low < 0 < high and high - low < 0.5
    assert all(e.value == pytest.approx(0, abs=1e-6) for e in found.order_effect)


def test_order_shows_in_the_controls_of_a_reader_of_the_last_frame():
    found = study_of(Reader([-1]), planted_clips(5, noise=0.3), 5)
    # one late frame of five decides a hard cut; mixed in, it stands in the middle and decides nothing
    assert found.order_effect[1].value > 0.9
    assert abs(found.switching["shuffled"].recency.value) < 0.3


@pytest.mark.parametrize("T", [1, 2])
def test_windows_of_one_or_two_frames_have_figures_where_they_make_sense(T):
    found = study_of(Reader(slice(None)), planted_clips(T), T)
    metrics = report.metrics(found, {})
    assert metrics["windows"] == 20 * (8 * T - T + 1)
    if T == 1:
        assert metrics["recency_index"]["value"] is None and metrics["windows_tied"] == 0
        assert list(metrics["shares_by_mix"]) == ["1"]
    else:
        assert metrics["windows_tied"] == 20 * 7
        assert metrics["shares_by_mix"]["1+1"]["right"] is None
        assert list(metrics["accuracy_by_frames"]) == ["2"]


# ---------------------------------------------------------------- movies and windows

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=40).filter(lambda x: len(set(x)) > 1),
       st.integers(1, 12), st.integers(2, 9), st.integers(1, 6), st.integers(0, 1000))
def test_movies_are_seeded_and_neighbours_differ(labels, movies, clips, T, seed):
    labels, frames = np.array(labels), np.full(len(labels), T)
    made = draw_movies(labels, movies, clips, frames, seed)
    again = draw_movies(labels, movies, clips, frames, seed)
    assert np.array_equal(made.video, again.video) and np.array_equal(made.frame, again.frame)
    assert len(made.video) == movies * clips * T
    played = made.video.reshape(movies, clips, T)
    assert (played == played[..., :1]).all()                    # a clip stays in one piece
    assert (made.frame.reshape(-1, T) == np.arange(T)).all()
    actions = labels[played[..., 0]]
    assert (actions[:, 1:] != actions[:, :-1]).all()
    windows = slide(made, labels, T)
    assert len(windows.movie) == movies * (clips * T - T + 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 8), st.integers(1, 8), st.integers(1, 10), st.integers(2, 16), st.integers(0, 1000))
def test_every_video_is_used_about_as_often(actions, videos, movies, clips, seed):
    labels = np.repeat(np.arange(actions), videos)
    made = draw_movies(labels, movies, clips, np.ones(len(labels), int), seed)
    used = np.bincount(made.video, minlength=len(labels))
    assert used.max() - used.min() <= 2


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(0, 4), st.integers(0, 4), st.integers(0, 1000))
def test_windows_say_what_stands_in_them(T, more, spread, seed):
    low = max(1, T // 2 + more % 2)
    labels = np.array([0, 0, 1, 1, 2])
    frames = np.array([7, 9, 8, 10, 7])
    made = draw_movies(labels, 4, 5, frames, seed, (low, low + spread))
    windows = slide(made, labels, T)
    lengths = Counter(made.clip.tolist())
    assert all(low <= n <= min(low + spread, 10) for n in lengths.values())
    at = 0
    for movie in range(4):
        line = [i for i in range(len(made.movie)) if made.movie[i] == movie]
        for start in range(len(line) - T + 1):
            inside = line[start:start + T]
            runs = list(dict.fromkeys(made.clip[i] for i in inside))
            counts = [sum(made.clip[i] == c for i in inside) for c in runs]
            assert windows.counts[at].tolist() == counts + [0] * (3 - len(runs))
            videos = [next(made.video[i] for i in inside if made.clip[i] == c) for c in runs]
            assert windows.videos[at].tolist() == videos + [-1] * (3 - len(runs))
            tally = Counter(labels[made.video[i]] for i in inside).most_common()
            assert windows.majority_frames[at] == tally[0][1]
            tie = len(tally) > 1 and tally[1][1] == tally[0][1]
            assert windows.majority[at] == (-1 if tie else tally[0][0])
            assert (windows.movie[at], windows.start[at]) == (movie, start)
            at += 1
    assert at == len(windows.movie)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(0, 1000))
def test_cuts_hold_the_frames_around_them_and_controls_the_same_frames(T, seed):
    labels = np.array([0, 1, 2, 0, 1])
    made = draw_movies(labels, 3, 6, np.full(5, 8), seed, (2, 8))
    cuts = find_cuts(made, labels, T)
    assert len(cuts.at) == 3 * 5
    for m, at in enumerate(cuts.at):
        before = int((made.clip == made.clip[at - 1]).sum())
        after = int((made.clip == made.clip[at]).sum())
        for k in range(T + 1):
            assert cuts.complete[m, k] == (T - k <= before and k <= after)
            if cuts.complete[m, k]:
                line = np.arange(at - T + k, at + k)
                assert np.array_equal(cuts.frame[m, k], made.frame[line])
                assert np.array_equal(cuts.video[m, k], made.video[line])
    for control in CONTROLS:
        video, frame = play(cuts, control, seed)
        assert np.array_equal(np.sort(video * 10 + frame, 2), np.sort(cuts.video * 10 + cuts.frame, 2))
    assert np.array_equal(play(cuts, "backwards", 0)[1], cuts.frame[..., ::-1])


def test_mixed_windows_interleave_the_two_actions():
    rows = interleaved(5)
    for k, row in enumerate(rows):
        late = [i for i, s in enumerate(row) if s >= 5 - k]
        assert len(late) == k and sorted(row) == list(range(5))
        assert all(b - a <= math.ceil(5 / k) for a, b in zip(late, late[1:], strict=False))


def test_a_movie_of_one_action_is_refused():
    with pytest.raises(ValueError, match="two actions"):
        draw_movies([1, 1, 1], 2, 3, [5, 5, 5], 0)


# ---------------------------------------------------------------- figures

def test_shares_agree_with_a_count_in_plain_python():
    clips = planted_clips(5, noise=4)
    found = study_of(Reader([1, 4]), clips, 5, segment_frames=(2, 5))
    w, predicted = found.windows, found.predicted
    assert (w.counts[:, 2] > 0).any()                           # windows of three actions are among them
    tally = {}
    for i in range(len(w.movie)):
        counts = [int(n) for n in w.counts[i] if n]
        actions = w.actions[i].tolist()[:len(counts)]
        pairs = zip(figures.OUTCOMES, actions, strict=False)
        who = next((o for o, a in pairs if a == predicted[i]), "neither")
        tally.setdefault("+".join(map(str, counts)), []).append(who)
    assert {row["mix"] for row in found.shares} == set(tally)
    for row in found.shares:
        won = tally[row["mix"]]
        assert row["n"] == len(won)
        for outcome in ("first", "second", "third", "neither"):
            if outcome in row:
                assert row[outcome].value == pytest.approx(won.count(outcome) / len(won))
                assert row[outcome].n == len(won)


def test_the_bootstrap_draws_groups_and_weighs_a_window_by_all_of_its_groups():
    bootstrap = figures.Bootstrap(["a", "a", "b", "c"], 50, 1)
    assert bootstrap.drawn.shape == (50, 3) and (bootstrap.drawn.sum(1) == 3).all()
    videos = np.array([[0, -1], [0, 2], [0, 1], [3, 2]])
    weights = bootstrap.weigh(videos)
    values = np.array([1.0, 2.0, 4.0, 8.0])
    estimate = weights.means(values)[0]
    a, b, c = bootstrap.drawn.T
    own = np.stack([a, a * b, a, c * b], 1)
    with np.errstate(invalid="ignore"):
        assert np.allclose(estimate.replicates, own @ values / own.sum(1), equal_nan=True)
    assert estimate.value == values.mean() and estimate.n == 4


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = []
    for trial in range(150):        # windows over two of 30 groups, whose effects are random
        groups, effect = np.arange(30), rng.normal(0, 1, 30)
        pairs = np.array([rng.choice(30, 2, replace=False) for _ in range(200)])
        values = effect[pairs].sum(1) + rng.normal(0, 1, 200)
        low, high = figures.Bootstrap(groups, 200, trial).weigh(pairs).means(values)[0].ci95
        hits.append(low <= 0 <= high)
    assert 0.88 <= np.mean(hits) <= 1


def test_the_logistic_fit_finds_a_planted_curve():
    k = np.arange(6)
    planted = 0.1 + 0.8 / (1 + np.exp(-3 * (k - 3.1)))
    point, slope, lapse = figures.fit_logistic(planted[None], np.full((1, 6), 100.0))
    assert point[0] == pytest.approx(3.1, abs=0.02) and slope[0] == pytest.approx(3, rel=0.1)
    assert lapse[0] == pytest.approx(0.1, abs=0.005)
    none = figures.fit_logistic(np.array([[0.4] * 6, planted[::-1]]), np.ones((2, 6)))
    assert all(np.isnan(x).all() for x in none)                 # flat, and falling


@pytest.mark.parametrize("T", [2, 3, 4, 7])
def test_the_recency_index_runs_from_the_first_frame_to_the_last(T):
    assert figures.recency_index(np.array([0.5, T / 2, T - 0.5]), T).tolist() == [1, 0, -1]


def test_pooled_runs_have_the_mean_of_their_figures():
    runs = [figures.Estimate(v, np.full(100, v), 10) for v in (0.1, 0.2, 0.6)]
    pooled = figures.pool(runs)
    assert pooled.value == pytest.approx(0.3)
    assert pooled.ci95[0] < 0.3 < pooled.ci95[1]                # seeds that differ widen the interval


# ---------------------------------------------------------------- inside the LSTM

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
    traces = states.cell_memory(lstm, torch.randn(2, 12, 2), np.array([0, 1, 1]), np.array([4, 6, 9]), 5)
    assert np.allclose(traces[0, 0, 0], 0.8 ** np.arange(6), atol=1e-5)
    assert np.isnan(traces[0, 0, 2, 4:]).all()                  # the movie ends three frames after that cut
    weights = figures.Bootstrap(["a", "b", "c"], 50).weigh(np.arange(3))
    life, _ = figures.half_life(traces[0, 0], weights)
    assert life.value == pytest.approx(math.log(0.5) / math.log(0.8), abs=0.05)


def test_memory_of_a_bidirectional_network_is_the_difference_to_a_movie_with_another_past():
    torch.manual_seed(1)
    lstm = torch.nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True)
    x = torch.randn(1, 10, 3)
    with torch.inference_mode():
        long, fresh = unroll(lstm, x), unroll(lstm, x[:, 4:])
        back = unroll(lstm, x[:, :4])
    traces = states.cell_memory(lstm, x, np.array([0]), np.array([4]), 4)
    for layer in range(2):
        crossed = long[layer][0]["c"][0, 3].norm()
        expected = (long[layer][0]["c"][0, 4:8] - fresh[layer][0]["c"][0, :4]).norm(dim=1) / crossed
        assert np.allclose(traces[layer, 0, 0, 1:], expected, atol=1e-5)
        crossed = long[layer][1]["c"][0, 4].norm()
        expected = (long[layer][1]["c"][0, :4] - back[layer][1]["c"][0]).flip(0).norm(dim=1) / crossed
        assert np.allclose(traces[layer, 1, 0, 1:], expected, atol=1e-5)


@pytest.mark.parametrize("readout", models.READOUTS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_logits_of_windows_equal_the_heads_own(readout, bidirectional):
    torch.manual_seed(2)
    head = models.Head(6, 4, 8, 5, 2, bidirectional, readout,
                       per_step=readout == "max" and bidirectional).eval()
    features = torch.randn(5, 3, 6)
    rng = np.random.default_rng(0)
    video, frame = rng.integers(5, size=(40, 3)), rng.integers(3, size=(40, 3))
    found = logits(head, features, video, frame, batch=7)
    with torch.inference_mode():
        own = head(features[torch.tensor(video), torch.tensor(frame)]).softmax(1).numpy()
    assert np.allclose(torch.from_numpy(found).softmax(1), own, atol=1e-5)


def test_a_window_as_long_as_the_movie_reads_the_same_run_through_or_not():
    torch.manual_seed(3)
    head = models.Head(6, 4, 8, 5, 2, True, "final").eval()
    x = torch.randn(2, 7, 6)
    found = run_through(head, x, 7)
    assert np.isnan(found[:, :6]).all()
    with torch.inference_mode():
        assert np.allclose(found[:, 6], head(x).numpy(), atol=1e-5)


def test_every_figure_and_picture_of_a_real_head(tmp_path):
    torch.manual_seed(4)
    clips = planted_clips(4)
    head = models.Head(6, 6, 8, 5, 2, True, "attention").eval()
    found = study_of(head, clips, 4, movies=6, segment_frames=(2, 4))
    drawn = pictures.draw(found, tmp_path, "planted")
    assert all((tmp_path / f"{name}.png").is_file() and p.shape[2] == 3 for name, p in drawn.items())
    assert {"heat_map", "switching_curve", "controls", "gates_window", "gates_movie",
            "memory", "three_actions"} <= set(drawn)
    assert sum(e.value for e in found.attention) == pytest.approx(1, abs=1e-5)
    lines = [SimpleNamespace(**dict(zip(report.WINDOW_COLUMNS, row, strict=True)))
             for row in report.window_rows(found)]
    assert len(lines) == len(found.windows.movie)
    third = [line for line in lines if line.mix.count("+") == 2]
    assert third and all(line.third and line.p_third for line in third)
