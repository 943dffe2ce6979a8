"""A camera or stream as it comes: the newest frame is shown, the newest moment (a sampled frame or a chunk of
them) is classified. There is no queue: one thread reads every frame and keeps the newest one, another takes
the newest moment when it has finished the one before, and counts those that it skips.
"""
import contextlib
import math
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import numpy as np

from lrcn.base import Lazy, cli
from lrcn.video.flow import fields_of
from lrcn.video.reader import AHEAD, VideoError
from lrcn.watching.recogniser import Chunks

cv2 = Lazy("cv2")

PAGES = re.compile(r"(^|\.)(youtube(-nocookie)?\.com|youtu\.be|vimeo\.com|twitch\.tv|bilibili\.com)$")
FILES = ("http", "https", "ftp", "file")    # schemes of films, more often than of cameras
PATIENCE = (1, 2, 4)    # seconds before each attempt to open a dropped stream again
TITLE = "test_on_video (Esc or q ends)"


@dataclass
class Frame:
    index: int
    seconds: float      # since the first frame
    taken: float        # time.monotonic() when it was read
    image: np.ndarray | None    # uint8 (H, W, 3) RGB
    before: np.ndarray | None = None            # the image before it
    behind: list = field(default_factory=list)  # of a sampled frame: the images behind it for its flow
    crop: list | None = None    # of a frame in a chunk: Recogniser.crop of it, instead of the image


class _Thread(threading.Thread):
    """A loop in a thread of its own, until the end of a with block; `changed`: a condition to wait for."""

    def __init__(self):
        super().__init__(daemon=True)
        self.changed, self.ended, self.error = threading.Condition(), False, None

    def run(self):
        try:
            self.loop()
        except Exception as error:
            self.error = error
        finally:
            self.end()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.end()
        self.join(timeout=5)    # a camera that hangs is left to hang

    def end(self):
        """Ask the loop to end, and wake those who wait."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()


def open_live(source):
    """cv2.VideoCapture of a camera's number or a stream's address; VideoError: there is none."""
    if "://" in source:
        if PAGES.search(urlsplit(source).hostname or ""):
            raise VideoError("this is the address of a page, not of a stream; give the stream's own, which "
                             "yt-dlp -g prints, or download the film")
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG)
    else:
        capture = cv2.VideoCapture(int(source))
    if not capture.isOpened():
        raise VideoError("no such camera" if source.isdigit() else "the stream cannot be opened")
    return capture


class Source(_Thread):
    """Reads a camera, by its number, or a stream, by its address. VideoError: there is none. `due`: the
    newest moment, a list of sampled frames, with the frames for its optical flow.
    A frame's time is the clock's; a file at an address (or HLS, which comes in bursts) is played by its time
    stamps. A live stream may give no length, as some films do, but has other pictures when it is reopened."""

    def __init__(self, source, rate, recogniser=None):
        super().__init__()
        self.source, self.recogniser = source, recogniser
        self.chunks = Chunks(*recogniser.chunk) if recogniser else Chunks(1, 1)
        self.behind = recogniser.flow.length if recogniser and recogniser.flow else 0
        self.open = []      # moments that wait for frames behind them
        self.capture = open_live(source)
        fps = self.capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 1 <= fps <= 240 else 25.0
        self.beat = rate.beat(self.fps)
        self.beat.constant = False      # a live source drops frames: only the time counts
        address, bursts = "://" in source, ".m3u8" in source
        length = self.capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
        pictures = self.capture.get(cv2.CAP_PROP_FOURCC) == cv2.VideoWriter.fourcc(*"MJPG")
        film = urlsplit(source).scheme in FILES and not pictures   # whose head may tell none
        self.paced, self.may_drop = address and (length or bursts or film), address and not length
        self.limit = math.inf if length else AHEAD
        self.may_be_film, self.opening = film and not bursts, None     # opening: the first picture
        self.newest = self.due = None
        self.sampled = 0        # moments so far

    def loop(self):
        index, begin, first, before, last = 0, None, 0.0, None, 0.0
        try:
            while not self.ended and (self.capture.grab() or self.opened_again()):
                stamp = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if begin is None:
                    begin, first = time.monotonic(), stamp
                elif not last < stamp <= last + self.limit:     # they start over, stand still or jump
                    first += stamp - last - 1 / self.fps
                last, seconds = stamp, time.monotonic() - begin
                if self.paced:
                    time.sleep(min(max(0.0, stamp - first - seconds), 1.0))
                    seconds = stamp - first
                ok, image = self.capture.retrieve()
                if ok:
                    self.opening = image if self.opening is None else self.opening
                    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                    self.take(Frame(index, seconds, time.monotonic(), image, before))
                    index, before = index + 1, image if self.behind else None
        finally:
            with self.changed:
                self.due = self.open[-1] if self.open else self.due
            self.capture.release()

    def opened_again(self):
        """Whether a stream that dropped gives frames again, and is not a film that starts again."""
        if not self.may_drop:
            return False
        for number, seconds in enumerate(PATIENCE, 1):
            cli.warn(f"the stream dropped or ended; opened again in {seconds} s ({number} of "
                     f"{len(PATIENCE)})")
            with self.changed:
                if self.changed.wait_for(lambda: self.ended, seconds):
                    return False
            self.capture.release()
            with contextlib.suppress(VideoError):
                self.capture = open_live(self.source)
                if self.capture.grab():
                    film = self.may_be_film and np.array_equal(self.capture.retrieve()[1], self.opening)
                    if film:
                        cli.warn("it starts again from the beginning: it is a film that had ended")
                    return not film
        cli.warn("the stream did not come back: it counts as ended")
        return False

    def take(self, frame):
        """Keep the newest frame; a moment is due when the frames behind it have come."""
        sampled = frame if self.beat.keep(frame.seconds) else None
        if sampled and self.chunks.size > 1:    # many are kept, so in the encoder's size
            sampled = replace(frame, image=None, crop=self.recogniser.crop(frame.image))
        with self.changed:
            self.newest = frame
            for moment in self.open:
                moment[-1].behind.append(frame.image)
            if sampled and (moment := self.chunks.push(sampled)):
                self.open.append(moment)
                self.sampled += 1
            while self.open and len(self.open[0][-1].behind) == self.behind:
                self.due = self.open.pop(0)
            self.changed.notify_all()

    def newer_than(self, index, timeout=0.1):
        """The newest frame after number `index`, or None if none comes within `timeout` seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.ended or self.newest and self.newest.index > index, timeout)
            return self.newest if self.newest and self.newest.index > index else None


class Classifier(_Thread):
    """Classifies moments of a Source, as many as it can, into a History."""

    def __init__(self, recogniser, history, source):
        super().__init__()
        self.recogniser, self.history, self.source = recogniser, history, source
        self.known, self.delays = 0, 0.0
        self.delay = float("nan")       # seconds from reading the newest classified moment to its label
        recogniser.restart()

    @property
    def skipped(self):
        """Count of moments that came while others were at work."""
        return self.source.sampled - len(self.history.times)

    def loop(self):
        source, flow = self.source, self.recogniser.flow
        while not self.ended:
            with source.changed:
                source.changed.wait_for(lambda: source.ended or source.due)
                moment, source.due = source.due, None
            if moment is None:
                return
            crops = [frame.crop or self.recogniser.crop(
                frame.image, flow and fields_of(frame.before, frame.image, frame.behind, flow))
                for frame in moment]
            answers = self.recogniser.answers([self.recogniser.moment(crops)])
            self.history.saw(moment[0].seconds, moment[-1].seconds)
            self.known = self.history.add(answers)
            self.delay = time.monotonic() - moment[-1].taken
            self.delays += self.delay


def has_display():
    """Whether OpenCV can open a window; tried in another process, which Qt ends without a display."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        return subprocess.run([sys.executable, "-c", "import cv2; cv2.namedWindow('x')"], timeout=20,
                              stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


class Window:
    """Shows frames until Esc, q or the user closes it (`closed`)."""

    def __init__(self):
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL)
        self.closed = self.shown = False

    def show(self, frame):
        cv2.imshow(TITLE, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1) & 0xFF
        gone = self.shown and cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1
        self.closed, self.shown = key in (27, ord("q")) or gone, True

    def close(self):
        cv2.destroyAllWindows()
