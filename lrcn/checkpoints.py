"""Checkpoints: state dicts and plain containers only, read safely, written whole or not at all.

ENCODER and HEAD here, and training's Recipe, say which values a checkpoint may have; `networks.build` makes
the model from it.
"""
import warnings
import zipfile
from pathlib import Path

from lrcn.base import Lazy, UserError, cli, files
from lrcn.base.values import Choice, Either, Names, Number, Numbers, Switch, Text, shown
from lrcn.base.values import check as check_values
from lrcn.data.chunks import LONGEST_CHUNK
from lrcn.data.frames import AUGMENT, FITS, INTERPOLATION, MODALITIES
from lrcn.runs import RunFolder
from lrcn.video.flow import LONGEST

torch = Lazy("torch")

FORMAT = 1
NUMBERS = {f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16",
                                        "int32", "int64", "bool")}
PROJECTIONS = ("norm", "linear", "batchnorm", "none")
RNNS, ACTIVATIONS = ("lstm", "gru"), ("relu", "selu")
READOUTS = ("last", "final", "mean", "sum", "max", "attention", "none")
SIDE, WIDTH = Number(int, low=1, high=4096), Number(int, low=1, high=1_000_000)
CHANNELS = Numbers(3, Number(float, low=-1e6, high=1e6))
RESIZED, CHUNK = Number(int, low=1, high=8192), Number(int, low=1, high=LONGEST_CHUNK)
ENCODER = {"name": Text(), "resize": Either((RESIZED, Numbers(2, RESIZED))), "crop": SIDE, "mean": CHANNELS,
           "std": Numbers(3, Number(float, above=0, high=1e6)), "interpolation": Choice(tuple(INTERPOLATION)),
           "modality": Choice(MODALITIES), "flow_length": Number(int, low=1, high=LONGEST),
           "fit": Choice(FITS), "augment": Choice(tuple(AUGMENT)), "chunk": CHUNK, "chunk_stride": CHUNK,
           "rate": Number(float, above=0, high=1000)}
HEAD = {"feature_dim": WIDTH, "classes": WIDTH, "latent_dim": WIDTH, "hidden_size": WIDTH,
        "lstm_layers": Number(int, low=1, high=100), "bidirectional": Switch(), "readout": Choice(READOUTS),
        "dropout": Number(float, low=0, below=1), "per_step": Switch(), "projection": Choice(PROJECTIONS),
        "classifier_hidden": Number(int, low=1, high=1_000_000, none=True), "rnn": Choice(RNNS),
        "classifier_activation": Choice(ACTIVATIONS),
        "classifier_dropout": Number(float, low=0, below=1, none=True),
        "temperature": Number(float, low=0.01, high=100),
        "min_probability": Number(float, low=0, high=1, none=True)}
# What a checkpoint may leave out: the usual value of an encoder's, and an older head's
UNSAID = ("flow_length", "fit", "augment", "chunk", "chunk_stride", "rate", "temperature", "min_probability")
MOST_STREAMS = 16


def load_file(path, flag):
    """The dict that torch.save wrote, of tensors and plain containers, on the CPU. UserError, naming --flag:
    no such file, truncated or damaged, not a checkpoint, a pickle that wants to run code, an archive that
    unpacks to more than its size, a tensor that `check_tensors` refuses."""
    path = cli.file(flag, path, "give the path of a checkpoint file")
    source = f"--{flag} {path}"
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                # torch stores without compression
                unpacked = sum(entry.file_size for entry in archive.infolist())
                if unpacked > path.stat().st_size:
                    raise UserError(f"{source}: a compressed archive that unpacks to "
                                    f"{files.gigabytes(unpacked)}, not a checkpoint; it was not read")
                if archive.testzip():   # torch.load compares no check sums
                    raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # about sparse tensors, which are refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch.load raises almost anything for a broken file
        what = ("it holds more than tensors and plain containers, and was refused unread; if you trust it, "
                "save its weights alone: torch.save(torch.load(FILE, weights_only=False).state_dict(), NEW)"
                if "GLOBAL" in str(error) else      # the unpickler's word for a function or a class
                "not a whole checkpoint: cut off, damaged, or something else")
        raise UserError(f"{source}: {what}; take another file") from None
    if not isinstance(state, dict):
        raise UserError(f"{source}: it holds a {type(state).__name__}, not a checkpoint")
    check_tensors(state, source)
    return state


def check_tensors(state, source):
    """Refuse nested dicts, lists and tuples with a tensor that is not dense, on the CPU and of NUMBERS, or of
    which the file holds fewer than its shape says, before a value is read."""
    left, seen = [("", state)], set()
    while left:
        name, value = left.pop()
        if isinstance(value, torch.Tensor):
            kind, fault = (value.is_nested, value.layout, value.device.type, value.is_quantized), None
            if kind != (False, torch.strided, "cpu", False) or str(value.dtype) not in NUMBERS:
                fault = (f"a tensor that no checkpoint of this program has ({'nested, ' * value.is_nested}"
                         f"{value.layout}, {value.dtype}, {value.device})")
            elif value.numel() * value.element_size() > value.untyped_storage().nbytes():
                fault = f"a tensor of {value.numel()} numbers, of which the file holds fewer"
            if fault:
                raise UserError(f"{source}: {name[1:]} is {fault}; take another file")
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(f"{name[:200]}.{key[:80] if isinstance(key, str) else shown(key)}", one)
                     for key, one in inner]


def save_file(path, state):
    """torch.save, whole or not at all."""
    with files.atomic(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:   # torch's archive writer on a full disk
            if any(word in str(error) for word in ("PytorchStreamWriter", "inline_container", "iostream")):
                raise OSError(28, "no space left on device", str(path)) from None
            raise


def describe(model, classes, settings):
    """The part of a checkpoint from which `networks.build` makes the model again."""
    return {"format": FORMAT, "encoder_spec": model.encoder.spec(), "head_spec": model.head.spec,
            "classes": list(classes), "settings": settings}


def check(state, source):
    """UserError that names the first wrong value of a description, which `describe` would not give."""
    if state.get("format") != FORMAT or isinstance(state["format"], bool):
        version = state["format"] if type(state.get("format")) is int else "unknown"
        raise UserError(f"{source}: not a checkpoint of this program, or of another version of it (format "
                        f"{version}, and this program reads {FORMAT}); convert.py takes over those of two "
                        "others")
    check_values(state, {"classes": Names()}, source)
    encoder, classes = state.get("encoder_spec"), len(state["classes"])
    if isinstance(encoder, dict) and "streams" in encoder:
        part, streams, heads = f"{source}: encoder_spec", encoder["streams"], encoder.get("heads")
        if not (isinstance(streams, list) and isinstance(heads, list) and set(encoder) == {"streams", "heads"}
                and len(streams) == len(heads) and 2 <= len(streams) <= MOST_STREAMS):
            raise UserError(f"{part}: expected 2 to {MOST_STREAMS} streams, and a head for each")
        for i, (stream, head) in enumerate(zip(streams, heads, strict=True), 1):
            check_spec(stream, ENCODER, f"{part}: stream {i}")
            check_spec(head, HEAD, f"{part}: head of stream {i}")
            if head["classes"] != classes:
                raise UserError(f"{part}: head of stream {i}: {head['classes']} classes, expected {classes}")
    else:
        check_spec(encoder, ENCODER, f"{source}: encoder_spec")
    check_spec(state.get("head_spec"), HEAD, f"{source}: head_spec")
    if classes != state["head_spec"]["classes"]:
        raise UserError(f"{source}: {classes} class names for a head of "
                        f"{state['head_spec']['classes']} classes")


def check_spec(spec, table, source):
    """UserError for a spec whose names or values are not those of the table, ENCODER or HEAD."""
    given = spec if isinstance(spec, dict) else ()
    check_values(spec, {k: kind for k, kind in table.items() if k in given or k not in UNSAID}, source)
    extra = [key for key in spec if key not in table]
    if extra:
        raise UserError(f"{source}: unknown entry {extra[0]!r:.60}")


def check_weights(weights, source):
    """UserError for anything but a state dict. Its shapes and values: backbones.check_fit."""
    if not isinstance(weights, dict) or not weights:
        raise UserError(f"{source}: not a checkpoint of this program (no weights in it)")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise UserError(f"{source}: the weights {shown(name)} are not a tensor")


def encoder_weights(state, path, flag):
    """The state dict of a checkpoint's encoder, which may lie in a file beside it where it is frozen."""
    source, encoder = f"--{flag} {path}", state.get("encoder")
    if encoder is None:
        sibling = Path(path).with_name(RunFolder("").checkpoint("encoder").name)
        if not sibling.is_file():
            raise UserError(f"{source}: the frozen encoder's file {sibling.name} is missing beside it; "
                            f"copy it along, or take best.pth.tar, which holds everything")
        encoder = load_file(sibling, flag).get("encoder", {})
    check_weights(encoder, f"{source}, encoder")
    return encoder


def take_over(model, other):
    """Copy another model's encoder and projection into `model`, as far as they fit; say what was taken."""
    theirs = {f"encoder.{k}": v for k, v in other.encoder.state_dict().items()}
    theirs |= {f"head.{k}": v for k, v in other.head.state_dict().items() if k.startswith("projection.")}
    own = model.state_dict()
    taken = {k: v for k, v in theirs.items() if k in own and own[k].shape == v.shape}
    for key, value in taken.items():
        own[key].copy_(value)
    left, fresh = [k for k in theirs if k not in taken], {k.rsplit(".", 1)[0] for k in own if k not in taken}
    cli.say(f"--init_from: {len(taken)} tensors taken over (encoder and projection)")
    cli.say(f"--init_from: not used, of another network or shape: {', '.join(left) or 'none'}")
    cli.say(f"--init_from: newly initialised: {', '.join(sorted(fresh)) or 'none'}")


def count_parameters(model):
    return sum(p.numel() for p in model.parameters())
