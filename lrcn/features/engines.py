"""Which engine runs the encoder, and in which precision: the fastest that agrees with PyTorch.

OpenVINO and onnxruntime are optional packages for CPUs. Their features, and those in bfloat16, are compared
with PyTorch's in float32 on real frames before they are used. The error is measured against how much
features differ from frame to frame, because a head tells classes apart by that.
"""
import contextlib
import functools
import importlib.metadata
import importlib.util
import io
import itertools
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrcn.base import Lazy, UserError, cli, inference_mode
from lrcn.base.values import shown
from lrcn.features import onnx

torch = Lazy("torch")
surgery = Lazy("lrcn.features.surgery")
nn = Lazy("torch.nn")

BACKENDS, PRECISIONS = ("auto", "torch", "openvino", "onnxruntime"), ("auto", "float32", "bfloat16")
NAMES = {"torch": "PyTorch", "openvino": "OpenVINO", "onnxruntime": "onnxruntime"}
# Frames the encoder takes at once, alone or in chunks: what fills the device, whatever --batch_size says.
BLOCK = {"cpu": 8, "mps": 64, "cuda": 256}
PART, PARTS = 4, 16     # frames that OpenVINO takes at once, and how many of these parts side by side
# The largest error of an engine that is used, for nine in ten frames and each modality: a fraction of the
# features' deviation from their mean. On real clips bfloat16 has 0.10 on frames, which moves a head's
# probabilities by 0.013 on average, 0.15 on differences (0.027) and 0.44 on flow (0.143, up to 0.36).
AGREEMENT = {"float32": 0.01, "bfloat16": 0.25}
JUDGED, QUANTILE = 32, 0.9      # frames that an engine is judged by, or a quarter as many chunks
LEAST = 0.05    # the deviation counts as this fraction of a feature's length at least: frames may be alike
RULE = 2        # version of this comparison: results of another one no longer count


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
    with contextlib.suppress(OSError):
        return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(Path("/proc/cpuinfo").read_text().split())
    return False


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
        raise UserError("--encoder_precision bfloat16: onnxruntime does not support it on a CPU; take "
                        "openvino or torch")
    if (backend, precision) == ("torch", "auto"):   # asked for by name, it is the plain one
        return [Engine()]
    fast = precision
    if precision == "auto":
        fast = "bfloat16" if cpu_has_bfloat16() and backend != "onnxruntime" else "float32"
    order = ["openvino", "torch"] if fast == "bfloat16" else ["onnxruntime", "openvino", "torch"]
    engines = [Engine(one, fast) for one in order if backend == one or backend == "auto" and installed(one)]
    if precision == "auto":
        engines.append(Engine("torch" if backend == "auto" else backend))
    return list(dict.fromkeys(engines))


def block(transform, device):
    """How many frames, or chunks, an encoder takes at once."""
    return max(1, BLOCK[device.type] // max(1, transform.chunk))


def judged(transform):
    """How many frames, or chunks, an engine is judged by."""
    return JUDGED // 4 if transform.chunk else JUDGED


class FrameEncoder:
    """A frozen encoder made ready for a device: uint8 (N, [M or K,] S, S, C) -> features (N, ...), float.

    Channels last, batch norm folded. engine: an Engine; None: PyTorch in float32, on CUDA in bfloat16.
    """

    def __init__(self, encoder, device, compile=False, engine=None):
        self.device, self.engine = device, engine or candidates("torch", "auto", device)[0]
        self.transform = encoder.transform
        self.encoder = surgery.for_inference(getattr(encoder, "whole", encoder).to(device))
        self.runner = at_once(self._torch)
        if self.engine.backend != "torch":
            # A network of chunks takes them one by one, so that it may ask how large a batch is.
            example = torch.zeros(1 if self.transform.chunk else 2, *self.transform.shape, dtype=torch.uint8)
            self.runner = RUNNERS[self.engine.backend](surgery.ChannelsLast(self.encoder), example,
                                                       self.engine.precision)
        elif compile:
            self.encoder = torch.compile(self.encoder)

    def __call__(self, frames):
        return self.runner(frames)()

    def each(self, batches):
        """The features of batches of frames, in their order, as many begun at once as fill the engine."""
        begun = deque()
        for frames in batches:
            begun.append(self.runner(frames))
            if len(begun) > getattr(self.runner, "ahead", 1):
                yield begun.popleft()()
        while begun:
            yield begun.popleft()()

    @inference_mode
    def _torch(self, frames, precision=None):
        frames = frames.to(self.device, non_blocking=True).movedim(-1, -3)  # channels last as it is
        half = (precision or self.engine.precision) == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self.encoder(frames)

    def fault(self, frames):
        """None where the features of different frames agree with PyTorch's, else how they differ."""
        if self.engine == Engine():
            return None
        blocks = frames.split(block(self.transform, self.device))
        ours, theirs = (torch.cat([run(block).float().flatten(1) for block in blocks]).unflatten(
            1, (self.transform.modalities, -1)) for run in (self, lambda x: self._torch(x, "float32")))
        deviation = torch.maximum((theirs - theirs.mean(0)).norm(dim=2).square().mean(0).sqrt(),
                                  theirs.norm(dim=2).mean(0) * LEAST)
        errors = ((ours - theirs).norm(dim=2) / deviation).quantile(QUANTILE, 0)
        bound = AGREEMENT[self.engine.precision]
        if (errors <= bound).all():
            return None
        error, name = max(zip(errors.tolist(), self.transform.parts, strict=True))
        return (f"on {name} its features differ from PyTorch's in float32 by {error:.2g} of their spread "
                f"from frame to frame, and the limit is {bound}")


def kept(encoder):
    """[[backend, precision, device] or None] of each stream of an encoder: what ran it, or did before."""
    return [getattr(one, "ran_on", getattr(one, "kept_engine", None))
            for one in getattr(encoder, "streams", [encoder])]


def keep(encoder, engines, source):
    """Give an encoder back what `kept` returned, or None; UserError for anything else."""
    streams = getattr(encoder, "streams", [encoder])
    known = [None, *map(list, itertools.product(BACKENDS[1:], PRECISIONS[1:], BLOCK))]
    engines = [None] * len(streams) if engines is None else engines
    if not (isinstance(engines, list) and len(engines) == len(streams)
            and all(one in known for one in engines)):
        raise UserError(f"{source}: settings: engines: {shown(engines)} are not backend, precision and "
                        f"device")
    for one, own in zip(streams, engines, strict=True):
        one.kept_engine = own


def choose(encoder, backend, precision, device, judge):
    """(Engine, value) of the first engine without a fault by judge(engine) -> (value, fault); faults are
    printed. The engine of the run's training is tried first, where the flags allow it. UserError: all have
    faults."""
    engines, own = candidates(backend, precision, device), getattr(encoder, "kept_engine", None)
    if own and backend in ("auto", own[0]) and precision in ("auto", own[1]):
        if device.type == own[2] and installed(own[0]):
            engines = list(dict.fromkeys([Engine(*own[:2]), *engines]))
        else:
            cli.say_once(f"the run was trained with {NAMES[own[0]]} in {own[1]} on {own[2]}, which is not "
                         f"available here ({device.type}): {engines[0]} comes first")
    for engine in engines:
        value, fault = judge(engine)
        if fault is None:
            encoder.ran_on = [engine.backend, engine.precision, device.type]
            return engine, value
        if fault:
            cli.say(f"{engine} is not used: {fault}")
    raise UserError(f"--encoder_backend {backend}: it cannot run this encoder; take auto or torch")


def attempt(encoder, device, engine, frames, compile=False, trusted=False):
    """(FrameEncoder, None) of an engine that serves, else (None, why not). trusted: it need only run."""
    try:
        ready = FrameEncoder(encoder, device, compile, engine)
        ready(frames[:block(encoder.transform, device)])
        fault = None if trusted else ready.fault(frames)
    except UserError:
        raise
    except Exception as error:  # there are as many ways to fail as engines
        if engine == Engine():
            raise
        fault = " ".join(str(error).split())[:200] or type(error).__name__
    return (None, fault) if fault else (ready, None)


def clouds(transform, number):
    """Coloured clouds, smooth as photographs are, as an encoder takes them: uint8 (number, [M,] S, S, C)."""
    *modalities, side, _, channels = transform.shape
    coarse = torch.rand(number * math.prod(modalities), channels, 8, 8,
                        generator=torch.Generator().manual_seed(0)) * 255
    fine = nn.functional.interpolate(coarse, size=[side] * 2, mode="bicubic")
    return fine.clamp(0, 255).byte().movedim(1, -1).reshape(number, *transform.shape)


def fastest(encoder, device, backend="auto", precision="auto", compile=False):
    """The FrameEncoder of the fastest engine that serves: that of the run's training, else as compared with
    PyTorch on coloured clouds. These stand for frames only: other modalities get float32 by default."""
    frames, own = clouds(encoder.transform, judged(encoder.transform)), getattr(encoder, "kept_engine", None)

    def judge(engine):
        half = engine.precision == "bfloat16"       # which training judged by real frames
        trusted = half and own == [engine.backend, engine.precision, device.type]
        if half and not trusted and precision == "auto" and encoder.transform.modality != "rgb":
            return None, ""
        return attempt(encoder, device, engine, frames, compile, trusted)

    return choose(encoder, backend, precision, device, judge)[1]


# A runner begins a batch of frames and returns a function that gives its features. ahead: how many more
# batches it wants begun before the features of the first are asked for.

def at_once(run):
    """The runner of run: frames -> features."""
    def runner(frames):
        values = run(frames)
        return lambda: values
    return runner


class OpenVINO:
    """A network in OpenVINO: a batch in parts, and each thread computes parts of its own. Such threads wait
    for one another less than those that share a part, above all where decoding needs the same cores."""

    def __init__(self, network, example, precision):
        import openvino
        self.core, self.shape = openvino.Core(), example.shape[1:]
        self.part = PART if len(example) > 1 else 1
        with torch.no_grad(), onnx.without_words():
            trace = torch.jit.trace(network, example, check_trace=False)
            self.model = openvino.convert_model(trace, example_input=example)
        self.threads = torch.get_num_threads()
        self.options = {"INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
                        "INFERENCE_NUM_THREADS": self.threads}
        self.ahead = 1 + min(self.threads, PARTS) * self.part // (BLOCK["cpu"] if self.part > 1 else 1)
        self.compiled = {}

    def __call__(self, frames):
        frames = np.ascontiguousarray(frames.numpy())
        whole = len(frames) // self.part * self.part    # the rest, of a camera, one by one
        begun = [self._begin(frames[a:a + size], size) for start, stop, size in
                 ((0, whole, self.part), (whole, len(frames), 1)) for a in range(start, stop, size)]

        def features(frames=frames):    # which are not copied
            for request in begun:
                request.wait()
            return torch.from_numpy(np.concatenate([one.get_output_tensor().data for one in begun]))
        return features

    def _begin(self, part, size):
        """A request that computes a part, by a network for this size, half as fast again as for any."""
        if size not in self.compiled:
            self.model.reshape([size, *self.shape])
            hint = {"PERFORMANCE_HINT": "LATENCY"} if size < self.part else \
                {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": min(self.threads, PARTS)}
            self.compiled[size] = self.core.compile_model(self.model, "CPU", self.options | hint)
        request = self.compiled[size].create_infer_request()
        request.start_async([part], share_inputs=True)
        return request


def _onnxruntime(network, example, precision):
    file = io.BytesIO()
    with torch.no_grad(), onnx.without_words():     # traced: fast, where no code asks how large a batch is
        torch.onnx.export(network, (example,), file, input_names=["frames"], dynamo=False,
                          dynamic_axes={"frames": {0: "batch"}})
    run = onnx.runner(file.getvalue(), torch.get_num_threads())
    return at_once(lambda frames: torch.cat([torch.from_numpy(run(part.numpy())) for part in
                                             frames.split(len(frames) if len(example) > 1 else 1)]))


RUNNERS = {"openvino": OpenVINO, "onnxruntime": _onnxruntime}
