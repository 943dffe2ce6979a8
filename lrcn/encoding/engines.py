"""The encoder at its machine's speed: which engine runs it, in which precision, and that it agrees.

    engine, *others = candidates("auto", "auto", device)      # fastest first, PyTorch in float32 last
    encode = FrameEncoder(encoder, device, engine=engine)      # uint8 (N, S, S, 3) -> features (N, D)
    fault = encode.fault(frames)                               # None, or why it does not serve

OpenVINO and onnxruntime are optional packages for CPUs. What they or bfloat16 say of the first real
frames is compared with PyTorch in float32 before anything of theirs is used.
"""
import concurrent.futures
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
from lrcn.encoding import onnx, surgery

BACKENDS, PRECISIONS = ("auto", "torch", "openvino", "onnxruntime"), ("auto", "float32", "bfloat16")
NAMES = {"torch": "PyTorch", "openvino": "OpenVINO", "onnxruntime": "onnxruntime"}
# Frames the encoder takes at once: what fills the device, whatever --batch_size says.
BLOCK = {"cpu": 8, "mps": 64, "cuda": 256}
PART, STREAMS = 4, 16   # frames that one of OpenVINO's streams takes, and how many of these there are at most
# Least mean cosine of frames' features to PyTorch's in float32 with which an engine serves. Of one picture
# bfloat16's may be lower: 0.87 of flow, 0.98 of frames, where the means are 0.986 and 0.998.
AGREEMENT = {"float32": 0.9999, "bfloat16": 0.95}


@dataclass(frozen=True)
class Engine:
    """What runs an encoder."""
    backend: str = "torch"
    precision: str = "float32"

    @property
    def version(self):
        return importlib.metadata.version(self.backend)

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
        """None where the features of frames agree with PyTorch's in float32, else how they differ."""
        if self.engine == Engine():
            return None
        ours, theirs = (x.float().flatten(1) for x in (self(frames), self._torch(frames, "float32")))
        cosine = nn.functional.cosine_similarity(ours, theirs).mean().item()
        if cosine >= AGREEMENT[self.engine.precision]:
            return None
        return f"its features have a mean cosine of {cosine:.3f} to those of PyTorch in float32"


def attempt(encoder, device, engine, frames, compile=False):
    """(FrameEncoder, what it says of frames, None) of an engine that serves, else (None, None, why not)."""
    try:
        ready = FrameEncoder(encoder, device, compile, engine)
        values, fault = ready(frames), ready.fault(frames)
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
    """The FrameEncoder of the fastest engine that serves, compared with PyTorch on coloured clouds."""
    frames = clouds(encoder.transform, BLOCK["cpu"])
    for engine in candidates(backend, precision, device):
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
