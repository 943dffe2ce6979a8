"""What was seen of a film: the probabilities of its windows and moments, and the segments of one label.
Moment m lies in the windows m - T + 1 to m, and its probabilities are the mean of theirs.
"""
import itertools
from dataclasses import dataclass, field

import numpy as np

UNSURE, NONE = "unsure", "none"     # labels where no class is sure enough, and of the background


@dataclass
class History:
    """Of one film, in two bytes a class and moment."""
    length: int     # T, moments of a window
    times: list = field(default_factory=list)       # seconds of the middle of every moment
    windows: list = field(default_factory=list)     # float16 (C,) of the window from moment i on
    end: float = 0.0                                # seconds at which the film ends
    alone: list = field(default_factory=list)       # float16 (S, C) of each stream of a fusion, by windows
    # {moment: [colours of its flow uint8 (S, S, 3), or None, of each stream]} of a fusion, until it is drawn
    seen: dict = field(default_factory=dict)
    spans: list = field(default_factory=list)       # seconds of the first and the last frame of every moment

    def saw(self, first, last):
        """Note a moment whose answers follow: seconds of its first and last frame."""
        self.times.append((first + last) / 2 if last > first else first)
        self.spans.append((first, last))

    def add(self, answers):
        """Add Recogniser.answers (n, 1 + S, C); the count of windows."""
        answers = answers.astype(np.float16)
        self.windows += list(answers[:, 0])
        self.alone += list(answers[:, 1:])
        return len(self.windows)

    def cut(self, known):
        """The History of the first `known` windows; it ends with their last frame if there are more."""
        times = self.times[:known + self.length - 1]
        whole = self.end and len(times) == len(self.times)
        end = self.end if whole else self.spans[len(times) - 1][1]
        return History(self.length, times, self.windows[:known], end, spans=self.spans[:len(times)])

    def at(self, moment, answers=None):
        """float32 (C,): the mean of the windows that contain a moment, or of `answers` to them."""
        first = max(0, moment - self.length + 1)
        return np.mean((answers or self.windows)[first:moment + 1], 0, dtype=np.float32)

    def beside(self, moment, names):
        """[(name, probabilities float32 (C,), picture or None)] of each stream; ask for moments in order."""
        if not names:
            return []
        self.seen.pop(moment - 1, None)
        seen = self.seen.get(moment, [None] * len(names))
        return list(zip(names, self.at(moment, self.alone), seen, strict=True))

    def smoothed(self):
        """at() of every moment that a window contains, float32 (moments, C)."""
        return np.stack([self.at(moment) for moment in range(len(self.windows) + self.length - 1)])


def find_segments(times, end, probabilities, min_probability, least):
    """Runs of one label: [(start, end, label, mean probability)], in seconds; label -1: unsure.
    times (F,), probabilities (F, C) of the moments, `end` of the film. A moment's label is its most probable
    class, or unsure if that is below min_probability. Runs of fewer than `least` moments then join the
    neighbour that is more probable during the run, the shortest runs first. A segment begins and ends halfway
    between the middles of two moments. The probability of an unsure one is that of its best classes."""
    # Unsure is class 0 here; its probability is always min_probability.
    limit = np.full((len(probabilities), 1), min_probability, np.float32)
    extended = np.concatenate([limit, probabilities], 1)
    best = probabilities.max(1)
    labels = np.where(best >= min_probability, probabilities.argmax(1) + 1, 0)
    cuts = np.flatnonzero(np.diff(labels)) + 1
    runs = [[int(a), int(b), int(labels[a])] for a, b in itertools.pairwise([0, *cuts, len(labels)])]
    while len(runs) > 1 and (shortest := min(last - first for first, last, _ in runs)) < least:
        runs = _join(runs, extended, shortest)
    edges = np.concatenate([[0], (np.array(times[:-1]) + times[1:]) / 2, [end]])
    return [(float(edges[first]), float(edges[last]), int(label) - 1,
             float((probabilities[first:last, label - 1] if label else best[first:last]).mean()))
            for first, last, label in runs]


def _join(runs, probabilities, size):
    """Give every run of `size` moments or fewer to a neighbour, from left to right: at least one run less."""
    kept = []
    for i, (first, last, label) in enumerate(runs):
        if last - first <= size:
            beside = [run[2] for run in kept[-1:] + runs[i + 1:i + 2]]
            label = max(beside, key=lambda c: probabilities[first:last, c].mean())
        if kept and kept[-1][2] == label:
            kept[-1][1] = last
        else:
            kept.append([first, last, label])
    return kept
