"""The pictures of the mixed-action study, as in plots.py, and its films; measured values are Estimates."""
import itertools
import math

import numpy as np

from lrcn.base import Lazy
from lrcn.data.frames import source_frames
from lrcn.data.manifest import sampling_settings
from lrcn.drawing import labels, style
from lrcn.drawing.plots import class_ticks, forest, interval
from lrcn.study.figures import logistic
from lrcn.video.reader import Video
from lrcn.video.sampling import Rate

patches = Lazy("matplotlib.patches")
colormaps = Lazy("matplotlib.colors")

BARS = "Bars: 95% intervals."
HALF = f"{BARS} Dashed: half of the frames."
LOOKS = ((style.BLUE, "o", "-"), (style.RED, "s", "--"), (style.BLACK, "^", ":"))


def ends(estimates):
    """(values, low, high) of Estimates; low and high are the value where there is no interval."""
    return np.array([(e.value, *(e.ci95 or (e.value, e.value))) for e in estimates], float).T


def _points(ax, x, estimates, color, marker="o", line="-", label=None, crowded=False):
    """Measured points with their intervals, finer where the axes are crowded. color: 0..255 RGB."""
    look = {"elinewidth": 0.8, "capsize": 0, "markersize": 4} if crowded else {"markersize": 6}
    values = ends(estimates)
    ax.errorbar(x, values[0], yerr=interval(*values), color=style.unit(color), label=label, marker=marker,
                ls=line, **look)


def counted(points, wide):
    """{x: x with its n below} of {x: Estimate}, as many as do not touch in `wide` inches."""
    widest = max(style.width(f"n={e.n:.0f}", style.SMALL) for e in points.values()) + 8
    step = math.ceil(len(points) * widest / (wide * 72 * 0.7))
    return {x: f"{x}\nn={points[x].n:.0f}" for x in list(points)[::step]}


@style.styled
def point_plot(path, series, title, xlabel, ylabel, ticks, size=(7.6, 4.0), shares=True, legend=None,
               before="", note=""):
    """series: {name: {x: Estimate}}, three at most; ticks: {x: name}; before: first in the small print."""
    ax = style.axes(*size, title, f"{before}{BARS} {note}")
    if shares:
        ax.set_ylim(-0.03, 1.03)
    else:
        ax.axhline(0, color="black", lw=1)
    for i, (name, points) in enumerate(series.items()):
        x = np.array([*points]) + 0.06 * (i - (len(series) - 1) / 2)
        _points(ax, x, points.values(), *LOOKS[i], name)
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if len(series) > 1:
        style.legend(ax, title=legend)
    return style.save(ax.figure, path)


# ---------------------------------------------------------------- windows

def _windows_image(cells, classes, inches, more, ylabel, title, note, **look):
    """(axes, image, height in inches) of cells (K, W), class by window. inches: for the rows of many classes;
    more: for what stands around them."""
    n, row = cells.shape[1], max(0.16, min(0.24, inches / len(cells)))
    high = max(1.8, row * len(cells) + more)
    ax = style.axes(min(15, max(7, 2.5 + 0.1 * n)), high, title, f"n = {n} windows; {note}")
    image = ax.imshow(cells, aspect="auto", interpolation="nearest", vmin=0, **look)
    class_ticks(ax, classes, row, horizontal=False)
    ax.grid(False)
    ax.set(xlabel="window (its first frame)", ylabel=ylabel)
    return ax, image, high


@style.styled
def window_heat_map(path, p, truth, classes, note=""):
    """p: (C, W); truth: int (W,), the window's majority action, -1 for a tie, outlined in red. Of more than
    40 classes, the true ones and the most probable of the others are shown."""
    true = np.unique(truth[truth >= 0])
    others = np.setdiff1d(np.argsort(-p.max(1), kind="stable"), true, assume_unique=True)   # in that order
    rows = np.sort([*true, *others[:max(0, 40 - len(true))]])
    left_out = f" {len(rows)} of {len(classes)} classes shown." if len(rows) < len(classes) else ""
    ax, image, high = _windows_image(
        p[rows], [classes[i] for i in rows], 7, 0.9, "class",
        "Probability of every class in the windows of the first movie",
        f"red outline: the true class, by majority of frames.{left_out} {note}", cmap="viridis", vmax=1)
    truth = np.where(truth >= 0, np.searchsorted(rows, truth), -1)
    edges = np.flatnonzero(np.diff(truth, prepend=-2, append=-2))
    for start, end in itertools.pairwise(edges):
        if truth[start] >= 0:
            ax.add_patch(patches.Rectangle((start - 0.5, truth[start] - 0.5), end - start, 1, fill=False,
                                           lw=1.6, ec=(1, 0.2, 0.1), clip_on=False))
    ax.figure.colorbar(image, ax=ax, label="probability", pad=0.01, shrink=min(1, 3 / high))
    return style.save(ax.figure, path)


TRUE, HIT, OTHER, NEITHER = range(1, 5)
CELLS = {TRUE: (style.SKY, "true, and another one predicted"), HIT: (style.GREEN, "true = predicted"),
         OTHER: (style.ORANGE, "predicted: the window's other action"),
         NEITHER: (style.RED, "predicted: neither")}


@style.styled
def windows_by_class(path, predicted, actions, counts, classes, note=""):
    """Class by window, in order of appearance. predicted: int (W,). actions, counts: int (W, 3), a window's
    actions, -1 for none, and their frames. True is the action with the most frames: of a tie, both are."""
    named = np.column_stack([actions, predicted]).ravel().tolist()
    shown = [label for label in dict.fromkeys(named) if label >= 0]
    cells = np.zeros((len(shown), len(predicted)), int)
    for w, (row, frames, label) in enumerate(zip(actions, counts, predicted, strict=True)):
        true = row[(frames == frames.max()) & (row >= 0)].tolist()
        cells[[shown.index(action) for action in true], w] = TRUE
        cells[shown.index(label), w] = HIT if label in true else OTHER if label in row else NEITHER
    colors = ["white", *(style.unit(color) for color, _ in CELLS.values())]
    ax, *_ = _windows_image(cells, [classes[i] for i in shown], 8, 1.3, "class, in order of appearance",
                            "What is true and what is predicted, window by window",
                            f"with a tie, both actions are true. {note}",
                            cmap=colormaps.ListedColormap(colors), vmax=len(CELLS))
    ax.set_xticks(np.arange(cells.shape[1] + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(shown) + 1) - 0.5, minor=True)
    ax.grid(which="minor", lw=0.4)
    ax.tick_params(which="minor", length=0)
    style.legend(ax, above=True, ncols=2, handles=[
        patches.Patch(fc=style.unit(color), ec="black", lw=0.5,
                      label=f"{name} ({(cells == kind).any(0).sum()})")
        for kind, (color, name) in CELLS.items()])
    return style.save(ax.figure, path)


# ---------------------------------------------------------------- switching curves

CONTROLS = {"hard cut": "as joined", "backwards": "last frame first", "shuffled": "in another order",
            "both ways": "the cut as it is joined and played backwards, together",
            "mixed": "as many frames of each action, but interleaved",
            "run through": "the whole movie in one go, no restart at a window"}


def _switching_axes(wide, high, title, caption, T, xlabel="frames of the second action in the window"):
    ax = style.axes(wide, high, title, caption)
    ax.axvline(T / 2, color="black", ls="--", lw=1)
    ax.axhline(0.5, color="black", ls=":", lw=1)
    ax.set(xlabel=xlabel, ylabel="p(later action) / p(both actions), mean", ylim=(-0.03, 1.03))
    return ax


def _switching(ax, switching, color, marker="o", line="-", label=None, apart=0.0, crowded=False):
    """The points of a figures.Switching and, where there is a fit, its logistic curve."""
    k, joined = np.arange(len(switching.curve)), "none" if switching.has_fit else line
    _points(ax, k + apart, switching.curve, color, marker, joined, label, crowded)
    if switching.has_fit:
        x = np.linspace(0, k[-1], 200)
        y = logistic(x, switching.point.value, switching.slope.value, switching.lapse.value)
        ax.plot(x, y, color=style.unit(color), ls=line)


@style.styled
def switching_curve(path, switching, note=""):
    """The share of the second action against its k = 0..T frames in the window, and the logistic fit."""
    curve, point, fit = switching.curve, switching.point, ""
    if switching.has_fit:
        fit = (f"Logistic fit: equal at {point.value:.2f} frames [{point.ci95[0]:.2f}, {point.ci95[1]:.2f}] "
               f"(band), slope {switching.slope.value:.2f} a frame. ")
    ax = _switching_axes(6.4, 4.0, "When does the second action win?", f"{HALF} {fit}{note}", len(curve) - 1,
                         "frames of the second action in the window (n windows)")
    _switching(ax, switching, style.BLUE)
    if switching.has_fit:
        ax.axvspan(*point.ci95, color=style.unit(style.BLUE), alpha=0.15, lw=0)
    ticks = counted(dict(enumerate(curve)), 6.4)
    ax.set_xticks(list(ticks), list(ticks.values()))
    return style.save(ax.figure, path)


@style.styled
def switching_curves(path, switchings, title, note=""):
    """switchings: [(name, figures.Switching)]; controls are explained."""
    known = "; ".join(f"{name}: {CONTROLS[name]}" for name, _ in switchings if name in CONTROLS)
    ax = _switching_axes(9, 4.6, title, f"{known}{'. ' * bool(known)}{HALF} {note}",
                         max(len(s.curve) for _, s in switchings) - 1)
    colors = style.SERIES if len(switchings) <= len(style.SERIES) else style.class_colors(switchings)
    for i, (name, switching) in enumerate(switchings):
        label = style.short(name, 34) + f" (n={sum(e.n for e in switching.curve):g})"
        line = ("-", "--", "-.", ":")[i // len(style.SERIES) % 4]
        _switching(ax, switching, colors[i], style.MARKERS[i % len(style.MARKERS)], line, label,
                   0.035 * (i - (len(switchings) - 1) / 2), crowded=len(switchings) > 3)
    ax.xaxis.get_major_locator().set_params(integer=True)
    style.legend(ax)
    return style.save(ax.figure, path)


@style.styled
def intervals(path, names, estimates, title, xlabel, limits, null=None, note=""):
    """One line a name, value and interval; limits and null as in plots.forest."""
    ax = style.axes(8, 0.3 * len(names) + 0.9, title, f"{BARS} {note}")
    forest(ax, [style.short(name, 44) for name in names], *ends(estimates), limits, null=null)
    ax.set_xlabel(xlabel)
    return style.save(ax.figure, path)


@style.styled
def states(path, time, traces, title, cut=None, ylabel="mean forget gate (0 forgets, 1 keeps)",
           ylim=(-0.03, 1.03), note=""):
    """traces: [layer][direction][time] Estimates, on the gate's whole range; cut: the new action's start."""
    ax = style.axes(7.6, 4.0, title, note)
    lines = [(layer, direction, trace) for layer, ways in enumerate(traces)
             for direction, trace in enumerate(ways)]
    colors = style.SERIES if len(lines) <= len(style.SERIES) else style.class_colors(lines)
    for i, (layer, direction, trace) in enumerate(lines):
        color, (value, low, high) = style.unit(colors[i]), ends(trace)
        ax.plot(time, value, color=color, ls="--" if direction else "-",
                label=f"layer {layer + 1}, {'backward' if direction else 'forward'}",
                marker=style.MARKERS[i % 7] if len(time) <= 30 else None, markersize=5,
                mfc="white" if direction else color)
        ax.fill_between(time, low, high, color=color, alpha=0.15, lw=0)
    if cut is not None:
        ax.axvline(cut, color="black", ls="--", lw=1)
    ax.set(xlabel="frame", ylabel=ylabel, ylim=ylim)
    ax.xaxis.get_major_locator().set_params(integer=True)
    style.legend(ax)
    return style.save(ax.figure, path)


# ---------------------------------------------------------------- all of a study

def draw(study, folder, note):
    """All pictures of one study into `folder` -> {name: uint8 (H, W, 3)}. note: the small print."""
    figures, windows, T = study.figures, study.windows, study.length
    first, pictures = windows.movie == 0, {}

    def add(name, plot, *values, note=note, **options):
        pictures[name] = plot(folder / f"{name}.png", *values, note=note, **options)

    pictures["sliding_window"] = sliding_window_explained(folder / "sliding_window.png", T)
    add("heat_map", window_heat_map, study.p[first].T, windows.majority[first], study.classes)
    add("windows_by_class", windows_by_class, study.predicted[first], windows.actions[first],
        windows.counts[first], study.classes)
    draw_accuracy(figures, add)
    index, switching = figures["recency_index"], figures["switching"]
    bounds = "" if index.ci95 is None else " [{:+.2f}, {:+.2f}]".format(*index.ci95)
    add("switching_curve", switching_curve, switching["hard"],
        note=f"Recency index {index.value:+.2f}{bounds} (+1 the last frame decides, -1 the first). {note}")
    controls = [("hard cut" if name == "hard" else name, curve) for name, curve in switching.items()]
    add("controls", switching_curves, controls, "The same windows played in other ways")
    costs = {f"by {name}": dict(enumerate(figures["influence_by_position"][kind], 1))
             for kind, name in (("mean frame", "the clip's mean frame"), ("grey", "grey"))}
    add("influence_by_position", point_plot, costs, "What each frame is worth to the network",
        "position of the replaced frame (first to last)", "drop of the true class's logit",
        {x: str(x) for x in range(1, T + 1, math.ceil(T / 20))}, shares=False, legend="frame replaced",
        before=f"n = {costs['by grey'][1].n:g} clips. ")
    if study.traces:
        n, k = {name: trace[0][0][0].n for name, trace in study.traces.items()}, T // 2
        cut, bands = "Dashed: the first frame of the new action.", f"Bands: 95% intervals. {note}"
        add("gates_window", states, np.arange(1, T + 1), study.traces["window"],
            f"Forget gate in a window with {T - k} + {k} frames", T - k + 1,
            note=f"n = {n['window']:g} windows. {cut} {bands}")
        add("gates_movie", states, np.arange(-T, T), study.traces["movie"],
            "Forget gate around a cut, the movie run through without restart", 0,
            note=f"{cut} n = {n['movie']} cuts. Frames are counted from the cut. {bands}")
        highest = np.max([ends(trace)[2] for layer in study.traces["memory"] for trace in layer])
        add("memory", states, np.arange(3 * T + 1), study.traces["memory"],
            "How long the state from beyond a cut stays in the cell",
            ylabel="share of the state left", ylim=(0, max(1.05, highest * 1.02)),
            note=f"n = {n['memory']} cuts; frames read since the cut; 1: all of it is there. "
                 f"The backward direction carries over the coming action. {bands}")
    return pictures


def draw_accuracy(figures, add):
    """How many windows are right, and which action wins. add(name, plot, values ...) draws a picture."""
    right, windows = "share of windows right", "(n windows)"
    points = figures["accuracy_by_frames"]
    add("accuracy_by_frames", point_plot, {"accuracy": points},
        "Accuracy by the number of frames from the majority action",
        f"frames from the majority action {windows}", right, counted(points, 6.4), (6.4, 3.8))
    points = figures["accuracy_by_phase"]
    add("accuracy_by_phase", point_plot, {"accuracy": dict(enumerate(points.values()))},
        "Accuracy by the window's place in the action",
        f"frames between the cut and the window's first frame {windows}", right,
        {i: f"{frames}\nn={e.n:.0f}" for i, (frames, e) in enumerate(points.items())},
        (max(6.4, 0.5 * len(points)), 3.8))
    mixes, won = figures["shares_by_mix"], "share of windows won"
    two = dict(sorted((row["counts"][1], row) for row in mixes.values() if len(row["counts"]) == 2))
    if two:
        series = {name: {k: row[name.split()[0]] for k, row in two.items()}
                  for name in ("first action", "second action", "neither")}
        add("shares_by_mix", point_plot, series, "Which action wins a mixed window",
            f"frames of the second action in the window {windows}", won, counted(series["neither"], 7.6))
    three = {f"{mix} frames: {outcome} (n={row[outcome].n:g})": row[outcome]
             for mix, row in mixes.items() if len(row["counts"]) == 3
             for outcome in ("first", "second", "third", "neither")}
    if three:
        add("three_actions", intervals, list(three), three.values(),
            "Which action wins a window of three actions", won, (0, 1))


def draw_comparison(variants, folder, note):
    """Recency index and switching curve of every results_table.Variant -> {name: picture}."""
    names = [f"{v.name} ({len(v.seeds)} run{'s' * (len(v.seeds) > 1)})" for v in variants]
    indices = intervals(
        folder / "comparison.png", names, [v.figures["recency_index"] for v in variants],
        "Does the last frame decide, or the majority?",
        "recency index (+1 the last frame alone, 0 all frames alike, -1 the first alone)", (-1, 1), 0.0, note)
    curves = switching_curves(folder / "comparison_curves.png", [(v.name, v.curve) for v in variants],
                              "Switching curves, mean over the seeds", note)
    return {"comparison": indices, "comparison_curves": curves}


def show(folder, pictures):
    """All pictures into TensorBoard, replacing those of an earlier run."""
    from torch.utils.tensorboard import SummaryWriter
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        for name, picture in pictures.items():
            writer.add_image(f"test_continues_movie/{name}", picture, dataformats="HWC")


# ---------------------------------------------------------------- frames

@style.styled
def sliding_window_explained(path, T):
    """T frames of a disc that moves, T of a square that grows, and every window over the cut."""
    high, wide = 90, 120
    (y, x), strip = np.mgrid[:high, :wide], np.full((2 * T, high, wide, 3), 235, np.uint8)
    for t, done in enumerate((np.arange(T) + 0.5) / T):
        strip[t][(x - wide * done) ** 2 + (y - high / 2) ** 2 < (0.2 * high) ** 2] = style.BLUE
        side = high * (0.1 + 0.3 * done)
        strip[T + t][(abs(x - wide / 2) < side) & (abs(y - high / 2) < side)] = style.ORANGE
    colors = [style.unit(style.BLUE)] * T + [style.unit(style.ORANGE)] * T
    starts = np.unique(np.linspace(0, T, min(T + 1, 9)).round().astype(int))
    shown = np.unique(np.linspace(0, 2 * T - 1, min(2 * T, 16)).round().astype(int))
    cell = 2 * T / len(shown)                       # width of a thumbnail, in frames
    top = cell * high / wide
    unit = 9.0 / (2 * T)                            # inches a frame
    row, edge = 0.36 / unit, 0.03 if T <= 12 else 0
    total = top + row * (len(starts) + 0.9)
    ax = style.axes(9.0 + 2.6, total * unit + 0.3, "The window slides over a cut, one frame a step")
    ax.set_anchor("W")
    for place, i in enumerate(shown):
        left, right = place * cell + 0.04, (place + 1) * cell - 0.04
        ax.imshow(strip[i], extent=(left, right, top, 0.04), zorder=1)
        ax.add_patch(patches.Rectangle((left, 0.04), cell - 0.08, top - 0.04, fill=False, lw=3, ec=colors[i],
                                       zorder=2))
    for i, start in enumerate(starts.tolist()):
        y = top + row * (i + 0.7)
        for j in range(start, start + T):
            ax.add_patch(patches.Rectangle((j + edge, y), 1 - 2 * edge, 0.6 * row, fc=colors[j], ec="black",
                                           lw=0.8 if T <= 12 else 0, hatch=None if j < T else "//"))
        label = "a tie" if 2 * start == T else f"{'first' if 2 * start < T else 'second'} action"
        ax.text(2 * T + 0.12 / unit, y + 0.3 * row, f"{T - start} + {start}: {label}", va="center",
                fontsize=style.SIZE)
    ax.plot([T, T], [-0.02, total], color="black", lw=2, zorder=3)
    ax.text(2 * T + 0.12 / unit, top / 2, "frames; the black line\nis the cut", va="center")
    ax.set(xlim=(-0.05, 2 * T + 2.5 / unit), ylim=(total, -0.05))
    ax.set_aspect("equal")
    ax.axis("off")
    return style.save(ax.figure, path)


@style.styled
def window_step(frames, actions, start, T, names, predicted):
    """One picture of the sliding window: uint8 (H, W, 3). frames: uint8 (N, H, W, 3), and the action of each.
    names: of the two actions; start: the window's first frame; predicted: the class."""
    high, wide = frames[0].shape[:2]
    tall = high / wide
    ax = style.axes(8, 8 / len(frames) * tall + 0.9, "The window slides over a cut of your own clips")
    for i, frame in enumerate(frames):
        ax.imshow(frame, extent=(i + 0.03, i + 0.97, tall, 0), zorder=1)
        ax.add_patch(patches.Rectangle((i + 0.03, 0), 0.94, tall, fill=False, lw=2.5, zorder=2,
                                       ec=style.unit(style.ORANGE if actions[i] else style.BLUE)))
    ax.add_patch(patches.Rectangle((start, -0.1), T, tall + 0.2, fill=False, lw=3.5, ec="black", zorder=3,
                                   clip_on=False))
    late = sum(actions[start:start + T])
    mix = f"{T - late} + {late} frames of {style.short(names[0])} and {style.short(names[1])}"
    ax.set_title(f"{mix}; predicted: {style.short(predicted)}", fontsize=style.SIZE)
    ax.set(xlim=(-0.1, len(frames) + 0.1), ylim=(tall + 0.15, -0.15))
    ax.set_aspect("equal")
    ax.axis("off")
    return style.save(ax.figure, None)


def write_films(folder, study, sampled, source, gif):
    """The first movie, each frame with the label of the window that ends there, and the window over its first
    cut. sampled: the folder of the clips; source: the Clip behind every test video."""
    T, movies, classes = study.length, study.movies, study.classes

    def frames(places):
        """Those at `places` in the line of all movies, uint8 (H, W, 3) each."""
        for i in places:
            clip = source[movies.video[i]]
            yield source_frames(sampled, clip.video, [clip.frames[movies.frame[i]]])[0]

    place, whole = np.flatnonzero(movies.movie == 0), study.windows.movie == 0
    truth, predicted = (np.concatenate([np.full(T - 1, -1), values[whole]])     # at first there is no window
                        for values in (study.windows.majority, study.predicted))
    p = np.concatenate([np.zeros((T - 1, len(classes))), study.p[whole]])
    actions = study.clips.labels[movies.video]
    labels.mixed_movie(folder.movie, frames(place), truth, predicted, p, classes,
                       Rate.of(sampling_settings(sampled)).per_second, actions[place])
    if gif:
        with Video(folder.movie) as film:
            pictures = (film.frame() for _ in iter(film.grab, False))
            labels.clip_gif(folder.movie_gif, pictures, film.info.fps, 480)
    cut = movies.cuts[0]
    span = np.arange(max(0, cut - T), min(cut + T, len(place)))
    shown, names = list(frames(span)), [classes[actions[i]] for i in (cut - 1, cut)]
    steps = [window_step(shown, (span >= cut).tolist(), start, T, names,
                         classes[study.predicted[span[0] + start]]) for start in range(len(span) - T + 1)]
    high, wide, _ = np.max([step.shape for step in steps], 0)
    labels.clip_gif(folder.window_gif, (labels.fit_frame(step, wide, high) for step in steps), 1.25, 900)
