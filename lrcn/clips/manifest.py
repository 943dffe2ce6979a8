"""Sampled videos, the clips cut from them, and their frames as an encoder takes them.

    videos = read_sampled("sampled")                     # what preprocessing_data.py left
    clip = training_clip(videos[0], 5, view=2, seed=42)  # which frames, which crop
    frames = clip_frames("sampled", clip, transform, seed=42)   # uint8 (5, S, S, 3)

A view is one way to see a video: view 0 is plain (centre crop, middle window), every other has a
random crop and flip, the same for all frames of the clip, and where the sampled video is longer
than the clip a random window. A view depends on the seed, the video's name and its number alone.
View -1 is the plain one in the mirror, for testing.
"""

from dataclasses import dataclass
from pathlib import Path

from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.clips import splits

MANIFEST_COLUMNS = ("video", "class", "source", "source_fps", "source_frames", "start", "stride", "frames")


@dataclass(frozen=True)
class SampledVideo:
    """One row of the manifest: `<cls>/<name>.avi` holds `frames` frames."""
    name: str
    cls: str
    group: str
    frames: int

    @property
    def path(self):
        return f"{self.cls}/{self.name}.avi"


def read_sampled(folder, group_pattern=None, group_table=None):
    """[SampledVideo] of a folder that preprocessing_data.py wrote, in the manifest's order."""
    path = Path(folder) / "manifest.csv"
    if not path.is_file():
        raise UserError(f"--sampled_data_path {folder}: no manifest.csv in this folder; "
                        f"make it with preprocessing_data.py")
    rows = files.read_csv(path, MANIFEST_COLUMNS)
    if not rows:
        raise UserError(f"--sampled_data_path {folder}: its manifest.csv lists no video")
    groups = splits.find_groups([(r["class"], r["video"]) for r in rows], group_pattern, group_table)
    videos = []
    for line, row in enumerate(rows, 2):
        inside = not {"/", "\\", "\0"} & set(row["class"] + row["video"])
        inside = inside and row["class"] not in ("", ".", "..")
        count = row["frames"].isascii() and row["frames"].isdecimal() and len(row["frames"]) <= 9
        if not count or int(row["frames"]) < 1 or not inside:
            raise UserError(f"{path} line {line}: not a class, a video and a count of frames")
        videos.append(SampledVideo(row["video"], row["class"], groups[row["class"], row["video"]],
                                   int(row["frames"])))
    return videos


def sampling_settings(folder):
    """The flags with which the clips were sampled: FPS, sampling_rate, num_frames_to_extract."""
    return files.read_json(Path(folder) / "settings.json")
