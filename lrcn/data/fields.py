"""Optical flow beside the sampled clips: what encoders of the modality "flow" read.

    <sampled_data_dir>/optical_flow/
        settings.json         how it was made, for all clips alike: see video/flow.py
        <Class>/<video>.avi   of every sampled frame its L fields: u1 ... uL, v1 ... vL, grey JPEG pictures;
                              a field that several stacks hold lies there once

Safe to delete. A file belongs to its clip: what takes a clip out takes its flow out first.
"""
import functools
import os
from pathlib import Path

import numpy as np

from lrcn.base import Lazy, UserError, files
from lrcn.data.manifest import FLOW
from lrcn.data.sampler import is_picture, moments
from lrcn.video import avi
from lrcn.video.flow import Flow
from lrcn.video.framefolder import holds_frames, series_at
from lrcn.video.reader import VideoError

cv2 = Lazy("cv2")


def flow_path(video):
    """The path of a SampledVideo's flow, below the sampled folder."""
    return f"{FLOW}/{video.path}"


def flow_of(folder):
    """The Flow of a sampled folder; UserError: it has none."""
    path = Path(folder) / FLOW / "settings.json"
    if path.is_file():
        return Flow.of(files.read_json(path), path)
    raise UserError(f"--sampled_data_path {folder}: no optical flow beside its clips; add it with "
                    f"preprocessing_data.py --flow dis, and the flags that the clips were made with")


def require(folder, transform_or_recipe, saved=None):
    """The settings of the flow in a sampled folder, None for a run that does not see flow. UserError: it is
    not there, too short, or other than that of the run's training, `saved`."""
    if "flow" not in transform_or_recipe.modality.split("+"):
        return None
    there, length = flow_of(str(folder)), transform_or_recipe.flow_length
    if length > there.length:
        raise UserError(f"--flow_length {length}: {folder} holds {there.length} fields of flow a frame; "
                        f"remove {Path(folder) / FLOW} and run preprocessing_data.py --flow {there.backend} "
                        f"--flow_length {length}")
    settings, trained = there.settings(), saved or {}
    for name in ("backend", "preset", "bound", "digest"):
        if name in trained and trained[name] != settings[name]:
            raise UserError(f"--sampled_data_path {folder}: its optical flow has {name} {settings[name]}, "
                            f"and the run was trained on {name} {trained[name]}; make it alike with "
                            f"preprocessing_data.py")
    return settings


def source_fields(folder, video, indices, length):
    """Planes uint8 (N, H, W, 2 length) of the first `length` fields of the sampled frames `indices`.
    UserError: they are not there, or cannot be read."""
    there = flow_of(str(folder)).length
    wanted = sorted(set(indices))
    numbers = [(2 * i + plane) * there + k for i in wanted for plane in (0, 1) for k in range(length)]
    try:
        pictures = avi.pictures(Path(folder) / flow_path(video), numbers)
        planes = np.stack(pictures).reshape(len(wanted), 2 * length, *pictures[0].shape)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"--sampled_data_path {folder}: cannot read {flow_path(video)} ({reason}); run "
                        f"preprocessing_data.py again") from None
    return np.moveaxis(planes, 1, -1)[np.searchsorted(wanted, indices)]


def add_fields(job, write, raw, count, rate, seed, flow, pictures=None):
    """Write the flow of a sampled clip; see sampler.sample. pictures: a folder of fields that were made
    elsewhere; those beside a video's frames are taken in any case."""
    source = Path(raw, job.source)
    if is_picture(job.source):
        raise VideoError("a picture shows no motion")
    elsewhere = _pictures(pictures, job) if pictures else lies_beside(source) and series_at(source).flow
    with moments(job, raw, count, rate, seed, None if elsewhere else flow) as (info, _, _, frames):
        fields = ((number, planes) for number, _, planes in frames)
        if elsewhere:
            fields = _made_elsewhere(elsewhere, pictures or source, job, source, info.frames,
                                     [number for number, *_ in frames], flow.length)
        write(_each_once(fields, flow.length), 2 * flow.length)


def _each_once(fields, length):
    """The planes of [(source frame's number, planes (H, W, 2L))] one after another; one that was there
    before, in the stack of an earlier frame or repeated at the video's end, as the number of its place."""
    places = {}     # {(plane, source frame): the place of its picture}
    for place, (number, planes, k) in enumerate((*one, k) for one in fields for k in range(2 * length)):
        key, picture = (k // length, number + k % length), np.ascontiguousarray(planes[..., k])
        if key not in places and k % length and np.array_equal(picture, planes[..., k - 1]):
            places[key] = places[key[0], key[1] - 1]
        yield places.get(key, picture)
        places.setdefault(key, place)


def lies_beside(source):
    """Whether a source is a folder of frames with their flow, flow_x_ and flow_y_."""
    return os.path.isdir(source) and all(series_at(source).flow)


def _pictures(folder, job):
    """[{number: path} of u, of v] of a video's flow: numbered pictures in u/<video>/ and v/<video>/ of
    `folder`, or flow_x_ and flow_y_ in a folder with the path or name of the video. VideoError: neither."""
    planes = []
    for plane in "uv":
        there = _subfolders(folder, plane) if os.path.isdir(Path(folder, plane)) else {}
        path = there.get(job.video.lower()) or there.get(Path(job.source).stem.lower())
        planes.append(series_at(path).frames if path else {})
    for place in (job.source, os.path.splitext(job.source)[0], f"{job.cls}/{job.video}", job.video):
        if not all(planes) and os.path.isdir(Path(folder, place)):
            planes = series_at(Path(folder, place)).flow
    if not all(planes):
        raise VideoError(f"no u/{job.video}/ and v/{job.video}/ with numbered pictures in {folder}, nor "
                         f"flow_x_ and flow_y_ pictures in its {job.source}/")
    return planes


def _made_elsewhere(pictures, folder, job, source, frames, indices, length):
    """Yields (index, planes (H, W, 2L)). pictures: [{number: path} of u, of v]; a field has the number of its
    first frame, in a film counted from the first field. VideoError names a picture that is missing."""
    first = min(min(plane) for plane in pictures)
    numbers = list(series_at(source).frames if holds_frames(source) else range(first, first + frames))
    if numbers[0] != first:
        raise VideoError(f"its frames begin with number {numbers[0]}, and its flow in {folder} with {first}")
    last = max(len(numbers) - 2, 0)     # the last frame has no field of its own
    for plane, there in zip("uv", pictures, strict=True):
        if lacking := [number for number in numbers[:last + 1] if number not in there]:
            raise VideoError(f"{plane}/{job.video}/ in {folder} has no picture of number {lacking[0]} "
                             f"({len(lacking)} of {last + 1} are missing); make its flow again")
    read = functools.lru_cache(2 * length)(lambda path: cv2.imread(path, cv2.IMREAD_GRAYSCALE))
    for index in map(int, indices):
        planes = [read(plane[numbers[min(index + k, last)]]) for plane in pictures for k in range(length)]
        if any(plane is None or plane.shape != planes[0].shape for plane in planes):
            raise VideoError(f"its flow of frame {index} is not a pair of pictures of one size")
        yield index, np.stack(planes, -1)


@functools.lru_cache
def _subfolders(folder, plane):
    """{name in small letters: path} of the folders of one plane, listed once a process."""
    return {entry.name.lower(): entry.path for entry in os.scandir(Path(folder, plane)) if entry.is_dir()}
