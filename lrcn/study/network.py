"""The mixed-action study of one network: its head is run over movies, controls and states.

Features and arrays in, a Study out: no files.
"""
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import expit, softmax

from lrcn.evaluation.scores import Units, difference
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
    """One network's study. Arrays as in movies.py; figures are scores.Estimates.

    names, labels: the test videos. p: (N, C), the windows' probabilities.
    by_frames, by_phase: accuracy by the majority's frames, and by the frames between the start of
    the window's first clip and the window's own start. switching: {control: figures.Switching}, and
    "both ways", of the hard cut and the backwards one together. order_effect: r of the hard cut minus r
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

    @property
    def recency(self):
        """The recency index, the same for clips whose evidence grows, fades or stays."""
        return self.switching["both ways"].recency

    def headline(self):
        """{name: Estimate} of what a comparison of networks is about."""
        both, hard, backwards, mixed = (self.switching[name] for name in
                                        ("both ways", "hard", "backwards", "mixed"))
        found = {"clip_accuracy": self.clip_accuracy, "window_accuracy": self.accuracy,
                 "recency_index": both.recency, "recency_index_hard": hard.recency,
                 "recency_index_backwards": backwards.recency, "recency_index_mixed": mixed.recency,
                 "point_of_equality": both.point, "slope": both.slope,
                 "won_by_majority": self.duel["majority"], "won_by_last_frame": self.duel["last_frame"],
                 "last_frame_minus_majority": self.duel["last_frame_minus_majority"]}
        for kind, costs in self.influence.items():
            found[f"influence_last_minus_first_{kind.replace(' ', '_')}"] = difference(costs[-1], costs[0])
        if self.states:
            found["old_state_left_after_clip"] = self.states["memory"][-1][0]["after_clip"]
        return found


def analyse(head, classes, clips, movies, T, seed=42):
    """The Study of one network over `movies`, with windows of T frames."""
    windows = slide(movies, clips.labels, T)
    cuts = find_cuts(movies, clips.labels, T)
    of_windows, of_cuts = units_of(clips, windows.videos), units_of(clips, cuts.videos)
    of_clips = units_of(clips, np.arange(len(clips.labels)))

    z, played = all_logits(head, clips, windows, cuts, seed)
    p = softmax(z, 1)
    right = p.argmax(1) == windows.majority
    margins = {control: figures.play_order(margin(z, cuts), control) for control, z in played.items()}
    margins = {"both ways": figures.both_ways(margins["hard"], margins["backwards"]), **margins}
    whole = clips.features[:, :T].float()
    with torch.inference_mode():
        clip_right = head(whole).argmax(1).cpu().numpy() == clips.labels
    influence = {}
    for name, replacement in (("mean frame", clips.mean), ("grey", clips.grey)):
        influence[name] = by_column(frame_influence(head, whole, replacement, clips.labels), of_clips)
    inside, attention = {}, []
    if isinstance(head.lstm, torch.nn.LSTM):    # a GRU has other gates, and no cell
        inside = lstm_figures(head, clips, movies, cuts, of_cuts, T)
    if head.lstm is not None:
        margins["run through"] = streamed_margin(head, clips, movies, cuts, T)
        if head.readout == "attention":
            with torch.inference_mode():
                attention = by_column(head.attention(head.steps(whole)).cpu().numpy(), of_clips)
    return Study(
        T, classes, clips.names, clips.labels, movies, windows, p,
        by_key(right, np.where(windows.majority >= 0, 0, -1), of_windows)[0],
        of_clips.means(clip_right, share=True)[0],
        by_key(right, np.where(windows.majority >= 0, windows.majority_frames, -1), of_windows),
        by_key(right, np.where(windows.majority >= 0, window_offsets(movies, windows), -1), of_windows),
        figures.shares(windows, p.argmax(1), of_windows), figures.duel(windows, p.argmax(1), of_windows),
        {name: figures.switching(values, of_cuts) for name, values in margins.items()},
        by_column(expit(margins["hard"]) - expit(margins["mixed"]), of_cuts), influence, inside, attention)


def units_of(clips, videos):
    """The scores.Units of what shows `videos` (N,) or (N, S), -1 for none."""
    group = np.unique(clips.groups, return_inverse=True)[1]
    return Units(np.where(videos >= 0, group[videos], -1))


def by_key(right, key, units):
    """{key: Estimate} of the share of `right` (N,), for the keys that occur; -1 is left out."""
    found = units.means(right, key, int(key.max(initial=-1)) + 1, share=True)
    return {k: e for k, e in enumerate(found) if e.n}


def by_column(values, units):
    """[Estimate] of the mean of every column of values (N, K)."""
    return [units.means(column)[0] for column in values.T]


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


def margin(logits, cuts):
    """logits (M, T+1, C) -> the second action's minus the first's where the cut has that window, else NaN."""
    first, second = (np.take_along_axis(logits, cuts.actions[:, None, i:i + 1], 2)[..., 0] for i in (0, 1))
    return np.where(cuts.complete, second - first, np.nan)


# ---------------------------------------------------------------- inside the LSTM

def whole_movies(clips, movies, cuts):
    """(features (B, F, D) of the first movies, cut to the shortest; the cuts' movie and place in it)."""
    count = min(STATE_MOVIES, movies.movie[-1] + 1)
    begins = np.searchsorted(movies.movie, np.arange(movies.movie[-1] + 2))
    index = begins[:count, None] + np.arange(np.diff(begins)[:count].min())
    movie = movies.movie[cuts.at]
    return (clips.features[movies.video[index], movies.frame[index]].float(), movie,
            cuts.at - begins[movie])


def streamed_margin(head, clips, movies, cuts, T):
    """Margins (M, T+1) when each movie is run through in one go; NaN for cuts beyond what was run."""
    x, movie, place = whole_movies(clips, movies, cuts)
    found = np.concatenate([run_through(head, part, T) for part in x.split(20)])
    last = place[:, None] - 1 + np.arange(T + 1)            # the last frame of the window with k frames
    there = (movie < len(found))[:, None] & (last < found.shape[1])
    logits = found[np.minimum(movie, len(found) - 1)[:, None], np.minimum(last, found.shape[1] - 1)]
    return np.where(there, margin(logits, cuts), np.nan)


def lstm_figures(head, clips, movies, cuts, units, T):
    """Gates and cell states through a cut, [layer][direction], Estimates for metrics and pictures."""
    x, movie, place = whole_movies(clips, movies, cuts)
    inside = (movie < len(x)) & (place < x.shape[1])
    movie, place, complete = movie[inside], place[inside], cuts.complete[inside]
    units = units[inside]
    with torch.inference_mode():
        x, frames = head.projection(x), head.projection(clips.features.float())
    gates = window_gates(head.lstm, frames, cuts.video[inside], cuts.frame[inside])
    gates[..., ~complete, :] = np.nan
    traces = cell_memory(head.lstm, x, movie, place, 3 * T)
    memory = [[memory_figures(trace, units, T) for trace in layer] for layer in traces]
    forget = GATES.index("forget")
    moving = gates_around(gate_means(head.lstm, x, 20)[:, :, forget], movie, place, T)
    return {
        "cuts": len(movie), "frames_followed": 3 * T,
        "memory": [[{k: v for k, v in m.items() if k != "curve"} for m in layer] for layer in memory],
        "gate_change_at_cut": gate_changes(gates, units),
        "gates_by_step": gates_by_step(gates),
        "pictures": {
            "window": [[by_column(g[forget, :, T // 2], units) for g in layer] for layer in gates],
            "movie": [[by_column(g, units) for g in layer] for layer in moving],
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


def gate_changes(gates, units):
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
            found[-1].append({name: units.means(np.mean([row[i] for row in change], 0))[0]
                              for i, name in enumerate(GATES)} if change else {})
    return found


def memory_figures(trace, units, T):
    """half_life in frames, what is left after the T frames of a clip, and the curve."""
    life, curve = figures.half_life(trace, units)
    return {"half_life": life, "after_clip": curve[T], "curve": curve}
