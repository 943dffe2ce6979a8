"""Image networks as encoders of frames: built by name, made fast, cut into a frozen and a trained part.

    encoder = build_encoder("resnet152")             # uint8 (N, 3, 224, 224) -> float (N, 2048)
    fast = for_inference(encoder)                     # the same features, batch norm folded
    frozen, tail = cut(encoder, 2)                    # tail: the last two blocks, to be trained
"""

import cv2
import numpy as np

MODALITIES = ("rgb", "rgbdiff", "rgb+rgbdiff")


def differences(frames, earlier):
    """What changed from `earlier` to `frames`, both uint8 (T, S, S, 3): 128 where nothing did."""
    out = np.empty_like(frames)
    for before, after, d in zip(earlier, frames, out, strict=True):
        cv2.addWeighted(after, 1, before, -1, 128, dst=d)
    return out


def change_at(i, frames):
    """(before, after): the two of `frames` sampled frames whose difference is that of frame i.

    It is from the frame before; the very first frame has the second's.
    """
    after = min(max(i, 1), frames - 1)
    return max(after - 1, 0), after


def as_modality(frames, changes, transform):
    """Crops and their differences, uint8 (T, S, S, 3), as the encoder takes them: (T, [2,] S, S, 3)."""
    parts = {"rgb": frames, "rgbdiff": changes}
    parts = [parts[name] for name in transform.modality.split("+")]
    return parts[0] if len(parts) == 1 else np.stack(parts, 1)
