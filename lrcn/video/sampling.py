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

import numpy as np

from lrcn.video.reader import Video, VideoError, _frames_at

# Kept frames may be this many source frames off the beat before a video counts as one of
# variable rate: files of constant rate drop a frame here and there.
TOLERANCE = 1.5


def sampling_stride(source_fps, FPS=25, sampling_rate=10):
    """Source frames from one kept frame to the next, so that FPS / sampling_rate are kept a second.

    25 fps -> 10, 29.97 -> 12, 12.5 -> 5; at least 1.
    """
    return max(1, math.floor(source_fps * sampling_rate / FPS + 0.5))


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
