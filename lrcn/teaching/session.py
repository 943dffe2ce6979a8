"""A set of films and the labels of their moments: what the page of teach.py shows and does.

    session = Session("my_labels", find_films("my_films"), ["jump", "wave"])
    session.encode(encoder, options)        # features of all moments, into the store of the folder
    session.learn()                         # a network of the labels so far
    [moment, *_] = session.next()
    session.label({"id": moment["id"], "label": "wave"})
    session.start(encoder, options)         # or encode and learn by themselves, in threads

A moment is known by its film and where it begins; its start and end may be moved before it gets its label.
What the page calls may be called by any thread.
"""
import contextlib
import itertools
import re
import shutil
import threading
from collections import Counter, defaultdict, deque

import numpy as np

from lrcn.base import UserError, cli
from lrcn.data.review import LAST_SECOND
from lrcn.teaching import asking, footage
from lrcn.teaching.labels import Label, Labels, can_be_named
from lrcn.teaching.page import Page, play
from lrcn.video.reader import VideoError, probe
from lrcn.video.sampling import Rate
from lrcn.watching.films import unique_names

FIXED = 1           # the moment on the screen stays the next, whatever is learned meanwhile
AHEAD = 3           # moments that are chosen, and cut, before they are asked
RANDOM = 5          # one moment in so many is drawn at random
RANKED = 5          # moments that a network says are next
STALE = 10          # keys after which the accuracy is told anew, however fast they come
CONFUSIONS, FOUND = 12, 12      # shown at most
KEPT = 200          # moments that stay cut


class Session(Page):
    """folder: of labels.csv, of what the films were sampled to, and of the features; this process's alone.
    classes: of the first keys; seconds: of a moment; background: the class of what is none of them; finisher:
    called with [Label] and say(line), makes a run of them and gives its folder; prior: what a run says of
    features float32 (T, D), probabilities (C,) of its classes `known`."""

    def __init__(self, folder, films, classes=(), seconds=2.0, rate=None, background=None, finisher=None,
                 known=(), prior=None):
        super().__init__(folder, "playing")
        self.seconds, self.rate, self.background = seconds, rate or Rate(), background
        self.finisher, self.known, self.prior = finisher, known, prior
        self.labels = Labels(folder, [*known, *classes])
        named = {name: path for name, path in films.items() if can_be_named(name)}
        self.films = [footage.Film(number, name, named[name], title, seconds)
                      for number, (name, title) in enumerate(zip(named, unique_names(named), strict=True))]
        self.by_name = {film.name: film for film in self.films}
        if len(named) < len(films):
            self.note = f"{len(films) - len(named)} films are left out: their names contain line breaks"
        # Of the moments that are encoded: {(film's number, moment's number): its row}, features, what a run
        # says, and the numbers by which they are drawn
        self.place, self.rows, self.priors, self.drawn = {}, [], [], []
        self.moments, self.model, self.names = None, None, []       # asking's, and its classes
        self.queue, self.ranking, self.timelines = [], [], {}
        self.keys, self.learned, self.held_at = 0, None, 0
        self.accuracy, self.confusions = None, []
        self.finished, self.lines, self.run = "idle", deque(maxlen=200), None
        self.closed, self.threads, self.cuts = False, [], set()
        shutil.rmtree(self.small, ignore_errors=True)
        self.small.mkdir(parents=True)
        for film in self.films:
            with contextlib.suppress(VideoError, OSError):
                film.seconds = probe(film.path).seconds

    # ------------------------------------------------------------ at work by itself

    def start(self, encoder, options):
        """Encode, learn and cut in threads. options: features.Options."""
        def tried(work, *words):
            """Labels can be given whatever fails here, and the page says what did."""
            try:
                work(*words)
                self.touch()
            except Exception as error:
                self.tell(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")

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
        shutil.rmtree(self.small, ignore_errors=True)

    # ------------------------------------------------------------ features

    def encode(self, encoder, options):
        """Sample the films, and encode what the store does not have yet, so that moments get features one
        after another."""
        for film, times, values in footage.encoded(self.films, self.folder / "frames", self.rate, encoder,
                                                   options, self.tell):
            with self.changed:
                self.take_in(film, times, values)
            self.touch()
            if self.closed:
                return

    def take_in(self, film, times, values):
        """More frames of a film (see Film.take_in), and the moments that are known by them."""
        for number, mine in film.take_in(times, values):
            self.place[film.number, number] = len(self.rows)
            self.rows.append(np.concatenate([mine.mean(0), mine.std(0)]))
            self.drawn.append(asking.drawn(film.name, film.span(number)[0]))
            if self.prior:
                self.priors.append(self.prior(mine))

    # ------------------------------------------------------------ learning

    def progress(self):
        """How much there is to learn from."""
        return self.keys, len(self.rows), len(self.labels.classes)

    def is_due(self):
        return self.learned != self.progress() and len(self.rows) > 0

    def learn(self):
        """A network of the labels so far, what it says, and how well it does."""
        with self.changed:
            self.learned, self.training = self.progress(), True
            names, places = list(self.labels.classes), list(self.place)
            if self.moments is None or len(self.moments.films) != len(places):
                self.moments = asking.Moments(np.stack(self.rows), np.array([film for film, _ in places]),
                                              np.array(self.drawn))
            self.queue = self.queue[:FIXED]
            labels, passed, waits = (np.full(len(places), -1), *np.zeros((2, len(places)), bool))
            waits[[self.place[key] for key, _ in self.queue]] = True
            for label in self.labels.now.values():
                place = self.place.get(self.key_of(label))
                if place is not None and label.kind == "skip":
                    passed[place] = True
                elif place is not None:
                    labels[place] = names.index(label.label) if label.label else len(names)
            prior = np.zeros((len(places), len(names) + 1), np.float32) if self.priors else None
            if self.priors:
                prior[:, [names.index(name) for name in self.known]] = self.priors
        model = asking.learn(self.moments, labels, passed, len(names) + 1, prior)
        ranking = [(places[i], why) for i, why in model.ranking(RANKED, waits)]
        with self.changed:
            self.model, self.names, self.ranking = model, [*names, self.background], ranking
            self.queue, self.timelines = self.queue[:FIXED], self.draw_timelines()
            self.touch()
        self.judge(model)

    def judge(self, model):
        """Keep what networks that have not seen the film say, unless a newer key comes first."""
        def later():
            return self.closed or self.is_due() and self.keys < self.held_at + STALE

        with self.changed:      # what is seen next comes first
            self.changed.wait_for(lambda: later() or not self.threads or not self.uncut())
        asking.hold_out(model, later)
        with self.changed:
            if model.held is not None:
                self.accuracy, self.held_at = asking.accuracy(model), self.learned[0]
                pairs = Counter((label, answer) for _, label, answer in model.pairs().tolist()
                                if label != answer)
                self.confusions = [[self.names[label], self.names[answer], n]
                                   for (label, answer), n in pairs.most_common(CONFUSIONS)]
            self.training = self.is_due()
            self.touch()

    def draw_timelines(self):
        """{film's number: [[start, end, class, probability]]}: neighbours that a network takes for the same
        are one, with the mean of their probabilities."""
        lines, answers = defaultdict(list), self.model.answers
        if answers is None:
            return lines
        moments = zip(self.place, answers.argmax(1), answers.max(1), strict=False)      # some may be newer
        for (number, cls), same in itertools.groupby(moments, key=lambda moment: (moment[0][0], moment[1])):
            keys, _, p = zip(*same, strict=True)
            film = self.films[number]
            start, end = film.span(keys[0][1])[0], film.span(keys[-1][1])[1]
            lines[number].append([round(start, 3), round(end, 3), self.names[cls],
                                  round(float(np.mean(p, dtype=float)), 3)])
        return lines

    # ------------------------------------------------------------ news

    def state(self):
        """What the page shows, of plain containers."""
        with self.changed:
            now, background = self.labels.now.values(), self.background
            counts = Counter(label.label if label.kind == "class" else background for label in now
                             if label.kind != "skip")
            of_film = Counter(label.film for label in now if label.kind != "skip")
            classes = self.shown([*self.labels.classes, *([background] if background else [])], counts)
            if background:
                classes[-1] |= {"key": "0", "background": True}
            films = [{"name": film.name, "seconds": round(film.seconds, 3),
                      "encoded": 1.0 if film.whole else round(min(0.99, (film.times[-1] if film.times else 0)
                                                                  / max(film.seconds, 1e-3)), 3),
                      "labels": of_film[film.name], "timeline": self.timelines.get(film.number, [])}
                     for film in self.films]
            done = sum(f["seconds"] * f["encoded"] for f in films)
            return {"version": self.version, "mode": "films", "classes": classes, "films": films,
                    "progress": {"done": round(done, 1), "total": round(sum(f["seconds"] for f in films), 1),
                                 "note": self.note},
                    "labels": of_film.total(), "training": self.training, "accuracy": self.accuracy,
                    "confusions": self.confusions,
                    "finish": {"state": self.finished, "lines": list(self.lines), "run": self.run}}

    # ------------------------------------------------------------ moments

    def find_moment(self, id):
        """(Film, number of the moment) of an id; LookupError: there is none."""
        match = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", str(id)[:40])
        film, number = map(int, match.groups()) if match else (len(self.films), 0)
        if film >= len(self.films) or number >= self.films[film].count:
            raise LookupError(id)
        return self.films[film], number

    def key_of(self, label):
        """(film's number, moment's number) of a label, None where its film is not in the set."""
        film = self.by_name.get(label.film)
        return film and (film.number, round(label.moment / self.seconds))

    def label_of(self, film, number):
        """The Label of a moment, None without one."""
        film = self.films[film]
        return self.labels.now.get((film.name, film.begin(number)))

    def as_moment(self, key, why):
        """MOMENT of the page. guess: [[class, probability]], the three best, of a moment that is encoded."""
        film, label = self.films[key[0]], self.label_of(*key)
        start, end = (label.start, label.end) if label else film.span(key[1])
        answers, place, guess = self.model and self.model.answers, self.place.get(key), []
        if answers is not None and place is not None and place < len(answers):
            guess = [[self.names[i], round(float(answers[place, i]), 3)]
                     for i in np.argsort(-answers[place])[:3]]
        return {"id": "{}-{}".format(*key), "film": film.name, "start": round(start, 3), "end": round(end, 3),
                "seconds": round(film.seconds, 3), "guess": guess, "why": why}

    def next(self, number=AHEAD):
        """[MOMENT] to ask next; the first one stays the same until it has a label."""
        def first(entries):
            waiting = {key for key, _ in self.queue}
            return next((entry for entry in entries
                         if entry[0] not in waiting and not self.label_of(*entry[0])), None)

        with self.changed:
            keys = list(self.place)
            while len(self.queue) < number:
                turn = len(self.labels.rows) + len(self.queue)
                entry = (first(self.ranking) if turn % RANDOM else None) or \
                    first((keys[i], "random") for i in np.argsort(self.drawn, kind="stable"))
                if not entry:
                    break
                self.queue.append(entry)
            return [self.as_moment(*entry) for entry in self.queue[:number]]

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
        start, end = film.stretch(number, start, end)
        return self.made(f"{film.number}-{start:.3f}-{end:.3f}.mp4", film.name,
                         lambda path: play(film.path, path, start, end), kept=KEPT)

    # ------------------------------------------------------------ keys

    def label(self, asked):
        """A key: the moment `id` gets the class `label`, None for none of them, "" to pass it over; [MOMENT]
        to ask next. The label is on the disk."""
        film, number = self.find_moment(asked.get("id"))
        start, end = film.stretch(number, asked.get("start"), asked.get("end"))
        name = asked.get("label")
        with self.changed:
            if name not in (None, "", self.background, *self.labels.classes):
                raise ValueError(f"there is no class {str(name)[:60]!r}")
            kind = {"": "skip", None: "none", self.background: "none"}.get(name, "class")
            self.labels.add(Label(film.name, start, end, name if kind == "class" else "", kind,
                                  film.begin(number)))
            self.queue = [entry for entry in self.queue if entry[0] != (film.number, number)]
            self.keys += 1
            self.touch()
            return self.next()

    def undo(self):
        """Take the last key back; [MOMENT], that one first."""
        with self.changed:
            label = self.labels.undo()
            self.keys += 1
            key = label and self.key_of(label)
            if key:
                self.queue = [(key, "chosen"), *(entry for entry in self.queue if entry[0] != key)]
            self.touch()
            return self.next()

    def add_class(self, name):
        """Give a class the next key; the page's list of all."""
        with self.changed:
            if name == self.background:
                raise ValueError(f"{name!r} is the background, key 0")
            self.labels.add_class(name)
            self.touch()
            return self.state()["classes"]

    def find(self, by, value, time=None):
        """[MOMENT] of a film at a time (by film), sure ones of a class, near ones of a moment (like), or
        labels that networks that have not seen their film contradict most (suspects)."""
        with self.changed:
            model, keys, found = self.model, list(self.place), []
            if by == "film":
                film, seconds = self.by_name[value], float(time or 0)
                if not 0 <= seconds <= LAST_SECOND:
                    raise ValueError("this is no moment of a film")
                number = min(int(seconds / self.seconds), film.count - 1)
                return [self.as_moment((film.number, number), "chosen")]
            if by not in ("class", "like", "suspects"):
                raise ValueError("by: class, like, suspects or film")
            if model and by == "suspects":
                found = model.suspects()
            elif model and by == "class":
                found = model.surest(self.names.index(value)) if value in self.names else []
            elif model:
                film, number = self.find_moment(value)
                place = self.place.get((film.number, number), len(model.labels))
                found = model.nearest(place) if place < len(model.labels) else []
            return [self.as_moment(keys[i], "chosen") for i in found[:FOUND]]

    # ------------------------------------------------------------ at the end

    def finish(self):
        """Begin to make clips, data set and run of the labels, if that is not under way."""
        def say(line):
            self.lines.append(cli.printable(line))
            self.touch()

        def work(labels):
            try:
                self.touch(run=str(self.finisher(labels, say)), finished="done")
            except Exception as error:
                say(error)
                self.touch(finished="failed")

        with self.changed:
            if self.finished != "running":
                self.lines.clear()
                self.touch(finished="running", run=None)
                threading.Thread(target=work, args=(list(self.labels.now.values()),), daemon=True).start()
            return self.state()["finish"]
