"""Run folders, checkpoints, seeds, devices and ranks.

A checkpoint holds state dicts and plain containers only, and is read with weights_only=True: a
stranger's file cannot run code. It says all that is needed to build the model again.
"""

import contextlib
import os
import signal
from dataclasses import dataclass

import torch


def set_seed(*numbers):
    """Seed torch by any whole numbers, e.g. the run's seed and the epoch."""
    value = 0
    for n in numbers:
        value = (value * 1_000_003 + n + 1) % 2**63
    torch.manual_seed(value)


@dataclass(frozen=True)
class Rank:
    """This process among those that torchrun started; alone it is 0 of 1."""
    number: int = 0
    world: int = 1

    @property
    def first(self):
        return self.number == 0

    def wait(self):
        """Until all ranks are here."""
        if self.world > 1:
            torch.distributed.barrier()

    def any(self, flag):
        """Whether `flag` is set on one rank at least; they must all ask."""
        if self.world == 1:
            return bool(flag)
        box = torch.tensor(int(bool(flag)), device=torch.accelerator.current_accelerator()
                           if torch.distributed.get_backend() == "nccl" else "cpu")
        torch.distributed.all_reduce(box)
        return bool(box)

    def share(self, value):
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]


@contextlib.contextmanager
def ranks(device):
    """The Rank of this process; under torchrun its group is joined and left again."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield Rank()
        return
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Rank(torch.distributed.get_rank(), world)
    finally:
        torch.distributed.destroy_process_group()


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
