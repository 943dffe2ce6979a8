"""Run folders, checkpoints, seeds, devices and ranks.

A checkpoint holds state dicts and plain containers only, and is read with weights_only=True: a
stranger's file cannot run code. It says all that is needed to build the model again.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

import models
from lrcn.base import cli
from lrcn.base.cli import UserError
from lrcn.checkpoints import FORMAT, load_file, restore
from lrcn.runs import RunFolder, checkpoint_path


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


@dataclass
class Trained:
    """A model from a run folder, in eval mode, and what it was trained with."""
    model: models.LRCN
    classes: list
    settings: dict
    checkpoint: Path
    folder: Path
    epoch: int


def build(state, source):
    """(LRCN without weights, classes, settings) of a checkpoint's description."""
    try:
        if state["format"] != FORMAT:
            raise UserError(f"{source}: format {state['format']}, and this program reads {FORMAT}")
        classes, settings = state["classes"], state["settings"]
        if not (isinstance(classes, list) and all(isinstance(c, str) for c in classes)
                and isinstance(settings, dict) and len(classes) == state["head_spec"]["classes"]):
            raise ValueError("classes or settings")
        encoder = models.encoder_from_spec(state["encoder_spec"])
        head = models.Head(**state["head_spec"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, MemoryError,
            ArithmeticError) as error:
        detail = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise UserError(f"{source}: not a checkpoint of this program ({detail})") from None
    if head.spec["feature_dim"] != encoder.feature_dim:
        raise UserError(f"{source}: its head reads {head.spec['feature_dim']} features and its encoder "
                        f"{encoder.name} gives {encoder.feature_dim}")
    return models.LRCN(encoder, head), classes, settings


def load_trained(model_dir, model_name=None, device="cpu", flag=None):
    """The Trained of a run folder; UserError for a file that is no checkpoint or does not fit."""
    path = checkpoint_path(model_dir, model_name, flag)
    flag = flag or "model_name"
    state = load_file(path, flag)
    model, classes, settings = build(state, f"--{flag} {path}")
    restore(model, state, path, flag)
    run = RunFolder.of(path).path
    return Trained(model.to(device).eval(), classes, settings, path, run, state.get("epoch", 0))


def add_model_flags(parser, several=False):
    """The flags that every script with a trained model shares."""
    parser.add_argument("--model_dir", required=True, metavar="RUN", nargs="+" if several else None,
                        help="run folder of train.py, or its Saved_model_checkpoint")
    parser.add_argument("--model_name", default=None, metavar="FILE",
                        help="checkpoint in it (default: best.pth.tar)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--num_workers", type=cli.count, default=4, help="processes that decode frames")
    parser.add_argument("--batch_size", type=cli.positive_int, default=32,
                        help="accepted for old command lines; the result and the speed do not depend on it")


def add_data_flags(parser):
    parser.add_argument("--sampled_data_path", "--sampled_data_dir", dest="sampled_data_path", metavar="DIR",
                        help="folder that preprocessing_data.py wrote (default: that of the training)")
    parser.add_argument("--ucf_list_dir", metavar="DIR",
                        help="folder of the split lists (default: that of the training)")
    parser.add_argument("--split", choices=["1", "2", "3"], default=None,
                        help="official split (default: that of the training)")
    parser.add_boolean("--feature_cache", default=True,
                       help="keep the features on disk, shared by all scripts")
