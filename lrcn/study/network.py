"""The mixed-action study of one network: its head is run over movies, controls and states.

Features and arrays in, a Study out: no files.
"""
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import softmax

from lrcn.study import figures
from lrcn.study.movies import CONTROLS, find_cuts, play, slide
from lrcn.study.states import GATES, cell_memory, frame_influence, gate_means, logits, run_through

STATE_MOVIES = 50          # the LSTM's states are looked at in so many movies at most


@dataclass
class Clips:
    """The test videos as a head takes them. frames: (V,), how many of the L features are its own."""
    names: list             # V names
    groups: list            # V source groups
    labels: np.ndarray      # int (V,)
    frames: np.ndarray      # int (V,)
    features: torch.Tensor  # (V, L, D)
    mean: torch.Tensor      # (V, D), the features of the clips' mean frames
    grey: torch.Tensor      # (1, D), those of a grey frame


@dataclass
class Study:
    """One network's study. Arrays as in movies.py; figures are figures.Estimates.

    names, labels: the test videos. p: (N, C), the windows' probabilities.
    by_frames, by_phase: accuracy by the majority's frames, and by the frames between the start of
    the window's first clip and the window's own start. order_effect: r of the hard cut minus r
    of the mixed one, for k = 0 ... T. influence: {"mean frame" or "grey": [by position]}.
    states: what lstm_figures found, empty without an LSTM.
    """
    length: int
    classes: list
    names: list
    labels: np.ndarray
    movies: object
    windows: object
    p: np.ndarray
    accuracy: object
    clip_accuracy: object
    by_frames: dict
    by_phase: dict
    shares: list
    duel: dict
    switching: dict
    order_effect: list
    influence: dict
    states: dict = field(default_factory=dict)
    attention: list = field(default_factory=list)

    @property
    def predicted(self):
        return self.p.argmax(1)

    def headline(self):
        """{name: Estimate} of what a comparison of networks is about."""
        hard, backwards = self.switching["hard"], self.switching["backwards"]
        found = {"clip_accuracy": self.clip_accuracy, "window_accuracy": self.accuracy,
                 "recency_index": hard.recency, "recency_index_backwards": backwards.recency,
                 "recency_index_mixed": self.switching["mixed"].recency,
                 "point_of_equality": hard.point, "slope": hard.slope,
                 "won_by_majority": self.duel["majority"], "won_by_last_frame": self.duel["last_frame"],
                 "last_frame_minus_majority": self.duel["last_frame_minus_majority"]}
        for kind, costs in self.influence.items():
            found[f"influence_last_minus_first_{kind.replace(' ', '_')}"] = figures.difference(
                costs[-1], costs[0])
        if self.states:
            found["old_state_left_after_clip"] = self.states["memory"][-1][0]["after_clip"]
        return found


def analyse(head, classes, clips, movies, T, seed=42, replicates=1000):
    """The Study of one network over `movies`, with windows of T frames."""
    windows = slide(movies, clips.labels, T)
    cuts = find_cuts(movies, clips.labels, T)
    bootstrap = figures.Bootstrap(clips.groups, replicates, seed)

    z, played = all_logits(head, clips, windows, cuts, seed)
    p = softmax(z, 1)
    weights, of_cuts = bootstrap.weigh(windows.videos), bootstrap.weigh(cuts.videos)
    of_clips = bootstrap.weigh(np.arange(len(clips.labels)))
    right = p.argmax(1) == windows.majority
    r = {control: figures.play_order(two_way(z, cuts), control) for control, z in played.items()}
    switching = {name: figures.switching(value, of_cuts) for name, value in r.items()}
    whole = clips.features[:, :T].float()
    with torch.inference_mode():
        clip_right = head(whole).argmax(1).cpu().numpy() == clips.labels
    influence = {}
    for name, replacement in (("mean frame", clips.mean), ("grey", clips.grey)):
        cost = frame_influence(head, whole, replacement, clips.labels)
        influence[name] = by_column(cost, of_clips)
    inside, attention = {}, []
    if head.lstm is not None:
        inside = lstm_figures(head, clips, movies, cuts, of_cuts, T)
        switching["run through"] = figures.switching(streamed_share(head, clips, movies, cuts, T), of_cuts)
        if head.readout == "attention":
            with torch.inference_mode():
                attention = by_column(head.attention(head.steps(whole)).cpu().numpy(), of_clips)
    return Study(
        T, classes, clips.names, clips.labels, movies, windows, p,
        by_key(right, np.where(windows.majority >= 0, 0, -1), weights)[0],
        by_key(clip_right, np.zeros(len(clip_right), int), of_clips)[0],
        by_key(right, np.where(windows.majority >= 0, windows.majority_frames, -1), weights),
        by_key(right, np.where(windows.majority >= 0, window_offsets(movies, windows), -1), weights),
        figures.shares(windows, p.argmax(1), weights), figures.duel(windows, p.argmax(1), weights), switching,
        by_column(r["hard"] - r["mixed"], of_cuts), influence, inside, attention)


def by_key(values, key, weights):
    """{key: Estimate} of the mean of values (N,), for the keys that occur; -1 is left out."""
    found = weights.means(values, key, int(key.max(initial=-1)) + 1)
    return {k: e for k, e in enumerate(found) if e.n}


def by_column(values, weights):
    """[Estimate] of the mean of every column of values (N, K)."""
    return [weights.means(column)[0] for column in values.T]


def window_offsets(movies, windows):
    """Frames between the start of a window's first clip and the window's own, (N,)."""
    place = np.searchsorted(movies.movie, windows.movie) + windows.start
    return place - np.searchsorted(movies.clip, movies.clip[place])


def all_logits(head, clips, windows, cuts, seed):
    """(logits of the windows (N, C), {control: those of the cuts' windows (M, T+1, C)}).

    All at once, because many of them are the same window.
    """
    T = windows.video.shape[1]
    played = [play(cuts, control, seed) for control in CONTROLS]
    video, frame = (np.concatenate([own, *(pair[i].reshape(-1, T) for pair in played)])
                    for i, own in enumerate((windows.video, windows.frame)))
    z = logits(head, clips.features, video, frame)
    parts = np.split(z[len(windows.video):], len(played))
    return z[:len(windows.video)], {control: part.reshape(*cuts.complete.shape, -1) for control, part
                                    in zip(CONTROLS, parts, strict=True)}


def two_way(logits, cuts):
    """logits (M, T+1, C) -> p2 / (p1 + p2) where the cut has that window, else NaN."""
    first, second = (np.take_along_axis(logits, cuts.actions[:, None, i:i + 1], 2)[..., 0] for i in (0, 1))
    with np.errstate(over="ignore"):
        return np.where(cuts.complete, 1 / (1 + np.exp(first - second)), np.nan)


# ---------------------------------------------------------------- inside the LSTM

def whole_movies(clips, movies, cuts):
    """(features (B, F, D) of the first movies, cut to the shortest; the cuts' movie and place in it)."""
    count = min(STATE_MOVIES, movies.movie[-1] + 1)
    begins = np.searchsorted(movies.movie, np.arange(movies.movie[-1] + 2))
    index = begins[:count, None] + np.arange(np.diff(begins)[:count].min())
    movie = movies.movie[cuts.at]
    return (clips.features[movies.video[index], movies.frame[index]].float(), movie,
            cuts.at - begins[movie])


def streamed_share(head, clips, movies, cuts, T):
    """r (M, T+1) when each movie is run through in one go; NaN for cuts beyond what was run."""
    x, movie, place = whole_movies(clips, movies, cuts)
    found = np.concatenate([run_through(head, part, T) for part in x.split(20)])
    last = place[:, None] - 1 + np.arange(T + 1)            # the last frame of the window with k frames
    there = (movie < len(found))[:, None] & (last < found.shape[1])
    logits = found[np.minimum(movie, len(found) - 1)[:, None], np.minimum(last, found.shape[1] - 1)]
    return np.where(there, two_way(logits, cuts), np.nan)


def lstm_figures(head, clips, movies, cuts, weights, T):
    """Gates and cell states through a cut, [layer][direction], Estimates for metrics and pictures."""
    x, movie, place = whole_movies(clips, movies, cuts)
    inside = (movie < len(x)) & (place < x.shape[1])
    movie, place, complete = movie[inside], place[inside], cuts.complete[inside]
    weights = figures.Weights(weights.weights, weights.unit[inside])
    with torch.inference_mode():
        x, frames = head.projection(x), head.projection(clips.features.float())
    gates = window_gates(head.lstm, frames, cuts.video[inside], cuts.frame[inside])
    gates[..., ~complete, :] = np.nan
    traces = cell_memory(head.lstm, x, movie, place, 3 * T)
    memory = [[memory_figures(trace, weights, T) for trace in layer] for layer in traces]
    forget = GATES.index("forget")
    moving = gates_around(gate_means(head.lstm, x, 20)[:, :, forget], movie, place, T)
    return {
        "cuts": len(movie), "frames_followed": 3 * T,
        "memory": [[{k: v for k, v in m.items() if k != "curve"} for m in layer] for layer in memory],
        "gate_change_at_cut": gate_changes(gates, weights),
        "gates_by_step": gates_by_step(gates),
        "pictures": {
            "window": [[by_column(g[forget, :, T // 2], weights) for g in layer] for layer in gates],
            "movie": [[by_column(g, weights) for g in layer] for layer in moving],
            "memory": [[m["curve"] for m in layer] for layer in memory]}}


def window_gates(lstm, frames, video, frame):
    """Mean gates in windows (M, T+1, T) of projected frames (V, L, latent):
    float32 (layers, directions, 3, M, T+1, T). Windows that occur several times are run once."""
    codes = video * frames.shape[1] + frame
    unique, back = np.unique(codes.reshape(-1, codes.shape[2]), axis=0, return_inverse=True)
    found = gate_means(lstm, frames.flatten(0, 1)[torch.from_numpy(unique)])
    return found[:, :, :, back.reshape(codes.shape[:2])]


def gates_around(gates, movie, place, T):
    """gates (layers, directions, B, F) -> (layers, directions, n, 2T), T frames before each cut, T after."""
    near = place[:, None] + np.arange(-T, T)
    found = gates[:, :, movie[:, None], np.clip(near, 0, gates.shape[3] - 1)]
    return np.where((near < 0) | (near >= gates.shape[3]), np.nan, found)


def gates_by_step(gates):
    """{k: {gate: [layer][direction][step]}}: means over the windows with k late frames, or None."""
    seen = np.isfinite(gates)
    mean = np.where(seen, gates, 0).sum(3) / np.maximum(seen.sum(3), 1)      # (layers, directions, 3, T+1, T)
    return {k: {name: mean[:, :, i, k].round(4).tolist() if seen[:, :, i, :, k].any() else None
                for i, name in enumerate(GATES)} for k in range(mean.shape[3])}


def gate_changes(gates, weights):
    """What a cut does to a gate, [layer][direction] {gate: Estimate}: at the step that reads the first
    frame beyond the cut, against the same step in the two windows of one action. {} for T = 1."""
    T = gates.shape[5]
    alone = (gates[..., 0, :] + gates[..., T, :]) / 2
    found = []
    for layer, calm in zip(gates, alone, strict=True):
        found.append([])
        for reverse, (g, c) in enumerate(zip(layer, calm, strict=True)):
            steps = [(k, T - k - reverse) for k in range(1, T)]
            change = [g[:, :, k, t] - c[:, :, t] for k, t in steps]
            found[-1].append({name: weights.means(np.mean([row[i] for row in change], 0))[0]
                              for i, name in enumerate(GATES)} if change else {})
    return found


def memory_figures(trace, weights, T):
    """half_life in frames, what is left after the T frames of a clip, and the curve."""
    life, curve = figures.half_life(trace, weights)
    return {"half_life": life, "after_clip": curve[T], "curve": curve}
