"""A trained run in a notebook, or in another program.

    import torch
    model = torch.hub.load("path/to/this/repository", "lrcn", run="20261121-110128", source="local")
    model.classes                               # names in label order
    said = model.predict("holiday.mp4")         # .segments, .times, .probabilities
    model.features(frames)                      # uint8 (T, H, W, 3) RGB -> float (T, D)
    model.features(frames, flow)                # of a run on optical flow: its fields, uint8 (T, H, W, 2L)
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import utils

if Path(utils.__file__).resolve().parent != Path(__file__).resolve().parent:
    raise ImportError(f"another module called utils ({utils.__file__}) was imported before; load this model "
                      f"first, or in a process of its own")

from lrcn.base.cli import UserError
from lrcn.video.reader import VideoError
from lrcn.watching.segments import UNSURE, find_segments
from lrcn.watching.sliding import History, Slider, analyse

dependencies = ["torch", "torchvision", "cv2", "av", "numpy", "tqdm", "sklearn"]


@dataclass(frozen=True)
class Prediction:
    """What a video shows. segments: [(start, end, label, probability)], seconds and class names;
    times (F,) of the sampled frames in seconds; probabilities float32 (F, C)."""
    segments: list
    times: np.ndarray
    probabilities: np.ndarray


class Recogniser:
    """A trained run on a device; `trained.model` is the network itself, a models.LRCN."""

    def __init__(self, trained, device):
        self.trained, self.classes = trained, trained.classes
        self.slider = Slider(trained, device, trained.recipe.encoder_backend,
                             trained.recipe.encoder_precision)

    def predict(self, video, min_probability=0.4, min_segment=1.0):
        """The Prediction of a video file, as test_on_video.py makes it.

        min_probability: a moment whose best label has less is "unsure"; min_segment: seconds, shorter
        runs of a label join a neighbour. lrcn.video.reader.VideoError: a file that cannot be read.
        """
        history = History(self.slider.length)
        try:
            for _ in analyse(Path(video), self.slider, history, self.trained.rate):
                pass
        except VideoError as error:
            raise VideoError(f"{video}: {error}") from None
        shares = history.smoothed()
        found = find_segments(history.times, history.end, shares, min_probability,
                              min_segment * self.trained.rate.per_second)
        segments = [(start, end, self.classes[label] if label >= 0 else UNSURE, probability)
                    for start, end, label, probability in found]
        return Prediction(segments, np.array(history.times), shares)

    @torch.inference_mode()
    def features(self, frames, flow=None):
        """What the head reads of successive frames uint8 (T, H, W, 3) RGB: float (T, D), the features of a
        fusion's streams side by side.

        flow: their fields, uint8 (T, H, W, 2L) as lrcn.video.flow.fields_at makes them. ValueError: a run on
        optical flow without these.
        """
        planes = self.slider.flow and 2 * self.slider.flow.length
        shape = () if flow is None else np.shape(flow)
        if planes and (shape[:1], shape[3:]) != ((len(frames),), (planes,)):
            raise ValueError(f"this run sees optical flow: expected flow uint8 ({len(frames)}, H, W, "
                             f"{planes}), got {shape}; lrcn.video.flow.fields_at(film, indices, "
                             f"trained.flow) makes it")
        self.slider.restart()
        crops = [self.slider.crop(*seen) for seen in
                 zip(frames, flow if planes else [None] * len(frames), strict=True)]
        return torch.cat([stream.encoder(torch.from_numpy(stream.inputs([crop[i] for crop in crops])))
                          .float().cpu() for i, stream in enumerate(self.slider.streams)], 1)


def lrcn(run, checkpoint=None, device="auto"):
    """The Recogniser of a run folder of train.py. checkpoint: a name in it (default: the best one).

    ValueError: no run folder, a checkpoint that is none, or a device that is not there.
    """
    try:
        device = utils.choose_device(device)
        return Recogniser(utils.load_trained(run, checkpoint, device), device)
    except UserError as error:
        raise ValueError(str(error)) from None
