"""How every picture looks: colours, fonts, figures, and text that never leaves its room.

matplotlib is used through its objects, never through pyplot: no state is shared, and no display is needed.
"""
import functools
import itertools
import unicodedata
from pathlib import Path

import numpy as np

from lrcn.base import Lazy, cli, files

Image, ImageFont = Lazy("PIL.Image"), Lazy("PIL.ImageFont")
backend = Lazy("matplotlib.backends.backend_agg")
figures = Lazy("matplotlib.figure")
font_manager, ft2font = Lazy("matplotlib.font_manager"), Lazy("matplotlib.ft2font")
matplotlib = Lazy("matplotlib")
cv2 = Lazy("cv2")

# Okabe and Ito's colours, which the colour-blind tell apart, as 0..255 RGB.
BLUE, ORANGE, GREEN, RED = (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0)
SKY, PINK, BLACK = (86, 180, 233), (204, 121, 167), (0, 0, 0)
SERIES = (BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK)
MARKERS = "osD^vPX*"
# Right and wrong differ in lightness too, and a tick or a cross always stands beside them.
RIGHT, WRONG = (0, 140, 80), (200, 16, 46)
TICK, CROSS = "✓", "✗"
VERDICT = {True: (TICK, RIGHT), False: (CROSS, WRONG)}      # by whether an answer is right
UNSURE = (110, 110, 110)

DPI = 130
SIZE, SMALL, TITLE = 9, 8, 12       # points
RC = {"font.size": SIZE, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.labelsize": SIZE,
      "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
      "grid.color": "#d8d8d8", "grid.linewidth": 0.6, "legend.fontsize": SMALL,
      "legend.framealpha": 0.9, "xtick.labelsize": SMALL, "ytick.labelsize": SMALL,
      "lines.linewidth": 1.8, "errorbar.capsize": 3, "hatch.linewidth": 0.8,
      "text.parse_math": False}     # a class may be called "$x"
# Asked for the letters that DejaVu Sans lacks, where the system has them.
MORE_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Source Han Sans",
              "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "IPAGothic",
              "Hiragino Sans", "PingFang SC", "Arial Unicode MS", "Microsoft YaHei", "Yu Gothic",
              "Malgun Gothic", "Noto Sans Devanagari", "Noto Sans Thai", "FreeSans")


def unit(color):
    """0..255 RGB -> matplotlib's 0..1 RGB."""
    return tuple(float(c) / 255 for c in color)


@functools.lru_cache(maxsize=4)
def _distinct_colors(n):
    """uint8 (n, 3): each the farthest (in Lab) from all before it, so the first ones never change."""
    levels = np.linspace(0, 1, 12, dtype=np.float32)
    grid = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, 1, 3)
    lab = cv2.cvtColor(grid, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    # Not near black, white or grey: it is seen on both, and never taken for "unsure".
    usable = (lab[:, 0] > 42) & (lab[:, 0] < 80) & (np.hypot(lab[:, 1], lab[:, 2]) > 25)
    grid, lab = grid.reshape(-1, 3)[usable], lab[usable]
    start = np.float32([BLUE, ORANGE, GREEN, RED, SKY, PINK])[:n] / 255
    chosen = list(start)
    known = cv2.cvtColor(start.reshape(-1, 1, 3), cv2.COLOR_RGB2LAB).reshape(-1, 3)
    distance = np.min([np.linalg.norm(lab - k, axis=1) for k in known], axis=0)
    while len(chosen) < n:
        best = int(distance.argmax())
        chosen.append(grid[best])
        distance = np.minimum(distance, np.linalg.norm(lab - lab[best], axis=1))
    return (np.array(chosen) * 255).round().astype(np.uint8)


def class_colors(classes):
    """uint8 (C, 3) RGB: one distinct colour a class, which depends on its place in the list alone."""
    return _distinct_colors(max(1, len(classes)))[:len(classes)].copy()


@functools.cache
def fonts():
    """[(family, file, code points)] in the order in which a letter is looked for: DejaVu Sans, which comes
    with matplotlib, MORE_FONTS, and then the fonts that a letter was found in."""
    installed = {f.name for f in font_manager.fontManager.ttflist}
    names = ["DejaVu Sans", *(name for name in MORE_FONTS if name in installed)]
    return [_read_font(font_manager.findfont(name)) for name in names]


def _read_font(path):
    """(family, path, code points) of a font file; no code points of one that cannot be drawn with."""
    try:
        font = ft2font.FT2Font(path)
        return font.family_name, path, frozenset(font.get_charmap() if font.scalable else ())
    except (OSError, RuntimeError):
        return "", path, frozenset()


@functools.cache
def _other_fonts():
    """All fonts of the system, read when no font of `fonts` has a letter."""
    return list(map(_read_font, sorted(font_manager.findSystemFonts())))


@functools.lru_cache(maxsize=4096)
def _font_of(letter):
    """The file of the first font that has a letter, None where no font of the system has it."""
    for _, path, points in fonts():
        if ord(letter) in points:
            return path
    drawing = matplotlib.rcParams["font.family"] == _families()     # see `styled`
    for font in _other_fonts():
        _, path, points = font
        if ord(letter) in points:
            font_manager.fontManager.addfont(path)
            fonts().append(font)
            if drawing:
                matplotlib.rcParams["font.family"] = _families()
            return path
    _say_missing()
    return None


def _families():
    return [family for family, _, _ in fonts()]


@functools.cache    # said once, however many letters are missing
def _say_missing():
    cli.warn("no font of this system has all letters of the names: pictures show the others' codes; install "
             "one that has them, for instance the package fonts-noto-cjk or fonts-noto-core")


@functools.lru_cache(maxsize=4096)
def printable(text):
    """`text` as a terminal gets it (cli.printable), and letters that no font has as their code (\\u6b65)."""
    text = cli.printable(unicodedata.normalize("NFC", str(text)))
    return "".join(c if _font_of(c) else ascii(c)[1:-1] for c in text)


@functools.lru_cache(maxsize=4096)
def short(name, limit=28):
    """A class name as wide as `limit` usual letters; the middle goes, for the ends tell names apart."""
    name = whole = printable(name)
    keep = len(whole)
    while keep > 2 and width(name, 1) > 0.62 * limit:
        keep -= 1
        head = (keep + 1) // 2
        name = f"{whole[:head]}…{whole[len(whole) - keep + head:]}"
    return name


@functools.lru_cache(maxsize=256)
def _pil_font(path, size):
    return ImageFont.truetype(path, size)


def in_fonts(text, size):
    """[(font, part)] of `text` (already printable), cut where another font is needed."""
    default = fonts()[0][1]
    parts = itertools.groupby(text, lambda letter: _font_of(letter) or default)
    return [(_pil_font(path, size), "".join(letters)) for path, letters in parts]


@functools.lru_cache(maxsize=8192)
def width(text, size):
    """Width of one line of text, in the unit of `size`."""
    return sum(font.getlength(part) for font, part in in_fonts(text, 100)) * size / 100


@functools.lru_cache(maxsize=4096)
def fit(text, room, size, smallest):
    """(text, size) with text no wider than `room`: set smaller first, then cut with an ellipsis."""
    text = printable(text)
    size = max(smallest, min(size, size * room / max(width(text, size), 1e-9)))
    if width(text, size) <= room * 1.001:
        return text, size
    for keep in range(len(text) - 1, 0, -1):
        cut = text[:keep].rstrip() + "…"
        if width(cut, size) <= room:
            return cut, size
    return "", size


def wrap(text, room, size):
    """`text` as lines no wider than `room`; a word that is wider is cut with an ellipsis."""
    lines = []
    for paragraph in str(text).splitlines():
        line = ""
        for word in map(printable, paragraph.split()):
            longer = f"{line} {word}".strip()
            if line and width(longer, size) > room:
                lines.append(line)
                longer = word
            line = fit(longer, room, size, size)[0]
        lines.append(line)
    return "\n".join(lines)


def styled(draw):
    """Run a drawing function under this file's settings, whatever the user's matplotlibrc says."""
    @functools.wraps(draw)
    def call(*args, **kwargs):
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(RC)
            matplotlib.rcParams["font.family"] = _families()
            return draw(*args, **kwargs)
    return call


def figure(wide, high, title, note=""):
    """An empty figure of `wide` x `high` inches below its title and above its note, both wrapped."""
    room = (wide - 0.3) * 72
    title = wrap(title, room / 1.13, TITLE)     # bold letters are wider than those measured
    note = wrap(note, room, SMALL)
    high += 0.22 * len(title.splitlines()) + 0.16 * len(note.splitlines())
    fig = figures.Figure(figsize=(wide, high), dpi=DPI, layout="constrained", facecolor="white")
    fig.get_layout_engine().set(w_pad=0.09, h_pad=0.06)
    fig.suptitle(title, x=0.12 / wide, ha="left", fontsize=TITLE, fontweight="bold")
    if note:
        fig.supxlabel(note, x=0.12 / wide, ha="left", fontsize=SMALL)
    return fig


def axes(*size_and_texts):
    """The one pair of axes of a `figure`; axes.figure is that figure."""
    return figure(*size_and_texts).add_subplot()


def legend(ax, above=False, **options):
    """A legend right of the axes, or above them: never on the data, the title or the note."""
    loc, anchor = ("lower left", (0, 1.0)) if above else ("upper left", (1.01, 1.0))
    ax.legend(loc=loc, bbox_to_anchor=anchor, borderaxespad=0.3, **options)


def save(fig, path):
    """Draw once, write to `path` (.png, .jpg; None writes nothing) -> uint8 (H, W, 3) RGB."""
    canvas = backend.FigureCanvasAgg(fig)
    canvas.draw()
    rgb = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    write_picture(path, rgb)
    return rgb


def write_picture(path, rgb, quality=92):
    """rgb: uint8 (H, W, 3); the name's ending is the format. quality: of .jpg. None writes nothing."""
    if path is None:
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with files.atomic(path) as temporary:
        Image.fromarray(rgb).save(temporary, quality=quality, compress_level=1)     # of a .jpg; of a .png
