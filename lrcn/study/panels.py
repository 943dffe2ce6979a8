"""All pictures of the mixed-action study of one run, those that show frames, and its labelled movie."""
import math

import numpy as np

from lrcn.data.frames import source_frames
from lrcn.data.manifest import sampling_settings
from lrcn.drawing import labels, style
from lrcn.study import graphs
from lrcn.video.reader import Video
from lrcn.video.sampling import Rate


def draw(study, folder, note):
    """All pictures of one study into `folder` -> {name: uint8 (H, W, 3)}. note: the small print."""
    figures, windows, T = study.figures, study.windows, study.length
    first, pictures = windows.movie == 0, {}

    def add(name, plot, *values, note=note, **options):
        pictures[name] = plot(folder / f"{name}.png", *values, note=note, **options)

    pictures["sliding_window"] = sliding_window_explained(folder / "sliding_window.png", T)
    add("heat_map", graphs.window_heat_map, study.p[first].T, windows.majority[first], study.classes)
    add("windows_by_class", graphs.windows_by_class, study.predicted[first], windows.actions[first],
        windows.counts[first], study.classes)
    draw_accuracy(figures, add)
    index, switching = figures["recency_index"], figures["switching"]
    ends = "" if index.ci95 is None else " [{:+.2f}, {:+.2f}]".format(*index.ci95)
    add("switching_curve", graphs.switching_curve, switching["hard"],
        note=f"Recency index {index.value:+.2f}{ends} (+1 the last frame decides, -1 the first). {note}")
    add("controls", graphs.switching_curves,
        [("hard cut" if name == "hard" else name, curve) for name, curve in switching.items()],
        "The same windows played in other ways")
    costs = {f"by {name}": dict(enumerate(figures["influence_by_position"][kind], 1))
             for kind, name in (("mean frame", "the clip's mean frame"), ("grey", "grey"))}
    add("influence_by_position", graphs.point_plot, costs, "What each frame is worth to the network",
        "position of the replaced frame (first to last)", "loss of the true class's logit",
        {x: str(x) for x in range(1, T + 1, math.ceil(T / 20))}, shares=False, legend="frame replaced",
        before=f"n = {costs['by grey'][1].n:g} clips. ")
    if study.traces:
        draw_states(study.traces, T, add, note)
    return pictures


def draw_accuracy(figures, add):
    """How many windows are right, and which action wins. add(name, plot, values ...) draws a picture."""
    right, windows = "share of windows right", "(n windows)"
    points = figures["accuracy_by_frames"]
    add("accuracy_by_frames", graphs.point_plot, {"accuracy": points},
        "Accuracy by the number of frames from the majority action",
        f"frames from the majority action {windows}", right, graphs.counted(points, 6.4), (6.4, 3.8))
    points = figures["accuracy_by_phase"]
    add("accuracy_by_phase", graphs.point_plot, {"accuracy": dict(enumerate(points.values()))},
        "Accuracy by the window's place in the action",
        f"frames between the cut and the window's first frame {windows}", right,
        {i: f"{frames}\nn={e.n:.0f}" for i, (frames, e) in enumerate(points.items())},
        (max(6.4, 0.5 * len(points)), 3.8))
    mixes, won = figures["shares_by_mix"], "share of windows won"
    two = dict(sorted((row["counts"][1], row) for row in mixes.values() if len(row["counts"]) == 2))
    if two:
        series = {name: {k: row[name.split()[0]] for k, row in two.items()}
                  for name in ("first action", "second action", "neither")}
        add("shares_by_mix", graphs.point_plot, series, "Which action wins a mixed window",
            f"frames of the second action in the window {windows}", won,
            graphs.counted(series["neither"], 7.6))
    three = {f"{mix} frames: {outcome} (n={row[outcome].n:g})": row[outcome]
             for mix, row in mixes.items() if len(row["counts"]) == 3
             for outcome in ("first", "second", "third", "neither")}
    if three:
        add("three_actions", graphs.intervals, list(three), three.values(),
            "Which action wins a window of three actions", won, (0, 1))


def draw_states(traces, T, add, note):
    """The LSTM's forget gates and its memory. add(name, plot, values ...) draws a picture."""
    n, k = {name: trace[0][0][0].n for name, trace in traces.items()}, T // 2
    cut, bands = "Dashed: the first frame of the new action.", f"Bands: 95% intervals. {note}"
    add("gates_window", graphs.states, np.arange(1, T + 1), traces["window"],
        f"Forget gate in a window with {T - k} + {k} frames", T - k + 1,
        note=f"n = {n['window']:g} windows. {cut} {bands}")
    add("gates_movie", graphs.states, np.arange(-T, T), traces["movie"],
        "Forget gate around a cut, the movie run through without restart", 0,
        note=f"{cut} n = {n['movie']} cuts. Frames are counted from the cut. {bands}")
    highest = np.max([graphs.ends(trace)[2] for layer in traces["memory"] for trace in layer])
    add("memory", graphs.states, np.arange(3 * T + 1), traces["memory"],
        "How long the state from beyond a cut stays in the cell",
        ylabel="share of the state left", ylim=(0, max(1.05, highest * 1.02)),
        note=f"n = {n['memory']} cuts; frames read since the cut; 1: all of it is there. "
             f"The backward direction carries over the coming action. {bands}")


def draw_comparison(variants, folder, note):
    """Recency index and switching curve of every results_table.Variant -> {name: picture}."""
    indices = [v.figures["recency_index"] for v in variants]
    return {
        "comparison": graphs.intervals(
            folder / "comparison.png", [f"{v.name} ({len(v.seeds)} run{'s' * (len(v.seeds) > 1)})"
                                        for v in variants], indices,
            "Does the last frame decide, or the majority?",
            "recency index (+1 the last frame alone, 0 all frames alike, -1 the first alone)", (-1, 1),
            null=0.0, note=note),
        "comparison_curves": graphs.switching_curves(
            folder / "comparison_curves.png", [(v.name, v.curve) for v in variants],
            "Switching curves, mean over the seeds", note)}


def show(folder, pictures):
    """All pictures into TensorBoard, in the place of those of an earlier run."""
    from torch.utils.tensorboard import SummaryWriter
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        for name, picture in pictures.items():
            writer.add_image(f"test_continues_movie/{name}", picture, dataformats="HWC")


# ---------------------------------------------------------------- frames

@style.styled
def sliding_window_explained(path, T, high=90, wide=120):
    """What the study does, drawn: frames joined at a cut, every window, its mix, its true label.

    The frames: of a disc that moves right the last T, then of a square that grows the first T.
    """
    from matplotlib.patches import Rectangle
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
    fig = style.figure(9.0 + 2.6, total * unit + 0.3, "The window slides over a cut, one frame a step")
    ax = fig.add_subplot(anchor="W")
    for place, i in enumerate(shown):
        left, right = place * cell + 0.04, (place + 1) * cell - 0.04
        ax.imshow(strip[i], extent=(left, right, top, 0.04), zorder=1)
        ax.add_patch(Rectangle((left, 0.04), cell - 0.08, top - 0.04, fill=False, lw=3, ec=colors[i],
                               zorder=2))
    for i, start in enumerate(starts.tolist()):
        y = top + row * (i + 0.7)
        for j in range(start, start + T):
            ax.add_patch(Rectangle((j + edge, y), 1 - 2 * edge, 0.6 * row, fc=colors[j], ec="black",
                                   lw=0.8 if T <= 12 else 0, hatch=None if j < T else "//"))
        label = "a tie" if 2 * start == T else f"{'first' if 2 * start < T else 'second'} action"
        ax.text(2 * T + 0.12 / unit, y + 0.3 * row, f"{T - start} + {start}: {label}", va="center",
                fontsize=style.SIZE)
    ax.plot([T, T], [-0.02, total], color="black", lw=2, zorder=3)
    ax.text(2 * T + 0.12 / unit, top / 2, "frames; the black line\nis the cut", va="center")
    ax.set(xlim=(-0.05, 2 * T + 2.5 / unit), ylim=(total, -0.05))
    ax.set_aspect("equal")
    ax.axis("off")
    return style.save(fig, path)


@style.styled
def window_step(frames, actions, start, T, names, predicted):
    """One picture of the sliding window: uint8 (H, W, 3). frames: uint8 (N, H, W, 3), and the action of each.

    names: of the two actions; start: the window's first frame; predicted: the class.
    """
    from matplotlib.patches import Rectangle
    high, wide = frames[0].shape[:2]
    tall = high / wide
    fig = style.figure(8, 8 / len(frames) * tall + 0.9, "The window slides over a cut of your own clips")
    ax = fig.add_subplot()
    for i, frame in enumerate(frames):
        ax.imshow(frame, extent=(i + 0.03, i + 0.97, tall, 0), zorder=1)
        ax.add_patch(Rectangle((i + 0.03, 0), 0.94, tall, fill=False, lw=2.5, zorder=2,
                               ec=style.unit(style.ORANGE if actions[i] else style.BLUE)))
    ax.add_patch(Rectangle((start, -0.1), T, tall + 0.2, fill=False, lw=3.5, ec="black", zorder=3,
                           clip_on=False))
    late = sum(actions[start:start + T])
    words = f"{T - late} + {late} frames of {style.short(names[0])} and {style.short(names[1])}"
    ax.set_title(f"{words}; predicted: {style.short(predicted)}", fontsize=style.SIZE)
    ax.set(xlim=(-0.1, len(frames) + 0.1), ylim=(tall + 0.15, -0.15))
    ax.set_aspect("equal")
    ax.axis("off")
    return style.save(fig, None)


def movie_frames(study, folder, source, places):
    """The frames at `places` in the line of all movies, uint8 (H, W, 3) each.

    folder: of the sampled clips; source: the Clip behind every test video of the Study.
    """
    for i in places:
        clip = source[study.movies.video[i]]
        yield source_frames(folder, clip.video, [clip.frames[study.movies.frame[i]]])[0]


def write_window_gif(path, study, folder, source):
    """The window sliding over the first cut of the first movie, with the clips themselves, as a GIF."""
    T, movies, classes = study.length, study.movies, study.classes
    cut = movies.cuts[0]
    span = np.arange(max(0, cut - T), min(cut + T, np.searchsorted(movies.movie, 1)))
    frames = list(movie_frames(study, folder, source, span))
    names = [classes[study.clips.labels[movies.video[i]]] for i in (cut - 1, cut)]
    steps = [window_step(frames, (span >= cut).tolist(), start, T, names,
                         classes[study.predicted[span[0] + start]]) for start in range(len(span) - T + 1)]
    size = np.max([step.shape for step in steps], 0)
    labels.clip_gif(path, (labels.fit_frame(step, size[1], size[0]) for step in steps), 1.25, 900)


def write_movie(path, study, folder, source):
    """The first movie, each frame labelled with the window that ends with it."""
    place, whole = np.flatnonzero(study.movies.movie == 0), study.windows.movie == 0
    before = study.length - 1                       # frames without a window
    truth, predicted = (np.concatenate([np.full(before, -1), values[whole]])
                        for values in (study.windows.majority, study.predicted))
    p = np.concatenate([np.zeros((before, study.p.shape[1])), study.p[whole]])
    labels.mixed_movie(path, movie_frames(study, folder, source, place), truth, predicted, p, study.classes,
                       Rate.of(sampling_settings(folder)).per_second,
                       study.clips.labels[study.movies.video[place]])


def write_gif(path, movie):
    """The labelled movie (an .mp4) as a GIF."""
    def frames():
        while film.grab():
            yield film.frame()

    with Video(movie) as film:
        labels.clip_gif(path, frames(), film.info.fps, 480)
