"""A camera or stream recorded and shown with its labels, as it comes.

    sentence = label_live("0", "camera_0", folder, slider, classes, rate, choices, stop)
"""
import contextlib
import re

import numpy as np

from lrcn.base import cli
from lrcn.base.cli import UserError
from lrcn.video.reader import VideoError
from lrcn.watching import live, outputs
from lrcn.watching.sliding import History

LIVE_STRIP = 60     # seconds on the timeline of a live source


def label_live(address, name, folder, slider, classes, rate, choices, stop):
    """Record and show a live source until it ends, Esc, q or Ctrl-C; a sentence about it.

    choices: as for films.label_film, and display (whether to open a window; None: if there is one).
    """
    shown = re.sub(r"//[^/@]*@", "//", address)     # a password is nobody's business
    try:
        source = live.Source(address, rate, slider.flow.length if slider.flow else 0)
    except VideoError as error:
        raise UserError(f"--video_path {shown}: {error}; is it there, and does no other program use "
                        f"it?") from None
    window = live.Window() if choices.display or (choices.display is None and live.has_display()) else None
    history = History(slider.length)
    with contextlib.ExitStack() as stack:
        new, table, painter = stack.enter_context(outputs.outputs(folder, classes, source.fps, choices))
        if window:
            stack.callback(window.close)
        stack.enter_context(source)
        classifier = stack.enter_context(live.Classifier(slider, history, source))
        bar = stack.enter_context(cli.progress(unit="frame", desc=name[:24], dynamic_ncols=True,
                                               mininterval=1))
        frame, shown_frames = show_live(source, classifier, table, painter, window, bar, stop)
        source.end()
        classifier.finish()
        table.catch_up(history, classifier.known)
        for thread in (source, classifier):
            if thread.error:
                raise thread.error
        if not classifier.known:
            raise UserError(f"--video_path {shown}: it ended after {source.sampled} sampled frames, before "
                            f"a window of {slider.length} was full")
        outputs.summarise(new, name, history.cut(classifier.known), classes, choices, rate)
    return (f"{name}: {frame.seconds:.1f} s, {painter.frames} frames written, "
            f"{shown_frames / max(frame.seconds, 1e-3):.1f} frames a second shown, "
            f"{slider.encoded} classified, "
            f"{classifier.skipped} skipped, mean delay {classifier.mean_delay:.2f} s")


def show_live(source, classifier, table, painter, window, bar, stop):
    """Draw the newest frame with the newest labels, again and again; (the last frame, how many).

    The recording follows the clock: a frame stands in it for as long as it was the newest one.
    """
    frame, columns, count = None, 0, 0
    while not (stop.signal or (window and window.closed)):
        newer = source.newer_than(frame.index if frame else -1)
        if newer is None:
            if source.ended:
                break
            continue
        frame = newer
        known = classifier.known
        table.catch_up(classifier.history, known)
        shares, beside = latest(classifier, known)
        columns = roll(painter, columns, frame.seconds, shares)
        times = max(0, round(frame.seconds * source.fps) + 1 - painter.frames)
        picture = painter.draw(frame.image, shares, 1, times, beside=beside)
        if window:
            window.show(picture)
        bar.set_postfix_str(f"delay {classifier.delay:.2f} s, {classifier.skipped} of {source.sampled} "
                            f"sampled frames skipped", refresh=False)
        bar.update()
        count += 1
    return frame, count


def latest(classifier, known):
    """(probabilities, those of the streams of a fusion) of the newest window; of none before there is one."""
    history, names = classifier.history, classifier.slider.names
    if not known:
        none = np.zeros(0, np.float32)
        return none, [(name, none, None) for name in names]
    return history.windows[known - 1], [(name, said, None) for name, said in
                                        zip(names, history.alone[known - 1], strict=True)]


def roll(painter, before, seconds, shares):
    """Move the timeline to the left as time goes by; returns how many columns have gone by."""
    columns = int(seconds * len(painter.strip) / LIVE_STRIP)
    new = min(columns - before, len(painter.strip))
    if new > 0:
        painter.strip = np.roll(painter.strip, -new, axis=0)
        painter.strip[-new:] = painter.color(shares)
    return columns
