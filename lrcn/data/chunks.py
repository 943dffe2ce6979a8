"""What a video encoder reads: chunks of neighbouring sampled frames, each one step of the LRCN.

    chunk_of("video/r3d_18")                # (16, 16, 15.0): frames, from one to the next, frames a second
    chunk_of("video/r3d_18", stride=8)      # (16, 8, 15.0): each overlaps half of the next one
    chunk_of("resnet18")                    # (0, 0, 0): an image encoder reads frames
    require_rate("sampled", recipe)     # UserError: its clips hold another number of frames a second

Chunk k of a video begins at its frame k * stride, as long as a whole one fits; a video that is shorter than a
chunk has one, in which its last frame repeats.
"""
from lrcn.base.cli import UserError
from lrcn.data.manifest import read_sampled, sampling_settings
from lrcn.video.sampling import Rate

PREFIX = "video/"
# torchvision's video networks: frames of a chunk and frames a second, with which the weights were measured
# (`clip_len`, `frame_rate` in its documentation). A copy, so that flags are read without torch; tested.
VIDEO_ENCODERS = {"r3d_18": (16, 15.), "mc3_18": (16, 15.), "r2plus1d_18": (16, 15.), "s3d": (128, 15.),
                  "mvit_v1_b": (16, 7.5), "mvit_v2_s": (16, 7.5),
                  "swin3d_t": (32, 15.), "swin3d_s": (32, 15.), "swin3d_b": (32, 15.)}
NAMES = ", ".join(PREFIX + name for name in VIDEO_ENCODERS)
LEAST, ONLY = {"s3d": 14}, ("mvit_v1_b", "mvit_v2_s")      # frames that a network takes
LONGEST_CHUNK = 1024
NEAR = 0.05     # a rate that is off by less is the same one: 29.97 is 30


def chunk_of(encoder, frames=None, stride=None, modality="rgb"):
    """(frames of a chunk, frames from the start of one to that of the next, frames a second) of an encoder by
    name, by default those of its weights; (0, 0, 0) for an image encoder. UserError: no such video network,
    or --chunk_frames, --chunk_stride or --modality does not go with it."""
    if not encoder.startswith(PREFIX):
        for flag, value in (("chunk_frames", frames), ("chunk_stride", stride)):
            if value is not None:
                raise UserError(f"--{flag} {value}: --encoder {encoder} reads frames one by one; leave the "
                                f"flag out, or take one of {NAMES}")
        return 0, 0, 0
    name = encoder.removeprefix(PREFIX)
    if name not in VIDEO_ENCODERS:
        raise UserError(f"--encoder {encoder}: torchvision has no such video network; take one of {NAMES}")
    if modality != "rgb":
        raise UserError(f"--modality {modality}: --encoder {encoder} reads chunks of frames, which show "
                        f"motion by themselves; leave the flag out, or take an image encoder")
    usual, rate = VIDEO_ENCODERS[name]
    frames = frames or usual
    if frames != usual and name in ONLY or frames < LEAST.get(name, 1):
        least = usual if name in ONLY else f"{LEAST[name]} or more"
        raise UserError(f"--chunk_frames {frames}: --encoder {encoder} takes {least}; leave the flag out")
    return frames, stride or frames, rate


def require_rate(folder, recipe):
    """UserError where the clips of a sampled folder hold another number of frames a second than the video
    encoder of a training.recipe.Recipe wants; where it is not known, they are taken as they are."""
    wanted, settings = recipe.chunk[2], sampling_settings(folder)
    if not wanted or settings.get("sampling_rate") is None:
        return
    if settings["sampling_rate"]:
        there = {Rate.of(settings).per_second}
    else:   # every frame of the sources
        there = {1 / video.step for video in read_sampled(folder) if video.step}
    if off := [rate for rate in there if abs(rate / wanted - 1) > NEAR]:
        raise UserError(f"--sampled_data_path {folder}: its clips hold {max(off):.3g} frames a second, and "
                        f"--encoder {recipe.encoder} wants {wanted:g}; make a folder for it with: "
                        f"python preprocessing_data.py --for {recipe.encoder} --row_data_dir VIDEOS "
                        f"--sampled_data_dir NEW")
