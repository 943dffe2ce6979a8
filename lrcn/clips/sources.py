"""Which videos a folder of raw videos holds: their class, their clip's name, and what is left out, and why.

    found = find_sources("my_videos")                           # every video of every class folder
    found = find_sources("UCF-101", lists=read_lists("ucfTrainTestlist"))   # those on the lists
    found.jobs          # [Job], sorted by class and name
    found.left_out      # [(file, reason)]
    found.words         # lines for the user

The class is the first folder below the one that is given, however deep the video lies; where train/
and test/ (or val/) stand on top, they are the parts, and the class is the folder below. With lists,
the class is the folder that the list names, or what Kinetics' table says of the file's name. A data
set is of videos or of pictures: those in the class folders themselves are clips of one frame, unless
there are videos. A folder of numbered pictures below a class's folder, or with a
name like v_<Class>_g01_c01, is a video too.
"""
import hashlib
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from lrcn.base.cli import UserError
from lrcn.clips import splits
from lrcn.clips.manifest import PART_FOLDERS, RESERVED
from lrcn.clips.pictures import PICTURES, is_picture
from lrcn.video.framefolder import frame_files, is_frame_folder
from lrcn.video.reader import EXTENSIONS

WHOLE_NAME = re.compile(r"v_(.+)_g\d+_c\d+")      # that says the class too


@dataclass(frozen=True)
class Job:
    """A video to sample. source: below --row_data_dir, with slashes; bytes, modified (ns): as it is now."""
    cls: str
    video: str
    source: str
    bytes: int = 0
    modified: int = 0

    @property
    def key(self):
        return self.cls, self.video


@dataclass
class Found:
    jobs: list
    left_out: list
    words: list = field(default_factory=list)


def find_sources(raw, leave_out=None, lists=None, classes=None):
    """Found in the folder `raw`. leave_out: a folder not to look into (resolved).

    lists: {split: (training [Listed], test [Listed])}; classes: names of those wanted. UserError
    where nothing is left.
    """
    raw = Path(raw)
    paths, left_out = _walk(raw, leave_out)
    if not paths:
        raise UserError(f"--row_data_dir {raw}: no class folder with videos or pictures in it "
                        f"({' '.join((*EXTENSIONS, *PICTURES))})")
    found = _listed(paths, lists) if lists else _foldered(paths, raw)
    found.left_out[:0] = left_out
    if not found.jobs:
        raise UserError(
            f"--row_data_dir {raw}: none of the listed videos is in this folder; is --ucf_list_dir the list "
            f"of these videos?" if lists else
            f"--row_data_dir {raw}: no class folder with videos in it; {len(paths)} videos lie in no folder")
    if classes:
        _choose(found, classes)
    names = {job.cls for job in found.jobs} & set(RESERVED)
    if names:
        raise UserError(f"--row_data_dir: a class folder cannot be named {names.pop()!r} (the scripts use "
                        f"that name); rename it")
    found.jobs = [Job(cls, name, source, *_stat(raw, source))
                  for cls, name, source in sorted((j.cls, j.video, j.source) for j in found.jobs)]
    return found


def _walk(folder, leave_out):
    """(relative paths, with slashes, of all videos; [(other file, reason)]), hidden ones passed over."""
    paths, others, top = [], [], os.fspath(folder)
    for root, folders, names in os.walk(top, followlinks=True):
        here = os.path.realpath(root)
        folders[:] = sorted(
            d for d in folders if not d.startswith(".")
            and (real := Path(root, d).resolve()) != leave_out and not f"{here}/".startswith(f"{real}/"))
        inside = os.path.relpath(root, top).replace(os.sep, "/")
        if is_frame_folder(names) and _is_video(inside):
            paths.append(inside)
            continue
        if not folders and not names and inside.lower().endswith(EXTENSIONS):
            others.append((inside, "it is a folder, and empty"))
        inside = "" if inside == "." else f"{inside}/"
        for name in sorted(names):
            ending = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if ending in EXTENSIONS or is_picture(name):
                paths.append(inside + name)
            else:
                others.append((inside + name, f"no video ({ending or 'no ending'})"))
    return paths, others


def _is_video(folder):
    """Whether a folder of numbered pictures (its path below the top) is a video: not a class's folder."""
    depth = folder.count("/") - (folder.split("/")[0].lower() in PART_FOLDERS)
    return depth > 0 or WHOLE_NAME.fullmatch(folder.rpartition("/")[2]) is not None


def _stat(raw, source):
    """(bytes, time of change in ns) of a file or of a folder's frames; zeros for a link to nothing."""
    path = os.path.join(raw, source)
    try:
        known = [os.stat(name) for name in (frame_files(path).values() if os.path.isdir(path) else [path])]
    except OSError:
        return 0, 0
    return sum(one.st_size for one in known), max(one.st_mtime_ns for one in known)


# ---------------------------------------------------------------- by folder

def _parted(paths):
    """Do train/ and test/ or val/ stand on top? One of them alone counts if nothing stands beside it."""
    tops = {path.split("/")[0] for path in paths if "/" in path}
    deep = {path.split("/")[0].lower() for path in paths if path.count("/") > 1}
    parts = {PART_FOLDERS[top] for top in deep if top in PART_FOLDERS}
    return "train" in parts and (len(parts) > 1 or len(tops) == 1)


def _foldered(paths, raw):
    parted, jobs, left_out = _parted(paths), [], []
    for path in paths:
        folders = path.split("/")[:-1]
        named = WHOLE_NAME.fullmatch(path)     # a folder of frames may lie in no class's folder
        if named:
            folders = [named[1]]
        if parted and folders and folders[0].lower() not in PART_FOLDERS:
            left_out.append((path, "beside train/ and test/, in none of them"))
        elif len(folders) <= parted:
            left_out.append((path, "in no class folder"))
        elif is_picture(path) and len(folders) > 1 + parted:
            left_out.append((path, "a picture that lies deeper than its class folder"))
        else:
            jobs.append((folders[parted], path))
    videos, words = [job for job in jobs if not is_picture(job[1])], []
    if videos and len(videos) < len(jobs):
        words.append(f"{len(jobs) - len(videos)} pictures beside {len(videos)} videos are left out: a data "
                     f"set is of one kind, and pictures alone become clips of one frame")
        left_out += [(path, "a picture beside videos") for _, path in jobs if is_picture(path)]
    named = _name(videos or jobs, parted)
    return Found(named, left_out, words + _say_folders(named, parted, raw))


def _name(jobs, parted):
    """[Job] of [(class, path)]: a clip is called by its path below the class, without its ending.

    Where two would have one name (a.mov beside a.mp4, train/A/1.mp4 and test/A/1.mp4), both get the
    ending, or the part, as well: whatever comes first, so that a name depends on the folder alone.
    """
    def whole(path):
        return _below(path, 1 + parted)

    def plain(path):
        return os.path.splitext(whole(path))[0]

    named, left = [], jobs
    for make in (plain, whole, lambda path: "_".join([*path.split("/")[:parted], plain(path)]),
                 lambda path: f"{_below(path, 0)}~{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"):
        same, taken = defaultdict(list), {job.key for job in named}
        for cls, path in left:
            same[cls, make(path)].append(path)
        left = []
        for key, paths in same.items():
            if len(paths) == 1 and key not in taken:
                named.append(Job(*key, paths[0]))
            else:
                left += [(key[0], path) for path in paths]
    return named


def _below(path, depth):
    return "_".join(path.split("/")[depth:]) or path


def _say_folders(jobs, parted, raw):
    """What the user should know of the folders that were taken for classes."""
    words, deep = [], sum(job.source.count("/") > 1 + parted for job in jobs)
    if parted:
        counts = Counter(PART_FOLDERS[job.source.split("/")[0].lower()] for job in jobs)
        words.append("parts by folder: " + ", ".join(f"{counts[p]} {p}" for p in splits.PARTS if counts[p]))
    if deep and deep == len(jobs) and len({job.cls for job in jobs}) == 1:
        inner = Path(raw, *jobs[0].source.split("/")[:1 + parted])
        words.append(f"warning: all {deep} videos are of one class, {jobs[0].cls!r}; if the folders in it "
                     f"are the classes, give --row_data_dir {inner}")
    elif deep:
        words.append(f"{deep} videos lie deeper than their class folder, the first one; the names of their "
                     f"clips hold the folders between")
    return words


# ---------------------------------------------------------------- by lists

def read_lists(folder):
    """{split: (training list, test list)} of every split that has lists in the folder."""
    folder = Path(folder)
    numbers = [n for n in (1, 2, 3) if (folder / f"trainlist{n:02d}.txt").is_file()
               or any(folder.glob(f"*_test_split{n}.txt"))]
    return {n: splits.official_lists(folder, n) for n in numbers or [1]}


def _listed(paths, lists):
    """The videos on any list; the words say how many of each list's videos are there."""
    rows = [row for pair in lists.values() for part in pair for row in part]
    listed = {(row.cls, row.video) for row in rows}
    alone = {row.video: row.cls for row in rows if splits.KINETICS_NAME.fullmatch(row.video)}
    # Frames lie in no class's folder, and HandStandPushups is spelled HandstandPushups there.
    spelled = {row.video.lower(): row for row in rows if WHOLE_NAME.fullmatch(row.video)}
    jobs, left_out = {}, []
    for path in sorted(paths, key=lambda path: (is_picture(path), path)):
        *folders, file = path.split("/")
        name = os.path.splitext(file)[0]
        cls = next((f for f in reversed(folders) if (f, name) in listed), alone.get(name))
        if cls is None and not os.path.splitext(file)[1] and name.lower() in spelled:
            cls, name = spelled[name.lower()].cls, spelled[name.lower()].video
        if cls is None:
            left_out.append((path, "on no list"))
        elif (cls, name) in jobs:
            left_out.append((path, f"the listed {cls}/{name} is {jobs[cls, name].source}"))
        else:
            jobs[cls, name] = Job(cls, name, path)
    words = []
    for split, parts in lists.items():
        counts = []
        for part, what in zip(parts, ("training", "test"), strict=True):
            keys = {(row.cls, row.video) for row in part}
            counts.append(f"{len(keys & jobs.keys())} of {len(keys)} listed {what} videos present")
        words.append(f"split {split}: {', '.join(counts)}")
    return Found(list(jobs.values()), left_out, words)


def _choose(found, classes):
    """Leave out the jobs of other classes; UserError for a wanted one that has no video."""
    there, wanted = {job.cls for job in found.jobs}, set(classes)
    absent = [cls for cls in classes if cls not in there]
    if absent:
        raise UserError(f"--classes {','.join(classes)}: no video of {absent[0]}; there are "
                        f"{', '.join(sorted(there)[:10])}{' ...' if len(there) > 10 else ''}")
    found.left_out += [(job.source, "of another class") for job in found.jobs if job.cls not in wanted]
    found.jobs = [job for job in found.jobs if job.cls in wanted]


def class_names(text):
    """--classes A,B,...: the names, sorted, each once."""
    names = sorted({name.strip() for name in text.split(",")} - {""})
    if not names:
        raise ValueError(text)
    return names
