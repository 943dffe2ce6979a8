"""A trained run in a notebook, or in another program.

    import torch
    model = torch.hub.load("path/to/this/repository", "lrcn", run="20261121-110128", source="local")
    model.classes                               # names in label order
    said = model.predict("holiday.mp4")         # .segments, .times, .probabilities
    model.features(frames)                      # uint8 (T, H, W, 3) RGB -> float (T, D)
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
        self.slider = Slider(trained, device)

    def predict(self, video, min_probability=0.4, min_segment=1.0):
        """The Prediction of a video file, as test_on_video.py makes it.

        min_probability: a moment whose best label has less is "unsure"; min_segment: seconds, shorter
        runs of a label join a neighbour. lrcn.video.reader.VideoError: a file that cannot be read.
        """
        history = History(self.slider.length)
        for _ in analyse(Path(video), self.slider, history, self.trained.rate):
            pass
        shares = history.smoothed()
        least = int(np.ceil(min_segment * self.trained.rate.per_second))
        found = find_segments(history.times, history.end, shares, min_probability, least)
        segments = [(start, end, self.classes[label] if label >= 0 else UNSURE, probability)
                    for start, end, label, probability in found]
        return Prediction(segments, np.array(history.times), shares)

    @torch.inference_mode()
    def features(self, frames):
        """The encoder's features float (T, D) of successive frames, uint8 (T, H, W, 3) RGB."""
        self.slider.restart()
        stream = self.slider.streams[0]
        inputs = stream.inputs([stream.crop(frame) for frame in frames])
        return stream.encoder(torch.from_numpy(inputs)).float().cpu()


def lrcn(run, checkpoint=None, device="auto"):
    """The Recogniser of a run folder of train.py. checkpoint: a name in it (default: the best one).

    ValueError: no run folder, a checkpoint that is none, or a device that is not there.
    """
    try:
        device = utils.choose_device(device)
        return Recogniser(utils.load_trained(run, checkpoint, device), device)
    except UserError as error:
        raise ValueError(str(error)) from None
