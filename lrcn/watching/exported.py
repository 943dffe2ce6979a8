"""A run in a file of another kind: what the file says of itself, and such a file in the place of a run.

    said = describe(trained, "model")           # plain containers, which export.py puts into the file
    there = Exported("RUN/export/model.onnx")   # .classes .rate .transform .length
    slider = Slider(there.network())            # on onnxruntime

Where encoder.onnx and head.onnx of the same network lie beside model.onnx, each frame is encoded once;
model.onnx alone computes every window whole.
"""
import json
import math
from dataclasses import asdict

import numpy as np
import torch

from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.base.values import Choice, Names, Number, Text
from lrcn.base.values import check as check_values
from lrcn.checkpoints import ENCODER, LATER
from lrcn.data.frames import Transform
from lrcn.features import onnx, surgery
from lrcn.features.engines import BLOCK
from lrcn.runs import RunFolder
from lrcn.video.flow import Flow
from lrcn.video.sampling import Rate
from lrcn.watching.sliding import Network

FORMAT, KEY = 1, "lrcn"     # the key under which an ONNX file keeps it; lrcn.json in PyTorch's
PARTS = ("model", "encoder", "head")
LAYOUTS = {
    "model": ("frames: uint8 (B, {T}, {shape}), {modality} from 0 to 255", "probabilities: float32 (B, {C})"),
    "encoder": ("frames: uint8 (B, {shape}), {modality} from 0 to 255", "features: float32 (B, {D})"),
    "head": ("features: float32 (B, {T}, {D})", "probabilities: float32 (B, {C})")}
LARGEST = 4_000_000_000     # bytes of one window's frames
SAMPLING = Number(float, above=1e-6, high=1e6)
WHAT = {"format": Number(int, low=FORMAT, high=FORMAT), "part": Choice(PARTS), "network": Text(),
        "classes": Names(), "FPS": SAMPLING, "sampling_rate": SAMPLING,
        "num_frames_video": Number(int, low=1, high=100_000)}
TRANSFORM = {name: kind for name, kind in ENCODER.items() if name != "name"}


def describe(trained, part):
    """What a file says of itself: which part of which network it is, and all that one needs to use it."""
    encoder, rate = trained.model.encoder, trained.rate
    words = {"T": trained.settings["num_frames_video"], "C": len(trained.classes), "D": encoder.feature_dim,
             "shape": ", ".join(map(str, picture_shape(encoder.transform))),
             "modality": encoder.transform.modality}
    entry, output = (layout.format(**words) for layout in LAYOUTS[part])
    return {"format": FORMAT, "part": part, "input": entry, "output": output, "encoder": encoder.name,
            "network": surgery.weights_digest(trained.model), "classes": list(trained.classes),
            "transform": asdict(encoder.transform), "flow": trained.flow and trained.flow.settings(),
            "FPS": rate.FPS, "sampling_rate": rate.sampling_rate, "num_frames_video": words["T"]}


def picture_shape(transform):
    """One frame's input, channels first: (3, S, S), or (M, 3, S, S) for M > 1 modalities."""
    *modalities, high, wide, channels = transform.shape
    return (*modalities, channels, high, wide)


class _File:
    """An ONNX file of export.py, checked; `said` is what `describe` put into it."""

    def __init__(self, path):
        source = f"--model {path}"
        if onnx.lacking("onnxruntime"):
            raise UserError(f"{source}: onnxruntime is not installed; pip install onnxruntime")
        raw = path.read_bytes()
        if onnx.broken(raw):
            raise UserError(f"{source}: its digest is not that of its content: the file is damaged; write it "
                            f"anew with export.py")
        try:
            loops = onnx.may_loop(raw)
            self.session = None if loops else onnx.session(raw, torch.get_num_threads(), limited=True)
        except Exception:   # there are as many ways to fail as damages
            raise UserError(f"{source}: onnxruntime cannot load it: it is cut off, damaged, or no ONNX "
                            f"file; write it anew with export.py") from None
        if loops:
            raise UserError(f"{source}: its network has loops or branches (Loop, If, Scan), which may never "
                            f"end and export.py does not write; take another file")
        try:
            self.said = json.loads(self.session.get_modelmeta().custom_metadata_map[KEY])
        except (KeyError, ValueError, RecursionError):
            raise UserError(f"{source}: it does not say which classes, transform and rate it has, as files "
                            f"of export.py do; write it with that") from None
        self._check(source)
        self.source, self._run = source, onnx.running(self.session)

    def run(self, values):
        """numpy (B, ...) -> numpy (B, ...); UserError where the network cannot be computed."""
        try:
            return self._run(values)
        except Exception as error:      # of onnxruntime, which has one for every kind
            raise UserError(f"{self.source}: its network cannot be computed in "
                            f"{files.gigabytes(onnx.most_memory())} of memory ({str(error)[:200]!r}); write "
                            f"it anew with export.py") from None

    def _check(self, source):
        said = self.said
        check_values(said, WHAT, source)
        self.transform = _transform(said.get("transform"), f"{source}: transform")
        self.flow = Flow.of(said.get("flow"), f"{source}: flow") if "flow" in self.transform.parts else None
        frames, time = picture_shape(self.transform), (said["num_frames_video"],)
        if math.prod((*time, *frames)) > LARGEST:
            raise UserError(f"{source}: one window of {time[0]} frames takes more than "
                            f"{files.gigabytes(LARGEST)}; give a network of fewer or smaller frames")
        classes = (len(said["classes"]),)
        entry, output = {"model": ((*time, *frames), classes), "encoder": (frames, (None,)),
                         "head": ((*time, None), classes)}[said["part"]]
        kind = "tensor(float)" if said["part"] == "head" else "tensor(uint8)"
        ends = self.session.get_inputs(), self.session.get_outputs()
        self.takes, self.gives = ([word for end in side for word in (end.type, *end.shape)] for side in ends)
        if not (_fits(self.takes, kind, entry) and _fits(self.gives, "tensor(float)", output)):
            raise UserError(f"{source}: its network does not take and give what the file says of itself; "
                            f"write it anew with export.py")


def _transform(said, source):
    """The Transform of what a file says, checked."""
    check_values(said, TRANSFORM, source)
    later = {name: kind for name, kind in LATER["encoder_spec"].items() if name in said}
    check_values(said, later, source)
    return Transform(**{name: tuple(said[name]) if isinstance(said[name], list) else said[name]
                        for name in (*TRANSFORM, *later)})


def _fits(found, kind, shape):
    """Whether [type, any batch, *shape] was found; None: any number."""
    return found[:1] == [kind] and len(found) == 2 + len(shape) and isinstance(found[1], str) and all(
        isinstance(a, int) if b is None else a == b for a, b in zip(found[2:], shape, strict=True))


class Exported:
    """A model.onnx of export.py, with what test_on_video.py needs to know. UserError: no such file."""

    def __init__(self, path):
        self.path = cli.file("model", path, "give a model.onnx that export.py wrote")
        self.folder = RunFolder.of(self.path).path
        self.whole = _File(self.path)
        self.transform, said = self.whole.transform, self.whole.said
        if said["part"] != "model":
            raise UserError(f"--model {path}: the {said['part']} alone; give the model.onnx beside it")
        self.classes, self.length = said["classes"], said["num_frames_video"]
        self.rate = Rate(said["FPS"], said["sampling_rate"])

    def _beside(self, part):
        """The encoder or head of the same network, where it lies beside the model."""
        path = self.path.with_name(f"{part}{self.path.suffix}")
        there = _File(path) if path.is_file() else None
        same = there and (there.said["part"], there.said["network"]) == (part, self.whole.said["network"])
        return there if same else None

    def network(self):
        """The sliding.Network of the file."""
        encoder, head = self._beside("encoder"), self._beside("head")
        if encoder and head and encoder.gives[-1] == head.takes[-1]:
            encode = _Encoder(encoder)
        else:
            cli.say("encoder.onnx and head.onnx of this network are not beside it: every window is computed "
                    "whole, each frame in as many windows as hold it")
            encode, head = _Pixels(self.transform), self.whole
        return Network([encode], lambda windows: self._probabilities(head.run(windows.numpy())), self.length,
                       len(self.classes), max(BLOCK["cpu"], self.length), self.whole.flow)

    def _probabilities(self, shares):
        if not (np.all(shares >= 0) and np.all(abs(shares.sum(-1) - 1) < 1e-3)):      # nan fails too
            raise UserError(f"--model {self.path}: what this model says are no probabilities (such as "
                            f"{np.ravel(shares)[0]:.4g}): it is damaged, or not of export.py")
        return torch.from_numpy(shares)


class _Encoder:
    """Frames uint8 (n, [M,] S, S, C) -> features (n, D), as an engines.FrameEncoder does it."""

    def __init__(self, file):
        self.file, self.transform = file, file.transform

    def __call__(self, frames):
        return torch.from_numpy(self.file.run(frames.movedim(-1, -3).numpy()))


class _Pixels:
    """In the place of an encoder, for a network that takes whole windows: the frames themselves."""

    def __init__(self, transform):
        self.transform = transform

    def __call__(self, frames):
        return frames.movedim(-1, -3)
