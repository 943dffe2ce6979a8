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
import os
import zlib
from pathlib import Path

import numpy as np

from lrcn.base import files
from lrcn.base.cli import UserError

# Frames the encoder takes at once: what fills the device, whatever --batch_size says.
BLOCK = {"cpu": 8, "mps": 64, "cuda": 256}


def cache_key(encoder, rows, folder, options, precision):
    """What a cache's content depends on, in plain containers."""
    digest = hashlib.sha256()
    sizes = {}
    for video, view, frame in rows:
        if video.path not in sizes:
            try:
                sizes[video.path] = os.stat(Path(folder) / video.path).st_size
            except OSError:
                raise UserError(f"--sampled_data_path {folder}: {video.path} is missing; "
                                f"run preprocessing_data.py again") from None
        digest.update(f"{video.path}|{sizes[video.path]}|{view}|{frame}\n".encode())
    manifest = hashlib.sha256((Path(folder) / "manifest.csv").read_bytes()).hexdigest()
    spec = json.loads(json.dumps(encoder.spec()))  # as it comes back from key.json: tuples are lists there
    return {"format": 2, "encoder": spec, "weights": encoder.digest(), "precision": precision,
            "dtype": options.dtype, "block": BLOCK[options.device.type],
            "seed": options.seed if any(view > 0 for _, view, _ in rows) else None,
            "manifest": manifest, "rows": len(rows), "frames": digest.hexdigest()}


class Cache:
    """The rows of one key on disk; see the head of this file."""

    def __init__(self, folder, rows, shape, dtype, block):
        self.folder, self.rows, self.block = folder, rows, block
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.row_bytes = int(np.prod(shape)) * self.dtype.itemsize
        self.blocks = -(-rows // block)

    @contextlib.contextmanager
    def open(self, key):
        """With the files there, of their full size and open for writing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            known = files.read_json(self.folder / "key.json")
        except UserError:
            known = None
        if known != key:  # of something else, or half made
            for name in ("blocks.bin", "features.bin"):
                (self.folder / name).unlink(missing_ok=True)
            files.write_json(self.folder / "key.json", key)
        with contextlib.ExitStack() as stack:
            self.data, self.sums = (stack.enter_context(open(self.folder / name, "rb+" if
                                    (self.folder / name).exists() else "wb+"))
                                    for name in ("features.bin", "blocks.bin"))
            # The room is taken at once: a disk that is too small says so now, not in the middle.
            for f, size in ((self.data, self.rows * self.row_bytes), (self.sums, self.blocks * 8)):
                f.truncate(size)
                if size and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(f.fileno(), 0, size)
            yield self

    def _bytes(self, b):
        begin = b * self.block
        return begin * self.row_bytes, (min(begin + self.block, self.rows) - begin) * self.row_bytes

    def pending(self):
        """The blocks that have to be encoded (again)."""
        self.sums.seek(0)
        sums = np.frombuffer(self.sums.read(), np.uint64)
        return [b for b in range(self.blocks) if sums[b] == 0 or sums[b] != self._crc(b)]

    def _crc(self, b):
        begin, size = self._bytes(b)
        return zlib.crc32(os.pread(self.data.fileno(), size, begin)) + 1

    def put(self, written):
        """Store [(block, its rows)]: the data reaches the disk before its check sum does."""
        for b, values in written:
            os.pwrite(self.data.fileno(), values.tobytes(), self._bytes(b)[0])
        os.fsync(self.data.fileno())
        for b, values in written:
            os.pwrite(self.sums.fileno(), np.uint64(zlib.crc32(values.tobytes()) + 1).tobytes(), b * 8)
        os.fsync(self.sums.fileno())

    def read(self):
        """All rows, memory-mapped, (rows, ...)."""
        return np.memmap(self.folder / "features.bin", self.dtype, "r", shape=(self.rows, *self.shape))


def _size(path):
    return path.stat().st_size if path.exists() else 0
