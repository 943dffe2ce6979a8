"""Reading, sampling and writing videos with OpenCV. Frames are uint8 (H, W, 3) RGB; no torch.

    info = probe("clip.avi")                                  # fps, frames, width, height
    frames = read_frames("clip.avi", [30, 40, 50, 60, 70])    # exactly these, (5, H, W, 3)
    with Video("film.mp4") as film:                           # 2.5 frames a second, constant memory
        for index, seconds, frame in sample_video(film): ...
    with Writer("out.mp4", info.fps, info.width, info.height) as out: out.write(frame)

A video that cannot be read raises VideoError, whose text is the reason in one line; FFmpeg's own
remarks on stderr are switched off (set OPENCV_FFMPEG_LOGLEVEL and OPENCV_LOG_LEVEL to see them).
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lrcn.video import avi

# OpenCV reads these when it is loaded. discardcorrupt: the frame at which a damaged file breaks
# off is left out, not patched up with grey.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")


os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_flags;prefer_tcp|fflags;discardcorrupt")


if os.environ["OPENCV_LOG_LEVEL"] == "SILENT":
    # Somebody may have loaded OpenCV before.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


EXTENSIONS = (".avi", ".mp4", ".mov", ".mkv", ".webm")


class VideoError(Exception):
    """A video that cannot be read or written; str(error) is the reason, one line."""


@dataclass
class VideoInfo:
    fps: float
    frames: int     # what the file says; 0: unknown, as in an AVI that was cut off
    width: int      # as shown: a phone's rotation is applied
    height: int


class Video:
    """An open video file. `position`: index of the last frame grabbed; `time`: its seconds."""

    def __init__(self, path):
        self.path = Path(path)
        self.capture = _open_file(self.path)
        self.position, self.time = -1, None
        self._first_time = None
        self.is_avi, self.key_frames, chunks = avi.read_index(self.path)
        get = self.capture.get
        frames = get(cv2.CAP_PROP_FRAME_COUNT) if chunks is None else chunks
        self.info = VideoInfo(fps=get(cv2.CAP_PROP_FPS), frames=max(0, int(frames)),
                              width=int(get(cv2.CAP_PROP_FRAME_WIDTH)),
                              height=int(get(cv2.CAP_PROP_FRAME_HEIGHT)))
        if not 0 < self.info.fps < math.inf:
            raise VideoError(f"the file gives no frame rate ({self.info.fps})")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.capture.release()

    def grab(self):
        """Decode the next frame without converting it; False at the end of the video."""
        if not self.capture.grab():
            return False
        self.position += 1
        seconds = self.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if self._first_time is None:
            self._first_time = seconds
        seconds -= self._first_time
        # The last frames of an AVI with B-frames carry no time.
        if self.time is not None and seconds <= self.time:
            seconds = self.time + 1 / self.info.fps
        self.time = seconds
        return True

    def frame(self):
        """The frame last grabbed, uint8 (H, W, 3) RGB."""
        ok, image = self.capture.retrieve()
        if not ok:
            raise VideoError(f"frame {self.position} cannot be decoded")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def seek(self, index):
        """Jump so that the next grab() gives frame `index`, where that is exact and cheaper.

        Only an AVI's index says which frames are key frames and that none was dropped; elsewhere
        nothing happens and the caller grabs its way. OpenCV starts at the key frame that lies at
        least 16 frames ahead of the target.
        """
        if self.key_frames is None:
            return
        key = self.key_frames[np.searchsorted(self.key_frames, max(index - 16, 0), "right") - 1]
        if key - self.position > 12:
            self.jump(index)

    def jump(self, index):
        """Ask OpenCV for frame `index` next. By time stamp: exact at a constant rate only."""
        if self._first_time is None and not self.grab():
            return
        self.capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        self.position = index - 1
        self.time = None

    def advance(self, index):
        """Go forward to frame `index`; False when the video ends before it."""
        self.seek(index)
        while self.position < index:
            if not self.grab():
                return False
        return True

    def times(self):
        """Seconds of all frames that can be decoded, float64 (N,); reads the video to its end."""
        seconds = []
        while self.grab():
            seconds.append(self.time)
        return np.array(seconds)


def _open_file(path):
    reason = None
    if not path.exists():
        reason = "the file does not exist"
    elif path.is_dir():
        reason = "it is a folder"
    elif path.is_file() and path.stat().st_size == 0:
        reason = "the file is empty"
    if reason is None:
        try:
            # An absolute path, lest "http:x.avi" is taken for an address.
            capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG,
                                       [cv2.CAP_PROP_N_THREADS, 1])
        except (cv2.error, UnicodeEncodeError, SystemError) as error:
            raise VideoError(" ".join(str(error).split())) from None
        if capture.isOpened():
            return capture
        reason = "no video in it that OpenCV can decode"
        if path.is_file() and not os.access(path, os.R_OK):
            reason = "no permission to read the file"
    raise VideoError(reason)


def probe(path):
    """VideoInfo of a file; VideoError when it cannot be opened."""
    with Video(path) as video:
        return video.info


def read_frames(path, indices):
    """Exactly these frames, uint8 (N, H, W, 3) RGB. indices: ascending, repeats allowed.

    Nothing is decoded after the last one. VideoError when one of them cannot be had.
    """
    indices = [int(i) for i in indices]
    if not indices or indices[0] < 0 or indices != sorted(indices):
        raise ValueError(f"indices must be ascending and not negative: {indices}")
    with Video(path) as video:
        return np.stack(_frames_at(video, indices))


def _frames_at(video, indices):
    frames = []
    for index in indices:
        if index == video.position:
            frames.append(frames[-1] if frames else video.frame())
            continue
        if not video.advance(index):
            raise VideoError(f"frame {index} is not there: the video ends after {video.position + 1} frames")
        frames.append(video.frame())
        if frames[-1].shape != frames[0].shape:
            raise VideoError(f"the frame size changes at frame {index}")
    return frames
