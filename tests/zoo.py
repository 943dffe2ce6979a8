"""Odd films of numbered frames, made with PyAV: encode(path, codec, ...), and ZOO, a maker by name."""
import contextlib
import math
import os
from fractions import Fraction

import av
import numpy as np
from videos import number_of, numbered

from lrcn.video.reader import Video
from lrcn.video.writer import Writer, even_sides

TICK, RATE = Fraction(1, 90_000), 48_000      # of frames' times; samples a second
GAP = [k / 25 for k in range(40)] + [2 + k / 25 for k in range(40, 80)]     # two seconds without a picture


def encode(path, codec="libx264", count=80, fps=25, width=64, height=48, pix_fmt="yuv420p", times=None,
           shift=0.0, ratio=None, flags=0, sound=None, container=None, **options):
    """`count` numbered frames at `times` (default: the rate) + shift seconds; the path.

    sound: (codec, samples a second, mono float32 (N,)), which begins at `shift` too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if times is not None or shift:
            stream.codec_context.time_base = TICK
        if ratio:
            stream.codec_context.sample_aspect_ratio = ratio
        stream.codec_context.flags |= flags
        heard = out.add_stream(sound[0], rate=sound[1], layout="mono") if sound else None
        base = stream.codec_context.time_base or 1 / rate
        for k in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(k, width, height), format="rgb24")
            seconds = (k / rate if times is None else Fraction(times[k])) + Fraction(shift)
            frame.pts, frame.time_base = round(seconds / base), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound:
            _, rate, wave = sound
            resampler = av.AudioResampler(heard.codec_context.format.name, "mono", rate,
                                          heard.codec_context.frame_size or 1024)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[None], np.float32), "fltp", "mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(shift * rate)
            for part in [*resampler.resample(frame), *resampler.resample(None), None]:
                out.mux(heard.encode(part))
    return path


def beeping(path, codec="libx264", sound="aac", count=150, times=None, **options):
    """A film, 25 frames a second unless `times` says else, that beeps for 0.1 s at every whole second."""
    t = np.arange(round((count / 25 if times is None else times[-1] + 0.04) * RATE)) / RATE
    wave = np.where(t % 1 < 0.1, 0.5 * np.sin(2 * np.pi * 1000 * t), 0).astype(np.float32)
    return encode(path, codec, count, times=times, sound=(sound, RATE, wave), **options)


def beeps(path):
    """(seconds at which a file begins to beep (N,), seconds until its sound ends)."""
    samples, end = np.zeros(RATE * 60, np.float32), 0
    with av.open(str(path)) as film:
        resampler = av.AudioResampler("flt", "mono", RATE)
        for frame in film.decode(audio=0):
            for part in resampler.resample(frame):
                first = round(float(frame.pts * frame.time_base) * RATE)
                end = first + part.samples
                samples[first:end] = part.to_ndarray()[0]
    loud = np.flatnonzero(np.abs(samples) > 0.1) / RATE
    return loud[np.diff(loud, prepend=-1) > 0.5], end / RATE


INTERLACED = 1 << 18 | 1 << 29      # AV_CODEC_FLAG_INTERLACED_DCT and _ME
ZOO = {
    "interlaced_mpeg4": (".avi", dict(codec="mpeg4", flags=INTERLACED)),
    "interlaced_mpeg2": (".mpg", dict(codec="mpeg2video", flags=INTERLACED)),
    "interlaced_h264": (".mp4", {"x264-params": "tff=1", "flags": INTERLACED}),
    "av1": (".webm", {"codec": "libsvtav1", "width": 128, "height": 96, "preset": "10", "crf": "20",
                       "svtav1-params": "enable-tf=0"}),
    "vp9": (".webm", dict(codec="libvpx-vp9", deadline="realtime", **{"cpu-used": "8"})),
    "ten_bit": (".mkv", dict(pix_fmt="yuv420p10le")),
    "hdr": (".mp4", {"codec": "libx265", "pix_fmt": "yuv420p10le",
                     "x265-params": "log-level=none:colorprim=bt2020:transfer=smpte2084:"
                                    "colormatrix=bt2020nc"}),
    "anamorphic": (".mp4", dict(ratio=Fraction(4, 3))),
    "variable_mkv": (".mkv", dict(times=GAP)),
    "variable_mp4": (".mp4", dict(times=GAP)),
    "edit_list": (".mp4", dict(bf="2", container={"use_editlist": "1"})),
    "shifted": (".mkv", dict(shift=1.5)),
    "b_frames": (".mp4", dict(bf="3", g="30")),
    "b_frames_avi": (".avi", dict(codec="mpeg4", bf="2")),
    "b_frames_h264_avi": (".avi", dict(bf="2", g="20")),
    "transport": (".ts", dict(bf="2")),
    "one": (".mp4", dict(count=1)),
    "four_k": (".mp4", dict(count=9, width=3840, height=2160, preset="ultrafast")),
    "odd": (".mkv", dict(codec="ffv1", width=63, height=47, pix_fmt="yuv444p")),
    **{f"fps_{fps}": (".mp4", dict(fps=rate)) for fps, rate in
       ((24, 24), (23, Fraction(24000, 1001)), (4, 4))},
}


def make(folder, name):
    ending, options = ZOO[name]
    path = encode(folder / f"{name}{ending}", **options)
    # Where root calls it SVT-AV1 gives its caller real-time priority, and all else stands still
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def times_of(name):
    """Seconds (N,) of the frames of a film of the zoo."""
    options = ZOO[name][1]
    return np.array(options.get("times") or
                    [k / float(options.get("fps", 25)) for k in range(options.get("count", 80))])


def written_again(source, target, until=math.inf):
    """A film written again as labelling does, every frame at its time, with its sound; the path."""
    with Video(source) as video, contextlib.ExitStack() as stack:
        out = None
        while video.grab() and video.time < until:
            frame = even_sides(video.frame())
            out = out or stack.enter_context(Writer(target, video.info.fps, *frame.shape[1::-1], source))
            out.write(frame, video.time)
    return target


def numbers_and_times(path):
    """(numbers that the frames of a film show, their seconds), two arrays (N,)."""
    with Video(path) as video:
        return np.array([(number_of(video.frame()), video.time) for _ in iter(video.grab, False)]).T
