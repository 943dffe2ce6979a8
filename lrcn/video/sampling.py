"""Which frames of a video are kept: so many a second, for any frame rate of the video."""
import math
from dataclasses import dataclass

import numpy as np

from lrcn.video.framefolder import opened
from lrcn.video.reader import VideoError, frames_at

TOLERANCE = 1.5     # source frames off the beat, at a constant rate: files drop a frame here and there
FAR = 300       # frames into a file, from which jumps are by time stamp


@dataclass(frozen=True)
class Rate:
    """FPS / sampling_rate frames a second, both flags; sampling_rate 0 ("source"): every frame."""
    FPS: float = 25
    sampling_rate: float = 10

    @classmethod
    def of(cls, settings):
        """The rate in a settings.json or a checkpoint, or the usual one; if there is a `frame_step`, that of
        the training clips themselves: many were too short for the flags' rate."""
        FPS, rate = settings.get("FPS") or cls.FPS, settings.get("sampling_rate")
        rate = cls.sampling_rate if rate is None else rate
        step = settings.get("frame_step")
        return cls(FPS, rate if step is None or math.isclose(step, rate / FPS) else step * FPS)

    @property
    def per_second(self):
        """Sampled frames a second; their playing rate too."""
        return self.FPS / (self.sampling_rate or 1)

    @property
    def step(self):
        """Seconds from one sampled frame to the next."""
        return self.sampling_rate / self.FPS

    def spacing(self, source_fps):
        """Source frames from one kept frame to the next, on average; at least 1. A whole number if this is
        right to half a percent (25 fps -> 10, 29.97 -> 12), so that a header's rounding does not matter;
        else not (24 -> 9.6): the frames nearest in time are taken."""
        exact = source_fps * self.step
        whole = max(1, math.floor(exact + 0.5))
        return whole if abs(exact - whole) <= 0.005 * exact or exact < 1 else exact

    def beat(self, source_fps):
        """The Beat that keeps this rate's frames of a video."""
        return Beat(source_fps, self.spacing(source_fps), self.seconds(source_fps))

    def seconds(self, source_fps):
        """Seconds from one kept frame to the next: by the spacing, or by this rate if the file's is lower."""
        if not self.sampling_rate:
            return 0
        return min(self.step, 1 / source_fps) if source_fps < self.per_second else \
            self.spacing(source_fps) / source_fps

    def stride(self, source_fps):
        """The spacing as a whole number, for the manifest: 25 fps -> 10, 29.97 -> 12, 24 -> 10."""
        return math.floor(self.spacing(source_fps) + 0.5)


def offsets(spacing, count):
    """int (count,): source frames from the first kept frame to each."""
    return np.floor(np.arange(count) * spacing + 0.5).astype(int)


class Beat:
    """Decides which frames of a video to keep: one every `step` seconds. At a constant rate it is the nearest
    to each multiple of the spacing; when the time stamps leave the beat, the first that is due."""

    def __init__(self, fps, spacing, step=None):
        self.fps, self.spacing = fps, spacing
        self.step = spacing / fps if step is None else step
        self.last = None        # seconds at which the last kept frame was due
        self.kept = self.skipped = 0
        self.constant = self.step * fps > 0.99      # else an average over pauses: no frame rate at all
        self.slack = 0.5 if self.constant else 0.01 * self.step * fps       # in source frames

    def keep(self, seconds):
        if self.last is None:
            self.last = seconds
            return True
        self.skipped += 1
        late = (seconds - self.last - self.step) * self.fps     # in source frames
        if self.constant:
            before, due = (math.floor(k * self.spacing + 0.5) for k in (self.kept, self.kept + 1))
            if self.skipped < due - before and late <= TOLERANCE:
                return False
            self.constant = abs(late) <= TOLERANCE
        if not self.constant and late < -self.slack:
            return False
        # A late frame does not move the beat, unless a whole beat was missed; at a constant rate it does a
        # little, because file headers round their rates.
        if late >= self.spacing:
            self.last = seconds
        else:
            self.last += self.step + (max(-0.25, min(0.25, late)) / self.fps if self.constant else 0)
        self.skipped, self.kept = 0, self.kept + 1
        return True


def sample_by_time(times, fps, spacing, count, fraction, step=None):
    """(`count` ascending indices of the frames of one clip, their spacing). times: seconds (N,) of the
    video's frames, N >= 1; fraction: where to start, in [0, 1) of the possible starts; step: seconds between
    frames (default: spacing / fps), see Rate.seconds. If the video is too short, the spacing is smaller, and
    the last frame is repeated. At a variable rate, each frame is the one on screen at its time."""
    length, step = len(times), spacing / fps if step is None else step
    slack = 0.5 / fps
    if step * fps < 0.99:       # an average over pauses: the frames that the beat keeps, one after another
        beat = Beat(fps, spacing, step)
        kept = np.flatnonzero([beat.keep(seconds) for seconds in times])
        if len(kept) >= count:
            first = int(fraction * (len(kept) - count + 1))
            return kept[first:first + count], spacing
    possible = int(np.searchsorted(times, times[-1] + slack - (count - 1) * step, "right"))
    if possible < 1:
        stride = max(1, min(int(spacing), (length - 1) // (count - 1)))
        start = int(fraction * max(1, length - (count - 1) * stride))
        return np.minimum(start + stride * np.arange(count), length - 1), stride
    indices = int(fraction * possible) + offsets(spacing, count)     # at a constant rate
    due = times[min(indices[0], length - 1)] + step * np.arange(count)
    if indices[-1] < length and (abs(times[indices] - due) * fps <= TOLERANCE).all():
        return indices, spacing
    return np.searchsorted(times, due + slack, "right") - 1, spacing


def read_clip(path, count, rate, fraction):
    """One clip of `count` frames, evenly spaced in time, from a start drawn by `fraction` in [0, 1). path: a
    file, or a folder of rate.FPS pictures a second. Returns ([frame (H, W, 3)], VideoInfo, indices (count,),
    spacing). info.frames is the count in the file's index, or that of the decoded frames if the whole file
    was read: its count was wrong, it is shorter than the clip, or its rate varies."""
    with opened(path, rate.FPS) as video:
        info = video.info
        spacing = rate.spacing(info.fps)
        away = offsets(spacing, count)
        if info.frames > away[-1] and info.fps >= rate.per_second * 0.99:
            indices = int(fraction * (info.frames - away[-1])) + away
            frames = _at_constant_rate(video, indices)
            if frames:
                return frames, info, indices, spacing
    with opened(path, rate.FPS) as video:
        times = video.times()
    if not len(times):
        raise VideoError("no frame of it can be decoded")
    info.frames = len(times)
    indices, spacing = sample_by_time(times, info.fps, spacing, count, fraction, rate.seconds(info.fps))
    with opened(path, rate.FPS) as video:
        return frames_at(video, [int(i) for i in indices]), info, indices, spacing


def _at_constant_rate(video, indices):
    """The frames; None: the video ends early, or the time stamps are off the beat, as after a wrong jump."""
    fps, begin = video.info.fps, indices[0]
    frames, first = [], None
    for index in indices:
        if not video.advance(int(index), exact=begin <= FAR):
            return None
        first = video.time if first is None else first
        if abs((video.time - first) * fps - (index - begin)) > TOLERANCE:
            return None
        frames.append(video.frame())
    return frames
