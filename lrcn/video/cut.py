"""A stretch of a film as a film of its own, with its sound: coded anew, exact to the frame (cut), or as it is
stored, from a key frame on (copy).

Seconds count from the film's first frame. A frame is in a stretch if its time is from the start until
before the end.
"""
import contextlib
import errno
import functools
import itertools
import os

from lrcn.base import Lazy, files
from lrcn.video.reader import Video, VideoError, has_index, on_one_line, open_container
from lrcn.video.writer import Sound, Writer, even_sides

av = Lazy("av")

SLACK = 0.0006      # seconds: stretches are written down in milliseconds


def frames_between(film, start, end):
    """Yields (seconds, frame uint8 (H, W, 3)) of an open Video from `start` until before `end`."""
    film.skip_to(start)
    while film.grab() and film.time < end - SLACK:
        if film.time >= start - SLACK:
            yield film.time, film.frame()


def cut(source, target, start, end):
    """Write the stretch into `target`, an .mp4 of H.264 and AAC; yields the count of frames so far.
    VideoError: no frame is there."""
    with contextlib.ExitStack() as stack:
        film, out = stack.enter_context(Video(source)), None
        for seconds, frame in frames_between(film, start, end):
            frame = even_sides(frame)
            if out is None:
                first, size = seconds, frame.shape[1::-1]
                out = stack.enter_context(Writer(target, film.info.fps, *size, source, (first, end)))
            out.write(frame, seconds - first)
            yield out.frames
        if out is None:
            raise VideoError(f"no frame from {start:.3f} to {end:.3f} s")


def copy(source, target, start, end):
    """Write the stretch as its pictures are stored, from the last key frame before it; (start, end) of
    what is in the file, in seconds. The sound is that of the same time. VideoError: pictures that an .mp4
    cannot hold, or that are not stored with their times, or where recordings were joined, so that a time
    does not say which picture is meant."""
    with Video(source) as film:
        if film.is_avi and film.stream.codec_context.has_b_frames:
            raise VideoError("its frames are stored without their times; leave --copy out")
        number, origin = film.stream.index, round((film.grab() and film.origin or 0) / film.stream.time_base)
    if _starts_over(source, os.stat(source).st_mtime_ns, number):
        raise VideoError("its time stamps start over where recordings were joined; leave --copy out")
    with open_container(source) as container, files.atomic(target) as temporary:
        stream, whole = container.streams[number], False
        try:
            key = _go_to_key(container, stream, origin, start)
            with av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as out:
                span = _copy_packets(container, stream, out, source, key, origin, end)
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            span = None
        with contextlib.suppress(VideoError), Video(temporary) as written:
            whole = written.grab()
        if span is None or not whole:
            raise VideoError(f"its pictures ({stream.codec_context.name}) cannot be copied into an .mp4; "
                             f"leave --copy out")
        if span[1] <= start:
            raise VideoError(f"no frame from {start:.3f} to {end:.3f} s")
    return span


def _shown(packet):
    """When a packet's picture is shown, in ticks; None for one without a time, as the last, empty one."""
    return packet.dts if packet.pts is None else packet.pts


@functools.lru_cache(maxsize=16)
def _starts_over(source, _changed, number):
    """Whether the time stamps of the pictures jump somewhere; those of formats with an index do not."""
    with open_container(source) as container:
        if has_index(container):
            return False
        stored = [packet.dts for packet in container.demux(container.streams[number])]
    with open_container(source) as container:
        return stored != [packet.dts for packet in on_one_line(container, container.streams[number])]


def _go_to_key(container, stream, origin, start):
    """Seek to, or before, the last key frame that is shown by `start`; its time in ticks. origin: that of the
    first picture."""
    key = None
    wanted = origin + round((start + SLACK) / stream.time_base)
    for back in (0, 10, start):     # some files' indexes lead behind what was asked for
        place = max(origin, wanted - round(back / stream.time_base))
        container.seek(place, stream=stream, backward=True)
        for packet in container.demux(stream):
            shown = _shown(packet)
            if shown is None or packet.is_keyframe and shown > wanted:
                break
            if packet.is_keyframe:
                key = shown
        if key is not None:
            container.seek(place, stream=stream, backward=True)
            return key
    raise ValueError("no key frame")


def _from_key(packets, key):
    """Packets from that of `key` on, each with the time of its decoding; a file may leave out the first."""
    early = []
    for packet in itertools.dropwhile(lambda packet: _shown(packet) != key, packets):
        if _shown(packet) is None:      # the last one, which is empty
            break
        early.append(packet)
        if packet.dts is not None:
            for before, after in reversed(list(itertools.pairwise(early))):
                before.dts = after.dts - max(1, before.duration or 1)
            yield from early
            early = []


def _copy_packets(container, stream, out, source, key, origin, end):
    """Put the pictures' packets from that of `key` on and the sound into an open file; (start, end)."""
    base, last = stream.time_base, 0.0
    begin, into = float((key - origin) * base), out.add_stream_from_template(stream)
    sound = Sound(source, out, (begin, end))
    for packet in _from_key(container.demux(stream), key):
        if float((packet.dts - origin) * base) >= end - SLACK:
            break
        packet.pts, packet.dts = _shown(packet) - key, packet.dts - key
        packet.stream = into
        last = max(last, float((packet.pts + (packet.duration or 0)) * base))
        sound.until(float(packet.dts * base))
        out.mux(packet)
    sound.finish(last)
    return begin, begin + last
