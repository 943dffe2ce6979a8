"""What test_on_video.py leaves of one video: its tables, its labelled video, its pictures. choices: of
films.Labeller."""
import contextlib
import csv
from collections import Counter

import numpy as np

from lrcn.base import Lazy, files
from lrcn.base.cli import printable
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
    """The Outputs of one film; they take their place in `folder` when all went well, and what an earlier run
    left and this one does not write stays. fps: of labelled.mp4; sound: a file whose sound it gets."""
    with files.replaced_folder(folder, own=("truth.json", "wrong.csv")) as new, \
            open(FilmFolder(new).predictions, "w", newline="", encoding="utf-8") as table:
        outputs = Outputs(FilmFolder(new), name, recogniser, choices, fps, sound, table)
        try:
            yield outputs
            if outputs.writer:
                outputs.writer.close()
            if outputs.gif:
                labels.clip_gif(outputs.film.gif, outputs.gif, GIF_FPS, GIF_WIDE)
        except BaseException:
            if outputs.writer:
                outputs.writer.close(keep=False)
            raise


class Outputs:
    """A film's table, as its windows come, and its labelled frames. table: predictions.csv, open."""

    def __init__(self, film, name, recogniser, choices, fps, sound, table):
        self.film, self.name, self.recogniser, self.choices = film, name, recogniser, choices
        self.fps, self.sound, self.classes = fps, sound, recogniser.shown
        self.colors, self.strip = style.class_colors(recogniser.classes), labels.empty_timeline()
        if recogniser.background is not None:
            self.colors[recogniser.background] = style.UNSURE
        self.least = recogniser.least(choices.min_probability)
        self.writer, self.size = None, None
        self.windows, self.frames = 0, 0    # that were written
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
        """Whether the best label is too improbable, or none is known yet."""
        return not len(p) or p.max() < self.least

    def color(self, p):
        return style.UNSURE if self.unsure(p) else self.colors[p.argmax()]

    def overlay(self, frame, p, progress):
        """The frame with the three leading labels and the timeline."""
        best = np.argsort(-p, kind="stable")[:3]
        return labels.draw_overlay(frame, [self.classes[i] for i in best], p[best], self.colors[best],
                                   self.strip, progress, self.unsure(p))

    def draw(self, frame, p, progress, times=1, seconds=None, beside=()):
        """Label a frame and write it `times` times, or once at its time; returns the picture. beside: of
        History.beside: bars of a fusion's streams, below."""
        frame = even_sides(frame)
        self.size = self.size or frame.shape[1::-1]
        if frame.shape[1::-1] != self.size:
            frame = labels.fit_frame(frame, *self.size)
        picture = self.overlay(frame, p, progress)
        if beside:
            panels = [*beside, ("fusion", p, None)]
            below = labels.stream_panels(frame, panels, self.classes, self.colors)
            picture = np.concatenate([picture, below])
        if self.choices.video and self.writer is None:
            self.writer = Writer(self.film.film, self.fps, *picture.shape[1::-1], self.sound)
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
        """Write segments.csv, segments.srt and timeline.png, and where the truth, [(start, end, class)], is
        known, truth.json and wrong.csv; the segments of Recogniser.segments."""
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
    """The segments as SubRip text, which players show under the film."""
    def clock(seconds):
        whole = round(seconds * 1000)
        return f"{whole // 3600000:02}:{whole // 60000 % 60:02}:{whole // 1000 % 60:02},{whole % 1000:03}"

    return "\n".join(f"{i}\n{clock(start)} --> {clock(end)}\n{label} {probability:.2f}\n"
                     for i, (start, end, label, probability) in enumerate(segments, 1))


def write_summary(path, films):
    """One row a film, most confident first. films: [(file, films.Done)]; label: what a film shows for the
    longest time, probability: the mean of its segments by length."""
    rows = []
    for file, done in films:
        spans = {}
        for start, end, label, probability in done.segments:
            length, total = spans.get(label, (0.0, 0.0))
            spans[label] = length + end - start, total + (end - start) * probability
        label, (length, total) = max(spans.items(), key=lambda item: item[1])
        rows.append((total / max(length, 1e-9), printable(file), label, length, done))
    files.write_csv(path, ["file", "label", "probability", "label_seconds", "seconds", "segments"],
                    [(file, label, f"{p:.4f}", f"{length:.3f}", f"{done.seconds:.3f}", len(done.segments))
                     for p, file, label, length, done in sorted(rows, key=lambda row: -row[0])])


def leading(classes, times, p, segments, most=6, points=1200):
    """(names, seconds, probabilities) of the classes to draw: those of long segments, then the most
    probable ones. A long video is averaged to `points` moments."""
    long = Counter()
    for start, end, label, _ in segments:
        long[label] += end - start
    order = sorted(range(len(classes)), key=lambda i: (-long[classes[i]], -p[:, i].mean()))[:most]
    starts = np.unique(np.linspace(0, len(times), min(points, len(times)), endpoint=False).astype(int))
    counts = np.diff([*starts, len(times)])
    return ([classes[i] for i in order], np.add.reduceat(np.array(times), starts) / counts,
            np.add.reduceat(p[:, order], starts) / counts[:, None])
