"""Reading, sampling and writing videos with OpenCV. Frames are uint8 (H, W, 3) RGB; no torch.

    info = probe("clip.avi")                                  # fps, frames, width, height
    frames = read_frames("clip.avi", [30, 40, 50, 60, 70])    # exactly these, (5, H, W, 3)
    with Video("film.mp4") as film:                           # 2.5 frames a second, constant memory
        for index, seconds, frame in sample_video(film): ...
    with Writer("out.mp4", info.fps, info.width, info.height) as out: out.write(frame)

A video that cannot be read raises VideoError, whose text is the reason in one line; FFmpeg's own
remarks on stderr are switched off (set OPENCV_FFMPEG_LOGLEVEL and OPENCV_LOG_LEVEL to see them).
"""

import contextlib
from pathlib import Path

import cv2
import numpy as np

from lrcn.base import files
from lrcn.video import avi
from lrcn.video.reader import VideoError, probe


class Writer:
    """Writes a video that is whole or absent: it appears under its name when closed.

    codec "MJPG" (.avi, JPEG frames of `quality`) or one that OpenCV's FFmpeg encodes, such as
    "mp4v" (.mp4). A full disk raises OSError, a codec that is not there VideoError.
    """

    def __init__(self, path, fps, width, height, codec="mp4v", quality=95):
        self.path, self.size, self.frames = Path(path), (int(width), int(height)), 0
        self._stack = contextlib.ExitStack()
        self._temporary = self._stack.enter_context(files.atomic(self.path))
        try:
            if codec == "MJPG":
                stream = self._stack.enter_context(self._temporary.open("wb"))
                self._out = avi.Writer(stream, fps, *self.size, quality)
            else:
                self._out = cv2.VideoWriter(str(self._temporary), cv2.CAP_FFMPEG,
                                            cv2.VideoWriter_fourcc(*codec), float(fps), self.size)
                if not self._out.isOpened():
                    raise VideoError(f"OpenCV cannot write {self.path.name} with codec {codec}")
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            raise

    def write(self, frame):
        """frame: uint8 (height, width, 3) RGB."""
        if frame.shape != (self.size[1], self.size[0], 3) or frame.dtype != np.uint8:
            raise ValueError(f"expected uint8 {self.size[1]} x {self.size[0]} x 3, "
                             f"not {frame.dtype} {frame.shape}")
        self._out.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def close(self):
        """Put the finished file in its place; nothing is left when no frame was written."""
        if self._stack is None:
            return
        if not self.frames:
            self.discard()
            return
        self._out.release()
        stack, self._stack = self._stack, None
        with stack:
            if not isinstance(self._out, avi.Writer):
                self._check()

    def discard(self):
        """Leave no file."""
        if self._stack is None:
            return
        stack, self._stack = self._stack, None
        if not isinstance(self._out, avi.Writer):
            self._out.release()
        with contextlib.suppress(VideoError), stack:
            raise VideoError("discarded")

    def _check(self):
        """OpenCV says nothing of a full disk: what cannot be opened again was not written."""
        try:
            written = probe(self._temporary).frames
        except VideoError:
            written = 0
        if written < self.frames:
            raise OSError(28, "No space left on device" if written == 0 else
                          f"only {written} of {self.frames} frames were written", str(self.path))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        else:
            self.discard()
