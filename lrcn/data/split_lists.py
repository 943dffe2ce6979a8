"""Split lists, in UCF-101's format, HMDB-51's, Kinetics' or SlowFast's: which videos train, and which test.

The class of a listed video is its folder, whatever the file name says:
HandstandPushups/v_HandStandPushups_g01_c01.avi is right.
"""
import os
import re
from dataclasses import dataclass
from pathlib import Path

from lrcn.base import UserError, cli, files
from lrcn.base.files import composed

KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")


@dataclass(frozen=True)
class Listed:
    """A line of a split list: class folder, file name without its ending; where: the list and line."""
    cls: str
    video: str
    where: str = ""
    key = property(lambda row: (row.cls, row.video))


def _lines(path, pattern=".+", expected=""):
    """Yields (file and line, match of the pattern) of the lines that are not blank; UserError: no match."""
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


def whole_number(text, where):
    """The whole number >= 0 of a text; UserError: it is not one."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UserError(f"{where}: {text[:20]!r} is not a label or count")
    return int(text)


def read_class_index(folder, name="classInd.txt"):
    """{class: label} of classInd.txt (labels from 1), None without one."""
    path = Path(folder) / name
    if not path.is_file():
        return None
    index = {}
    for where, match in _lines(path, r"(\d+)\s+(.+)", "a number and a class name"):
        number = whole_number(match[1], where)
        if match[2] in index or number in index.values():
            raise UserError(f"{where}: class {match[2]!r} or number {number} appears twice")
        index[match[2]] = number
    return index


def read_list(path, class_index=None):
    """[Listed] of a list of UCF-101's format: `Class/video.avi`, perhaps with a label. Of a deeper or
    absolute path only the last folder counts. UserError, with file and line: no class folder, a path with
    "..", a class or label that disagrees with classInd.txt."""
    rows = {}
    for where, match in _lines(path, r"(.+\.\w+)[\s,;]+(\d+)|.+"):
        line = match[0]
        name, label = (match[1], whole_number(match[2], where)) if match[1] else (line, None)
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or "\0" in name:
            raise UserError(f"{where}: {name!r} leaves the data set's folder")
        if len(parts) < 2 or re.fullmatch("[A-Za-z]:", parts[-2]) or any(
                part in ("", ".") or part != part.strip() for part in parts[-2:]):
            raise UserError(f"{where}: expected Class/video.avi, not {line!r}")
        cls, video = parts[-2], os.path.splitext(parts[-1])[0]
        if class_index is not None:
            if cls not in class_index:
                raise UserError(f"{where}: class {cls!r} is not in classInd.txt")
            if label is not None and label != class_index[cls]:
                raise UserError(f"{where}: label {label} disagrees with classInd.txt, "
                                f"where {cls} is {class_index[cls]}")
        rows.setdefault((cls, video), Listed(cls, video, where))
    return list(rows.values())


def read_hmdb(folder, split):
    """(train, test) of HMDB-51's format: <class>_test_split<n>.txt; `video.avi 1` is train, 2 test."""
    parts = {"0": [], "1": [], "2": []}
    for path in sorted(Path(folder).glob(f"*_test_split{split}.txt")):
        cls = composed(path.name.removesuffix(f"_test_split{split}.txt"))
        for where, match in _lines(path, r"([^/\\]+\.\w+)\s+([012])", "video.avi and 0, 1 or 2"):
            parts[match[2]].append(Listed(cls, Path(match[1]).stem, where))
    return parts["1"], parts["2"]


def read_kinetics(folder):
    """(train, test) of Kinetics' format: .csv files of any name with KINETICS_COLUMNS, a video a row, whose
    file is <youtube_id>_<start, 6 digits>_<end, 6 digits>. "validate" is the test where "test" has no video
    with a label; else it is left out."""
    parts = {"train": {}, "validate": {}, "test": {}}
    for path in sorted(Path(folder).glob("*.csv")):
        columns, rows = files.read_table(path, KINETICS_COLUMNS)
        for number, row in rows if set(KINETICS_COLUMNS) <= set(columns) else ():
            row = {name: composed(row.get(name, "").strip()) for name in KINETICS_COLUMNS}
            part = {"val": "validate"}.get(row["split"], row["split"])
            if not row["label"] or part not in parts:
                continue
            where, cls, address = f"{path} line {number}", row["label"], row["youtube_id"]
            times = re.fullmatch(r"(\d{1,6})(?:[.,]\d*)? (\d{1,6})(?:[.,]\d*)?",
                                 f"{row['time_start']} {row['time_end']}")
            if not times or {"/", "\\", "\0"} & set(cls + address) or cls in (".", ".."):
                raise UserError(f"{where}: no class, address, start and end in seconds, but {cls[:60]!r}, "
                                f"{address[:20]!r}, {row['time_start'][:20]!r} and {row['time_end'][:20]!r}")
            listed = Listed(cls, f"{address}_{int(times[1]):06d}_{int(times[2]):06d}", where)
            parts[part][listed.key] = listed
    return list(parts["train"].values()), list((parts["test"] or parts["validate"]).values())


def official_lists(folder, split):
    """(train, test) lists, [Listed], of split 1, 2 or 3; UserError: a video is on both. Of UCF-101's format,
    HMDB-51's, or (split 1) Kinetics' or SlowFast's: train.csv and test.csv, or val.csv where there is none,
    with a path and a label a line."""
    folder = Path(folder)
    train_path, test_path = (folder / f"{part}list{int(split):02d}.txt" for part in ("train", "test"))
    if train_path.is_file() and test_path.is_file():
        index = read_class_index(folder)
        train, test = read_list(train_path, index), read_list(test_path, index)
    else:
        train, test = read_hmdb(folder, split)
        if not train and not test and int(split) == 1:
            train, test = read_kinetics(folder)
            tables = [path for part in ("train", "test", "val") if (path := folder / f"{part}.csv").is_file()]
            if not train and not test and len(tables) > 1 and tables[0].name == "train.csv":
                train, test = map(read_list, tables[:2])
        if not train or not test:
            raise UserError(f"--ucf_list_dir {folder}: no {train_path.name} and {test_path.name} in this "
                            f"folder (nor HMDB-51's *_test_split{split}.txt, nor Kinetics' or SlowFast's "
                            f"tables); unpack the split lists there")
    on_train = {row.key: row.where for row in train}
    for row in test:
        if row.key in on_train:
            raise UserError(f"{row.where}: {'/'.join(row.key)} is on the training list too "
                            f"({on_train[row.key]})")
    return train, test


def read_lists(folder):
    """{split: (training list, test list)} of every split that has lists in the folder."""
    folder = Path(folder)
    numbers = [n for n in (1, 2, 3) if (folder / f"trainlist{n:02d}.txt").is_file()
               or any(folder.glob(f"*_test_split{n}.txt"))]
    return {n: official_lists(folder, n) for n in numbers or [1]}


def class_order(folder, rows):
    """All class names in label order: by classInd.txt, else by the alphabet."""
    index = (read_class_index(folder) if folder else None) or {}
    return sorted({row.cls for row in rows}, key=lambda cls: (index.get(cls, len(index) + 1), cls))


def present(rows, videos, what):
    """(the sampled videos on a list, in list order, and a sentence that counts them)."""
    by_name = {tuple(map(composed, key)): v for v in videos for key in (v.key, v.origin)}
    sampled = [by_name[key] for row in rows if (key := tuple(map(composed, row.key))) in by_name]
    return sampled, f"{len(sampled)} of {len(rows)} listed {what} videos present"


def one_sided(train, test):
    """A sentence on the classes that only the training, or only the test, has; "" where there are none."""
    sides = [f"{cli.first(sorted(only), 8)} in the {what} only" for what, only in
             (("training", set(train) - set(test)), ("test", set(test) - set(train))) if only]
    return f"classes of one side: {'; '.join(sides)}; is one of them spelled differently?" if sides else ""
