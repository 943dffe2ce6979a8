"""The pictures of the mixed-action study of one run, and its first movie with labels."""
import numpy as np

from lrcn.data.frames import source_frames
from lrcn.data.manifest import sampling_settings
from lrcn.drawing import labels, style
from lrcn.study import graphs
from lrcn.video.reader import Video
from lrcn.video.sampling import Rate

R_LABEL = "p(later action) / p(both actions), mean"


def ends(estimates):
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


def curve_points(name, curve):
    value, low, high, n = ends(curve.curve)
    return {"name": name, "k": list(range(len(value))), "share": value, "low": low, "high": high,
            "n": n, "fit": _fit(curve)}


def draw(found, folder, note):
    """All pictures of one study into `folder` -> {name: uint8 (H, W, 3)}. note: the small print."""
    pictures, T = {}, found.length

    def add(name, plot, *values, **options):
        pictures[name] = plot(folder / f"{name}.png", *values, note=options.pop("note", note), **options)

    add("sliding_window", graphs.sliding_window_explained, synthetic_frames(T), T, note="")
    first = found.windows.movie == 0
    add("heat_map", graphs.window_heat_map, found.p[first].T, found.windows.majority[first],
        found.classes, title="Probability of every class in the windows of the first movie")
    w = found.windows
    add("windows_by_class", graphs.windows_by_class, found.predicted[first], w.actions[first],
        w.counts[first], found.classes)
    add("accuracy_by_frames", graphs.accuracy_by_frames, list(found.by_frames),
        *ends(found.by_frames.values()))
    add("accuracy_by_phase", graphs.accuracy_by_phase, [str(p) for p in found.by_phase],
        *ends(found.by_phase.values()))
    two = [row for row in found.shares if len(row["counts"]) == 2]
    if two:
        two.sort(key=lambda row: row["counts"][1])
        parts = [[row[o] for row in two] for o in ("first", "second", "neither")]
        value, low, high, _ = (np.array(x) for x in zip(*(ends(part) for part in parts), strict=True))
        add("shares_by_mix", graphs.shares_by_mix, [row["counts"][1] for row in two], value, low, high,
            [row["n"] for row in two])
    _draw_three(found, add)
    hard = curve_points("hard cut", found.switching["hard"])
    add("switching_curve", graphs.switching_curve, hard["k"], hard["share"], hard["low"], hard["high"],
        hard["n"], hard["fit"], ylabel=R_LABEL, note=f"{_recency_words(found.recency)} {note}")
    add("controls", graphs.switching_curves,
        [curve_points("hard cut" if name == "hard" else name, curve)
         for name, curve in found.switching.items()],
        title="The same windows played in other ways", ylabel=R_LABEL)
    (mean, *mean_ends, n), (grey, *grey_ends, _) = (ends(e) for e in found.influence.values())
    add("influence_by_position", graphs.influence_by_position, np.arange(1, T + 1), mean, grey,
        np.array([mean_ends, grey_ends]), n=n[0])
    if found.states:
        _draw_states(found, add, note)
    return pictures


def _draw_three(found, add):
    """Which action wins, where windows of three actions are among them."""
    three = [(row, o) for row in found.shares if len(row["counts"]) == 3
             for o in ("first", "second", "third", "neither")]
    if three:
        value, low, high, n = ends([row[o] for row, o in three])
        add("three_actions", graphs.intervals_by_run, [f"{row['mix']} frames: {o}" for row, o in three],
            value, low, high, n, title="Which action wins a window of three actions",
            xlabel="share of windows won", null=None, limits=(0, 1))


def _recency_words(index):
    interval = "" if index.ci95 is None else " [{:+.2f}, {:+.2f}]".format(*index.ci95)
    return f"Recency index {index.value:+.2f}{interval} (+1 the last frame decides, -1 the first)."


def _grid(estimates):
    """[layer][direction][time] of Estimates -> arrays (value, low, high), each (layers, directions, time)."""
    parts = [[ends(row)[:3] for row in layer] for layer in estimates]
    return np.moveaxis(np.array(parts), 2, 0)


def _draw_states(found, add, note):
    pictures, T = found.states["pictures"], found.length
    value, low, high = _grid(pictures["window"])
    n, k = pictures["window"][0][0][0].n, T // 2
    add("gates_window", graphs.gates, np.arange(1, T + 1), value, T - k + 1, n=n, low=low, high=high,
        title=f"Forget gate in a window with {T - k} + {k} frames", note=f"Bands: 95% intervals. {note}")
    value, low, high = _grid(pictures["movie"])
    add("gates_movie", graphs.gates, np.arange(-T, T), value, 0, low=low, high=high,
        title="Forget gate around a cut, the movie run through without restart",
        note=f"n = {pictures['movie'][0][0][0].n} cuts. Frames are counted from the cut. "
             f"Bands: 95% intervals. {note}")
    value, low, high = _grid(pictures["memory"])
    add("memory", graphs.gates, np.arange(value.shape[2]), value, low=low, high=high,
        ylabel="share of the state left", ylim=(0, max(1.05, high.max() * 1.02)),
        title="How long the state from beyond a cut stays in the cell",
        note=f"n = {pictures['memory'][0][0][0].n} cuts; frames read since the cut; 1: all of it is there. "
             f"The backward direction carries over the coming action. Bands: 95% intervals. {note}")


def show(folder, pictures):
    """All pictures into TensorBoard, in the place of those of an earlier run."""
    from torch.utils.tensorboard import SummaryWriter
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        for name, picture in pictures.items():
            writer.add_image(f"test_continues_movie/{name}", picture, dataformats="HWC")


def write_window_gif(path, data, source, found):
    """The window sliding over the first cut of the first movie, with the clips themselves, as a GIF.

    data, source: as in write_movie.
    """
    T, movies = found.length, found.movies
    cut = int(np.argmax(movies.clip != movies.clip[0]))
    span = np.arange(max(0, cut - T), min(cut + T, np.searchsorted(movies.movie, 1)))
    frames = [source_frames(data, source[movies.video[i]].video,
                            [source[movies.video[i]].frames[movies.frame[i]]])[0] for i in span]
    names = [found.classes[found.labels[movies.video[i]]] for i in (cut - 1, cut)]
    steps = [graphs.window_step(frames, (span >= cut).tolist(), start, T, names,
                               found.classes[found.predicted[span[0] + start]])
             for start in range(len(span) - T + 1)]
    size = np.max([step.shape for step in steps], 0)
    labels.clip_gif(path, (labels.fit_frame(step, size[1], size[0]) for step in steps), 1.25, 900)


def write_gif(path, movie):
    """The labelled movie (an .mp4) as a GIF."""
    with Video(movie) as film:
        labels.clip_gif(path, _frames(film), film.info.fps, 480)


def _frames(film):
    while film.grab():
        yield film.frame()


def write_movie(path, data, source, found):
    """The first movie, each frame labelled with the window that ends with it.

    data: the folder of sampled clips. source: the Clip behind every test video of the Study `found`.
    """
    T, first = found.length, found.movies.movie == 0
    video, frame = found.movies.video[first], found.movies.frame[first]
    whole = found.windows.movie == 0
    truth, predicted = (np.concatenate([np.full(T - 1, -1), values[whole]])
                        for values in (found.windows.majority, found.predicted))
    p = np.concatenate([np.zeros((T - 1, found.p.shape[1])), found.p[whole]])
    pictures = (source_frames(data, source[v].video, [source[v].frames[f]])[0]
                for v, f in zip(video, frame, strict=True))
    labels.mixed_movie(path, pictures, truth, predicted, p, found.classes,
                       Rate.of(sampling_settings(data)).per_second, found.labels[video])
