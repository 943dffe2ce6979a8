"""Labels drawn into frames, uint8 (H, W, 3) RGB; films and pictures of labelled frames, as in plots.py.

Text is set in the size of the frame and shortened where it would leave it; masks of text are kept, because
the same labels come frame after frame.
"""
import functools
import math

import numpy as np

from lrcn.base import Lazy, files
from lrcn.drawing import style
from lrcn.video.reader import fit_frame
from lrcn.video.writer import Writer

cv2 = Lazy("cv2")
Image, ImageDraw = Lazy("PIL.Image"), Lazy("PIL.ImageDraw")

WHITE, DARK, UNSEEN, RAIL = (255, 255, 255), (24, 24, 24), (64, 64, 64), (105, 105, 105)
MOVIE_WIDE, MOVIE_HIGH = 640, 480      # the room of the picture in the mixed-action movie
WIDE, HIGH, GAP, COLUMNS = 160, 120, 8, 5       # of a contact sheet's tiles, in pixels
TEXT, TITLE = 11, 16


@functools.lru_cache(maxsize=1024)
def _mask(text, size):
    """uint16 (h, w, 1): how much of each pixel the letters cover, 0 to 255."""
    parts = style.in_fonts(text, size) or style.in_fonts(" ", size)
    above, below = np.max([font.getmetrics() for font, _ in parts], axis=0)
    image = Image.new("L", (int(np.ceil(style.width(text, size))) + 2, int(above + below)))
    x = 0.0
    for font, part in parts:
        ImageDraw.Draw(image).text((x, above), part, fill=255, font=font, anchor="ls")
        x += font.getlength(part)
    return np.asarray(image, np.uint16)[:, :, None]


def put_text(frame, text, x, y, room, size, color=WHITE, right=False):
    """Write one line into the frame, its upper left corner at (x, y), no wider than `room` pixels; its width.
    right: the line ends at x + room. Letters that would leave the frame are cut."""
    text, smaller = style.fit(text, room, size, max(6, round(size * 0.75)))
    mask = _mask(text, int(smaller))
    y += round(0.9 * (size - int(smaller)))     # one baseline for all letters of a row
    if right:
        x += room - mask.shape[1]
    x, y = max(0, int(x)), max(0, int(y))
    mask = mask[:max(0, frame.shape[0] - y), :max(0, frame.shape[1] - x)]
    place = frame[y:y + mask.shape[0], x:x + mask.shape[1]]
    place[:] = (place * (255 - mask) + np.array(color, np.uint16) * mask + 127) // 255
    return mask.shape[1]


def text_size(frame):
    """Height of the letters in pixels for a frame of this size: 12 at 240 lines, 37 at 1080."""
    return max(8, round(0.03 * min(frame.shape[:2]) + 5))


def empty_timeline():
    """The colours of a timeline on which nothing has been seen yet: uint8 (1000, 3)."""
    return np.full((1000, 3), UNSEEN, np.uint8)


def paint_timeline(timeline, start, end, color):
    """Colour a timeline from `start` to `end`, shares of the whole (0 to 1)."""
    first = int(np.clip(start, 0, 1) * len(timeline))
    last = int(np.ceil(np.clip(end, 0, 1) * len(timeline)))
    timeline[first:max(last, first + 1)] = color


def _strip(frame, timeline, y, high, progress, x=0):
    """Draw a timeline across the frame, from x to its right edge, with a mark at `progress`."""
    wide = frame.shape[1] - x
    columns = np.arange(wide) * len(timeline) // wide
    frame[y:y + high, x:] = timeline[columns][None]
    thick = max(1, high // 6)
    at = x + int(np.clip(progress, 0, 1) * (wide - 1))
    for color, half in ((DARK, 2 * thick), (WHITE, thick)):
        frame[y:y + high, max(x, at - half):at + half] = color


def draw_overlay(frame, labels, probabilities, colors, timeline, progress, unsure):
    """A copy of `frame` with the leading labels as bars above and the timeline below. labels, probabilities,
    colors (K, 3): best first, as many as fit are drawn; timeline: of empty_timeline; progress: 0 to 1;
    unsure: the best label is too improbable, so "unsure" stands above the candidates."""
    frame = np.array(frame)
    high, wide = frame.shape[:2]
    size, edge = text_size(frame), max(1, text_size(frame) // 4)
    line = round(size * 1.6)
    room = min(wide, max(round(0.3 * wide), 10 * size), 20 * size)
    rows = [("unsure", None, None)] if unsure else []
    rows += zip(labels, probabilities, colors, strict=True)
    rows = rows[:max(1, int(0.5 * high) // line)]
    panel = frame[:len(rows) * line + edge, :room]
    panel[:] = panel // 4                       # dark enough for white letters on any picture
    for i, row in enumerate(rows):
        inner = room - 2 * edge
        _ranked(frame, *row, edge, edge + i * line, inner, size, numbered=inner > 6 * size)
    strip = max(4, high // 36)
    _strip(frame, timeline, high - strip, strip, progress)
    return frame


def _ranked(frame, label, probability, color, x, y, room, size, numbered=True):
    """A class above the bar of its probability (None: no bar), with the number at the right."""
    number, bar = 0, max(2, size // 5)
    if probability is not None and numbered:
        number = size // 2 + put_text(frame, f"{probability:.2f}", x, y, room, size, right=True)
    put_text(frame, label, x, y, room - number, size)
    if probability is not None:
        _bar(frame, x, y + round(size * 1.6) - bar - 1, room, bar, probability, color)


def stream_panels(frame, streams, classes, colors):
    """What stands under a frame of a fusion: uint8 (high, W, 3), a panel a stream side by side: its three
    leading classes as bars, and its picture on the right. streams: [(name, probabilities (C,) or none yet,
    picture uint8 (S, S, 3) or None)]."""
    size, edge = text_size(frame), max(2, text_size(frame) // 3)
    line = round(size * 1.6)
    high, wide = 4 * line + 2 * edge, frame.shape[1]
    canvas = np.full((high + high % 2, wide, 3), DARK, np.uint8)
    widths = [1 if picture is None else 1.6 for *_, picture in streams]
    ends = (np.cumsum([0, *widths]) / sum(widths) * wide).astype(int)
    for (name, probabilities, picture), left, right in zip(streams, ends, ends[1:], strict=False):
        inner = right - left - 2 * edge
        if picture is not None:
            side = min(high - 2 * edge, inner * 2 // 5)
            canvas[edge:edge + side, right - edge - side:right - edge] = cv2.resize(
                picture, (side, side), interpolation=cv2.INTER_AREA)
            inner -= side + edge
        put_text(canvas, name, left + edge, edge, inner, size)
        for row, i in enumerate(np.argsort(-probabilities, kind="stable")[:3], 1):
            _ranked(canvas, classes[i], probabilities[i], colors[i], left + edge, edge + row * line, inner,
                    size)
    return canvas


def flow_colors(planes):
    """Optical flow as colours, uint8 (S, S, 3): the hue is the direction, white is rest, and a motion of 10
    pixels is fully coloured. planes: uint8 (S, S, 3) of a flow picture, or (S, S, 2L), u first and v after L
    planes, 20 pixels to either side of their middle; the first field of a stack is drawn."""
    half = planes.shape[-1] // 2
    u, v = ((planes[..., i].astype(np.float32) - 127.5) * 20 / 127.5 for i in (0, half))
    hue = np.rad2deg(np.arctan2(v, u)) % 360 / 2
    depth = np.minimum(np.hypot(u, v) / 10, 1) * 255
    hsv = np.stack([hue, depth, np.full_like(hue, 255)], -1).round().astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _bar(frame, x, y, wide, high, share, color):
    """A probability as a bar of `wide` pixels at 1, on its rail."""
    frame[y:y + high, x:x + wide] = RAIL
    if np.isfinite(share):
        frame[y:y + high, x:x + round(wide * min(max(float(share), 0), 1))] = color


def label_frame(frame, true, predicted):
    """The frame in a green (right) or red (wrong) border, above a bar with tick or cross and labels: of even
    sides, at least 240 pixels wide, so that labels can be read."""
    mark, color = style.VERDICT[true == predicted]
    wide = max(240, frame.shape[1]) // 2 * 2
    high = round(frame.shape[0] * wide / frame.shape[1])
    size = max(12, wide // 22)
    line, border = round(size * 1.4), max(3, wide // 80)
    bar = 2 * line + size // 2
    total = (high + bar + 2 * border + 1) // 2 * 2
    canvas = np.full((total, wide + 2 * border, 3), color, np.uint8)
    canvas[border:border + high, border:border + wide] = fit_frame(frame, wide, high)
    x, y, room = border + size // 3, high + border + size // 4, wide - 2 * (size // 3)
    put_text(canvas, f"{mark} predicted: {predicted}", x, y, room, size)
    put_text(canvas, f"true: {true}", x, y + line, room, size)
    return canvas


def clip_gif(path, frames, fps, wide=320):
    """An endless GIF of `frames` (an iterator will do), at most `wide` pixels wide. GIF counts time in
    hundredths of a second, and viewers slow down what lasts less than two of them."""
    def picture(frame):
        if frame.shape[1] > wide:
            high = max(1, round(frame.shape[0] * wide / frame.shape[1]))
            frame = cv2.resize(frame, (wide, high), interpolation=cv2.INTER_AREA)
        return Image.fromarray(frame).quantize(128, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)

    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("a GIF needs at least one frame")
    with files.atomic(path) as temporary:
        picture(first).save(temporary, save_all=True, append_images=map(picture, frames), loop=0,
                            duration=max(20, round(100 / fps) * 10))


def mixed_movie(path, frames, truth, predicted, probabilities, classes, fps, action):
    """The mixed-action movie: picture, labels at the lower left, probability bars, and timelines underneath.
    frames: N, an iterator will do. action (N,): those of the frames. Of the window that ends with each: truth
    (N,), its majority action, -1 for a tie; predicted (N,); probabilities (N, C). -1: no window yet."""
    colors, n = style.class_colors(classes), len(truth)
    lines = (("frame", "this frame", action), ("window", "window, mostly", truth),
             ("predicted", "predicted", predicted))
    strips = [np.where(labels[:, None] >= 0, colors[labels], np.uint8(UNSEEN)) for *_, labels in lines]
    with Writer(path, fps, MOVIE_WIDE, MOVIE_HIGH + 190) as writer:
        for i, frame in enumerate(frames):
            canvas = np.full((writer.size[1], MOVIE_WIDE, 3), DARK, np.uint8)
            canvas[:MOVIE_HIGH] = fit_frame(frame, MOVIE_WIDE, MOVIE_HIGH)
            for row, (kind, title, values) in enumerate(lines):
                y, label, mark, strip = MOVIE_HIGH + 10 + 34 * row, values[i], "", strips[row].copy()
                name, color = (classes[label], colors[label]) if label >= 0 else ("–", DARK)
                if kind == "window" and label < 0 <= predicted[i]:
                    name = "tie of two actions"
                canvas[y:y + 24, 10:24] = color
                if kind == "predicted":
                    strip[i + 1:] = UNSEEN      # not made yet
                    if truth[i] >= 0 and label >= 0:
                        mark, shade = style.VERDICT[truth[i] == label]
                        canvas[y - 3:y + 27, 28:318] = shade
                put_text(canvas, f"{mark} {title}: {name}".strip(), 34, y + 2, 280, 16)
                y = MOVIE_HIGH + 126 + 18 * row
                put_text(canvas, kind, 10, y - 2, 74, 13)
                _strip(canvas[:, :MOVIE_WIDE - 10], strip, y, 14, (i + 0.5) / n, x=88)
            if predicted[i] >= 0:
                for row, label in enumerate(np.argsort(-probabilities[i], kind="stable")[:3]):
                    y = MOVIE_HIGH + 8 + 36 * row
                    used = put_text(canvas, f"{probabilities[i, label]:.2f}", 330, y, 300, 15, right=True)
                    put_text(canvas, classes[label], 330, y, 290 - used, 15)
                    _bar(canvas, 330, y + 21, 300, 8, probabilities[i, label], colors[label])
            put_text(canvas, f"frame {i + 1} of {n}", 330, MOVIE_HIGH + 110, 300, 11, right=True)
            writer.write(canvas)


# ---------------------------------------------------------------- pictures

def label_grid(path, frames, true, predicted, confidence, title, note=""):
    """Frames with their labels: a green border and a tick where right, red and a cross where wrong. frames: N
    x uint8 (H, W, 3) RGB, the first of which sets the shape of the tiles; true, predicted: N class names."""
    n, columns = len(frames), math.ceil(math.sqrt(len(frames)))
    wide = round(style.DPI * max(1.6, min(1.9, 3.6 / columns)))
    high = round(wide * frames[0].shape[0] / frames[0].shape[1])
    letters, big, small = (round(style.DPI / 72 * points) for points in
                           (style.SMALL - 1, style.TITLE, style.SMALL))
    row, column, edge, border = high + 3 * letters + 2 * GAP, wide + 2 * GAP, 2 * GAP, 4
    room = max(round(3.6 * style.DPI), columns * column)
    right = sum(t == p for t, p in zip(true, predicted, strict=True))
    counted = f"{style.TICK} {right} of n = {n} right, {style.CROSS} {n - right} wrong"
    above, below = (style.wrap(text, room, size).splitlines() for text, size in
                    ((title, big), (f"{counted}. {note}" if note else counted, small)))
    top = edge + round(1.4 * big) * len(above)
    bottom = top + math.ceil(n / columns) * row
    sheet = np.full((bottom + round(1.4 * small) * len(below) + GAP, room + 2 * edge, 3), 255, np.uint8)
    for lines, y, size in ((above, GAP, big), (below, bottom, small)):
        for i, line in enumerate(lines):
            put_text(sheet, line, edge, y + round(1.4 * size) * i, room, size, DARK)
    for i, frame in enumerate(frames):
        x, y = edge + i % columns * column, top + i // columns * row
        mark, color = style.VERDICT[true[i] == predicted[i]]
        sheet[y - border:y + high + border, x - border:x + wide + border] = color
        sheet[y:y + high, x:x + wide] = fit_frame(frame, wide, high)
        y += high + border + 2
        number = put_text(sheet, f"{confidence[i]:.2f}", x, y, wide, letters, color, right=True)
        put_text(sheet, f"{mark} {predicted[i]}", x, y, wide - number - letters // 2, letters, color)
        put_text(sheet, f"true: {true[i]}", x, y + round(1.4 * letters), wide, letters, DARK)
    style.write_picture(path, sheet)
    return sheet


@style.styled
def attention_picture(path, frames, weights, title, note=""):
    """The frames of a clip, uint8 (T, H, W, 3), above their attention weights (T,), in rows of 10."""
    weights, T = np.asarray(weights, float), len(frames)
    columns = min(T, 10)
    rows = math.ceil(T / columns)
    high = 1.1 * frames[0].shape[0] / frames[0].shape[1]
    fig = style.figure(max(5, 0.9 + 1.15 * columns), rows * (high + 1.15), title,
                       f"n = {T} frames, weights add up to {weights.sum():.2f}; dashed: 1/{T}, no "
                       f"preference. {note}")
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
    mark instead of its caption's second line."""
    columns, row = min(COLUMNS, max(3, len(tiles))), HIGH + 2 * TEXT + 12
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * row + TITLE + 3 * GAP, columns * (WIDE + GAP) + GAP, 3), 255, np.uint8)
    put_text(sheet, title, GAP, GAP // 2, sheet.shape[1] - 2 * GAP, TITLE, DARK)
    for i, (frame, caption, mark) in enumerate(tiles):
        x, y = GAP + i % columns * (WIDE + GAP), TITLE + 2 * GAP + i // columns * row
        if mark:
            sheet[y - 3:y + HIGH + 3, x - 3:x + WIDE + 3] = style.WRONG
        sheet[y:y + HIGH, x:x + WIDE] = 0 if frame is None else fit_frame(frame, WIDE, HIGH)
        caption, _, second = caption.partition("\n")
        put_text(sheet, caption, x, y + HIGH + 3, WIDE, TEXT, DARK)
        put_text(sheet, mark or second, x, y + HIGH + 5 + TEXT, WIDE, TEXT, style.WRONG if mark else DARK)
    style.write_picture(path, sheet)
    return sheet
