"""The folder that find_clips.py fills: a data set of stretches of films, film after film.

    folder = ClipFolder(out, "clips", rate)
    folder.check({"clip_seconds": 5.0})             # or refuse a folder that was made otherwise
    if not folder.knows(film, path):
        folder.propose(film, name, path, stretches, seconds)
    folder.write(stretches, name, path, time_limit)     # what is not there yet
    folder.tidy(named, names); folder.draw(named)       # named: [(Stretch, film's name)]

What is on the disk is whole: the tables are replaced after every film, a clip or picture appears under
its name when it is done, and the same command goes on from there.
"""
import functools
import os
import re
from collections import Counter
from pathlib import Path

from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.base.lazy import Lazy
from lrcn.base.workers import ahead
from lrcn.data.splits import FILM_NAME, KINETICS_NAME
from lrcn.drawing.labels import contact_sheet
from lrcn.video.cut import SLACK, copy, cut, frames_between
from lrcn.video.reader import Video, VideoError, probe, read_frames
from lrcn.watching.candidates import read_stretches, write_stretches

cv2 = Lazy("cv2")

FILMS = ("film", "bytes", "modified", "seconds", "candidates", "reason")
ON_A_SHEET = 200    # candidates


class ClipFolder:
    """kind: "clips" exact to the frame, "copies" from key frames on, or "frames": pictures. rate: the
    sampling.Rate at which pictures are taken from a film; every: or one of so many frames, counted, because
    the rate that a file tells may be a guess."""

    def __init__(self, out, kind, rate, every=None):
        self.out, self.kind, self.rate, self.every = Path(out), kind, rate, every
        self.table = self.out / "candidates.csv"
        self.stretches, self.films, self.early = [], {}, 0.0

    def check(self, choices, table=None):
        """Take up a folder that was made with these choices, or begin one; UserError for another folder.

        table: [Stretch] that are wanted, in the place of what was found before.
        """
        choices = {"output": self.kind, **choices}
        other = files.claim(self.out, "output_dir", choices, choices if table is None else ("output",))
        if other:
            name, before = other
            raise UserError(f"--output_dir {self.out}: it was made with {name} {before}, not "
                            f"{choices[name]}; choose another folder or the same flags")
        for folder in [self.out, *(p for p in self.out.iterdir() if p.is_dir())]:
            files.remove_leftovers(folder)
        path = self.out / "films.csv"
        rows = files.read_csv(path, FILMS) if path.is_file() else []
        self.films = {row["film"]: [row[name] for name in FILMS] for row in rows if not row["reason"]}
        if table is not None:
            self.stretches = list(table)
        elif self.table.is_file():
            self.stretches = read_stretches(self.table, "output_dir")

    def knows(self, film, path):
        """Was this film looked through, as it is now?"""
        row = self.films.get(film)
        return row is not None and row[1:3] == _stamp(path)

    def of(self, film):
        return [stretch for stretch in self.stretches if stretch.film == film]

    def propose(self, film, name, path, stretches, seconds):
        """Keep what was found in a film, in the place of what was found in it before."""
        for stretch in self.of(film) if film in self.films else ():
            for old in self._there(stretch, name):      # another film lay there
                old.unlink()
        self.stretches = [s for s in self.stretches if s.film != film] + list(stretches)
        self.note(film, path, f"{seconds:.3f}", len(stretches))

    def note(self, film, path, seconds="", candidates="", reason=""):
        """What films.csv says of a film."""
        self.films[film] = [film, *_stamp(path), seconds, candidates, reason]
        self.save()

    def save(self):
        """Write the tables: a film whose row is there has its candidates there."""
        write_stretches(self.table, self.stretches)
        files.write_csv(self.out / "films.csv", FILMS, [self.films[film] for film in sorted(self.films)])

    def write(self, stretches, name, path, time_limit):
        """Write the stretches of one film that are not there yet; yields each that was written.

        name: of the film in the clips' names. VideoError: the film cannot be read there.
        """
        for stretch in stretches:
            there, step = self._there(stretch, name), self.every / 25 if self.every else self.rate.step
            # pictures are written in order of time: where the last is, all are
            if there and (self.kind != "frames" or float(there[-1].stem.rsplit("_", 1)[1])
                          >= stretch.end - 2 * step - SLACK):
                continue
            (self.out / stretch.cls).mkdir(exist_ok=True)
            for _ in ahead(self._write(stretch, name, path), 4, time_limit, VideoError):
                pass
            yield stretch

    def _clip(self, stretch, name):
        return self.out / stretch.cls / f"{stretch.name(name)}.mp4"

    def _write(self, stretch, name, path):
        """The clip of a stretch, exact or copied, or its sampled frames as pictures; yields as it goes."""
        if self.kind == "clips":
            yield from cut(path, self._clip(stretch, name), stretch.start, stretch.end)
        if self.kind == "copies":
            start, _ = copy(path, self._clip(stretch, name), stretch.start, stretch.end)
            self.early = max(self.early, stretch.start - start)
        if self.kind != "frames":
            return
        count = 0
        with Video(path) as film:
            beat = self.rate.beat(film.info.fps)
            for number, (seconds, frame) in enumerate(frames_between(film, stretch.start, stretch.end)):
                if number % self.every == 0 if self.every else beat.keep(seconds):
                    target = self.out / stretch.cls / f"{stretch.frame_name(name, seconds)}.jpg"
                    with files.atomic(target) as temporary:
                        # not imwrite, which says nothing of a full disk
                        quality = cv2.IMWRITE_JPEG_QUALITY, 95
                        temporary.write_bytes(cv2.imencode(".jpg", frame[:, :, ::-1], quality)[1])
                    count += 1
                yield count
        if not count:
            raise VideoError(f"no frame from {stretch.start:.3f} to {stretch.end:.3f} s")

    def _there(self, stretch, name):
        """The files of a stretch, in order of time."""
        if self.kind != "frames":
            clip = self._clip(stretch, name)
            return [clip] if clip.is_file() else []
        title = re.escape(stretch.frame_name(name, 0)[:-len("00000.000")])
        there = [(float(match[1]), path) for path in (self.out / stretch.cls).glob("*.jpg")
                 if (match := re.fullmatch(rf"{title}(\d+\.\d+)", path.stem))]
        return [path for seconds, path in sorted(there)
                if stretch.start - SLACK <= seconds < stretch.end - SLACK]

    def tidy(self, named, names):
        """Take out the clips and pictures of the films `names` whose row is gone; how many.

        named: [(Stretch, film's name)] of what is kept.
        """
        kept = {path for stretch, name in named for path in self._there(stretch, name)}
        names = {*names, *(stretch.address for stretch, _ in named)}
        gone = [path for path in self.out.glob("*/*") if path.suffix in (".mp4", ".jpg") and path not in kept
                and (match := FILM_NAME.fullmatch(path.stem) or KINETICS_NAME.fullmatch(path.stem))
                and match[1] in names]
        for path in gone:
            path.unlink()
        for folder in {path.parent for path in gone}:
            if not any(folder.iterdir()):
                folder.rmdir()
        return len(gone)

    def draw(self, named):
        """candidates.png, and more of them where there are many: a picture of every stretch, by class."""
        for old in self.out.glob("candidates*.png"):
            old.unlink()
        rows = sorted(((s.cls, s.film, s.start), s, name) for s, name in named)
        counts = Counter(s.cls for _, s, _ in rows)
        for page, first in enumerate(range(0, len(rows), ON_A_SHEET)):
            tiles = [self._tile(stretch, name) for _, stretch, name in rows[first:first + ON_A_SHEET]]
            title = f"{len(rows)} candidates: " + ", ".join(f"{n} {cls}" for cls, n in sorted(counts.items()))
            contact_sheet(self.out / f"candidates{f'_{page + 1}' if page else ''}.png", title, tiles)

    def _tile(self, stretch, name):
        there, frame, mark = self._there(stretch, name), None, ""
        try:
            if not there:
                mark = "not cut"
            elif self.kind == "frames":
                frame = cv2.imread(str(there[len(there) // 2]))[:, :, ::-1]
            else:
                frame = read_frames(there[0], [probe(there[0]).frames // 2])[0]
        except VideoError:
            mark = "cannot be read"
        share = "" if stretch.probability is None else f" {stretch.probability:.2f}"
        return frame, f"{stretch.cls}{share}\n{name} {stretch.start:.1f}-{stretch.end:.1f} s", mark


@functools.lru_cache(maxsize=4096)
def _stamp(path):
    """[bytes, time of change (ns)] of a file, as text; empty where there is none ("")."""
    try:
        known = os.stat(path)
    except OSError:
        return ["", ""]
    return [str(known.st_size), str(known.st_mtime_ns)]
