"""What a person says of moments: one row for each key, on the disk before the key is answered.

    labels = Labels("my_labels")                            # goes on with what is there
    labels.add(Label("a.mp4", 2.0, 4.0, "wave", "class", 2.0))
    labels.undo()                                           # the last row is gone again
    labels.now                                              # {(film, moment): Label}

A key puts a row at the end of labels.csv, undo takes the last one off. Of a moment the last row counts. A
kill leaves whole rows and perhaps a part of one, which is cut off when the file is next opened.
"""
import contextlib
import csv
import io
import os
import re
from dataclasses import astuple, dataclass
from pathlib import Path

from lrcn.base import UserError, files
from lrcn.base.files import composed
from lrcn.watching.candidates import LAST_SECOND, check_class

COLUMNS = ("film", "start", "end", "label", "kind", "moment")
HEAD = (",".join(COLUMNS) + "\n").encode()
KINDS = ("class", "none", "skip")


@dataclass(frozen=True)
class Label:
    """A row. kind: "class", "none" (of the classes) or "skip"; only the first has a label. moment: where the
    moment began, in seconds, before its start and end were moved."""
    film: str
    start: float
    end: float
    label: str
    kind: str
    moment: float

    key = property(lambda label: (label.film, label.moment))

    def line(self):
        """The row's bytes."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(
            [f"{value:.3f}" if isinstance(value, float) else value for value in astuple(self)])
        return text.getvalue().encode()


def can_be_named(film):
    """Whether a film's name fits into a row: no line break, and letters that UTF-8 knows."""
    return not re.search("[\n\r\ud800-\udfff]", film)


def class_name(name, where):
    """A class's name as it is written; UserError: no folder can be called so."""
    name = composed(" ".join(str(name).split()))
    check_class(name, where)
    if not name.isprintable():
        raise UserError(f"{where}: {name[:60]!r} contains characters that cannot be shown")
    return name


def _read_row(line, where):
    """The Label in a line's bytes; UserError: this is none."""
    try:
        [row] = csv.reader([line.decode()], strict=True)
        film, start, end, label, kind, moment = row
        start, end, moment = map(float, (start, end, moment))
    except (ValueError, csv.Error):
        raise UserError(f"{where}: expected {','.join(COLUMNS)}; correct or delete this line") from None
    if kind not in KINDS or (kind == "class") != bool(label) or \
            not (0 <= start < end <= LAST_SECOND and 0 <= moment <= LAST_SECOND):
        raise UserError(f"{where}: this is no label of a moment; correct or delete this line")
    return Label(film, start, end, label, kind, moment)


class Labels:
    """The labels in a folder, in labels.csv, and the names of the classes in classes.json, in the order of
    their keys. The folder is this process's alone (files.lock)."""

    def __init__(self, folder, classes=()):
        self.path, self.names = Path(folder, "labels.csv"), Path(folder, "classes.json")
        self.rows = self._read()
        known = files.read_json(self.names).get("classes") if self.names.is_file() else []
        if not isinstance(known, list) or not all(isinstance(name, str) for name in known):
            raise UserError(f"{self.names}: expected a list of names under \"classes\"")
        self.classes = []
        for name in [*known, *classes, *(row.label for row in self.rows if row.label)]:
            self.add_class(name, f"{self.names}")
        self.handle = os.open(self.path, os.O_RDWR | os.O_APPEND)
        self.now = {row.key: row for row in self.rows}

    def _read(self):
        """[Label] of the file, which then holds whole rows alone, each as it is written here."""
        there = self.path.read_bytes() if self.path.is_file() else b""
        head, *lines = there[:there.rfind(b"\n") + 1].replace(b"\r\n", b"\n").split(b"\n")[:-1] or [b""]
        if head + b"\n" != HEAD and not HEAD.startswith(there):
            raise UserError(f"{self.path} line 1: expected {HEAD.decode().strip()}; is this a file of "
                            f"teach.py?")
        rows = [_read_row(line, f"{self.path} line {number}") for number, line in enumerate(lines, 2) if line]
        whole = HEAD + b"".join(row.line() for row in rows)
        if whole != there:
            files.write_text(self.path, whole.decode())
        return rows

    def add(self, label):
        """Put a row at the end; it is on the disk when this returns."""
        line, size = label.line(), os.fstat(self.handle).st_size
        try:
            while line:
                line = line[os.write(self.handle, line):]
            os.fsync(self.handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.handle, size)
            raise
        self.rows.append(label)
        self.now[label.key] = label

    def undo(self):
        """Take the last row off; it, or None where there is none."""
        if not self.rows:
            return None
        os.ftruncate(self.handle, os.fstat(self.handle).st_size - len(self.rows[-1].line()))
        os.fsync(self.handle)
        label = self.rows.pop()
        self.now = {row.key: row for row in self.rows}
        return label

    def add_class(self, name, where="class"):
        """Give a class the next key; its name. UserError: no folder can be called so."""
        name = class_name(name, where)
        if name not in self.classes:
            files.write_json(self.names, {"classes": [*self.classes, name]})
            self.classes.append(name)
        return name

    def close(self):
        os.close(self.handle)
