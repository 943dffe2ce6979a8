"""What every script with a model needs: a device, a trained run, and the flags that they share.

    device = choose_device("auto")
    trained = load_trained("20261121-110128")       # .model .classes .recipe .rate
"""
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import models
from lrcn import checkpoints
from lrcn.base import cli
from lrcn.base.cli import UserError
from lrcn.base.values import COUNT, POSITIVE, Number
from lrcn.encoding import backbones
from lrcn.encoding.engines import BACKENDS, PRECISIONS
from lrcn.encoding.features import Options
from lrcn.runs import RunFolder, checkpoint_path
from lrcn.training import recipe as recipes
from lrcn.training.recipe import Recipe
from lrcn.video.flow import Flow
from lrcn.video.sampling import Rate

SAMPLING = Number(float, above=1e-6, high=1e6, none=True)


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


# ---------------------------------------------------------------- a trained run

@dataclass
class Trained:
    """A model from a run folder, in eval mode, and what it was trained with."""
    model: models.LRCN
    classes: list
    settings: dict      # the recipe's, and how the clips were sampled
    recipe: Recipe
    checkpoint: Path
    folder: Path
    epoch: int

    @property
    def rate(self):
        """The sampling.Rate of the training clips."""
        return Rate.of(self.settings)

    @property
    def flow(self):
        """The flow.Flow that the encoder sees, with as many fields; None where it sees none."""
        transform = self.model.encoder.transform
        if "flow" not in transform.parts:
            return None
        return replace(Flow.of(self.settings["flow"], "flow"), length=transform.flow_length)


def build(state, source):
    """(LRCN without weights, classes, settings, Recipe) of a checkpoint; UserError for what is none."""
    checkpoints.check(state, source)
    settings = state.get("settings")
    recipe = Recipe.of(settings, source)
    for name in ("FPS", "sampling_rate"):
        fault = SAMPLING.fault(settings.get(name))
        if fault:
            raise UserError(f"{source}: settings: {name}: {fault}")
    if "flow" in recipe.modality.split("+"):
        Flow.of(settings.get("flow"), f"{source}: settings: flow")
    fit_head(state, source)
    encoder = models.encoder_from_spec(state["encoder_spec"])
    head = models.Head(**state["head_spec"])
    if head.spec["feature_dim"] != encoder.feature_dim:
        raise UserError(f"{source}: its head reads {head.spec['feature_dim']} features and its encoder "
                        f"{encoder.name} gives {encoder.feature_dim}")
    return models.LRCN(encoder, head), state["classes"], settings, recipe


def fit_head(state, source):
    """Refuse a head_spec of other sizes than the head in the same file, before any memory is taken."""
    checkpoints.check_weights(state.get("head"), f"{source}, head")
    with torch.device("meta"):
        head = models.Head(**state["head_spec"])
    backbones.check_fit(head, state["head"], f"{source}, head,")


def load_trained(model_dir, model_name=None, device="cpu", flag=None):
    """The Trained of a run folder; UserError for a file that is no checkpoint or does not fit."""
    path = checkpoint_path(model_dir, model_name, flag)
    flag = flag or ("model_name" if model_name else "model_dir")
    state = checkpoints.load_file(path, flag)
    model, classes, settings, recipe = build(state, f"--{flag} {path}")
    checkpoints.restore(model, state, path, flag)
    epoch = state.get("epoch")
    return Trained(model.to(device).eval(), classes, settings, recipe, path, RunFolder.of(path).path,
                   epoch if isinstance(epoch, int) else 0)


def say_disagreement(args, trained):
    """Warn of flags of the training that are not the run's, where there are any."""
    words = recipes.disagreement(args, trained.recipe)
    if words:
        cli.say(f"warning: {trained.folder}: {words}", file=sys.stderr)


# ---------------------------------------------------------------- flags

def add_model_flags(parser, several=False, required=True,
                    batch_size="accepted for old command lines; result and speed do not depend on it"):
    """The flags that every script with a trained model shares. batch_size: what that flag is for."""
    network, machine = parser.group("network"), parser.group("machine")
    network.add_argument("--model_dir", "--checkpoint_model", dest="model_dir", required=required,
                         metavar="RUN", nargs="+" if several else None,
                         help="run folder of train.py, its Saved_model_checkpoint, or a checkpoint file")
    network.add_argument("--model_name", default=None, metavar="FILE",
                         help="checkpoint in it (default: best.pth.tar)")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add_encoder_flags(machine)
    machine.add_argument("--num_workers", type=COUNT, default=4, help="processes that decode frames")
    machine.add_argument("--batch_size", type=POSITIVE, default=32,
                         help=batch_size)


def add_encoder_flags(parser):
    """What runs the encoder, where the training's choice is not the one."""
    parser.add_argument("--encoder_backend", choices=BACKENDS, default=None,
                        help="what runs the encoder (default: as in the training)")
    parser.add_argument("--encoder_precision", choices=PRECISIONS, default=None,
                        help="in which precision (default: as in the training)")


def encoding_options(args, trained, device, **more):
    """features.Options of a script that encodes for a trained model. more: of Options."""
    return Options(device, args.num_workers, trained.recipe.seed,
                   backend=args.encoder_backend or trained.recipe.encoder_backend,
                   precision=args.encoder_precision or trained.recipe.encoder_precision, **more)


def add_data_flags(parser):
    """Where the test clips are, and which of them count."""
    data = parser.group("data")
    data.add_argument("--sampled_data_path", "--sampled_data_dir", dest="sampled_data_path", metavar="DIR",
                      help="folder that preprocessing_data.py wrote (default: that of the training)")
    data.add_argument("--ucf_list_dir", metavar="DIR",
                      help="folder of the split lists (default: that of the training)")
    data.add_argument("--split", choices=["1", "2", "3"], default=None,
                      help="official split (default: that of the training)")
    parser.group("machine").add_boolean("--feature_cache", default=True,
                                        help="keep the features on disk, shared by all scripts")
