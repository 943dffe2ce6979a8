"""Encode every frame once: the feature cache, and the encoder at its machine's speed.

    features = encode_clips(encoder, clips, "sampled", options)   # (clips, T, D) float16

A cache lies in <sampled_data_dir>/features/<key>/, where the key is the content: the encoder, a
digest of its weights, its transform, the clips and their sampled files, the seed of the views, the
precision. Safe to delete. Files in it:

    key.json      what the key was made of
    features.bin  one row a frame, float16
    blocks.bin    one uint64 a block of rows: its CRC32 + 1, or 0 while it has not been encoded

Every block is checked against its CRC before use; one that is missing, cut off or damaged is
encoded again, and so a run that was stopped goes on where it was. Blocks are the encoder's batches,
so that a feature does not depend on where a run was interrupted or on how many ranks shared it.
"""

import contextlib
import hashlib
import json
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.base.ranks import Rank
from lrcn.base.workers import quiet, started
from lrcn.clips.frames import Clip, clip_frames
from lrcn.encoding import surgery
from lrcn.encoding.store import BLOCK, Cache, _size, cache_key

# What a kill costs at the most; a cache that is written more often slows the encoder.
KEEP_SECONDS = 2


# Features larger than this on a probe are kept in float32: float16 ends at 65504.
FLOAT16_ROOM = 4096


@dataclass
class Options:
    """How frames are encoded."""
    device: torch.device
    num_workers: int = 2
    seed: int = 42
    cache: bool = True
    dtype: str = "float16"
    compile: bool = False
    rank: Rank = field(default_factory=Rank)


class FrameEncoder:
    """A frozen encoder made ready for a device: uint8 (N, [M,] S, S, 3) -> features (N, ...), float.

    On a CPU float32, channels last, batch norm folded; on CUDA bfloat16 besides.
    """

    def __init__(self, encoder, device, compile=False):
        self.device, self.cuda = device, device.type == "cuda"
        self.precision = "bfloat16" if self.cuda else "float32"
        self.encoder = surgery.for_inference(encoder.to(device))
        if compile:
            self.encoder = torch.compile(self.encoder)

    @torch.inference_mode()
    def __call__(self, frames):
        frames = frames.to(self.device, non_blocking=True).movedim(-1, -3)  # channels last as it is
        with torch.autocast("cuda", torch.bfloat16, enabled=self.cuda):
            return self.encoder(frames)


def frame_loader(frames, options, device):
    """Blocks of decoded frames, in order, made in worker processes ahead of the encoder."""
    return DataLoader(frames, batch_size=None, num_workers=options.num_workers,
                      pin_memory=device.type == "cuda",
                      prefetch_factor=4 if options.num_workers else None, worker_init_fn=quiet)


class Blocks:
    """The rows of chosen blocks as a map-style data set: i -> uint8 (rows, [M,] S, S, 3).

    A file that cannot be read comes out as its error's text, because a worker cannot raise across
    to its parent in one line.
    """

    def __init__(self, rows, size, chosen, folder, transform, seed):
        self.rows, self.size, self.chosen = rows, size, chosen
        self.source = folder, transform, seed

    def __len__(self):
        return len(self.chosen)

    def __getitem__(self, i):
        cv2.setNumThreads(1)
        folder, transform, seed = self.source
        begin = self.chosen[i] * self.size
        try:
            return np.concatenate([clip_frames(folder, clip, transform, seed)
                                   for clip in _by_view(self.rows[begin:begin + self.size])])
        except UserError as error:
            return str(error)


def _by_view(rows):
    """Neighbouring rows (video, view, frame) of one video and view, as one Clip each."""
    clips = []
    for video, view, frame in rows:
        if clips and clips[-1].video is video and clips[-1].view == view:
            clips[-1] = Clip(video, (*clips[-1].frames, frame), view)
        else:
            clips.append(Clip(video, (frame,), view))
    return clips


def unique_rows(clips):
    """([(video, view, frame)] without repeats, index int64 (clips, T) into them)."""
    wanted = {}
    for clip in clips:
        wanted.setdefault((clip.video, clip.view), set()).update(clip.frames)
    rows = [(video, view, frame) for (video, view), frames in wanted.items() for frame in sorted(frames)]
    number = {row: i for i, row in enumerate(rows)}
    index = [[number[clip.video, clip.view, frame] for frame in clip.frames] for clip in clips]
    return rows, np.array(index, np.int64).reshape(len(clips), -1)


def encode_clips(encoder, clips, folder, options, what="frames"):
    """Features of clips, (clips, T, ...) of options.dtype; every frame of a view is encoded once.

    float32 takes the place of float16 where the features would not fit into it.
    encoder: a frozen models.Encoder (or what is left of one, see its `spec` and `digest`).
    clips: dataset.Clips of equal length. Kept in the cache of `folder` unless options.cache is off.
    """
    rows, index = unique_rows(clips)
    frame_encoder = FrameEncoder(encoder, options.device, options.compile)
    noise = torch.randint(0, 256, (1, *encoder.transform.shape), dtype=torch.uint8,
                          generator=torch.Generator().manual_seed(0))
    probe = frame_encoder(noise)
    shape = tuple(probe.shape[1:])
    if options.dtype == "float16" and not probe.abs().max() < FLOAT16_ROOM:
        # Deep networks without trained weights let their activations grow without bound.
        options = replace(options, dtype="float32")
    size = BLOCK[options.device.type]

    def encode(chosen, keep):
        blocks = Blocks(rows, size, chosen, folder, encoder.transform, options.seed)
        _encode(frame_encoder, blocks, keep, options, what)

    if options.cache:
        key = cache_key(encoder, rows, folder, options, frame_encoder.precision)
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        cache = Cache(Path(folder) / "features" / name, len(rows), shape, options.dtype, size)
        _fill(cache, key, encode, options.rank)
        return cache.read()[index]
    values = np.empty((len(rows), *shape), options.dtype)

    def keep(written):
        for b, block in written:
            values[b * size:b * size + len(block)] = block

    encode(list(range(-(-len(rows) // size))), keep)
    return values[index]


def _fill(cache, key, encode, rank):
    """Encode what the cache lacks, shared among the ranks; a second run waits for the first."""
    with contextlib.ExitStack() as stack:
        pending = None
        if rank.first:
            cache.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(files.lock(cache.folder, "sampled_data_path", "another run", wait=True))
            missing = cache.rows * cache.row_bytes - _size(cache.folder / "features.bin")
            files.require_space(cache.folder, missing, "the feature cache")
            with cache.open(key):
                pending = cache.pending()
        pending = rank.share(pending)
        if not pending:
            return
        if rank.first and len(pending) < cache.blocks:
            cli.say(f"feature cache: {cache.blocks - len(pending)} of {cache.blocks} blocks are there")
        with cache.open(key):
            encode(pending[rank.number::rank.world], cache.put)
        rank.wait()


def _encode(frame_encoder, blocks, keep, options, what):
    """Run blocks through the encoder; keep([(block, rows)]) gets them in order, every few seconds."""
    total = sum(min(blocks.size, len(blocks.rows) - b * blocks.size) for b in blocks.chosen)
    bar = cli.progress(total=total, unit="frame", desc=f"encoding {what}", show=options.rank.first,
                       mininterval=0.5, smoothing=0.05)
    if bar.disable and options.rank.first:      # a log has this line in the bar's place
        cli.say(f"encoding {what}: {total} frames")
    under_way, written, kept_at = deque(), [], time.monotonic()

    def finish():
        nonlocal written, kept_at
        b, values = under_way.popleft()
        written.append((b, values.cpu().numpy()))
        bar.update(len(values))
        if time.monotonic() - kept_at > KEEP_SECONDS:
            keep(written)
            written, kept_at = [], time.monotonic()

    dtype = getattr(torch, options.dtype)
    try:
        loader = started(frame_loader(blocks, options, options.device))
        for b, frames in zip(blocks.chosen, loader, strict=True):
            if isinstance(frames, str):
                raise UserError(frames)
            under_way.append((b, frame_encoder(frames).to(dtype)))
            if len(under_way) > 1:  # one block runs on the device while the last one is fetched
                finish()
        while under_way:
            finish()
    finally:
        bar.close()
        if written:  # what was encoded before a Ctrl-C is kept
            keep(written)
