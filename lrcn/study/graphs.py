"""The figures of the mixed-action study as pictures: points with their 95% intervals, curves, windows.

As in plots.py: the picture is written at `path` (None writes nothing) and returned as uint8
(H, W, 3) RGB. Measured values are scores.Estimates.
"""
import math

import numpy as np

from lrcn.drawing import style
from lrcn.drawing.plots import class_ticks, forest, interval
from lrcn.study.figures import logistic

BARS = "Bars: 95% intervals."
HALF = f"{BARS} Dashed: half of the frames."
R_LABEL = "p(later action) / p(both actions), mean"
LOOKS = ((style.BLUE, "o", "-"), (style.RED, "s", "--"), (style.BLACK, "^", ":"))


def ends(estimates):
    """(values, low, high) of Estimates; low and high are the value where there is no interval."""
    return np.array([(e.value, *(e.ci95 or (e.value, e.value))) for e in estimates], float).T


def _points(ax, x, estimates, color, marker="o", line="-", label=None, crowded=False):
    """Measured points with their intervals, finer where the axes are crowded. color: 0..255 RGB."""
    finer = {"elinewidth": 0.8, "capsize": 0, "markersize": 4} if crowded else {"markersize": 6}
    value, low, high = ends(estimates)
    ax.errorbar(x, value, yerr=interval(value, low, high), color=style.unit(color), label=label,
                marker=marker, ls=line, **finer)


def counted(points, wide):
    """{x: the value with its n below} of {x: Estimate}; some are left out where they would touch in a
    figure of `wide` inches."""
    widest = max(style.width(f"n={e.n:.0f}", style.SMALL) for e in points.values()) + 8
    step = math.ceil(len(points) * widest / (wide * 72 * 0.7))
    return {x: f"{x}\nn={points[x].n:.0f}" for x in list(points)[::step]}


@style.styled
def point_plot(path, series, title, xlabel, ylabel, ticks, size=(7.6, 4.0), shares=True, legend=None,
               before="", note=""):
    """series: {name: {x: Estimate}}, three at most; ticks: {x: name}; shares: values between 0 and 1;
    before: what stands first in the small print."""
    fig = style.figure(*size, title, f"{before}{BARS} {note}".strip())
    ax = fig.add_subplot()
    if not shares:
        ax.axhline(0, color="black", lw=1)
    for i, (name, points) in enumerate(series.items()):
        x = np.array([*points]) + 0.06 * (i - (len(series) - 1) / 2)
        _points(ax, x, points.values(), *LOOKS[i], name)
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set(xlabel=xlabel, ylabel=ylabel, **({"ylim": (-0.03, 1.03)} if shares else {}))
    if len(series) > 1:
        style.legend(ax, title=legend)
    return style.save(fig, path)


# ---------------------------------------------------------------- windows

def _windows_image(cells, classes, inches, more, title, note, **look):
    """(axes, image, height in inches) of cells (K, W), class by window. inches: for the rows of many classes;
    more: for what stands around them."""
    row, wide = max(0.16, min(0.24, inches / len(cells))), min(15, max(7, 2.5 + 0.1 * cells.shape[1]))
    high = max(1.8, row * len(cells) + more)
    ax = style.figure(wide, high, title, f"n = {cells.shape[1]} windows; {note}".strip()).add_subplot()
    image = ax.imshow(cells, aspect="auto", interpolation="nearest", vmin=0, **look)
    class_ticks(ax, classes, row, horizontal=False)
    ax.grid(False)
    ax.set_xlabel("window (its first frame)")
    return ax, image, high


@style.styled
def window_heat_map(path, p, truth, classes, note=""):
    """p: (C, W); truth: int (W,), the window's majority action, -1 for a tie.

    A red outline goes around the true class of every window. Of more than 40 classes, the true
    ones and the most probable of the others are shown.
    """
    from matplotlib.patches import Rectangle
    true = set(truth[truth >= 0].tolist())
    others = [i for i in np.argsort(-p.max(1), kind="stable").tolist() if i not in true]
    rows = np.array(sorted([*true, *others[:max(0, 40 - len(true))]]))
    left_out = f" {len(rows)} of {len(classes)} classes shown." if len(rows) < len(classes) else ""
    ax, image, high = _windows_image(
        p[rows], [classes[i] for i in rows], 7, 0.9,
        "Probability of every class in the windows of the first movie",
        f"red outline: the true class, by majority of frames.{left_out} {note}", cmap="viridis", vmax=1)
    truth = np.where(truth >= 0, np.searchsorted(rows, truth), -1)
    edges = np.flatnonzero(np.diff(truth, prepend=-2, append=-2))
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        if truth[start] >= 0:
            ax.add_patch(Rectangle((start - 0.5, truth[start] - 0.5), end - start, 1, fill=False,
                                   lw=1.6, ec=(1, 0.2, 0.1), clip_on=False))
    ax.set_ylabel("class")
    ax.figure.colorbar(image, ax=ax, label="probability", pad=0.01, shrink=min(1, 3 / high))
    return style.save(ax.figure, path)


TRUE, HIT, OTHER, NEITHER = range(1, 5)
CELLS = {TRUE: (style.SKY, "true, and another one predicted"), HIT: (style.GREEN, "true = predicted"),
         OTHER: (style.ORANGE, "predicted: the window's other action"),
         NEITHER: (style.RED, "predicted: neither")}


def window_cells(predicted, actions, counts):
    """(classes in order of appearance, the picture's cells int (K, W), 0 where nothing is to be said).

    predicted: int (W,). actions, counts: int (W, 3), a window's actions in their order, -1 for none,
    and the frames of each. True is the action with the most frames: of a tie, both are.
    """
    named = np.column_stack([actions, predicted]).ravel().tolist()
    shown = [label for label in dict.fromkeys(named) if label >= 0]
    cells = np.zeros((len(shown), len(predicted)), int)
    for w, (row, frames, label) in enumerate(zip(actions, counts, predicted, strict=True)):
        true = row[(frames == frames.max()) & (row >= 0)].tolist()
        cells[[shown.index(action) for action in true], w] = TRUE
        cells[shown.index(label), w] = HIT if label in true else OTHER if label in row else NEITHER
    return shown, cells


@style.styled
def windows_by_class(path, predicted, actions, counts, classes, note=""):
    """Class by window, the classes in order of appearance in the movie; arguments as in window_cells."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch
    shown, cells = window_cells(predicted, actions, counts)
    colors = ["white", *(style.unit(color) for color, _ in CELLS.values())]
    ax, *_ = _windows_image(cells, [classes[i] for i in shown], 8, 1.3,
                            "What is true and what is predicted, window by window",
                            f"of a tie both actions are true. {note}", cmap=ListedColormap(colors),
                            vmax=len(CELLS))
    ax.set_xticks(np.arange(cells.shape[1] + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(shown) + 1) - 0.5, minor=True)
    ax.grid(which="minor", lw=0.4)
    ax.tick_params(which="minor", length=0)
    ax.set_ylabel("class, in order of appearance")
    style.legend(ax, above=True, ncols=2, handles=[
        Patch(fc=style.unit(color), ec="black", lw=0.5, label=f"{name} ({(cells == kind).any(0).sum()})")
        for kind, (color, name) in CELLS.items()])
    return style.save(ax.figure, path)


# ---------------------------------------------------------------- switching curves

CONTROLS = {
    "hard cut": "as joined",
    "backwards": "last frame first",
    "shuffled": "in another order",
    "both ways": "the cut as it is joined and played backwards, together",
    "mixed": "as many frames of each action, but interleaved",
    "run through": "the whole movie in one go, no restart at a window",
}


def _switching_axes(wide, high, title, words, T):
    ax = style.figure(wide, high, title, words).add_subplot()
    ax.axvline(T / 2, color="black", ls="--", lw=1)
    ax.axhline(0.5, color="black", ls=":", lw=1)
    ax.set(ylabel=R_LABEL, ylim=(-0.03, 1.03))
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
    curve, point = switching.curve, switching.point
    words = f"{HALF} "
    if switching.has_fit:
        low, high = point.ci95
        words += (f"Logistic fit: equal at {point.value:.2f} frames [{low:.2f}, {high:.2f}] (band), "
                  f"slope {switching.slope.value:.2f} a frame. ")
    ax = _switching_axes(6.4, 4.0, "When does the second action win?", f"{words}{note}".strip(),
                         len(curve) - 1)
    _switching(ax, switching, style.BLUE)
    if switching.has_fit:
        ax.axvspan(low, high, color=style.unit(style.BLUE), alpha=0.15, lw=0)
    ticks = counted(dict(enumerate(curve)), 6.4)
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_xlabel("frames of the second action in the window (n windows)")
    return style.save(ax.figure, path)


@style.styled
def switching_curves(path, switchings, title, note=""):
    """switchings: [(name, figures.Switching)]; controls are explained."""
    known = "; ".join(f"{name}: {CONTROLS[name]}" for name, _ in switchings if name in CONTROLS)
    ax = _switching_axes(9, 4.6, title, f"{known}{'. ' * bool(known)}{HALF} {note}".strip(),
                         max(len(s.curve) for _, s in switchings) - 1)
    colors = style.SERIES if len(switchings) <= len(style.SERIES) else style.class_colors(switchings)
    for i, (name, switching) in enumerate(switchings):
        label = style.short(name, 34) + f" (n={sum(e.n for e in switching.curve):g})"
        line = ("-", "--", "-.", ":")[i // len(style.SERIES) % 4]
        _switching(ax, switching, colors[i], style.MARKERS[i % len(style.MARKERS)], line, label,
                   0.035 * (i - (len(switchings) - 1) / 2), crowded=len(switchings) > 3)
    ax.set_xlabel("frames of the second action in the window")
    ax.xaxis.get_major_locator().set_params(integer=True)
    style.legend(ax)
    return style.save(ax.figure, path)


# ---------------------------------------------------------------- one line a name; the LSTM's states

@style.styled
def intervals(path, names, estimates, title, xlabel, limits, null=None, note=""):
    """One line a name, value and interval, beside a line at the null hypothesis (None draws none).

    limits: the least and the largest value that there can be.
    """
    fig = style.figure(8, 0.3 * len(names) + 0.9, title, f"{BARS} {note}".strip())
    ax = fig.add_subplot()
    forest(ax, [style.short(name, 44) for name in names], *ends(estimates), limits, null=null)
    ax.set_xlabel(xlabel)
    return style.save(fig, path)


@style.styled
def states(path, time, traces, title, cut=None, ylabel="mean forget gate (0 forgets, 1 keeps)",
           ylim=(-0.03, 1.03), note=""):
    """traces: [layer][direction][time] Estimates; cut: where the new action starts.

    The axis is the gate's whole range, so that a change looks as small as it is.
    """
    fig = style.figure(7.6, 4.0, title, note)
    ax = fig.add_subplot()
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
    return style.save(fig, path)
