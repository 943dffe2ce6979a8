"""A set of films and the labels of their moments: what the page of teach.py shows and does.

    session = Session("my_labels", find_films("my_films"), Choices(classes=["jump", "wave"]))
    session.encode(encoder, options)        # features of all moments, into the store of the folder
    session.learn()                         # a network of the labels so far
    [moment, *_] = session.next(3)
    session.label({"id": moment["id"], "label": "wave"})

A moment is a stretch of `seconds`, from a multiple of that on, and is known by its film and where it begins;
its start and end may be moved before it gets its label. What the page calls may be called by any thread.
"""
import contextlib
import math
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path

from lrcn.base import cli
from lrcn.base.cli import UserError
from lrcn.drawing import style
from lrcn.teaching.labels import Label, Labels, can_be_named
from lrcn.video.cut import frames_between
from lrcn.video.reader import Video, VideoError, fit_frame, probe
from lrcn.video.sampling import Rate
from lrcn.video.writer import Writer
from lrcn.watching.candidates import LAST_SECOND
from lrcn.watching.films import unique_names

AHEAD = 3           # moments that are chosen, and cut, before they are asked
SHOWN = 480         # pixels of the long side of a moment in the page, at most
KEPT = 200          # moments that stay cut
SHORTEST, LONGEST = 0.2, 60.0       # seconds of a moment whose ends were moved


@dataclass
class Choices:
    """What a person says by flags. every: one of so many moments is drawn at random."""
    classes: list = field(default_factory=list)
    seconds: float = 2.0
    rate: Rate = field(default_factory=Rate)
    background: str | None = None
    order: str = "diverse"
    every: int = 5
    seed: int = 42


@dataclass
class Film:
    """A film of the set. times: seconds of its sampled frames so far; values: their features; known: how many
    of its moments are encoded; whole: whether all are."""
    number: int
    name: str
    path: Path
    title: str
    seconds: float = 0.0
    times: list = field(default_factory=list)
    values: list = field(default_factory=list)
    known: int = 0
    whole: bool = False
    reason: str = ""


class Session:
    """folder: of labels.csv, of what the films were sampled to, and of the features; this process's alone."""
    mode = "films"

    def __init__(self, folder, films, choices, finisher=None):
        self.folder, self.choices, self.finisher = Path(folder), choices, finisher
        self.labels = Labels(folder, choices.classes)
        named = {name: path for name, path in films.items() if can_be_named(name)}
        self.films = [Film(number, name, Path(path), title) for number, ((name, path), title) in
                      enumerate(zip(named.items(), unique_names(named), strict=True))]
        self.by_name = {film.name: film for film in self.films}
        self.note = "" if len(named) == len(films) else \
            f"{len(films) - len(named)} films are left out: their names hold ends of lines"
        self.moments = []           # (film's number, moment's number) of all that are encoded
        self.place = {}             # the other way round
        self.rows = []              # float32 (D,) of each
        self.model, self.known = None, None     # asking.Model, and the asking.Moments that it is of
        self.queue, self.asked, self.lines = [], 0, []
        self.training, self.version, self.state_of = False, 1, "idle"
        self.run, self.accuracy, self.confusions, self.learned = None, None, [], -1
        self.changed, self.cutting = threading.Condition(threading.RLock()), threading.Lock()
        shutil.rmtree(self.playing, ignore_errors=True)
        self.playing.mkdir(parents=True)
        for film in self.films:
            with contextlib.suppress(VideoError, OSError):
                info = probe(film.path)
                film.seconds = info.frames / info.fps

    playing = property(lambda session: session.folder / "playing")
    frames = property(lambda session: session.folder / "frames")

    # ------------------------------------------------------------ news

    def touch(self):
        """Something changed: who waits for news gets it."""
        with self.changed:
            self.version += 1
            self.changed.notify_all()

    def wait(self, version, seconds):
        """Return when there is news since `version`, or after so many seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.version != version, seconds)

    def state(self):
        """What the page shows, of plain containers."""
        with self.changed:
            labels, model = self.labels, self.model
            counts = {}
            for label in labels.now.values():
                counts[label.label or label.kind] = counts.get(label.label or label.kind, 0) + 1
            names = [*labels.classes, *([self.choices.background] if self.choices.background else [])]
            colors = ["#" + bytes(color).hex() for color in style.class_colors(names)]
            classes = [{"name": name, "key": str(i + 1) if i < 9 else "", "count": counts.get(name, 0),
                        "color": colors[i], "background": False} for i, name in enumerate(names)]
            if self.choices.background:
                classes[-1] |= {"key": "0", "background": True, "count": counts.get("none", 0)}
            films = [{"name": film.name, "seconds": round(film.seconds, 3),
                      "encoded": 1.0 if film.whole else round(min(0.99, (film.times[-1] if film.times else 0)
                                                                  / max(film.seconds, 1e-3)), 3),
                      "labels": 0, "timeline": self.timeline(film, model)} for film in self.films]
            for label in labels.now.values():
                if label.film in self.by_name and label.kind != "skip":
                    films[self.by_name[label.film].number]["labels"] += 1
            done = sum(f["seconds"] * f["encoded"] for f in films)
            return {"version": self.version, "mode": self.mode, "classes": classes, "films": films,
                    "progress": {"done": round(done, 1), "total": round(sum(f["seconds"] for f in films), 1),
                                 "note": self.note},
                    "labels": sum(n for name, n in counts.items() if name != "skip"),
                    "training": self.training, "accuracy": self.accuracy, "confusions": self.confusions,
                    "finish": {"state": self.state_of, "lines": self.lines[-200:], "run": self.run}}

    def timeline(self, film, model):
        return []

    # ------------------------------------------------------------ moments

    def span(self, film, number):
        """(start, end) of a moment of a film, in seconds; the last one may be shorter by half."""
        start = number * self.choices.seconds
        return start, min(start + self.choices.seconds, film.seconds)

    def count(self, film):
        """How many moments a film has."""
        return max(1, math.floor(film.seconds / self.choices.seconds + 0.5)) if film.seconds else 0

    def find_moment(self, id):
        """(Film, number of the moment) of an id; LookupError: there is none."""
        film, _, number = str(id)[:40].partition("-")
        if not (film.isdecimal() and number.isdecimal()) or int(film) >= len(self.films) or \
                int(number) >= self.count(self.films[int(film)]):
            raise LookupError(id)
        return self.films[int(film)], int(number)

    def stretch(self, film, number, start=None, end=None):
        """(start, end) as the page moved them, inside the film; ValueError: they are none."""
        usual = self.span(film, number)
        start, end = (float(value) if value not in (None, "") else own
                      for value, own in zip((start, end), usual, strict=True))
        start, end = max(0.0, start), min(end, max(film.seconds, usual[1]))
        if not (start < end <= LAST_SECOND and SHORTEST <= round(end - start, 3) <= LONGEST):
            raise ValueError(f"a moment lasts from {SHORTEST:g} to {LONGEST:g} s")
        return round(start, 3), round(end, 3)

    def as_moment(self, film, number, why):
        """MOMENT of the page."""
        start, end = self.span(film, number)
        label = self.labels.now.get((film.name, round(start, 3)))
        if label:
            start, end = label.start, label.end
        return {"id": f"{film.number}-{number}", "film": film.name, "start": round(start, 3),
                "end": round(end, 3), "seconds": round(film.seconds, 3), "guess": self.guess(film, number),
                "why": why}

    def guess(self, film, number):
        return []

    def next(self, number=AHEAD):
        """[MOMENT] to ask next; the first ones stay the same until they have a label."""
        with self.changed:
            self.fill(number)
            return [self.as_moment(self.films[film], moment, why)
                    for (film, moment), why in self.queue[:number]]

    def fill(self, number):
        """Choose moments until so many wait."""
        waiting = {key for key, _ in self.queue}
        for film in self.films:
            for moment in range(self.count(film)):
                key = film.number, moment
                if len(self.queue) >= number:
                    return
                if key not in waiting and (film.name, round(self.span(film, moment)[0], 3)) not in \
                        self.labels.now:
                    self.queue.append((key, "random"))

    def clip(self, id, start=None, end=None):
        """The Path of a moment as a small H.264 film, cut if need be."""
        film, number = self.find_moment(id)
        start, end = self.stretch(film, number, start, end)
        path = self.playing / f"{film.number}-{start:.3f}-{end:.3f}.mp4"
        with self.cutting:
            if not path.is_file():
                try:
                    play(film.path, path, start, end)
                except VideoError as error:
                    raise UserError(f"{film.name}: {error}") from None
                old = sorted(self.playing.glob("*.mp4"), key=lambda p: p.stat().st_mtime_ns)[:-KEPT]
                for one in old:
                    one.unlink(missing_ok=True)
        return path

    # ------------------------------------------------------------ keys

    def label(self, asked):
        """A key: the moment `id` gets the class `label`, None for none of them, "" to pass it over; [MOMENT]
        to ask next. The label is on the disk."""
        film, number = self.find_moment(asked.get("id"))
        start, end = self.stretch(film, number, asked.get("start"), asked.get("end"))
        name = asked.get("label")
        with self.changed:
            if name is not None and name != "" and name != self.choices.background and \
                    name not in self.labels.classes:
                raise ValueError(f"there is no class {str(name)[:60]!r}")
            kind = "none" if name is None or name == self.choices.background else "class" if name else "skip"
            self.labels.add(Label(film.name, start, end, name if kind == "class" else "", kind,
                                  round(self.span(film, number)[0], 3)))
            self.queue = [entry for entry in self.queue if entry[0] != (film.number, number)]
            self.touch()
            return self.next()

    def undo(self):
        """Take the last key back; [MOMENT], that one first."""
        with self.changed:
            label = self.labels.undo()
            if label and label.film in self.by_name:
                film = self.by_name[label.film]
                key = film.number, round(label.moment / self.choices.seconds)
                self.queue = [(key, "chosen"), *(entry for entry in self.queue if entry[0] != key)]
            self.touch()
            return self.next()

    def add_class(self, name):
        """Give a class the next key; the page's list of all."""
        with self.changed:
            if name == self.choices.background:
                raise ValueError(f"{name!r} is the background, key 0")
            self.labels.add_class(name)
            self.touch()
            return self.state()["classes"]

    def find(self, by, value, time=None):
        """[MOMENT] of a film at a time (by film), sure ones of a class, near ones of a moment (like), or
        labels that networks that have not seen their film contradict most (suspects)."""
        with self.changed:
            if by == "film":
                film = self.by_name[value]
                seconds = float(time or 0)
                if not 0 <= seconds <= LAST_SECOND:
                    raise ValueError("this is no moment of a film")
                number = min(int(seconds / self.choices.seconds), self.count(film) - 1)
                return [self.as_moment(film, number, "chosen")]
            if by not in ("class", "like", "suspects"):
                raise ValueError("by: class, like, suspects or film")
            return []

    # ------------------------------------------------------------ at the end

    def finish(self):
        """Begin to make clips, data set and run of the labels, if that is not under way."""
        with self.changed:
            if self.state_of != "running" and self.finisher:
                self.state_of, self.lines, self.run = "running", [], None
                threading.Thread(target=self._finish, daemon=True).start()
            self.touch()
            return self.state()["finish"]

    def _finish(self):
        def say(line):
            self.lines.append(cli.printable(line))
            self.touch()
        try:
            self.run = str(self.finisher(self, say))
            self.state_of = "done"
        except (UserError, OSError) as error:
            say(error)
            self.state_of = "failed"
        self.touch()


def play(source, target, start, end):
    """Write a stretch of a film as a small H.264 film for the page, without its sound."""
    with Video(source) as film, contextlib.ExitStack() as stack:
        out = None
        for seconds, frame in frames_between(film, start, end):
            if out is None:
                scale, first = min(1, SHOWN / max(frame.shape[:2])), seconds
                wide, high = (max(2, round(side * scale / 2) * 2) for side in frame.shape[1::-1])
                out = stack.enter_context(Writer(target, film.info.fps, wide, high))
            out.write(fit_frame(frame, wide, high), seconds - first)
        if out is None:
            raise VideoError(f"no frame from {start:.3f} to {end:.3f} s")
