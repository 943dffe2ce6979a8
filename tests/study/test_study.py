"""The mixed-action study on planted networks, and its arithmetic against plain Python."""
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import simulations
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from simulations import near

import models
from lrcn.scores import Units
from lrcn.study import comparison, figures, pictures, report, states
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
    return analyse(head, classes, clips, made, T, seed)


# ---------------------------------------------------------------- planted networks

@pytest.mark.parametrize("T", [2, 4, 5])
def test_a_reader_of_the_last_frame_has_the_greatest_recency_index(T):
    found = study_of(Reader([-1]), planted_clips(T, noise=0.3), T)
    assert found.switching["hard"].recency.value == pytest.approx(1, abs=0.05)
    assert found.switching["hard"].point.value == pytest.approx(0.5, abs=0.03)
    assert found.switching["backwards"].recency.value == pytest.approx(1, abs=0.1)
    assert found.recency.value == pytest.approx(1, abs=0.05)
    assert found.duel["last_frame"].value == 1 or T == 2        # two frames: no majority against the last
    assert found.influence["grey"][-1].value > 1
    assert all(e.value == 0 for e in found.influence["grey"][:-1])


@pytest.mark.parametrize("T", [2, 4, 5])
def test_a_reader_of_the_first_frame_has_the_least(T):
    found = study_of(Reader([0]), planted_clips(T, noise=0.3), T)
    assert found.switching["hard"].recency.value == pytest.approx(-1, abs=0.1)
    assert found.switching["backwards"].recency.value == pytest.approx(-1, abs=0.1)
    assert found.recency.value == pytest.approx(-1, abs=0.05)
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


def test_the_logistic_fit_finds_a_planted_curve():
    k = np.arange(6)
    planted = 0.1 + 0.8 / (1 + np.exp(-3 * (k - 3.1)))
    point, slope, lapse = figures.fit_logistic(planted, np.full(6, 100))
    assert point == pytest.approx(3.1, abs=0.02) and slope == pytest.approx(3, rel=0.1)
    assert lapse == pytest.approx(0.1, abs=0.005)
    for other in (np.full(6, 0.4), planted[::-1]):              # flat, and falling
        assert np.isnan(figures.fit_logistic(other, np.ones(6))).all()


def test_the_logistic_fit_is_the_best_one_also_where_the_lapse_is_nearly_nil():
    """scipy's simplex, which knows no gradient, finds nothing better."""
    rng = np.random.default_rng(1)
    for _ in range(80):
        k = np.arange(rng.integers(5, 9))
        lapse, slope = rng.uniform(0, 0.2), np.exp(rng.uniform(-1, 1))
        share = lapse + (1 - 2 * lapse) / (1 + np.exp(-slope * (k - rng.uniform(1, 3))))
        share = np.clip(share + 0.03 * rng.normal(size=len(k)), 0, 1)

        def loss(fit, k=k, share=share):
            curve = fit[2] + (1 - 2 * fit[2]) / (1 + np.exp(-fit[1] * (k - fit[0])))
            return ((curve - share) ** 2).mean() + figures.RIDGE * fit[1] ** 2

        found = figures.fit_logistic(share, np.ones(len(k)))
        if np.isfinite(found).all():
            better = minimize(loss, found + (0.1, 0.1, 0.02), method="Nelder-Mead",
                              bounds=((None, None), (None, None), (0, 0.49)))
            assert loss(found) <= better.fun * 1.001 + 1e-9


def test_errors_of_the_fit_are_those_of_its_shares():
    """The interval of a fitted point against the spread over data drawn anew."""
    rng, points, widths = np.random.default_rng(0), [], []
    units = Units.of(np.arange(200))
    for _ in range(60):
        shift = rng.normal(0, 0.8, 200)[:, None]                # every recording turns elsewhere
        curve = [units.means(column, share=True)[0] for column in
                 (1 / (1 + np.exp(-2 * (np.arange(6) - 2.2 - shift)))).T]
        point = figures.fitted(curve)[0]
        points.append(point.value)
        widths.append(np.diff(point.ci95)[0] / (2 * 1.97))
    assert np.mean(points) == pytest.approx(2.2, abs=0.05)
    assert np.mean(widths) == pytest.approx(np.std(points), rel=0.3)


@pytest.mark.parametrize("T", [2, 3, 4, 7])
def test_the_recency_index_runs_from_the_first_frame_to_the_last(T):
    units, k = Units.of(np.arange(9)), np.arange(T + 1)
    for margin, truth in ((k >= 1, 1), (k / T, 0), (k >= T, -1)):
        margins = 3.0 * (2 * margin - 1) + np.zeros((9, 1))
        assert figures.recency_index(margins, units).value == pytest.approx(truth)
        assert figures.recency_index(100 * margins, units).value == pytest.approx(truth)
    blunt = np.random.default_rng(0).normal(size=(9, T + 1))
    assert np.isnan(figures.recency_index(blunt, units).value), "it cannot tell whole clips apart"


@pytest.mark.slow
@pytest.mark.parametrize("kernel", simulations.KERNELS)
def test_the_recency_index_of_a_planted_network_comes_back(kernel):
    """Also where a clip's evidence grows, which moves the index of the cuts as joined by 0.2 and more."""
    held = []
    for gain, drift in ((0.3, 0), (3, 0.5)):
        truth, index, covered, alone = simulations.recency(simulations.KERNELS[kernel], gain, drift, 40, 40)
        assert index == pytest.approx(truth, abs=0.02)
        assert (abs(alone - truth) > 0.2) == (drift > 0)
        held.append(covered)
    assert np.mean(held) == 1 or near(np.mean(held), 0.93, 0.97, 80)


# ---------------------------------------------------------------- several runs

def studies_of(*heads):
    clips = planted_clips(4, noise=0.5)
    return [study_of(head, clips, 4, movies=8) for head in heads]


SETTINGS = {"readout": "final", "bidirectional": True, "per_step": False}


def variants_of(studies, flags):
    return comparison.variants([(SETTINGS | {"training_seed": i}, given, study)
                                for i, (study, given) in enumerate(zip(studies, flags, strict=True))])


def test_only_runs_that_differ_in_their_seed_alone_are_pooled():
    flags = [{"hidden_size": 8, "modality": "rgb"}, {"hidden_size": 8, "modality": "rgb"},
             {"hidden_size": 16, "modality": "rgb"}, {"hidden_size": 8, "modality": "rgbdiff"}]
    found = variants_of(studies_of(*[Reader([-1])] * 4), flags)
    assert [(v.name, v.runs) for v in found] == [
        ("final, both ways, hidden_size 8, modality rgb", 2),
        ("final, both ways, hidden_size 16, modality rgb", 1),
        ("final, both ways, hidden_size 8, modality rgbdiff", 1)]


def test_a_pool_has_the_mean_of_its_runs_and_seeds_that_differ_widen_its_intervals():
    runs = studies_of(Reader([-1]), Reader([0]), Reader([-1]))
    (apart,), (alike,) = (variants_of(chosen, [{}] * 3) for chosen in (runs, runs[:1] * 3))
    assert apart.figures["recency_index"].value == pytest.approx(
        np.mean([s.recency.value for s in runs]))
    assert alike.figures["recency_index"].ci95 == pytest.approx(runs[0].recency.ci95, abs=1e-9)
    width, narrow = (np.diff(v.figures["recency_index"].ci95)[0] for v in (apart, alike))
    assert width > 2 and narrow < 0.5
    assert comparison.verdict(alike.figures["recency_index"]) == "late"
    assert comparison.verdict(apart.figures["recency_index"]) == "neither"
    header, rows = comparison.table([apart])
    assert len(header) == len(rows[0]) and "last frame" in comparison.printed_table([apart])


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
    life, _ = figures.half_life(traces[0, 0], Units.of(["a", "b", "c"]))
    assert life.value == pytest.approx(math.log(0.5) / math.log(0.8), abs=0.05)
    assert life.as_json()["n"] == 3


def test_a_half_life_says_where_it_may_lie_beyond_the_frames_followed():
    units, rng = Units.of(np.arange(12)), np.random.default_rng(0)
    falling = 0.5 ** (np.arange(7) / 5) + np.append(0, np.full(6, 0.3)) * rng.normal(size=(12, 1))
    life, means = figures.half_life(falling, units)
    assert life.ends[0] < life.value == pytest.approx(5, abs=0.9) and life.ends[1] == np.inf
    assert life.as_json()["ci95"][1] is None and life.as_json()["value"] is not None
    never, _ = figures.half_life(np.ones((12, 7)), units)
    assert never.as_json() == {"value": None, "ci95": [None, None], "n": 12}


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
