"""A run, or the ONNX file of one, on films of any length: a film in; windows, moments, segments out.

    Recogniser.of_run(trained, device).predict("film.mp4").segments     # [(start, end, label, probability)]

A window slides over the film by one moment: a sampled frame, or a chunk of them for a video encoder. Each
is sampled, cropped and encoded once, as in training.
"""
from collections import deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lrcn.base import Lazy, cli, inference_mode
from lrcn.base.workers import ahead
from lrcn.data.frames import as_modality, change_at, differences, plain_box, to_flow_input, to_input
from lrcn.drawing.labels import flow_colors
from lrcn.features.engines import BLOCK, fastest
from lrcn.features.features import softmax
from lrcn.runs import RunFolder
from lrcn.video.flow import ZERO, Flow, fields_at, sample_video
from lrcn.video.reader import Video, VideoError
from lrcn.video.sampling import Rate, read_clip
from lrcn.watching.exported import read_exported
from lrcn.watching.history import NONE, UNSURE, History, find_segments

torch = Lazy("torch")

LEAST = 0.4     # the lowest probability that is not unsure, if the run's validation gives none


class Chunks:
    """Makes moments of sampled frames as they come, as data.chunks does: `size` neighbours each, one every
    `stride` frames; for an image encoder single frames."""

    def __init__(self, size, stride):
        self.size, self.stride, self.count, self.frames = size, stride, 0, deque(maxlen=size)

    def push(self, frame):
        """The moment that ends with this frame, a list, or None."""
        self.frames.append(frame)
        self.count += 1
        first = self.count - self.size
        return list(self.frames) if first >= 0 and first % self.stride == 0 else None


class Stream:
    """An engines.FrameEncoder on moments as they come: each is encoded once, for all of its windows."""

    def __init__(self, encoder, length):
        self.encoder, self.transform = encoder, encoder.transform
        self.restart(length)

    def restart(self, length):
        """Begin another film, with windows of `length` moments."""
        self.length = length
        self.tail, self.last, self.waiting = None, None, []

    def crop(self, frame, flow=None):
        """{"rgb", "flow": uint8 (S, S, C)}, as needed, of a frame uint8 (H, W, 3), fields (H, W, 2L)."""
        box, parts = plain_box(*frame.shape[:2], self.transform), self.transform.parts
        seen = {}
        if parts != ["flow"]:
            seen["rgb"] = to_input([frame], box, self.transform)[0]
        if "flow" in parts:
            seen["flow"] = to_flow_input(flow[None], box, self.transform)[0]
        return seen

    def moment(self, crops):
        """A moment of the `crop` of its frames: a chunk, or the first one for an image encoder."""
        chunk = crops[:self.transform.chunk]
        return {name: np.stack([crop[name] for crop in chunk]) for name in crops[0]} if chunk else crops[0]

    def inputs(self, crops):
        """n successive moments as the encoder reads them, like frames.clip_frames: (n, [M or K,] S, S, C)."""
        seen = {name: np.stack([crop[name] for crop in crops]) for name in crops[0]}
        if "rgbdiff" in self.transform.parts:
            frames = seen["rgb"]
            known = frames if self.last is None else np.concatenate([self.last, frames])
            pairs = np.array([change_at(i, len(known)) for i in range(len(known))][-len(frames):])
            self.last = frames[-1:]
            seen["rgbdiff"] = differences(known[pairs[:, 1]], known[pairs[:, 0]])
        return as_modality(seen, self.transform)

    def push(self, crops):
        """Encode moments; features (n, T, D) of the windows that end with them, or None."""
        crops = [*self.waiting, *crops]
        if "rgbdiff" in self.transform.parts and self.last is None and len(crops) == 1 and self.length > 1:
            self.waiting = crops    # its difference is that of the second frame, which has not come yet
            return None
        self.waiting = []
        values = self.encoder(torch.from_numpy(self.inputs(crops)))
        if self.tail is not None:
            values = torch.cat([self.tail, values])
        self.tail = values[max(0, len(values) - self.length + 1):]
        return values.unfold(0, self.length, 1).movedim(-1, 1) if len(values) >= self.length else None


def made_by(flow, backend):
    """The Flow of films: that of the run's training, or by --flow."""
    if flow and backend not in (None, flow.backend):
        cli.say(f"--flow {backend}: computes the flow of films; the training used {flow.backend}")
        flow = replace(flow, backend=backend, preset=None, weights=None, digest=None)
    elif backend and not flow:
        raise cli.UserError(f"--flow {backend}: this run does not use optical flow; leave the flag out")
    return flow


# segments: [(start, end, label, probability)]; times (F,): seconds of moments; probabilities float32 (F, C)
Prediction = namedtuple("Prediction", "segments times probabilities")


@dataclass
class Recogniser:
    """A network on frames as they come."""
    encoders: list              # each: moments uint8 (n, [M or K,] S, S, C) to values (n, ...), `transform`
    head: Callable              # (n, T, ...) of all encoders side by side to probabilities float32 (n, C)
    classes: list
    length: int                 # T
    rate: Rate                  # of the sampled frames
    block: int = BLOCK["cpu"]   # moments that are encoded at once
    flow: Flow | None = None    # for encoders that see it
    names: tuple = ()           # of the streams of a fusion
    alone: Callable | None = None   # the answers of each stream, float32 (n, names, C)
    extract: int | str | None = None    # how many frames of a video the run's clips hold, or "all"
    every: int | None = None    # use every so many-th frame of a film, instead of `rate`
    trained: object = None      # the networks.Trained of a run
    folder: Path | None = None  # the run folder
    background: int | None = None   # label of the class of everything else
    min_probability: float | None = None    # from which on nine of ten validation answers were right
    mask_short: bool = False    # a video shorter than a window is read at its own length
    chunk: tuple = (1, 1)       # frames of a moment, and from the first one of a moment to that of the next

    def __post_init__(self):
        self.streams = [Stream(encoder, self.length) for encoder in self.encoders]
        self.block, self.flow = max(self.block, self.length), self.flow and self.flow.require()
        side = max(encoder.transform.crop for encoder in self.encoders)
        fields = self.flow and np.full((side, side, 2 * self.flow.length), ZERO, np.uint8)
        blank = self.crop(np.zeros((side, side, 3), np.uint8), fields)
        self.answers([self.moment([blank] * self.chunk[0])] * 2)      # warm up
        self.restart()

    @classmethod
    def of_run(cls, trained, device, backend=None, precision=None, rate=None, every=None, flow=None):
        """Of a networks.Trained. backend, precision, rate, flow (its backend): None for those of the run."""
        encoder, head, recipe = trained.model.encoder, trained.model.head.eval(), trained.recipe
        engine = backend or recipe.encoder_backend, precision or recipe.encoder_precision
        encoders = [fastest(one, device, *engine) for one in getattr(encoder, "streams", [encoder])]
        return cls(encoders, lambda windows: softmax(head(windows.float()).float()), trained.classes,
                   trained.length, rate or trained.rate, max(1, BLOCK[device.type] // trained.chunk[0]),
                   made_by(trained.flow, flow), getattr(encoder, "names", ()),
                   lambda windows: softmax(torch.stack(encoder.answers(windows.float()), 1).float()),
                   trained.settings.get("num_frames_to_extract"), every, trained, trained.folder,
                   trained.recipe.background_of(trained.classes),
                   trained.model.head.spec["min_probability"], trained.recipe.mask_short, trained.chunk)

    @classmethod
    def of_file(cls, path, sampling_rate=None, flow=None):
        """Of a model.onnx of export.py, on onnxruntime. UserError: no such file."""
        file, encoder, head = read_exported(path)
        rate = Rate(file.about["FPS"], sampling_rate or file.about["sampling_rate"])
        return cls([encoder], head, file.about["classes"], file.length, rate, flow=made_by(file.flow, flow),
                   folder=RunFolder.of(path).path, background=file.about["background"],
                   min_probability=file.about["min_probability"], mask_short=file.any_length,
                   extract="all" if file.any_length else None,
                   chunk=(file.transform.chunk or 1, file.transform.chunk_stride or 1))

    @property
    def shown(self):
        """The labels of the classes in films: their names, and NONE for the background."""
        return [NONE if i == self.background else cls for i, cls in enumerate(self.classes)]

    @property
    def known(self):
        """The classes without the background."""
        return [cls for i, cls in enumerate(self.classes) if i != self.background]

    def least(self, min_probability=None):
        """The lowest probability that is not unsure: the one given, that of the validation, or LEAST."""
        return next((p for p in (min_probability, self.min_probability) if p is not None), LEAST)

    @property
    def unit(self):
        return "chunks" if any(stream.transform.chunk for stream in self.streams) else "frames"

    def restart(self, length=None):
        """Begin another film. length: of its windows, None for T."""
        for stream in self.streams:
            stream.restart(length or self.length)

    def crop(self, frame, flow=None):
        """Stream.crop of every stream."""
        return [stream.crop(frame, flow) for stream in self.streams]

    def moment(self, crops):
        """Stream.moment of every stream, of `crop` of the moment's frames."""
        return [stream.moment([crop[i] for crop in crops]) for i, stream in enumerate(self.streams)]

    @inference_mode
    def answers(self, crops):
        """Encode moments (see `moment`); probabilities float32 (n, 1 + names, C) of the windows that end with
        them: of the whole network, and of each stream of a fusion."""
        windows = [stream.push([crop[i] for crop in crops]) for i, stream in enumerate(self.streams)]
        if windows[0] is None:
            return np.empty((0, 1 + len(self.names), len(self.classes)), np.float32)
        answers = []
        for part in (windows[0] if len(windows) == 1 else torch.cat(windows, 2)).split(256):
            part = part.contiguous()
            whole = self.head(part)[:, None]
            answers.append(torch.cat([whole, self.alone(part)], 1) if self.names else whole)
        return torch.cat(answers).cpu().numpy()

    def watch(self, path, history):
        """Fill `history` from a video file; yields how many windows are known. VideoError: it cannot be read.
        A video shorter than a window is read as in training: with a smaller stride, unless the run's clips
        hold all of their videos, and with its last frame repeated if there are too few."""
        self.restart()
        chunks, moments, last = Chunks(*self.chunk), [], None
        wanted = chunks.size + (self.length - 1) * chunks.stride        # frames of a window
        with Video(path) as source:
            rate = Rate(source.info.fps, self.every) if self.every else self.rate
            for _, seconds, frame, fields in sample_video(source, rate, self.flow):
                last = seconds, self.crop(frame, fields)
                moments += self._moments([last], chunks, history)
                if len(moments) == self.block:    # a block is at least a window long
                    yield history.add(self.answers(moments))
                    moments = []
            history.end = source.time + 1 / source.info.fps
        missing, short = wanted - chunks.count, self.length - len(history.times)
        if missing > 0 and self.extract == "all":
            moments += self._moments([last] * (chunks.size - chunks.count), chunks, history)
            short = self.length - len(history.times)
            history.times, history.spans, moments = (
                known + known[-1:] * short for known in (history.times, history.spans, moments))
        elif missing > 0:
            frames, _, indices, _ = read_clip(path, wanted, rate, fraction=0)
            with Video(path) as source:
                times = source.times()[indices].tolist()
            fields = fields_at(path, indices, self.flow) if self.flow else [None] * len(frames)
            history.times, history.spans = [], []
            moments = self._moments(zip(times, map(self.crop, frames, fields), strict=True),
                                    Chunks(*self.chunk), history)
        if short > 0 and self.mask_short:
            history.length = len(dict.fromkeys(history.spans))
            history.times, moments = history.times[:history.length], moments[:history.length]
            self.restart(history.length)
        if moments:
            yield history.add(self.answers(moments))

    def _moments(self, frames, chunks, history):
        """The moments that end with frames [(seconds, its `crop`)]; they are noted in the history."""
        made = []
        for chunk in filter(None, map(chunks.push, frames)):
            made.append(self.moment([crop for _, crop in chunk]))
            history.saw(chunk[0][0], chunk[-1][0])
            if self.names:
                history.seen[len(history.times) - 1] = [
                    flow_colors(seen["flow"]) if "flow" in seen else None for seen in made[-1]]
        return made

    def look_through(self, path, limit=None):
        """The History of a video file. VideoError: it cannot be read, or a step took over `limit` seconds."""
        history = History(self.length)
        for _ in ahead(self.watch(path, history), 2, limit, VideoError):
            history.seen.clear()
        return history

    def segments(self, history, min_probability, min_segment):
        """[(start, end, label, probability)]: moments below min_probability are UNSURE, the background is
        NONE; runs of a label shorter than min_segment seconds join a neighbour."""
        least = min_segment * self.rate.per_second / self.chunk[1]      # moments
        labels = [*self.shown, UNSURE]      # the last one is -1
        return [(start, end, labels[label], probability) for start, end, label, probability in find_segments(
            history.times, history.end, history.smoothed(), min_probability, least)]

    def predict(self, video, min_probability=None, min_segment=1.0):
        """The Prediction of a video file. min_probability: see `least`. VideoError: it cannot be read."""
        try:
            history = self.look_through(Path(video))
        except VideoError as error:
            raise VideoError(f"{video}: {error}") from None
        segments = self.segments(history, self.least(min_probability), min_segment)
        return Prediction(segments, np.array(history.times), history.smoothed())

    @inference_mode
    def features(self, frames, flow=None):
        """Features, float (T, D), (chunks, D) of a video encoder, of successive sampled frames uint8 (T, H,
        W, 3) RGB; those of a fusion's streams side by side. flow: the frames' fields, uint8 (T, H, W, 2L),
        from lrcn.video.flow.fields_at. ValueError: a run on optical flow without these."""
        planes, shape = self.flow and 2 * self.flow.length, np.shape(flow)
        if planes and (shape[:1], shape[3:]) != ((len(frames),), (planes,)):
            raise ValueError(f"this run sees optical flow: expected flow uint8 ({len(frames)}, H, W, "
                             f"{planes}), got {shape}; lrcn.video.flow.fields_at(film, indices, "
                             f"trained.flow) makes it")
        self.restart()
        crops = [self.crop(*seen) for seen in
                 zip(frames, flow if planes else [None] * len(frames), strict=True)]
        crops += crops[-1:] * (self.chunk[0] - len(crops))      # a video shorter than a moment
        crops = [self.moment(chunk) for chunk in map(Chunks(*self.chunk).push, crops) if chunk]
        return torch.cat([stream.encoder(torch.from_numpy(stream.inputs([crop[i] for crop in crops])))
                          .float().cpu() for i, stream in enumerate(self.streams)], 1)
