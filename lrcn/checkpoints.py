"""Run folders, checkpoints, seeds, devices and ranks.

A checkpoint holds state dicts and plain containers only, and is read with weights_only=True: a
stranger's file cannot run code. It says all that is needed to build the model again.
"""

import zipfile
from pathlib import Path

import torch

from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.encoding import backbones
from lrcn.runs import RunFolder

FORMAT = 1


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


def describe(model, classes, settings):
    """The part of a checkpoint from which `build` makes the model again."""
    return {"format": FORMAT, "encoder_spec": model.encoder.spec(), "head_spec": model.head.spec,
            "classes": list(classes), "settings": settings}


def restore(model, state, path, flag):
    """Take the weights of a checkpoint into its model; a frozen encoder may lie in a file beside it."""
    source = f"--{flag} {path}"
    encoder = state.get("encoder")
    if encoder is None:
        sibling = Path(path).with_name(RunFolder("").checkpoint("encoder").name)
        if not sibling.is_file():
            raise UserError(f"{source}: the frozen encoder's file {sibling.name} is missing beside it; "
                            f"copy it along, or take best.pth.tar, which holds everything")
        encoder = load_file(sibling, flag).get("encoder", {})
    if not isinstance(encoder, dict) or not isinstance(state.get("head"), dict):
        raise UserError(f"{source}: not a checkpoint of this program (no weights in it)")
    backbones.load_state(model.encoder, encoder, f"{source}, encoder,")
    backbones.load_state(model.head, state["head"], f"{source}, head,")
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
