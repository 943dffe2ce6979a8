"""Figures against the truth: hand counts, and an average precision that was written another way."""
import itertools

import numpy as np
import pytest

from lrcn.watching.history import UNSURE
from lrcn.watching.truth import Verdict, matched, overlap, sentence, wrong_places

# One film of 20 s: a frame every second, at 0.5, 1.5, ...
TRUTH = [(0, 4, "A"), (4, 10, "B"), (12, 16, "A")]
SAID = [(0, 5, "A", 0.9), (5, 8, "B", 0.6), (8, 11, "A", 0.7), (11, 14, UNSURE, 0.3), (14, 16, "A", 0.5),
        (16, 20, "B", 0.4)]
TIMES = np.arange(20) + 0.5


def test_the_figures_are_those_of_a_count_by_hand():
    verdict = Verdict(["A", "B"])
    verdict.add(TRUTH, SAID, TIMES)
    figures = verdict.figures()
    # Right: 0-4 (4 frames), 5-8 (3), 14-16 (2) of 4 + 6 + 4; of no class: 10-12 and 16-20, unsure in one.
    assert (figures["frames"], figures["frames_right"]) == (14, 9 / 14)
    assert (figures["frames_of_no_class"], figures["frames_of_no_class_unsure"]) == (6, 1 / 6)
    # Overlaps: A 0-4 with 0-5 4/5; B 4-10 with 5-8 3/6; A 12-16 with 14-16 2/4: all three are at least half.
    assert (figures["true_segments"], figures["true_segments_found"]) == (3, 1)
    assert (figures["segments"], figures["segments_right"]) == (5, 3 / 5)
    # A: 0.9 right, 0.7 wrong, 0.5 right: (1 + 2/3) / 2; B: 0.6 right, 0.4 wrong: 1. At 0.7: A 1 / 2, B 0.
    assert figures["average_precision"]["A"] == pytest.approx({"0.3": 5 / 6, "0.5": 5 / 6, "0.7": 1 / 2})
    assert figures["average_precision"]["B"] == {"0.3": 1, "0.5": 1, "0.7": 0}
    assert figures["mean_average_precision"] == pytest.approx({"0.3": 11 / 12, "0.5": 11 / 12, "0.7": 1 / 4})
    assert "64.3% of 14 frames right" in sentence(figures) and "0.250 at 0.7" in sentence(figures)


def test_the_wrong_places_are_listed_by_time():
    assert wrong_places(TRUTH, SAID, 20) == [
        (4, 5, "B", "A"), (8, 10, "B", "A"), (10, 11, "none", "A"), (12, 14, "A", UNSURE),
        (16, 20, "none", "B")]
    assert wrong_places([(0, 4, "A"), (2, 4, "B")], [(0, 3, "B", 1), (3, 4, "C", 1)], 4) == [
        (0, 2, "A", "B"), (3, 4, "A+B", "C")]
    assert wrong_places([], [(0, 4, UNSURE, 0.2)], 4) == []


def test_classes_that_the_network_does_not_know_are_nothing_and_ambiguous_ones_do_not_count():
    verdict = Verdict(["A"])
    verdict.add([(0, 5, "A"), (5, 10, "Z"), (10, 20, "Ambiguous")],
                [(0, 5, "A", 0.9), (5, 10, UNSURE, 0.2), (10, 15, "A", 0.8), (15, 20, UNSURE, 0.1)], TIMES)
    figures = verdict.figures()
    assert (figures["frames"], figures["frames_of_no_class"]) == (5, 5)
    assert figures["frames_of_no_class_unsure"] == 1
    assert (figures["segments"], figures["segments_right"]) == (1, 1)
    assert figures["classes_that_the_network_does_not_know"] == {"Z": 1}
    nothing = Verdict(["A"])
    nothing.add([], [(0, 20, UNSURE, 0.1)], TIMES)
    assert nothing.figures()["mean_average_precision"]["0.5"] is None and sentence(nothing.figures())


def test_overlap_and_matching():
    assert overlap((0, 4), (2, 6)) == pytest.approx(2 / 6) and overlap((0, 1), (2, 3)) == 0
    for order in itertools.permutations([(0, 4, "A", 0.1), (0, 2, "A", 0.9), (5, 9, "A", 0.5)]):
        got = {order[i] for i in matched([(0, 4), (5, 9)], list(order), 0.5)}
        assert got == {(0, 4, "A", 0.1), (5, 9, "A", 0.5)}      # the best overlap, not the most probable
