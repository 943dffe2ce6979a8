"""Labels films, cameras and streams: a film's frames are drawn as soon as their windows are known."""
import contextlib
import math
import re
import time
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrcn.base import UserError, cli, files
from lrcn.base.workers import ahead
from lrcn.drawing import labels
from lrcn.video.reader import EXTENSIONS, Video, VideoError, probe
from lrcn.watching import live, outputs
from lrcn.watching.history import History
from lrcn.watching.recogniser import Recogniser

LIVE_STRIP = 60     # seconds on the timeline of a live source


def find_films(path, advice="give a film or a folder of films"):
    """{path below the folder, with slashes: Path} of all videos in it but hidden ones, or {name: Path} of one
    film. path: --video_path; UserError: there is none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return {folder.name: cli.file("video_path", path, advice)}
    there = sorted(p for root, _, names in files.walk(folder, "video_path") for name in names
                   if (p := Path(root, name)).suffix.lower() in EXTENSIONS and p.is_file())
    if not there:
        raise UserError(f"--video_path {folder}: no video in this folder ({' '.join(EXTENSIONS[:6])} and "
                        f"others)")
    return {p.relative_to(folder).as_posix(): p for p in there}


def unique_names(paths):
    """The names of files without endings; with folder and ending where two would be the same."""
    paths = [Path(path) for path in paths]
    stems = [p.stem.lower() for p in paths]
    return [files.shortened(p.stem if stems.count(p.stem.lower()) == 1 else
                            "_".join(p.parts).replace(".", "_")) for p in paths]


# segments: [(start, end, label, probability)]; seconds: how far it was seen; times: of sampled frames
Done = namedtuple("Done", "sentence segments seconds times")


@dataclass
class Labeller:
    """Labels films and live sources. choices: the flags min_probability, min_segment, video, gif, time_limit
    and display of test_on_video.py. stop: a signals.Stop; progress: like cli.progress."""
    recogniser: Recogniser
    choices: object
    stop: object
    progress: Callable = cli.progress

    def film(self, path, name, folder, truth=None):
        """Write a film's outputs; Done. truth: [(start, end, class)] or None. VideoError: unreadable."""
        info, begin = probe(path), time.monotonic()
        if any(Path(path).resolve() == (folder / output).resolve() for output in outputs.OUTPUTS):
            raise UserError(f"--video_path {path}: this file would be overwritten; choose an --output_dir")
        history = History(self.recogniser.length)
        with outputs.opened(folder, name, self.recogniser, self.choices, info.fps, sound=path) as out, \
                self.progress(total=info.frames or None, unit="frame", desc=name[:24], dynamic_ncols=True,
                              mininterval=0.3) as bar:
            known = self._watch(path, history, out, bar, info)
            history = history.cut(known)
            segments = out.summarise(history, truth)
        took = time.monotonic() - begin
        sentence = (f"{name}: {history.end:.1f} s, {len(history.times)} {self.recogniser.unit} "
                    f"encoded, {known} windows, {len(segments)} segments, in {took:.1f} s "
                    f"({history.end / took:.1f} times real time)")
        return Done(sentence, segments, history.end, history.times)

    def _watch(self, path, history, out, bar, info):
        """Fill the history, the table and the film; how many windows are known."""
        choices, names, known = self.choices, self.recogniser.names, 0
        half = self.recogniser.rate.spacing(info.fps) / info.fps / 2 * self.recogniser.chunk[1]
        total, drawing = max(1, info.frames), choices.video or choices.gif

        def moments(steps):
            """(number, seconds until which it is shown) of every moment, when its windows are known."""
            nonlocal known
            for newest in steps:
                out.catch_up(history, newest)
                yield from ((moment, history.times[moment] + half) for moment in range(known, newest))
                known = newest
                if self.stop.signal:
                    return
            last = known + history.length - 2
            yield from ((moment, history.times[moment] + half) for moment in range(known, last))
            yield last, math.inf

        with contextlib.ExitStack() as stack:
            steps = ahead(self.recogniser.watch(path, history), 2, choices.time_limit, VideoError)
            stack.callback(steps.close)
            if drawing:
                frames = ahead(every_frame(path), 4, choices.time_limit, VideoError)
                stack.callback(frames.close)
                frame = next(frames, None)
            for moment, until in moments(steps):
                if not drawing:
                    history.seen.clear()
                    seen = round(history.times[moment] * info.fps) if until < math.inf else info.frames
                    bar.update(max(seen, bar.n) - bar.n)
                    continue
                probabilities, beside = history.at(moment), history.beside(moment, names)
                color = out.color(probabilities)
                while frame and frame[0] < until and not self.stop.signal:
                    progress = out.frames / total
                    labels.paint_timeline(out.strip, progress, progress + 1 / total, color)
                    out.draw(frame[1], probabilities, progress, seconds=frame[0], beside=beside)
                    frame = next(frames, None)
                    bar.update()
        return known

    def live(self, address, name, folder):
        """Record and show a live source until it ends, or Esc, q or Ctrl-C; a sentence about it."""
        shown, recogniser = re.sub(r"//[^/@]*@", "//", address), self.recogniser    # without its password
        try:
            source = live.Source(address, recogniser.rate, recogniser)
        except VideoError as error:
            raise UserError(f"--video_path {shown}: {error}; is it there, and does no other program use "
                            f"it?") from None
        display = live.has_display() if self.choices.display is None else self.choices.display
        window = live.Window() if display else None
        history = History(recogniser.length)
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(outputs.opened(folder, name, recogniser, self.choices, source.fps))
            if window:
                stack.callback(window.close)
            stack.enter_context(source)
            classifier = stack.enter_context(live.Classifier(recogniser, history, source))
            bar = stack.enter_context(self.progress(unit="frame", desc=name[:24], dynamic_ncols=True,
                                                    mininterval=1))
            seconds, count = self._show(source, classifier, out, window, bar)
            source.end()
            classifier.join(timeout=10)
            out.catch_up(history, classifier.known)
            for thread in (source, classifier):
                if thread.error:
                    raise thread.error
            if not classifier.known:
                raise UserError(f"--video_path {shown}: it ended after {source.sampled} sampled "
                                f"{recogniser.unit}, before a window of {recogniser.length} was full")
            out.summarise(history.cut(classifier.known))
        return (f"{name}: {seconds:.1f} s, {out.frames} frames written, "
                f"{count / max(seconds, 1e-3):.1f} frames a second shown, {len(history.times)} classified, "
                f"{classifier.skipped} skipped, "
                f"mean delay {classifier.delays / max(1, len(history.times)):.2f} s")

    def _show(self, source, classifier, out, window, bar):
        """Draw the newest frames with the newest labels; (seconds of the last frame, how many frames). The
        recording follows the clock: a frame is in it for as long as it was the newest one."""
        frame, columns, count, history = None, 0, 0, classifier.history
        names, none = self.recogniser.names, np.zeros(0, np.float32)
        while not (self.stop.signal or (window and window.closed)):
            newer = source.newer_than(frame.index if frame else -1)
            if newer is None:
                if source.ended:
                    break
                continue
            frame, known = newer, classifier.known
            out.catch_up(history, known)
            probabilities = history.windows[known - 1] if known else none
            alone = history.alone[known - 1] if known else [none] * len(names)
            passed = int(frame.seconds * len(out.strip) / LIVE_STRIP)
            new = min(passed - columns, len(out.strip))
            if new > 0:     # the timeline moves to the left
                out.strip = np.roll(out.strip, -new, axis=0)
                out.strip[-new:] = out.color(probabilities)
            columns = passed
            beside = [(stream, own, None) for stream, own in zip(names, alone, strict=True)]
            times = max(0, round(frame.seconds * source.fps) + 1 - out.frames)
            picture = out.draw(frame.image, probabilities, 1, times, beside=beside)
            if window:
                window.show(picture)
            bar.set_postfix_str(f"delay {classifier.delay:.2f} s, {classifier.skipped} of {source.sampled} "
                                f"sampled {self.recogniser.unit} skipped", refresh=False)
            bar.update()
            count += 1
        return frame.seconds if frame else 0.0, count


def every_frame(path):
    """(seconds, frame) of every frame of a video file."""
    with Video(path) as source:
        while source.grab():
            yield source.time, source.frame()
