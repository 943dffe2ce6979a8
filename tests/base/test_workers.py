"""Work by threads and processes: in order, a few tasks ahead, and over when the reader is."""
import contextlib
import multiprocessing
import os
import signal
import threading
import time

import pytest

from lrcn.base.workers import in_threads, pool


@pytest.mark.parametrize("count", [0, 1, 3])
def test_outcomes_and_an_error_come_in_the_order_of_the_tasks_and_nothing_behind_it_is_begun(count):
    begun, got = [], []

    def slower_at_first(i):
        begun.append(i)
        time.sleep(0.02 / (i + 1))
        if i == 9:
            raise ValueError("nine")
        return i * i
    with pytest.raises(ValueError, match="nine"):
        got.extend(in_threads(slower_at_first, range(1000), count))
    assert got == [i * i for i in range(9)] and len(begun) < 30


def be_deaf(path):
    """Let SIGTERM come to this thread, where it is ignored, as a thread of a library may; and never end."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    open(path, "w").close()
    threading.Event().wait()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pool_ends_at_once_with_workers_that_hear_no_signal(tmp_path):
    os.mkfifo(tmp_path / "begun")
    try:
        with contextlib.suppress(KeyboardInterrupt), pool(1) as executor:
            executor.submit(be_deaf, tmp_path / "begun")
            open(tmp_path / "begun").close()    # until the worker has opened it
            [worker] = multiprocessing.active_children()
            raise KeyboardInterrupt
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)      # the executor may have reaped it before active_children() could
    finally:
        for child in multiprocessing.active_children():
            child.kill()
