"""The processes that torchrun started together: their numbers, their waits, their seeds and stop signals.

    with ranks(device) as rank, Stop() as stop:
        for step in steps[rank.number::rank.world]:
            ...
            if rank.all_reduce_max(bool(stop.signal)):    # one of them was asked to stop
                break

torch is imported where it is used, so that preprocessing starts in a blink.
"""
import contextlib
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

from lrcn.base.cli import UserError

MEET, WAIT = 300, 1800      # seconds until the others have come, and until they answer
GRACE = 60                  # seconds from a signal to the end of a process that waits for others


def set_seed(*numbers):
    """Seed torch by any whole numbers, e.g. the run's seed and the epoch."""
    import torch
    value = 0
    for n in numbers:
        value = (value * 1_000_003 + n + 1) % 2**63
    torch.manual_seed(value)


def rank_and_world():
    """This process's number and how many there are, as torchrun says, or (0, 1)."""
    try:
        number, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    except ValueError:
        number, world = 0, 0
    if not 0 <= number < world:
        raise UserError(f"RANK={os.environ.get('RANK')} and WORLD_SIZE={os.environ.get('WORLD_SIZE')} "
                        f"in the environment do not fit together; unset them or use torchrun")
    return number, world


def alone_environment():
    """The environment without torchrun's numbers, for a script that one process starts by itself."""
    return {key: value for key, value in os.environ.items()
            if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
            and not key.startswith(("MASTER_", "TORCHELASTIC_", "GROUP_", "ROLE_"))}


@dataclass(frozen=True)
class Rank:
    """This process among those that torchrun started; alone it is 0 of 1."""
    number: int = 0
    world: int = 1

    @property
    def first(self):
        return self.number == 0

    def barrier(self):
        """Until all ranks are here."""
        if self.world > 1:
            self.gather(None)

    def all_reduce_max(self, value):
        """The largest of all ranks' whole numbers (or truths); they must all ask."""
        if self.world == 1:
            return value
        import torch
        box = torch.tensor(int(value), device=torch.accelerator.current_accelerator()
                           if torch.distributed.get_backend() == "nccl" else "cpu")
        with _Waiting():
            torch.distributed.all_reduce(box, torch.distributed.ReduceOp.MAX)
        return int(box)

    def broadcast(self, value):
        """Rank 0's value, on every rank."""
        return value if self.world == 1 else self.gather(value if self.first else None)[0]

    def gather(self, value):
        """[every rank's value], on every rank."""
        if self.world == 1:
            return [value]
        import torch
        box = [None] * self.world
        with _Waiting():
            torch.distributed.all_gather_object(box, value)
        return box


@contextlib.contextmanager
def ranks(device):
    """The Rank of this process; under torchrun its group is joined and left again.

    UserError: the others did not come, or one of them was lost.
    """
    number, world = rank_and_world()
    if world == 1:
        yield Rank()
        return
    import torch
    with _end_on_signal(number):
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo",
                                             store=_meet(number, world), rank=number, world_size=world,
                                             timeout=timedelta(seconds=WAIT))
        try:
            yield Rank(number, world)
        except RuntimeError as error:
            words = ("Timed out", "timed out", "Connection", "peer", "Broken pipe")
            if not any(word in str(error) for word in words):
                raise
            raise UserError(f"process {number} of {world}: another one has ended, or did not answer within "
                            f"{WAIT // 60} minutes; look at its lines above") from None
        finally:
            torch.distributed.destroy_process_group()


def _meet(number, world):
    """torch's store for these processes, once all of them are there."""
    from torch.distributed import PrefixStore, TCPStore
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", 29500))
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        with _Waiting():
            store = TCPStore(host, port, world, number == 0 and not agent, timedelta(seconds=MEET),
                             wait_for_workers=False, multi_tenant=True)
    except RuntimeError:
        raise UserError(f"process {number} of {world}: nobody at MASTER_ADDR={host} MASTER_PORT={port}; "
                        f"start process 0 there, or use torchrun") from None
    store = PrefixStore(f"lrcn/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    store.set(f"here/{number}", "1")
    begun, said = time.monotonic(), False
    while missing := [n for n in range(world) if not store.check([f"here/{n}"])]:
        waited = time.monotonic() - begun
        names = ", ".join(map(str, missing))
        if waited > MEET:
            raise UserError(f"RANK={number} and WORLD_SIZE={world} are set, and process {names} did not "
                            f"come within {MEET // 60} minutes; start it, or unset these variables")
        if waited > 5 and not said:
            said = True
            print(f"process {number} of {world} is waiting for process {names}", file=sys.stderr, flush=True)
        time.sleep(0.05)
    return store


# ---------------------------------------------------------------- signals

class Stop:
    """SIGINT and SIGTERM as a flag that a loop looks at between two steps.

    `signal` is the number that came, or None. A second one ends the process at once.
    """

    def __init__(self):
        self.signal = None

    def __enter__(self):
        self._old = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self.signal = number
        signal.signal(number, signal.SIG_DFL)


class _Waiting:
    """Inside, this process waits for others in torch's own code, where Python's handlers do not run."""
    since = None

    def __enter__(self):
        _Waiting.since = time.monotonic()

    def __exit__(self, *_):
        _Waiting.since = None


@contextlib.contextmanager
def _end_on_signal(number):
    """A process that waits for others, and is asked to end, ends: at the latest GRACE seconds later."""
    reading, writing = os.pipe2(os.O_NONBLOCK) if hasattr(os, "pipe2") else os.pipe()
    os.set_blocking(reading, True)
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch():
        came = os.read(reading, 1)
        while came and came[0] not in (signal.SIGINT, signal.SIGTERM):
            came = os.read(reading, 1)
        asked = time.monotonic()
        while came:
            time.sleep(0.2)
            since = _Waiting.since
            if since and time.monotonic() - max(asked, since) > GRACE:
                print(f"process {number} was still waiting for the others; it ends", file=sys.stderr,
                      flush=True)
                os._exit(128 + came[0])

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)
