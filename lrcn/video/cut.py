"""A stretch of a film as a film with its sound: encoded again, exact to the frame (cut), or copied as it is
stored, from a key frame on (copy). Its frames have start <= time < end, in seconds from the film's first.
"""
import contextlib
import functools
import itertools
import os

from lrcn.base import Lazy, cli, files
from lrcn.video.reader import Video, VideoError, fit_frame, has_index, on_one_line, open_container
from lrcn.video.writer import Sound, Writer, even_sides

av = Lazy("av")

SLACK = 0.0006      # seconds: stretches are written down in milliseconds


def frames_between(film, start, end):
    """Yields (seconds, frame uint8 (H, W, 3)) of a stretch of an open Video. VideoError: there is none."""
    empty = True
    film.skip_to(start)
    while film.grab() and film.time < end - SLACK:
        if film.time >= start - SLACK:
            empty = False
            yield film.time, film.frame()
    if empty:
        raise VideoError(f"no frame from {start:.3f} to {end:.3f} s")


def cut(source, target, start, end, most=None):
    """Write the stretch into `target`, an .mp4 of H.264 and AAC; yields the count of frames so far. most:
    pixels of the long side, at most, of a small film without sound. VideoError: no frame is there."""
    with contextlib.ExitStack() as stack:
        film, out = stack.enter_context(Video(source)), None
        for seconds, frame in frames_between(film, start, end):
            if most:
                scale = min(1, most / max(frame.shape[:2]))
                frame = fit_frame(frame, *(max(2, round(side * scale)) for side in frame.shape[1::-1]))
            frame = even_sides(frame)
            if out is None:
                first, sound = seconds, () if most else (source, (seconds, end))
                out = stack.enter_context(Writer(target, film.info.fps, *frame.shape[1::-1], *sound))
            out.write(frame, seconds - first)
            yield out.frames


def copy(source, target, start, end):
    """Copy the stretch, its pictures as they are stored, from the last key frame before it; (start, end) of
    the copy, in seconds. The sound is that of the same time. VideoError: pictures that an .mp4 cannot hold,
    or that are stored without times, or joined recordings, in which a time may be that of two pictures."""
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
            if getattr(error, "errno", None) in cli.FULL:
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
    """When a packet's picture is shown, in ticks; None for the last, empty packet."""
    return packet.dts if packet.pts is None else packet.pts


@functools.lru_cache(maxsize=16)
def _starts_over(source, _changed, number):
    """Whether the pictures' time stamps jump somewhere; in formats with an index they do not."""
    with open_container(source) as container:
        if has_index(container):
            return False
        stored = [packet.dts for packet in container.demux(container.streams[number])]
    with open_container(source) as container:
        return stored != [packet.dts for packet in on_one_line(container, container.streams[number])]


def _go_to_key(container, stream, origin, start):
    """Seek to the last key frame that is shown by `start`; its ticks. origin: those of the first picture."""
    key = None
    wanted = origin + round((start + SLACK) / stream.time_base)
    for back in (0, 10, start):     # some files' indexes lead behind the wanted place
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
    """Packets from that of `key` on, each with its time of decoding; a file may leave out the first ones."""
    early = []
    for packet in itertools.dropwhile(lambda packet: _shown(packet) != key, packets):
        if _shown(packet) is None:
            break
        early.append(packet)
        if packet.dts is not None:
            for before, after in reversed(list(itertools.pairwise(early))):
                before.dts = after.dts - max(1, before.duration or 1)
            yield from early
            early = []


def _copy_packets(container, stream, out, source, key, origin, end):
    """Copy the pictures' packets from that of `key` on, and the sound, into an open file; (start, end)."""
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
