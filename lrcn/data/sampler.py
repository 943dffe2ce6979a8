"""One video becomes one clip, in a worker process.

    outcome = sample(job, raw="UCF-101", out="sampled", rank=0, count=5, rate=Rate(), seed=42)

The clip holds `count` frames, `rate` of a second, from a start that the seed and the video's name
alone decide.
"""
import hashlib
import math
import os
import re
from pathlib import Path

import cv2

from lrcn.base.files import OF_ONE_FILE
from lrcn.data.likeness import Look
from lrcn.data.manifest import FLOW, clip_path
from lrcn.data.pictures import is_picture, read_picture
from lrcn.video.framefolder import opened
from lrcn.video.reader import VideoError, VideoInfo
from lrcn.video.sampling import read_clip, sample_video
from lrcn.video.writer import write_clip


def fraction(seed, job):
    """Where the clip starts, in [0, 1) of the possible starts: by the seed and the name alone."""
    digest = hashlib.sha256(f"{seed}/{job.cls}/{job.video}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2 ** 48


def sample(job, raw, out, rank, count, rate, seed):
    """Write one clip. count: its frames, or "all".

    Returns ("done", row of the manifest, row of FACTS), ("failed", reason) or ("full", errno, text).
    """
    cv2.setNumThreads(1)
    source = Path(raw, job.source)
    try:
        job.source.encode()     # the manifest is UTF-8
        if is_picture(job.source):
            return _write_picture(job, source, out, rank, rate)
        if count == "all":
            return _write_whole(job, source, out, rank, rate)
        frames, info, indices, spacing = read_clip(source, count, rate, fraction(seed, job))
    except (VideoError, OSError) as error:
        return "failed", str(error)
    except UnicodeEncodeError:
        return "failed", "the file's name is not UTF-8"
    except Exception as error:
        return "failed", " ".join(f"{type(error).__name__}: {error}".split())
    return _write(job, info, frames, indices[0], spacing, out, rank)


def _write_picture(job, source, out, rank, rate):
    """A picture as a clip of one frame, whatever `count` is: of the rate that videos are sampled to."""
    frame = read_picture(source)
    info = VideoInfo(rate.per_second, 1, *frame.shape[1::-1])
    return _write(job, info, [frame], 0, 1, out, rank)


def _write_whole(job, source, out, rank, rate):
    """All sampled frames of a video, in constant memory."""
    with opened(source, rate.FPS) as video:
        frames = (frame for _, _, frame in sample_video(video, rate))
        try:
            kind, *detail = _write(job, video.info, frames, 0, rate.spacing(video.info.fps), out, rank)
        except ValueError:
            raise VideoError("not one frame of it can be decoded") from None
        if kind == "done":
            detail[0][4] = video.position + 1      # the frames that there were, whatever its head said
        return kind, *detail


def _write(job, info, frames, start, spacing, out, rank):
    """Write `frames` (any iterable) as the job's clip; sample()'s outcome."""
    target, look = clip_path(out, job.cls, job.video), Look()
    temporary = target.with_name(f".{target.stem}.{rank}-{os.getpid()}.tmp.avi")
    try:
        written = write_clip(target, look.at(frames), info.fps / spacing, temporary)
    except OSError as error:
        kind = ["failed"] if error.errno in OF_ONE_FILE else ["full", error.errno]
        return *kind, error.strerror
    row = [job.video, job.cls, job.source, f"{info.fps:.6g}", info.frames, int(start),
           math.floor(spacing + 0.5), written]
    return "done", row, [job.bytes, job.modified, *look.facts()]


def remove_leftovers(out, rank, world):
    """Delete what workers of this rank (of this launch or one before) were writing when they died."""
    for path in (*out.glob("*/.*.tmp.avi"), *out.glob(f"{FLOW}/*/.*.tmp.avi")):
        writer = re.search(r"\.(\d+)-\d+\.tmp\.avi$", path.name)
        if writer and int(writer[1]) % world == rank:
            path.unlink(missing_ok=True)
