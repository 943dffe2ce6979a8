"""What has been seen of a film: its windows, the moments that they tell of, and the segments of these.

The probabilities of a sampled frame are the mean of those of all windows that contain it. Frame f lies in
the windows f - T + 1 to f, so that it is known once T - 1 more frames have been seen.
"""
import itertools
from dataclasses import dataclass, field

import numpy as np

UNSURE = "unsure"


@dataclass
class History:
    """What has been seen of a video. Small: two bytes a class and sampled frame."""
    length: int
    times: list = field(default_factory=list)       # seconds of every sampled frame
    windows: list = field(default_factory=list)     # float16 (C,) of the window from frame i on
    end: float = 0.0                                # seconds at which the video ends
    alone: list = field(default_factory=list)       # float16 (S, C): what each stream of a fusion says of it
    # {frame: [colours of its flow uint8 (S, S, 3), or None, of each stream]} of a fusion, until it is drawn
    seen: dict = field(default_factory=dict)

    def add(self, answers):
        """Take up Recogniser.answers (n, 1 + S, C); how many windows there are."""
        answers = answers.astype(np.float16)
        self.windows += list(answers[:, 0])
        self.alone += list(answers[:, 1:])
        return len(self.windows)

    def cut(self, known):
        """What the first `known` windows have seen, with its end where more was coming."""
        times = self.times[:known + self.length - 1]
        whole = self.end and len(times) == len(self.times)
        return History(self.length, times, self.windows[:known], self.end if whole else times[-1])

    def at(self, frame, answers=None):
        """Probabilities float32 (C,) of a sampled frame: the mean of the windows that contain it. answers: of
        the windows, in the place of the network's own."""
        return np.mean((answers or self.windows)[max(0, frame - self.length + 1):frame + 1], 0,
                       dtype=np.float32)

    def beside(self, frame, names):
        """[(name, probabilities float32 (C,), picture or None)] of each stream; ask for frames in order."""
        if not names:
            return []
        self.seen.pop(frame - 1, None)
        seen = self.seen.get(frame, [None] * len(names))
        return list(zip(names, self.at(frame, self.alone), seen, strict=True))

    def smoothed(self):
        """at() of every sampled frame that a window contains, float32 (frames, C)."""
        n = len(self.windows)
        total = np.zeros((n + self.length - 1, len(self.windows[0])), np.float32)
        count = np.zeros((len(total), 1), np.float32)
        windows = np.stack(self.windows)
        for place in range(self.length):
            total[place:place + n] += windows
            count[place:place + n] += 1
        return total / count


def find_segments(times, end, probabilities, min_probability, least):
    """Runs of one label: [(start, end, label, mean probability)], in seconds; label -1: unsure.

    times (F,), probabilities (F, C) of the sampled frames, `end` of the video. A frame's label is its most
    probable class, or unsure where that is under min_probability. Runs of fewer than `least` frames then join
    the neighbour that is the more probable one during the run, the shortest runs first. A segment begins and
    ends halfway between two sampled frames. The probability of an unsure one is that of its best classes.
    """
    # Unsure takes part as class 0, whose probability is always min_probability.
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
    """Give every run of `size` frames or fewer to a neighbour, from left to right: at least one run less."""
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
