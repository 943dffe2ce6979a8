"""Run folders, checkpoints, seeds, devices and ranks.

A checkpoint holds state dicts and plain containers only, and is read with weights_only=True: a
stranger's file cannot run code. It says all that is needed to build the model again.
"""

import platform
import sys
import time
from pathlib import Path

import torch

from lrcn.base import cli
from lrcn.base.cli import UserError

CHECKPOINTS = "Saved_model_checkpoint"


ENCODER_FILE = "encoder.pth.tar"


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
