"""What lies in a folder of sampled clips: the tables' columns, the clips' paths, and the videos in it.

    videos = read_sampled("sampled")                     # what preprocessing_data.py left
    clip_path("sampled", "Archery", "v_Archery_g01_c01")
"""
import contextlib
import functools
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.base.files import composed
from lrcn.data.groups import find_groups
from lrcn.video.sampling import Rate

MANIFEST_COLUMNS = ("video", "class", "source", "source_fps", "source_frames", "start", "stride", "frames")
# What else is known of a clip, in clips.csv: its source's bytes and time of change (ns), its size in
# pixels, mean and spread of its brightness, the change between its frames, and perceptual hashes.
FACTS = ("bytes", "modified", "width", "height", "light", "contrast", "change", "hashes")
CLIP_COLUMNS = ("video", "class", *FACTS)
FLOW = "optical_flow"
# Folders and files of the scripts beside the folders of the classes
RESERVED = ("features", "data_report", FLOW, "manifest.csv", "clips.csv", "failed.csv", "settings.json")
# The words of a folder's name that say a part, and those that say nothing: train_256, Validation, test-videos
PART_WORDS = {"train": "train", "training": "train", "trainval": "train", "val": "val", "valid": "val",
              "validation": "val", "validate": "val", "validating": "val", "dev": "val", "eval": "val",
              "evaluation": "val", "test": "test", "testing": "test", "tests": "test"}
PLAIN_WORD = re.compile(r"\d+|px?|x|sets?|splits?|parts?|lists?|data|datasets?|videos?|clips?|films?|frames?|"
                        r"rawframes|images?|imgs?|pictures?|rgb|small|mini|tiny|full|resized|folder")
SUFFIX = re.compile(r"(?<=.)(?=(?:set|split|data|videos?|clips)$)")


@dataclass(frozen=True)
class SampledVideo:
    """`<cls>/<name>.avi`, of `frames` frames: a row of the manifest, or, without frames, of a run's table.
    part: train, val or test, as the folder of its source says, or a split; else None. step: seconds from one
    of its frames to the next. label: 0, 1, ... of a run's classes."""
    name: str
    cls: str
    group: str
    frames: int = 1
    part: str | None = None
    step: float | None = None
    label: int | None = None
    key = property(lambda video: (video.cls, video.name))
    path = property(lambda video: f"{video.cls}/{video.name}.avi")


def clip_path(folder, cls, name):
    return Path(folder, cls, f"{name}.avi")


def part_named(folder):
    """(part, the other words that say something) of a folder's name, (None, "") where no part is in it."""
    words = [piece for word in re.findall(r"[^\W\d_]+|\d+", folder.lower()) for piece in SUFFIX.split(word)]
    parts = [word for word in words if word in PART_WORDS]
    if len(parts) != 1:
        return None, ""
    return PART_WORDS[parts[0]], " ".join(w for w in words if w != parts[0] and not PLAIN_WORD.fullmatch(w))


def part_folders(paths):
    """{folder: part} of the folders that stand on top of `paths` (with slashes) where they are the parts of a
    data set; empty where they are classes: what they are called besides their part is nothing, or the same
    of several parts, and train/ is one of them, with another or alone."""
    tops = {path.split("/")[0] for path in paths if "/" in path}
    told = {top: part_named(top) for top in {path.split("/")[0] for path in paths if path.count("/") > 1}}
    sure = {top: part for top, (part, rest) in told.items() if part and (
        not rest or any(other == rest and p not in (None, part) for p, other in told.values()))}
    parts = set(sure.values())
    return sure if "train" in parts and (len(parts) > 1 or len(tops) == 1) else {}


def part_of(source, cls):
    """The part that a source's path (with slashes) names: train, val, test, or None."""
    head, _, rest = composed(source).partition("/")
    return part_named(head)[0] if rest.startswith(f"{composed(cls)}/") else None


def read_sampled(folder, group_pattern=None, group_table=None):
    """[SampledVideo] of a folder that preprocessing_data.py wrote, in the manifest's order."""
    path = Path(folder) / "manifest.csv"
    if not path.is_file():
        raise UserError(f"--sampled_data_path {folder}: no manifest.csv in this folder; "
                        f"make it with preprocessing_data.py: videos, or frames as pictures, are its "
                        f"--row_data_dir (every frame of them: --sampling_rate source "
                        f"--num_frames_to_extract all)")
    rows = files.read_csv(path, MANIFEST_COLUMNS)
    if not rows:
        raise UserError(f"--sampled_data_path {folder}: its manifest.csv lists no video")
    groups = find_groups([(r["class"], r["video"]) for r in rows], group_pattern, group_table)
    settings = sampling_settings(folder) if (Path(folder) / "settings.json").is_file() else {}
    _say_fewer(str(path), len(rows), settings.get("clips"))
    rate, videos = Rate.of(settings), []
    for line, row in enumerate(rows, 2):
        inside = not {"/", os.sep, "\0"} & set(row["class"] + row["video"])
        inside = inside and row["class"] not in ("", ".", "..")
        count = row["frames"].isascii() and row["frames"].isdecimal() and len(row["frames"]) <= 9
        if not count or int(row["frames"]) < 1 or not inside:
            raise UserError(f"{path} line {line}: not a class, a video and a count of frames")
        step = None     # where the row tells no stride or rate
        with contextlib.suppress(ValueError):
            stride, fps = int(row["stride"]), float(row["source_fps"])
            if stride >= 1 and 0 < fps < math.inf:
                step = rate.step if rate.step and stride == rate.stride(fps) else stride / fps
        videos.append(SampledVideo(row["video"], row["class"], groups[row["class"], row["video"]],
                                   int(row["frames"]), part_of(row["source"], row["class"]), step))
    return videos


@functools.cache
def _say_fewer(path, rows, written):
    """Say once that a table does not hold the rows that settings.json counts: it may have been cut off."""
    if isinstance(written, int) and rows != written:
        cli.say(f"warning: {path} lists {rows} clips, and preprocessing_data.py wrote {written}: where "
                f"nobody edited it, it is damaged; run preprocessing_data.py again", file=sys.stderr)


def sampling_settings(folder):
    """The flags with which the clips were sampled: FPS, sampling_rate, num_frames_to_extract."""
    return files.read_json(Path(folder) / "settings.json")
