"""Workers that may hang or crash: processes (results, pool) and threads (in_threads, ahead).

A process is new, not forked (it holds no lock or file of its parent), and gets a task ahead through its own
pipe. The oldest task without an answer is the one that it works on.
"""
import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import threading
import time
from collections import deque

from lrcn.base.signals import quiet

PATIENCE = 5    # seconds for the end of a process that was killed
AHEAD = 2   # tasks of a worker at once, so that it does not wait for its parent


def cores():
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


class Lost(Exception):
    """The outcome of a task whose worker died or was ended; str(error): "crashed (SIGSEGV)"."""


def results(function, tasks, count, limit):
    """Yields (task, function(task)), or (task, Lost), as they are done. function, tasks: picklable; it
    returns errors, and raises none. count: processes; limit: seconds for a task."""
    pending = deque(tasks)
    workers = [_Worker(function) for _ in range(min(count, len(pending)))]
    try:
        while pending or any(worker.tasks for worker in workers):
            for worker in workers:
                while pending and len(worker.tasks) < AHEAD:
                    worker.give(pending.popleft())
            ready = multiprocessing.connection.wait([w.connection for w in workers], timeout=0.2)
            for i, worker in enumerate(workers):
                answered, reason = worker.receive() if worker.connection in ready else \
                    (None, worker.overdue(limit))
                if answered:
                    yield answered
                if reason:
                    # Its later tasks go to other workers.
                    task, *others = worker.tasks or [None]
                    pending.extendleft(reversed(others))
                    workers[i] = _Worker(function)
                    if task is not None:
                        yield task, Lost(reason)
    finally:
        for worker in workers:
            worker.end()


@contextlib.contextmanager
def pool(count):
    """A ProcessPoolExecutor of `count` new processes, which ignore signals and end with this one."""
    executor = concurrent.futures.ProcessPoolExecutor(count, multiprocessing.get_context("spawn"),
                                                      initializer=_begin)
    try:
        yield executor
        executor.shutdown()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        # Not by SIGTERM: a worker may have another one pending, which it ignores.
        for child in multiprocessing.active_children():
            child.kill()
            child.join(PATIENCE)


class _Worker:
    def __init__(self, function):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.tasks = deque()
        self.since = None           # when it began with its oldest task; None until it has started

    def give(self, task):
        if not self.tasks and self.since is not None:
            self.since = time.monotonic()
        self.tasks.append(task)
        with contextlib.suppress(OSError):  # it is dead: receive() finds out why
            self.connection.send(task)

    def receive(self):
        """((task, answer), or None: it has started; None, or how it died)."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            return None, f"crashed ({signal.Signals(-code).name if code < 0 else f'exit status {code}'})"
        answered = self.since is not None and (self.tasks.popleft(), answer)
        self.since = time.monotonic()
        return answered, None

    def overdue(self, limit):
        """End the worker if its task takes over `limit` seconds; the reason, or None."""
        if not self.tasks or self.since is None or time.monotonic() - self.since < limit:
            return None
        self.end()
        return f"did not finish within {limit:g} seconds"

    def end(self):
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(function, connection):
    _begin()
    try:
        connection.send(None)
        while True:
            connection.send(function(connection.recv()))
    except (EOFError, OSError):
        return      # the parent is gone


def _begin():
    """In a new worker: leave signals to the parent, and end with it even if a task hangs."""
    def follow():
        multiprocessing.parent_process().join()
        os._exit(1)
    quiet()
    threading.Thread(target=follow, daemon=True).start()


def in_threads(function, tasks, count):
    """function(task) of every task, in order, by `count` threads a few tasks ahead of the reader (0: by
    none): for work that does not block other threads, such as decoding."""
    if not count:
        yield from map(function, tasks)
        return
    executor, begun = concurrent.futures.ThreadPoolExecutor(count), deque()
    try:
        for task in tasks:
            begun.append(executor.submit(function, task))
            if len(begun) > AHEAD * count:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def ahead(items, depth, limit, lost):
    """The items of a generator, from a thread that is at most `depth` of them ahead of the reader. limit:
    seconds for one item; after that `lost` is raised, and the thread is abandoned."""
    box, room, closed = queue.SimpleQueue(), threading.Semaphore(depth), threading.Event()

    def work():
        try:
            for item in items:
                box.put((item, None))
                room.acquire()
                if closed.is_set():
                    return
            box.put((None, StopIteration()))
        except Exception as error:
            box.put((None, error))
        finally:
            items.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (entry := box.get(timeout=limit))[1] is None:
            room.release()
            yield entry[0]
        if not isinstance(entry[1], StopIteration):
            raise entry[1]
    except queue.Empty:
        thread = None
        raise lost(f"the decoder did not finish within {limit:g} seconds") from None
    finally:
        closed.set()
        room.release()
        if thread:
            thread.join()
