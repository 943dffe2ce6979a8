"""A set of films and the labels of their moments: what the page of teach.py shows and does.

    session = Session("my_labels", find_films("my_films"), Choices(classes=["jump", "wave"]))
    session.encode(encoder, options)        # features of all moments, into the store of the folder
    session.learn()                         # a network of the labels so far
    [moment, *_] = session.next(3)
    session.label({"id": moment["id"], "label": "wave"})
    session.start(encoder, options)         # or encode and learn by themselves, in threads

A moment is a stretch of `seconds`, from a multiple of that on, and is known by its film and where it begins;
its start and end may be moved before it gets its label. What the page calls may be called by any thread.
"""
import bisect
import contextlib
import itertools
import math
import os
import re
import shutil
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lrcn.base import Lazy, UserError, cli, files
from lrcn.base.workers import ahead
from lrcn.data.frames import Clip
from lrcn.data.manifest import SampledVideo, clip_path
from lrcn.drawing import style
from lrcn.teaching import asking
from lrcn.teaching.labels import Label, Labels, can_be_named
from lrcn.video.cut import cut
from lrcn.video.flow import sample_video
from lrcn.video.reader import Video, VideoError, probe
from lrcn.video.sampling import Rate
from lrcn.video.writer import write_clip
from lrcn.watching.candidates import LAST_SECOND
from lrcn.watching.films import unique_names

encoding = Lazy("lrcn.features.features")

FIRST_PIECE, PIECE = 50, 250    # sampled frames of a film that are encoded at once
PATIENCE = 300      # seconds for a piece, until a decoder is given up
FIXED = 1           # the moment on the screen stays the next, whatever is learned meanwhile
AHEAD = 3           # moments that are chosen, and cut, before they are asked
SHOWN = 480         # pixels of the long side of a moment in the page, at most
RANKED = 5          # moments that a network says are next
STALE = 10          # keys after which the accuracy is told anew, however fast they come
CONFUSIONS, FOUND = 12, 12      # shown at most
KEPT = 200          # moments that stay cut
SHORTEST, LONGEST = 0.2, 60.0       # seconds of a moment whose ends were moved


@dataclass
class Choices:
    """What a person says by flags. known: the classes of a run that is there already; every: one of so many
    moments is drawn at random."""
    classes: list = field(default_factory=list)
    seconds: float = 2.0
    rate: Rate = field(default_factory=Rate)
    background: str | None = None
    known: list = field(default_factory=list)
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


class News:
    """What an open page waits for. `changed` guards what it shows; `version` grows with every change."""

    def __init__(self):
        self.version, self.changed = 1, threading.Condition(threading.RLock())

    def touch(self, **news):
        """Set what changed: who waits for news gets it."""
        with self.changed:
            vars(self).update(news)
            self.version += 1
            self.changed.notify_all()

    def wait(self, version, seconds):
        """Return when there is news since `version`, or after so many seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.version != version, seconds)


class Session(News):
    """folder: of labels.csv, of what the films were sampled to, and of the features; this process's alone.
    finisher: called with [Label] and say(line), makes a run of them and gives its folder; prior: what a run
    says of features float32 (T, D), probabilities (C,) of the classes choices.known."""
    mode = "films"

    def __init__(self, folder, films, choices, finisher=None, prior=None):
        super().__init__()
        self.folder, self.choices, self.finisher, self.prior = Path(folder), choices, finisher, prior
        self.labels = Labels(folder, [*choices.known, *choices.classes])
        named = {name: path for name, path in films.items() if can_be_named(name)}
        self.films = [Film(number, name, Path(path), title) for number, ((name, path), title) in
                      enumerate(zip(named.items(), unique_names(named), strict=True))]
        self.by_name = {film.name: film for film in self.films}
        self.note = "" if len(named) == len(films) else \
            f"{len(films) - len(named)} films are left out: their names contain line breaks"
        # Of the moments that are encoded: {(film's number, moment's number): its row}, features, what a run
        # says, what each is drawn by, [(that, key)] in order
        self.place, self.rows, self.priors, self.drawn, self.lots = {}, [], [], [], []
        self.moments, self.model, self.names = None, None, []       # asking's, and its classes
        self.queue, self.ranking, self.timelines = [], [], {}
        self.keys, self.learned, self.held_at = 0, None, 0
        self.training, self.accuracy, self.confusions = False, None, []
        self.finished, self.lines, self.run = "idle", [], None
        self.cutting = threading.Lock()
        self.closed, self.threads, self.cuts = False, [], set()
        shutil.rmtree(self.playing, ignore_errors=True)
        self.playing.mkdir(parents=True)
        for film in self.films:
            with contextlib.suppress(VideoError, OSError):
                info = probe(film.path)
                film.seconds = info.frames / info.fps

    playing = property(lambda session: session.folder / "playing")
    frames = property(lambda session: session.folder / "frames")

    # ------------------------------------------------------------ at work by itself

    def start(self, encoder, options):
        """Encode, learn and cut in threads. options: features.Options."""
        def tried(work, *words):
            """Labels can be given whatever fails here, and the page says what did."""
            try:
                work(*words)
            except Exception as error:
                self.note = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                cli.say(self.note)
            self.touch()

        def repeat(due, work):
            while not self.closed:
                with self.changed:
                    self.changed.wait_for(lambda: self.closed or due())
                if not self.closed:
                    tried(work)

        for work, *words in ((tried, self.encode, encoder, options), (repeat, self.is_due, self.learn),
                             (repeat, self.uncut, self.cut)):
            self.threads.append(threading.Thread(target=work, args=words, daemon=True))
            self.threads[-1].start()

    def close(self):
        """End the threads, each after what it is at."""
        self.closed = True
        self.touch()
        for thread in self.threads:
            thread.join(timeout=10)
        self.labels.close()
        shutil.rmtree(self.playing, ignore_errors=True)

    # ------------------------------------------------------------ features

    def encode(self, encoder, options):
        """Sample the films, and encode what the store does not have yet, so that moments get features one
        after another."""
        waiting = []
        for film in self.films:
            try:
                for number, times in ahead(self.pieces(film), 2, PATIENCE, VideoError):
                    waiting.append((film, number, times))
                    if times and not self.rows or sum(len(entry[2]) for entry in waiting) >= PIECE:
                        self.take_in(waiting, encoder, options)
                        waiting = []
                    if self.closed:
                        return
            except (VideoError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in files.OF_ONE_FILE:
                    raise
                film.whole, self.note = True, f"cannot read {film.name}: {error}"
                cli.say(self.note)
        if waiting:
            self.take_in(waiting, encoder, options)

    def pieces(self, film):
        """Yields (number, seconds of its frames) of each piece of a sampled film, which lies in the folder of
        frames then, and at the film's end a number without a frame."""
        about, rate = self.frames / film.title / "film.json", self.choices.rate
        there = os.stat(film.path)
        stamp = [there.st_size, there.st_mtime_ns, rate.FPS, rate.sampling_rate]
        with contextlib.suppress(UserError, LookupError, TypeError):
            known = files.read_json(about)
            paths = [self._piece(film, number) for number in range(len(known["times"]))]
            if known["stamp"] == stamp and all(path.is_file() for path in paths):
                film.seconds = float(known["seconds"])
                yield from enumerate([*known["times"], []])
                return
        about.parent.mkdir(parents=True, exist_ok=True)
        about.unlink(missing_ok=True)
        done = []
        with Video(film.path) as source:
            frames = sample_video(source, rate)

            def some(times):
                for _, seconds, frame, _ in itertools.islice(frames, PIECE if done else FIRST_PIECE):
                    times.append(round(seconds, 4))
                    yield frame
            while True:
                times = []
                try:
                    write_clip(self._piece(film, len(done)), some(times), rate.per_second)
                except ValueError:      # no more frames
                    break
                done.append(times)
                yield len(done) - 1, times
            film.seconds = source.time + 1 / source.info.fps
        files.write_json(about, {"stamp": stamp, "seconds": film.seconds, "times": done})
        yield len(done), []

    def _piece(self, film, number):
        return clip_path(self.frames, film.title, f"{number:05d}")

    def take_in(self, pieces, encoder, options):
        """Encode pieces [(Film, number, times)], and the moments in them; one without a frame ends a film."""
        clips = [Clip(SampledVideo(f"{number:05d}", film.title, film.title, len(times)),
                      tuple(range(len(times)))) for film, number, times in pieces if times]
        values = iter(encoding.encode_clips(encoder, clips, self.frames, options, "films") if clips else ())
        for film, _, times in pieces:
            with self.changed:
                film.times += times
                film.whole = not times
                if times:
                    film.values.append(next(values)[:len(times)].reshape(len(times), -1))
                film.seconds = max(film.seconds, film.times[-1])
                self.add_moments(film)
            self.touch()

    def add_moments(self, film):
        """Take in the moments of a film whose frames are all encoded by now."""
        times, values = np.array(film.times), np.concatenate(film.values)
        film.values = [values]
        while film.known < self.count(film):
            start, end = self.span(film, film.known)
            if not film.whole and end > times[-1]:
                break
            key = film.number, film.known
            first, last = np.searchsorted(times, (start - 1e-3, end - 1e-3))
            first = min(first, len(times) - 1)
            mine = values[first:max(last, first + 1)].astype(np.float32)
            self.place[key] = len(self.rows)
            self.rows.append(np.concatenate([mine.mean(0), mine.std(0)]))
            self.drawn.append(asking.drawn(self.choices.seed, film.name, start))
            bisect.insort(self.lots, (self.drawn[-1], key))
            if self.prior:
                self.priors.append(self.prior(mine))
            film.known += 1

    # ------------------------------------------------------------ learning

    def is_due(self):
        """Whether there is more to learn from than there was."""
        return self.learned != (self.keys, len(self.rows), len(self.labels.classes)) and len(self.rows) > 0

    def learn(self, hold=True):
        """A network of the labels so far, what it says, and, unless `hold` is off, how well it does."""
        with self.changed:
            self.learned, self.training = (self.keys, len(self.rows), len(self.labels.classes)), True
            names, places = list(self.labels.classes), list(self.place)
            if self.moments is None or len(self.moments.films) != len(places):
                self.moments = asking.Moments(np.stack(self.rows), np.array([film for film, _ in places]),
                                              np.array(self.drawn))
            self.queue = self.queue[:FIXED]
            labels, passed, waits = (np.full(len(places), -1), *np.zeros((2, len(places)), bool))
            waits[[self.place[key] for key, _ in self.queue]] = True
            for label in self.labels.now.values():
                place = self.place_of(label)
                if place is not None and label.kind == "skip":
                    passed[place] = True
                elif place is not None:
                    labels[place] = names.index(label.label) if label.label else len(names)
            prior = np.zeros((len(places), len(names) + 1), np.float32) if self.priors else None
            if self.priors:
                prior[:, [names.index(name) for name in self.choices.known]] = self.priors
        model = asking.learn(self.moments, labels, passed, len(names) + 1, prior)
        ranking = [(places[i], why) for i, why in model.ranking(self.choices.order, RANKED, waits)]
        timelines = self.draw_timelines(model, [*names, self.choices.background], places)
        with self.changed:
            self.model, self.names = model, [*names, self.choices.background]
            self.ranking, self.timelines = ranking, timelines
            self.queue = self.queue[:FIXED]
            self.touch()
        if hold:
            def later():
                """Whether a network of a newer key comes first."""
                return self.closed or self.is_due() and self.keys < self.held_at + STALE

            with self.changed:      # what is seen next comes first
                self.changed.wait_for(lambda: later() or not self.threads or not self.uncut())
            asking.hold_out(model, later)
        self.tell_accuracy(model)

    def place_of(self, label):
        """The row of a label's moment, None where it is not encoded."""
        film = self.by_name.get(label.film)
        return film and self.place.get((film.number, round(label.moment / self.choices.seconds)))

    def tell_accuracy(self, model):
        """Keep what networks that have not seen the film say, unless that was not waited for."""
        with self.changed:
            if model.held is not None:
                self.accuracy, self.held_at = asking.accuracy(model), self.learned[0]
                pairs = Counter((int(true), int(said)) for true, said in model.pairs() if true != said)
                self.confusions = [[self.names[true], self.names[said], n]
                                   for (true, said), n in pairs.most_common(CONFUSIONS)]
            self.training = self.is_due()
            self.touch()

    def draw_timelines(self, model, names, places):
        """{film's number: [[start, end, class, confidence]]}: neighbours that a network takes for the same
        are one."""
        lines, said = {}, model.said()
        for (number, moment), row in zip(places, said if said is not None else (), strict=said is not None):
            start, end = self.span(self.films[number], moment)
            name, line = names[int(row.argmax())], lines.setdefault(number, [])
            if line and line[-1][2] == name and line[-1][1] == round(start, 3):
                n = round((line[-1][1] - line[-1][0]) / self.choices.seconds)
                line[-1][1], line[-1][3] = round(end, 3), (line[-1][3] * n + float(row.max())) / (n + 1)
            else:
                line.append([round(start, 3), round(end, 3), name, float(row.max())])
        for line in itertools.chain.from_iterable(lines.values()):
            line[3] = round(line[3], 3)
        return lines

    # ------------------------------------------------------------ news

    def state(self):
        """What the page shows, of plain containers."""
        with self.changed:
            labels = self.labels
            counts = Counter(label.label for label in labels.now.values() if label.label)
            of_kind = Counter(label.kind for label in labels.now.values())
            of_film = Counter(label.film for label in labels.now.values() if label.kind != "skip")
            names = [*labels.classes, *([self.choices.background] if self.choices.background else [])]
            colors = ["#" + bytes(color).hex() for color in style.class_colors(names)]
            classes = [{"name": name, "key": str(i + 1) if i < 9 else "", "count": counts[name],
                        "color": colors[i], "background": False} for i, name in enumerate(names)]
            if self.choices.background:
                classes[-1] |= {"key": "0", "background": True, "count": of_kind["none"]}
            films = [{"name": film.name, "seconds": round(film.seconds, 3),
                      "encoded": 1.0 if film.whole else round(min(0.99, (film.times[-1] if film.times else 0)
                                                                  / max(film.seconds, 1e-3)), 3),
                      "labels": of_film[film.name], "timeline": self.timelines.get(film.number, [])}
                     for film in self.films]
            done = sum(f["seconds"] * f["encoded"] for f in films)
            return {"version": self.version, "mode": self.mode, "classes": classes, "films": films,
                    "progress": {"done": round(done, 1), "total": round(sum(f["seconds"] for f in films), 1),
                                 "note": self.note},
                    "labels": of_film.total(),
                    "training": self.training, "accuracy": self.accuracy, "confusions": self.confusions,
                    "finish": {"state": self.finished, "lines": self.lines[-200:], "run": self.run}}

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
        match = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", str(id)[:40])
        film, number = map(int, match.groups()) if match else (len(self.films), 0)
        if film >= len(self.films) or number >= self.count(self.films[film]):
            raise LookupError(id)
        return self.films[film], number

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
        label = self.label_of(film.number, number)
        if label:
            start, end = label.start, label.end
        return {"id": f"{film.number}-{number}", "film": film.name, "start": round(start, 3),
                "end": round(end, 3), "seconds": round(film.seconds, 3), "guess": self.guess(film, number),
                "why": why}

    def guess(self, film, number):
        """[[class, probability]]: the three best, of a moment that is encoded."""
        place, said = self.place.get((film.number, number)), self.model and self.model.said()
        if said is None or place is None or place >= len(said):
            return []
        return [[self.names[i], round(float(said[place, i]), 3)] for i in np.argsort(-said[place])[:3]]

    def next(self, number=AHEAD):
        """[MOMENT] to ask next; the first ones stay the same until they have a label."""
        with self.changed:
            self.fill(number)
            return [self.as_moment(self.films[film], moment, why)
                    for (film, moment), why in self.queue[:number]]

    def fill(self, number):
        """Choose moments until so many wait."""
        waiting = {key for key, _ in self.queue}

        def first(entries):
            return next((entry for entry in entries
                         if entry[0] not in waiting and not self.label_of(*entry[0])), None)
        while len(self.queue) < number:
            turn = len(self.labels.rows) + len(self.queue)
            entry = (first(self.ranking) if turn % self.choices.every else None) or \
                first((key, "random") for _, key in self.lots)
            if not entry:
                break
            self.queue.append(entry)
            waiting.add(entry[0])

    def label_of(self, film, number):
        """The Label of a moment, None without one."""
        film = self.films[film]
        return self.labels.now.get((film.name, round(self.span(film, number)[0], 3)))

    def uncut(self):
        """The moments that are asked next and not cut yet."""
        return [key for key, _ in self.queue[:AHEAD] if key not in self.cuts]

    def cut(self):
        """Cut the next moments ahead."""
        for film, number in self.uncut():
            with contextlib.suppress(UserError, ValueError, OSError):
                self.clip(f"{film}-{number}")
            with self.changed:
                self.cuts.add((film, number))
                self.changed.notify_all()

    def clip(self, id, start=None, end=None):
        """The Path of a moment as a small H.264 film, cut if need be."""
        film, number = self.find_moment(id)
        start, end = self.stretch(film, number, start, end)
        path = self.playing / f"{film.number}-{start:.3f}-{end:.3f}.mp4"
        with self.cutting if not path.is_file() else contextlib.nullcontext():
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
            self.keys += 1
            self.touch()
            return self.next()

    def undo(self):
        """Take the last key back; [MOMENT], that one first."""
        with self.changed:
            label = self.labels.undo()
            self.keys += 1
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
            model, keys = self.model, list(self.place)
            if model is None:
                return []
            if by == "suspects":
                found = model.suspects()
            elif by == "class":
                found = model.surest(self.names.index(value)) if value in self.names else []
            else:
                film, number = self.find_moment(value)
                place = self.place.get((film.number, number), len(model.labels))
                found = model.nearest(place) if place < len(model.labels) else []
            return [self.as_moment(self.films[keys[i][0]], keys[i][1], "chosen") for i in found[:FOUND]]

    # ------------------------------------------------------------ at the end

    def finish(self):
        """Begin to make clips, data set and run of the labels, if that is not under way."""
        with self.changed:
            if self.finished != "running" and self.finisher:
                self.finished, self.lines, self.run = "running", [], None
                threading.Thread(target=self._finish, daemon=True).start()
            self.touch()
            return self.state()["finish"]

    def _finish(self):
        def say(line):
            self.lines.append(cli.printable(line))
            self.touch()
        try:
            with self.changed:
                labels = list(self.labels.now.values())
            self.run = str(self.finisher(labels, say))
            self.finished = "done"
        except Exception as error:
            say(error)
            self.finished = "failed"
        self.touch()


def play(source, target, start, end):
    """Write a stretch of a film as a small H.264 film for the page, without its sound."""
    for _ in cut(source, target, start, end, SHOWN):
        pass
