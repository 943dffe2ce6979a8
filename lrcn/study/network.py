"""The mixed-action study of one network: its head is run over movies, controls and states."""
from dataclasses import dataclass

import numpy as np

from lrcn.base.lazy import Lazy, inference_mode
from lrcn.evaluation.intervals import Units, difference
from lrcn.study import figures
from lrcn.study.figures import by_column
from lrcn.study.movies import CONTROLS, find_cuts, play, slide

torch = Lazy("torch")
special = Lazy("scipy.special")

GATES = ("input", "forget", "output")
STATE_MOVIES = 50          # the LSTM's states are looked at in so many movies at most


@dataclass
class Clips:
    """The test videos as a head takes them. frames: (V,), how many of the L features are its own."""
    names: list             # V names
    groups: list            # V source groups
    labels: np.ndarray      # int (V,)
    frames: np.ndarray      # int (V,)
    features: "torch.Tensor"  # (V, L, D)
    mean: "torch.Tensor"      # (V, D), the features of the clips' mean frames
    grey: "torch.Tensor"      # (1, D), those of a grey frame

    def units(self, videos):
        """The intervals.Units of what shows `videos` (N,) or (N, S), -1 for none."""
        group = np.unique(self.groups, return_inverse=True)[1]
        return Units(np.where(videos >= 0, group[videos], -1))


@dataclass
class Study:
    """One network's study. figures: Estimates and containers of them, by their names in metrics.json:
        accuracy_by_phase   by the frames between the start of the window's first clip and its own start
        switching           {control: figures.Switching}, and "both ways" (late_margins), as recency_index
        hard_minus_mixed    r of the hard cut minus r of the mixed one, {k: Estimate} for k = 0 ... T
        lstm                {} without one; gates_by_step: {k late frames: {gate: [layer][direction][step]}}
    traces: {name: [layer][direction][time]} Estimates of the LSTM's states, for the pictures alone.
    """
    classes: list
    clips: Clips
    movies: object          # movies.Movies
    windows: object         # movies.Windows
    length: int             # T, of a window
    p: np.ndarray           # (N, C), the windows' probabilities
    predicted: np.ndarray   # (N,)
    figures: dict
    traces: dict

    def headline(self):
        """{name: Estimate} of what a comparison of networks is about."""
        values, duel = self.figures, self.figures["majority_or_last_frame"]
        played = values["switching"]
        lines = {"clip_accuracy": values["clip_accuracy"], "window_accuracy": values["accuracy"],
                 "recency_index": values["recency_index"],
                 **{f"recency_index_{name}": played[name].recency for name in ("hard", "backwards", "mixed")},
                 "point_of_equality": played["both ways"].point, "slope": played["both ways"].slope,
                 "won_by_majority": duel["majority"], "won_by_last_frame": duel["last_frame"],
                 "last_frame_minus_majority": duel["last_frame_minus_majority"]}
        for kind, costs in values["influence_by_position"].items():
            lines[f"influence_last_minus_first_{kind.replace(' ', '_')}"] = difference(costs[-1], costs[0])
        if values["lstm"]:
            lines["old_state_left_after_clip"] = values["lstm"]["memory"][-1][0]["after_clip"]
        return lines


@inference_mode
def analyse(head, classes, clips, movies, T, seed=42):
    """The Study of one network over `movies`, with windows of T frames."""
    windows, cuts = slide(movies, clips.labels, T), find_cuts(movies, clips.labels, T)
    of_windows, of_cuts = clips.units(windows.videos), clips.units(cuts.videos)
    of_clips = clips.units(np.arange(len(clips.labels)))

    played = [play(cuts, control, seed) for control in CONTROLS]
    video, frame = (np.concatenate([own, *(pair[i].reshape(-1, T) for pair in played)])
                    for i, own in enumerate((windows.video, windows.frame)))
    z = window_logits(head, clips.features, video, frame)       # at once: many are the same window
    p = special.softmax(z[:len(windows.video)], 1)
    predicted = p.argmax(1)
    parts = np.split(z[len(windows.video):], len(CONTROLS))
    margins = late_margins({control: part.reshape(*cuts.complete.shape, -1) for control, part
                            in zip(CONTROLS, parts, strict=True)}, cuts)
    whole = clips.features[:, :T].float()
    clip_right = head(whole).argmax(1).cpu().numpy() == clips.labels
    inside, traces, attention = {}, {}, []
    if isinstance(head.lstm, torch.nn.LSTM):    # a GRU has other gates, and no cell
        inside, traces = lstm_figures(head, clips, movies, cuts, of_cuts, T)
    if head.lstm is not None:
        margins["run through"] = streamed_margin(head, clips, movies, cuts, T)
        if head.readout == "attention":
            attention = by_column(head.attention(head.steps(whole)).cpu().numpy(), of_clips)

    def accuracy(key):
        """{key: Estimate} of the windows that have a majority, for the keys (N,) that occur."""
        key = np.where(windows.majority >= 0, key, -1)
        means = of_windows.means(predicted == windows.majority, key, int(key.max(initial=-1)) + 1, share=True)
        return {k: e for k, e in enumerate(means) if e.n}

    switching = {name: figures.switching(values, of_cuts) for name, values in margins.items()}
    place = np.searchsorted(movies.movie, windows.movie) + windows.start
    return Study(classes, clips, movies, windows, T, p, predicted, {
        "accuracy": accuracy(0)[0],
        "accuracy_by_frames": accuracy(windows.majority_frames),
        "clip_accuracy": of_clips.means(clip_right, share=True)[0],
        "accuracy_by_phase": accuracy(place - np.searchsorted(movies.clip, movies.clip[place])),
        "shares_by_mix": figures.shares(windows, predicted, of_windows),
        "majority_or_last_frame": figures.duel(windows, predicted, of_windows),
        "recency_index": switching["both ways"].recency, "switching": switching,
        "hard_minus_mixed": dict(enumerate(by_column(
            special.expit(margins["hard"]) - special.expit(margins["mixed"]), of_cuts))),
        "influence_by_position": {
            name: by_column(frame_influence(head, whole, replacement, clips.labels), of_clips)
            for name, replacement in (("mean frame", clips.mean), ("grey", clips.grey))},
        "attention_by_position": attention, "lstm": inside}, traces)


def margin(logits, cuts):
    """logits (M, T+1, C) -> the second action's minus the first's where the cut has that window, else NaN."""
    first, second = (np.take_along_axis(logits, cuts.actions[:, None, i:i + 1], 2)[..., 0] for i in (0, 1))
    return np.where(cuts.complete, second - first, np.nan)


def late_margins(played, cuts):
    """{control: margins (M, T+1) of the action that comes late, above the other} of {control: logits}. Clips
    whose evidence grows or fades favour one action of a window, and backwards the other one: in "both ways",
    the mean, a network blind to order has the index 0."""
    margins = {control: margin(z, cuts) for control, z in played.items()}
    margins["backwards"] = -margins["backwards"][:, ::-1]
    return {"both ways": (margins["hard"] + margins["backwards"]) / 2, **margins}


# ---------------------------------------------------------------- inside the LSTM

def whole_movies(clips, movies, cuts):
    """(features (B, F, D) of the first movies, cut to the shortest; the cuts' movie and place in it)."""
    count = min(STATE_MOVIES, movies.movie[-1] + 1)
    begins = np.searchsorted(movies.movie, np.arange(movies.movie[-1] + 2))
    index = begins[:count, None] + np.arange(np.diff(begins)[:count].min())
    movie = movies.movie[cuts.at]
    return clips.features[movies.video[index], movies.frame[index]].float(), movie, cuts.at - begins[movie]


def streamed_margin(head, clips, movies, cuts, T):
    """Margins (M, T+1) when each movie is run through in one go; NaN for cuts beyond what was run."""
    x, movie, place = whole_movies(clips, movies, cuts)
    z = np.concatenate([run_through(head, part, T) for part in x.split(20)])
    last = place[:, None] - 1 + np.arange(T + 1)            # the last frame of the window with k frames
    there = (movie < len(z))[:, None] & (last < z.shape[1])
    of_cuts = z[np.minimum(movie, len(z) - 1)[:, None], np.minimum(last, z.shape[1] - 1)]
    return np.where(there, margin(of_cuts, cuts), np.nan)


def lstm_figures(head, clips, movies, cuts, units, T):
    """({name: figures}, {name: traces}) of gates and cell states through a cut, [layer][direction]."""
    x, movie, place = whole_movies(clips, movies, cuts)
    inside = (movie < len(x)) & (place < x.shape[1])
    movie, place, units = movie[inside], place[inside], units[inside]
    x, frames, forget = head.projection(x), head.projection(clips.features.float()), GATES.index("forget")
    # The cuts' windows, each once: (layers, directions, 3, M, T+1, T)
    codes = cuts.video[inside] * frames.shape[1] + cuts.frame[inside]
    unique, back = np.unique(codes.reshape(-1, T), axis=0, return_inverse=True)
    gates = gate_means(head.lstm, frames.flatten(0, 1)[torch.from_numpy(unique)])
    gates = gates[:, :, :, back.reshape(codes.shape[:2])]
    gates[..., ~cuts.complete[inside], :] = np.nan
    # The movies in one go, T frames before each cut and T after it: (layers, directions, 3, n, 2T)
    near = place[:, None] + np.arange(-T, T)
    moving = gate_means(head.lstm, x, 20)[:, :, forget, movie[:, None], np.clip(near, 0, x.shape[1] - 1)]
    moving[..., (near < 0) | (near >= x.shape[1])] = np.nan
    seen = np.isfinite(gates)
    mean = np.where(seen, gates, 0).sum(3) / np.maximum(seen.sum(3), 1)      # (layers, directions, 3, T+1, T)
    memory = [[figures.half_life(trace, units) for trace in layer]
              for layer in cell_memory(head.lstm, x, movie, place, 3 * T)]
    return {
        "cuts": len(movie), "frames_followed": 3 * T,
        "memory": [[{"half_life": life, "after_clip": curve[T]} for life, curve in layer]
                   for layer in memory],
        "gate_change_at_cut": [[gate_changes(*ways, units) for ways in enumerate(layer)] for layer in gates],
        "gates_by_step": {k: {name: mean[:, :, i, k].round(4).tolist() if seen[:, :, i, :, k].any()
                              else None for i, name in enumerate(GATES)} for k in range(T + 1)},
    }, {"window": [[by_column(g[forget, :, T // 2], units) for g in layer] for layer in gates],
        "movie": [[by_column(g, units) for g in layer] for layer in moving],
        "memory": [[curve for _, curve in layer] for layer in memory]}


def gate_changes(reverse, gates, units):
    """What a cut does to the gates (3, M, T+1, T) of a layer and direction, {gate: Estimate}: at the step
    that reads the first frame beyond the cut, against the same step in the two windows of one action."""
    T = gates.shape[3]
    alone = (gates[:, :, 0] + gates[:, :, T]) / 2
    change = [gates[:, :, k, T - k - reverse] - alone[:, :, T - k - reverse] for k in range(1, T)]
    return {name: units.means(np.mean([row[i] for row in change], 0))[0]
            for i, name in enumerate(GATES)} if change else {}      # none where T = 1


def scan(lstm, layer, reverse, x):
    """One direction of one layer over x (B, T, I) -> {name: (B, T, H)}; torch keeps the gates to itself."""
    w, u, *biases = lstm.all_weights[layer * (1 + lstm.bidirectional) + reverse]
    fed = x @ w.T + sum(biases)
    h = c = x.new_zeros(len(x), u.shape[1])
    kept = {name: [] for name in (*GATES, "c", "h")}
    for t in range(x.shape[1]):
        i, f, g, o = (fed[:, t] + h @ u.T).chunk(4, 1)
        i, f, o = i.sigmoid(), f.sigmoid(), o.sigmoid()
        c = f * c + i * g.tanh()
        h = o * c.tanh()
        for name, value in zip(kept, (i, f, o, c, h), strict=True):
            kept[name].append(value)
    return {name: torch.stack(values, 1) for name, values in kept.items()}


def unroll(lstm, x):
    """x (B, T, I) -> [layer][direction] of {input, forget, output, c, h: (B, T, H)}, in time's order."""
    layers = []
    for layer in range(lstm.num_layers):
        states = [scan(lstm, layer, 0, x)]
        if lstm.bidirectional:
            states.append({k: v.flip(1) for k, v in scan(lstm, layer, 1, x.flip(1)).items()})
        layers.append(states)
        x = torch.cat([state["h"] for state in states], 2)
    return layers


@inference_mode
def gate_means(lstm, x, batch=512):
    """Every gate's mean over the units: x (B, T, I) -> float array (layers, directions, 3, B, T)."""
    parts = []
    for part in x.split(batch):
        layers = unroll(lstm, part)
        parts.append(torch.stack([torch.stack([torch.stack([state[g].mean(2) for g in GATES])
                                               for state in states]) for states in layers]).cpu())
    return torch.cat(parts, 3).numpy()


@inference_mode
def cell_memory(lstm, x, rows, cuts, frames):
    """How much of the past beyond a cut is left in the cell state, frame by frame after the cut.

    x: (B, F, I), whole movies; the n cuts are before frame cuts[j] of movie rows[j]. Each is run again from
    the cut on with an empty state; the trace is the distance between the two cell states over the size of the
    one that crossed the cut. The backward half carries over the coming action.
    -> float array (layers, directions, n, frames + 1): 1 at the cut, NaN beyond the movie's end."""
    long, total, steps = unroll(lstm, x), x.shape[1], np.arange(frames + 1)
    result = np.full((lstm.num_layers, len(long[0]), len(rows), frames + 1), np.nan, np.float32)
    for d in range(len(long[0])):
        # (n, frames + 1): the last place before the cut, then those after it, as this direction reads them
        places = cuts[:, None] - steps if d else cuts[:, None] - 1 + steps
        at, fresh = (rows[:, None], np.clip(places, 0, total - 1)), None
        for layer, states in enumerate(long):
            fed = x if layer == 0 else torch.cat([state["h"] for state in long[layer - 1]], 2)
            fed = fed[at[0], at[1][:, 1:]]
            if layer:       # this direction's half comes from the run that began at the cut
                fed[..., d * lstm.hidden_size:(d + 1) * lstm.hidden_size] = fresh["h"]
            fresh = scan(lstm, layer, d, fed)
            crossed, after = states[d]["c"][at].split([1, frames], 1)
            size = crossed.norm(dim=2).clamp_min(1e-12)
            apart = (after - fresh["c"]).norm(dim=2) / size
            trace = torch.cat([torch.ones_like(size), apart], 1).cpu().numpy()
            result[layer, d] = np.where((places < 0) | (places >= total), np.nan, trace)
    return result


@inference_mode
def window_logits(head, features, video, frame, batch=512):
    """Logits of windows: features (V, L, D); video, frame int (N, T) -> float32 array (N, C). Equal windows
    are computed once, and so is the projection of every frame."""
    unique, back = np.unique(video * features.shape[1] + frame, axis=0, return_inverse=True)
    flat = features.flatten(0, 1).float()
    if head.lstm is not None:
        flat = head.projection(flat)
    index = torch.from_numpy(unique).to(flat.device)
    answer = head if head.lstm is None else lambda frames: head.classify(head.lstm(frames)[0])
    logits = torch.cat([answer(flat[part]).float() for part in index.split(batch)])
    return logits.cpu().numpy()[back.reshape(-1)]


@inference_mode
def run_through(head, x, length):
    """Each movie in one go, never restarted: logits read from the latest `length` steps. x (B, F, D)
    -> (B, F, C), NaN for the first length - 1 frames. A backward half has seen the movie's end."""
    latest = head.steps(x).unfold(1, length, 1).movedim(3, 2)     # (B, F-length+1, length, width)
    logits = head.classify(latest.flatten(0, 1)).unflatten(0, latest.shape[:2])
    blank = logits.new_full((len(x), length - 1, logits.shape[2]), float("nan"))
    return torch.cat([blank, logits], 1).float().cpu().numpy()


@inference_mode
def frame_influence(head, x, replacement, labels):
    """What each frame is worth: loss of the true class's logit, above the mean over the classes, when it
    alone is replaced. x: (V, T, D), replacement: (V, D) or (1, D), labels: int (V,) -> float32 (V, T)."""
    def true_logit(x):
        logits = head(x).float()
        return (logits - logits.mean(1, keepdim=True))[torch.arange(len(x)), labels]

    whole, losses = true_logit(x), []
    for t in range(x.shape[1]):
        changed = x.clone()
        changed[:, t] = replacement
        losses.append(whole - true_logit(changed))
    return torch.stack(losses, 1).cpu().numpy()
