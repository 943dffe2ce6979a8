"""Pictures of a training run, of a test, of several runs side by side, and of a film's labels.

Every function writes the picture at `path` (None writes nothing) and returns it as uint8 (H, W, 3) RGB.
Shares lie between 0 and 1; `note` is a line of small print for n, split, seed and the like.
"""
import math

import numpy as np

from lrcn.base import Lazy
from lrcn.drawing import style

patches = Lazy("matplotlib.patches")

# What stands for the few and the wrong: told apart without colours too
HATCHED = {"facecolor": style.unit(style.ORANGE), "hatch": "///", "edgecolor": "black", "linewidth": 0}


def class_ticks(ax, classes, room, horizontal=True, n=None):
    """Name the classes on an axis. room: inches for each; names are turned or set smaller to fit, and of very
    many classes every second, third ... one is named. n: counts to write behind the names, or None."""
    names = [style.short(name) for name in classes]
    if n is not None:
        names = [f"{name} ({count:g})" for name, count in zip(names, n, strict=True)]
    size = max(4.5, min(style.SMALL, room * 72 * 0.85))
    step = 1 if size <= room * 72 else math.ceil(1.2 * size / (room * 72))
    widest = max((style.width(name, size) for name in names), default=0)
    if horizontal:
        flat = widest < room * 72 * 0.95
        ax.set_xticks(range(0, len(names), step), names[::step], fontsize=size, rotation=0 if flat else 90)
    else:
        ax.set_yticks(range(0, len(names), step), names[::step], fontsize=size)
    ax.grid(False, axis="x" if horizontal else "y")


@style.styled
def class_distribution(path, classes, train_counts, val_counts, note=""):
    """Bars: how many training and validation videos each class has. counts: int (C,) each."""
    train, val, x = np.asarray(train_counts, int), np.asarray(val_counts, int), np.arange(len(classes))
    caption = f"n = {train.sum()} training and {val.sum()} validation videos, {len(classes)} classes. {note}"
    return _bars_by_class(path, classes, max(1, *train, *val), [
        (x - 0.2, train, 0.4, {"color": style.unit(style.BLUE), "label": "training"}),
        (x + 0.2, val, 0.4, {"color": style.unit(style.ORANGE), "label": "validation"})],
        "Videos per class in training and validation", caption)


@style.styled
def test_videos(path, classes, n, right, note=""):
    """Bars: how many test videos each class has, and how many of them are right. n, right: int (C,)."""
    n, right, x = np.asarray(n), np.asarray(right), np.arange(len(classes))
    caption = f"n = {n.sum()} test videos, {right.sum()} right, {len(classes)} classes. {note}"
    return _bars_by_class(path, classes, max(1, *n), [
        (x, right, 0.75, {"color": style.unit(style.BLUE), "label": "right"}),
        (x, n - right, 0.75, {"bottom": right, "label": "wrong", **HATCHED})],
        "Test videos per class", caption)


def _bars_by_class(path, classes, highest, bars, title, caption):
    """Upright bars over the classes. bars: [(x (C,), height (C,), width, look)]."""
    wide = min(17.0, max(6.0, 1.2 + 0.3 * len(classes)))
    ax = style.axes(wide, 4.2, title, caption)
    for x, height, width, look in bars:
        ax.bar(x, height, width, **look)
    class_ticks(ax, classes, (wide - 1) / max(len(classes), 1))
    ax.set(xlim=(-0.7, len(classes) - 0.3), ylabel="videos", xlabel="class", ylim=(0, highest * 1.05))
    ax.yaxis.get_major_locator().set_params(integer=True)
    style.legend(ax)
    return style.save(ax.figure, path)


@style.styled
def reliability(path, tables, note=""):
    """The share of right answers by their confidence, and how many there are. tables: {name: (mean
    confidence, share right, how many), each (bins,)}, the first of them the bars."""
    fig = style.figure(6, 5.4, "Accuracy of the answers by their confidence", note)
    top, below = fig.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _, right, n = next(iter(tables.values()))
    middles, wide = (np.arange(len(n)) + 0.5) / len(n), 0.9 / len(n)
    top.plot([0, 1], [0, 1], color="black", lw=1, label="confidence = accuracy")
    top.bar(middles, np.nan_to_num(right), wide, color=style.unit(style.BLUE), alpha=0.35)
    for (name, (confidence, share, _)), color, marker in zip(
            tables.items(), (style.BLUE, style.ORANGE), "oD", strict=False):
        top.plot(confidence, share, marker, color=style.unit(color), clip_on=False, zorder=3, label=name)
    below.bar(middles, n, wide, color=style.unit(style.BLUE))
    below.yaxis.get_major_locator().set_params(integer=True)
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="share right")
    below.set(xlabel="confidence: the probability of the answer", ylabel="answers")
    style.legend(top, above=True)
    return style.save(fig, path)


def column(rows, key):
    """A column of `rows` as floats; NaN where it is missing, None or empty."""
    return np.array([float("nan") if row.get(key) in (None, "") else float(row[key]) for row in rows])


def row_shares(matrix):
    """Counts (C, C) as shares of their rows; NaN where a row is empty."""
    total = matrix.sum(1, keepdims=True)
    return np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)


def fewer_and_others(n, few):
    """[(colour, marker, name, numbers of the tested classes)]. n: videos tested; few: bool (C,)."""
    return [(style.BLUE, "o", "other classes", np.flatnonzero(~few & (n > 0))),
            (style.ORANGE, "D", "under-represented", np.flatnonzero(few & (n > 0)))]


PARTS = (("train", "training", style.BLUE, "-"), ("val", "validation", style.RED, "--"))


def _line(ax, epochs, values, **look):
    """Measured epochs joined by a line; with few of them, each is a dot."""
    seen = np.isfinite(values)
    if seen.any():
        ax.plot(epochs[seen], values[seen], marker="o" if seen.sum() <= 30 else None, markersize=3.5, **look)


@style.styled
def curves(path, rows, best, classes, note=""):
    """rows: of metrics.csv; what is missing or None is left out. best: the epoch to mark, or None. classes:
    how many; of five, the top 5 get no line."""
    epochs = column(rows, "epoch")
    fig = style.figure(11, 3.6, "Loss, accuracy and learning rate of every epoch", note)
    loss, accuracy, rate = fig.subplots(1, 3, width_ratios=(3, 3, 2))
    for part, word, color, ls in PARTS:
        look = {"color": style.unit(color), "ls": ls}
        _line(loss, epochs, column(rows, f"{part}_loss"), label=word, **look)
        _line(accuracy, epochs, column(rows, f"{part}_top1"), label=f"{word} top-1", **look)
    for k, color, ls in ((3, style.ORANGE, "-."), (5, style.PINK, ":")):
        if classes > k:
            _line(accuracy, epochs, column(rows, f"val_top{k}"), label=f"validation top-{k}",
                  color=style.unit(color), ls=ls)
    top1 = column(rows, "val_top1")
    for i in np.flatnonzero((epochs == best) & np.isfinite(top1)):
        accuracy.plot(epochs[i], top1[i], "*", markersize=12, color="black", clip_on=False, zorder=5,
                      label=f"best: {top1[i]:.3f}, epoch {epochs[i]:g}")
    steps = column(rows, "lr")
    _line(rate, epochs, steps, color=style.unit(style.GREEN))
    loss.set(title="Cross-entropy", ylabel="loss, mean over clips")
    accuracy.set(title="Accuracy", ylabel="accuracy", ylim=(0, 1.03))
    rate.set(title="Learning rate", ylim=(0, 1.05 * np.nanmax(steps, initial=1e-9)))
    for ax in (loss, accuracy, rate):
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
        if len(epochs) < 3:
            ax.set_xlim(np.nanmin(epochs, initial=0.5) - 0.5, np.nanmax(epochs, initial=1) + 0.5)
        if ax.get_legend_handles_labels()[0]:
            ax.legend()
    return style.save(fig, path)


@style.styled
def confusion_matrix(path, matrix, classes, note=""):
    """matrix: counts (C, C), true class by row; drawn as shares of each row. In the cells stand share and
    count up to 20 classes, the count alone in larger ones."""
    matrix, count = np.asarray(matrix, float), len(classes)
    share, total = row_shares(matrix), matrix.sum(1)
    side = min(13.0, max(2.8, 0.42 * count))
    cells = "share of the row and videos" if count <= 20 else "videos"
    wrong = matrix - np.diag(np.diag(matrix))
    places = [np.unravel_index(i, wrong.shape) for i in np.argsort(-wrong, axis=None, kind="stable")[:3]
              if wrong.flat[i] > 0]
    mistakes = ", ".join(f"{style.short(classes[t])} predicted as {style.short(classes[p])} ({wrong[t, p]:g} "
                         f"of {total[t]:g})" for t, p in places)
    caption = (f"n = {matrix.sum():g} videos; in the cells: {cells}. "
               f"{f'Most frequent: {mistakes}.' if places else 'No mistakes.'} {note}")
    ax = style.axes(side + 3.2, side + 1.6, "Confusion matrix", caption)
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    class_ticks(ax, classes, side / count)
    class_ticks(ax, classes, side / count, horizontal=False, n=total)
    ax.set(xlabel="predicted class", ylabel="true class (n)")
    ax.spines[:].set_visible(True)
    size = min(style.SMALL, side / count * 72 * (0.3 if count <= 20 else 0.5))
    for row, column in zip(*np.nonzero(matrix), strict=True):
        value, n = share[row, column], f"{matrix[row, column]:g}"
        ax.text(column, row, f"{value:.2f}\n{n}" if count <= 20 else n, ha="center", va="center",
                fontsize=size, linespacing=1.1, color="white" if value > 0.55 else "black")
    ax.figure.colorbar(image, ax=ax, shrink=0.6, label="share of the true class's videos")
    return style.save(ax.figure, path)


@style.styled
def accuracy_per_class(path, classes, accuracy, n, few, few_means, note=""):
    """Bars, best first. accuracy: (C,), NaN where n is 0; n: videos tested; few: bool (C,), the classes that
    had little to learn from; `few_means` says how little, in the legend."""
    accuracy, n, few = (np.asarray(values) for values in (accuracy, n, few))
    order = np.lexsort((np.arange(len(classes)), -np.nan_to_num(accuracy, nan=-1)))
    columns = 1 if len(classes) <= 40 else 2
    per = math.ceil(len(classes) / columns)
    mean = np.nanmean(accuracy) if np.isfinite(accuracy).any() else float("nan")
    caption = f"n = {n.sum():g} videos; mean over the classes {mean:.3f} (dashed). {note}"
    high = 0.21 * per + 1.0 + 0.5 * few.any()       # room for the legend
    fig = style.figure(7.2 if columns == 1 else 13, max(1.6, high), "Accuracy per class", caption)
    axes = fig.subplots(1, columns, squeeze=False)[0]
    for ax, part in zip(axes, np.array_split(order, columns), strict=True):
        bars = ax.barh(range(len(part)), np.nan_to_num(accuracy[part]), 0.75, color=style.unit(style.BLUE))
        rails = ax.barh(range(len(part)), 1, 0.75, color="#e9e9e9", zorder=0)   # seen at an accuracy of 0 too
        for y, (i, bar, rail) in enumerate(zip(part, bars, rails, strict=True)):
            if few[i]:
                bar.set(**HATCHED)
                rail.set(hatch=HATCHED["hatch"], edgecolor="#b0b0b0", linewidth=0)
            text = f"{accuracy[i]:.2f}  n={n[i]:g}" if np.isfinite(accuracy[i]) else "no test video"
            ax.text(1.03, y, text, va="center", fontsize=7)
        class_ticks(ax, [classes[i] for i in part], 0.2, horizontal=False)
        ax.set(xlim=(0, 1.01), ylim=(len(part) - 0.4, -0.6), xlabel="accuracy of the class (recall)")
        ax.set_xticks(np.linspace(0, 1, 6))
        ax.axvline(mean, color="black", ls="--", lw=1)
    if few.any():
        style.legend(axes[0], above=True, handles=[
            patches.Patch(facecolor=style.unit(style.BLUE), label="other classes"),
            patches.Patch(label=style.wrap(few_means, 240, style.SMALL), **HATCHED)])
    return style.save(fig, path)


@style.styled
def accuracy_by_training(path, classes, counts, accuracy, n, few, correlation, few_means, note=""):
    """A point a class: its accuracy against its training videos, the worst ones named as far as their names
    do not touch. counts, accuracy, n, few: (C,); correlation: in words."""
    ax = style.axes(7.6, 4.6, "Accuracy and number of training videos",
                    f"{correlation}. n = {n.sum():g} test videos. {note}")
    for color, marker, name, where in fewer_and_others(n, few):
        if len(where):
            name = style.wrap(few_means, 110, style.SMALL) if color == style.ORANGE else name
            ax.plot(counts[where], accuracy[where], marker, color=style.unit(color), mec="black", mew=0.5,
                    label=name)
    named, (wide, high) = [], (np.ptp(counts) / 4 + 1e-9, 0.05)
    for i in np.lexsort((counts, np.where(n > 0, accuracy, 2))):
        apart = all(abs(counts[i] - x) > wide or abs(accuracy[i] - y) > high for x, y in named)
        if apart and n[i] and len(named) < 8:
            named.append((counts[i], accuracy[i]))
            right = counts[i] > counts.min() + 0.75 * np.ptp(counts)
            ax.annotate(style.short(classes[i], 22), (counts[i], accuracy[i]), (-6 if right else 6, 0),
                        textcoords="offset points", ha="right" if right else "left", va="center",
                        fontsize=style.SMALL)
    ax.set(xlabel="training videos of the class", ylabel="accuracy of the class", ylim=(-0.04, 1.04))
    ax.xaxis.get_major_locator().set_params(integer=True)
    style.legend(ax)
    return style.save(ax.figure, path)


@style.styled
def runs_table_picture(path, names, compared, parameters, frames_per_second, n=None, note=""):
    """One line a run: its accuracy with the interval, parameters, frames a second. compared:
    intervals.Figures; parameters and frames_per_second hold None where they are not known."""
    accuracy, (low, high) = [f.top1 for f in compared], np.transpose([f.ci95 for f in compared])
    caption = note if n is None else f"n = {n} test videos. {note}"
    fig = style.figure(10, 0.34 * len(names) + 1.2, "Runs compared: test accuracy with its interval", caption)
    ax, table = fig.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    forest(ax, [style.short(name, 44) for name in names], accuracy, low, high, (0, 1), top=-0.9)
    ax.set_xlabel("top-1 accuracy")
    table.axis("off")
    table.set_xlim(0, 1)
    for x, head, cells in ((0.36, "accuracy [interval]", map(str, compared)),
                           (0.68, "parameters", map(_count, parameters)),
                           (1.0, "frames/s", map(_count, frames_per_second))):
        table.text(x, -0.7, head, ha="right", va="bottom", fontsize=style.SMALL, fontweight="bold")
        for i, cell in enumerate(cells):
            table.text(x, i, cell, ha="right", va="center", fontsize=style.SMALL)
    return style.save(fig, path)


def interval(value, low, high):
    """Distances (2, N) from value down to low and up to high."""
    value, low, high = (np.asarray(a, float) for a in (value, low, high))
    return np.maximum(np.stack([value - low, high - value]), 0)


def forest(ax, names, value, low, high, limits, top=-0.6, null=None, **look):
    """A line a name: its value with the interval, and a dashed one at the null hypothesis. The axis ends at
    the limits, the least and the largest value that there can be, with room for the marks there."""
    ax.errorbar(value, range(len(names)), xerr=interval(value, low, high), fmt="o",
                color=style.unit(style.BLUE), **look)
    if null is not None:
        ax.axvline(null, color="black", ls="--", lw=1)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, top)
    edge, (left, right) = 0.015 * (limits[1] - limits[0]), ax.get_xlim()
    ax.set_xlim(max(left, limits[0] - edge), min(right, limits[1] + edge))


def _count(value):
    """4123456 -> '4.12 M'."""
    if value is None or not math.isfinite(value):
        return "–"
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


@style.styled
def probability_timeline(path, seconds, probabilities, names, segments, colors, title, n, note="",
                         truth=None):
    """probabilities: (W, K) at `seconds` (W,), of the classes `names`; colors: 0..255 (K, 3). segments:
    (start, end, label) in seconds, drawn as a strip; a label that is not in `names` ("unsure") is grey. n:
    how many windows there are. truth: segments, in a strip of its own above the others."""
    drawn = [*segments, *(truth or ())]
    others = sorted({style.short(label) for _, _, label, *_ in drawn if label not in names})
    grey = f"Grey: {', '.join(others)}. " if others else ""
    strips = [segments] if truth is None else [truth, segments]
    last = max([*(end for _, end, *_ in drawn), *seconds[-1:]], default=1)
    first = min([*(start for start, *_ in drawn), *seconds[:1]], default=0)
    points = 8 * 72 * 0.9 / max(last - first, 1e-9)     # a second's width
    narrow = any(style.width(label, 6) > (end - start) * points > 8 for start, end, label, *_ in drawn)
    high = 2.5 if narrow else 1     # narrow segments are named upright
    fig = style.figure(11, 4.2 + 0.4 * (high - 1) * len(strips), title, f"n = {n} windows. {grey}{note}")
    ax, *axes = fig.subplots(1 + len(strips), 1, sharex=True, height_ratios=(8, *[high] * len(strips)))
    for i, name in enumerate(names):
        ax.plot(seconds, probabilities[:, i], color=style.unit(colors[i]), label=style.short(name),
                ls=("-", "--", "-.", ":")[i % 4], marker=style.MARKERS[i % len(style.MARKERS)], markersize=5,
                markevery=max(1, len(seconds) // 15))
    ax.set(ylabel="probability", ylim=(-0.03, 1.03))
    known = dict(zip(names, colors, strict=True))
    for strip, runs in zip(axes, strips, strict=True):      # named where the name fits an axis of 8 inches
        shades = [style.unit(known.get(label, style.UNSURE)) for _, _, label, *_ in runs]
        strip.broken_barh([(start, end - start) for start, end, *_ in runs], (0, 1), facecolors=shades,
                          edgecolors="white", linewidth=0.8 if len(runs) < 200 else 0)
        for (start, end, label, *_), shade in zip(runs, shades, strict=True):
            room = (end - start) * points
            name, size = style.fit(label, room, style.SMALL, 6)
            upright = narrow and style.width(label, 6) > room > 8
            if upright:
                name, size = style.fit(label, 22 * high, min(style.SMALL, room / 1.2), 6)
            if name and (not name.endswith("…") or len(name) > 5):
                light = np.dot(shade, (0.3, 0.59, 0.11)) > 0.55
                strip.text((start + end) / 2, 0.48, name, ha="center", va="center", fontsize=size,
                           color="black" if light else "white", rotation=90 if upright else 0)
        strip.set(ylim=(0, 1), yticks=[])
        strip.grid(False)
    if truth is not None:
        for strip, word in zip(axes, ("truth", "predicted"), strict=True):
            strip.set_ylabel(word, rotation=0, ha="right", va="center")
    axes[-1].set_xlabel("time (s)")
    style.legend(ax)
    return style.save(fig, path)


@style.styled
def changes_picture(path, rows, n, minus_what, note=""):
    """One line a setting: its accuracy with the interval, that of each fold, its difference from the first.
    rows: tuning.Row; its minus is None where there is none, as in the first row."""
    folds, accuracy, ends, minus, minus_ends = (
        np.array([getattr(row, name) for row in rows], float)
        for name in ("folds", "top1", "ci95", "minus", "minus_ci95"))
    y = np.arange(len(rows))
    fig = style.figure(11, 0.24 * len(rows) + 1.3, "Settings compared by cross-validation",
                       f"n = {n} held-out videos. Short lines: the folds. {note}")
    left, right = fig.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    left.plot(folds, np.repeat(y[:, None] + 0.28, folds.shape[1], 1), "|", color="#555555", markersize=6)
    forest(left, [style.short(row.name, 60) for row in rows], accuracy, *ends.T, (0, 1), zorder=3)
    left.set_xlabel("accuracy of the held-out clips, with 95% interval")
    there = np.isfinite(minus)
    if there.any():
        right.errorbar(minus[there], y[there], xerr=interval(minus[there], *minus_ends[there].T), fmt="s",
                       color=style.unit(style.RED), markersize=5)
    right.axvline(0, color="black", lw=1)
    right.set(xlabel=f"minus {minus_what}, paired, with 95% interval")
    return style.save(fig, path)
