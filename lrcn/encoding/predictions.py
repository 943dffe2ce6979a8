"""What a trained model is tested on, what it says of it, and how sure the figures are.

    trained = utils.load_trained("20261121-110128")
    data = test_data(trained, sampled_data_path, ucf_list_dir)      # the test list's videos
    probabilities = predict_videos(trained, data, options)          # (videos, C), windows averaged
    metrics = summarise(probabilities, data.labels, data.groups)    # top1, ci95, ...
"""

import numpy as np
import torch

from lrcn.clips.frames import mirrored, windows
from lrcn.encoding.features import encode_clips


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


def predict_videos(trained, data, options, number=1, flip=False):
    """Probabilities float64 (videos, C): the softmax, averaged over a video's windows."""
    values, owner = clip_features(trained, data, options, number, flip)
    shares = head_logits(trained.model.head, values, options.device).double().softmax(1).numpy()
    total = np.zeros((len(data.videos), shares.shape[1]))
    np.add.at(total, owner, shares)
    return total / np.bincount(owner)[:, None]
