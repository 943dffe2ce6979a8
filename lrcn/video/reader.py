"""Reading video files with PyAV. Frames are uint8 (H, W, 3) RGB as they are shown; no torch.

    info = probe("clip.avi")                                  # fps, frames, width, height
    frames = read_frames("clip.avi", [30, 40, 50, 60, 70])    # exactly these, (5, H, W, 3)
    with Video("film.mp4") as film:
        while film.grab():
            film.position, film.time, film.frame()

As they are shown: turned as a phone's rotation says, with square pixels. A frame counts only if the
decoder gave a whole one. A video that cannot be read raises VideoError, whose text is the reason in
one line. Nothing but the file itself is read: no playlist, address or device that its content names.
"""
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from lrcn.video import avi

EXTENSIONS = (".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts",
              ".vob", ".wmv", ".asf", ".flv", ".3gp", ".3g2", ".ogv", ".dv", ".mxf", ".gif")
# The demuxers of those; others read playlists, or frames from somewhere else.
FORMATS = ("avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mpeg,mpegvideo,flv,asf,gif,ogg,dv,mxf,h264,"
           "hevc,m4v,ivf,obu,mjpeg,nut,rm,swf,wtv,bink,amv,yuv4mpegpipe,nsv,roq,smk,vc1,cavsvideo,av1")
INDEXED = ("avi", "mov", "matroska")    # files that say where their key frames lie
NEAR = 12       # frames that are decoded sooner than a key frame is looked for


class VideoError(Exception):
    """A video that cannot be read or written; str(error) is the reason, one line."""


@dataclass
class VideoInfo:
    fps: float
    frames: int     # what the file says; 0: unknown, as in an AVI that was cut off
    width: int      # as shown
    height: int


class Video:
    """An open video file. `position`: index of the last frame grabbed; `time`: its seconds."""

    def __init__(self, path):
        self.path = Path(path)
        self.container = open_container(self.path)
        self.stream = self._best_stream()
        # One thread: files are read in parallel, and several threads would each hold frames back.
        self.stream.codec_context.thread_count = 1
        self.position, self.time = -1, None
        self._decoded, self._frame = self._decode(), None
        self._origin, self._reformatter = None, av.video.reformatter.VideoReformatter()
        fps = self.stream.average_rate or self.stream.guessed_rate or 0
        if not 0 < fps < math.inf:
            self.close()
            raise VideoError(f"the file gives no frame rate ({fps})")
        self.is_avi = self.container.format.name == "avi"
        self.key_frames, count = _index(self.stream, self.is_avi)
        width, height = self._shape()
        self.info = VideoInfo(float(fps), count, width, height)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.container.close()

    def _best_stream(self):
        """The film itself: not a picture of its cover, and of several the largest."""
        streams = [s for s in self.container.streams.video
                   if not s.disposition & av.stream.Disposition.attached_pic and s.codec_context]
        if not streams:
            self.close()
            raise VideoError("no video in it that can be decoded")
        return max(streams, key=lambda s: s.codec_context.width * s.codec_context.height)

    def _shape(self):
        """(width, height) of the frames as they are shown."""
        context = self.stream.codec_context
        size = _squared(context.width, context.height, self.stream.sample_aspect_ratio)
        turned = self._first_rotation() % 180 == 90
        return size[::-1] if turned else size

    def _first_rotation(self):
        """Degrees by which the first frame is turned; it is decoded, and kept for grab()."""
        first = next(self._decoded, None)
        if first is None:
            return 0
        self._decoded = _before(first, self._decoded)
        return first.rotation

    def _decode(self):
        """The decoder's whole frames; packets and frames that are damaged are passed over."""
        for packet in self._packets():
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError):
                continue
            yield from (frame for frame in frames if not frame.is_corrupt)

    def _packets(self):
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.FFmpegError):     # the end, or a file that breaks off
                return
            yield packet

    def grab(self):
        """Decode the next frame without converting it; False at the end of the video."""
        frame = next(self._decoded, None)
        if frame is None:
            return False
        self._frame = frame
        self.position += 1
        seconds = self._seconds(frame)
        if self._origin is None:
            self._origin = seconds
        seconds -= self._origin
        # Some frames carry no time, or an earlier one.
        if self.time is not None and seconds <= self.time:
            seconds = self.time + 1 / self.info.fps
        self.time = seconds
        return True

    def _counted(self):
        """Whether frames have to be counted from the first: with B-frames the numbers of an AVI's chunks
        are not those of its frames, and a key frame may be shown after some that are stored behind it."""
        return self.is_avi and self.stream.codec_context.has_b_frames

    def _seconds(self, frame):
        if self._counted() or frame.pts is None:
            return self.position / self.info.fps
        return float(frame.pts * frame.time_base)

    def frame(self):
        """The frame last grabbed, uint8 (H, W, 3) RGB."""
        frame = self._frame
        width, height = _squared(frame.width, frame.height, self.stream.sample_aspect_ratio)
        try:
            picture = self._reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f"frame {self.position} cannot be decoded ({error})") from None
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture

    # ------------------------------------------------------------ going forward

    def advance(self, index, exact=True):
        """Go forward to frame `index`; False when the video ends before it.

        exact: jump only where the file's index says that no frame is missing before it.
        """
        indexed = self.key_frames is not None
        if index - self.position > NEAR and not self._counted() and (indexed or not exact):
            self._jump(index)
        while self.position < index:
            if not self.grab():
                return False
        return True

    def _jump(self, index):
        """Go to the last key frame before `index`, by the file's index or else by time.

        Where that leads behind it, or to a frame whose time is not that of a number, start again from
        the first frame.
        """
        if self._origin is None and not self.grab():
            return
        if self.key_frames is not None:
            key = self.key_frames[np.searchsorted(self.key_frames, index, "right") - 1]
            if key - self.position <= NEAR:
                return
        origin, fps = self._origin, self.info.fps
        target = int(key) if self.key_frames is not None else index
        tick = self.stream.time_base
        start = round(origin / tick)
        if not self._seek(start + round(target / (self.stream.average_rate or 1) / tick)):
            return
        found = next(self._decoded, None)
        if found is None:
            return self._restart()
        place = (self._seconds(found) - origin) * fps
        whole = round(place)
        if abs(place - whole) > 0.1 or whole > index or found.pts is None:
            return self._restart()
        self._decoded = _before(found, self._decoded)
        self.position, self.time = whole - 1, (whole - 1) / fps

    def skip_to(self, seconds):
        """Go to the last key frame before this moment, where the file has an index to find it by.

        grab() then gives the frames from there on with their right times; `position` counts from there.
        """
        indexed = any(name in INDEXED for name in self.container.format.name.split(","))
        if seconds < NEAR / self.info.fps or not indexed or self._counted() or not self.grab():
            return
        origin = self._origin
        if not self._seek(round((origin + seconds) / self.stream.time_base)):
            return self._restart()
        found = next(self._decoded, None)
        if found is None or found.pts is None or self._seconds(found) - origin > seconds:
            return self._restart()
        self._decoded, self.time = _before(found, self._decoded), None

    def _seek(self, timestamp):
        try:
            self.container.seek(timestamp, stream=self.stream, backward=True)
        except av.FFmpegError:
            return False
        self._decoded = self._decode()
        return True

    def _restart(self):
        """From the first frame again, in a container opened anew."""
        self.close()
        fresh = Video(self.path)
        self.container, self.stream, self._decoded = fresh.container, fresh.stream, fresh._decoded
        self.position, self.time, self._origin = -1, None, None

    def times(self):
        """Seconds of all frames that can be decoded, float64 (N,); reads the video to its end."""
        seconds = []
        while self.grab():
            seconds.append(self.time)
        return np.array(seconds)


def _before(first, rest):
    yield first
    yield from rest


def _squared(width, height, ratio):
    """(width, height) in square pixels of a picture whose pixels have this ratio of width to height."""
    if not ratio or abs(ratio - 1) < 0.01 or not 0.1 < ratio < 10:
        return width, height
    return max(1, round(width * float(ratio))), height


def _index(stream, is_avi):
    """(key frames (K,) or None, number of frames or 0) by the index that came with the file's head.

    None unless the index lists every frame at one rate: a place holder for a dropped frame in an AVI
    is no picture, and a seek behind it would be off by one.
    """
    entries = stream.index_entries
    listed = len(entries)
    count = listed if is_avi else stream.frames
    if not listed or listed != (stream.frames or listed) or not entries[0].is_keyframe:
        return None, count if is_avi else stream.frames
    times = np.array([entry.timestamp for entry in entries])
    steps = np.diff(times)
    left_out = is_avi and any(entry.size <= avi.EMPTY for entry in entries)
    if len(steps) and (steps != steps[0]).any() or left_out:
        return None, count
    return np.flatnonzero([entry.is_keyframe for entry in entries]), count


def open_container(path):
    """The container; VideoError in one line for whatever is none."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise VideoError("the file does not exist" if isinstance(error, FileNotFoundError)
                         else error.strerror) from None
    if stat.S_ISDIR(mode):
        raise VideoError("it is a folder")
    if not stat.S_ISREG(mode):
        raise VideoError("it is no file but a pipe or a device")
    if not os.path.getsize(path):
        raise VideoError("the file is empty")
    if not os.access(path, os.R_OK):
        raise VideoError("no permission to read the file")
    # discardcorrupt: the frame at which a damaged file breaks off is left out, not patched up with grey.
    options = {"fflags": "discardcorrupt", "protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        return av.open(_name(path), options=options)
    except (av.FFmpegError, ValueError, OSError):
        raise VideoError("no video in it that can be decoded") from None


def _name(path):
    """What PyAV opens: the absolute path, lest "http:x.avi" is taken for an address; an open file where
    the name is not UTF-8."""
    whole = os.path.abspath(path)
    try:
        whole.encode()
        return f"file:{whole}"
    except UnicodeEncodeError:
        return open(whole, "rb")    # the container keeps it


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
    found = _of_our_own(path, indices)
    if found is not None:
        return found
    with Video(path) as video:
        return np.stack(frames_at(video, indices))


def _of_our_own(path, indices):
    """What read_frames gives of a file that avi.Writer finished, without opening it as a container, which
    takes as long as decoding three frames of it; None for other files, and where a frame is not whole."""
    decoder, reformatter = av.CodecContext.create("mjpeg", "r"), av.video.reformatter.VideoReformatter()
    decoder.thread_count, decoder.options = 1, {"err_detect": "explode"}
    wanted = sorted(set(indices))
    try:
        found = {}
        for i, jpeg in zip(wanted, avi.jpegs(path, wanted), strict=True):
            [frame] = decoder.decode(av.Packet(jpeg))
            if frame.is_corrupt or _squared(frame.width, frame.height, decoder.sample_aspect_ratio) != \
                    (frame.width, frame.height):
                return None
            found[i] = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return np.stack([found[i] for i in indices])
    except (OSError, ValueError, av.FFmpegError):
        return None


def frames_at(video, indices):
    """[uint8 (H, W, 3)] of an open Video at ascending indices; VideoError when one is not there."""
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
