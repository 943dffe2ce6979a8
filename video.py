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
import math
import os
from dataclasses import dataclass
from pathlib import Path

# OpenCV reads these when it is loaded. discardcorrupt: the frame at which a damaged file breaks
# off is left out, not patched up with grey.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_flags;prefer_tcp|fflags;discardcorrupt")

import cv2
import numpy as np

import avi
import files

if os.environ["OPENCV_LOG_LEVEL"] == "SILENT":
    # Somebody may have loaded OpenCV before.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

EXTENSIONS = (".avi", ".mp4", ".mov", ".mkv", ".webm")
# Kept frames may be this many source frames off the beat before a video counts as one of
# variable rate: files of constant rate drop a frame here and there.
TOLERANCE = 1.5


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


def sampling_stride(source_fps, FPS=25, sampling_rate=10):
    """Source frames from one kept frame to the next, so that FPS / sampling_rate are kept a second.

    25 fps -> 10, 29.97 -> 12, 12.5 -> 5; at least 1.
    """
    return max(1, math.floor(source_fps * sampling_rate / FPS + 0.5))


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


class Beat:
    """Decides, frame by frame, which frames of a video to keep: one every `stride / fps` seconds.

    At a constant rate that is every stride-th frame. Once the time stamps leave the beat, the time
    stamps decide: the first frame that is due, to half a frame.
    """

    def __init__(self, fps, stride):
        self.fps, self.stride = fps, stride
        self.step = stride / fps
        self.last = None        # seconds at which the last kept frame was due
        self.skipped = 0
        self.constant = True

    def keep(self, seconds):
        if self.last is None:
            self.last = seconds
            return True
        self.skipped += 1
        late = (seconds - self.last - self.step) * self.fps     # in source frames
        if self.constant:
            if self.skipped < self.stride and late <= TOLERANCE:
                return False
            self.constant = abs(late) <= TOLERANCE
        if not self.constant and late < -0.5:
            return False
        # The beat goes on through a frame that came late, unless a whole beat was missed. At a
        # constant rate it gives way a little, because file headers round their rates.
        if late >= self.stride:
            self.last = seconds
        else:
            self.last += self.step + (max(-0.25, min(0.25, late)) / self.fps if self.constant else 0)
        self.skipped = 0
        return True


def sample_by_time(times, fps, stride, count, fraction):
    """Which frames to take for one clip of a video whose frame times are known.

    times: seconds (N,), N >= 1; fraction: where to start, in [0, 1) of the possible starts.
    Returns (indices, stride): `count` ascending indices, and the stride between them, smaller than
    the one asked for when the video is too short. With fewer frames than `count`, the last is
    repeated. At a variable rate, each frame is the one on screen at its time.
    """
    length, step, slack = len(times), stride / fps, 0.5 / fps
    possible = int(np.searchsorted(times, times[-1] + slack - (count - 1) * step, "right"))
    if possible < 1:
        stride = max(1, min(stride, (length - 1) // (count - 1)))
        start = int(fraction * max(1, length - (count - 1) * stride))
        return np.minimum(start + stride * np.arange(count), length - 1), stride
    indices = int(fraction * possible) + stride * np.arange(count)
    due = times[indices[0]] + step * np.arange(count)
    if indices[-1] < length and (abs(times[indices] - due) * fps <= TOLERANCE).all():
        return indices, stride
    return np.searchsorted(times, due + slack, "right") - 1, stride


def read_clip(path, count, FPS, sampling_rate, fraction):
    """One clip of `count` frames, evenly spaced in time, from a start drawn by `fraction` in [0, 1).

    Returns (list of frames (H, W, 3), VideoInfo, indices (count,), stride). info.frames is the count
    of frames in the file's index, or those that could be decoded where the file had to be read
    through: its count was wrong, it is shorter than the clip, or its rate varies.
    """
    with Video(path) as video:
        info = video.info
        stride = sampling_stride(info.fps, FPS, sampling_rate)
        span = (count - 1) * stride + 1
        if info.frames >= span:
            indices = int(fraction * (info.frames - span + 1)) + stride * np.arange(count)
            frames = _at_constant_rate(video, indices)
            if frames:
                return frames, info, indices, stride
    with Video(path) as video:
        times = video.times()
    if not len(times):
        raise VideoError("not one frame of it can be decoded")
    info.frames = len(times)
    indices, stride = sample_by_time(times, info.fps, stride, count, fraction)
    with Video(path) as video:
        return _frames_at(video, [int(i) for i in indices]), info, indices, stride


def _at_constant_rate(video, indices):
    """The frames, or None when the video ends early or its time stamps are off the beat.

    Far into a file of another kind than AVI the jump is by time stamp, and accepted where the frame
    that it finds has the time of its number.
    """
    fps, begin = video.info.fps, indices[0]
    jumped = begin > 300 and not video.is_avi
    if jumped:
        video.jump(int(begin))
    frames, first = [], None
    for index in indices:
        if not video.advance(int(index)):
            return None
        if first is None:
            if jumped and abs(video.time * fps - begin) > 0.1:
                return None
            first = video.time
        if abs((video.time - first) * fps - (index - begin)) > TOLERANCE:
            return None
        frames.append(video.frame())
        if frames[-1].shape != frames[0].shape:
            raise VideoError(f"the frame size changes at frame {index}")
    return frames


def sample_video(video, FPS=25, sampling_rate=10):
    """Yields (source frame index, seconds, frame uint8 (H, W, 3)) of an open Video, one at a time.

    FPS / sampling_rate frames a second; seconds count from the first frame. Memory stays the same
    however long the video is.
    """
    beat = Beat(video.info.fps, sampling_stride(video.info.fps, FPS, sampling_rate))
    while video.grab():
        if beat.keep(video.time):
            yield video.position, video.time, video.frame()


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
