"""Candidates: the stretches of a film that a run proposes as clips of its classes, and tables of stretches.

    stretches = propose(times, end, shares, seconds=5, per_class=2) # [(start, end, class, probability)]
    rows = read_stretches("candidates.csv", "from")                 # [Stretch], of Kinetics' tables too
    by_film, absent = of_films(rows, {"holiday.mp4": path})

A stretch's name, <film>_<start>-<end>, tells its film: lrcn.data.splits takes it for the group.
"""
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.base.files import composed
from lrcn.data.splits import KINETICS_COLUMNS

COLUMNS = ("film", "class", "start", "end", "probability")
LAST_SECOND = 1e6


@dataclass(frozen=True)
class Stretch:
    """Part of a film, in seconds from its first frame. film: as its table names it; address: of the film
    in Kinetics' tables; probability: None where nobody said one."""
    film: str
    cls: str
    start: float
    end: float
    probability: float | None = None
    address: str | None = None

    def name(self, film):
        """Of its file, without an ending. film: the name of the film's file."""
        if self.address:
            return f"{self.address}_{int(self.start):06d}_{int(self.end):06d}"
        return f"{film}_{self.start:09.3f}-{self.end:09.3f}"

    def frame_name(self, film, seconds):
        """Of the picture of one of its frames."""
        return f"{self.address or film}_{seconds:09.3f}"


def propose(times, end, shares, seconds, per_class, overlap=0.0, least=0.0, wanted=None):
    """[(start, end, class, probability)] in order of time: the best stretches of `seconds`, inside the film.

    times (F,), shares (F, C): the sampled frames and their probabilities; end: of the film. A stretch
    lies around a sampled frame, or at the film's ends; its probability is the mean of its frames', its
    class the most probable one. The best comes first, and what has more than the share `overlap` in
    common with a chosen one is passed over: one moment fills one place. least: the lowest probability;
    wanted: the numbers of the classes that are looked for (None: all).
    """
    times, length = np.asarray(times), min(seconds, end)
    starts = np.clip(times - length / 2, 0, end - length)
    first, last = np.searchsorted(times, starts - 1e-6), np.searchsorted(times, starts + length - 1e-6)
    last = np.maximum(last, first + 1)
    sums = np.concatenate([np.zeros((1, shares.shape[1])), np.cumsum(shares, 0, dtype=np.float64)])
    means = (sums[last] - sums[first]) / (last - first)[:, None]
    best = means.argmax(1)
    value = means[np.arange(len(times)), best]
    taken, count = [], defaultdict(int)
    for f in np.argsort(-value, kind="stable"):
        cls, start = int(best[f]), round(float(starts[f]), 3)
        if value[f] < least:
            break
        if count[cls] >= per_class or (wanted is not None and cls not in wanted):
            continue
        common = [min(start + length, other[1]) - max(start, other[0]) for other in taken]
        if all(c <= overlap * length + 1e-6 for c in common):
            taken.append((start, round(start + length, 3), cls, float(value[f])))
            count[cls] += 1
    return sorted(taken)


def read_stretches(path, flag):
    """[Stretch] of a table: film (or video),class,start,end and perhaps probability, or Kinetics' columns.

    UserError: another table, or a row that is no stretch of a film.
    """
    try:
        there, rows = files.read_table(path, {*COLUMNS, "video", *KINETICS_COLUMNS})
    except UserError as error:
        raise UserError(f"--{flag} {path}: {error}") from None
    names = ("film" if "film" in there else "video", "class", "start", "end")
    if set(KINETICS_COLUMNS[:4]) <= set(there):
        names = ("youtube_id", "label", "time_start", "time_end")
    for name in names:
        if name not in there:
            raise UserError(f"--{flag} {path} line 1: column {name} is missing; expected "
                            f"{','.join(names)} or {','.join(KINETICS_COLUMNS)}")
    return [_stretch(row, names, f"--{flag} {path} line {line}") for line, row in rows]


def _stretch(row, names, where):
    """The Stretch of a row, whose columns of film, class, start and end have these names."""
    film, cls, *seconds = (composed(row.get(name, "").strip()) for name in names)
    try:
        start, end = (float(text.replace(",", ".")) for text in seconds)     # 1,5 where semicolons divide
    except ValueError:
        raise UserError(f"{where}: {seconds[0][:20]!r} to {seconds[1][:20]!r} are no seconds") from None
    if not 0 <= start < end <= LAST_SECOND:
        raise UserError(f"{where}: from {start:g} to {end:g} s is no stretch of a film")
    if not film:
        raise UserError(f"{where}: no film is named")
    check_class(cls, where)
    if names[0] == "youtube_id":
        check_class(film, where)
    try:
        probability = float(row.get("probability", "").replace(",", ".") or "nan")
    except ValueError:
        probability = np.nan
    return Stretch(film, cls, start, end, probability if 0 <= probability <= 1 else None,
                   film if names[0] == "youtube_id" else None)


# What lies beside the class folders that find_clips.py fills
OWN_FILES = re.compile(r"(?:candidates|films)\.csv|candidates(?:_\d+)?\.png|settings\.json", re.IGNORECASE)


def check_class(cls, where):
    """A UserError for a name that cannot be that of a folder: it comes out of a file."""
    if not cls or cls.startswith(".") or re.search(r"[/\\\0]", cls) or len(cls) > 200:
        raise UserError(f"{where}: {cls[:60]!r} cannot be the name of a folder or a file")
    if OWN_FILES.fullmatch(cls):
        raise UserError(f"{where}: no class can be called {cls!r}, as a file of find_clips.py is; rename it")


def write_stretches(path, stretches):
    files.write_csv(path, COLUMNS, [(s.film, s.cls, f"{s.start:.3f}", f"{s.end:.3f}",
                                     "" if s.probability is None else f"{s.probability:.4f}")
                                    for s in stretches])


def of_films(stretches, films):
    """({film: [Stretch]}, names of films that are not there). films: names below the folder, with slashes.

    A table names a film by its path, its file's name, or that without its ending; Kinetics' by the
    address that the file is called by, or that stands at the end of its name. A Stretch's film is the
    path then.
    """
    known, there, absent = defaultdict(list), defaultdict(list), {}
    for film in films:
        path = PurePosixPath(film)
        for name in {film, path.name, path.stem}:
            known[composed(name)].append(film)
        match = re.search(r"(?:\[|^|[-_ ])([\w-]{11})\]?$", path.stem)
        if match:
            known[match[1]].append(film)
    for stretch in stretches:
        named = [stretch.film] if stretch.film in films else dict.fromkeys(
            known.get(composed(stretch.film), ()))
        if len(named) == 1:
            [film] = named
            there[film].append(replace(stretch, film=film))
        else:
            absent[stretch.film] = f"{len(named)} films have this name" if named else "not there"
    return dict(there), absent
