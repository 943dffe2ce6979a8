"""Which videos a folder of raw videos holds: their class, their clip's name, and what is left out, and why.

The class is the first folder below the given one, however deep the video lies; where train/ and test/ (or
val/) stand on top, they are the parts, and the class is the folder below. With lists, the class is the folder
that the list names, or what Kinetics' table says of the file's name. A file in no class folder has the class
of its name, v_<Class>_g01_c01.avi. A data set is of videos, or of pictures, which are clips of one frame; but
a folder of numbered pictures below a class folder, or with a name like v_<Class>_g01_c01, is a video, and so
are pictures in a class folder whose names show sequences.
"""
import hashlib
import itertools
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from lrcn.base import UserError, cli, files
from lrcn.base.files import composed
from lrcn.data.groups import CAMERA, KINETICS_NAME, WHOLE_NAME, tells_clip
from lrcn.data.manifest import RESERVED, part_folders, part_named
from lrcn.data.review import LONGEST, TABLE, followed
from lrcn.data.sampler import PICTURES, is_picture
from lrcn.data.split_lists import one_sided, present
from lrcn.data.splits import counted
from lrcn.video.framefolder import NUMBERED, holds_frames, series, series_at
from lrcn.video.reader import EXTENSIONS

LEAST = 4           # pictures of a sequence
JOINT = re.compile(r"[-_. ]*(?:frame|image|img)?[-_. ]*$", re.IGNORECASE)    # of a video's name and a number
OWN_NUMBER = re.compile(r"(?<!\d)\d{1,5}(?!\d)")     # of a video; a longer one is a date or a time


@dataclass(frozen=True)
class Job:
    """A video to sample. source: its path below --row_data_dir, with slashes; bytes, modified (ns): of it
    now; was: its key without a review.csv that gives it another class."""
    cls: str
    video: str
    source: str
    bytes: int = 0
    modified: int = 0
    was: tuple | None = None
    key = property(lambda job: (job.cls, job.video))
    origin = property(lambda job: job.was or job.key)


@dataclass
class Sources:
    jobs: list          # [Job], sorted by class and name
    left_out: list      # [(file, reason)]
    notes: list         # lines for the user
    reviewed: set = field(default_factory=set)  # sources that a review.csv knows


def find_sources(raw, leave_out=None, lists=None, classes=None, stills=False, reviews=()):
    """The Sources in a folder. leave_out: a folder not to look into (resolved); lists: {split: (training
    [Listed], test [Listed])}; classes: names of those wanted; stills: pictures are no sequences; reviews: the
    [Decision] of tables, to be followed one after the other. UserError where nothing is left."""
    raw = Path(raw)
    paths, left_out, unclear = _walk(raw, leave_out, lists or {})
    paths, note = (paths, "") if stills else _sequences(paths)
    sources = _listed(paths, lists) if lists else _foldered(paths, raw)
    sources.left_out[:0] = left_out + unclear
    sources.notes[:0] = [note] * bool(note)
    for decisions in filter(None, reviews):
        before = {job.source: job.cls for job in sources.jobs}
        sources.jobs, dropped, reviewed = followed(sources.jobs, decisions)
        sources.left_out += dropped
        sources.reviewed |= reviewed
        changed = sum(before[job.source] != job.cls for job in sources.jobs)
        sources.notes.append(f"{TABLE}: of {len(reviewed)} clips that it knows {changed} have another class, "
                             f"and {len(dropped)} are left out")
    if unclear:
        sources.notes.append(f"warning: {len(unclear)} folders of pictures are left out, such as "
                             f"{unclear[0][0]}: {unclear[0][1]}")
    if not sources.jobs:
        reasons = Counter(reason for _, reason in sources.left_out)
        why = "; ".join(f"{number} left out: {reason}" for reason, number in reasons.most_common(3))
        raise UserError(f"--row_data_dir {raw}: " + (
            "none of the listed videos is in it; is --ucf_list_dir the list of these videos?" if lists else
            f"no class folder with videos or pictures in it; {why}"))
    if classes:
        wanted = chosen_classes(classes, sorted({job.cls for job in sources.jobs}), "no video of")
        sources.left_out += [(j.source, "of another class") for j in sources.jobs if j.cls not in wanted]
        sources.jobs = [job for job in sources.jobs if job.cls in wanted]
    if names := {job.cls for job in sources.jobs} & set(RESERVED):
        raise UserError(f"--row_data_dir: a class folder cannot be named {names.pop()!r} (the scripts use "
                        f"that name); rename it")
    sources.jobs = [Job(*job.key, job.source, *_stat(raw, job.source), job.was)
                    for job in sorted(sources.jobs, key=lambda job: (*job.key, job.source))]
    return sources


def _walk(top, leave_out, lists):
    """(paths below `top`, with slashes, of all videos and pictures; [(other file, reason)]; [(folder of
    pictures, why their video is not clear)])."""
    paths, others, unclear, endings = [], [], [], (*EXTENSIONS, *PICTURES)
    walked = [("" if root == os.fspath(top) else f"{Path(root).relative_to(top).as_posix()}/", folders, names)
              for root, folders, names in files.walk(top, "row_data_dir", leave_out)]
    parts = part_folders([f"{inside}{name}" for inside, _, names in walked for name in names
                          if name.lower().endswith(endings)])
    listed = {row.video for pair in lists.values() for rows in pair for row in rows}
    for inside, folders, names in walked:
        folder, called = inside[:-1], inside[:-1].rpartition("/")[2]
        # a class folder holds clips of one frame
        below_class = folder.count("/") > (folder.split("/")[0] in parts)
        may_be_video = below_class or WHOLE_NAME.fullmatch(called) or composed(called) in listed
        if may_be_video and any(map(NUMBERED.fullmatch, names)) and not any(
                name.lower().endswith(EXTENSIONS) and name[-4:].lower() != ".gif" for name in names):
            fault = series(names).fault
            paths += [] if fault else [folder]
            unclear += [(folder, fault)] if fault else []
            continue
        if not folders and not names and folder.lower().endswith(EXTENSIONS):
            others.append((folder, "it is a folder, and empty"))
        for name in names:
            ending = os.path.splitext(name)[1].lower()
            if ending in endings:
                paths.append(inside + name)
            else:
                others.append((inside + name, f"no video ({ending or 'no ending'})"))
    return paths, others, unclear


def _sequences(paths):
    """(the paths, in which `<folder>/<word>*` stands for the numbered pictures of a sequence; a note, or "").

    The word before a picture's number names a sequence where it is a clip's name, v_Jump_g01_c01-0001.jpg, or
    where its numbers have one step and there are more such words than folders: one word a folder is a
    camera's, and find_clips.py's numbers are times. Nearly all pictures are in sequences, or none is."""
    numbered, sequences, sure = defaultdict(list), {}, 0      # {(folder, word): [(number, path)]}
    for path in paths:
        if not is_picture(path):
            return paths, ""
        folder, slash, name = path.rpartition("/")
        if match := NUMBERED.fullmatch(name):
            numbered[folder + slash, match[1]].append((int(match[2]), path))
    for (folder, word), pictures in numbered.items():
        numbers = sorted(number for number, _ in pictures)
        steps = {after - before for before, after in itertools.pairwise(numbers)}
        told = tells_clip(_stem(f"{word}*"))
        stills = tells_clip(_stem(pictures[0][1].rpartition("/")[2])) or (
            CAMERA.fullmatch(word) and not OWN_NUMBER.search(word))
        if (told or not stills) and len(numbers) >= LEAST and len(steps) == 1 and steps != {0}:
            sequences[f"{folder}{word}*"] = [path for _, path in pictures]
            sure += told
    inside = {path for pictures in sequences.values() for path in pictures}
    folders = {folder for folder, _ in numbered}
    if len(inside) < 0.9 * len(paths) or len(sequences) <= (0 if sure == len(sequences) else len(folders)):
        return paths, ""
    return ([*sequences, *(path for path in paths if path not in inside)],
            f"{len(inside)} pictures are {len(sequences)} sequences by their names and numbers, videos of "
            f"--FPS pictures a second (--stills takes each by itself)")


def _stem(path):
    """A path without its file's ending, or what a sequence's pictures have before their numbers."""
    return JOINT.sub("", path[:-1]) if path.endswith("*") else os.path.splitext(path)[0]


def _stat(raw, source):
    """(bytes, time of change in ns) of a file or of a folder's frames; zeros for a link to nothing."""
    path = os.path.join(raw, source)
    try:
        paths = series_at(path).frames.values() if holds_frames(path) else [path]
        known = list(map(os.stat, paths))
    except OSError:
        return 0, 0
    return sum(one.st_size for one in known), max(one.st_mtime_ns for one in known)


def chosen_classes(classes, there, fault):
    """The names `there` that --classes gives, or all; UserError with `fault` for one that is not there."""
    called = {composed(cls): cls for cls in there}
    for cls in classes or ():
        if composed(cls) not in called:
            raise UserError(f"--classes {','.join(classes)}: {fault} {cls}; there are {cli.first(there, 10)}")
    return [called[composed(cls)] for cls in classes or there]


def _foldered(paths, raw):
    parts, jobs, left_out = part_folders(paths), [], []
    parted = bool(parts)
    for path in paths:
        folders = path.split("/")[:-1]
        # frames, or a sampled clip, may lie in no class's folder
        if "/" not in path and (named := WHOLE_NAME.fullmatch(_stem(path))):
            folders = [named[1]]
        if parted and folders and folders[0] not in parts:
            left_out.append((path, "beside train/ and test/, in none of them"))
        elif len(folders) <= parted:
            left_out.append((path, "in no class folder"))
        elif is_picture(path) and len(folders) > 1 + parted:
            left_out.append((path, "a picture that lies deeper than its class folder"))
        else:
            jobs.append((composed(folders[parted]), path))
    videos, notes = [job for job in jobs if not is_picture(job[1])], []
    if videos and len(videos) < len(jobs):
        notes.append(f"{len(jobs) - len(videos)} pictures beside {len(videos)} videos are left out: a data "
                     f"set is of one kind, and pictures alone become clips of one frame")
        left_out += [(path, "a picture beside videos") for _, path in jobs if is_picture(path)]
    named = _name(videos or jobs, parted)
    return Sources(named, left_out, notes + _notes(named, parts, raw))


def _name(jobs, parted):
    """[Job] of [(class, path)]: a clip's name is its path below the class, without its ending. Where two
    would have one name (a.mov and a.mp4, train/A/1.mp4 and test/A/1.mp4), both get the ending, or the part:
    names do not depend on the order."""
    def whole(path, depth=1 + parted):
        return "_".join(path.split("/")[depth:]) or path

    named, left = [], jobs
    for make in (lambda path: _stem(whole(path)), whole,
                 lambda path: "_".join([*path.split("/")[:parted], _stem(whole(path))]),
                 lambda path: f"{whole(path, 0)}~{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"):
        same, taken = defaultdict(list), {job.key for job in named}
        for cls, path in left:
            same[cls, files.shortened(composed(make(path)), LONGEST)].append(path)
        left = []
        for key, paths in same.items():
            if len(paths) == 1 and key not in taken:
                named.append(Job(*key, paths[0]))
            else:
                left += [(key[0], path) for path in paths]
    return named


def _notes(jobs, parts, raw):
    """Notes for the user on the folders that were taken for classes."""
    parted = bool(parts)
    notes, deep = [], sum(job.source.count("/") > 1 + parted for job in jobs)
    tops = sorted({job.source.split("/")[0] for job in jobs})
    alike = [top for top in tops if part_named(top)[0]]
    if parted:
        part = {job: parts[job.source.split("/")[0]] for job in jobs}
        notes.append(f"parts by folder: {', '.join(counted(part.values()))}")
        test = {job.cls for job in jobs if part[job] == "test"}
        if test and (sided := one_sided({job.cls for job in jobs if part[job] != "test"}, test)):
            notes.append(f"warning: {sided}")
    elif len({part_named(top)[0] for top in alike}) > 1 or (alike == tops and deep):
        notes.append(f"warning: the folders {', '.join(alike[:4])} are taken for classes; if they are parts "
                     f"of the data set, call them train, val and test")
    if deep and deep == len(jobs) and len({job.cls for job in jobs}) == 1:
        inner = Path(raw, *jobs[0].source.split("/")[:1 + parted])
        notes.append(f"warning: all {deep} videos are of one class, {jobs[0].cls!r}; if the folders in it "
                     f"are the classes, give --row_data_dir {inner}")
    elif deep:
        notes.append(f"{deep} videos lie deeper than their class folder, the first one; the names of their "
                     f"clips hold the folders between")
    return notes


def _listed(paths, lists):
    """The Sources on any list; the notes count each list's videos that are there."""
    keys = {row.key for pair in lists.values() for part in pair for row in part}
    kinetics = [key for key in keys if KINETICS_NAME.fullmatch(key[1])]
    alone = _by_name(kinetics, lambda video: video)
    addresses = _by_name(kinetics, lambda video: video[:-len("_000000_000000")])
    # Frames lie in no class folder, and HandStandPushups is spelled HandstandPushups there.
    spelled = _by_name(keys, str.lower)
    jobs, left_out = {}, []
    for path in sorted(paths, key=lambda path: (is_picture(path), path)):
        *folders, file = composed(path).split("/")
        name, ending = _stem(file), os.path.splitext(file)[1]
        key = next(((f, name) for f in reversed(folders) if (f, name) in keys),
                   alone.get(name) or addresses.get(name))
        if key is None and (not folders or not ending and WHOLE_NAME.fullmatch(name)):
            key = spelled.get(name.lower())
        if key is None:
            left_out.append((path, "on no list"))
        elif key in jobs:
            left_out.append((path, f"the listed {'/'.join(key)} is {jobs[key].source}"))
        else:
            jobs[key] = Job(*key, path)
    jobs = list(jobs.values())
    notes = [f"split {split}: {present(train, jobs, 'training')[1]}, {present(test, jobs, 'test')[1]}"
             for split, (train, test) in lists.items()]
    return Sources(jobs, left_out, notes)


def _by_name(keys, name):
    """{name(video): (class, video)}, of names that one video alone has."""
    same = defaultdict(list)
    for key in keys:
        same[name(key[1])].append(key)
    return {short: keys[0] for short, keys in same.items() if len(keys) == 1}
