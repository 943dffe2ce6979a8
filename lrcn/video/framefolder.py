"""A video that lies on disk as pictures: a folder of numbered frames, read like a file.

A series is all pictures with one word before their number (img_00001.jpg, frame000001.jpg, out_1.png, 0.jpg),
in the order of their numbers, whatever the first is. The one series of a folder is the video; flow_x_ and
flow_y_ beside it are its optical flow; other files are passed over. How many frames a second nobody can tell.
`<folder>/<word>*` is one of several series of a folder.
"""
import functools
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from lrcn.base.lazy import Lazy
from lrcn.video.reader import Video, VideoError, VideoInfo

cv2 = Lazy("cv2")

NUMBERED = re.compile(r"(.*?)(\d+)\.(?:jpe?g|png|webp|bmp)", re.IGNORECASE | re.DOTALL)
PICTURE = re.compile(r"[^.].*\.(?:jpe?g|png|webp|bmp)", re.IGNORECASE | re.DOTALL)
FLOW = re.compile(r"(.*flow[\W_]*|)([xyuv])([\W_]*)", re.DOTALL)     # the word of a series of flow
PLANES = {"x": "y", "u": "v"}


@dataclass(frozen=True)
class Series:
    """The pictures of a folder, {number: name} in order. frames: of its video; flow: (right, down),
    both empty where there is none; fault: why there are no frames, "" where there are."""
    frames: dict
    flow: tuple
    fault: str = ""


def series(names):
    """The Series of a folder's files."""
    numbered, twice, others = defaultdict(dict), [], 0
    for name in names:
        match = NUMBERED.fullmatch(name) if PICTURE.fullmatch(name) else None
        if match:
            there = numbered[match[1].lower()].setdefault(int(match[2]), name)
            twice += [f"{there} and {name}"] * (there != name)
        elif PICTURE.fullmatch(name):
            others += 1
    words = {word: dict(sorted(found.items())) for word, found in numbered.items()}
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
        shown = [long[word] for word in sorted(long)][:3]
        fault = ("several series of numbered pictures, "
                 + ", ".join(f"{next(iter(names.values()))} (of {len(names)})" for names in shown)
                 + ": which is the video? Leave one of them")
    elif not long:
        fault = "optical flow alone, no frames" if words else "no numbered pictures in it"
    elif others >= len(*long.values()):
        fault = "as many pictures without a number as with one"
    flow = tuple(words[word] for word in flow) or ({}, {})
    return Series({} if fault else [*long.values()][0], flow, fault)


def holds_frames(path):
    """Whether a path is that of a folder of frames, or of one series in a folder."""
    return os.path.isdir(path) or os.fspath(path).endswith("*")


def _pictures(path):
    """(folder, its Series) of such a path."""
    if os.path.isdir(path):
        return path, series(os.listdir(path))
    folder, word = os.path.split(os.fspath(path)[:-1])
    return folder, series(_words(folder, os.stat(folder).st_mtime_ns).get(word, ()))


@functools.lru_cache(4)
def _words(folder, _modified):
    """{word: names of its numbered pictures} of a folder, listed once as long as nothing in it changes."""
    words = defaultdict(list)
    for name in os.listdir(folder):
        if match := NUMBERED.fullmatch(name):
            words[match[1]].append(name)
    return words


def frame_files(path):
    """{number: path} of the pictures of a folder's video, in the order of their numbers."""
    folder, found = _pictures(path)
    return {i: os.path.join(folder, name) for i, name in found.frames.items()}


def flow_files(folder):
    """[{number: path} of the flow to the right, that of the flow down] that lie in a folder."""
    return [{i: os.path.join(folder, name) for i, name in plane.items()}
            for plane in series(os.listdir(folder)).flow]


def opened(path, fps):
    """The Video of a file, or the FrameFolder of a folder of `fps` pictures a second."""
    return FrameFolder(path, fps) if holds_frames(path) else Video(path)


class FrameFolder(Video):
    """Numbered pictures as a Video: the same methods, and no more than one picture in memory."""

    def __init__(self, path, fps):
        folder, found = _pictures(path)
        if found.fault:
            raise VideoError(found.fault)
        self.path, self.files = Path(path), [os.path.join(folder, name) for name in found.frames.values()]
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
        """Go forward to picture `index`; False when there are no more."""
        if index >= len(self.files):
            return False
        self.position, self.time = index, index / self.info.fps
        return True

    def frame(self):
        """The frame last grabbed, uint8 (H, W, 3) RGB."""
        return self._read(self.position)
