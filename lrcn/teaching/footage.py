"""The films of a set and their moments: what they are sampled to, and the features of it.

    for film, times, values in encoded(films, "frames", Rate(), encoder, options, print):
        for number, values in film.take_in(times, values):      # moments that are known from now on
            film.span(number)                                   # (start, end) in seconds

A moment is a stretch of `length` seconds, from a multiple of that on; its number says of which.
"""
import contextlib
import itertools
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lrcn.base import Lazy, UserError, files
from lrcn.base.workers import ahead
from lrcn.data.frames import Clip
from lrcn.data.manifest import SampledVideo, clip_path
from lrcn.data.review import LAST_SECOND
from lrcn.video.flow import sample_video
from lrcn.video.reader import Video, VideoError
from lrcn.video.writer import write_clip

encoding = Lazy("lrcn.features.features")

FIRST_PIECE, PIECE = 50, 250    # sampled frames of a film that are encoded at once
PATIENCE = 300                  # seconds for a piece, until a decoder is given up
SHORTEST, LONGEST = 0.2, 60.0   # seconds of a moment whose ends were moved


@dataclass
class Film:
    """A film of the set. title: its name in the folder of frames; length: seconds of a moment; times: seconds
    of its sampled frames so far; values: their features (n, D); known: how many of its moments are encoded;
    whole: whether all are."""
    number: int
    name: str
    path: Path
    title: str
    length: float
    seconds: float = 0.0
    times: list = field(default_factory=list)
    values: list = field(default_factory=list)
    known: int = 0
    whole: bool = False

    @property
    def count(self):
        """How many moments it has."""
        return max(1, math.floor(self.seconds / self.length + 0.5)) if self.seconds else 0

    def begin(self, number):
        """Where a moment begins, as labels.csv has it."""
        return round(number * self.length, 3)

    def span(self, number):
        """(start, end) of a moment, in seconds; the last one may be shorter by half."""
        start = number * self.length
        return start, min(start + self.length, self.seconds)

    def stretch(self, number, start=None, end=None):
        """(start, end) as the page moved them, inside the film; ValueError: this is no moment."""
        usual = self.span(number)
        start, end = (float(value) if value not in (None, "") else own
                      for value, own in zip((start, end), usual, strict=True))
        start, end = max(0.0, start), min(end, max(self.seconds, usual[1]))
        if not (start < end <= LAST_SECOND and SHORTEST <= round(end - start, 3) <= LONGEST):
            raise ValueError(f"a moment lasts from {SHORTEST:g} to {LONGEST:g} s")
        return round(start, 3), round(end, 3)

    def pieces(self, folder, rate):
        """Yields (number, seconds of its frames) of each piece of the sampled film, which lies in `folder`
        then, and at the film's end a number without a frame."""
        about, there = folder / self.title / "film.json", os.stat(self.path)
        stamp = [there.st_size, there.st_mtime_ns, rate.FPS, rate.sampling_rate]

        def piece(number):
            return clip_path(folder, self.title, f"{number:05d}")

        with contextlib.suppress(UserError, LookupError, TypeError):
            before = files.read_json(about)
            if before["stamp"] == stamp and all(piece(i).is_file() for i in range(len(before["times"]))):
                self.seconds = float(before["seconds"])
                yield from enumerate([*before["times"], []])
                return
        about.parent.mkdir(parents=True, exist_ok=True)
        about.unlink(missing_ok=True)
        done = []
        with Video(self.path) as source:
            frames = sample_video(source, rate)

            def some(first, times):
                for _, seconds, frame, _ in itertools.chain([first], itertools.islice(frames, size - 1)):
                    times.append(round(seconds, 4))
                    yield frame
            for first in frames:
                size, times = PIECE if done else FIRST_PIECE, []
                write_clip(piece(len(done)), some(first, times), rate.per_second)
                done.append(times)
                yield len(done) - 1, times
            self.seconds = source.time + 1 / source.info.fps
        files.write_json(about, {"stamp": stamp, "seconds": self.seconds, "times": done})
        yield len(done), []

    def take_in(self, times, values):
        """Take in more frames, and their features (n, D), or the film's end, which has none; yields (number,
        features float32 (n, D)) of each moment whose frames are all known now."""
        self.times, self.whole = self.times + times, not times
        if times:
            self.values.append(values)
        self.values = [np.concatenate(self.values)]
        self.seconds, seen = max(self.seconds, self.times[-1]), np.array(self.times)
        while self.known < self.count:
            start, end = self.span(self.known)
            if not self.whole and end > seen[-1]:
                break
            first, last = np.searchsorted(seen, (start - 1e-3, end - 1e-3))
            first = min(first, len(seen) - 1)
            self.known += 1
            yield self.known - 1, self.values[0][first:max(last, first + 1)].astype(np.float32)


def encoded(films, folder, rate, encoder, options, tell):
    """Yields (Film, seconds of frames, their features (n, D)) of one piece after another; at a film's end a
    piece without frames. What the store has is not encoded again. folder: of the sampled films; options:
    features.Options; tell(line): is called for a film that cannot be read."""
    waiting = []

    def encode():
        clips = [Clip(SampledVideo(f"{number:05d}", film.title, film.title, len(times)),
                      tuple(range(len(times)))) for film, number, times in waiting if times]
        values = iter(encoding.encode_clips(encoder, clips, folder, options, "films") if clips else ())
        for film, _, times in waiting:
            yield film, times, next(values)[:len(times)].reshape(len(times), -1) if times else None
        waiting.clear()

    for film in films:
        try:
            for number, times in ahead(film.pieces(folder, rate), 2, PATIENCE, VideoError):
                waiting.append((film, number, times))
                first = times and not any(film.known for film in films)     # moments to label come at once
                if first or sum(len(entry[2]) for entry in waiting) >= PIECE:
                    yield from encode()
        except (VideoError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in files.OF_ONE_FILE:
                raise
            film.whole = True
            tell(f"cannot read {film.name}: {error}")
    yield from encode()
