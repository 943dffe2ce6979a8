"""Reading video files with PyAV. Frames are uint8 (H, W, 3) RGB as they are shown; no torch.

    with Video("film.mp4") as film:
        while film.grab():
            film.position, film.time, film.frame()

As they are shown: turned and mirrored by a phone's matrix, with square pixels, all of the first one's size,
and with increasing times even where recordings were joined. Damaged frames are left out. A video that cannot
be read raises VideoError, whose text is the reason in one line. Only the file itself is read: no playlist,
address or device that it names.
"""
import contextlib
import itertools
import math
import os
import stat
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrcn.base.lazy import Lazy
from lrcn.video import avi

cv2 = Lazy("cv2")
av = Lazy("av")

NAMES = ("avi mp4 mov mkv webm m4v mpg mpeg mpe mpv m1v m2v mpv2 mp2v m2p m2t m2ts mts ts tp trp tod mod vob "
         "vro evo wmv asf wm wtv dvr-ms flv f4v 3gp 3gpp 3g2 3gp2 k3g ogv ogm ogg ogx dv dif mxf qt mqv "
         "hdmov mp4v mpg4 m4p ismv ism cmfv mj2 mjp2 mjpg mjpeg mk3d divx xvid rm rmvb rv h264 264 h26l avc "
         "26l h265 265 hevc av1 obu ivf vc1 lrv lrf insv 360 nut nsv y4m amv bik bk2 smk roq swf cavs gif")
EXTENSIONS = tuple(f".{name}" for name in NAMES.split())
# Their demuxers; others read playlists, or frames from elsewhere.
FORMATS = ("avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mpeg,mpegvideo,flv,asf,gif,ogg,dv,mxf,h264,"
           "hevc,m4v,ivf,obu,mjpeg,nut,rm,swf,wtv,bink,amv,yuv4mpegpipe,nsv,roq,smk,vc1,cavsvideo,av1")
INDEXED = ("avi", "mov", "matroska")    # formats with an index of key frames
NEAR = 12       # frames; it takes longer to seek than to decode so many
# Seconds by which time stamps jump where another recording begins: back, and in broadcast formats, whose
# packets are in order, also by little, or ahead.
BACK, SLIP, AHEAD = 0.5, 0.1, 10
CALM = 100      # pictures after a jump, until which the sound jumps too if another recording began


class VideoError(Exception):
    """A video that cannot be read or written; str(error) is the reason, one line."""


@dataclass
class VideoInfo:
    fps: float
    frames: int     # by the file's head; 0: unknown, as in an AVI that was cut off
    width: int      # as shown
    height: int
    seconds = property(lambda info: info.frames / info.fps)


class Video(contextlib.AbstractContextManager):
    """An open video file. `position`: index of the last frame grabbed; `time`: its seconds."""

    def __init__(self, path):
        self.path = Path(path)
        self.container = open_container(self.path)
        streams = [s for s in self.container.streams.video
                   if not s.disposition & av.stream.Disposition.attached_pic and s.codec_context]
        if not streams:
            self.close()
            raise VideoError("no video in it that can be decoded")
        # Of several the largest
        self.stream = max(streams, key=lambda s: s.codec_context.width * s.codec_context.height)
        # One thread: files are read in parallel, and several threads would each hold frames back.
        self.stream.codec_context.thread_count = 1
        self.position, self.time = -1, None
        self._decoded, self._frame, self._shown = self._decode(), None, None
        self.origin, self._reformatter = None, av.video.reformatter.VideoReformatter()
        fps = self.stream.average_rate or self.stream.guessed_rate or 0
        if not 0 < fps < math.inf:
            self.close()
            raise VideoError(f"the file gives no frame rate ({fps})")
        self.is_avi = self.container.format.name == "avi"
        self.key_frames, count = _index(self.stream, self.is_avi)
        first = self._next()
        size = self._squared(first or self.stream.codec_context)
        self.info = VideoInfo(float(fps), count, *(size[::-1] if first and _orientation(first)[0] else size))

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.container.close()

    def _decode(self):
        """The decoder's frames, without damaged ones."""
        with contextlib.suppress(av.FFmpegError):       # a file that breaks off
            for packet in on_one_line(self.container, self.stream):
                try:
                    frames = packet.decode()
                except (av.FFmpegError, ValueError):
                    continue
                yield from (frame for frame in frames if not frame.is_corrupt)

    def _next(self):
        """The next frame, or None; grab() gives it again."""
        first = next(self._decoded, None)
        if first is not None:
            self._decoded = itertools.chain([first], self._decoded)
        return first

    def grab(self):
        """Decode the next frame without converting it; False at the end of the video."""
        frame = next(self._decoded, None)
        if frame is None:
            return False
        self._frame = frame
        if frame.key_frame or self._shown is None:      # reading a frame's side data takes long
            self._shown = _orientation(frame)
        self.position += 1
        seconds = self._seconds(frame)
        self.origin = seconds if self.origin is None else self.origin
        seconds -= self.origin
        # Some frames carry no time, or an earlier one.
        if self.time is not None and seconds <= self.time:
            seconds = self.time + 1 / self.info.fps
        self.time = seconds
        return True

    def _counted(self):
        """Whether frames have to be counted: with B-frames an AVI's chunks are not in their order."""
        return self.is_avi and self.stream.codec_context.has_b_frames

    def _seconds(self, frame):
        if self._counted() or frame.time is None:
            return self.position / self.info.fps
        return frame.time

    def frame(self):
        """The frame last grabbed, uint8 (H, W, 3) RGB."""
        size = self._squared(self._frame)
        try:
            picture = self._reformatter.reformat(self._frame, *size, "rgb24", threads=1).to_ndarray()
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f"frame {self.position} cannot be decoded ({error})") from None
        turned, flip = self._shown
        picture = (picture.swapaxes(0, 1) if turned else picture)[flip]
        return fit_frame(np.ascontiguousarray(picture), self.info.width, self.info.height)

    def _squared(self, frame):
        return _squared(frame.width, frame.height, self.stream.sample_aspect_ratio)

    def advance(self, index, exact=True):
        """Go forward to frame `index`; False if there is none. exact: jump by the file's index only."""
        may_jump = self.key_frames is not None or not exact
        if index - self.position > NEAR and not self._counted() and may_jump:
            self._jump(index)
        while self.position < index:
            if not self.grab():
                return False
        return True

    def _jump(self, index):
        """Go to the last key frame before `index`, by the file's index or else by time; from the first frame
        again if that leads behind it, or to a frame whose time is not that of a number."""
        if self.origin is None and not self.grab():
            return
        fps, target = self.info.fps, index
        if self.key_frames is not None:
            target = int(self.key_frames[np.searchsorted(self.key_frames, index, "right") - 1])
            if target - self.position <= NEAR:
                return
        start = round(self.origin / self.stream.time_base)
        ticks = start + round(target / (self.stream.average_rate or 1) / self.stream.time_base)

        def right(seconds):
            return abs(seconds * fps - round(seconds * fps)) <= 0.1 and round(seconds * fps) <= index
        seconds = self._seek(ticks, right)
        if seconds is not None:
            self.position = round(seconds * fps) - 1
            self.time = self.position / fps

    def skip_to(self, seconds):
        """Go to the last key frame before this moment, if the file has an index. grab() then gives the frames
        from there on with their right times; `position` counts from there."""
        if seconds < NEAR / self.info.fps or not has_index(self.container) or self._counted() or \
                not self.grab():
            return
        ticks = round((self.origin + seconds) / self.stream.time_base)
        if self._seek(ticks, lambda there: there <= seconds) is not None:
            self.time = None

    def _seek(self, ticks, right):
        """Go to a key frame; the seconds of the next frame, or None if this fails. right: whether the frame
        of these seconds is wanted; if not, go on from the first one again."""
        try:
            self.container.seek(ticks, stream=self.stream, backward=True)
        except av.FFmpegError:
            return None
        self._decoded = self._decode()
        first = self._next()
        seconds = None if first is None or first.pts is None else self._seconds(first) - self.origin
        if seconds is not None and right(seconds):
            return seconds
        self.close()
        fresh = Video(self.path)
        self.container, self.stream, self._decoded = fresh.container, fresh.stream, fresh._decoded
        self.position, self.time, self.origin = -1, None, None
        return None

    def times(self):
        """Seconds of all frames that can be decoded, float64 (N,); reads the video to its end."""
        return np.array([self.time for _ in iter(self.grab, False)])


def has_index(container):
    """Whether files of this format have an index of key frames."""
    return any(name in INDEXED for name in container.format.name.split(","))


def on_one_line(container, picture, sound=None):
    """The packets of a film's pictures, and of its sound, with times that go on where recordings were joined:
    the later recording, pictures and sound alike, is moved to the end of the pictures before."""
    broadcast = container.format.flags & av.format.Flags.ts_discont.value
    back, limit = (SLIP, AHEAD) if broadcast else (BACK, math.inf)
    shifts, last, part, waiting = [0.0], {}, {}, deque()    # by recording; by stream: its time, recording
    latest, since = -math.inf, 0    # time of the recording's pictures so far; pictures since a jump
    streams = [s for s in (picture, sound) if s is not None]
    tick = {s.index: float(s.time_base or 0) for s in streams}
    for packet in container.demux(streams):
        index, ticks = packet.stream_index, packet.pts if packet.dts is None else packet.dts
        if ticks is not None:
            # A jump of the sound only is a pause
            now, number = ticks * tick[index], part.get(index, 0) if since < CALM else len(shifts) - 1
            before, shown = last.get(index, now), now if packet.pts is None else packet.pts * tick[index]
            if not before - back <= now <= before + limit:
                number, since = number + 1, 0
                if index == picture.index:
                    step = 1 / float(picture.average_rate or 25)
                    shifts.append(shifts[-1] + max(before - now, latest - shown) + step)
                    latest = shown
            if index == picture.index:
                latest, since = max(latest, shown), since + 1
            last[index], part[index] = now, number
        waiting.append((packet, part.get(index, 0)))
        while waiting and (waiting[0][1] < len(shifts) or since >= CALM):
            first, number = waiting.popleft()
            seconds = shifts[min(number, len(shifts) - 1)]
            yield _moved(first, seconds) if seconds else first
    yield from (_moved(packet, shifts[-1]) for packet, _ in waiting)


def _moved(packet, seconds):
    """The packet, that many seconds later."""
    ticks = round(seconds / packet.time_base)
    packet.pts = None if packet.pts is None else packet.pts + ticks
    packet.dts = None if packet.dts is None else packet.dts + ticks
    return packet


def _orientation(frame):
    """How a frame is shown: (whether rows and columns change places, the slices that mirror it then). The
    display matrix (ISO/IEC 14496-12, section 6.2.2) maps a pixel at (x, y) to (a x + c y, b x + d y)."""
    for data in frame.side_data:
        if data.type == av.sidedata.sidedata.Type.DISPLAYMATRIX:
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            turned = abs(a) + abs(d) < abs(b) + abs(c)
            across, down = (c, b) if turned else (a, d)
            return turned, tuple(slice(None, None, -1 if side < 0 else 1) for side in (down, across))
    return False, ()


def fit_frame(frame, wide, high):
    """The frame uint8 (H, W, 3) scaled into wide x high, black where its shape leaves room."""
    if frame.shape[:2] == (high, wide):
        return frame
    scale = min(wide / frame.shape[1], high / frame.shape[0])
    w, h = (max(1, min(limit, round(side * scale))) for limit, side in
            ((wide, frame.shape[1]), (high, frame.shape[0])))
    canvas, top, left = np.zeros((high, wide, 3), np.uint8), (high - h) // 2, (wide - w) // 2
    canvas[top:top + h, left:left + w] = cv2.resize(
        frame, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return canvas


def _squared(width, height, ratio):
    """(width, height) in square pixels of a picture whose pixels have this ratio of width to height."""
    if not ratio or abs(ratio - 1) < 0.01 or not 0.1 < ratio < 10:
        return width, height
    return max(1, round(width * float(ratio))), height


def _index(stream, is_avi):
    """(key frames (K,) or None, number of frames or 0) by the index in the file's head. None unless it lists
    every frame at one rate: a seek behind the place holder of a dropped frame would be off by one."""
    entries = stream.index_entries
    listed = len(entries)
    count = listed if is_avi else stream.frames
    if not listed or listed != (stream.frames or listed) or not entries[0].is_keyframe:
        return None, count
    times = np.array([entry.timestamp for entry in entries])
    steps = np.diff(times)
    left_out = is_avi and any(entry.size <= avi.EMPTY for entry in entries)
    if len(steps) and (steps != steps[0]).any() or left_out:
        return None, count
    return np.flatnonzero([entry.is_keyframe for entry in entries]), count


def open_container(path):
    """The opened container; VideoError: it is none."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise VideoError("the file does not exist" if isinstance(error, FileNotFoundError)
                         else error.strerror) from None
    for wrong, reason in ((stat.S_ISDIR(mode), "it is a folder"),
                          (not stat.S_ISREG(mode), "it is no file but a pipe or a device"),
                          (not os.path.getsize(path), "the file is empty"),
                          (not os.access(path, os.R_OK), "no permission to read the file")):
        if wrong:
            raise VideoError(reason)
    # discardcorrupt: a frame at which the file breaks off is left out, not completed with grey.
    options = {"fflags": "discardcorrupt", "protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        return av.open(_name(path), options=options)
    except (av.FFmpegError, ValueError, OSError):
        raise VideoError("no video in it that can be decoded") from None


def _name(path):
    """What PyAV opens: the absolute path ("http:x.avi" is an address), or an open file if it is not UTF-8."""
    whole = os.path.abspath(path)
    try:
        whole.encode()
        return f"file:{whole}"
    except UnicodeEncodeError:
        return open(whole, "rb")    # the container keeps it


def probe(path):
    """VideoInfo of a file; VideoError: it cannot be opened."""
    with Video(path) as video:
        return video.info


def read_frames(path, indices):
    """Frames uint8 (N, H, W, 3) RGB. indices: ascending, repeats allowed. VideoError: one is missing."""
    indices = [int(i) for i in indices]
    if not indices or indices[0] < 0 or indices != sorted(indices):
        raise ValueError(f"indices must be ascending and not negative: {indices}")
    frames = _of_our_own(path, indices)
    if frames is None:
        with Video(path) as video:
            frames = np.stack(frames_at(video, indices))
    return frames


def _of_our_own(path, indices):
    """read_frames of a file that avi.Writer finished, without opening its container, which takes as long as
    decoding three frames; None for other files, and if a frame is damaged."""
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
    """[uint8 (H, W, 3)] of an open Video at ascending indices; VideoError: one is missing."""
    frames = []
    for index in indices:
        repeated = frames and index == video.position
        if not video.advance(index):
            raise VideoError(f"frame {index} is not there: the video ends after {video.position + 1} frames")
        frames.append(frames[-1] if repeated else video.frame())
    return frames
