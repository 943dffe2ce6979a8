"""A video that lies on disk as pictures: a folder of numbered frames, read like a file.

    with opened("jpegs_256/v_Archery_g01_c01", fps=25) as video:    # or a video file: a reader.Video
        while video.grab():
            video.position, video.time, video.frame()
    is_frame_folder(["0.jpg", "1.jpg", "10.jpg"])                   # True

The frames are in the order of their numbers (0.jpg, 1.jpg, 10.jpg or frame000001.jpg), whatever the first
is. How many a second they are nobody can tell from them.
"""
import os
import re
from pathlib import Path

import cv2
import numpy as np

from lrcn.video.reader import Video, VideoError, VideoInfo

NUMBERED = re.compile(r"(?:frame|img|image)?[_-]?(\d+)\.(?:jpe?g|png)", re.IGNORECASE)


def is_frame_folder(names):
    """Whether the files of a folder, hidden ones aside, are numbered pictures, each number once."""
    numbers = [NUMBERED.fullmatch(name) for name in names if not name.startswith(".")]
    return bool(numbers) and all(numbers) and len({int(n[1]) for n in numbers}) == len(numbers)


def frame_files(folder):
    """{number: path} of a folder's pictures, in the order of their numbers."""
    found = [(int(n[1]), entry.path) for entry in os.scandir(folder) if (n := NUMBERED.fullmatch(entry.name))]
    return dict(sorted(found))


def opened(path, fps):
    """The Video of a file, or the FrameFolder of a folder of `fps` pictures a second."""
    return FrameFolder(path, fps) if os.path.isdir(path) else Video(path)


class FrameFolder:
    """Numbered pictures as a Video: the same methods, and no more than one picture in memory."""

    def __init__(self, path, fps):
        self.path, self.files = Path(path), list(frame_files(path).values())
        if not self.files:
            raise VideoError("no numbered pictures in this folder")
        self.position, self.time = -1, None
        height, width = self._read(0).shape[:2]
        self.info = VideoInfo(float(fps), len(self.files), width, height)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

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

    def times(self):
        """Seconds of all frames, float64 (N,)."""
        return np.arange(len(self.files)) / self.info.fps
