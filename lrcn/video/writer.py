"""Writes videos that are whole or absent. Frames are uint8 (H, W, 3) RGB. OSError: the disk is full."""
import contextlib
import errno
import itertools
import math
from collections import deque
from fractions import Fraction
from pathlib import Path

import numpy as np

from lrcn.base import Lazy, files
from lrcn.video import avi
from lrcn.video.reader import Video, VideoError, has_index, on_one_line, open_container, probe

cv2 = Lazy("cv2")
av = Lazy("av")

TICK = Fraction(1, 90_000)      # of the time stamps: 25, 29.97 and 24 frames a second are whole numbers of it
# The same frames give the same file: mbtree reads uninitialised memory, and the code depends on the threads.
H264 = {"preset": "veryfast", "crf": "20", "x264-params": "mbtree=0:threads=4"}
COPIED = ("aac", "mp3")         # sound that MP4 files and browsers support
RUN_UP = 1.0    # seconds of sound that are decoded before a stretch, as its packets may begin earlier


class Writer(contextlib.AbstractContextManager):
    """An .mp4 of H.264 frames, or an .avi of MPEG-4 ones (XVID); it appears under its name when closed. fps:
    frames a second, if write() is given no times. sound: a file whose sound is added, from its first picture
    to the last one written; span: (start, end) in seconds from its first picture: this stretch of it."""

    def __init__(self, path, fps, width, height, sound=None, span=None):
        self.path, self.size, self.frames = Path(path), (int(width), int(height)), 0
        self.fps = Fraction(fps).limit_denominator(100_000)
        with contextlib.ExitStack() as stack:
            self._temporary = stack.enter_context(files.atomic(self.path))
            xvid = self.path.suffix.lower() == ".avi"
            self._out = av.open(str(self._temporary), "w", format="avi" if xvid else "mp4",
                                options={} if xvid else {"movflags": "faststart"})
            if xvid:
                stream = self._out.add_stream("mpeg4", rate=self.fps)
                stream.codec_context.codec_tag = "XVID"
                stream.bit_rate = round(2 * self.size[0] * self.size[1] * self.fps)
            elif self.size[0] % 2 or self.size[1] % 2:
                raise ValueError(f"H.264 counts pixels in pairs, and {self.size} is odd")
            else:
                stream = self._out.add_stream("libx264", rate=self.fps, options=H264)
                # Pixels are converted by BT.601; players assume BT.709 for large films.
                stream.codec_context.colorspace = stream.codec_context.color_primaries = 6
                stream.codec_context.color_trc, stream.codec_context.color_range = 6, 1
                stream.codec_context.time_base = TICK
            (stream.width, stream.height), stream.pix_fmt = self.size, "yuv420p"
            self._stream = stream
            self._sound = None if sound is None else Sound(sound, self._out, span)
            self._stack = stack.pop_all()
        self._reformatter = av.video.reformatter.VideoReformatter()
        self._last, self._shown = -1, 0.0       # ticks, and seconds, of the last frame

    def write(self, frame, seconds=None):
        """frame: uint8 (height, width, 3) RGB; seconds: its time, from 0 on (None: by the rate)."""
        if frame.shape != (self.size[1], self.size[0], 3) or frame.dtype != np.uint8:
            raise ValueError(f"expected uint8 {self.size[1]} x {self.size[0]} x 3, "
                             f"not {frame.dtype} {frame.shape}")
        seconds = self.frames / self.fps if seconds is None else seconds
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        # One thread: with several the pixels between their slices differ from run to run.
        picture = self._reformatter.reformat(picture, format="yuv420p", threads=1)
        base = self._stream.codec_context.time_base or 1 / self.fps
        picture.time_base = base
        picture.pts = self._last = max(self._last + 1, round(Fraction(seconds) / base))
        self._shown = float(picture.pts * base)
        with self._told():
            self._out.mux(self._stream.encode(picture))
        self.frames += 1
        if self._sound:
            self._sound.until(self._shown)

    def close(self, keep=True):
        """Put the finished file in its place, or delete it if there is no frame, or keep is False."""
        stack, self._stack = self._stack, None
        if stack and not (keep and self.frames):
            with contextlib.suppress(av.FFmpegError, OSError):
                self._out.close()
            with contextlib.suppress(VideoError), stack:
                raise VideoError("discarded")
        elif stack:
            with stack, self._told():
                self._out.mux(self._stream.encode(None))
                if self._sound:
                    self._sound.finish(self._shown + 1 / self.fps)
                self._out.close()
                # A muxer may not report a full disk: a file that cannot be opened was not written.
                try:
                    written = probe(self._temporary).frames
                except VideoError:
                    written = 0
                if written < self.frames:
                    raise OSError(errno.ENOSPC, "No space left on device" if written == 0 else
                                  f"only {written} of {self.frames} frames were written", str(self.path))

    @contextlib.contextmanager
    def _told(self):
        """Raise the muxer's errors as an OSError with the file's name."""
        try:
            yield
        except av.FFmpegError as error:
            raise OSError(error.errno or errno.EIO, error.strerror, str(self.path)) from None

    def __exit__(self, kind, *_):
        self.close(keep=kind is None)


class Sound:
    """The sound of a source, added to a film beside its pictures: copied, or as AAC. Sound that cannot be
    read or written is left out, the pictures stay. span: (start, end) of a stretch; its sound is always
    encoded: a copied packet does not begin at a given moment, and needs those before it."""

    def __init__(self, source, out, span=None):
        with Video(source) as film:
            # Times count from the first picture that can be decoded: broadcasts may begin between key frames.
            film.grab()
            self.begin, number = (film.origin or 0) + (span[0] if span else 0), film.stream.index
        self.container, self.out, self.stream = open_container(Path(source)), out, None
        self.early = 0.001 if span is None else RUN_UP
        self.end = math.inf if span is None else span[1] - span[0]
        self.packets = self.next = None
        self.put = 0        # samples that the encoder has
        mine = next(iter(self.container.streams.audio), None)
        if mine is None or mine.codec_context is None:
            return
        self.copied = span is None and mine.codec_context.name in COPIED
        if self.copied:
            self.stream = out.add_stream_from_template(mine)
        else:
            rate = mine.codec_context.sample_rate
            self.stream = out.add_stream("aac", rate=rate if rate in (44_100, 48_000) else 48_000)
            self.stream.layout = "mono" if mine.codec_context.channels == 1 else "stereo"
            self.resampler = av.AudioResampler("fltp", self.stream.layout, self.stream.rate)
        self.packets = self._packets(mine, self.container.streams[number])
        self.next = next(self.packets, None)

    def _packets(self, stream, picture):
        """(seconds from the first picture, packet) of the sound from it on, in order of time: where
        recordings were joined, the sound of the later one counts."""
        held = deque()
        with contextlib.suppress(av.FFmpegError):       # without an index time stamps may start over
            if self.begin > 4 * RUN_UP and has_index(self.container):
                self.container.seek(round((self.begin - 2 * RUN_UP) / stream.time_base), stream=stream)
        with contextlib.suppress(av.FFmpegError):
            for packet in on_one_line(self.container, picture, stream):
                if packet.stream.index == stream.index and packet.pts is not None:
                    seconds = float(packet.pts * packet.time_base) - self.begin
                    if seconds <= -self.early:
                        continue
                    seconds = max(0.0, seconds)
                    while held and held[-1][0] >= seconds:
                        held.pop()
                    held.append((seconds, packet))
                    while held[0][0] < seconds - RUN_UP:
                        yield held.popleft()
        yield from held

    def until(self, seconds):
        """Add the sound before this moment."""
        while self.next and self.next[0] < seconds:
            at, packet = self.next
            with contextlib.suppress(av.FFmpegError, ValueError):
                self._put(at, packet)
            self.next = next(self.packets, None)

    def _put(self, at, packet):
        if self.copied:
            packet.dts = packet.pts = round(at / float(packet.time_base))
            packet.stream = self.stream
            self.out.mux(packet)
            return
        for frame in packet.decode():
            begin = float((frame.pts or 0) * frame.time_base) - self.begin
            for part in self.resampler.resample(frame):
                first = round(begin * part.sample_rate)
                begin += part.samples / part.sample_rate
                part, first = self._inside(part, first)
                if part and first >= self.put - part.samples // 2:
                    first = max(first, self.put)
                    self.put = first + part.samples
                    part.pts, part.time_base = first, Fraction(1, part.sample_rate)
                    self.out.mux(self.stream.encode(part))

    def _inside(self, part, first):
        """The samples of a part, which begins at sample `first`, that are in the span, and their first."""
        last = first + part.samples
        low, high = max(first, 0), min(last, self.end * part.sample_rate)
        if self.early < RUN_UP or (low, high) == (first, last):
            return part, first
        high = int(high)
        if high <= low:
            return None, low
        samples = np.ascontiguousarray(part.to_ndarray()[:, low - first:high - first])
        piece = av.AudioFrame.from_ndarray(samples, format=part.format.name, layout=part.layout.name)
        piece.sample_rate = part.sample_rate
        return piece, low

    def finish(self, seconds):
        """Add the rest: to the end of the span, or until this moment."""
        self.until(seconds if self.end == math.inf else self.end)
        if self.stream and not self.copied:
            with contextlib.suppress(av.FFmpegError, ValueError):
                self.out.mux(self.stream.encode(None))
        self.container.close()


def even_sides(frame):
    """uint8 (H, W, 3) with even sides for H.264: the last row or column is repeated."""
    high, wide = frame.shape[0] % 2, frame.shape[1] % 2
    return np.pad(frame, ((0, high), (0, wide), (0, 0)), "edge") if high or wide else frame


def write_clip(path, frames, fps, who=None):
    """Write `frames` (an iterable of uint8 (H, W, 3), of grey (H, W), or of numbers of earlier frames, which
    are repeated) as a Motion JPEG .avi; how many. It is not flushed to the disk: the caller may flush many
    files together. who: see files.atomic. ValueError: there is no frame."""
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("a clip needs at least one frame")
    with files.atomic(path, lasting=False, who=who) as temporary, open(temporary, "wb") as stream:
        out = avi.Writer(stream, fps, first.shape[1], first.shape[0])
        for frame in itertools.chain([first], frames):
            if isinstance(frame, int):
                out.again(frame)
            else:
                out.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) if frame.ndim == 3 else frame)
        out.release()
    return len(out.entries)
