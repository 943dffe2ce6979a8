"""A video that lies on disk as pictures: a folder of numbered frames, read like a file.

A series is all pictures with one word before their number (img_00001.jpg, frame000001.jpg, out_1.png, 0.jpg),
in the order of their numbers. A folder's only series is its video, of an unknown frame rate; flow_x_ and
flow_y_ beside it are its optical flow. `<folder>/<word>*` is one of several series of a folder.
"""
import functools
import os
import re
from collections import defaultdict, namedtuple
from pathlib import Path

from lrcn.base.lazy import Lazy
from lrcn.video.reader import Video, VideoError, VideoInfo

cv2 = Lazy("cv2")

NUMBERED = re.compile(r"(.*?)(\d+)\.(?:jpe?g|png|webp|bmp)", re.IGNORECASE | re.DOTALL)
PICTURE = re.compile(r"[^.].*\.(?:jpe?g|png|webp|bmp)", re.IGNORECASE | re.DOTALL)
FLOW = re.compile(r"(.*flow[\W_]*|)([xyuv])([\W_]*)", re.DOTALL)     # the word of a series of flow
PLANES = {"x": "y", "u": "v"}


# {number: path} of pictures: frames, of a video; flow, (right, down); fault: why there are no frames, or ""
Series = namedtuple("Series", "frames flow fault")


def series(names, folder=""):
    """The Series of the files of a folder, by paths that begin with it."""
    numbered, twice, others = defaultdict(dict), [], 0
    for name in names:
        if not PICTURE.fullmatch(name):
            continue
        if match := NUMBERED.fullmatch(name):
            there = numbered[match[1].lower()].setdefault(int(match[2]), name)
            twice += [f"{there} and {name}"] * (there != name)
        else:
            others += 1
    words = {word: {number: os.path.join(folder, name) for number, name in sorted(found.items())}
             for word, found in numbered.items()}
    flow = next(((word, other) for word in words if (match := FLOW.fullmatch(word)) and match[2] in PLANES
                 and (other := f"{match[1]}{PLANES[match[2]]}{match[3]}") in words), ())
    frames = {word: found for word, found in words.items() if word not in flow
              and (len(words) == 1 or "flow" not in word or not FLOW.fullmatch(word))}
    long = {word: found for word, found in frames.items() if len(found) > 1} or frames
    others += sum(map(len, frames.values())) - sum(map(len, long.values()))
    fault = ""
    if twice:
        fault = f"two pictures have one number ({sorted(twice)[0]})"
    elif len(long) > 1:
        shown = [f"{os.path.basename(next(iter(long[word].values())))} (of {len(long[word])})"
                 for word in sorted(long)[:3]]
        fault = (f"several series of numbered pictures, {', '.join(shown)}: which is the video? Leave one of "
                 f"them")
    elif not long:
        fault = "optical flow alone, no frames" if words else "no numbered pictures in it"
    elif others >= len(*long.values()):
        fault = "as many pictures without a number as with one"
    flow = tuple(words[word] for word in flow) or ({}, {})
    return Series({} if fault else [*long.values()][0], flow, fault)


def holds_frames(path):
    """Whether a path is a folder, or one series of pictures in it."""
    return os.path.isdir(path) or os.fspath(path).endswith("*")


def series_at(path):
    """The Series of such a path."""
    if os.path.isdir(path):
        return series(os.listdir(path), path)
    folder, word = os.path.split(os.fspath(path)[:-1])
    return series(_words(folder, os.stat(folder).st_mtime_ns).get(word, ()), folder)


@functools.lru_cache(4)
def _words(folder, _modified):
    """{word: names of its numbered pictures} of a folder, listed again when it has changed."""
    words = defaultdict(list)
    for name in os.listdir(folder):
        if match := NUMBERED.fullmatch(name):
            words[match[1]].append(name)
    return words


def opened(path, fps):
    """The Video of a file, or the FrameFolder of a folder of `fps` pictures a second."""
    return FrameFolder(path, fps) if holds_frames(path) else Video(path)


class FrameFolder(Video):
    """Numbered pictures as a Video, with one of them in memory."""

    def __init__(self, path, fps):
        found = series_at(path)
        if found.fault:
            raise VideoError(found.fault)
        self.path, self.files = Path(path), list(found.frames.values())
        self.position, self.time = -1, None
        height, width = self._read(0).shape[:2]
        self.info = VideoInfo(float(fps), len(self.files), width, height)

    def close(self):
        """Nothing is open."""

    def _read(self, index):
        picture = cv2.imread(self.files[index])
        if picture is None:
            raise VideoError(f"{Path(self.files[index]).name} is no picture")
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)

    def grab(self):
        return self.advance(self.position + 1)

    def advance(self, index, exact=True):
        """Go forward to picture `index`; False if there are not so many."""
        if index >= len(self.files):
            return False
        self.position, self.time = index, index / self.info.fps
        return True

    def frame(self):
        """The frame last grabbed, uint8 (H, W, 3) RGB."""
        return self._read(self.position)
