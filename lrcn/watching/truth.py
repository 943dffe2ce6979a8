"""The segments that a network gave a film, compared with the truth.

truth: [(start, end, class)]; segments: [(start, end, label, probability)], label UNSURE or NONE where no
class is claimed; seconds. Average precision is that of THUMOS'14 (Jiang et al. 2014, evaluation of temporal
detection): the mean over a class's true stretches of the precision at each that is found, in order of
probability. A true stretch takes the free segment with the largest intersection over union.
"""
import itertools
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from lrcn.watching.history import NONE, UNSURE

OVERLAPS = (0.3, 0.5, 0.7)
HALF = 0.5
AMBIGUOUS = "Ambiguous"     # THUMOS'14's class of stretches that do not count
NOTHING = {UNSURE, NONE}    # labels that claim no class


def overlap(one, other):
    """Intersection over union of two stretches (start, end, ...)."""
    common = min(one[1], other[1]) - max(one[0], other[0])
    return max(0.0, common) / (max(one[1], other[1]) - min(one[0], other[0]))


def matched(truth, segments, least):
    """Numbers of one class's segments in a film that find true stretches, one each."""
    free = dict.fromkeys(range(len(segments)))
    for stretch in sorted(truth):
        best = max(free, key=lambda i: overlap(stretch, segments[i]), default=None)
        if best is not None and overlap(stretch, segments[best]) >= least:
            del free[best]
    return set(range(len(segments))) - free.keys()


@dataclass
class Verdict:
    """The figures of films. classes: of the network; for other true classes "unsure" or "none" is right."""
    classes: list
    films: list = field(default_factory=list)       # [(true stretches, segments, ambiguous)]
    frames: Counter = field(default_factory=Counter)
    unknown: Counter = field(default_factory=Counter)

    def known(self, truth):
        """The true stretches of the network's classes."""
        return [row for row in truth if row[2] in self.classes]

    def add(self, truth, segments, times):
        """Add a film. times: seconds of its sampled frames."""
        known = self.known(truth)
        unclear = [row for row in truth if row[2] == AMBIGUOUS]
        self.unknown.update(row[2] for row in truth if row not in known and row not in unclear)
        self.films.append((known, [row for row in segments if row[2] not in NOTHING], unclear))
        for seconds in times:
            true, label = labels_at(known, seconds), labels_at(segments, seconds)
            if true:
                self.frames["inside", bool(true & label)] += 1
            elif not labels_at(unclear, seconds):
                self.frames["outside", label <= NOTHING] += 1

    def _claims(self, cls, least):
        """([(probability, right)] of a class's segments in all films, how many true stretches it has)."""
        rows, true = [], 0
        for *both, unclear in self.films:
            truth, mine = ([row for row in stretches if row[2] == cls] for stretches in both)
            right = matched(truth, mine, least)
            true += len(truth)
            rows += [(segment[3], i in right) for i, segment in enumerate(mine)
                     if i in right or not any(overlap(segment, other) > 0 for other in unclear)]
        return rows, true

    def figures(self):
        """What truth.json holds; a share of nothing is None."""
        classes, claims = (sorted({row[2] for film in self.films for row in film[i]}) for i in (0, 1))
        rows = [self._claims(c, HALF) for c in {*classes, *claims}]
        true, claimed = sum(n for _, n in rows), sum(len(segments) for segments, _ in rows)
        right = sum(ok for segments, _ in rows for _, ok in segments)
        inside, outside = (self.frames[where, True] + self.frames[where, False]
                           for where in ("inside", "outside"))

        def fraction(part, whole):
            return part / whole if whole else None
        precision = {c: {} for c in classes}
        for c, least in itertools.product(classes, OVERLAPS):
            found, n = self._claims(c, least)
            hits = np.array([ok for _, ok in sorted(found, key=lambda item: -item[0])], bool)
            shares = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            precision[c][f"{least:g}"] = float(shares[hits].sum() / n)
        means = {f"{least:g}": fraction(sum(p[f"{least:g}"] for p in precision.values()), len(classes))
                 for least in OVERLAPS}
        return {"films": len(self.films), "frames": inside,
                "frames_right": fraction(self.frames["inside", True], inside), "frames_of_no_class": outside,
                "frames_of_no_class_unsure": fraction(self.frames["outside", True], outside),
                "true_segments": true, "true_segments_found": fraction(right, true), "segments": claimed,
                "segments_right": fraction(right, claimed), "mean_average_precision": means,
                "average_precision": precision, "classes_that_the_network_does_not_know": dict(self.unknown)}


def labels_at(rows, seconds):
    """{labels} of the rows (start, end, label, ...) that contain a moment."""
    return {row[2] for row in rows if row[0] <= seconds < row[1]}


def wrong_places(truth, segments, end, least=0.02):
    """[(start, end, truth, label)], in order of time, where the label is wrong: it is none of the true
    classes, all of which are named. Places shorter than `least` seconds do not count."""
    edges = sorted({0.0, end, *(min(max(0.0, t), end) for row in [*truth, *segments] for t in row[:2])})
    places = []
    for start, stop in zip(edges, edges[1:], strict=False):
        middle = (start + stop) / 2
        true, claimed = labels_at(truth, middle), labels_at(segments, middle) or {UNSURE}
        if claimed & true or AMBIGUOUS in true or (not true and claimed <= NOTHING):
            continue
        row = ["+".join(sorted(true)) or NONE, "+".join(sorted(claimed))]
        if places and places[-1][1] == start and list(places[-1][2:]) == row:
            places[-1] = (places[-1][0], stop, *row)
        else:
            places.append((start, stop, *row))
    return [place for place in places if place[1] - place[0] >= least]


def sentence(figures):
    """The figures in a line."""
    def percent(name):
        return "none" if figures[name] is None else f"{100 * figures[name]:.1f}%"

    means = figures["mean_average_precision"]
    line = (f"truth: {percent('frames_right')} of {figures['frames']} frames right, "
            f"{percent('true_segments_found')} of {figures['true_segments']} true segments found and "
            f"{percent('segments_right')} of {figures['segments']} right (overlap of at least half)")
    if figures["true_segments"]:
        line += ", mean average precision " + ", ".join(f"{m:.3f} at {at}" for at, m in means.items())
    if figures["frames_of_no_class"]:
        line += (f"; {percent('frames_of_no_class_unsure')} of {figures['frames_of_no_class']} frames of no "
                 "class are unsure")
    return line
