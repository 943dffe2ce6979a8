"""ONNX files of export.py: what they hold, and how they are checked and run instead of a run's network. With
encoder.onnx and head.onnx beside model.onnx each frame is encoded once; it alone computes whole windows.
"""
import json
import math
from dataclasses import replace

import numpy as np

from lrcn.base import Lazy, UserError, cli, files
from lrcn.base.values import Choice, Names, Number, Text, check
from lrcn.checkpoints import ENCODER, check_spec
from lrcn.data.frames import Transform
from lrcn.features import onnx
from lrcn.video.flow import Flow

torch = Lazy("torch")
surgery = Lazy("lrcn.features.surgery")

FORMAT, KEY = 1, "lrcn"     # KEY: of the description in an ONNX file; lrcn.json in PyTorch's
PARTS = ("model", "encoder", "head")
LARGEST = 4_000_000_000     # bytes of one window's frames
SAMPLING = Number(float, above=1e-6, high=1e6)
WHAT = {"format": Number(int, low=FORMAT, high=FORMAT), "part": Choice(PARTS), "network": Text(),
        "classes": Names(), "FPS": SAMPLING, "sampling_rate": SAMPLING,
        "num_frames_video": Number(int, low=1, high=100_000)}
TRANSFORM = {name: kind for name, kind in ENCODER.items() if name != "name"}


def layout(part, transform, length, classes, features=None):
    """((name, type, shape without batch) of a part's input, of its output). features: None if unknown."""
    *modalities, high, wide, channels = transform.shape
    frames = (*modalities, channels, high, wide)    # (3, S, S), or (M, 3, S, S), (K, 3, S, S)
    probabilities = ("probabilities", "float32", (classes,))
    return {"model": (("frames", "uint8", (length, *frames)), probabilities),
            "encoder": (("frames", "uint8", frames), ("features", "float32", (features,))),
            "head": (("features", "float32", (length, features)), probabilities)}[part]


def any_length(trained, format="onnx"):
    """Whether a file takes clips of any length: for a run on whole videos, but not with torch.export."""
    return trained.recipe.num_frames_video == "all" and format == "onnx"


def layout_of(trained, part, format="onnx"):
    """The layout of a part of a networks.Trained; its length is "T" if it may be any."""
    encoder = trained.model.encoder
    length = "T" if any_length(trained, format) else trained.length
    return layout(part, encoder.transform, length, len(trained.classes), encoder.feature_dim)


def describe(trained, part, format="onnx"):
    """The description in a file: which part of which network it is, and what is needed to use it."""
    encoder, rate = trained.model.encoder, trained.rate
    entry, output = (f"{name}: {kind} (B, {', '.join(map(str, shape))})"
                     + (f", {encoder.transform.modality} from 0 to 255" if name == "frames" else "")
                     for name, kind, shape in layout_of(trained, part, format))
    return {"format": FORMAT, "part": part, "input": entry, "output": output, "encoder": encoder.name,
            "network": surgery.weights_digest(trained.model), "classes": list(trained.classes),
            "transform": replace(encoder.transform, chunk_stride=trained.chunk[1]).spec(),
            "flow": trained.flow and trained.flow.settings(),
            "FPS": rate.FPS, "sampling_rate": rate.sampling_rate,
            "num_frames_video": trained.length, "background": trained.recipe.background_of(trained.classes),
            "min_probability": trained.model.head.spec["min_probability"]}


class File:
    """An ONNX file of export.py, checked; `about`: its description. UserError: it is no such file."""

    def __init__(self, path, source=None):
        self.source = source = source or f"--model {path}"
        again = "write it again with export.py"
        if onnx.lacking("onnxruntime"):
            raise UserError(f"{source}: onnxruntime is not installed; pip install onnxruntime")
        raw = path.read_bytes()
        if onnx.broken(raw):
            raise UserError(f"{source}: its check sum does not match: the file is damaged; {again}")
        try:
            loops = onnx.may_loop(raw)
            self._run = None if loops else onnx.runner(raw, torch.get_num_threads(), limited=True)
        except Exception:   # there are as many ways to fail as damages
            raise UserError(f"{source}: onnxruntime cannot load it: it is cut off, damaged, or not an ONNX "
                            f"file; {again}") from None
        if loops:
            raise UserError(f"{source}: its network has loops or branches (Loop, If, Scan), which may never "
                            f"end and export.py does not write; take another file")
        session = self._run.session
        try:
            self.about = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
        except (KeyError, ValueError, RecursionError):
            raise UserError(f"{source}: it does not hold its classes, transform and frame rate; "
                            f"{again}") from None
        check(self.about, WHAT, source)
        later = {"background": Number(int, low=0, high=len(self.about["classes"]) - 1, none=True),
                 "min_probability": Number(float, low=0, high=1, none=True)}
        self.about = {**dict.fromkeys(later), **self.about}     # of files that were written before
        check(self.about, later, source)
        self.part, self.length = self.about["part"], self.about["num_frames_video"]
        values = self.about.get("transform")
        check_spec(values, TRANSFORM, f"{source}: transform")
        self.transform = Transform(**{name: tuple(value) if isinstance(value, list) else value
                                      for name, value in values.items()})
        self.flow = Flow.of(self.about.get("flow"), f"{source}: flow") \
            if "flow" in self.transform.parts else None
        self.takes, self.gives = ([part for end in side for part in (end.type, *end.shape)]
                                  for side in (session.get_inputs(), session.get_outputs()))
        self.any_length = self.part != "encoder" and any(isinstance(side, str) for side in self.takes[2:3])
        if self.length * math.prod(self.transform.shape) > LARGEST:
            raise UserError(f"{source}: one window of {self.length} frames takes more than "
                            f"{files.gigabytes(LARGEST)}; give a network of fewer or smaller frames")
        sides = layout(self.part, self.transform, self.length, len(self.about["classes"]))
        for there, (_, kind, shape) in zip((self.takes, self.gives), sides, strict=True):
            kind = "tensor(float)" if kind == "float32" else "tensor(uint8)"
            # a batch of any size, perhaps clips of any length; None: any number
            if not (there[:1] == [kind] and len(there) == 2 + len(shape) and isinstance(there[1], str)
                    and all(isinstance(a, int) if b is None else a == b or isinstance(a, str)
                            for a, b in zip(there[2:], shape, strict=True))):
                raise UserError(f"{source}: its network has other inputs or outputs than the file says; "
                                f"{again}")

    def run(self, values):
        """numpy (B, ...) -> numpy (B, ...); UserError: the network cannot be computed."""
        try:
            return self._run(values)
        except Exception as error:      # of onnxruntime, which has one for every kind
            raise UserError(f"{self.source}: its network cannot be computed in "
                            f"{files.gigabytes(onnx.most_memory())} of memory ({str(error)[:200]!r}); write "
                            f"it anew with export.py") from None


def read_exported(path):
    """(File of a model.onnx, encoder, head as a Recogniser takes them); UserError: no such file."""
    path = cli.file("model", path, "give a model.onnx that export.py wrote")
    whole = File(path)
    if whole.part != "model":
        raise UserError(f"--model {path}: only the {whole.part}; give the model.onnx beside it")
    beside = [File(file) for part in ("encoder", "head")
              if (file := path.with_name(f"{part}{path.suffix}")).is_file()]
    halves = {file.part: file for file in beside if file.about["network"] == whole.about["network"]}
    encoder, head = halves.get("encoder"), halves.get("head")
    if not (encoder and head and encoder.gives[-1] == head.takes[-1]):
        cli.say("encoder.onnx and head.onnx of this network are not beside it: every window is computed "
                "whole, which takes longer")
        encoder, head = None, whole

    def features(frames):
        """uint8 (n, [M or K,] S, S, C) -> (n, D); for a network that takes whole windows the pictures."""
        frames = frames.movedim(-1, -3)
        return torch.from_numpy(encoder.run(frames.numpy())) if encoder else frames
    features.transform = whole.transform

    def probabilities(windows):
        values = head.run(windows.numpy())
        if not (np.all(values >= 0) and np.all(abs(values.sum(-1) - 1) < 1e-3)):      # nan fails too
            raise UserError(f"--model {path}: the answers of this model are not probabilities (such as "
                            f"{np.ravel(values)[0]:.4g}): it is damaged, or not of export.py")
        return torch.from_numpy(values)
    return whole, features, probabilities
