"""Candidates: stretches of films that a run proposes as clips of its classes, their tables, and the folder of
find_clips.py. Clips are called <film>_<start>-<end>, so that lrcn.data.groups takes the film as their group.
"""
import contextlib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from lrcn.base import Lazy, UserError, files
from lrcn.base.workers import ahead
from lrcn.data.groups import FILM_NAME, KINETICS_NAME
from lrcn.data.review import LAST_SECOND
from lrcn.data.split_lists import KINETICS_COLUMNS
from lrcn.drawing import style
from lrcn.drawing.labels import contact_sheet
from lrcn.video.cut import SLACK, copy, cut, frames_between
from lrcn.video.reader import Video, VideoError, probe, read_frames

cv2 = Lazy("cv2")

COLUMNS = ("film", "class", "start", "end", "probability", "number")
FILMS = ("film", "bytes", "modified", "seconds", "candidates", "reason")
ON_A_SHEET = 200    # candidates


@dataclass(frozen=True)
class Stretch:
    """Part of a film, in seconds."""
    film: str           # as its table names it
    cls: str
    start: float
    end: float
    probability: float | None = None
    address: str | None = None          # of the film in Kinetics' tables
    number: int | None = field(default=None, compare=False)     # in candidates.csv and on candidates.png

    def name(self, film):
        """The name of its clip, without an ending; film: the name of the film's file."""
        if self.address:
            return f"{self.address}_{int(self.start):06d}_{int(self.end):06d}"
        return f"{film}_{self.start:09.3f}-{self.end:09.3f}"

    def frame_name(self, film, seconds):
        """The name of the picture of a frame."""
        return f"{self.address or film}_{seconds:09.3f}"


def propose(times, end, probabilities, seconds, per_class, overlap=0.0, least=0.0, wanted=None):
    """[(start, end, class, probability)] in order of time: the best stretches of `seconds`, inside the film.
    times (F,), probabilities (F, C): of the sampled frames; end: of the film. A stretch lies around a sampled
    frame, or at the film's ends; its probability is the mean of its frames', its class the most probable one.
    They are chosen in order of probability; at most the fraction `overlap` of one is in another. least: the
    lowest probability; wanted: the numbers of the classes to look for (None: all)."""
    times, length = np.asarray(times), min(seconds, end)
    starts = np.clip(times - length / 2, 0, end - length)
    first, last = np.searchsorted(times, starts - 1e-6), np.searchsorted(times, starts + length - 1e-6)
    last = np.maximum(last, first + 1)
    sums = np.cumsum(np.concatenate([probabilities[:1] * 0, probabilities]), 0, dtype=np.float64)
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
    """[Stretch] of a table: film (or video),class,start,end and perhaps probability, or Kinetics' columns, or
    teach.py's review.csv without its dropped rows. UserError: another table, or a wrong row."""
    try:
        there, rows = files.read_table(path, {*COLUMNS, "video", "source", *KINETICS_COLUMNS})
    except UserError as error:
        raise UserError(f"--{flag} {path}: {error}") from None
    kinetics, stretches = set(KINETICS_COLUMNS[:4]) <= set(there), []
    names = ("youtube_id", "label", "time_start", "time_end") if kinetics else \
        (next((name for name in ("film", "video", "source") if name in there), "video"),
         "class", "start", "end")
    if missing := [name for name in names if name not in there]:
        raise UserError(f"--{flag} {path} line 1: column {missing[0]} is missing; expected "
                        f"{','.join(names)} or {','.join(KINETICS_COLUMNS)}")
    for line, row in rows:
        if row.get("action", "").strip() == "drop":
            continue
        where = f"--{flag} {path} line {line}"
        film, cls, *seconds = (files.composed(row.get(name, "").strip()) for name in names)
        try:
            start, end = (float(text.replace(",", ".")) for text in seconds)    # 1,5 between semicolons
        except ValueError:
            raise UserError(f"{where}: {seconds[0][:20]!r} to {seconds[1][:20]!r} are not seconds") from None
        if not 0 <= start < end <= LAST_SECOND:
            raise UserError(f"{where}: from {start:g} to {end:g} s is not a stretch of a film")
        if not film:
            raise UserError(f"{where}: no film is named")
        for name in (cls, film) if kinetics else (cls,):
            check_class(name, where)
        probability, number = np.nan, row.get("number", "").strip()
        with contextlib.suppress(ValueError):
            probability = float(row.get("probability", "").replace(",", "."))
        stretches.append(Stretch(film, cls, start, end, probability if 0 <= probability <= 1 else None,
                                 film if kinetics else None,
                                 int(number) if re.fullmatch("[0-9]{1,9}", number) else None))
    return stretches


# find_clips.py's files beside the class folders
OWN_FILES = re.compile(r"(?:candidates|films)\.csv|candidates(?:_\d+)?\.png|settings\.json", re.IGNORECASE)


def check_class(cls, where):
    """UserError: a name, from a file, that no class's folder can have."""
    if not cls or cls.startswith(".") or re.search(r"[/\\\0]", cls) or len(cls) > 200:
        raise UserError(f"{where}: {cls[:60]!r} cannot be the name of a folder or a file")
    if OWN_FILES.fullmatch(cls):
        raise UserError(f"{where}: no class can be called {cls!r}, as a file of find_clips.py is; rename it")


def write_stretches(path, stretches):
    files.write_csv(path, COLUMNS, [(s.film, s.cls, f"{s.start:.3f}", f"{s.end:.3f}",
                                     "" if s.probability is None else f"{s.probability:.4f}", s.number)
                                    for s in stretches])


def of_films(stretches, films):
    """({film: [Stretch]}, {name of a missing film: why}). films: paths below the folder. A table names a film
    by path, file name or stem; Kinetics' by its address, which is the file's whole name or its end."""
    known, there, absent = defaultdict(list), defaultdict(list), {}
    for film in films:
        path = PurePosixPath(film)
        for name in {film, path.name, path.stem}:
            known[files.composed(name)].append(film)
        if match := re.search(r"(?:\[|^|[-_ ])([\w-]{11})\]?$", path.stem):
            known[match[1]].append(film)
    for stretch in stretches:
        named = [stretch.film] if stretch.film in films else dict.fromkeys(
            known.get(files.composed(stretch.film), ()))
        if len(named) == 1:
            [film] = named
            there[film].append(replace(stretch, film=film))
        else:
            absent[stretch.film] = f"{len(named)} films have this name" if named else "not there"
    return dict(there), absent


class ClipFolder:
    """kind: "clips" exact to the frame, "copies" from key frames on, or "frames": pictures. names: {film: its
    part of the clips' names}. rate: the sampling.Rate of pictures; or every: one of so many frames. Files are
    whole or absent: the tables are replaced after every film, and the same command goes on."""

    def __init__(self, out, kind, names, rate, every=None):
        self.out, self.kind, self.names, self.rate, self.every = Path(out), kind, names, rate, every
        self.table = self.out / "candidates.csv"
        self.stretches, self.films, self.early = [], {}, 0.0

    def check(self, choices, table=None, films=None):
        """Begin a folder, or go on with one that was made with these choices; UserError: another folder.
        table: the wanted [Stretch] instead of the folder's own; films: their folder."""
        choices = {"output": self.kind, **choices}
        files.claim(self.out, "output_dir", {**choices, "video_path": films},
                    choices if table is None else ("output",))
        for folder in [self.out, *(p for p in self.out.iterdir() if p.is_dir())]:
            files.remove_leftovers(folder)
        path = self.out / "films.csv"
        rows = files.read_csv(path, FILMS) if path.is_file() else []
        self.films = {row["film"]: [row[name] for name in FILMS] for row in rows if not row["reason"]}
        if table is not None:
            self.stretches = list(table)
        elif self.table.is_file():
            self.stretches = read_stretches(self.table, "output_dir")

    def of(self, films):
        return [stretch for stretch in self.stretches if stretch.film in films]

    def propose(self, film, path, stretches, seconds):
        """Replace the stretches of a film."""
        for stretch in self.of([film]) if film in self.films else ():
            for old in self._there(stretch):      # of another film by this name
                old.unlink()
        self.stretches = [s for s in self.stretches if s.film != film] + list(stretches)
        self.note(film, path, f"{seconds:.3f}", len(stretches))

    def note(self, film, path, seconds="", candidates="", reason=""):
        """Write a film's row of films.csv."""
        self.films[film] = [film, *files.stamp(path), seconds, candidates, reason]
        self.save()

    def save(self):
        """Write the tables. A candidate keeps its number, and new ones get the next numbers."""
        last, taken = max((s.number or 0 for s in self.stretches), default=0), set()
        for i, stretch in enumerate(self.stretches):
            if stretch.number is None or stretch.number in taken:
                self.stretches[i] = replace(stretch, number=(last := last + 1))
            taken.add(self.stretches[i].number)
        write_stretches(self.table, self.stretches)
        files.write_csv(self.out / "films.csv", FILMS, [self.films[film] for film in sorted(self.films)])

    def write(self, film, path, time_limit):
        """Write the missing clips of a film; yields each stretch that was written. VideoError: unreadable."""
        for stretch in self.of([film]):
            there = self._there(stretch)
            if there and self.kind == "frames":     # in order of time: with the last one all are there
                step = self.every / 25 if self.every else self.rate.step
                there = float(there[-1].stem.rsplit("_", 1)[1]) >= stretch.end - 2 * step - SLACK
            if not there:
                (self.out / stretch.cls).mkdir(exist_ok=True)
                for _ in ahead(self._write(stretch, path), 4, time_limit, VideoError):
                    pass
                yield stretch

    def _clip(self, stretch):
        return self.out / stretch.cls / f"{stretch.name(self.names[stretch.film])}.mp4"

    def _write(self, stretch, path):
        """Write the clip of a stretch, exact or copied, or its sampled frames as pictures; yields counts."""
        if self.kind == "clips":
            return (yield from cut(path, self._clip(stretch), stretch.start, stretch.end))
        if self.kind == "copies":
            start, _ = copy(path, self._clip(stretch), stretch.start, stretch.end)
            self.early = max(self.early, stretch.start - start)
            return
        with Video(path) as film:
            beat = self.rate.beat(film.info.fps)
            for number, (seconds, frame) in enumerate(frames_between(film, stretch.start, stretch.end)):
                if number % self.every == 0 if self.every else beat.keep(seconds):
                    name = stretch.frame_name(self.names[stretch.film], seconds)
                    style.write_picture(self.out / stretch.cls / f"{name}.jpg", frame, 95)
                yield number

    def _there(self, stretch):
        """The files of a stretch, in order of time."""
        if self.kind != "frames":
            clip = self._clip(stretch)
            return [clip] if clip.is_file() else []
        title = re.escape(stretch.frame_name(self.names[stretch.film], 0)[:-len("00000.000")])
        there = [(float(match[1]), path) for path in (self.out / stretch.cls).glob("*.jpg")
                 if (match := re.fullmatch(rf"{title}(\d+\.\d+)", path.stem))]
        return [path for seconds, path in sorted(there)
                if stretch.start - SLACK <= seconds < stretch.end - SLACK]

    def tidy(self):
        """Delete clips and pictures of the films that have no row any more; how many."""
        stretches = self.of(self.names)
        kept = {path for stretch in stretches for path in self._there(stretch)}
        names = {*self.names.values(), *(stretch.address for stretch in stretches)}
        gone = [path for path in self.out.glob("*/*") if path.suffix in (".mp4", ".jpg") and path not in kept
                and (match := FILM_NAME.fullmatch(path.stem) or KINETICS_NAME.fullmatch(path.stem))
                and match[1] in names]
        for path in gone:
            path.unlink()
        for folder in {path.parent for path in gone}:
            if not any(folder.iterdir()):
                folder.rmdir()
        return len(gone)

    def draw(self):
        """Draw candidates.png, and more of them for many: a picture of every stretch, by class."""
        for old in self.out.glob("candidates*.png"):
            old.unlink()
        rows = sorted(self.of(self.names), key=lambda s: (s.cls, s.film, s.start))
        counts = Counter(stretch.cls for stretch in rows)
        for page, first in enumerate(range(0, len(rows), ON_A_SHEET)):
            tiles = []
            for stretch in rows[first:first + ON_A_SHEET]:
                there, frame, mark = self._there(stretch), None, ""
                try:
                    if not there:
                        mark = "not cut"
                    elif self.kind == "frames":
                        frame = cv2.imread(str(there[len(there) // 2]))[:, :, ::-1]
                    else:
                        frame = read_frames(there[0], [probe(there[0]).frames // 2])[0]
                except VideoError:
                    mark = "cannot be read"
                p = "" if stretch.probability is None else f" {stretch.probability:.2f}"
                place = f"{self.names[stretch.film]} {stretch.start:.1f}-{stretch.end:.1f} s"
                tiles.append((frame, f"{stretch.number} {stretch.cls}{p}\n{place}", mark))
            title = f"{len(rows)} candidates: " + ", ".join(f"{n} {cls}" for cls, n in sorted(counts.items()))
            contact_sheet(self.out / f"candidates{f'_{page + 1}' if page else ''}.png", title, tiles)
