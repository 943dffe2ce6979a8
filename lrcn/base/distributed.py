"""The processes that torchrun started together: ranks, messages between them, devices and seeds."""
import contextlib
import os
import signal
from dataclasses import dataclass
from datetime import timedelta

from lrcn.base import Lazy, UserError
from lrcn.base.signals import handled

torch = Lazy("torch")

MEET, WAIT = timedelta(minutes=5), timedelta(minutes=30)    # for the others to start; for their answers


def set_seed(*numbers):
    """Seed torch by whole numbers, such as the run's seed and the epoch."""
    value = 0
    for n in numbers:
        value = (value * 1_000_003 + n + 1) % 2**63
    torch.manual_seed(value)


def choose_device(name="auto"):
    """torch.device of --device: auto takes CUDA, then Apple's mps, then the CPU."""
    if name == "auto":
        name = ("cuda" if torch.cuda.is_available() else
                "mps" if torch.backends.mps.is_available() else "cpu")
        if name == "cuda":
            name = f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not available on this machine ({str(error).splitlines()[0]}); try "
                        "auto or cpu") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # TF32
        torch.backends.cudnn.allow_tf32 = True
    return device


def rank_and_world():
    """torchrun's number of this process and count of processes, or (0, 1)."""
    number, world = 0, 0
    with contextlib.suppress(ValueError):
        number, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not 0 <= number < world:
        raise UserError(f"RANK={os.environ.get('RANK')} and WORLD_SIZE={os.environ.get('WORLD_SIZE')} "
                        f"in the environment do not fit together; unset them or use torchrun")
    return number, world


def alone_environment():
    """The environment without torchrun's variables, for a script that one process starts."""
    return {key: value for key, value in os.environ.items()
            if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
            and not key.startswith(("MASTER_", "TORCHELASTIC_", "GROUP_", "ROLE_"))}


@dataclass(frozen=True)
class Rank:
    """This process among those of torchrun; 0 of 1 without it."""
    number: int = 0
    world: int = 1
    first = property(lambda rank: rank.number == 0)

    def barrier(self):
        """Wait for all ranks."""
        self.gather(None)

    def all_reduce_max(self, value):
        """The largest of all ranks' whole numbers (or truth values)."""
        if self.world == 1:
            return value
        box = torch.tensor(int(value), device=torch.accelerator.current_accelerator()
                           if torch.distributed.get_backend() == "nccl" else "cpu")
        torch.distributed.all_reduce(box, torch.distributed.ReduceOp.MAX)
        return int(box)

    def broadcast(self, value):
        """Rank 0's value, on every rank."""
        return self.gather(value if self.first else None)[0]

    def gather(self, value):
        """[every rank's value], on every rank."""
        if self.world == 1:
            return [value]
        box = [None] * self.world
        torch.distributed.all_gather_object(box, value)
        return box


@contextlib.contextmanager
def ranks(device):
    """The Rank of this process; torchrun's group is joined. UserError: others did not start, or were lost."""
    number, world = rank_and_world()
    if world == 1:
        yield Rank()
        return
    try:
        with handled(signal.SIG_DFL):   # Python's handlers do not run in there
            store, *_ = next(torch.distributed.rendezvous("env://", timeout=MEET))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"RANK={number} and WORLD_SIZE={world} are set, and the processes did not meet at "
                        f"MASTER_ADDR={os.environ.get('MASTER_ADDR')} "
                        f"MASTER_PORT={os.environ.get('MASTER_PORT')} ({str(error).splitlines()[0]:.160}); "
                        f"use torchrun, or unset these variables") from None
    try:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store,
                                             rank=number, world_size=world, timeout=WAIT)
        yield Rank(number, world)
    except RuntimeError as error:
        lost = ("Timed out", "timed out", "Connection", "peer", "Broken pipe")
        if not any(word in str(error) for word in lost):
            raise
        raise UserError(f"process {number} of {world}: another one has ended, or did not answer within "
                        f"{WAIT.seconds // 60} minutes; look at its lines above") from None
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
