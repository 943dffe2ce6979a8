"""Which video is in train, validation and test: split lists, groups, and splits drawn by group.

A group is clips cut from one source recording (gNN of v_<Class>_gNN_cNN.avi), nearly the same
picture, and never on two sides of a split. The class of a listed video is its folder, whatever
the file name says: HandstandPushups/v_HandStandPushups_g01_c01.avi is no typing error.
"""
import contextlib
import hashlib
import json
import re
import signal
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.base.files import composed

PARTS = ("train", "val", "test")
MATCHING = 2    # seconds for a name, by --group_pattern
# Names that tell the recording: UCF-101's gNN (of a class), HMDB-51's before the clip's number (body
# parts, motion, people, view, quality), Kinetics' YouTube address before the seconds, and the film before
# those of find_clips.py.
FRAME = r"(?:[-_. ]*(?:frame|image|img)?[-_. ]*\d+)?"     # behind it, where a clip is one picture of a video
UCF_NAME = re.compile(rf"_(g\d+)_c\d+{FRAME}$")
HMDB_NAME = re.compile(rf"(.+_[fuhl]_[cn]m_np\d_(?:fr|ba|le|ri)_(?:bad|med|goo))_\d+{FRAME}")
KINETICS_NAME = re.compile(r"(.{11})_\d{6}_\d{6}")
FILM_NAME = re.compile(r"(.+)_\d{5,}\.\d{3}(?:-\d{5,}\.\d{3})?")
KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
# What cameras and phones call their files: the number behind says nothing of the recording.
CAMERA = re.compile(r"[PC]?[\W_\d]*|(?:.*_)?(?:IMG|MVI|MOV|VID|DSC[NF]?|SDC|CIMG|PXL|GOPR|G[HXLP]|DJI|MAH|"
                    r"CLIP|VIDEO|FILE|SCREEN.?RECORDING|SIGNAL|WHATSAPP.?VIDEO|WA)[\W_\d]*", re.IGNORECASE)


@dataclass(frozen=True)
class Listed:
    """A line of a split list: class folder, file name without its ending; where: file and line."""
    cls: str
    video: str
    where: str = ""


@dataclass(frozen=True)
class Sample:
    """A SampledVideo with its label (0, 1, ...) and its part of the split."""
    video: object
    label: int
    part: str


# ---------------------------------------------------------------- lists

def _lines(path, pattern=".+", expected=""):
    """(place, match of the pattern) of every line that is not blank; UserError where one is not as expected.

    Windows line ends and a BOM are no matter.
    """
    try:
        text = composed(files.read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the split list {path}: {error}") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            match = re.fullmatch(pattern, line.strip())
            if not match:
                raise UserError(f"{path} line {number}: expected {expected}, not {line.strip()!r}")
            yield f"{path} line {number}", match


def _whole(text, where):
    """The whole number >= 0 that a text says; Python itself refuses thousands of digits."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise UserError(f"{where}: {text[:20]!r} is no label or count")
    return int(text)


def read_class_index(folder):
    """{class: label} of classInd.txt (labels from 1), or None where there is no such file."""
    path = Path(folder) / "classInd.txt"
    if not path.is_file():
        return None
    index = {}
    for where, match in _lines(path, r"(\d+)\s+(.+)", "a number and a class name"):
        number = _whole(match[1], where)
        if match[2] in index or number in index.values():
            raise UserError(f"{where}: class {match[2]!r} or number {number} stands there twice")
        index[match[2]] = number
    return index


def read_list(path, class_index=None):
    """[Listed] of a list of UCF-101's format: `Class/video.avi`, with or without a label behind.

    Only the last folder of a deeper or absolute path counts. UserError, with file and line: no class
    folder, a path with "..", a class or label that disagrees with classInd.txt.
    """
    rows, seen = [], set()
    for where, match in _lines(path, r"(.+\.\w+)[\s,;]+(\d+)|.+"):
        line = match[0]
        name, label = (match[1], _whole(match[2], where)) if match[1] else (line, None)
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or "\0" in name:
            raise UserError(f"{where}: {name!r} leaves the data set's folder")
        if len(parts) < 2 or re.fullmatch("[A-Za-z]:", parts[-2]) or any(
                part in ("", ".") or part != part.strip() for part in parts[-2:]):
            raise UserError(f"{where}: expected Class/video.avi, not {line!r}")
        cls, video = parts[-2], Path(parts[-1]).stem
        if class_index is not None:
            if cls not in class_index:
                raise UserError(f"{where}: class {cls!r} is not in classInd.txt")
            if label is not None and label != class_index[cls]:
                raise UserError(f"{where}: label {label} disagrees with classInd.txt, "
                                f"where {cls} is {class_index[cls]}")
        if (cls, video) not in seen:
            rows.append(Listed(cls, video, where))
        seen.add((cls, video))
    return rows


def read_hmdb(folder, split):
    """(train, test) of HMDB-51's format: one <class>_test_split<n>.txt a class, `video.avi 1` is
    train, 2 test, 0 unused."""
    train, test = [], []
    for path in sorted(Path(folder).glob(f"*_test_split{split}.txt")):
        cls = composed(path.name.removesuffix(f"_test_split{split}.txt"))
        for where, match in _lines(path, r"([^/\\]+\.\w+)\s+([012])", "video.avi and 0, 1 or 2"):
            row = Listed(cls, Path(match[1]).stem, where)
            if match[2] != "0":
                (train if match[2] == "1" else test).append(row)
    return train, test


def read_kinetics(folder):
    """(train, test) of Kinetics' format: .csv files with KINETICS_COLUMNS, a video a row, in files of any
    name; the file of a video is called <youtube_id>_<start, 6 digits>_<end, 6 digits>.

    The videos of "validate" are the test where "test" has none, or none with a label; else they are
    left out.
    """
    parts = {"train": {}, "validate": {}, "test": {}}
    for path in sorted(Path(folder).glob("*.csv")):
        columns, rows = files.read_table(path, KINETICS_COLUMNS)
        for number, row in rows if set(KINETICS_COLUMNS) <= set(columns) else ():
            row = {name: composed(row.get(name, "").strip()) for name in KINETICS_COLUMNS}
            part = {"val": "validate"}.get(row["split"], row["split"])
            if not row["label"] or part not in parts:
                continue
            where, cls, address = f"{path} line {number}", row["label"], row["youtube_id"]
            times = [re.fullmatch(r"(\d{1,6})([.,]\d*)?", row[name]) for name in ("time_start", "time_end")]
            if not all(times):
                raise UserError(f"{where}: {row['time_start'][:20]!r} to {row['time_end'][:20]!r} are no "
                                f"seconds")
            if {"/", "\\", "\0"} & set(cls + address) or cls in (".", ".."):
                raise UserError(f"{where}: {cls[:60]!r} and {address[:20]!r} name no video")
            start, end = (int(t[1]) for t in times)
            listed = Listed(cls, f"{address}_{start:06d}_{end:06d}", where)
            parts[part][cls, listed.video] = listed
    return list(parts["train"].values()), list((parts["test"] or parts["validate"]).values())


def official_lists(folder, split):
    """(train, test) lists of split 1, 2 or 3, as [Listed]; UserError if a video is on both.

    Of UCF-101's format, HMDB-51's, or (split 1) Kinetics' or SlowFast's: train.csv and test.csv, or val.csv
    where there is none, with a path and a label a line.
    """
    folder = Path(folder)
    train_path = folder / f"trainlist{int(split):02d}.txt"
    test_path = folder / f"testlist{int(split):02d}.txt"
    if train_path.is_file() and test_path.is_file():
        index = read_class_index(folder)
        train, test = read_list(train_path, index), read_list(test_path, index)
    else:
        train, test = read_hmdb(folder, split)
        if not train and not test and int(split) == 1:
            train, test = read_kinetics(folder)
            by_path = [path for path in (folder / "train.csv", folder / "test.csv", folder / "val.csv")
                       if path.is_file()]
            if not train and not test and len(by_path) > 1 and by_path[0].name == "train.csv":
                train, test = map(read_list, by_path[:2])
        if not train or not test:
            raise UserError(f"--ucf_list_dir {folder}: no {train_path.name} and {test_path.name} in this "
                            f"folder (nor HMDB-51's *_test_split{split}.txt, nor Kinetics' or SlowFast's "
                            f"tables); unpack the split lists there")
    on_train = {(row.cls, row.video): row.where for row in train}
    for row in test:
        if (row.cls, row.video) in on_train:
            raise UserError(f"{row.where}: {row.cls}/{row.video} is on the training list too "
                            f"({on_train[row.cls, row.video]})")
    return train, test


def training_list(folder, split):
    """[Listed] of the training list of split 1, 2 or 3. Of UCF-101's format the test list is not opened."""
    path = Path(folder) / f"trainlist{int(split):02d}.txt"
    return read_list(path, read_class_index(folder)) if path.is_file() else official_lists(folder, split)[0]


def class_order(folder, rows):
    """All class names in label order: that of classInd.txt, else of the alphabet."""
    index = (read_class_index(folder) if folder else None) or {}
    return sorted({row.cls for row in rows}, key=lambda cls: (index.get(cls, len(index) + 1), cls))


def present(rows, videos, what):
    """(the sampled videos on a list, in list order, and a sentence that counts the absent ones)."""
    by_name = {(composed(v.cls), composed(v.name)): v for v in videos}
    shown = [by_name[key] for row in rows if (key := (composed(row.cls), composed(row.video))) in by_name]
    return shown, f"{len(shown)} of {len(rows)} listed {what} videos present"


def one_sided(train, test):
    """A sentence that names the classes that only the training, or only the test, has; "" where none is."""
    only = [(what, sorted(one - set(other))) for what, one, other in
            (("training", set(train), test), ("test", set(test), train))]
    sides = [f"{cli.first(names, 8)} in the {what} alone" for what, names in only if names]
    return f"classes of one side: {'; '.join(sides)}; is one of them spelled otherwise?" if sides else ""


# ---------------------------------------------------------------- groups

def find_groups(names, pattern=None, table=None):
    """{(class, video): group} of [(class, video)].

    By `table` (path of a CSV file with columns video, group), else by `pattern` (a regular
    expression searched in the name; its first group, or all that matched), else by the name of a clip
    of UCF-101 (gNN within a class), HMDB-51, Kinetics or find_clips.py, else the video itself.
    UserError: a pattern that is none, or matches not.
    """
    if table:
        table = cli.file("groups", table, "give a CSV file with the columns video and group")
        rows = files.read_csv(table, ("video", "group"))
        named = {composed(row["video"]): row["group"] for row in rows}
        groups = {(c, v): named.get(composed(f"{c}/{v}"), named.get(composed(v))) for c, v in names}
        absent = [v for (_, v), group in groups.items() if group is None]
        if absent:
            raise UserError(f"--groups {table}: no group for video {absent[0]} and {len(absent) - 1} more")
        return groups
    if not pattern:
        return {(c, v): _told(v) or f"{c}/{match[1] if (match := UCF_NAME.search(v)) else v}"
                for c, v in names}
    try:
        finder = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"--group_pattern {pattern}: not a regular expression ({error})") from None
    groups = {}
    for cls, video in names:
        try:
            with _time_limit():
                match = finder.search(video)
        except TimeoutError:
            raise UserError(f"--group_pattern {pattern}: more than {MATCHING:g} s for the video "
                            f"{cls}/{video}; a repetition in a repetition, as (a+)+, takes for ever: leave "
                            f"one out") from None
        if not match:
            raise UserError(f"--group_pattern {pattern}: does not match the video {cls}/{video}")
        groups[cls, video] = (match[1] or "") if finder.groups else match[0]
    return groups


@contextlib.contextmanager
def _time_limit():
    """TimeoutError after MATCHING seconds of the process's own work, in the main thread of a Unix system:
    Python's regular expressions look for signals now and then, and so can be stopped by one."""
    def stop(*_):
        raise TimeoutError

    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, MATCHING)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _told(video):
    """The recording that a name tells whatever the class: of HMDB-51, Kinetics, find_clips.py; else None."""
    match = HMDB_NAME.fullmatch(video) or KINETICS_NAME.fullmatch(video) or FILM_NAME.fullmatch(video)
    return match and match[1]


def look_alike(names):
    """A sentence on those of [(class, video)] that share their name up to its last number, or None.

    Such clips are often cut from one recording. Names that tell their recording do not count, nor do
    those that a camera gives, such as IMG_0001, nor a class whose names all differ in their number alone:
    that is how people count files, and one group of all could not be split.
    """
    stems, of_class = defaultdict(list), defaultdict(set)
    for cls, name in names:
        stem = re.sub(r"\d+$", "", name)
        of_class[cls].add(stem)
        if stem != name and not (_told(name) or UCF_NAME.search(name) or CAMERA.fullmatch(stem)):
            stems[cls, stem].append(name)
    alike = [(key, sorted(members)) for key, members in stems.items()
             if len(members) > 1 and len(of_class[key[0]]) > 1]
    if not alike:
        return None
    (cls, _), shown = max(alike, key=lambda item: (len(item[1]), item[0]))
    count = sum(len(members) for _, members in alike)
    size = Counter(cls for cls, _ in names)
    splits_all = all(len(members) > 1 or size[cls] == 1 for cls, members in of_class.items())
    pattern = "--group_pattern '^(.*?)\\d*$' or with " if splits_all else ""
    return (f"{count} of {len(names)} videos share their name up to the last number with another, such as "
            f"{cli.first(shown, 3)} of {cls}; if such clips were cut from "
            f"one recording, say so with {pattern}a table (--groups), lest near copies of trained clips are "
            f"tested; if each is a recording of its own, all is well")


# ---------------------------------------------------------------- drawing

def _order(items, *seed):
    """A shuffle that depends on `seed` alone, the same on every machine and in every release."""
    return sorted(items, key=lambda x: hashlib.sha256(repr((*seed, x)).encode()).digest())


def _group_of(video, by_video):
    return (video.cls, video.name) if by_video else video.group


def known_parts(rows, videos, by_video=False):
    """{group: part} of the rows of read_splits, by their groups and by those that `videos` have now.

    A group that is in several parts, by another --group_pattern, is in the most held out of them.
    """
    parts = {(row["class"], row["video"]): row["part"] for row in rows}
    there = [(_group_of(v, by_video), parts[v.cls, v.name]) for v in videos if (v.cls, v.name) in parts]
    gone = [((row["class"], row["video"]) if by_video else row["group"], row["part"]) for row in rows]
    return dict(sorted([*there, *gone], key=lambda pair: PARTS.index(pair[1])))


def _members(videos, group):
    """({group: Counter of the classes of its videos}, {class: its groups})."""
    members, groups_of = defaultdict(Counter), defaultdict(set)
    for v in videos:
        members[group(v)][v.cls] += 1
        groups_of[v.cls].add(group(v))
    return members, groups_of


def hold_out(videos, share, seed, by_video=False, known=None):
    """(kept, held out): about `share` of every class's videos, whole groups, drawn by `seed`.

    A class never loses its last group. by_video=True takes every video for a group of its own:
    the leaky protocol, for comparison only. known: {group: is it held out?} of groups that are not drawn.
    """
    known = known or {}

    def group(v):
        return _group_of(v, by_video)

    left, total = Counter(v.cls for v in videos), Counter(v.cls for v in videos)
    members, groups_of = _members(videos, group)
    chosen = {g for g in members if known.get(g)}
    for g in chosen:
        left.subtract(members[g])
    for cls in sorted(total):
        for g in _order(groups_of[cls] - chosen - known.keys(), seed, cls):
            wanted = share * total[cls] - (total[cls] - left[cls])
            nearer = abs(wanted - members[g][cls]) < abs(wanted)
            if wanted > 0 and nearer and all(left[c] > n for c, n in members[g].items()):
                chosen.add(g)
                left.subtract(members[g])
    return [v for v in videos if group(v) not in chosen], [v for v in videos if group(v) in chosen]


def folds(videos, count, seed):
    """int array (videos,): the fold 0 to count - 1 of each video, whole groups, every class spread evenly,
    drawn by `seed`. UserError: a class of one group, which no network could have learned when it is held out.
    """
    members, groups_of = _members(videos, lambda v: v.group)
    if len(members) < count:
        raise UserError(f"--folds {count}: there are {len(members)} groups of clips; take fewer folds")
    fold, held = {}, [Counter() for _ in range(count)]
    for cls in sorted(groups_of):
        drawn = _order([g for g in groups_of[cls] if g not in fold], seed, cls)
        for g in sorted(drawn, key=lambda g: -members[g].total()):     # the large ones first: evener folds
            fold[g] = min(range(count), key=lambda k: (held[k][cls], held[k].total(), k))
            held[fold[g]].update(members[g])
    alone = [cls for cls, groups in groups_of.items() if len({fold[g] for g in groups}) < 2]
    if alone:
        raise UserError(f"--folds {count}: all clips of {alone[0]} would be held out at once, as one group; "
                        f"leave the class out with --classes")
    return np.array([fold[v.group] for v in videos])


def smaller(videos, share=0.1, least=4):
    """The first tenth of every class's videos, `least` at the least, in the order given."""
    counts, taken, kept = Counter(v.cls for v in videos), Counter(), []
    for v in videos:
        if taken[v.cls] < max(least, round(share * counts[v.cls])):
            taken[v.cls] += 1
            kept.append(v)
    return kept


def make_samples(parts, classes):
    """[Sample] of {part: [Video]}, in that order; videos of other classes are left out."""
    label = {cls: i for i, cls in enumerate(classes)}
    return [Sample(v, label[v.cls], part) for part, videos in parts.items() for v in videos if v.cls in label]


SPLIT_COLUMNS = ("video", "class", "label", "group", "part")


def write_splits(path, samples):
    files.write_csv(path, SPLIT_COLUMNS,
                    [(s.video.name, s.video.cls, s.label, s.video.group, s.part) for s in samples])


def splits_seal(path):
    """{"rows", "digest"} of a run's splits.csv, which its settings.json keeps as "splits"."""
    rows = files.read_csv(path, SPLIT_COLUMNS)
    content = json.dumps([[row[name] for name in SPLIT_COLUMNS] for row in rows])
    return {"rows": len(rows), "digest": hashlib.sha256(content.encode()).hexdigest()}


def read_splits(path):
    """[{video, class, label, group, part}] of a run's splits.csv, label an int; UserError where it is not as
    settings.json beside it says that it was written."""
    rows = files.read_csv(path, SPLIT_COLUMNS)
    settings = Path(path).with_name("settings.json")
    if Path(path).name == "splits.csv" and settings.is_file():
        seal, now = files.read_json(settings).get("splits"), splits_seal(path)
        if seal and seal != now:
            before = seal.get("rows") if isinstance(seal, dict) else seal
            fault = "other rows than" if before == now["rows"] else f"{now['rows']} of the {before} rows"
            raise UserError(f"{path}: it holds {fault} the run wrote; put back a whole copy, or, where "
                            f"the change was meant, take \"splits\" out of {settings}")
    for number, row in enumerate(rows, 2):
        where = f"{path} line {number}"
        if row["part"] not in PARTS:
            raise UserError(f"{where}: {row['part']!r} is none of {', '.join(PARTS)}")
        row["label"] = _whole(row["label"], where)
    return rows


def counted(parts):
    """["3 train", "1 test"] of the parts of some videos."""
    return [f"{n} {part}" for part in PARTS if (n := list(parts).count(part))]


def class_counts(samples, part, classes):
    """int array (C,): videos of each class in a part."""
    return np.bincount([s.label for s in samples if s.part == part], minlength=len(classes))
