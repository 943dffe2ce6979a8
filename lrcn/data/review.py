"""What a person decided of clips: review.csv, which teach.py writes, and which preprocessing_data.py and
find_clips.py follow.

    decisions = read_review("my_clips")                     # [Decision]; [] where there is no table
    jobs, left_out, reviewed = followed(jobs, decisions)

A clip is known by its origin, the class and the name that it has without a review. Split lists, a run's
splits.csv and groups use that, whatever its class is now: a test clip stays one.
"""
import os
import re
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from lrcn.base import UserError, files
from lrcn.base.files import composed
from lrcn.data.groups import FILM_NAME, KINETICS_NAME

TABLE = "review.csv"
COLUMNS = ("number", "source", "start", "end", "class", "part", "group", "action", "was", "probability")
ACTIONS = ("keep", "drop")
TIMES = re.compile(r"_\d{5,}\.\d{3}-\d{5,}\.\d{3}$")
LAST_SECOND = 1e6   # of a film
LONGEST = 230       # bytes of a clip's name, with which its temporary file has one too


@dataclass(frozen=True)
class Decision:
    """A row. source: the clip's video below --row_data_dir, or a candidate's film; cls: the class that it is
    to have; was: its origin, "class/name". Of a candidate: start, end in seconds, probability as text."""
    number: int
    source: str
    start: float | None
    end: float | None
    cls: str
    part: str
    group: str
    action: str
    was: str
    probability: str = ""
    origin = property(lambda decision: tuple(decision.was.split("/")))

    @property
    def moved(self):
        """Whether a candidate's times differ from those in its clip's name."""
        return (self.start is not None and TIMES.search(self.was) is not None
                and not self.was.endswith(f"_{self.start:09.3f}-{self.end:09.3f}"))

    @classmethod
    def of(cls, row):
        """The Decision of {column: text}; ValueError says what is wrong with it."""
        number, source, start, end, name, part, group, action, was, probability = (
            row.get(column, "") for column in COLUMNS)
        if not re.fullmatch("[0-9]{1,9}", number):
            raise ValueError(f"{number[:20]!r} is not the number of a clip")
        if action not in ACTIONS:
            raise ValueError(f"action {action[:20]!r} is not one of {', '.join(ACTIONS)}")
        for folder in (name, *(was.split("/") if was.count("/") == 1 else ("",))):
            if not folder or folder.startswith(".") or {"/", os.sep, "\0"} & set(folder):
                raise ValueError(f"expected a class, and class/name in the column was, not {name[:60]!r} and "
                                 f"{was[:60]!r}")
        try:
            start, end = ((float(start), float(end)) if start or end else (None, None))
            right = start is None or 0 <= start < end < LAST_SECOND
        except ValueError:
            right = False
        if not right:
            raise ValueError(f"from {start} to {end} s is not a stretch of a film")
        return cls(int(number), source, start, end, composed(name), part, group, action, composed(was),
                   probability)

    def row(self):
        times = ("" if value is None else f"{value:.3f}" for value in (self.start, self.end))
        return (self.number, self.source, *times, *astuple(self)[4:])


def read_review(folder, name=TABLE):
    """[Decision] of a folder's table; [] where it is not teach.py's. UserError names a wrong line."""
    path, decisions = Path(folder, name), []
    names, rows = files.read_table(path, COLUMNS) if path.is_file() else (COLUMNS, [])
    if name == TABLE and not {"action", "was"} & set(names):
        return []
    if missing := [name for name in COLUMNS[:-1] if name not in names]:
        raise UserError(f"{path} line 1: column {', '.join(missing)} is missing; is this teach.py's table?")
    for line, row in rows:
        try:
            decisions.append(Decision.of(row))
        except ValueError as error:
            raise UserError(f"{path} line {line}: {error}") from None
    for what in ("number", "was"):
        if len({getattr(decision, what) for decision in decisions}) < len(decisions):
            raise UserError(f"{path}: one {what} stands there twice; take one of the rows out")
    return decisions


def write_review(folder, decisions):
    """Write the table, in the order of the numbers."""
    rows = [decision.row() for decision in sorted(decisions, key=lambda decision: decision.number)]
    files.write_csv(Path(folder, TABLE), COLUMNS, rows)


def numbered(origins, decisions):
    """{origin: number} of clips: those of the table, and the next ones, in order, for the others."""
    known = {decision.origin: decision.number for decision in decisions}
    last = max(known.values(), default=0)
    new = (origin for origin in origins if origin not in known)
    return known | {origin: number for number, origin in enumerate(new, last + 1)}


def followed(jobs, decisions):
    """(the jobs that are kept, with the class that they are to have; [(source, why it is left out)]; the
    sources in the table). Where another clip has the name, or would have it without the table, the class of
    the origin is put before it. UserError: a candidate was moved and not cut again."""
    table = {decision.origin: decision for decision in decisions}
    taken, kept, left_out, reviewed = {job.key for job in jobs}, [], [], set()
    for job in jobs:
        decision, name = table.get(tuple(map(composed, job.key))), job.video
        if decision is None:
            kept.append(job)
            continue
        reviewed.add(job.source)
        cls, stretch = decision.cls, FILM_NAME.fullmatch(name) or KINETICS_NAME.fullmatch(name)
        if decision.action == "drop":
            left_out.append((job.source, f"dropped, number {decision.number} of {TABLE}"))
        elif decision.moved:
            raise UserError(f"{job.source}: number {decision.number} of {TABLE} was moved; cut it again with "
                            f"find_clips.py --from {TABLE} --video_path FILMS --output_dir DIR first")
        elif cls == job.cls:
            kept.append(job)
        elif stretch and (cls, name) in taken:
            left_out.append((job.source, f"the same stretch of its film is in {cls} already"))
        else:
            while (cls, name) in taken:
                name = files.shortened(f"{job.cls}_{name}", LONGEST)
            taken.add((cls, name))
            kept.append(replace(job, cls=cls, video=name, was=job.origin))
    return kept, left_out, reviewed
