"""What lies in a folder of sampled clips: the tables' columns, the clips' paths, and the videos in it."""
import contextlib
import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from lrcn.base import UserError, cli, files
from lrcn.base.files import composed
from lrcn.data.groups import WHOLE_NAME, find_groups
from lrcn.data.review import TABLE, read_review
from lrcn.data.split_lists import read_lists
from lrcn.video import avi
from lrcn.video.reader import VideoError, probe
from lrcn.video.sampling import Rate

MANIFEST_COLUMNS = ("video", "class", "source", "source_fps", "source_frames", "start", "stride", "frames")
# Of a clip, in clips.csv: its source's bytes and time of change (ns), its size in pixels, mean and spread of
# its brightness, the change between its frames, and perceptual hashes.
FACTS = ("bytes", "modified", "width", "height", "light", "contrast", "change", "hashes")
CLIP_COLUMNS = ("video", "class", *FACTS)
FLOW = "optical_flow"
# Folders and files of the scripts beside the folders of the classes
RESERVED = ("features", "data_report", FLOW, "manifest.csv", "clips.csv", "failed.csv", "settings.json",
            TABLE)
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
    part: train, val or test, by a split or its source's folder. step: seconds between its frames. label: its
    class's number in a run. file: its path, where that is another. was: its key before a review."""
    name: str
    cls: str
    group: str
    frames: int = 1
    part: str | None = None
    step: float | None = None
    label: int | None = None
    file: str | None = None
    was: tuple | None = None
    key = property(lambda video: (video.cls, video.name))
    origin = property(lambda video: video.was or video.key)
    path = property(lambda video: video.file or f"{video.cls}/{video.name}.avi")

    def in_table(self, table):
        """Its value in {(class, video): value}, by its key after a review or before; None: it has none."""
        return table.get(self.key, table.get(self.origin))


def clip_path(folder, cls, name):
    return Path(folder, cls, f"{name}.avi")


def part_named(folder):
    """(part, the other words that say something) of a folder's name; (None, "") where it names no part."""
    words = [piece for word in re.findall(r"[^\W\d_]+|\d+", folder.lower()) for piece in SUFFIX.split(word)]
    parts = [word for word in words if word in PART_WORDS]
    if len(parts) != 1:
        return None, ""
    return PART_WORDS[parts[0]], " ".join(w for w in words if w != parts[0] and not PLAIN_WORD.fullmatch(w))


def part_folders(paths):
    """{folder: part} of the top folders of `paths` (with slashes) where they are the parts of a data set,
    else {}: their other words are none, or the same in several parts, and train/ is among them, or alone."""
    tops = {path.split("/")[0] for path in paths if "/" in path}
    told = {top: part_named(top) for top in {path.split("/")[0] for path in paths if path.count("/") > 1}}
    sure = {top: part for top, (part, rest) in told.items() if part and (
        not rest or any(other == rest and p not in (None, part) for p, other in told.values()))}
    parts = set(sure.values())
    return sure if "train" in parts and (len(parts) > 1 or len(tops) == 1) else {}


def part_of(source, cls):
    """The part in a source's path (with slashes): train, val, test, or None."""
    head, _, rest = composed(source).partition("/")
    return part_named(head)[0] if rest.startswith(f"{composed(cls)}/") else None


def _flat_rows(folder, lists):
    """Rows as the manifest's, and the `file`, of another program's clips, which lie in the folder itself,
    without a table: their class is that of the lists, or of their name, v_<Class>_g01_c01."""
    spelled = {row.video.lower(): row.key for pair in lists.values() for part in pair for row in part}
    rows, left_out = [], []
    for file in sorted(name for name in os.listdir(folder) if re.fullmatch(r"[^.].*\.avi", name, re.I)):
        name, path = file[:-len(".avi")], Path(folder, file)
        cls, name = spelled.get(name.lower(), ((match := WHOLE_NAME.fullmatch(name)) and match[1], name))
        frames = None
        with contextlib.suppress(VideoError):
            frames = cls and (avi.frames_in(path) or probe(path).frames)
        if frames:
            rows.append(dict.fromkeys(MANIFEST_COLUMNS, "") | {
                "class": cls, "video": name, "source": file, "frames": str(frames), "file": file})
        else:
            left_out.append(file)
    if rows:
        counts = {int(row["frames"]) for row in rows}
        cli.say_once(f"{folder} has no manifest.csv: its {len(rows)} clips are taken as they are, of "
                     f"{' to '.join(map(str, sorted({min(counts), max(counts)})))} frames")
        if left_out:
            cli.say_once(f"warning: {len(left_out)} clips there are left out, because they are broken, on no "
                         f"list, or not called v_<Class>_gNN_cNN: {cli.first(left_out, 3)}", file=sys.stderr)
    return rows


def read_sampled(folder, group_pattern=None, group_table=None, list_dir=None):
    """[SampledVideo] of a folder that preprocessing_data.py wrote, in the manifest's order, or of a folder of
    clips without a manifest, whose classes the split lists in list_dir tell."""
    path, rows = Path(folder) / "manifest.csv", []
    if path.is_file():
        rows = files.read_csv(path, MANIFEST_COLUMNS)
    elif Path(folder).is_dir():
        rows = _flat_rows(folder, read_lists(list_dir) if list_dir and Path(list_dir).is_dir() else {})
    if not rows:
        raise UserError(f"--sampled_data_path {folder}: no manifest.csv in this folder, or no clip in it; "
                        f"make it with preprocessing_data.py --row_data_dir FOLDER, of videos or frames as "
                        f"pictures (every frame: --sampling_rate source --num_frames_to_extract all)")
    reviewed = {decision.source: decision.origin for decision in read_review(folder)}
    origins = [reviewed.get(r["source"], (r["class"], r["video"])) for r in rows]
    groups = find_groups(origins, group_pattern, group_table)
    settings = sampling_settings(folder)
    rate, written, videos = Rate.of(settings), settings.get("clips"), []
    if isinstance(written, int) and len(rows) != written:
        cli.say_once(f"warning: {path} lists {len(rows)} clips, and preprocessing_data.py wrote {written}: "
                     f"unless you edited it, it is damaged; run preprocessing_data.py again", file=sys.stderr)
    for line, (row, origin) in enumerate(zip(rows, origins, strict=True), 2):
        if {"/", os.sep, "\0"} & set(row["class"] + row["video"]) or row["class"] in ("", ".", "..") or \
                not re.fullmatch("0{0,8}[1-9][0-9]{0,8}", row["frames"]):
            raise UserError(f"{path} line {line}: not a class, a video and a count of frames")
        step = None     # where the row tells no stride or rate
        with contextlib.suppress(ValueError):
            stride, fps = int(row["stride"]), float(row["source_fps"])
            if stride >= 1 and 0 < fps < math.inf:
                step = rate.step if rate.step and stride == rate.stride(fps) else stride / fps
        key = row["class"], row["video"]
        videos.append(SampledVideo(row["video"], row["class"], groups[origin], int(row["frames"]),
                                   part_of(row["source"], origin[0]), step, file=row.get("file"),
                                   was=origin if origin != key else None))
    return videos


def sampling_settings(folder):
    """The settings.json of sampled clips: FPS, sampling_rate, num_frames_to_extract ...; {} without one."""
    path = Path(folder) / "settings.json"
    return files.read_json(path) if path.is_file() else {}
