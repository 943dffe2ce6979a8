"""What a trained model says of videos.

    probabilities = predict_videos(trained, data, options)          # (videos, C), windows averaged
    values, owner = clip_features(trained, data, options, "all")    # what its head reads
"""
import numpy as np
import torch

from lrcn.base.cli import UserError
from lrcn.data.frames import mirrored, windows
from lrcn.features.features import encode_clips


def clip_features(trained, data, options, number=1, flip=False):
    """(Features (clips, T, D), the clips' videos int (clips,)) of all test windows."""
    clips, owner = [], []
    for i, video in enumerate(data.videos):
        mine = windows(video, trained.settings["num_frames_video"], number)
        mine += [mirrored(clip) for clip in mine] if flip else []
        clips += mine
        owner += [i] * len(mine)
    values = encode_clips(trained.model.encoder, clips, data.folder, options, "test")
    return values, np.array(owner)


@torch.inference_mode()
def head_logits(head, values, device="cpu", chunk=256):
    """Logits float32 (clips, C) of features (clips, T, D), an array or Features, in chunks of one size."""
    head = head.to(device).eval()
    parts = (np.ascontiguousarray(values[i:i + chunk]) for i in range(0, len(values), chunk))
    return torch.cat([head(torch.from_numpy(part).to(device).float()).float().cpu() for part in parts])


def softmax(logits):
    """Probabilities (..., C) of logits; UserError where a damaged model gives what is no number."""
    if not torch.isfinite(logits).all():
        raise UserError("--model_dir: what this model says is not finite: its weights or its transform are "
                        "damaged; take another checkpoint")
    return logits.softmax(-1)


def predict_videos(trained, data, options, number=1, flip=False):
    """Probabilities float64 (videos, C): the softmax, averaged over a video's windows."""
    values, owner = clip_features(trained, data, options, number, flip)
    shares = head_logits(trained.model.head, values, options.device)
    shares = softmax(shares.double()).numpy()
    total = np.zeros((len(data.videos), shares.shape[1]))
    np.add.at(total, owner, shares)
    return total / np.bincount(owner)[:, None]
