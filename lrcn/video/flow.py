"""Optical flow between neighbouring frames of a video, kept as 8-bit planes.

A field is in pixels from one source frame to the next, u to the right and v down, clamped to +-bound and
coded as 255 (v + bound) / (2 bound). Sampled frame s has the L fields s -> s+1, ..., s+L-1 -> s+L, as
planes u1 ... uL, v1 ... vL; at the video's end its last field is repeated. Frames are turned as shown.
"""
import functools
import hashlib
import itertools
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lrcn.base import Lazy, UserError
from lrcn.base.values import Choice, Number, Text, check
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
    """How fields are made. weights: raft's state dict file, or None for the library's; digest: of it."""
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
        """The Flow that a file describes; UserError names a wrong value."""
        check(settings, KINDS, source)
        flow = cls(**{name: settings[name] for name in KINDS})
        if flow.preset not in PRESETS[flow.backend]:
            raise UserError(f"{source}: preset: {flow.backend} has {', '.join(PRESETS[flow.backend])}")
        return flow

    def settings(self):
        """Names and values for a file."""
        return asdict(self)

    def require(self):
        """This Flow; UserError: its backend is not available."""
        _estimator(self)
        return self

    def prepare(self, frame):
        """A frame uint8 (H, W, 3) RGB for `between`: grey, but RGB for raft."""
        return frame if self.backend == "raft" else cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)

    def between(self, before, after):
        """The field float32 (H, W, 2) from one prepared frame to the next."""
        return _estimator(self)(before, after)

    def code(self, field):
        """A field as planes uint8 (H, W, 2), in one pass: OpenCV rounds and clamps."""
        return cv2.addWeighted(field, 127.5 / self.bound, field, 0, 127.5, dtype=cv2.CV_8U)


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
                            "pip install opencv-contrib-python, or take --flow dis")
        method = cv2.optflow.createOptFlow_DualTVL1()
    else:
        method = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{flow.preset.upper()}"))
    return lambda a, b: method.calc(a, b, None)


def _raft(preset, weights, digest):
    """RAFT of torchvision (Teed and Deng 2020), on CUDA if there is a GPU."""
    import torch
    from torchvision.models import get_model
    try:
        network = get_model(f"raft_{preset}", weights=None if weights else "DEFAULT")
    except OSError as error:
        raise UserError(f"--flow raft: the library's weights could not be downloaded "
                        f"({str(error).splitlines()[0]:.120}); give a file with --flow_weights PATH, or take "
                        f"--flow dis") from None
    if weights:
        if digest != weights_digest(weights):
            raise UserError(f"--flow_weights {weights}: another file than this flow was made with")
        try:
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except Exception as error:  # torch.load raises almost anything for a broken file
            raise UserError(f"--flow_weights {weights}: not the weights of raft_{preset} "
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
    """A digest of a weights file, 16 hex digits; UserError: no such file."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UserError(f"--flow_weights {path}: {error.strerror}; give the file of RAFT's weights") from None


def flowing(frames, flow):
    """Yields (item, frame, planes uint8 (H, W, 2L)) of the sampled frames among `frames`: (position, frame,
    item or None: not sampled), each from a sampled one to the L-th behind it, and the last but one."""
    waiting, position, before, last = deque(), None, None, None     # waiting: (item, frame, fields until now)

    def newest():
        """Planes of the newest pair; of no motion for a single frame."""
        if before is None:
            return np.full((*last.shape[:2], 2), ZERO, np.uint8)
        return flow.code(flow.between(before, last))

    def complete():
        while waiting and len(waiting[0][2]) == flow.length:
            item, frame, fields = waiting.popleft()
            right, down = zip(*map(cv2.split, fields), strict=True)
            yield item, frame, cv2.merge([*right, *down])

    for number, frame, item in frames:
        before, last, field = last if number - 1 == position else None, flow.prepare(frame), None
        position = number
        if before is not None and last.shape != before.shape:
            raise VideoError(f"the frame size changes at frame {number}")
        if waiting and before is not None:
            field = newest()
            for *_, fields in waiting:
                fields.append(field)
        yield from complete()
        if item is not None:
            waiting.append((item, frame, []))
    for *_, fields in waiting:
        if not fields:
            fields.append(newest() if field is None else field)
        fields += fields[-1:] * (flow.length - len(fields))
    yield from complete()


def sample_video(video, rate, flow=None):
    """Yields (source frame index, seconds from the first frame, frame uint8 (H, W, 3), planes uint8
    (H, W, 2L), or None without a flow) of an open Video, in constant memory. VideoError: it has no frame."""
    beat = rate.beat(video.info.fps)
    places = ((video.position, video.time) if beat.keep(video.time) else None
              for _ in iter(video.grab, False))
    if flow:
        frames = ((video.position, video.frame(), place) for place in places)
        yield from ((*place, frame, planes) for place, frame, planes in flowing(frames, flow))
    else:
        yield from ((*place, video.frame(), None) for place in places if place)
    if video.position < 0:
        raise VideoError("no frame of it can be decoded")


def fields_at(path, indices, flow):
    """Planes uint8 (N, H, W, 2L) of a video's frames `indices` (ascending, repeats allowed)."""
    indices = [int(i) for i in indices]
    wanted = {i + k for i in indices for k in range(flow.length + 1)} | {max(0, indices[-1] - 1)}
    with opened(path, 1) as video:     # the rate does not matter
        frames = ((i, video.frame(), i if i in indices else None)
                  for i in itertools.takewhile(video.advance, sorted(wanted)))
        found = {i: planes for i, _, planes in flowing(frames, flow)}
    if indices[-1] not in found:
        raise VideoError(f"frame {indices[-1]} is not there")
    return np.stack([found[i] for i in indices])


def fields_of(before, frame, after, flow):
    """Planes uint8 (H, W, 2L) of a frame, from up to L frames behind it, and the one before it or None."""
    known = [] if before is None else [before]
    frames = ((i, picture, True if i == len(known) else None)
              for i, picture in enumerate([*known, frame, *after]))
    return next(flowing(frames, flow))[2]
