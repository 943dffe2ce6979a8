"""The tables, the labelled film and the pictures that test_on_video.py writes for one film."""
import contextlib
import csv
from collections import Counter

import numpy as np

from lrcn.base import Lazy, cli, files
from lrcn.drawing import labels, plots, style
from lrcn.runs import FilmFolder
from lrcn.video.writer import Writer, even_sides
from lrcn.watching import truth as truths

cv2 = Lazy("cv2")

OUTPUTS = ("predictions.csv", "segments.csv", "segments.srt", "labelled.mp4", "labelled.gif",
           "timeline.png", "truth.json", "wrong.csv")
GIF_FRAMES, GIF_FPS, GIF_WIDE = 100, 10, 320


@contextlib.contextmanager
def opened(folder, name, recogniser, choices, fps, sound=None):
    """The Outputs of one film, which become `folder` at the end; other files in it stay. choices: of
    films.Labeller; fps: of labelled.mp4; sound: a file whose sound it gets."""
    with files.replaced_folder(folder, own=("truth.json", "wrong.csv")) as new, \
            open(FilmFolder(new).predictions, "w", newline="", encoding="utf-8") as table, \
            contextlib.ExitStack() as stack:
        outputs = Outputs(FilmFolder(new), name, recogniser, choices, fps, sound, table, stack)
        yield outputs
        if outputs.gif:
            labels.clip_gif(outputs.film.gif, outputs.gif, GIF_FPS, GIF_WIDE)


class Outputs:
    """table: predictions.csv, open; stack: closes labelled.mp4."""

    def __init__(self, film, name, recogniser, choices, fps, sound, table, stack):
        self.film, self.name, self.recogniser, self.choices = film, name, recogniser, choices
        self.fps, self.sound, self.stack, self.classes = fps, sound, stack, recogniser.shown
        self.colors, self.strip = style.class_colors(recogniser.classes), labels.empty_timeline()
        if recogniser.background is not None:
            self.colors[recogniser.background] = style.UNSURE
        self.least = recogniser.least(choices.min_probability)
        self.writer, self.size = None, None
        self.windows, self.frames = 0, 0    # counts of those that were written
        self.gif, self.gif_every = [], max(1, round(fps / GIF_FPS))
        self.top, self.table = min(5, len(self.classes)), csv.writer(table, lineterminator="\n")
        self.table.writerow(["start", "end", *(f"{what}_{i}" for i in range(1, self.top + 1)
                                               for what in ("label", "probability"))])

    def catch_up(self, history, known):
        """Write the windows up to number `known` into predictions.csv."""
        for window in range(self.windows, known):
            p = history.windows[window]
            best = np.argsort(-p, kind="stable")[:self.top]
            span = history.spans[window][0], history.spans[window + history.length - 1][1]
            self.table.writerow([f"{t:.3f}" for t in span] + [
                cell for i in best for cell in (self.classes[i], f"{p[i]:.4f}")])
        self.windows = max(self.windows, known)

    def unsure(self, p):
        """Whether the best label is too improbable, or there is none yet."""
        return not len(p) or p.max() < self.least

    def color(self, p):
        return style.UNSURE if self.unsure(p) else self.colors[p.argmax()]

    def overlay(self, frame, p, progress):
        """The frame with the three leading labels and the timeline."""
        best = np.argsort(-p, kind="stable")[:3]
        return labels.draw_overlay(frame, [self.classes[i] for i in best], p[best], self.colors[best],
                                   self.strip, progress, self.unsure(p))

    def draw(self, frame, p, progress, times=1, seconds=None, beside=()):
        """Label a frame and write it `times` times, or once at its seconds. beside: of History.beside."""
        frame = even_sides(frame)
        self.size = self.size or frame.shape[1::-1]
        frame = labels.fit_frame(frame, *self.size)
        picture = self.overlay(frame, p, progress)
        if beside:
            panels = [*beside, ("fusion", p, None)]
            picture = np.concatenate([picture, labels.stream_panels(frame, panels, self.classes,
                                                                    self.colors)])
        if self.choices.video and self.writer is None:
            self.writer = self.stack.enter_context(
                Writer(self.film.film, self.fps, *picture.shape[1::-1], self.sound))
        for _ in range(times):
            if self.writer:
                self.writer.write(picture, seconds)
            if self.choices.gif and self.frames % self.gif_every == 0:
                scale = min(1, GIF_WIDE / frame.shape[1])
                size = [max(1, round(side * scale)) for side in frame.shape[1::-1]]
                small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
                self.gif.append(self.overlay(small, p, progress))
                if len(self.gif) > GIF_FRAMES:      # every second one is dropped again
                    self.gif, self.gif_every = self.gif[::2], 2 * self.gif_every
            self.frames += 1
        return picture

    def summarise(self, history, truth=None):
        """Write segments.csv, segments.srt and timeline.png, and with the truth, [(start, end, class)], also
        truth.json and wrong.csv; the segments of Recogniser.segments."""
        film, classes, least = self.film, self.classes, self.least
        segments = self.recogniser.segments(history, least, self.choices.min_segment)
        files.write_csv(film.segments, ["start", "end", "label", "probability"],
                        [(f"{a:.3f}", f"{b:.3f}", label, f"{p:.4f}") for a, b, label, p in segments])
        files.write_text(film.subtitles, subtitles(segments))
        if truth is not None:
            verdict = truths.Verdict(self.recogniser.known)
            verdict.add(truth, segments, history.times)
            truth = verdict.known(truth)
            files.write_json(film.truth, verdict.figures())
            files.write_csv(film.wrong, ["start", "end", "truth", "predicted"],
                            [(f"{a:.3f}", f"{b:.3f}", *labels_)
                             for a, b, *labels_ in truths.wrong_places(truth, segments, history.end)])
        names, seconds, lines = leading(classes, history.times, history.smoothed(), [*segments, *(
            (*row[:3], 1.0) for row in truth or ())])
        plots.probability_timeline(
            film.timeline, seconds, lines, names, segments, self.colors[[classes.index(c) for c in names]],
            n=len(history.windows),
            title=f"{style.short(self.name, 50)}: probability of the leading classes over time",
            note="A moment's probability is the mean over the windows that contain it. Below: the segments; "
                 f"\"unsure\" under {least:g}.", truth=truth)
        return segments


def subtitles(segments):
    """The segments as SubRip text."""
    def clock(seconds):
        whole = round(seconds * 1000)
        return f"{whole // 3600000:02}:{whole // 60000 % 60:02}:{whole // 1000 % 60:02},{whole % 1000:03}"

    return "\n".join(f"{i}\n{clock(start)} --> {clock(end)}\n{label} {probability:.2f}\n"
                     for i, (start, end, label, probability) in enumerate(segments, 1))


def write_summary(path, films):
    """One row a film, the most confident first. films: [(file, films.Done)]; label: of the longest time in
    the film; probability: the mean of its segments, weighted by length."""
    rows = []
    for file, done in films:
        lengths, totals = Counter(), Counter()
        for start, end, label, probability in done.segments:
            lengths[label] += end - start
            totals[label] += (end - start) * probability
        label, length = max(lengths.items(), key=lambda item: (item[1], totals[item[0]]))
        rows.append((totals[label] / max(length, 1e-9), cli.printable(file), label, length, done))
    files.write_csv(path, ["file", "label", "probability", "label_seconds", "seconds", "segments"],
                    [(file, label, f"{p:.4f}", f"{length:.3f}", f"{done.seconds:.3f}", len(done.segments))
                     for p, file, label, length, done in sorted(rows, key=lambda row: -row[0])])


def leading(classes, times, p, segments, most=6, points=1200):
    """(names, seconds, probabilities) of the classes to draw: those with the longest segments, then the most
    probable ones. A long film is averaged to `points` moments."""
    long = Counter()
    for start, end, label, _ in segments:
        long[label] += end - start
    order = sorted(range(len(classes)), key=lambda i: (-long[classes[i]], -p[:, i].mean()))[:most]
    starts = np.unique(np.linspace(0, len(times), min(points, len(times)), endpoint=False).astype(int))
    counts = np.diff([*starts, len(times)])
    return ([classes[i] for i in order], np.add.reduceat(np.array(times), starts) / counts,
            np.add.reduceat(p[:, order], starts) / counts[:, None])
