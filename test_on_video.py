"""Label any video with a trained model: a file, a folder of files, a camera or a stream.

    python test_on_video.py --model_dir 20261121-110128 --video_path holiday.mp4
    python test_on_video.py --model_dir 20261121-110128 --video_path my_videos --no-video
    python test_on_video.py --model_dir 20261121-110128 --video_path 0            (camera 0)
    python test_on_video.py --model_dir 20261121-110128 --video_path rtsp://host/stream

The video is sampled in time as the training clips were, a window slides over it by one sampled
frame, and every frame is encoded once. Leaves <model_dir>/test_on_video/<name>/ with

    predictions.csv   start and end of every window in seconds, its five leading labels
    segments.csv      start,end,label,probability: runs of one label, after smoothing
    labelled.mp4      the video with its labels: same size (odd sides one pixel longer), frame rate
                      and number of frames, no sound
    timeline.png      probability of the leading classes over time
    labelled.gif      with --gif, the whole video in ten seconds at most

and prints that folder as the last line. Smoothing: a moment's probabilities are the mean of all
windows that contain it, as in the bars of labelled.mp4; a moment whose best label has less than
--min_probability is "unsure"; runs shorter than --min_segment join a neighbour. The network knows
its own classes only, and what is none of them may still look like one. Ctrl-C keeps the tables and
a playable video of what was done.
"""
import contextlib
import math
import re
import signal
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

import utils
from lrcn.base import cli
from lrcn.base.cli import UserError
from lrcn.base.ranks import Stop
from lrcn.clips.manifest import sampling_settings
from lrcn.drawing import labels
from lrcn.video.reader import EXTENSIONS, Video, VideoError, probe
from lrcn.video.sampling import Rate
from lrcn.watching import live, outputs
from lrcn.watching.sliding import History, Slider, ahead, analyse

LIVE_STRIP = 60     # seconds on the timeline of a live source


def make_parser():
    parser = cli.Parser(__doc__)
    utils.add_model_flags(parser)
    add, switch = parser.add_argument, parser.add_boolean
    add("--video_path", required=True, metavar="X",
        help="a file, a folder of files, a camera's number, or a stream's address")
    add("--output_dir", metavar="DIR", help="where <name>/ is made (default: <model_dir>/test_on_video)")
    add("--min_probability", type=cli.number(float, low=0, high=1), default=0.4,
        help="a best label under this is drawn as unsure")
    add("--min_segment", type=cli.number(float, low=0), default=1.0,
        help="seconds; a shorter run of one label joins a neighbour in segments.csv")
    switch("--video", default=True, help="write labelled.mp4; --no-video: the tables and the picture only")
    switch("--gif", default=False, help="write labelled.gif too")
    switch("--display", default=None,
           help="show a camera or stream in a window while it is labelled (default: if there is one)")
    return parser


# ---------------------------------------------------------------- sources

def find_sources(text):
    """[(source, output name)]: one, or all videos below a folder."""
    path = Path(text).expanduser()
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file()
                       and not any(part.startswith(".") for part in p.relative_to(path).parts))
        if not found:
            raise UserError(f"--video_path {text}: no video in this folder ({' '.join(EXTENSIONS)})")
        return list(zip(found, unique_names([p.relative_to(path) for p in found]), strict=True))
    if not path.exists() and live.is_live(text):
        stamp = time.strftime("%Y%m%d-%H%M%S")    # the next recording does not replace this one
        return [(text, f"{live_name(text)}_{stamp}")]
    return [(cli.file("video_path", text, "give a video file, a folder, a camera's number or an address"),
             path.stem)]


def unique_names(paths):
    """The files' names without their endings; with folder and ending where two would be the same."""
    stems = [p.stem.lower() for p in paths]
    return [p.stem if stems.count(p.stem.lower()) == 1 else "_".join(p.parts).replace(".", "_")
            for p in paths]


def live_name(source):
    """A folder's name for a camera or an address, without the address's password."""
    if "://" not in source:
        return f"camera_{source}"
    address = urlsplit(source)
    return re.sub(r"\W+", "_", f"{address.hostname}{address.path}").strip("_")[:80] or "stream"


def sampled_at(trained):
    """The Rate of the training clips."""
    saved = trained.settings
    if not saved.get("sampling_rate"):  # a run of before they were kept with it
        try:
            saved = sampling_settings(saved.get("sampled_data_path") or "")
        except UserError:
            print("warning: how the training clips were sampled is not known; 2.5 frames a second are "
                  "taken", file=sys.stderr)
            saved = {}
    return Rate.of(saved)


# ---------------------------------------------------------------- a file

def every_frame(path):
    """(seconds, frame) of every frame of a video file."""
    with Video(path) as source:
        while source.grab():
            yield source.time, source.frame()


class Labelling:
    """The frames of a file, drawn as soon as the windows around them are known."""

    def __init__(self, path, painter, total, bar, stop):
        self.frames = ahead(every_frame(path), 4)
        self.painter, self.total, self.bar, self.stop = painter, total, bar, stop
        self.next = next(self.frames, None)

    def until(self, seconds, shares):
        """Draw the frames before `seconds` with these probabilities."""
        painter, color = self.painter, self.painter.color(shares)
        while self.next and self.next[0] < seconds and not self.stop.signal:
            progress = painter.frames / max(1, self.total)
            labels.paint_timeline(painter.strip, progress, progress + 1 / max(1, self.total), color)
            painter.draw(self.next[1], shares, progress)
            self.next = next(self.frames, None)
            self.bar.update()


def label_file(path, name, folder, slider, trained, args, stop):
    """All outputs of one file; (sentence that says what was done, seconds that were seen)."""
    rate = sampled_at(trained)
    info, begin = probe(path), time.monotonic()
    if any(path.resolve() == (folder / output).resolve() for output in outputs.OUTPUTS):
        raise UserError(f"--video_path {path}: this file would be overwritten; choose an --output_dir")
    half = rate.spacing(info.fps) / info.fps / 2
    history, known, drawn = History(slider.length), 0, 0
    with contextlib.ExitStack() as stack:
        table, painter = stack.enter_context(outputs.outputs(folder, trained.classes, info.fps, args))
        bar = stack.enter_context(tqdm(total=info.frames or None, unit="frame", desc=name[:24],
                                       dynamic_ncols=True, mininterval=0.3))
        steps = ahead(analyse(path, slider, history, rate), 2)
        stack.callback(steps.close)
        labelling = None
        if args.video or args.gif:
            labelling = Labelling(path, painter, info.frames, bar, stop)
            stack.callback(labelling.frames.close)
        for known in steps:
            table.catch_up(history, known)
            for f in range(drawn, known if labelling else 0):
                labelling.until(history.times[f] + half, history.at(f))
            drawn = known
            if not labelling:
                bar.update(round(history.times[known - 1] * info.fps) - bar.n)
            if stop.signal:
                break
        if not known:
            raise KeyboardInterrupt("nothing was done yet")
        for f in range(known, known + slider.length - 1) if labelling else ():
            labelling.until(history.times[f] + half, history.at(f))
        if labelling and not stop.signal:
            labelling.until(math.inf, history.at(known + slider.length - 2))
        if not labelling and not stop.signal:
            bar.update((info.frames or bar.n) - bar.n)
    history = history.cut(known)
    segments = outputs.summarise(folder, name, history, trained.classes, args, rate)
    seen = history.end
    took = time.monotonic() - begin
    return (f"{name}: {seen:.1f} s, {slider.encoded} frames encoded, {known} windows, {segments} segments, "
            f"in {took:.1f} s ({seen / took:.1f} times real time)"), seen


def label_files(sources, root, slider, trained, args, stop):
    """Label file after file; how many failed. A bad one is said and the rest go on."""
    failed = 0
    for path, name in sources:
        folder = root / name
        try:
            sentence, seen = label_file(path, name, folder, slider, trained, args, stop)
        except VideoError as error:
            if len(sources) == 1:
                raise UserError(f"--video_path {path}: cannot read this video ({error}); try another, or "
                                f"convert it") from None
            print(f"cannot read {path}: {error}", file=sys.stderr)
            failed += 1
            continue
        cli.say(sentence)
        if stop.signal:
            cli.say(folder)
            kind = KeyboardInterrupt if stop.signal == signal.SIGINT else cli.Terminated
            raise kind(f"the first {seen:.1f} s of {name} are in {folder}")
    if failed:
        print(f"{failed} of {len(sources)} videos could not be read", file=sys.stderr)
    return failed


# ---------------------------------------------------------------- a camera or stream

def label_live(address, name, folder, slider, trained, args, stop):
    """Record and show a live source until it ends, Esc, q or Ctrl-C; a sentence about it."""
    rate = sampled_at(trained)
    shown = re.sub(r"//[^/@]*@", "//", address)     # a password is nobody's business
    try:
        source = live.Source(address, rate)
    except VideoError as error:
        raise UserError(f"--video_path {shown}: {error}; is it there, and does no other program use "
                        f"it?") from None
    window = live.Window() if args.display or (args.display is None and live.has_display()) else None
    history = History(slider.length)
    with contextlib.ExitStack() as stack:
        table, painter = stack.enter_context(outputs.outputs(folder, trained.classes, source.fps, args))
        if window:
            stack.callback(window.close)
        stack.enter_context(source)
        classifier = stack.enter_context(live.Classifier(slider, history, source))
        bar = stack.enter_context(tqdm(unit="frame", desc=name[:24], dynamic_ncols=True, mininterval=1))
        frame = show_live(source, classifier, table, painter, window, bar, stop)
        source.end()
        classifier.finish()
        table.catch_up(history, classifier.known)
        for thread in (source, classifier):
            if thread.error:
                raise thread.error
        if not classifier.known:
            raise UserError(f"--video_path {shown}: it ended after {source.sampled} sampled frames, before "
                            f"a window of {slider.length} was full")
    outputs.summarise(folder, name, history.cut(classifier.known), trained.classes, args,
                           rate)
    return (f"{name}: {frame.seconds:.1f} s, {painter.frames} frames written, "
            f"{bar.n / max(frame.seconds, 1e-3):.1f} frames a second shown, {slider.encoded} classified, "
            f"{classifier.skipped} skipped, mean delay {classifier.mean_delay:.2f} s")


def show_live(source, classifier, table, painter, window, bar, stop):
    """Draw the newest frame with the newest labels, again and again; returns the last frame.

    The recording follows the clock: a frame stands in it for as long as it was the newest one.
    """
    frame, columns = None, 0
    while not (stop.signal or (window and window.closed)):
        newer = source.newer_than(frame.index if frame else -1)
        if newer is None:
            if source.ended:
                break
            continue
        frame = newer
        known = classifier.known
        table.catch_up(classifier.history, known)
        shares = classifier.history.windows[known - 1] if known else np.zeros(0, np.float32)
        columns = roll(painter, columns, frame.seconds, shares)
        times = max(0, round(frame.seconds * source.fps) + 1 - painter.frames)
        picture = painter.draw(frame.image, shares, 1, times)
        if window:
            window.show(picture)
        bar.set_postfix_str(f"delay {classifier.delay:.2f} s, {classifier.skipped} of {source.sampled} "
                            f"sampled frames skipped", refresh=False)
        bar.update()
    return frame


def roll(painter, before, seconds, shares):
    """Move the timeline to the left as time goes by; returns how many columns have gone by."""
    columns = int(seconds * len(painter.strip) / LIVE_STRIP)
    new = min(columns - before, len(painter.strip))
    if new > 0:
        painter.strip = np.roll(painter.strip, -new, axis=0)
        painter.strip[-new:] = painter.color(shares)
    return columns


# ---------------------------------------------------------------- main

def main():
    args = make_parser().parse_args()
    sources = find_sources(args.video_path)
    device = utils.choose_device(args.device)
    trained = utils.load_trained(args.model_dir, args.model_name, device)
    root = Path(args.output_dir).expanduser() if args.output_dir else trained.folder / "test_on_video"
    slider = Slider(trained, device, args.encoder_backend or trained.recipe.encoder_backend,
                    args.encoder_precision or trained.recipe.encoder_precision)
    failed = 0
    with Stop() as stop:
        if isinstance(sources[0][0], str):
            source, name = sources[0]
            cli.say(label_live(source, name, root / name, slider, trained, args, stop))
        else:
            failed = label_files(sources, root, slider, trained, args, stop)
    cli.say(root / sources[0][1] if len(sources) == 1 else root)
    return 1 if failed else 0


if __name__ == "__main__":
    cli.run(main)
