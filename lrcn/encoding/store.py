"""The feature store: one entry a frame of a video, encoded once and shared by all runs and scripts.

    <sampled_data_dir>/features/
        videos.csv           what every sampled file holds, see contents.py
        <key>/key.json       encoder, digest of its weights, transform and modality, engine, precision
        <key>/<writer>.rows  features, one row an entry, appended
        <key>/<writer>.index one ENTRY a row: which frame of which content in which view, check sum

Safe to delete. Entries are only ever appended, by one writer a file (a machine's process of one
number), rows before their index. A row counts when its check sum, which its index entry is part of,
is right: what a kill cut off, what a disk damaged and what two machines without a common lock wrote
across each other is not there, and is encoded again.
"""
import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import zlib
from pathlib import Path

import numpy as np

from lrcn.base import files
from lrcn.base.cli import UserError

FORMAT = 3      # of the entries, and of the pictures that the reader makes of a sampled file
ENTRY = np.dtype([("video", "<u8", 2), ("view", "<u8"), ("frame", "<u4"), ("crc", "<u4")])
CHUNK = 1 << 24     # bytes read at once while check sums are looked at
# What a file system without locks says; the files stay whole there, and work may be done twice.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def view_number(words):
    """The number of a view in an ENTRY, from the words that name it."""
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "little")


def _mix(entries):
    """uint64 of each entry, its check sum aside, nearly always another one for another entry."""
    return (entries["video"][:, 0] ^ entries["view"]
            ^ entries["frame"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _seeds(entries):
    """What an entry's check sum starts from, so that a row under a wrong entry is wrong too."""
    mixed = _mix(entries) ^ entries["video"][:, 1]
    return ((mixed ^ mixed >> np.uint64(32)) & np.uint64(0xFFFFFFFF)).tolist()


def check_sums(entries, rows):
    """uint32 (N,) of entries (N,) and their rows, an array (N, ...)."""
    return np.array([zlib.crc32(row, seed) for row, seed in zip(rows, _seeds(entries), strict=True)],
                    np.uint32)


class Store:
    """The entries of one key. `description` is its key.json, None before `describe`.

    key: plain containers that name encoder, weights, engine and precision.
    """

    def __init__(self, folder, key):
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self.path, self.key = Path(folder) / "features" / name, key
        self.description, self.segments, self.starts = None, [], np.zeros(0, np.int64)

    # ------------------------------------------------------------ what it is

    @contextlib.contextmanager
    def alone(self):
        """Hold the key for one run; another one waits, and finds there what this one has encoded."""
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.lock(self.path, "sampled_data_path", "another run", wait=True))
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            yield

    def look(self):
        """Read key.json; what lies there under another key is removed. Only while `alone`."""
        try:
            said = files.read_json(self.path / "key.json")
        except UserError:
            return None
        if said.get("key") != self.key:
            for path in (*self.path.glob("*.rows"), *self.path.glob("*.index")):
                path.unlink()
            return None
        self.description = said
        return said

    def describe(self, **more):
        """Write key.json. shape, dtype: of a row; or refused: why this engine does not serve."""
        self.description = {"key": self.key, **more}
        files.write_json(self.path / "key.json", self.description)

    def lay_out(self, description):
        """Take up the shape of a row, and see what entries there are."""
        self.description = description
        self.shape, self.dtype = tuple(description["shape"]), np.dtype(description["dtype"])
        self.row_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self.open()
        return self

    # ------------------------------------------------------------ reading

    def open(self):
        """See the entries that all writers have left until now."""
        names = sorted(path.stem for path in self.path.glob("*.index"))
        self.segments = [Segment(self.path / name, self.row_bytes) for name in names]
        ends = np.cumsum([0] + [len(s.entries) for s in self.segments])
        self.starts = ends[:-1]
        return self

    def forget_entries(self):
        """Free their memory; the rows that `find` named can still be read."""
        for segment in self.segments:
            segment.entries = None

    def find(self, wanted):
        """int64 (N,): the number of the row of each of `wanted` (ENTRY, their check sums ignored), or -1.

        Every row that is named has been read and its check sum was right.
        """
        there = np.concatenate([s.entries for s in self.segments] or [np.zeros(0, ENTRY)])
        order = np.argsort(_mix(there), kind="stable")
        keys, sought = _mix(there)[order], _mix(wanted)
        last = np.searchsorted(keys, sought, "right") - 1
        found = np.full(len(wanted), -1, np.int64)
        open_ = np.arange(len(wanted))
        while len(open_):   # where a row is damaged, an earlier one of the same entry may not be
            at = last[open_]
            hit = (at >= 0) & (keys[at] == sought[open_]) if len(keys) else np.zeros(len(open_), bool)
            open_, rows = open_[hit], order[at[hit]]
            same = np.ones(len(open_), bool)
            for name in ("video", "view", "frame"):
                equal = there[name][rows] == wanted[name][open_]
                same &= equal.all(1) if equal.ndim > 1 else equal
            good = same.copy()
            good[same] = self._whole(there[rows[same]], rows[same])
            found[open_[good]] = rows[good]
            open_ = open_[~good]
            last[open_] -= 1
        return found

    def _whole(self, entries, rows):
        """bool (N,): whether the check sums of rows (global numbers) are those of their entries."""
        right, step = np.zeros(len(rows), bool), max(1, CHUNK // self.row_bytes)
        order = np.argsort(rows, kind="stable")     # one way through the files
        for i in range(0, len(rows), step):
            part = order[i:i + step]
            values = self.read(rows[part]).view(np.uint8).reshape(len(part), self.row_bytes)
            right[part] = check_sums(entries[part], values) == entries["crc"][part]
        return right

    def read(self, rows):
        """The features (*rows.shape, *shape) of rows, whole numbers of any shape."""
        flat = np.asarray(rows).ravel().astype(np.int64)
        out = np.empty((len(flat), *self.shape), self.dtype)
        segment = np.searchsorted(self.starts, flat, "right") - 1
        cuts = np.flatnonzero((np.diff(flat) != 1) | (np.diff(segment) != 0)) + 1
        raw = out.view(np.uint8).reshape(len(flat), self.row_bytes)
        for a, b in zip([0, *cuts.tolist()], [*cuts.tolist(), len(flat)], strict=True):
            if a < b:
                self.segments[segment[a]].read_into(raw[a:b], int(flat[a] - self.starts[segment[a]]))
        return out.reshape(*np.shape(rows), *self.shape)

    # ------------------------------------------------------------ writing

    def writer(self, number):
        """The Writer of process `number` on this machine."""
        machine = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
        return Writer(self.path / f"{machine}-{number}", self.row_bytes)

    def require_space(self, rows):
        files.require_space(self.path, rows * (self.row_bytes + ENTRY.itemsize), "the feature store")


class Segment:
    """What one writer has left: `entries` (ENTRY,), and its rows."""

    def __init__(self, path, row_bytes):
        self.row_bytes = row_bytes
        whole = path.with_suffix(".index").stat().st_size // ENTRY.itemsize
        self.entries = np.fromfile(path.with_suffix(".index"), ENTRY, whole)
        try:
            self.file = open(path.with_suffix(".rows"), "rb", buffering=0)  # noqa: SIM115, as long as this
        except FileNotFoundError:
            self.entries = self.entries[:0]
            return
        self.entries = self.entries[:os.fstat(self.file.fileno()).st_size // row_bytes]

    def read_into(self, out, row):
        """Fill out, uint8 (n, row_bytes), from `row` on; what the file has not is 0, and its sum wrong."""
        done, view = 0, memoryview(out).cast("B")
        while done < len(view):
            got = os.preadv(self.file.fileno(), [view[done:]], row * self.row_bytes + done)
            if not got:
                view[done:] = bytes(len(view) - done)
                return
            done += got


class Writer:
    """Appends entries to one pair of files; they are made with the first."""

    def __init__(self, path, row_bytes):
        self.path, self.row_bytes, self.handles = path, row_bytes, None

    def put(self, entries, values):
        """Store values (N, ...) under entries (ENTRY, their check sums still to be made)."""
        if not len(entries):
            return
        if self.handles is None:
            self.handles = [os.open(self.path.with_suffix(kind), os.O_RDWR | os.O_CREAT, 0o666)
                            for kind in (".rows", ".index")]
            self.count = os.fstat(self.handles[1]).st_size // ENTRY.itemsize
        raw = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
        entries = entries.copy()
        entries["crc"] = check_sums(entries, raw)
        for handle, data, size in ((self.handles[0], raw, self.row_bytes),
                                   (self.handles[1], entries, ENTRY.itemsize)):
            _write(handle, data.tobytes(), self.count * size)
            os.fsync(handle)
        self.count += len(entries)

    def close(self):
        for handle in self.handles or ():
            os.close(handle)


def _write(handle, data, at):
    view = memoryview(data)
    while len(view):
        done = os.pwrite(handle, view, at)
        view, at = view[done:], at + done


def older_caches(folder):
    """Paths of what earlier versions kept in the store's place."""
    root = Path(folder) / "features"
    return [*(p.parent for p in root.glob("*/features.bin")), *root.glob("mean-*.npy")]


def size_of(path):
    """Bytes of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
