"""Pictures of the mixed-action study, and of predictions along a video.

As in plots.py: arrays in, the picture written at `path` (None writes nothing) and returned as
uint8 (H, W, 3) RGB. low and high are the ends of an interval beside each share, n its count.
"""
import math

import numpy as np

from lrcn.drawing import style
from lrcn.drawing.plots import class_ticks, forest, interval


def _points(ax, x, y, low, high, color, label=None, marker="o", line="-", crowded=False):
    """Measured points with their intervals, finer where the axes are crowded. color: 0..255 RGB."""
    finer = {"elinewidth": 0.8, "capsize": 0, "markersize": 4} if crowded else {"markersize": 6}
    ax.errorbar(x, y, yerr=interval(y, low, high), color=style.unit(color), label=label,
                marker=marker, ls=line, **finer)


def _counted_ticks(ax, values, n):
    """A tick for every value with its n below; some are left out where they would touch."""
    n = np.broadcast_to(n, len(values))
    names = [f"n={c:.0f}" for c in n]
    widest = max(style.width(name, style.SMALL) for name in names) + 8
    step = math.ceil(len(values) * widest / (ax.figure.get_figwidth() * 72 * 0.7))
    ax.set_xticks(values[::step], [f"{v}\n{name}" for v, name in zip(values, names, strict=True)][::step])


def _bars_mean(low, note):
    """The note, after a word about the error bars where there are some."""
    return f"Bars: 95% intervals. {note}".strip() if low is not None else note


def _share_axis(ax, xlabel, ylabel):
    ax.set(xlabel=xlabel, ylabel=ylabel, ylim=(-0.03, 1.03))


@style.styled
def sliding_window_explained(path, frames_by_action, T=5, names=("first action", "second action"),
                             title="The window slides over a cut, one frame a step", note=""):
    """What the study does, drawn: frames joined at a cut, every window, its mix, its true label.

    frames_by_action: two uint8 (N, H, W, 3) with N >= T; the last T of one, the first T of the other.
    """
    from matplotlib.patches import Rectangle
    strip = [*frames_by_action[0][-T:], *frames_by_action[1][:T]]
    colors = [style.unit(style.BLUE)] * T + [style.unit(style.ORANGE)] * T
    starts = np.unique(np.linspace(0, T, min(T + 1, 9)).round().astype(int))
    shown = np.unique(np.linspace(0, 2 * T - 1, min(2 * T, 16)).round().astype(int))
    high, wide = strip[0].shape[:2]
    cell = 2 * T / len(shown)                       # width of a thumbnail, in frames
    top = cell * high / wide
    unit = 9.0 / (2 * T)                            # inches a frame
    row, edge = 0.36 / unit, 0.03 if T <= 12 else 0
    total = top + row * (len(starts) + 0.9)
    fig = style.figure(9.0 + 2.6, total * unit + 0.3, title, note)
    ax = fig.add_subplot(anchor="W")
    for place, i in enumerate(shown):
        ax.imshow(strip[i], extent=(place * cell + 0.04, (place + 1) * cell - 0.04, top, 0.04), zorder=1)
        ax.add_patch(Rectangle((place * cell + 0.04, 0.04), cell - 0.08, top - 0.04, fill=False,
                               lw=3, ec=colors[i], zorder=2))
    for i, start in enumerate(starts):
        y = top + row * (i + 0.7)
        for j in range(start, start + T):
            ax.add_patch(Rectangle((j + edge, y), 1 - 2 * edge, 0.6 * row, fc=colors[j], ec="black",
                                   lw=0.8 if T <= 12 else 0, hatch=None if j < T else "//"))
        second = int(start)
        meant = "a tie" if 2 * second == T else names[0] if 2 * second < T else names[1]
        said, size = style.fit(f"{T - second} + {second}: {meant}", 165, style.SIZE, 6)
        ax.text(2 * T + 0.12 / unit, y + 0.3 * row, said, va="center", fontsize=size)
    ax.plot([T, T], [-0.02, total], color="black", lw=2, zorder=3)
    ax.text(2 * T + 0.12 / unit, top / 2, "frames; the black line\nis the cut", va="center")
    ax.set(xlim=(-0.05, 2 * T + 2.5 / unit), ylim=(total, -0.05))
    ax.set_aspect("equal")
    ax.axis("off")
    return style.save(fig, path)


@style.styled
def window_heat_map(path, probabilities, truth, classes, title="Probability of every class per window",
                    note=""):
    """probabilities: (C, W); truth: int (W,), the window's majority action, -1 for a tie.

    A red outline goes around the true class of every window. Of more than 40 classes, the true
    ones and the most probable of the others are shown.
    """
    from matplotlib.patches import Rectangle
    probabilities, truth = np.asarray(probabilities, float), np.asarray(truth)
    rows = _leading(probabilities, truth, 40)
    left_out = f" {len(rows)} of {len(classes)} classes shown." if len(rows) < len(classes) else ""
    words = f"n = {len(truth)} windows; red outline: the true class, by majority of frames.{left_out} {note}"
    truth = np.array([np.searchsorted(rows, t) if t >= 0 else -1 for t in truth])
    probabilities, classes = probabilities[rows], [classes[i] for i in rows]
    row, wide = max(0.16, min(0.24, 7 / len(rows))), min(15, max(7, 2.5 + 0.1 * len(truth)))
    high = max(1.8, row * len(rows) + 0.9)
    fig = style.figure(wide, high, title, words.strip())
    ax = fig.add_subplot()
    image = ax.imshow(probabilities, aspect="auto", interpolation="nearest", cmap="viridis", vmin=0, vmax=1)
    edges = np.flatnonzero(np.diff(truth, prepend=-2, append=-2))
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        if truth[start] >= 0:
            ax.add_patch(Rectangle((start - 0.5, truth[start] - 0.5), end - start, 1, fill=False,
                                   lw=1.6, ec=(1, 0.2, 0.1), clip_on=False))
    class_ticks(ax, classes, row, horizontal=False)
    ax.grid(False)
    ax.set(xlabel="window (its first frame)", ylabel="class")
    fig.colorbar(image, ax=ax, label="probability", pad=0.01, shrink=min(1, 3 / high))
    return style.save(fig, path)


TRUE, HIT, OTHER, NEITHER = range(1, 5)
CELLS = {TRUE: (style.SKY, "true, and another one predicted"), HIT: (style.GREEN, "true = predicted"),
         OTHER: (style.ORANGE, "predicted: the window's other action"),
         NEITHER: (style.RED, "predicted: neither")}


def window_cells(predicted, actions, counts):
    """(classes in order of appearance, the picture's cells int (K, W), 0 where nothing is to be said).

    predicted: int (W,). actions, counts: int (W, 3), a window's actions in their order, -1 for none,
    and the frames of each. True is the action with the most frames: of a tie, both are.
    """
    shown = list(dict.fromkeys(a for row, said in zip(actions.tolist(), predicted.tolist(), strict=True)
                               for a in (*row, said) if a >= 0))
    cells = np.zeros((len(shown), len(predicted)), int)
    for w, (row, frames, said) in enumerate(zip(actions, counts, predicted, strict=True)):
        true = set(row[(frames == frames.max()) & (row >= 0)].tolist())
        for action in true:
            cells[shown.index(action), w] = TRUE
        kind = HIT if said in true else OTHER if said in row else NEITHER
        cells[shown.index(said), w] = kind
    return shown, cells


@style.styled
def windows_by_class(path, predicted, actions, counts, classes, title="What is true and what is predicted, "
                     "window by window", note=""):
    """Class by window, the classes in order of appearance in the movie; arguments as in window_cells."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch
    shown, cells = window_cells(np.asarray(predicted), np.asarray(actions), np.asarray(counts))
    row, wide = max(0.16, min(0.24, 8 / len(shown))), min(15, max(7, 2.5 + 0.1 * cells.shape[1]))
    n = [int((cells == kind).any(0).sum()) for kind in CELLS]
    fig = style.figure(wide, max(1.8, row * len(shown) + 1.3), title,
                       f"n = {cells.shape[1]} windows; of a tie both actions are true. {note}".strip())
    ax = fig.add_subplot()
    colors = ["white", *(style.unit(color) for color, _ in CELLS.values())]
    ax.imshow(cells, aspect="auto", interpolation="nearest", cmap=ListedColormap(colors), vmin=0,
              vmax=len(CELLS))
    class_ticks(ax, [classes[i] for i in shown], row, horizontal=False)
    ax.set_xticks(np.arange(cells.shape[1] + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(shown) + 1) - 0.5, minor=True)
    ax.grid(False)
    ax.grid(which="minor", lw=0.4)
    ax.tick_params(which="minor", length=0)
    ax.set(xlabel="window (its first frame)", ylabel="class, in order of appearance")
    style.legend(ax, above=True, ncols=2, handles=[
        Patch(fc=style.unit(color), ec="black", lw=0.5, label=f"{name} ({count})")
        for (color, name), count in zip(CELLS.values(), n, strict=True)])
    return style.save(fig, path)


@style.styled
def window_step(frames, actions, start, T, names, said,
                title="The window slides over a cut of your own clips"):
    """One picture of the sliding window: uint8 (H, W, 3). frames: uint8 (N, H, W, 3), and the action of each.

    names: of the two actions; start: the window's first frame; said: what the network makes of it.
    """
    from matplotlib.patches import Rectangle
    high, wide = frames[0].shape[:2]
    tall = high / wide
    fig = style.figure(8, 8 / len(frames) * tall + 0.9, title)
    ax = fig.add_subplot()
    for i, frame in enumerate(frames):
        ax.imshow(frame, extent=(i + 0.03, i + 0.97, tall, 0), zorder=1)
        ax.add_patch(Rectangle((i + 0.03, 0), 0.94, tall, fill=False, lw=2.5, zorder=2,
                               ec=style.unit(style.ORANGE if actions[i] else style.BLUE)))
    ax.add_patch(Rectangle((start, -0.1), T, tall + 0.2, fill=False, lw=3.5, ec="black", zorder=3,
                           clip_on=False))
    late = sum(actions[start:start + T])
    words = f"{T - late} + {late} frames of {style.short(names[0])} and {style.short(names[1])}"
    ax.set_title(f"{words}; predicted: {style.short(said)}", fontsize=style.SIZE)
    ax.set(xlim=(-0.1, len(frames) + 0.1), ylim=(tall + 0.15, -0.15))
    ax.set_aspect("equal")
    ax.axis("off")
    return style.save(fig, None)


def _leading(probabilities, truth, most):
    """Ascending indices of the true classes and, up to `most` in all, of the most probable others."""
    true = set(int(t) for t in truth if t >= 0)
    order = np.argsort(-probabilities.max(1), kind="stable")
    others = [int(i) for i in order if int(i) not in true]
    return np.array(sorted([*true, *others[:max(0, most - len(true))]]))


@style.styled
def accuracy_by_frames(path, counts, accuracy, low, high, n,
                       title="Accuracy by the number of frames from the majority action", note=""):
    """counts: frames of the window's majority action; the other arrays: one value for each."""
    fig = style.figure(6.4, 3.8, title, _bars_mean(low, note))
    ax = fig.add_subplot()
    _points(ax, counts, accuracy, low, high, style.BLUE)
    _counted_ticks(ax, counts, n)
    _share_axis(ax, "frames from the majority action (n windows)", "share of windows right")
    return style.save(fig, path)


@style.styled
def shares_by_mix(path, k, shares, low, high, n, title="Which action wins a mixed window", note=""):
    """shares, low, high: (3, K), the first action, the second and neither; k: frames of the second."""
    fig = style.figure(7.6, 4.0, title, _bars_mean(low, note))
    ax = fig.add_subplot()
    looks = ((style.BLUE, "first action", "o", "-"), (style.RED, "second action", "s", "--"),
             (style.BLACK, "neither", "^", ":"))
    for i, (color, label, marker, line) in enumerate(looks):
        ends = (None, None) if low is None else (low[i], high[i])
        _points(ax, np.asarray(k) + 0.06 * (i - 1), shares[i], *ends, color, label, marker, line)
    _counted_ticks(ax, k, n)
    _share_axis(ax, "frames of the second action in the window (n windows)", "share of windows won")
    style.legend(ax)
    return style.save(fig, path)


def _logistic(ax, k, fit, color, line="-", band=True):
    """fit: (point, slope[, point low, point high[, lapse]]); the curve, and a band over the interval.

    lapse: how far the curve's ends stay from 0 and 1.
    """
    x, lapse = np.linspace(min(k), max(k), 200), fit[4] if len(fit) > 4 else 0
    y = lapse + (1 - 2 * lapse) / (1 + np.exp(-np.clip(fit[1] * (x - fit[0]), -60, 60)))
    ax.plot(x, y, color=style.unit(color), ls=line)
    if band and len(fit) >= 4:
        ax.axvspan(fit[2], fit[3], color=style.unit(color), alpha=0.15, lw=0)


def _half(ax, T):
    ax.axvline(T / 2, color="black", ls="--", lw=1)
    ax.axhline(0.5, color="black", ls=":", lw=1)


@style.styled
def switching_curve(path, k, share, low, high, n, fit=None, title="When does the second action win?",
                    note="", ylabel="mean probability of the second action"):
    """share of the second action against its k = 0..T frames in the window.

    fit: (point of equality, slope, point low, point high) of a logistic curve, or None.
    """
    words = _bars_mean(low, "Dashed: half of the frames.")
    if fit is not None:
        words += f" Logistic fit: equal at {fit[0]:.2f} frames"
        words += f" [{fit[2]:.2f}, {fit[3]:.2f}] (band)" if len(fit) >= 4 else ""
        words += f", slope {fit[1]:.2f} a frame."
    fig = style.figure(6.4, 4.0, title, f"{words} {note}".strip())
    ax = fig.add_subplot()
    _half(ax, max(k))
    _points(ax, k, share, low, high, style.BLUE, line="none" if fit is not None else "-")
    if fit is not None:
        _logistic(ax, k, fit, style.BLUE)
    _counted_ticks(ax, k, n)
    _share_axis(ax, "frames of the second action in the window (n windows)", ylabel)
    return style.save(fig, path)


CONTROLS = {
    "hard cut": "as joined",
    "backwards": "last frame first",
    "shuffled": "in another order",
    "both ways": "the cut as it is joined and played backwards, together",
    "mixed": "as many frames of each action, but interleaved",
    "run through": "the whole movie in one go, no restart at a window",
}


def explained(names):
    """What the controls of these names are, as one sentence; none for other names."""
    known = [f"{name}: {CONTROLS[name]}" for name in names if name in CONTROLS]
    return "; ".join(known) + ". " if known else ""


@style.styled
def switching_curves(path, runs, title="Switching curves of several networks", note="",
                     ylabel="mean probability of the second action"):
    """runs: dicts of name, k, share, low, high, n and, where there is one, fit (see switching_curve)."""
    words = _bars_mean(runs[0].get("low"), "Dashed: half of the frames.")
    words = f"{explained([run['name'] for run in runs])}{words} {note}"
    fig = style.figure(9, 4.6, title, words.strip())
    ax = fig.add_subplot()
    _half(ax, max(max(run["k"]) for run in runs))
    colors = style.SERIES if len(runs) <= len(style.SERIES) else style.class_colors(runs)
    for i, run in enumerate(runs):
        fit, k = run.get("fit"), np.asarray(run["k"])
        name = style.short(run["name"], 34) + f" (n={np.sum(run['n']):g})"
        line = ("-", "--", "-.", ":")[i // len(style.SERIES) % 4]
        _points(ax, k + 0.035 * (i - (len(runs) - 1) / 2), run["share"], run.get("low"), run.get("high"),
                colors[i], name, style.MARKERS[i % len(style.MARKERS)], "none" if fit else line,
                crowded=len(runs) > 3)
        if fit:
            _logistic(ax, k, fit, colors[i], line, band=False)
    _share_axis(ax, "frames of the second action in the window", ylabel)
    ax.xaxis.get_major_locator().set_params(integer=True)
    style.legend(ax)
    return style.save(fig, path)


@style.styled
def intervals_by_run(path, names, value, low, high, n=None, title="Recency index of every network",
                     xlabel="recency index (above 0: late frames count more)", null=0.0, note="",
                     limits=(-1, 1)):
    """One line a run, value and interval, beside a line at the null hypothesis (None draws none).

    limits: the least and the largest value that there can be.
    """
    names = [style.short(name, 44) for name in names]
    if n is not None:
        names = [f"{name} (n={c:g})" for name, c in zip(names, np.broadcast_to(n, len(names)), strict=True)]
    fig = style.figure(8, 0.3 * len(names) + 0.9, title, _bars_mean(low, note))
    ax = fig.add_subplot()
    forest(ax, names, value, low, high, limits, null=null)
    ax.set_xlabel(xlabel)
    return style.save(fig, path)


@style.styled
def influence_by_position(path, positions, mean_frame_cost, grey_cost, intervals=None, n=None,
                          title="What each frame is worth to the network", note=""):
    """Loss of the logit when one frame is replaced, by the clip's mean frame and by grey.

    intervals: (2, 2, T), [mean frame, grey] x [low, high] x positions, or None; n: clips.
    """
    counted = f"n = {n:g} clips. " if n is not None else ""
    fig = style.figure(7.6, 4.0, title, (counted + _bars_mean(intervals, note)).strip())
    ax, x = fig.add_subplot(), np.asarray(positions)
    ax.axhline(0, color="black", lw=1)
    looks = ((mean_frame_cost, style.BLUE, "by the clip's mean frame", "o", "-"),
             (grey_cost, style.RED, "by grey", "s", "--"))
    for i, (cost, color, label, marker, line) in enumerate(looks):
        low, high = (None, None) if intervals is None else intervals[i]
        _points(ax, x + 0.06 * (i - 0.5), cost, low, high, color, label, marker, line)
    ax.set_xticks(x[::math.ceil(len(x) / 20)])
    ax.set(xlabel="position of the replaced frame (first to last)", ylabel="loss of the true class's logit")
    style.legend(ax, title="frame replaced")
    return style.save(fig, path)


@style.styled
def gates(path, time, gate, cut=None, title="Forget gate around a cut", n=None, note="",
          ylabel="mean forget gate (0 forgets, 1 keeps)", low=None, high=None, ylim=(-0.03, 1.03)):
    """gate (low, high): (layers, directions, len(time)) averages; cut: where the new action starts.

    The axis is the gate's whole range, so that a change looks as small as it is.
    """
    gate = np.asarray(gate, float)
    counted = f"n = {n:g} windows. " if n is not None else ""
    cut_words = "Dashed: the first frame of the new action. " if cut is not None else ""
    fig = style.figure(7.6, 4.0, title, f"{counted}{cut_words}{note}".strip())
    ax = fig.add_subplot()
    places = list(np.ndindex(gate.shape[:2]))
    colors = style.SERIES if len(places) <= len(style.SERIES) else style.class_colors(places)
    for i, (layer, direction) in enumerate(places):
        color = style.unit(colors[i])
        ax.plot(time, gate[layer, direction], color=color, ls="--" if direction else "-",
                label=f"layer {layer + 1}, {'backward' if direction else 'forward'}",
                marker=style.MARKERS[i % 7] if len(time) <= 30 else None, markersize=5,
                mfc="white" if direction else color)
        if low is not None:
            ax.fill_between(time, low[layer][direction], high[layer][direction], color=color,
                            alpha=0.15, lw=0)
    if cut is not None:
        ax.axvline(cut, color="black", ls="--", lw=1)
    ax.set(xlabel="frame", ylabel=ylabel, ylim=ylim)
    ax.xaxis.get_major_locator().set_params(integer=True)
    style.legend(ax)
    return style.save(fig, path)


@style.styled
def accuracy_by_phase(path, phase, accuracy, low, high, n,
                      title="Accuracy by the window's place in the action", note=""):
    """phase: frames since the cut at the window's first frame, or any names; a point for each."""
    fig = style.figure(max(6.4, 0.5 * len(phase)), 3.8, title, _bars_mean(low, note))
    ax = fig.add_subplot()
    x = np.arange(len(phase))
    _points(ax, x, accuracy, low, high, style.BLUE)
    n = np.broadcast_to(n, len(phase))
    ax.set_xticks(x, [f"{style.short(p, 12)}\nn={c:.0f}" for p, c in zip(phase, n, strict=True)])
    _share_axis(ax, "frames between the cut and the window's first frame (n windows)",
                "share of windows right")
    return style.save(fig, path)
