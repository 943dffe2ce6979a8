"""The encoder at its machine's speed: which engine runs it, in which precision, and that it agrees.

OpenVINO and onnxruntime are optional packages for CPUs. What they or bfloat16 say of real frames is compared
with PyTorch in float32 before anything of theirs is used: the error of a feature is measured against how
much features differ from frame to frame, because that is what a head tells classes by.
"""
import contextlib
import functools
import importlib.metadata
import importlib.util
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
# The largest error with which an engine serves, of nine in ten frames and of each modality: a fraction of the
# features' deviation from their mean. On real clips bfloat16 has 0.10 of frames, where it moves a head's
# probabilities by 0.013 on average, 0.15 of differences (0.027) and 0.44 of flow (0.143, up to 0.36).
AGREEMENT = {"float32": 0.01, "bfloat16": 0.25}
JUDGED, QUANTILE = 32, 0.9      # frames that an engine is judged by, or a quarter as many chunks
LEAST = 0.05    # the deviation counts as this fraction of a feature's length at least: frames may be alike
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
    if precision == "auto":
        precision = "bfloat16" if cpu_has_bfloat16() and backend != "onnxruntime" else "float32"
        last = [Engine()] if backend == "auto" else [Engine(backend, "float32")]
    else:
        last = [Engine("torch", precision)] if backend == "auto" else []
    order = (["openvino", "torch"] if precision == "bfloat16" else ["onnxruntime", "openvino", "torch"])
    first = [Engine(b, precision) for b in order if backend == b or backend == "auto" and installed(b)]
    return [*first, *(engine for engine in last if engine not in first)]


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
        """None where the features of frames, as many as `judged` says and different ones, agree with
        PyTorch's in float32, else how they differ."""
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
    """[[backend, precision, device] or None] of each stream of an encoder: what ran it here, else what ran
    it in the run's training."""
    return [getattr(one, "ran_on", getattr(one, "kept_engine", None))
            for one in getattr(encoder, "streams", [encoder])]


def keep(encoder, engines, source):
    """Give an encoder back what `kept` gave of it, or None; UserError for what is none."""
    streams = getattr(encoder, "streams", [encoder])
    words = (BACKENDS[1:], PRECISIONS[1:], tuple(BLOCK))
    if engines is not None and not (isinstance(engines, list) and len(engines) == len(streams) and all(
            one is None or isinstance(one, list) and len(one) == 3
            and all(word in known for word, known in zip(one, words, strict=True)) for one in engines)):
        raise UserError(f"{source}: settings: engines: {shown(engines)} are not backend, precision and "
                        f"device")
    for one, own in zip(streams, engines or [None] * len(streams), strict=True):
        one.kept_engine = own


_told = []


def choose(encoder, backend, precision, device, judge):
    """(Engine, value) of the first one that serves, as judge(engine) -> (value, fault) says with the fault
    None; a fault in words is said. What ran the encoder in the run's training is first, where the flags allow
    it. UserError: none serves."""
    engines, own = candidates(backend, precision, device), getattr(encoder, "kept_engine", None)
    if own and backend in ("auto", own[0]) and precision in ("auto", own[1]):
        if device.type == own[2] and installed(own[0]):
            engines = list(dict.fromkeys([Engine(*own[:2]), *engines]))
        elif own not in _told:
            _told.append(own)
            cli.say(f"the run was trained with {NAMES[own[0]]} in {own[1]} on {own[2]}, which is not "
                    f"available here ({device.type}): {engines[0]} comes first")
    for engine in engines:
        value, fault = judge(engine)
        if fault is None:
            encoder.ran_on = [engine.backend, engine.precision, device.type]
            return engine, value
        if fault:
            cli.say(f"{engine} is not used: {fault}")
    raise UserError(f"--encoder_backend {backend}: it cannot run this encoder; take auto or torch")


def attempt(encoder, device, engine, frames, compile=False):
    """(FrameEncoder, None) of an engine that serves, else (None, why not)."""
    try:
        ready = FrameEncoder(encoder, device, compile, engine)
        ready(frames[:block(encoder.transform, device)])
        fault = ready.fault(frames)
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
    """The FrameEncoder of the fastest engine that serves: the one that a run was trained with, else compared
    with PyTorch on coloured clouds, which tell of frames alone: other modalities get float32 where the
    precision is left open."""
    frames, own = clouds(encoder.transform, judged(encoder.transform)), getattr(encoder, "kept_engine", None)

    def judge(engine):
        if own == [engine.backend, engine.precision, device.type] and engine.precision == "bfloat16":
            with contextlib.suppress(Exception):    # judged on real frames, in training
                ready = FrameEncoder(encoder, device, compile, engine)
                ready(frames[:block(encoder.transform, torch.device("cpu"))])
                return ready, None
        if (engine.precision, precision, encoder.transform.modality != "rgb") == ("bfloat16", "auto", True):
            return None, ""
        return attempt(encoder, device, engine, frames, compile)

    return choose(encoder, backend, precision, device, judge)[1]


# A runner begins a batch of frames, and what it gives back is called for the features. ahead: how many
# batches it wants begun before the first is asked for; a device computes one while another is fetched.

def at_once(run):
    """The runner of what runs a batch in one go, run: frames -> features."""
    def runner(frames):
        values = run(frames)
        return lambda: values
    return runner


class OpenVINO:
    """A network in OpenVINO: batches in parts, as many at once as there are threads, each of which runs the
    network by itself. They wait for one another less than threads that share one network do, most of all
    where decoding needs the same cores."""

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
        self.compiled, self.idle = {}, {}

    def __call__(self, frames):
        frames = np.ascontiguousarray(frames.numpy())
        whole = len(frames) // self.part * self.part    # the rest, of a camera, one by one
        begun = [self._begin(frames[a:a + size]) for start, stop, size in
                 ((0, whole, self.part), (whole, len(frames), 1)) for a in range(start, stop, size)]

        def features():
            done = []
            for part, request in begun:
                request.wait()
                done.append(request.get_output_tensor().data.copy())
                self.idle[len(part)].append(request)
            return torch.from_numpy(np.concatenate(done))
        return features

    def _begin(self, part):
        """(part, a request that computes it): of the network for one size, with which it is half as fast
        again as for any. The part is kept until it is done, since it is not copied."""
        size = len(part)
        if size not in self.compiled:
            self.model.reshape([size, *self.shape])
            hint = {"PERFORMANCE_HINT": "LATENCY"} if size < self.part else \
                {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": min(self.threads, PARTS)}
            self.compiled[size] = self.core.compile_model(self.model, "CPU", self.options | hint)
            self.idle[size] = []
        try:
            request = self.idle[size].pop()
        except IndexError:
            request = self.compiled[size].create_infer_request()
        request.start_async([part], share_inputs=True)
        return part, request


def _onnxruntime(network, example, precision):
    run = onnx.runner(onnx.traced(network, example, "frames"), torch.get_num_threads())
    size = None if len(example) > 1 else 1
    return at_once(lambda frames: torch.cat([torch.from_numpy(run(part.numpy()))
                                             for part in frames.split(size or len(frames))]))


RUNNERS = {"openvino": OpenVINO, "onnxruntime": _onnxruntime}
