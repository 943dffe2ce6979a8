"""Optical flow beside the sampled clips: what the encoders of the modality "flow" read.

    <sampled_data_dir>/optical_flow/
        settings.json         backend, length, bound: how it was made, for all clips alike
        <Class>/<video>.avi   of every sampled frame its L fields, two grey JPEG pictures each (u, v)

    planes = source_fields("sampled", video, [0, 1], 1)     # uint8 (2, H, W, 2L): u1 ... uL, v1 ... vL
"""
from pathlib import Path

import numpy as np

from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.video import avi

FOLDER = "optical_flow"


def flow_path(video):
    """Where a sampled video's flow lies, below the sampled folder."""
    return f"{FOLDER}/{video.path}"


def flow_settings(folder):
    """{"backend", "length", "bound", ...} of the flow in a sampled folder; UserError where there is none."""
    path = Path(folder) / FOLDER / "settings.json"
    if not path.is_file():
        raise UserError(f"--sampled_data_path {folder}: no optical flow beside the clips; add it with "
                        f"preprocessing_data.py --flow dis, and the flags that the clips were made with")
    return files.read_json(path)


def source_fields(folder, video, indices, length):
    """Planes uint8 (N, H, W, 2 length) of the first `length` fields of the sampled frames `indices`.

    UserError: they are not there, or cannot be read.
    """
    there = flow_settings(folder)["length"]
    if length > there:
        raise UserError(f"--flow_length {length}: {folder} holds {there} fields of flow a frame; add more "
                        f"with preprocessing_data.py --flow_length {length}")
    wanted = sorted(set(indices))
    numbers = [(i * there + k) * 2 + plane for i in wanted for plane in (0, 1) for k in range(length)]
    try:
        found = avi.pictures(Path(folder) / flow_path(video), numbers)
    except (OSError, ValueError) as error:
        raise UserError(f"--sampled_data_path {folder}: cannot read {flow_path(video)} ({error}); "
                        f"run preprocessing_data.py --flow again") from None
    planes = np.stack(found).reshape(len(wanted), 2 * length, *found[0].shape)
    return np.moveaxis(planes, 1, -1)[np.searchsorted(wanted, indices)]
