"""One video, or one picture, becomes one clip, in a worker process: `count` frames, `rate` of a second, from
a start that the seed and the video's name alone decide; of a picture, that one."""
import contextlib
import functools
import hashlib
import math
import os
import re
import warnings
from pathlib import Path

import numpy as np

from lrcn.base import Lazy, UserError
from lrcn.base.files import OF_ONE_FILE, temporary_name
from lrcn.data.likeness import Look
from lrcn.data.manifest import FLOW, clip_path
from lrcn.video.flow import fields_at, sample_video
from lrcn.video.framefolder import opened
from lrcn.video.reader import VideoError, VideoInfo
from lrcn.video.sampling import read_clip
from lrcn.video.writer import write_clip

Image = Lazy("PIL.Image")
ImageOps = Lazy("PIL.ImageOps")
cv2 = Lazy("cv2")
av = Lazy("av")

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")        # of the file itself, whatever its ending
SHORT_SIDE = 1080


def attempt(make, job, out, rank, **options):
    """What a worker did for one video: ("done", make(job, write, ...)), ("failed", reason) or ("full",
    (errno, text)). write(frames, fps) writes the job's clip in `out` and returns its count of frames."""
    cv2.setNumThreads(1)
    target, who = clip_path(out, *job.key), f"{rank}-{os.getpid()}"
    own = [str(path) for path in (target, temporary_name(target, who), target.parent)]
    try:
        target.parent.mkdir(exist_ok=True)
        return "done", make(job, functools.partial(write_clip, target, who=who), **options)
    except (VideoError, UserError, av.FFmpegError) as error:
        return "failed", str(error)
    except UnicodeEncodeError:
        return "failed", "the file's name is not UTF-8"
    except OSError as error:
        if error.filename and str(error.filename) not in own:
            return "failed", str(error)     # an error of the source
        if error.errno in OF_ONE_FILE:
            return "failed", error.strerror
        return "full", (error.errno, error.strerror)
    except Exception as error:
        return "failed", " ".join(f"{type(error).__name__}: {error}".split())


@contextlib.contextmanager
def moments(job, raw, count, rate, seed, flow=None):
    """(VideoInfo, spacing, first number, iterator of (number, frame, its fields of `flow` or None)) of the
    source's frames that a clip holds: `count`, or "all" in constant memory; of a picture one. After the last
    one info.frames is the number of frames that the source really has."""
    def every(video):
        for number, _, frame, fields in sample_video(video, rate, flow):
            yield number, frame, fields
        video.info.frames = video.position + 1

    source = Path(raw, job.source)
    if is_picture(job.source):
        frame = read_picture(source)
        yield VideoInfo(rate.per_second, 1, *frame.shape[1::-1]), 1, 0, [(0, frame, None)]
    elif count == "all":
        with opened(source, rate.FPS) as video:
            yield video.info, rate.spacing(video.info.fps), 0, every(video)
    else:
        # It starts in [0, 1) of the possible starts by the seed and the name alone, whatever a review says.
        digest = hashlib.sha256(f"{seed}/{'/'.join(job.origin)}".encode("utf-8", "surrogateescape")).digest()
        fraction = int.from_bytes(digest[:6], "big") / 2 ** 48
        frames, info, numbers, spacing = read_clip(source, count, rate, fraction)
        fields = fields_at(source, numbers, flow) if flow else [None] * count
        yield info, spacing, int(numbers[0]), zip(numbers, frames, fields, strict=True)


def sample(job, write, raw, count, rate, seed):
    """Write one clip; its row of the manifest and FACTS."""
    job.source.encode()     # the manifest is UTF-8
    look = Look()
    with moments(job, raw, count, rate, seed) as (info, spacing, start, frames):
        written = write(look.at(frame for _, frame, _ in frames), info.fps / spacing)
    return [job.video, job.cls, job.source, f"{info.fps:.6g}", info.frames, start, math.floor(spacing + 0.5),
            written, job.bytes, job.modified, *look.facts()]


def remove_leftovers(out, rank, world):
    """Delete what workers of this rank (of this launch or one before) were writing when they died."""
    for path in (*out.glob("*/.*.tmp.avi"), *out.glob(f"{FLOW}/*/.*.tmp.avi")):
        writer = re.search(r"\.(\d+)-\d+\.tmp\.avi$", path.name)
        if writer and int(writer[1]) % world == rank:
            path.unlink(missing_ok=True)


def is_picture(path):
    return os.path.splitext(path)[1].lower() in PICTURES


def read_picture(path):
    """uint8 (H, W, 3) RGB, turned as its EXIF data say, its short side at most SHORT_SIDE, transparent parts
    white. VideoError: it is broken, or, before any memory is taken, larger than Pillow's 89 megapixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                frame = _as_rgb(ImageOps.exif_transpose(picture))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise VideoError(f"more than {Image.MAX_IMAGE_PIXELS // 1_000_000} megapixels are not read") from None
    except (FileNotFoundError, PermissionError) as error:
        raise VideoError(error.strerror) from None
    except Exception:       # Pillow's decoders raise almost anything for a broken file
        raise VideoError("a broken picture, or not a picture") from None
    scale = SHORT_SIDE / min(frame.shape[:2])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in frame.shape[1::-1]]
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return frame


def _as_rgb(picture):
    """The pixels of a Pillow picture of any mode."""
    if picture.mode.startswith("I"):    # 16 bits a pixel, which convert() would clip at 255
        grey = np.asarray(picture).astype(np.float32)
        grey = (grey / 257 if grey.max() > 255 else grey).clip(0, 255).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, 2)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.array(picture.convert("RGB"))
