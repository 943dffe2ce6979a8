"""Pictures that show frames: labelled ones in a grid, a clip above the attention that its frames get, and
contact sheets: the clips of a class side by side, to be looked at before they are learned.

As in plots.py: arrays in, the picture written at `path` (None writes nothing) and returned as
uint8 (H, W, 3) RGB.
"""
import math

import numpy as np

from lrcn.drawing import style
from lrcn.drawing.labels import put_text
from lrcn.video.reader import fit_frame

WIDE, HIGH, GAP, COLUMNS = 160, 120, 8, 5       # of a contact sheet's tiles, in pixels
TEXT, TITLE = 11, 16
INK = (24, 24, 24)


@style.styled
def label_grid(path, frames, true, predicted, confidence=None, title="Predicted and true class",
               note=""):
    """Frames with their labels: a green border and a tick where right, red and a cross where wrong.

    frames: N x uint8 (H, W, 3) RGB, the first of which sets the shape of the tiles;
    true, predicted: N class names; confidence: (N,) or None.
    """
    from matplotlib.patches import Rectangle
    n, high, wide = len(frames), frames[0].shape[0], frames[0].shape[1]
    columns = math.ceil(math.sqrt(n))
    tile = max(1.6, min(1.9, 3.6 / columns))               # inches
    picture_high, text_high, gap = tile * high / wide, 0.34, 0.14
    row_high = picture_high + text_high + gap
    rows = math.ceil(n / columns)
    right = sum(t == p for t, p in zip(true, predicted, strict=True))
    counted = f"{style.TICK} {right} of n = {n} right, {style.CROSS} {n - right} wrong"
    fig = style.figure(max(3.6, columns * (tile + gap) + gap), rows * row_high + gap, title,
                       f"{counted}. {note}" if note else counted)
    ax = fig.add_subplot(aspect="equal", anchor="NW")
    ax.axis("off")
    for i in range(n):
        x, y = (i % columns) * (tile + gap) + gap / 2, (i // columns) * row_high + gap / 2
        ax.add_patch(Rectangle((x, y), tile, picture_high, fc="black", zorder=0))
        ax.imshow(frames[i], extent=_inside(frames[i], x, y, tile, picture_high), zorder=1)
        good = true[i] == predicted[i]
        color = style.unit(style.RIGHT if good else style.WRONG)
        ax.add_patch(Rectangle((x, y), tile, picture_high, fill=False, lw=3.5, ec=color, zorder=2))
        sure = "" if confidence is None else f" {float(confidence[i]):.2f}"
        line, size = _label_line(f"{style.TICK if good else style.CROSS} ", predicted[i], sure, tile)
        ax.text(x, y + picture_high + 0.05, line, fontsize=size, color=color, va="top", fontweight="bold")
        line, size = _label_line("true: ", true[i], "", tile)
        ax.text(x, y + picture_high + 0.20, line, fontsize=size, va="top")
    ax.set(xlim=(0, columns * (tile + gap)), ylim=(rows * row_high, 0))
    return style.save(fig, path)


def _inside(frame, x, y, wide, high):
    """Where a frame of any shape lies, centred in its tile: left, right, bottom, top."""
    scale = min(wide / frame.shape[1], high / frame.shape[0])
    dx, dy = (wide - frame.shape[1] * scale) / 2, (high - frame.shape[0] * scale) / 2
    return x + dx, x + wide - dx, y + high - dy, y + dy


def _label_line(before, name, after, room):
    """(text, size) of a line whose name alone is shortened. room: inches; bold letters are wider."""
    size = style.SMALL - 1
    left = room * 72 / 1.16 - style.width(before, size) - style.width(after, size)
    name, smaller = style.fit(name, left, size, size - 0.8)
    return before + name + after, smaller


@style.styled
def attention_picture(path, frames, weights, title="Which frames the attention looks at", note=""):
    """The frames of a clip, uint8 (T, H, W, 3), above their attention weights (T,), in rows of 10."""
    weights, T = np.asarray(weights, float), len(frames)
    columns = min(T, 10)
    rows = math.ceil(T / columns)
    high = 1.1 * frames[0].shape[0] / frames[0].shape[1]
    caption = f"n = {T} frames, weights add up to {weights.sum():.2f}; dashed: 1/{T}, no preference. {note}"
    fig = style.figure(max(5, 0.9 + 1.15 * columns), rows * (high + 1.15), title, caption.strip())
    grid = fig.add_gridspec(2 * rows, columns, height_ratios=[high, 0.95] * rows)
    top = max(weights.max(), 1 / T) * 1.25
    for i in range(T):
        row, column = divmod(i, columns)
        picture, bar = fig.add_subplot(grid[2 * row, column]), fig.add_subplot(grid[2 * row + 1, column])
        picture.imshow(frames[i])
        picture.axis("off")
        bar.bar([0], [weights[i]], 0.7, color=style.unit(style.BLUE))
        bar.axhline(1 / T, color="black", ls="--", lw=1)
        bar.text(0, weights[i] + 0.02 * top, f"{weights[i]:.{2 if T <= 10 else 3}f}", ha="center",
                 va="bottom", fontsize=7)
        bar.set(xlim=(-0.6, 0.6), ylim=(0, top), xticks=[0], xticklabels=[i + 1])
        if column:
            bar.tick_params(labelleft=False)
    fig.supylabel("attention weight", fontsize=style.SMALL)
    return style.save(fig, path)


def contact_sheet(path, title, tiles):
    """tiles: [(frame uint8 (H, W, 3) RGB or None, caption, mark)]; a marked tile has a red border, and the
    mark in the place of its caption's second line.
    """
    columns, row = min(COLUMNS, max(3, len(tiles))), HIGH + 2 * TEXT + 12
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * row + TITLE + 3 * GAP, columns * (WIDE + GAP) + GAP, 3), 255, np.uint8)
    put_text(sheet, title, GAP, GAP // 2, sheet.shape[1] - 2 * GAP, TITLE, INK)
    for i, (frame, caption, mark) in enumerate(tiles):
        x, y = GAP + i % columns * (WIDE + GAP), TITLE + 2 * GAP + i // columns * row
        if mark:
            sheet[y - 3:y + HIGH + 3, x - 3:x + WIDE + 3] = style.WRONG
        sheet[y:y + HIGH, x:x + WIDE] = 0 if frame is None else fit_frame(frame, WIDE, HIGH)
        caption, _, second = caption.partition("\n")
        put_text(sheet, caption, x, y + HIGH + 3, WIDE, TEXT, INK)
        put_text(sheet, mark or second, x, y + HIGH + 5 + TEXT, WIDE, TEXT, style.WRONG if mark else INK)
    style.write_picture(path, sheet)
    return sheet
