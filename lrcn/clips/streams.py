"""What the encoder sees of a moment: the frame, its difference from the frame before, or both."""

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
