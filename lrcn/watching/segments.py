"""Segments: what happens in a video from when to when, out of the probabilities of its moments.

    segments = find_segments(history.times, history.end, history.smoothed(), 0.4, least=3)
"""
import numpy as np

UNSURE = "unsure"


def find_segments(times, end, probabilities, min_probability, least):
    """Runs of one label: [(start, end, label, mean probability)], in seconds; label -1: unsure.

    times (F,), probabilities (F, C) of the sampled frames, `end` of the video. A frame's label is
    its most probable class, or unsure where that is under min_probability. Runs of fewer than
    `least` frames (a number of any size) then join the neighbour that is the more probable one
    during the run, the shortest runs first. A segment begins and ends halfway between two sampled frames. The
    probability of an unsure segment is that of the frames' most probable classes.
    """
    # Unsure takes part as class 0, whose probability is always min_probability.
    limit = np.full((len(probabilities), 1), min_probability, np.float32)
    extended = np.concatenate([limit, probabilities], 1)
    best = probabilities.max(1)
    runs = _runs(np.where(best >= min_probability, probabilities.argmax(1) + 1, 0))
    while len(runs) > 1 and (shortest := min(last - first for first, last, _ in runs)) < least:
        runs = _join(runs, extended, shortest)
    edges = np.concatenate([[0], (np.array(times[:-1]) + times[1:]) / 2, [end]])
    return [(float(edges[first]), float(edges[last]), int(label) - 1,
             float((probabilities[first:last, label - 1] if label else best[first:last]).mean()))
            for first, last, label in runs]


def _runs(labels):
    """[[first, last + 1, label]] of equal neighbours."""
    cuts = np.flatnonzero(np.diff(labels)) + 1
    return [[int(a), int(b), int(labels[a])]
            for a, b in zip([0, *cuts], [*cuts, len(labels)], strict=True)]


def _join(runs, probabilities, size):
    """Give every run of `size` frames or fewer to a neighbour, from left to right.

    There is at least one run less then; a run that was given to a short one may still be short.
    """
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
