"""The encoder at its machine's speed: which engine runs it, in which precision, and that it agrees.

    engine, *others = candidates("auto", "auto", device)      # fastest first, PyTorch in float32 last
    encode = FrameEncoder(encoder, device, engine=engine)      # uint8 (N, S, S, 3) -> features (N, D)
    fault = encode.fault(frames)                               # None, or why it does not serve

OpenVINO and onnxruntime are optional packages for CPUs. What they or bfloat16 say of real frames is compared
with PyTorch in float32 before anything of theirs is used: the error of a feature is measured against how
much features differ from frame to frame, because that is what a head tells classes by.
"""
import concurrent.futures
import contextlib
import functools
import importlib.metadata
import importlib.util
import math
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lrcn.base import cli
from lrcn.base.cli import UserError
from lrcn.features import onnx, surgery

BACKENDS, PRECISIONS = ("auto", "torch", "openvino", "onnxruntime"), ("auto", "float32", "bfloat16")
NAMES = {"torch": "PyTorch", "openvino": "OpenVINO", "onnxruntime": "onnxruntime"}
# Frames the encoder takes at once: what fills the device, whatever --batch_size says.
BLOCK = {"cpu": 8, "mps": 64, "cuda": 256}
PART, STREAMS = 4, 16   # frames that one of OpenVINO's streams takes, and how many of these there are at most
# The largest error with which an engine serves, of nine in ten frames and of each modality: a share of the
# features' deviation from their mean. On real clips bfloat16 has 0.10 of frames, where it moves a head's
# probabilities by 0.013 on average, 0.15 of differences (0.027) and 0.44 of flow (0.143, up to 0.36).
AGREEMENT = {"float32": 0.01, "bfloat16": 0.25}
JUDGED, QUANTILE = 32, 0.9      # frames that an engine is judged by
LEAST = 0.05    # the deviation is taken for this share of a feature's length at least: frames may be alike
RULE = 2        # by which engines are judged; what another one said of an engine counts no more


@dataclass(frozen=True)
class Engine:
    """What runs an encoder."""
    backend: str = "torch"
    precision: str = "float32"

    @property
    def version(self):
        return importlib.metadata.version(self.backend)

    @property
    def judged_by(self):
        """What a judgement of this engine depends on beside the encoder and its frames."""
        return f"rule {RULE}, {self.backend} {self.version}, torch {torch.__version__}"

    def __str__(self):
        return f"{NAMES[self.backend]} {self.version.partition('+')[0]} in {self.precision}"


@functools.cache
def cpu_has_bfloat16():
    """Whether this CPU multiplies bfloat16 in hardware, as Linux tells."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def installed(backend):
    return importlib.util.find_spec(backend) is not None


def candidates(backend, precision, device):
    """[Engine] that may run an encoder on a device, the fastest first. UserError: there is none."""
    if device.type != "cpu":
        if backend not in ("auto", "torch"):
            raise UserError(f"--encoder_backend {backend}: it runs on the CPU, and --device is {device}; "
                            f"take torch, or --device cpu")
        if precision != "auto":
            return [Engine("torch", precision)]
        return [Engine("torch", "bfloat16"), Engine()] if device.type == "cuda" else [Engine()]
    if backend not in ("auto", "torch") and not installed(backend):
        raise UserError(f"--encoder_backend {backend}: it is not installed; pip install {backend}, or "
                        f"take torch")
    if (backend, precision) == ("onnxruntime", "bfloat16"):
        raise UserError("--encoder_precision bfloat16: onnxruntime has it on no CPU; take openvino or torch")
    if (backend, precision) == ("torch", "auto"):   # asked for by name, it is the plain one
        return [Engine()]
    if precision == "auto":
        precision = "bfloat16" if cpu_has_bfloat16() and backend != "onnxruntime" else "float32"
        last = [Engine()] if backend == "auto" else [Engine(backend, "float32")]
    else:
        last = [Engine("torch", precision)] if backend == "auto" else []
    order = (["openvino", "torch"] if precision == "bfloat16" else ["onnxruntime", "openvino", "torch"])
    found = [Engine(b, precision) for b in order if backend == b or backend == "auto" and installed(b)]
    return [*found, *(e for e in last if e not in found)]


class FrameEncoder:
    """A frozen encoder made ready for a device: uint8 (N, [M,] S, S, C) -> features (N, ...), float.

    Channels last, batch norm folded. engine: an Engine; PyTorch in float32, on CUDA in bfloat16, when
    there is none. A RuntimeError of an engine that cannot take the network leaves __init__ as it is.
    """

    def __init__(self, encoder, device, compile=False, engine=None):
        self.device, self.engine = device, engine or candidates("torch", "auto", device)[0]
        self.transform = encoder.transform
        self.encoder = surgery.for_inference(encoder.to(device))
        self.runner = AtOnce(self._torch)
        if self.engine.backend != "torch":
            self.runner = RUNNERS[self.engine.backend](self.encoder, self.engine.precision)
        elif compile:
            self.encoder = torch.compile(self.encoder)

    def __call__(self, frames):
        return self.runner.start(frames)()

    def each(self, batches):
        """The features of batches of frames, in their order, as many begun at once as fill the engine."""
        begun = deque()
        for frames in batches:
            begun.append(self.runner.start(frames))
            if len(begun) > self.runner.ahead:
                yield begun.popleft()()
        while begun:
            yield begun.popleft()()

    @torch.inference_mode()
    def _torch(self, frames, precision=None):
        frames = frames.to(self.device, non_blocking=True).movedim(-1, -3)  # channels last as it is
        half = (precision or self.engine.precision) == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self.encoder(frames)

    def fault(self, frames):
        """None where the features of frames agree with PyTorch's in float32, else how they differ.

        frames: some that differ, as many as JUDGED where there are so many.
        """
        if self.engine == Engine():
            return None
        blocks = frames.split(BLOCK[self.device.type])
        ours, theirs = (torch.cat([run(block).float().flatten(1) for block in blocks]).unflatten(
            1, (self.transform.modalities, -1)) for run in (self, lambda x: self._torch(x, "float32")))
        deviation = torch.maximum((theirs - theirs.mean(0)).norm(dim=2).square().mean(0).sqrt(),
                                  theirs.norm(dim=2).mean(0) * LEAST)
        shares = ((ours - theirs).norm(dim=2) / deviation).quantile(QUANTILE, 0)
        bound = AGREEMENT[self.engine.precision]
        if (shares <= bound).all():
            return None
        share, name = max(zip(shares.tolist(), self.transform.parts, strict=True))
        return (f"on {name} its features are off PyTorch's in float32 by {share:.2g} of what they differ "
                f"from frame to frame, and {bound} is the limit")


def kept(encoder):
    """[[backend, precision, device] or None] of each stream of an encoder: what ran it here, else what ran
    it in the run's training."""
    return [getattr(one, "ran_on", getattr(one, "kept_engine", None))
            for one in getattr(encoder, "streams", [encoder])]


def keep(encoder, said, source):
    """Give an encoder back what `kept` said of it, or None; UserError for what is none."""
    streams = getattr(encoder, "streams", [encoder])
    words = (BACKENDS[1:], PRECISIONS[1:], tuple(BLOCK))
    if said is not None and not (isinstance(said, list) and len(said) == len(streams) and all(
            one is None or isinstance(one, list) and len(one) == 3
            and all(word in known for word, known in zip(one, words, strict=True)) for one in said)):
        raise UserError(f"{source}: settings: engines: {said!r:.60} are not backend, precision and device")
    for one, own in zip(streams, said or [None] * len(streams), strict=True):
        one.kept_engine = own


def engines_of(encoder, backend, precision, device):
    """candidates() for an encoder: what ran it in the run's training is first, where the flags allow it."""
    found = candidates(backend, precision, device)
    own = getattr(encoder, "kept_engine", None)
    if not own or backend not in ("auto", own[0]) or precision not in ("auto", own[1]):
        return found
    engine = Engine(*own[:2])
    if device.type == own[2] and installed(engine.backend):
        return [engine, *(e for e in found if e != engine)]
    if own not in _said:
        _said.append(own)
        cli.say(f"the run was trained with {NAMES[own[0]]} in {own[1]} on {own[2]}, which is not available "
                f"here ({device.type}): {found[0]} comes first")
    return found


_said = []


def attempt(encoder, device, engine, frames, compile=False):
    """(FrameEncoder, what it says of the first block of frames, None) of an engine that serves, else (None,
    None, why not)."""
    try:
        ready = FrameEncoder(encoder, device, compile, engine)
        values, fault = ready(frames[:BLOCK[device.type]]), ready.fault(frames)
    except Exception as error:  # there are as many ways to fail as engines
        if engine == Engine():
            raise
        fault = " ".join(str(error).split())[:200] or type(error).__name__
    return (None, None, fault) if fault else (ready, values, None)


def clouds(transform, number):
    """Coloured clouds, smooth as photographs are, as an encoder takes them: uint8 (number, [M,] S, S, C)."""
    *modalities, side, _, channels = transform.shape
    coarse = torch.rand(number * math.prod(modalities), channels, 8, 8,
                        generator=torch.Generator().manual_seed(0)) * 255
    fine = nn.functional.interpolate(coarse, size=[side] * 2, mode="bicubic")
    return fine.clamp(0, 255).byte().movedim(1, -1).reshape(number, *transform.shape)


def fastest(encoder, device, backend="auto", precision="auto", compile=False):
    """The FrameEncoder of the fastest engine that serves: the one that a run was trained with, else compared
    with PyTorch on coloured clouds, which tell of frames alone: other modalities get float32 where the
    precision is left open."""
    frames, own = clouds(encoder.transform, JUDGED), getattr(encoder, "kept_engine", None)
    for engine in engines_of(encoder, backend, precision, device):
        if own == [engine.backend, engine.precision, device.type] and engine.precision == "bfloat16":
            with contextlib.suppress(Exception):    # judged on real frames, in training
                ready = FrameEncoder(encoder, device, compile, engine)
                ready(frames[:BLOCK["cpu"]])
                return ready
        if (engine.precision, precision, encoder.transform.modality != "rgb") == ("bfloat16", "auto", True):
            continue
        ready, _, fault = attempt(encoder, device, engine, frames, compile)
        if ready:
            return ready
        cli.say(not_used(engine, fault))
    raise nothing_serves(backend)


def not_used(engine, fault):
    return f"{engine} is not used: {fault}"


def nothing_serves(backend):
    return UserError(f"--encoder_backend {backend}: it does not serve for this encoder; take auto or torch")


class _ChannelsLast(nn.Module):
    """The encoder on frames as they lie in memory, (N, [M,] S, S, C): the engine turns them around."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, frames):
        axes = [*range(frames.dim() - 3), *(frames.dim() + i for i in (-1, -3, -2))]
        return self.encoder(frames.permute(axes))


def _example(encoder):
    return torch.zeros(2, *encoder.transform.shape, dtype=torch.uint8)


class AtOnce:
    """What runs a batch in one go, run: frames -> features.

    start(frames) begins, and what it gives back is called for the features. ahead: how many batches the
    engine wants to have begun before the first one is asked for; a device computes one while another is
    fetched.
    """
    ahead = 1

    def __init__(self, run):
        self.run = run

    def start(self, frames):
        values = self.run(frames)
        return lambda: values


class OpenVINO:
    """An encoder in OpenVINO: batches in parts, as many at once as there are threads, each of which runs the
    network by itself. They wait for one another less than threads that share one network do, most of all
    where decoding needs the same cores."""

    def __init__(self, encoder, precision):
        import openvino
        self.core, self.shape = openvino.Core(), encoder.transform.shape
        self.threads = torch.get_num_threads()
        with torch.no_grad(), onnx.without_words():
            trace = torch.jit.trace(_ChannelsLast(encoder), _example(encoder), check_trace=False)
            self.model = openvino.convert_model(trace, example_input=_example(encoder))
        self.precision = {"float32": "f32", "bfloat16": "bf16"}[precision]
        self.streams = min(self.threads, STREAMS)
        self.pool = concurrent.futures.ThreadPoolExecutor(self.streams)
        self.ahead = 1 + self.streams * PART // BLOCK["cpu"]
        self.own, self.compiled, self.compiling = threading.local(), {}, threading.Lock()

    def start(self, frames):
        frames = np.ascontiguousarray(frames.numpy())
        whole = len(frames) // PART * PART      # the rest, of a camera, one by one
        parts = [frames[i:i + PART] for i in range(0, whole, PART)]
        begun = [self.pool.submit(self._infer, part) for part in
                 (*parts, *(frames[i:i + 1] for i in range(whole, len(frames))))]
        return lambda: torch.from_numpy(np.concatenate([part.result() for part in begun]))

    def _infer(self, frames):
        size = len(frames)
        if not hasattr(self.own, "requests"):
            self.own.requests = {}
        if size not in self.own.requests:
            with self.compiling:
                self.own.requests[size] = self._compile(size).create_infer_request()
        return self.own.requests[size].infer([frames], share_inputs=True)[0].copy()

    def _compile(self, size):
        """The network for one shape of batch, with which it is half as fast again as for any."""
        if size not in self.compiled:
            self.model.reshape([size, *self.shape])
            streams = {"PERFORMANCE_HINT": "LATENCY"} if size < PART else \
                {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": self.streams}
            self.compiled[size] = self.core.compile_model(self.model, "CPU", {
                "INFERENCE_PRECISION_HINT": self.precision, "INFERENCE_NUM_THREADS": self.threads, **streams})
        return self.compiled[size]


def _onnxruntime(encoder, precision):
    file = onnx.traced(_ChannelsLast(encoder), _example(encoder), "frames")
    run = onnx.runner(file, torch.get_num_threads())
    return AtOnce(lambda frames: torch.from_numpy(run(frames.numpy())))


RUNNERS = {"openvino": OpenVINO, "onnxruntime": _onnxruntime}
