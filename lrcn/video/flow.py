"""Optical flow between neighbouring frames of a video, kept as 8-bit planes.

    with Video("film.mp4") as film:                          # constant memory
        for index, seconds, frame, planes in sample_video(film, Rate(), Flow("dis", length=1)): ...

A field is in pixels from one source frame to the next, u to the right and v down, clamped to +-bound and
coded as 255 (v + bound) / (2 bound). Sampled frame s has the L fields s -> s+1, ..., s+L-1 -> s+L, as
planes u1 ... uL, v1 ... vL; where the video ends, its last field is repeated. All on frames as they are
shown: turned as a phone's rotation says.
"""
import functools
import hashlib
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lrcn.base.cli import UserError
from lrcn.base.lazy import Lazy
from lrcn.base.values import Choice, Number, Text
from lrcn.base.values import check as check_values
from lrcn.video.framefolder import opened
from lrcn.video.reader import VideoError

cv2 = Lazy("cv2")

# The first preset of each is its default.
PRESETS = {"dis": ("medium", "fast", "ultrafast"), "farneback": ("default",), "tvl1": ("default",),
           "raft": ("large", "small")}
BACKENDS = tuple(PRESETS)
BOUND, LONGEST = 20.0, 64       # pixels a source frame; fields of a sampled frame
ZERO = 128                      # the code where nothing moves
KINDS = {"backend": Choice(BACKENDS), "length": Number(int, low=1, high=LONGEST),
         "bound": Number(float, above=0, high=1000),
         "preset": Choice(tuple({word for words in PRESETS.values() for word in words})),
         "weights": Text(none=True), "digest": Text(none=True)}


@dataclass(frozen=True)
class Flow:
    """How fields are made. weights: of raft, a state dict file, or None for the library's; digest: its
    fingerprint, which a folder and a run keep."""
    backend: str = BACKENDS[0]
    length: int = 1
    bound: float = BOUND
    preset: str | None = None
    weights: str | None = None
    digest: str | None = None

    def __post_init__(self):
        if self.preset is None:
            object.__setattr__(self, "preset", PRESETS[self.backend][0])

    @classmethod
    def of(cls, settings, source):
        """The Flow that a file describes; UserError names the value that is none."""
        check_values(settings, KINDS, source)
        flow = cls(**{name: settings[name] for name in KINDS})
        if flow.preset not in PRESETS[flow.backend]:
            raise UserError(f"{source}: preset: {flow.backend} has {', '.join(PRESETS[flow.backend])}")
        return flow

    def settings(self):
        """Names and values for a file."""
        return asdict(self)

    def require(self):
        """This Flow; UserError where its backend is not to be had."""
        _estimator(self)
        return self

    def prepare(self, frame):
        """A frame uint8 (H, W, 3) RGB as `between` takes it: grey, but for raft."""
        return frame if self.backend == "raft" else cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)

    def between(self, before, after):
        """The field float32 (H, W, 2) from one prepared frame to the next."""
        return _estimator(self)(before, after)

    def code(self, field):
        """A field as planes uint8 (H, W, 2), in one pass: OpenCV rounds and clamps."""
        return cv2.addWeighted(field, 127.5 / self.bound, field, 0, 127.5, dtype=cv2.CV_8U)


# ---------------------------------------------------------------- backends

@functools.lru_cache(2)
def _estimator(flow):
    """A function of two prepared frames: their field float32 (H, W, 2)."""
    if flow.backend == "raft":
        return _raft(flow.preset, flow.weights, flow.digest)
    if flow.backend == "farneback":
        return lambda a, b: cv2.calcOpticalFlowFarneback(a, b, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    if flow.backend == "tvl1":
        if not hasattr(cv2, "optflow"):
            raise UserError("--flow tvl1: this OpenCV has no cv2.optflow; pip uninstall opencv-python, then "
                            "pip install opencv-contrib-python, or take dis")
        method = cv2.optflow.createOptFlow_DualTVL1()
    else:
        method = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{flow.preset.upper()}"))
    return lambda a, b: method.calc(a, b, None)


def _raft(preset, weights, digest):
    """RAFT of torchvision (Teed and Deng 2020), on CUDA where there is one."""
    import torch
    from torchvision.models import get_model
    try:
        network = get_model(f"raft_{preset}", weights=None if weights else "DEFAULT")
    except OSError as error:
        raise UserError(f"--flow raft: the library's weights could not be downloaded "
                        f"({str(error).splitlines()[0]:.120}); give a file with --flow_weights PATH, or take "
                        f"dis") from None
    if weights:
        if digest != weights_digest(weights):
            raise UserError(f"--flow_weights {weights}: not the file with which this flow was made")
        try:
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except Exception as error:  # torch.load raises almost anything for a broken file
            raise UserError(f"--flow_weights {weights}: no weights of raft_{preset} "
                            f"({str(error).splitlines()[0]:.120})") from None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).eval()

    @torch.inference_mode()
    def estimate(before, after):
        height, width = before.shape[:2]
        pad = [(0, max(128, -(-side // 8) * 8) - side) for side in (height, width)]
        pair = [torch.from_numpy(np.pad(x, (*pad, (0, 0)), "edge")).to(device) for x in (before, after)]
        pair = [x.permute(2, 0, 1)[None] / 127.5 - 1 for x in pair]
        return network(*pair)[-1][0, :, :height, :width].permute(1, 2, 0).float().cpu().numpy().copy()
    return estimate


def weights_digest(path):
    """A fingerprint of a weights file, 16 hex digits; UserError where there is none."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"--flow_weights {path}: {error.strerror}; give the file of RAFT's weights") from None


# ---------------------------------------------------------------- fields of sampled frames

class Fields:
    """The fields of sampled frames, as frames come: push() is given every frame from a sampled one to the
    L-th behind it, and the one before the last."""

    def __init__(self, flow):
        self.flow, self.waiting = flow, deque()     # [item, frame, its fields until now]
        self.before = self.last = self.newest = None
        self.position = None

    def push(self, position, frame, item=None):
        """[(item, frame, planes (H, W, 2L))] that are complete. item: what names a sampled frame."""
        prepared, follows = self.flow.prepare(frame), position - 1 == self.position
        if follows and prepared.shape != self.last.shape:
            raise VideoError(f"the frame size changes at frame {position}")
        self.before, self.last, self.position = self.last if follows else None, prepared, position
        self.newest = None
        if self.waiting and follows:
            self.newest = self._field()
            for _, _, fields in self.waiting:
                if len(fields) < self.flow.length:
                    fields.append(self.newest)
        done = self._complete()
        if item is not None:
            self.waiting.append((item, frame, []))
        return done

    def finish(self):
        """Those that the video's end left incomplete: the last field is repeated."""
        for _, _, fields in self.waiting:
            if not fields:
                fields.append(self._field() if self.newest is None else self.newest)
            fields += fields[-1:] * (self.flow.length - len(fields))
        return self._complete()

    def _field(self):
        """Planes of the newest pair; of a lone frame, those of no motion."""
        if self.before is None:
            return np.full((*self.last.shape[:2], 2), ZERO, np.uint8)
        return self.flow.code(self.flow.between(self.before, self.last))

    def _complete(self):
        done = []
        while self.waiting and len(self.waiting[0][2]) == self.flow.length:
            item, frame, fields = self.waiting.popleft()
            right, down = zip(*map(cv2.split, fields), strict=True)
            done.append((item, frame, cv2.merge([*right, *down])))
        return done


def sample_video(video, rate, flow=None):
    """Yields (source frame index, seconds from the first frame, frame uint8 (H, W, 3), planes uint8
    (H, W, 2L), or None without a flow) of an open Video: memory stays the same however long it is."""
    beat, fields = rate.beat(video.info.fps), flow and Fields(flow)
    while video.grab():
        kept = beat.keep(video.time)
        if flow:
            item = (video.position, video.time) if kept else None
            yield from ((*at, frame, planes) for at, frame, planes in
                        fields.push(video.position, video.frame(), item))
        elif kept:
            yield video.position, video.time, video.frame(), None
    if flow:
        yield from ((*at, frame, planes) for at, frame, planes in fields.finish())


def fields_at(path, indices, flow):
    """Planes uint8 (N, H, W, 2L) of a video's frames `indices` (ascending, repeats allowed)."""
    indices = [int(i) for i in indices]
    wanted = {i + k for i in indices for k in range(flow.length + 1)} | {max(0, indices[-1] - 1)}
    fields, found = Fields(flow), {}
    with opened(path, 1) as video:     # the rate does not matter
        for index in sorted(wanted):
            if not video.advance(index):
                break
            found.update((i, planes) for i, _, planes in
                         fields.push(index, video.frame(), index if index in indices else None))
    found.update((i, planes) for i, _, planes in fields.finish())
    if indices[-1] not in found:
        raise VideoError(f"frame {indices[-1]} is not there")
    return np.stack([found[i] for i in indices])


def fields_of(before, frame, after, flow):
    """Planes uint8 (H, W, 2L) of a frame, up to L of those behind it, and the one before it or None."""
    fields, known, done = Fields(flow), ([before] if before is not None else []), []
    for position, picture in enumerate([*known, frame, *after]):
        done += fields.push(position, picture, True if position == len(known) else None)
    return [*done, *fields.finish()][0][2]
