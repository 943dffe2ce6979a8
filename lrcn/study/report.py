"""What the mixed-action study leaves: metrics, windows.csv, pictures, and the table of several runs.

A Study holds the figures of one network; this file turns it into plain containers and pictures.
"""
from dataclasses import dataclass, field

import numpy as np

from lrcn.drawing import style
from lrcn.study import figures, plots
from lrcn.study.movies import mixes

SIGNS = {1: "late", -1: "early", 0: "neither"}


@dataclass
class Study:
    """One network's study. Arrays as in mixed_movies.py; figures are study.Estimates.

    names, labels: the test videos. p: (N, C), the windows' probabilities.
    by_frames, by_phase: accuracy by the majority's frames, and by the frames between the start of
    the window's first clip and the window's own start. order_effect: r of the hard cut minus r
    of the mixed one, for k = 0 ... T. influence: {"mean frame" or "grey": [by position]}.
    states: what study_network.lstm_figures found, empty without an LSTM.
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


# ---------------------------------------------------------------- metrics and windows

def as_json(value):
    """Estimates and Switchings anywhere in plain containers -> plain containers."""
    if hasattr(value, "as_json"):
        return value.as_json()
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [as_json(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def metrics(found, settings):
    """The content of metrics.json. settings: what it was measured on, plain containers."""
    accuracy, windows = found.accuracy.as_json(), found.windows
    by_frames = {str(k): e.as_json() for k, e in found.by_frames.items()}
    ties = int((windows.majority < 0).sum())
    return {
        "movies": int(windows.movie.max()) + 1, "windows": len(windows.movie),
        "accuracy": accuracy["value"], "ci95": accuracy["ci95"],
        "windows_with_majority": accuracy["n"], "windows_tied": ties,
        "accuracy_by_frames": {k: e["value"] for k, e in by_frames.items()},
        "ci95_by_frames": {k: e["ci95"] for k, e in by_frames.items()},
        "windows_by_frames": {k: e["n"] for k, e in by_frames.items()},
        "clip_accuracy": found.clip_accuracy.as_json(),
        "accuracy_by_phase": as_json(found.by_phase),
        "shares_by_mix": {row["mix"]: {k: as_json(v) for k, v in row.items() if k != "mix"}
                          for row in found.shares},
        "majority_or_last_frame": as_json(found.duel),
        "recency_index": found.switching["hard"].recency.as_json(),
        "switching": as_json(found.switching),
        "hard_minus_mixed": {str(k): e.as_json() for k, e in enumerate(found.order_effect)},
        "influence_by_position": as_json(found.influence),
        "attention_by_position": as_json(found.attention),
        "lstm": as_json({k: v for k, v in found.states.items() if k != "pictures"}),
        "measured_on": settings,
    }


def sentence(found):
    """The study in one line."""
    duel, index = found.duel, found.switching["hard"].recency
    n, text = found.accuracy.n, ""
    if duel["majority"].n:
        text = (f"; where majority and last frame disagree (n = {duel['majority'].n}), the majority wins "
                f"{_cell(duel['majority'])}, the last frame {_cell(duel['last_frame'])}; recency index "
                f"{_cell(index)}")
    return (f"{len(found.windows.movie)} windows of {int(found.windows.movie.max()) + 1} movies, "
            f"accuracy {_cell(found.accuracy)} (n = {n}){text}")


WINDOW_COLUMNS = ("movie", "start", "mix", "frames_first", "frames_second", "frames_third", "first",
                  "second", "third", "video_first", "video_second", "video_third", "majority",
                  "majority_frames", "predicted", "right", "outcome", "p_first", "p_second", "p_third",
                  "other", "p_other")


def window_rows(found):
    """Rows of windows.csv: empty where there is no such clip, and majority and right for a tie."""
    w, predicted = found.windows, found.predicted
    own, other, best = figures.probabilities(w, found.p)
    mix, code = mixes(w)
    who = figures.outcomes(w, predicted)
    name = [*found.classes, ""]          # label -1 reads the last
    video = [*found.names, ""]
    for i in range(len(w.movie)):
        tie = w.majority[i] < 0
        yield (w.movie[i], w.start[i], mix[code[i]], *w.counts[i], *(name[a] for a in w.actions[i]),
               *(video[v] for v in w.videos[i]), name[w.majority[i]], w.majority_frames[i],
               name[predicted[i]], "" if tie else int(predicted[i] == w.majority[i]),
               figures.OUTCOMES[who[i]], *("" if np.isnan(x) else f"{x:.6f}" for x in own[i]),
               name[other[i]], f"{best[i]:.6f}")


# ---------------------------------------------------------------- pictures

def _ends(estimates):
    """(values, low, high, n) of Estimates; low and high are the value where there is no interval."""
    value = np.array([e.value for e in estimates], float)
    ends = np.array([e.ci95 or (e.value, e.value) for e in estimates], float)
    return value, ends[:, 0], ends[:, 1], np.array([e.n for e in estimates])


def synthetic_frames(count, high=90, wide=120):
    """Two drawn actions for the explanation: a disc that moves right, a square that grows."""
    y, x = np.mgrid[:high, :wide]
    actions = np.full((2, count, high, wide, 3), 235, np.uint8)
    for t in range(count):
        share = (t + 0.5) / count
        actions[0, t][(x - wide * share) ** 2 + (y - high / 2) ** 2 < (0.2 * high) ** 2] = style.BLUE
        side = high * (0.1 + 0.3 * share)
        actions[1, t][(abs(x - wide / 2) < side) & (abs(y - high / 2) < side)] = style.ORANGE
    return list(actions)


def _fit(curve):
    """(point, slope, point low, point high, lapse) for the plots, or None where there is no curve."""
    ends = curve.point.ci95
    if ends is None or not np.isfinite(curve.point.value):
        return None
    return (curve.point.value, curve.slope.value, *ends, curve.lapse.value)


def _curve(name, curve):
    value, low, high, n = _ends(curve.curve)
    return {"name": name, "k": list(range(len(value))), "share": value, "low": low, "high": high,
            "n": n, "fit": _fit(curve)}


R_LABEL = "p(later action) / p(both actions), mean"


def draw(found, folder, note):
    """All pictures of one study into `folder` -> {name: uint8 (H, W, 3)}. note: the small print."""
    pictures, T = {}, found.length

    def add(name, plot, *values, **options):
        pictures[name] = plot(folder / f"{name}.png", *values, note=options.pop("note", note), **options)

    add("sliding_window", plots.sliding_window_explained, synthetic_frames(T), T, note="")
    first = found.windows.movie == 0
    add("heat_map", plots.window_heat_map, found.p[first].T, found.windows.majority[first],
        found.classes, title="Probability of every class in the windows of the first movie")
    add("accuracy_by_frames", plots.accuracy_by_frames, list(found.by_frames),
        *_ends(found.by_frames.values()))
    add("accuracy_by_phase", plots.accuracy_by_phase, [str(p) for p in found.by_phase],
        *_ends(found.by_phase.values()))
    two = [row for row in found.shares if len(row["counts"]) == 2]
    if two:
        two.sort(key=lambda row: row["counts"][1])
        parts = [[row[o] for row in two] for o in ("first", "second", "neither")]
        value, low, high, _ = (np.array(x) for x in zip(*(_ends(part) for part in parts), strict=True))
        add("shares_by_mix", plots.shares_by_mix, [row["counts"][1] for row in two], value, low, high,
            [row["n"] for row in two])
    three = [(row, o) for row in found.shares if len(row["counts"]) == 3
             for o in ("first", "second", "third", "neither")]
    if three:
        value, low, high, n = _ends([row[o] for row, o in three])
        add("three_actions", plots.intervals_by_run, [f"{row['mix']} frames: {o}" for row, o in three],
            value, low, high, n, title="Which action wins a window of three actions",
            xlabel="share of windows won", null=None)
    hard = _curve("hard cut", found.switching["hard"])
    add("switching_curve", plots.switching_curve, hard["k"], hard["share"], hard["low"], hard["high"],
        hard["n"], hard["fit"], ylabel=R_LABEL, note=f"{_recency_words(found.switching['hard'])} {note}")
    add("controls", plots.switching_curves,
        [_curve(name, curve) for name, curve in found.switching.items()],
        title="The same windows played in other ways", ylabel=R_LABEL)
    (mean, *mean_ends, n), (grey, *grey_ends, _) = (_ends(e) for e in found.influence.values())
    add("influence_by_position", plots.influence_by_position, np.arange(1, T + 1), mean, grey,
        np.array([mean_ends, grey_ends]), n=n[0])
    if found.states:
        _draw_states(found, add, note)
    return pictures


def _recency_words(curve):
    ends = curve.recency.ci95
    interval = f" [{ends[0]:+.2f}, {ends[1]:+.2f}]" if ends else ""
    return f"Recency index {curve.recency.value:+.2f}{interval} (+1 the last frame decides, -1 the first)."


def _grid(estimates):
    """[layer][direction][time] of Estimates -> arrays (value, low, high), each (layers, directions, time)."""
    parts = [[_ends(row)[:3] for row in layer] for layer in estimates]
    return np.moveaxis(np.array(parts), 2, 0)


def _draw_states(found, add, note):
    pictures, T = found.states["pictures"], found.length
    value, low, high = _grid(pictures["window"])
    n, k = pictures["window"][0][0][0].n, T // 2
    add("gates_window", plots.gates, np.arange(1, T + 1), value, T - k + 1, n=n, low=low, high=high,
        title=f"Forget gate in a window with {T - k} + {k} frames", note=f"Bands: 95% intervals. {note}")
    value, low, high = _grid(pictures["movie"])
    add("gates_movie", plots.gates, np.arange(-T, T), value, 0, low=low, high=high,
        title="Forget gate around a cut, the movie run through without restart",
        note=f"n = {pictures['movie'][0][0][0].n} cuts. Frames are counted from the cut. "
             f"Bands: 95% intervals. {note}")
    value, low, high = _grid(pictures["memory"])
    add("memory", plots.gates, np.arange(value.shape[2]), value, low=low, high=high,
        ylabel="share of the state left", ylim=(0, max(1.05, high.max() * 1.02)),
        title="How long the state from beyond a cut stays in the cell",
        note=f"n = {pictures['memory'][0][0][0].n} cuts; frames read since the cut; 1: all of it is there. "
             f"The backward direction carries over the coming action. Bands: 95% intervals. {note}")


# ---------------------------------------------------------------- several runs

@dataclass
class Variant:
    """Networks that differ in their training seed alone; figures pooled over them."""
    name: str
    runs: int
    seeds: list
    figures: dict       # name: Estimate
    curve: object       # study.Switching of the hard cut


def pool_runs(name, seeds, studies, seed=0):
    """The Variant of several runs' Studies."""
    headlines = [s.headline() for s in studies]
    figures = {key: figures.pool([h[key] for h in headlines], seed) for key in headlines[0]}
    curves = [s.switching["hard"] for s in studies]
    curve = [figures.pool(list(points), seed) for points in zip(*(c.curve for c in curves), strict=True)]
    pooled = figures.Switching(curve, *(figures.pool([getattr(c, key) for c in curves], seed)
                                      for key in ("point", "slope", "lapse", "recency")))
    return Variant(name, len(studies), seeds, figures, pooled)


def verdict(estimate):
    """Whether late or early frames count more, or the interval holds zero."""
    ends = estimate.ci95
    if ends is None:
        return ""
    return SIGNS[int(ends[0] > 0) - int(ends[1] < 0)]


def comparison_table(variants):
    """(header, rows) of comparison.csv; a figure that a variant lacks is left empty."""
    names = list(dict.fromkeys(key for v in variants for key in v.figures))
    header = ["variant", "runs", "seeds", "frames_that_count_more"]
    header += [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
    rows = []
    for v in variants:
        row = [v.name, v.runs, " ".join(map(str, v.seeds)), verdict(v.figures["recency_index"])]
        for name in names:
            found = v.figures[name].as_json() if name in v.figures else {"value": None, "ci95": None}
            row += ["" if x is None else x for x in (found["value"], *(found["ci95"] or (None, None)))]
        rows.append(row)
    return header, rows


PRINTED = (("clip_accuracy", "whole clips right"), ("won_by_majority", "majority wins"),
           ("won_by_last_frame", "last frame wins"), ("recency_index", "recency index"),
           ("recency_index_backwards", "played backwards"))


def printed_table(variants):
    """The figures that answer the question, as lines of text."""
    wide = max(len(v.name) for v in variants) + 2
    lines = [" " * wide + "runs  " + "".join(f"{title:<24}" for _, title in PRINTED) + "counts more"]
    for v in variants:
        cells = [_cell(v.figures[key]) for key, _ in PRINTED]
        lines.append(f"{v.name:<{wide}}{v.runs:<6}" + "".join(f"{c:<24}" for c in cells)
                     + verdict(v.figures["recency_index"]))
    return "\n".join(lines)


def _cell(estimate):
    ends = estimate.ci95
    if not np.isfinite(estimate.value):
        return "-"
    return f"{estimate.value:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def draw_comparison(variants, folder, note):
    """Recency index and switching curve of every variant -> {name: picture}."""
    value, low, high, _ = _ends([v.figures["recency_index"] for v in variants])
    names = [f"{v.name} ({v.runs} runs)" for v in variants]
    return {
        "comparison": plots.intervals_by_run(
            folder / "comparison.png", names, value, low, high, note=note,
            title="Does the last frame decide, or the majority?",
            xlabel="recency index (+1 the last frame alone, 0 all frames alike, -1 the first alone)"),
        "comparison_curves": plots.switching_curves(
            folder / "comparison_curves.png", [_curve(v.name, v.curve) for v in variants], note=note,
            title="Switching curves, mean over the seeds", ylabel=R_LABEL)}
