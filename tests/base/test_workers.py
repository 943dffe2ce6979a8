"""Work by threads: in order, a few tasks ahead, and over when the reader is."""
import threading
import time

import pytest

from lrcn.base.workers import in_threads


@pytest.mark.parametrize("count", [0, 1, 3])
def test_outcomes_come_in_the_order_of_the_tasks(count):
    def slower_at_first(i):
        time.sleep(0.02 / (i + 1))
        return i * i
    assert list(in_threads(slower_at_first, range(9), count)) == [i * i for i in range(9)]


@pytest.mark.parametrize("count", [0, 2])
def test_an_error_comes_in_its_turn_and_nothing_after_it_is_begun(count):
    begun = []

    def work(i):
        begun.append(i)
        if i == 3:
            raise ValueError("three")
        return i
    got = []
    with pytest.raises(ValueError, match="three"):
        for outcome in in_threads(work, range(1000), count):
            got.append(outcome)
    assert got == [0, 1, 2] and len(begun) < 20


def test_threads_work_side_by_side_and_no_more_than_a_few_tasks_ahead():
    meeting, begun = threading.Barrier(2, timeout=10), []

    def work(i):
        begun.append(i)
        if i < 2:
            meeting.wait()      # neither gets on alone
        return i
    outcomes = in_threads(work, range(1000), 2)
    assert next(outcomes) == 0
    outcomes.close()
    time.sleep(0.05)
    assert len(begun) < 10
