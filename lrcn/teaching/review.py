"""Clips that are there already, in teach.py's page: those of a data set, and find_clips.py's candidates. What
is decided goes to review.csv in their folder, at once; the clips themselves stay as they are.

    review = of_clips("my_clips")               # every clip, those of the training too
    review = of_candidates("my_candidates/candidates.csv", find_films("my_films"))
    review.judge(encoder, options)              # what networks say that have not seen the clip's group
    review.item({"number": 12, "action": "keep", "class": "wave"})
"""
import hashlib
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from lrcn.base import Lazy, UserError, cli, files
from lrcn.base.files import composed
from lrcn.data import frames
from lrcn.data.manifest import RESERVED, sampling_settings
from lrcn.data.overview import look_over
from lrcn.data.review import ACTIONS, TABLE, Decision, read_review, write_review
from lrcn.features.features import encode_clips
from lrcn.teaching import asking
from lrcn.teaching.labels import class_name
from lrcn.teaching.page import Page, play
from lrcn.video.cut import SLACK
from lrcn.video.reader import Video, VideoError, fit_frame, probe
from lrcn.watching.candidates import of_films, read_stretches
from lrcn.watching.films import unique_names

cv2 = Lazy("cv2")

SEEN = 5            # frames of a clip that networks judge it by, at most
FAULTS = {"black": 1.0, "frozen": 0.9}      # how suspicious a clip is for what is odd about it
OTHER_CLASS, OTHER_GROUP = 0.95, 0.8        # one that is nearly the same as a clip of another class, or group
STRIP = 900, 100    # pixels of a film's strip
LONGEST = 600       # seconds of one
UNSURE = 0.6        # mean probability of a candidate below which it is a suspect
WHOLE = 4           # seconds of a film that is shown as it is


@dataclass
class Entry:
    """A clip. path: of its file, None where it is gone; name: in the page; film: of a candidate, where it is
    there, and its `seconds`; video: an overview.Clip of a data set; guess: [[class, probability]]."""
    decision: Decision
    path: Path | None
    name: str
    film: Path | None = None
    seconds: float | None = None
    video: object = None
    suspicion: float = 0.0
    reasons: list = field(default_factory=list)
    guess: list = field(default_factory=list)

    def suspect(self, value, reason):
        self.suspicion = max(self.suspicion, value)
        self.reasons.append(reason)


class Review(Page):
    """entries: [Entry]; others: rows of the table that are not shown, and stay; after: the command that
    follows the table."""

    def __init__(self, folder, mode, entries, after, others=()):
        super().__init__(folder, ".review")
        self.mode, self.others, self.after = mode, list(others), after
        self.entries = {entry.decision.number: entry for entry in sorted(
            entries, key=lambda entry: entry.decision.number)}
        self.names = sorted({name for e in entries for name in (e.decision.cls, e.decision.origin[0])})
        self.write()

    def write(self):
        write_review(self.folder, [*(entry.decision for entry in self.entries.values()), *self.others])

    # ------------------------------------------------------------ news

    def state(self):
        """What the page shows beside items(), of plain containers."""
        with self.changed:
            kept = Counter(e.decision.cls for e in self.entries.values() if e.decision.action == "keep")
            note = self.note or f"decisions are in {self.folder / TABLE}; then: {self.after}"
            return {"version": self.version, "mode": self.mode, "classes": self.shown(self.names, kept),
                    "progress": {"note": note}, "training": self.training}

    def as_item(self, entry):
        d = entry.decision
        return {"number": d.number, "source": d.source, "name": entry.name, "start": d.start, "end": d.end,
                "seconds": entry.seconds, "class": d.origin[0], "part": d.part, "group": d.group,
                "action": d.action, "now": d.cls, "suspicion": round(entry.suspicion, 4),
                "reasons": entry.reasons, "guess": entry.guess}

    def items(self):
        with self.changed:
            return [self.as_item(entry) for entry in self.entries.values()]

    # ------------------------------------------------------------ decisions

    def item(self, asked):
        """A key: the clip `number` gets an action, a class, and a candidate a start and an end; its item. It
        is on the disk. ValueError, UserError: this cannot be; LookupError: there is no such clip."""
        entry = self.entry(asked.get("number"))
        old, action = entry.decision, asked.get("action", entry.decision.action)
        name, start, end = (old_value if asked.get(key) is None else asked[key] for key, old_value in
                            (("class", old.cls), ("start", old.start), ("end", old.end)))
        if action not in ACTIONS or not isinstance(name, str):
            raise ValueError(f"expected a class, and an action of {', '.join(ACTIONS)}")
        if name not in self.names:
            name = class_name(name, "class")
            if name.lower() in RESERVED or len(name.encode()) > 200:
                raise ValueError(f"class: no folder of clips can be called {name[:60]!r}")
        if (start, end) != (old.start, old.end):
            if entry.film is None:
                raise ValueError("its ends can be moved where its film is there: give --video_path")
            if not all(type(value) in (int, float) for value in (start, end)) or not 0 <= start < (
                    end := min(end, entry.seconds)):
                raise ValueError("it has to end after its start, within its film")
            start, end = round(float(start), 3), round(float(end), 3)
        with self.changed:
            same = (name, start, end) == (old.cls, old.start, old.end)
            entry.decision = replace(old, action=action, cls=name, start=start, end=end,
                                     probability=old.probability if same else "")
            try:
                self.write()
            except BaseException:
                entry.decision = old
                raise
            self.names = sorted({*self.names, name})
            self.touch()
            return self.as_item(entry)

    def entry(self, number):
        return self.entries[int(str(number)[:12])]

    # ------------------------------------------------------------ pictures

    def picture(self, entry, ending, draw, source, start, end):
        """The Path of what draw(source, path, start, end) writes for the page."""
        key = repr((str(source), source.stat().st_mtime_ns, start, end))
        key = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        number = entry.decision.number
        return self.made(f"{number}-{key}{ending}", entry.name,
                         lambda path: draw(source, path, start, end), f"{number}-*{ending}")

    def thumb(self, number):
        """The Path of a small H.264 film of a clip, or of the stretch of its film that it was moved to; of a
        dropped one that is gone, of the beginning of its source."""
        entry = self.entry(number)
        source, start, end = entry.path, 0.0, 1e6 if entry.video or self.mode != "clips" else WHOLE
        if entry.film and (source is None or entry.decision.moved):
            source, start, end = entry.film, entry.decision.start, entry.decision.end
        if source is None:
            raise LookupError(number)
        return self.picture(entry, ".mp4", play, source, start, end)

    def strip(self, number, start, end):
        """The Path of a picture of frames of a candidate's film, evenly from `start` to `end` (seconds)."""
        entry = self.entry(number)
        start, end = (float("nan" if value is None else value) for value in (start, end))
        if entry.film is None:
            raise LookupError(number)
        if not 0 <= start < end <= start + LONGEST:
            raise ValueError(f"a strip lasts from 0 to {LONGEST} s")
        return self.picture(entry, ".jpg", draw_strip, entry.film, start, end)

    # ------------------------------------------------------------ suspicion

    def start(self, make):
        """Judge the clips in a thread, while the page is open. make(): (encoder, options)."""
        def work():
            note = ""
            try:
                self.judge(*make())
            except (UserError, OSError) as error:
                note = f"the network's suspicions are missing: {error}"
                cli.say(note)
            self.touch(training=False, note=note)
        self.touch(training=True, note="networks look at all clips; then the clips are sorted by suspicion")
        threading.Thread(target=work, daemon=True).start()

    def judge(self, encoder, options):
        """Compare each clip's class with what networks say that have not seen its group, on the features of a
        frozen encoder: the groups are films to asking, and the clips their moments."""
        there = [e for e in self.entries.values() if e.video and e.decision.action == "keep"]
        names = sorted({e.decision.cls for e in there})
        clips = [frames.Clip(e.video, tuple(i * (e.video.frames - 1) // (SEEN - 1) for i in range(SEEN)))
                 for e in there]
        values = np.asarray(encode_clips(encoder, clips, self.folder, options), np.float32)
        labels = np.array([names.index(e.decision.cls) for e in there])
        # Groups of one class are numbered in a row, so that they are not all left out at once
        groups = {}
        for _, group in sorted((e.decision.cls, e.video.group) for e in there):
            groups.setdefault(group, len(groups))
        moments = asking.Moments(values.reshape(len(there), -1, values.shape[-1]).mean(1),
                                 np.array([groups[e.video.group] for e in there]), np.zeros(len(there)))
        model = asking.Model(moments, labels, np.zeros(len(there), bool), len(names))
        asking.hold_out(model)
        with self.changed:
            for entry, label, probabilities in zip(there, labels, model.held, strict=True):
                if not probabilities[label] > 0:    # who has not seen its group does not know its class
                    continue
                best = np.argsort(-probabilities, kind="stable")[:3]
                entry.guess = [[names[i], round(float(probabilities[i]), 4)] for i in best]
                doubt = 1 - float(probabilities[label])
                if best[0] != label:
                    entry.suspect(doubt, f"networks that have not seen it say {names[best[0]]}")
                entry.suspicion = max(entry.suspicion, doubt)


def draw_strip(film, target, start, end):
    """Frames of a film side by side, each at the middle of its part of the time, a .jpg of STRIP pixels."""
    with Video(film) as video:
        wide = max(1, round(STRIP[1] * video.info.width / video.info.height))
        count, pictures = max(2, round(STRIP[0] / wide)), []
        for seconds in start + (np.arange(count) + 0.5) * (end - start) / count:
            if video.time is None or seconds - video.time > 5:
                video.skip_to(seconds)
            while (video.time is None or video.time < seconds - SLACK) and video.grab():
                pass
            if video.time is None:
                raise VideoError(f"no frame at {seconds:.1f} s")
            pictures.append(fit_frame(video.frame(), wide, STRIP[1]))
    with files.atomic(target, lasting=False) as temporary:
        temporary.write_bytes(cv2.imencode(".jpg", np.hstack(pictures)[:, :, ::-1])[1])


def of_clips(folder):
    """The Review of a folder of sampled clips."""
    clips, _, doubles = look_over(Path(folder))
    table, settings = read_review(folder), sampling_settings(folder)
    known, raw, entries = {decision.origin: decision for decision in table}, settings.get("row_data_dir"), []
    for clip in clips:
        before = known.pop(clip.origin, None)
        decision = Decision(clip.number, clip.source, None, None, before.cls if before else clip.cls,
                            clip.part or "", clip.group, before.action if before else "keep",
                            "/".join(clip.origin))
        entries.append(Entry(decision, Path(folder, clip.path), clip.name, video=clip))
        for mark in FAULTS.keys() & set(clip.marks):
            entries[-1].suspect(FAULTS[mark], mark)
    by_clip = {entry.video.key: entry for entry in entries}
    for cluster in doubles:
        for clip in cluster:
            entry = by_clip[clip.key]
            others = [by_clip[c.key] for c in cluster if c.key != clip.key]
            worst = [*((OTHER_CLASS, e.decision) for e in others if e.decision.cls != entry.decision.cls),
                     *((OTHER_GROUP, e.decision) for e in others if e.video.group != clip.group)]
            for value, other in worst[:1]:
                entry.suspect(value, f"nearly the same as number {other.number}, {other.cls}")
    dropped = [decision for decision in known.values() if decision.action == "drop"]
    for decision in dropped:        # it has no clip any more
        source = Path(raw, decision.source) if raw else None
        entries.append(Entry(decision, source if source and source.is_file() else None, decision.origin[1]))
    after = f"python preprocessing_data.py --row_data_dir {raw} --sampled_data_dir {folder}"
    return Review(folder, "clips", entries, after, [d for d in known.values() if d not in dropped])


def of_candidates(table, films=None):
    """The Review of find_clips.py's candidates. table: its candidates.csv; films: {name: Path} of
    films.find_films, where their ends are to be moved. A candidate that was cut anew is known by its film,
    class and times."""
    folder, films, known = Path(table).parent, films or {}, {}
    stretches, decisions = read_stretches(table, "candidates"), read_review(folder)
    for d in decisions:
        known |= {(d.source, d.cls, d.start, d.end): d, d.origin: d}
    titles = dict(zip(films, unique_names(films), strict=True))
    film_of = {stretch.film: next(iter(of_films([stretch], films)[0]), None) for stretch in stretches}
    lengths = {film: round(probe(films[film]).seconds, 3) for film in {*film_of.values()} if film}
    entries, taken = {}, {d.number for d in decisions}
    last = max([0, *taken, *(stretch.number or 0 for stretch in stretches)])
    for stretch in stretches:
        film = film_of[stretch.film]
        title = titles.get(film) or PurePosixPath(stretch.film).stem
        source, name = film or stretch.film, stretch.name(title)
        p = stretch.probability
        decision = known.get((source, stretch.cls, stretch.start, stretch.end)) or known.get(
            (stretch.cls, composed(name)))
        if decision is None:
            number = stretch.number if stretch.number and stretch.number not in taken else (last := last + 1)
            decision = Decision(number, source, stretch.start, stretch.end, stretch.cls, "",
                                stretch.address or title, "keep", f"{stretch.cls}/{name}",
                                "" if p is None else f"{p:.4f}")
        taken.add(decision.number)
        path = folder / stretch.cls / f"{name}.mp4"
        entries[decision.number] = Entry(decision, path if path.is_file() else None, name, films.get(film),
                                         lengths.get(film), suspicion=0.0 if p is None else 1 - p)
        if p is not None and p < UNSURE:
            entries[decision.number].reasons.append(f"the run's mean probability is {p:.2f}")
    for d in decisions:
        if d.action == "drop" and d.number not in entries:
            entries[d.number] = Entry(d, None, d.origin[1], films.get(d.source), lengths.get(d.source))
    return Review(folder, "candidates", entries.values(), f"python find_clips.py --from {folder / TABLE} "
                  f"--video_path FILMS --output_dir {folder}")
