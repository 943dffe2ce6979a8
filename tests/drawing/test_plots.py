"""Pictures and labelled videos: drawn from synthetic data and measured, not only rendered."""
import itertools
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox
from PIL import Image

from lrcn.base import cli
from lrcn.drawing import labels, plots, style
from lrcn.evaluation.intervals import Figures
from lrcn.study import graphs
from lrcn.study.figures import Switching
from lrcn.video.reader import Video

pytestmark = pytest.mark.filterwarnings("error")   # a missing letter or a collapsed axis is a fault
LONG = "A class name that is much too long for its place, with (brackets) and $x_1$"
ODD = ["Apply Eye Makeup", LONG, "Größe_ändern", "歩く", "ходьба", "two\nlines\ttab", "\udcff", "W" * 60]


def names(count):
    return ["move left", "move right"] if count == 2 else \
        (ODD + [f"Class{i:03d}Name{'x' * (i % 9)}" for i in range(count)])[:count]


def clip(n, high=48, wide=64, color=(60, 120, 200)):
    return np.full((n, high, wide, 3), color, np.uint8)


def shown_texts(fig):
    found = [("figure", text) for text in fig.texts]
    for ax in fig.axes:
        found += [("inside", text) for text in ax.texts]
        legend = ax.get_legend()
        found += [("legend", text) for text in legend.get_texts()] if legend else []
        found += [("title", t) for t in (ax.title, ax._left_title, ax._right_title)]
        for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)) if ax.axison else ():
            found.append((f"{name} label", axis.label))
            low, high = sorted(axis.get_view_interval())
            found += [(f"{name} tick {id(ax)}", label) for where, label in
                      zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)   # none if shared
                      if low <= where <= high]
    return [(kind, text) for kind, text in found if text.get_visible() and text.get_text().strip()]


def check_texts(fig):
    boxes = [(kind, text.get_text(), text.get_window_extent()) for kind, text in shown_texts(fig)]
    assert boxes
    for kind, text, box in boxes:
        inside = (box.min >= fig.bbox.min).all() and (box.max <= fig.bbox.max).all()
        assert inside, f"{kind} {text!r} leaves the figure: {box} in {fig.bbox}"
    for i, (kind, text, box) in enumerate(boxes):       # the figure's own texts are the first
        for other, words, place in boxes[i + 1:] if kind == "figure" or "tick" in kind else ():
            if kind in ("figure", other) and (common := Bbox.intersection(box, place)):
                smaller = min(np.prod(one.size) for one in (box, place))
                assert np.prod(common.size) < 0.2 * smaller, f"{kind} {text!r} lies on {other} {words!r}"


@pytest.fixture
def checked(monkeypatch):
    """Measures the texts of every figure that is saved; a list of those figures."""
    figures, draw = [], FigureCanvasAgg.draw

    def draw_and_check(self):
        draw(self)
        check_texts(self.figure)
        figures.append(self.figure)

    monkeypatch.setattr(FigureCanvasAgg, "draw", draw_and_check)
    return figures


def training_pictures(count):
    classes, random = names(count), np.random.default_rng(0)
    matrix = np.eye(count) * 7 + random.poisson(4 / count, (count, count))
    matrix[-1] *= count == 2                # a class without a test video
    n = matrix.sum(1)
    accuracy = np.divide(np.diag(matrix), n, out=np.full(count, np.nan), where=n > 0)
    shown, few = [classes[i % count] for i in range(min(count, 16))], np.arange(count) % 3 == 0
    few_means = "less than half of the median class's training videos, which is fewer than 48"
    return [
        (plots.class_distribution, classes, n * 3, n),
        (plots.test_videos, classes, n, n // 2),
        (plots.accuracy_by_training, classes, n * 3, accuracy, n, few, "words", few_means),
        (labels.label_grid, clip(len(shown)), shown, shown[:1] * len(shown), np.linspace(0, 1, len(shown)),
         "Validation frames " + "and a long title " * 6),
        (plots.confusion_matrix, matrix, classes, "official split 1, seed 42"),
        (plots.accuracy_per_class, classes, accuracy, n, few, few_means)]


def estimates(values, spread=0.1):
    return [SimpleNamespace(value=v, ci95=spread and [v - spread, v + spread], n=15000) for v in values]


def switching(values, fit=True):
    return Switching(estimates(values), *estimates((3, 1, 0.02, 0.2), 0.2 if fit else None))


def points(values):
    return dict(enumerate(estimates(values)))


def study_pictures(count):
    classes, T = names(count), 5 if count == 2 else 24
    k = np.arange(T + 1)
    share = 1 / (1 + np.exp(T / 2 - k))
    mix = {"first action": points(1 - share), "second action": points(share), "neither": points(share * 0)}
    windows = np.random.default_rng(0).dirichlet(np.ones(count), 60)
    truth = np.repeat(np.arange(12) % count, 5)
    truth[7] = -1
    actions, frames = np.stack([truth, (truth + 1) % count, truth * 0 - 1], 1), np.array([[3, 2, 0]] * 60)
    segments = [(0, 10, classes[0]), (10, 11, "unsure"), (11, 30, classes[1])]
    return [
        (graphs.window_heat_map, windows.T, truth, classes),
        (graphs.windows_by_class, windows.argmax(1), actions, frames, classes),
        (graphs.switching_curve, switching(share, fit=count == 2)),
        (graphs.switching_curves, [(name, switching(share)) for name in classes[:16]], "Curves"),
        (graphs.point_plot, mix, "Who wins?", "frames", "share", graphs.counted(mix["neither"], 7.6)),
        (graphs.intervals, classes[:16], estimates(share[:2].repeat(8)[:count]), "Recency", "index",
         (-1, 1), 0),
        (plots.probability_timeline, np.arange(60) / 2, windows[:, :6], classes[:6], segments,
         style.class_colors(classes)[:6], "Probability", 60),
        (graphs.sliding_window_explained, T),
        (graphs.states, k - T // 2, [[estimates(share)] * 2] * 2, "Gates", 0),
        (labels.attention_picture, clip(T), np.full(T, 1 / T), "Attention")]


@pytest.mark.parametrize("count", (2, 101))
@pytest.mark.parametrize("pictures", [training_pictures, study_pictures])
def test_no_text_leaves_or_covers_a_picture(tmp_path, checked, pictures, count):
    drawn = pictures(count)
    for i, (draw, *args) in enumerate(drawn):
        path = tmp_path / f"{i}.{'png' if i else 'jpg'}"
        rgb = draw(path, *args)
        assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3
        saved = np.asarray(Image.open(path).convert("RGB"))
        assert saved.shape == rgb.shape and (i == 0 or np.array_equal(saved, rgb))
    assert len(checked) == sum(draw is not labels.label_grid for draw, *_ in drawn)
    assert len(list(tmp_path.iterdir())) == len(drawn)


def test_names_of_very_many_classes_do_not_lie_on_each_other(checked):
    classes = [f"{i} Playing a very long instrument (x) in the garden while it rains {i}" for i in range(300)]
    plots.class_distribution(None, classes, np.ones(300), np.ones(300))
    boxes = [label.get_window_extent() for label in checked[0].axes[0].get_xticklabels()]
    assert len(boxes) == 150 and all(b.x0 > a.x1 for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize("epochs", [0, 1, 60])
def test_curves_leave_out_what_was_not_measured(checked, epochs):
    rows = [dict(epoch=e, train_loss=3 / e, train_top1=0.5, lr=5e-4, val_loss=None if e % 5 else 2 / e,
                 val_top1="" if e % 5 else e / 100) for e in range(1, epochs + 1)]
    plots.curves(None, rows, 35, 6, note="288 training and 66 validation clips")
    loss, accuracy, _ = checked[0].axes
    validation = [line for line in loss.lines if line.get_label() == "validation"]
    assert sum(len(line.get_xdata()) for line in validation) == epochs // 5
    best = [line for line in accuracy.lines if "best" in line.get_label()]
    assert [tuple(line.get_xdata()) for line in best] == ([(35.0,)] if epochs == 60 else [])


def test_confusion_matrix_prints_shares_and_counts_and_of_many_classes_the_counts(checked):
    plots.confusion_matrix(None, [[3, 1], [0, 0]], ["a", "b"])
    assert [t.get_text() for t in checked[0].axes[0].texts] == ["0.75\n3", "0.25\n1"]
    plots.confusion_matrix(None, 7 * np.eye(21), [str(i) for i in range(21)])
    assert [t.get_text() for t in checked[1].axes[0].texts] == ["7"] * 21


def test_an_axis_ends_where_no_value_can_be_and_an_unknown_figure_is_a_dash(checked):
    compared = [Figures(1, [0.98, 1]), Figures(0.7, [0.6, 0.8])]
    plots.runs_table_picture(None, ["a", LONG], compared, [4.1e6, None], [None, 6.81], 111)
    texts = [text.get_text() for _, text in shown_texts(checked[0])]
    assert {"4.1 M", "6.81", "1.000 [0.980, 1.000]"} <= set(texts) and texts.count("–") == 2
    graphs.intervals(None, ["a", "b"], estimates([1, -1]), "Title", "index", (-1, 1))
    graphs.intervals(None, ["a"], estimates([0]), "Title", "share", (0, 1))
    for fig, (low, high) in zip(checked, [(0, 1), (-1, 1), (0, 1)], strict=True):
        left, right = fig.axes[0].get_xlim()
        assert left >= low - 0.05 and right <= high + 0.05


def test_accuracy_per_class_is_sorted_and_marks_the_few(checked):
    plots.accuracy_per_class(None, ["a", "b", "c"], [0, 0.9, np.nan], [5, 9, 0], [True, False, False], "few")
    ax = checked[0].axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["b", "a", "c"]
    assert [bar.get_hatch() for bar in ax.patches] == [None, "///", None] * 2
    assert [bar.get_width() for bar in ax.patches[3:]] == [1, 1, 1] and ax.get_xlim()[1] < 1.02
    assert [t.get_text() for t in ax.texts] == ["0.90  n=9", "0.00  n=5", "no test video"]


def test_windows_by_class_say_what_is_true_and_what_else_is_predicted(checked):
    actions = np.array([[3, -1, -1], [3, 1, -1], [3, 1, -1], [3, 1, -1], [3, 1, -1], [1, -1, -1]])
    counts = np.array([[4, 0, 0], [3, 1, 0], [3, 1, 0], [2, 2, 0], [2, 2, 0], [4, 0, 0]])
    graphs.windows_by_class(None, np.array([3, 1, 0, 1, 0, 1]), actions, counts, list("abcd"))
    ax, (true, hit, other, neither) = checked[0].axes[0], graphs.CELLS
    assert [t.get_text() for t in ax.get_yticklabels()] == ["d", "b", "a"]  # "a" is only ever predicted
    assert ax.images[0].get_array().tolist() == [
        [hit, true, true, true, true, 0], [0, other, 0, hit, true, hit], [0, 0, neither, 0, neither, 0]]


def test_label_grid_frames_right_green_and_wrong_red_and_keeps_the_shape_of_every_frame():
    frames = [clip(1, 48, 64)[0], clip(1, 96, 48, (250, 200, 0))[0]]
    rgb = labels.label_grid(None, frames, ["a", "b"], ["a", "a"], [0.9, 0.8], "Title")
    rows, columns = ((rgb == (250, 200, 0)).all(-1).any(axis).nonzero()[0] for axis in (1, 0))
    assert 1.7 < np.ptp(rows) / np.ptp(columns) < 2.1
    right, wrong = ((rgb == color).all(-1).any(0).nonzero()[0] for color in (style.RIGHT, style.WRONG))
    assert len(right) > 100 and len(wrong) > 100 and right.max() < wrong.min()
    for name in ODD:    # letters stay below their frame
        rgb = labels.label_grid(None, frames, [name] * 2, [name] * 2, [1, 1], "W" * 80, note="W " * 80)
        inked = (rgb < 200).any(-1).any(0).nonzero()[0]
        assert inked.min() >= 2 * labels.GAP - 4 and inked.max() < rgb.shape[1] - 2 * labels.GAP + 4


def test_class_colors_are_distinct_and_never_change():
    colors = style.class_colors(names(101))
    assert np.array_equal(colors[:16], style.class_colors(names(16)))
    lab = cv2.cvtColor(colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(101)
    assert distance.min() > 8        # some 2 are just noticeable side by side


@pytest.fixture
def system(monkeypatch, tmp_path):
    """A system with the fonts that the test puts into a folder, and none else."""
    from matplotlib import font_manager
    caches = [f for f in vars(style).values() if hasattr(f, "cache_clear")]

    def forget():
        for cache in caches:
            cache.cache_clear()

    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(p) for p in tmp_path.glob("*.ttf")])
    monkeypatch.setattr(style, "MORE_FONTS", ())
    forget()
    yield tmp_path
    forget()


def test_letters_that_only_another_font_of_the_system_has_are_drawn_with_it(system, checked, capsys):
    import matplotlib
    shutil.copy(Path(matplotlib.get_data_path(), "fonts", "ttf", "STIXGeneral.ttf"), system)
    (system / "broken.ttf").write_text("no font")
    assert style.printable("Größe の") == "Größe の"
    assert 10 < style.width("の", 20) < 30
    black = labels.put_text(frame := np.zeros((40, 400, 3), np.uint8), "ab の", 0, 0, 400, 20)
    alone = labels.put_text(other := np.zeros((40, 400, 3), np.uint8), "ab ", 0, 0, 400, 20)
    assert black > alone and (frame > 99).sum() > (other > 99).sum() + 60
    before = plots.class_distribution(None, ["aの", "の"], [3, 2], [1, 1])
    assert "STIXGeneral" in checked[0].axes[0].get_xticklabels()[0].get_fontfamily()
    assert np.array_equal(before, plots.class_distribution(None, ["aの", "の"], [3, 2], [1, 1]))
    assert capsys.readouterr() == ("", "")


def test_letters_that_no_font_has_are_their_codes_and_names_stay_apart(system, capsys):
    assert style.printable("two\nlines") == cli.printable("two\nlines") == "two\\nlines"
    assert style.printable("Größe ходьба") == "Größe ходьба"
    assert style.printable("歩") == "\\u6b69" and style.printable("\u0939") == "\\u0939"
    odd = ["\ue123", "\ue124", "\udcff", "\x00"]       # private use, lone surrogate, control
    assert len({style.printable(name) for name in odd}) == len(odd)
    assert all(style.printable(name).isprintable() for name in odd)
    assert capsys.readouterr().err.count("fonts-noto-cjk") == 1


def test_fitted_and_wrapped_text_is_never_wider_than_its_room():
    for text, room in itertools.product(ODD, (3, 20, 100, 1000)):
        fitted, size = style.fit(text, room, 20, 8)
        assert style.width(fitted, size) <= room * 1.01 and 8 <= size <= 20
        assert all(style.width(line, 9) <= room * 1.01 for line in style.wrap(text, room, 9).splitlines())


@pytest.mark.parametrize("shape", [(64, 64), (240, 320), (1920, 1080), (40, 400), (9, 7), (2, 2)])
def test_overlay_changes_its_panel_and_timeline_alone(shape):
    frame = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    before, timeline, red = frame.copy(), labels.empty_timeline(), (250, 0, 0)
    labels.paint_timeline(timeline, 0, 0.5, red)
    drawn = labels.draw_overlay(frame, ODD[:5], [0.8, 0.1, 0.05, 0.03, 0.02], style.class_colors(ODD[:5]),
                                timeline, 0.5, np.bool_(shape[0] > shape[1]))
    assert np.array_equal(frame, before) and drawn.shape == frame.shape and drawn.dtype == np.uint8
    if min(shape) >= 40:
        same = (drawn == frame).all(-1)
        assert same[shape[0] * 6 // 10:shape[0] * 9 // 10].all()      # the middle of the picture
        assert (drawn[-1, :shape[1] // 3] == red).all()
        assert (drawn[-1, shape[1] * 2 // 3:] == labels.UNSEEN).all()
        assert not same[:shape[0] // 8, :shape[1] // 8].any()


def test_overlay_bar_is_as_long_as_its_probability():
    lengths = []
    for probability in (0.25, 0.5, 1.0):
        drawn = labels.draw_overlay(np.zeros((480, 640, 3), np.uint8), ["a"], [probability],
                                    np.array([(250, 0, 0)], np.uint8), labels.empty_timeline(), 0, False)
        lengths.append((drawn == (250, 0, 0)).all(-1).any(0).sum())
    assert np.allclose(lengths, np.array([0.25, 0.5, 1]) * lengths[2], atol=1)


def near(pixels, color, tolerance=40):
    return np.abs(pixels.reshape(-1, 3).mean(0) - color).max() < tolerance


@pytest.mark.parametrize("predicted, color", [(LONG, style.RIGHT), ("b", style.WRONG)])
def test_a_labelled_frame_is_green_where_right_and_red_where_wrong(predicted, color):
    frame = labels.label_frame(clip(1, 240, 320)[0], LONG, predicted)
    assert near(frame[:3], color) and near(frame[-3:], color) and near(frame[:, -3:], color)
    assert near(frame[100:140, 140:180], (60, 120, 200))     # the picture itself


def test_mixed_movie_shows_labels_and_timeline_in_the_classes_colours(tmp_path):
    classes, n = names(101), 10
    action = np.repeat([0, 1], 5)
    truth = np.array([-1, -1, -1, 0, 0, -1, 1, 1, 1, 1])
    predicted = np.array([-1, -1, -1, 0, 0, 0, 0, 1, 1, 1])
    path = tmp_path / "movie.mp4"
    labels.mixed_movie(path, iter(clip(n, 64, 36)), truth, predicted, np.full((n, 101), 0.005), classes, 2.5,
                       action)
    with Video(path) as video:
        frames = np.stack([video.frame() for _ in iter(video.grab, False)])
    assert frames.shape[0] == n and frames.shape[2] == labels.MOVIE_WIDE
    top = labels.MOVIE_HIGH
    button = frames[:, top + 75:top + 78, 60:300]
    assert near(button[6], style.WRONG) and near(button[8], style.RIGHT)
    assert near(button[1], labels.DARK)
    colors, row = style.class_colors(classes), frames[0, top + 130:top + 136]
    assert near(row[:, 160:320], colors[0]) and near(row[:, 400:600], colors[1])
    strip = frames[:, top + 166:top + 172, 520:600]          # a prediction is shown when it was made
    assert near(strip[2], labels.UNSEEN) and near(strip[9], colors[1])
