"""A window sliding over a video of any length: every sampled frame encoded once, in constant memory.

    slider = Slider(trained, device)
    history = History(slider.length)
    for known in analyse("film.mp4", slider, history, Rate()):
        ...                                     # history.windows[:known] are there
    segments = find_segments(history.times, history.end, history.smoothed(), 0.4, least=3)

Frames are sampled, cropped and encoded as in training. What a moment shows is told by all windows
that contain it: the probabilities of a sampled frame are the mean of theirs. Frame f lies in the
windows f - T + 1 to f, so that it is known once T - 1 more frames have been seen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from lrcn.data.frames import plain_box, to_flow_input, to_input
from lrcn.data.streams import as_modality, change_at, differences
from lrcn.drawing.labels import flow_colors
from lrcn.features.engines import BLOCK, fastest
from lrcn.features.predictions import softmax
from lrcn.video.flow import ZERO, Flow, fields_at, sample_with_flow
from lrcn.video.reader import Video, VideoError
from lrcn.video.sampling import read_clip


class Stream:
    """One encoder on frames as they come: each is encoded once, however many windows share it.

    encoder: an engines.FrameEncoder. `encoded` counts the frames that went through it.
    """

    def __init__(self, encoder, length):
        self.encoder, self.transform, self.length = encoder, encoder.transform, length
        self.restart()

    def restart(self):
        """Forget the frames so far: the next ones are of another video."""
        self.tail, self.last, self.encoded, self.waiting = None, None, 0, []

    def crop(self, frame, flow=None):
        """{"rgb", "flow": uint8 (S, S, C)}, as far as the encoder sees them, of a frame uint8 (H, W, 3) and
        its fields uint8 (H, W, 2L)."""
        box, parts = plain_box(*frame.shape[:2], self.transform), self.transform.parts
        seen = {}
        if parts != ["flow"]:
            seen["rgb"] = to_input([frame], box, self.transform)[0]
        if "flow" in parts:
            seen["flow"] = to_flow_input(flow[None], box, self.transform)[0]
        return seen

    def inputs(self, crops):
        """n successive frames as the encoder takes them, like frames.clip_frames: (n, [M,] S, S, C)."""
        seen = {name: np.stack([crop[name] for crop in crops]) for name in crops[0]}
        if "rgbdiff" in self.transform.parts:
            frames = seen["rgb"]
            known = frames if self.last is None else np.concatenate([self.last, frames])
            pairs = np.array([change_at(i, len(known)) for i in range(len(known))][-len(frames):])
            self.last = frames[-1:]
            seen["rgbdiff"] = differences(known[pairs[:, 1]], known[pairs[:, 0]])
        return as_modality(seen, self.transform)

    def push(self, crops):
        """Encode frames (see `crop`); features (n, T, D) of the windows that end in them, or None."""
        crops = [*self.waiting, *crops]
        if "rgbdiff" in self.transform.parts and self.last is None and len(crops) == 1 and self.length > 1:
            self.waiting = crops    # its difference is that of the second, which has not come yet
            return None
        self.waiting = []
        values = self.encoder(torch.from_numpy(self.inputs(crops)))
        self.encoded += len(values)
        if self.tail is not None:
            values = torch.cat([self.tail, values])
        self.tail = values[max(0, len(values) - self.length + 1):]
        return values.unfold(0, self.length, 1).movedim(-1, 1) if len(values) >= self.length else None


@dataclass
class Network:
    """What a Slider needs of a model.

    encoders: each takes frames uint8 (n, [M,] S, S, C) to values (n, ...), and has their `transform`.
    head: the values of windows, (n, T, ...), those of all encoders side by side -> probabilities
    float32 (n, C). block: frames that are encoded at once, where so many are there.
    flow: the flow.Flow that they see. names, alone: of the streams of a fusion, and what each says by
    itself, float32 (n, names, C). extract: how many frames of a video the run's clips hold, or "all".
    """
    encoders: list
    head: Callable
    length: int
    classes: int
    block: int
    flow: Flow | None = None
    names: tuple = ()
    alone: Callable | None = None
    extract: int | str | None = None

    def answers(self, windows):
        """What the model says of windows and, of a fusion, each stream alone: float32 (n, 1 + names, C)."""
        whole = self.head(windows)[:, None]
        return torch.cat([whole, self.alone(windows)], 1) if self.names else whole


def network_of(trained, device, backend="torch", precision="auto"):
    """The Network of a trained run."""
    encoder, head = trained.model.encoder, trained.model.head.eval()
    length = trained.settings["num_frames_video"]
    encoders = [fastest(one, device, backend, precision) for one in getattr(encoder, "streams", [encoder])]
    return Network(encoders, lambda windows: softmax(head(windows.float()).float()), length,
                   head.spec["classes"], max(BLOCK[device.type], length), trained.flow,
                   getattr(encoder, "names", ()),
                   lambda windows: softmax(torch.stack(encoder.answers(windows.float()), 1).float()),
                   trained.settings.get("num_frames_to_extract"))


class Slider:
    """The model on frames as they come. streams: the Stream of each of its encoders, one of a single run;
    flow: the flow.Flow that they see, or None.

    trained: a utils.Trained, which runs on the device as backend and precision say, or a Network.
    names: of the streams of a fusion, whose own answers stand beside the model's; else none.
    """

    def __init__(self, trained, device=None, backend="torch", precision="auto"):
        if not isinstance(trained, Network):
            trained = network_of(trained, device, backend, precision)
        self.network, self.length, self.names = trained, trained.length, trained.names
        self.streams = [Stream(encoder, self.length) for encoder in trained.encoders]
        self.block, self.flow = trained.block, trained.flow and trained.flow.require()
        self.push([self.crop(*self.blank())] * 2)      # warm up
        self.restart()

    @property
    def encoded(self):
        """Frames that were encoded since the last start, by each stream."""
        return max(stream.encoded for stream in self.streams)

    def blank(self):
        """A frame on which nothing is, and its fields."""
        side = max(stream.transform.crop for stream in self.streams)
        fields = self.flow and np.full((side, side, 2 * self.flow.length), ZERO, np.uint8)
        return np.zeros((side, side, 3), np.uint8), fields

    def restart(self):
        """Forget the frames so far: the next ones are of another video."""
        for stream in self.streams:
            stream.restart()

    def crop(self, frame, flow=None):
        """What every stream sees of a frame uint8 (H, W, 3) and its fields uint8 (H, W, 2L)."""
        return [stream.crop(frame, flow) for stream in self.streams]

    def shown(self, crop):
        """What there is to see of a frame beside itself, of each stream of a fusion: the colours of its flow,
        uint8 (S, S, 3), or None."""
        return [flow_colors(seen["flow"]) if "flow" in seen else None for seen in crop] if self.names else []

    def push(self, crops):
        """Encode frames (see `crop`); probabilities float32 (n, C) of the windows that end in them."""
        return self.answers(crops)[:, 0]

    @torch.inference_mode()
    def answers(self, crops):
        """As push, and what each stream says alone: float32 (n, 1 + names, C)."""
        windows = [stream.push([crop[i] for crop in crops]) for i, stream in enumerate(self.streams)]
        if windows[0] is None:
            return np.empty((0, 1 + len(self.names), self.network.classes), np.float32)
        parts = (windows[0] if len(windows) == 1 else torch.cat(windows, 2)).split(256)
        return torch.cat([self.network.answers(part.contiguous()) for part in parts]).cpu().numpy()


@dataclass
class History:
    """What has been seen of a video. Small: two bytes a class and sampled frame."""
    length: int
    times: list = field(default_factory=list)       # seconds of every sampled frame
    windows: list = field(default_factory=list)     # float16 (C,) of the window from frame i on
    end: float = 0.0                                # seconds at which the video ends
    alone: list = field(default_factory=list)       # float16 (S, C): what each stream of a fusion says of it
    seen: dict = field(default_factory=dict)        # {frame: Slider.shown}, until it is drawn

    def add(self, answers):
        """Take up Slider.answers (n, 1 + S, C), or (n, C); how many windows there are."""
        answers = (answers if answers.ndim == 3 else answers[:, None]).astype(np.float16)
        self.windows += list(answers[:, 0])
        self.alone += list(answers[:, 1:])
        return len(self.windows)

    def cut(self, known):
        """What the first `known` windows have seen, with its end where more was coming."""
        times = self.times[:known + self.length - 1]
        whole = self.end and len(times) == len(self.times)
        return History(self.length, times, self.windows[:known], self.end if whole else times[-1])

    def span(self, window):
        """(start, end) of a window: the times of its first and last frame, in seconds."""
        return self.times[window], self.times[window + self.length - 1]

    def at(self, frame):
        """Probabilities float32 (C,) of a sampled frame: the mean of the windows that contain it."""
        return np.mean(self._around(self.windows, frame), 0, dtype=np.float32)

    def beside(self, frame, names):
        """[(name, probabilities float32 (C,), picture or None)] of each stream of a fusion, for a frame not
        before those that were asked for."""
        if not names:
            return []
        self.seen.pop(frame - 1, None)
        said = np.mean(self._around(self.alone, frame), 0, dtype=np.float32)
        return list(zip(names, said, self.seen.get(frame, [None] * len(names)), strict=True))

    def _around(self, windows, frame):
        return windows[max(0, frame - self.length + 1):frame + 1]

    def smoothed(self):
        """at() of every sampled frame that a window contains, float32 (frames, C)."""
        n = len(self.windows)
        total = np.zeros((n + self.length - 1, len(self.windows[0])), np.float32)
        count = np.zeros((len(total), 1), np.float32)
        windows = np.stack(self.windows)
        for place in range(self.length):
            total[place:place + n] += windows
            count[place:place + n] += 1
        return total / count


def analyse(path, slider, history, rate):
    """Fill `history` from a video file; yields how many windows are known, as they become known.

    A video shorter than a window is seen as in training: with a smaller stride, but for a run on clips that
    hold all of their videos, and the last frame repeated where there are too few. VideoError when the file
    cannot be read.
    """
    slider.restart()
    with Video(path) as source:
        crops = []
        for _, seconds, frame, fields in sample_with_flow(source, rate, slider.flow):
            history.times.append(seconds)
            crops.append(slider.crop(frame, fields))
            history.seen[len(history.times) - 1] = slider.shown(crops[-1])
            if len(crops) == slider.block:  # a block is at least a window long
                yield history.add(slider.answers(crops))
                crops = []
        if not history.times:
            raise VideoError("not one frame of it can be decoded")
        history.end = source.time + 1 / source.info.fps
    short = slider.length - len(history.times)
    if short > 0 and slider.network.extract == "all":
        history.times += history.times[-1:] * short
        crops += crops[-1:] * short
    elif short > 0:
        frames, _, indices, _ = read_clip(path, slider.length, rate, fraction=0)
        with Video(path) as source:
            history.times[:] = source.times()[indices].tolist()
        fields = fields_at(path, indices, slider.flow) if slider.flow else [None] * len(frames)
        crops = [slider.crop(*seen) for seen in zip(frames, fields, strict=True)]
    if crops:
        yield history.add(slider.answers(crops))
