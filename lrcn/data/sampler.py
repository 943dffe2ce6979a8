"""One video becomes one clip, in a worker process.

    kind, *detail = sample(job, raw="UCF-101", out="sampled", rank=0, count=5, rate=Rate(), seed=42)

The clip holds `count` frames, `rate` of a second, from a start that the seed and the video's name
alone decide.
"""
import contextlib
import hashlib
import math
import os
import re
from pathlib import Path

from lrcn.base.cli import UserError
from lrcn.base.files import OF_ONE_FILE, temporary_name
from lrcn.base.lazy import Lazy
from lrcn.data.likeness import Look
from lrcn.data.manifest import FLOW, clip_path
from lrcn.data.pictures import is_picture, read_picture
from lrcn.video.flow import sample_video
from lrcn.video.framefolder import opened
from lrcn.video.reader import VideoError, VideoInfo
from lrcn.video.sampling import read_clip
from lrcn.video.writer import write_clip

cv2 = Lazy("cv2")
av = Lazy("av")


def fraction(seed, job):
    """Where the clip starts, in [0, 1) of the possible starts: by the seed and the name alone."""
    digest = hashlib.sha256(f"{seed}/{job.cls}/{job.video}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2 ** 48


def outcome(make, target, rank):
    """What a worker did for one video: ("done", *make(write)), ("failed", reason) or ("full", errno, text).

    write(frames, fps) leaves the frames as the clip `target`, and returns how many there were.
    """
    cv2.setNumThreads(1)
    who = f"{rank}-{os.getpid()}"

    def write(frames, fps):
        try:
            return write_clip(target, frames, fps, who)
        except ValueError:
            raise VideoError("not one frame of it can be decoded") from None

    try:
        return "done", *make(write)
    except (VideoError, UserError, av.FFmpegError) as error:
        return "failed", str(error)
    except UnicodeEncodeError:
        return "failed", "the file's name is not UTF-8"
    except OSError as error:
        if error.filename and str(error.filename) not in (str(target), str(temporary_name(target, who))):
            return "failed", str(error)     # the source's own
        if error.errno in OF_ONE_FILE:
            return "failed", error.strerror
        return "full", error.errno, error.strerror
    except Exception as error:
        return "failed", " ".join(f"{type(error).__name__}: {error}".split())


def sample(job, raw, out, rank, count, rate, seed):
    """Write one clip; its outcome(): done with its row of the manifest, and of FACTS.

    count: its frames, or "all", in constant memory; a picture is a clip of one frame, whatever it is.
    """
    def make(write):
        job.source.encode()     # the manifest is UTF-8
        source, look, start, video = Path(raw, job.source), Look(), 0, None
        with contextlib.ExitStack() as opening:
            if is_picture(job.source):
                frames, spacing = [read_picture(source)], 1
                info = VideoInfo(rate.per_second, 1, *frames[0].shape[1::-1])
            elif count == "all":
                video = opening.enter_context(opened(source, rate.FPS))
                info, spacing = video.info, rate.spacing(video.info.fps)
                frames = (frame for _, _, frame, _ in sample_video(video, rate))
            else:
                frames, info, indices, spacing = read_clip(source, count, rate, fraction(seed, job))
                start = int(indices[0])
            written = write(look.at(frames), info.fps / spacing)
            there = video.position + 1 if video else info.frames    # whatever its head said
        row = [job.video, job.cls, job.source, f"{info.fps:.6g}", there, start, math.floor(spacing + 0.5),
               written]
        return row, [job.bytes, job.modified, *look.facts()]

    return outcome(make, clip_path(out, *job.key), rank)


def remove_leftovers(out, rank, world):
    """Delete what workers of this rank (of this launch or one before) were writing when they died."""
    for path in (*out.glob("*/.*.tmp.avi"), *out.glob(f"{FLOW}/*/.*.tmp.avi")):
        writer = re.search(r"\.(\d+)-\d+\.tmp\.avi$", path.name)
        if writer and int(writer[1]) % world == rank:
            path.unlink(missing_ok=True)
