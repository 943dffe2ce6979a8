"""A trained run in a notebook, or in another program.

    import torch
    model = torch.hub.load("path/to/this/repository", "lrcn", run="20261121-110128", source="local")
    model.classes                               # names in label order
    prediction = model.predict("holiday.mp4")   # .segments, .times, .probabilities
    model.features(frames)                      # uint8 (T, H, W, 3) RGB -> float (T, D)
    model.features(frames, flow)                # of a run on optical flow: its fields, uint8 (T, H, W, 2L)
"""
from pathlib import Path

import utils

if Path(utils.__file__).resolve().parent != Path(__file__).resolve().parent:
    raise ImportError(f"another module called utils ({utils.__file__}) was imported before; load this model "
                      "first, or use another process")

from lrcn.base.cli import UserError

dependencies = ["torch", "torchvision", "cv2", "av", "numpy", "tqdm", "sklearn"]


def lrcn(run, checkpoint=None, device="auto", flow=None):
    """The lrcn.watching.recogniser.Recogniser of a run folder, as test_on_video.py makes it; `trained.model`
    is the network, a models.LRCN. checkpoint: a name in the folder (default: the best one). flow: the method
    of optical flow, if not that of the training. ValueError: a wrong folder, checkpoint or device."""
    try:
        return utils.load_recogniser(run, checkpoint, device, flow=flow)
    except UserError as error:
        raise ValueError(str(error)) from None
