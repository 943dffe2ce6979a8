"""What the encoder sees of a moment: the frame, its difference from the frame before, the optical flow from
it to the source frames behind it, or several of these.

A field of flow comes as two 8-bit planes, see video/flow.py: uint8 (H, W, 2L) holds those of L neighbouring
pairs of source frames, u1 ... uL and then v1 ... vL (u: to the right, v: down).
"""

import numpy as np

from lrcn.base.lazy import Lazy

cv2 = Lazy("cv2")

MODALITIES = ("rgb", "rgbdiff", "flow", "rgb+rgbdiff", "rgb+flow", "rgbdiff+flow", "rgb+rgbdiff+flow")


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


def flow_pictures(planes):
    """Planes uint8 (T, S, S, 2L) as the encoder takes them: the flow picture of the LRCN paper (section 4)
    for L = 1, x, y and magnitude as three channels; a stack of 2L channels (Simonyan and Zisserman 2014,
    section 3) for more."""
    if planes.shape[-1] > 2:
        return planes
    away = planes.astype(np.float32) - 127.5
    magnitude = np.minimum(np.hypot(away[..., 0], away[..., 1]) * 2, 255)
    return np.concatenate([planes, magnitude.astype(np.uint8)[..., None]], -1)


def as_modality(seen, transform):
    """{part: uint8 (T, S, S, C)} of the transform's parts as its encoder takes them: (T, [M,] S, S, C)."""
    parts = [seen[name] for name in transform.parts]
    return parts[0] if len(parts) == 1 else np.stack(parts, 1)
