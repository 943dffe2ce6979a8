"""One film labelled from its first frame to its last: analysed ahead, drawn as its windows are known.

    done = label_film("film.mp4", "film", folder, slider, classes, rate, choices, stop)
    print(done.sentence)

choices: min_probability, min_segment (seconds), video, gif (whether to write them), time_limit
(seconds that the decoder may take for a step), as the flags of test_on_video.py say.
"""
import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path

from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.base.workers import Lost, ahead
from lrcn.drawing import labels
from lrcn.video.reader import EXTENSIONS, Video, VideoError, probe
from lrcn.watching import outputs
from lrcn.watching.sliding import History, analyse


@dataclass(frozen=True)
class Done:
    """What was done of a film. segments: [(start, end, label, probability)]; seconds: how far it was seen;
    times: of its sampled frames."""
    sentence: str
    segments: list
    seconds: float
    times: list


def every_frame(path):
    """(seconds, frame) of every frame of a video file."""
    with Video(path) as source:
        while source.grab():
            yield source.time, source.frame()


class Labelling:
    """The frames of a file, drawn as soon as the windows around them are known."""

    def __init__(self, path, painter, total, bar, stop, limit):
        self.frames = ahead(every_frame(path), 4, limit)
        self.painter, self.total, self.bar, self.stop = painter, max(1, total), bar, stop
        self.next = next(self.frames, None)

    def until(self, seconds, shares, beside):
        """Draw the frames before `seconds` with these probabilities, and those of the streams of a fusion."""
        painter, color = self.painter, self.painter.color(shares)
        while self.next and self.next[0] < seconds and not self.stop.signal:
            progress = painter.frames / self.total
            labels.paint_timeline(painter.strip, progress, progress + 1 / self.total, color)
            painter.draw(self.next[1], shares, progress, seconds=self.next[0], beside=beside)
            self.next = next(self.frames, None)
            self.bar.update()

    def close(self):
        self.frames.close()


def find_films(folder, flag="video_path"):
    """{path below the folder, with slashes: Path} of all videos in it, hidden ones passed over; UserError
    where there is none."""
    folder = Path(folder)
    found = sorted(p for root, _, names in files.walk(folder, flag) for name in names
                   if (p := Path(root, name)).suffix.lower() in EXTENSIONS and p.is_file())
    if not found:
        raise UserError(f"--{flag} {folder}: no video in this folder ({' '.join(EXTENSIONS[:6])} and others)")
    return {p.relative_to(folder).as_posix(): p for p in found}


def unique_names(paths):
    """The names, without endings, of files below a folder; with folder and ending where two would be the
    same."""
    paths = [Path(path) for path in paths]
    stems = [p.stem.lower() for p in paths]
    names = [p.stem if stems.count(p.stem.lower()) == 1 else "_".join(p.parts).replace(".", "_")
             for p in paths]
    return [files.shortened(name) for name in names]


def label_film(path, name, folder, slider, classes, rate, choices, stop, truth=None,
               progress=cli.progress):
    """All outputs of one film in `folder`; Done. VideoError: it cannot be read.

    stop: a ranks.Stop; a film that is stopped is labelled as far as it was seen. truth: [(start, end,
    class)] of it, where that is known. progress: what shows how far it is, called as cli.progress is.
    """
    info, begin = probe(path), time.monotonic()
    if any(Path(path).resolve() == (folder / output).resolve() for output in outputs.OUTPUTS):
        raise UserError(f"--video_path {path}: this file would be overwritten; choose an --output_dir")
    history = History(slider.length)
    with outputs.outputs(folder, classes, info.fps, choices, sound=path) as (new, table, painter), \
            progress(total=info.frames or None, unit="frame", desc=name[:24], dynamic_ncols=True,
                     mininterval=0.3) as bar:
        try:
            known = _draw(path, slider, history, rate, choices, stop, table, painter, bar, info)
        except Lost as error:
            raise VideoError(str(error)) from None
        history = history.cut(known)
        segments = outputs.summarise(new, name, history, classes, choices, rate, truth)
    took = time.monotonic() - begin
    words = (f"{name}: {history.end:.1f} s, {slider.encoded} frames encoded, {known} windows, "
             f"{len(segments)} segments, in {took:.1f} s ({history.end / took:.1f} times real time)")
    return Done(words, segments, history.end, history.times)


def _draw(path, slider, history, rate, choices, stop, table, painter, bar, info):
    """Fill the history, the table and the film; how many windows are known."""
    half = rate.spacing(info.fps) / info.fps / 2
    known = drawn = 0
    with contextlib.ExitStack() as stack:
        steps = ahead(analyse(path, slider, history, rate), 2, choices.time_limit)
        stack.callback(steps.close)
        film = None
        if choices.video or choices.gif:
            film = stack.enter_context(contextlib.closing(
                Labelling(path, painter, info.frames, bar, stop, choices.time_limit)))
        for known in steps:
            table.catch_up(history, known)
            for f in range(drawn, known if film else 0):
                film.until(history.times[f] + half, history.at(f), history.beside(f, slider.names))
            drawn = known
            if not film:
                history.seen.clear()
                bar.update(round(history.times[known - 1] * info.fps) - bar.n)
            if stop.signal:
                break
        if not known:
            raise KeyboardInterrupt("nothing was done yet")
        for f in range(known, known + slider.length - 1) if film else ():
            film.until(history.times[f] + half, history.at(f), history.beside(f, slider.names))
        if film and not stop.signal:
            last = known + slider.length - 2
            film.until(math.inf, history.at(last), history.beside(last, slider.names))
        if not film and not stop.signal:
            bar.update((info.frames or bar.n) - bar.n)
    return known
