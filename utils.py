"""Run folders, checkpoints, seeds, devices and ranks.

A checkpoint holds state dicts and plain containers only, and is read with weights_only=True: a
stranger's file cannot run code. It says all that is needed to build the model again.
"""
import contextlib
import os
import platform
import signal
import sys
import time
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

import cli
import encoders
import files
import models
from cli import UserError

FORMAT = 1
CHECKPOINTS = "Saved_model_checkpoint"
ENCODER_FILE = "encoder.pth.tar"

# The default of --num_workers is meant for any machine; more workers than cores do no harm.
warnings.filterwarnings("ignore", "This DataLoader will create")


# ---------------------------------------------------------------- device, seed, ranks

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
        raise UserError(f"--device {name}: not to be had on this machine "
                        f"({str(error).splitlines()[0]}); try auto or cpu") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # TF32
        torch.backends.cudnn.allow_tf32 = True
    return device


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


# ---------------------------------------------------------------- run folder

def new_run_folder(local_dir, open_new_folder):
    """The run folder as --open_new_folder says, made: True a new one named by the second,
    'debug' <local_dir>/debug, False local_dir itself."""
    local_dir = Path(local_dir).expanduser()
    mode = str(open_new_folder).strip("'\"‘’").lower()
    if mode not in ("true", "debug", "false"):
        raise UserError(f"--open_new_folder {open_new_folder}: expected True, False or debug")
    try:
        local_dir.mkdir(parents=True, exist_ok=True)
        if mode != "true":
            folder = local_dir / "debug" if mode == "debug" else local_dir
            folder.mkdir(exist_ok=True)
            return folder
        name, number = time.strftime("%Y%m%d-%H%M%S"), 1
        while True:  # another run may have started in the same second
            folder = local_dir / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        raise UserError(f"--local_dir {local_dir}: cannot make the run folder ({error.strerror})") from None


def newest_run(local_dir):
    """The newest run folder below local_dir that has a last.pth.tar; UserError when there is none."""
    found = [p for p in Path(local_dir).expanduser().glob(f"*/{CHECKPOINTS}/last.pth.tar")]
    if not found:
        raise UserError(f"--resume auto: no run folder with a last.pth.tar below --local_dir {local_dir}")
    return max(found, key=lambda p: p.stat().st_mtime_ns).parent.parent


def versions():
    """What a run was made with, for settings.json."""
    import cv2
    import torchvision
    return {"python": platform.python_version(), "torch": torch.__version__,
            "torchvision": torchvision.__version__, "opencv": cv2.__version__,
            "machine": f"{platform.system()} {platform.machine()}", "command": " ".join(sys.argv)}


# ---------------------------------------------------------------- checkpoints

def load_file(path, flag):
    """What torch.save wrote, tensors and plain containers alone, on the CPU.

    UserError in one line, naming --flag: no such file, truncated, not a checkpoint, a pickle that
    wants to run code, an archive that unpacks to more than it is.
    """
    path = cli.file(flag, path, "give the path of a checkpoint file")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                # torch stores without compression; a packed entry is no checkpoint of torch's
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > path.stat().st_size:
                raise UserError(f"--{flag} {path}: a compressed archive that unpacks to "
                                f"{files.gigabytes(unpacked)}, not a checkpoint; it was not read")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch.load raises almost anything for a broken file
        if "GLOBAL" in str(error):  # how the unpickler calls a function or a class
            what = "it holds more than tensors and plain containers, and was refused unread"
        else:
            what = "not a whole checkpoint: cut off, damaged, or something else"
        raise UserError(f"--{flag} {path}: {what}; take another file") from None
    if not isinstance(state, dict):
        raise UserError(f"--{flag} {path}: it holds a {type(state).__name__}, not a checkpoint")
    return state


def save_file(path, state):
    """torch.save, whole or not at all."""
    with files.atomic(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's archive writer says no more of a full disk
            if any(word in str(error) for word in ("PytorchStreamWriter", "inline_container", "iostream")):
                raise OSError(28, "no space left on device", str(path)) from None
            raise


@dataclass
class Trained:
    """A model from a run folder, in eval mode, and what it was trained with."""
    model: models.LRCN
    classes: list
    settings: dict
    checkpoint: Path
    folder: Path
    epoch: int


def describe(model, classes, settings):
    """The part of a checkpoint from which `build` makes the model again."""
    return {"format": FORMAT, "encoder_spec": model.encoder.spec(), "head_spec": model.head.spec,
            "classes": list(classes), "settings": settings}


def build(state, source):
    """(LRCN without weights, classes, settings) of a checkpoint's description."""
    try:
        if state["format"] != FORMAT:
            raise UserError(f"{source}: format {state['format']}, and this program reads {FORMAT}")
        classes, settings = state["classes"], state["settings"]
        if not (isinstance(classes, list) and all(isinstance(c, str) for c in classes)
                and isinstance(settings, dict) and len(classes) == state["head_spec"]["classes"]):
            raise ValueError("classes or settings")
        encoder = encoders.encoder_from_spec(state["encoder_spec"])
        head = models.Head(**state["head_spec"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, MemoryError,
            ArithmeticError) as error:
        detail = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise UserError(f"{source}: not a checkpoint of this program ({detail})") from None
    if head.spec["feature_dim"] != encoder.feature_dim:
        raise UserError(f"{source}: its head reads {head.spec['feature_dim']} features and its encoder "
                        f"{encoder.name} gives {encoder.feature_dim}")
    return models.LRCN(encoder, head), classes, settings


def checkpoint_path(model_dir, model_name=None, flag=None):
    """The checkpoint that --model_dir (a run folder, or its checkpoint folder) and --model_name mean.

    Without a name: best.pth.tar, or last.pth.tar before there is a best one. flag: the one that
    named the folder, where it was not --model_dir.
    """
    folder = cli.folder(flag or "model_dir", model_dir, "give the run folder that train.py printed")
    if (folder / CHECKPOINTS).is_dir():
        folder = folder / CHECKPOINTS
    names = [model_name, f"{model_name}.pth.tar"] if model_name else ["best.pth.tar", "last.pth.tar"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    have = ", ".join(sorted(p.name for p in folder.glob("*.pth.tar") if p.name != ENCODER_FILE)) or "none"
    said = f"--{flag} {model_dir}: no {names[0]}" if flag else f"--model_name {names[0]}: no such checkpoint"
    raise UserError(f"{said} in {folder}; there: {have}")


def load_trained(model_dir, model_name=None, device="cpu", flag=None):
    """The Trained of a run folder; UserError for a file that is no checkpoint or does not fit."""
    path = checkpoint_path(model_dir, model_name, flag)
    flag = flag or "model_name"
    state = load_file(path, flag)
    model, classes, settings = build(state, f"--{flag} {path}")
    restore(model, state, path, flag)
    run = path.parent.parent if path.parent.name == CHECKPOINTS else path.parent
    return Trained(model.to(device).eval(), classes, settings, path, run, state.get("epoch", 0))


def restore(model, state, path, flag):
    """Take the weights of a checkpoint into its model; a frozen encoder may lie in a file beside it."""
    source = f"--{flag} {path}"
    encoder = state.get("encoder")
    if encoder is None:
        sibling = Path(path).with_name(ENCODER_FILE)
        if not sibling.is_file():
            raise UserError(f"{source}: the frozen encoder's file {sibling.name} is missing beside it; "
                            f"copy it along, or take best.pth.tar, which holds everything")
        encoder = load_file(sibling, flag).get("encoder", {})
    if not isinstance(encoder, dict) or not isinstance(state.get("head"), dict):
        raise UserError(f"{source}: not a checkpoint of this program (no weights in it)")
    encoders.load_state(model.encoder, encoder, f"{source}, encoder,")
    encoders.load_state(model.head, state["head"], f"{source}, head,")
    if model.encoder.digest() != state.get("encoder_digest"):
        raise UserError(f"{source}: the encoder beside it is not the one that it was trained with")


def take_over(model, other):
    """Copy another model's encoder and projection into `model`, what fits; returns lines that say what
    was taken and what was not."""
    taken, left = [], []
    theirs = {f"encoder.{k}": v for k, v in other.encoder.state_dict().items()}
    theirs |= {f"head.{k}": v for k, v in other.head.state_dict().items() if k.startswith("projection.")}
    own = model.state_dict()
    for key, value in theirs.items():
        fits = key in own and own[key].shape == value.shape
        (taken if fits else left).append(key)
        if fits:
            own[key].copy_(value)
    fresh = sorted({k.rsplit(".", 1)[0] for k in own if k not in set(taken)})
    return [f"--init_from: {len(taken)} tensors taken over (encoder and projection)",
            f"--init_from: not taken, of another network or shape: {', '.join(left) or 'none'}",
            f"--init_from: starting afresh: {', '.join(fresh) or 'none'}"]


def count_parameters(model):
    return sum(p.numel() for p in model.parameters())
