"""The feature store: one entry a frame of a video, encoded once and shared by all runs and scripts.

    <sampled_data_dir>/features/
        videos.csv           the fingerprint of every sampled file, see rows.py
        <key>/key.json       encoder, digest of its weights, transform and modality, engine, precision
        <key>/<writer>.rows  features, one row an entry, appended
        <key>/<writer>.index one ENTRY a row: which frame of which content in which view, check sum

Safe to delete. Entries are only appended, rows before their index, by one writer a file: the process that has
locked it. A row counts when its check sum, over its index entry too, is right: what a kill cut off or a disk
damaged is encoded again. A row that was found is read from the file that was open then: neither another
writer nor --prune nor a deletion gives its number to another row.
"""
import contextlib
import errno
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import uuid
import zlib
from pathlib import Path

import numpy as np

from lrcn.base import files
from lrcn.base.cli import CLOSED, UserError

FORMAT = 3      # of the entries, and of the pictures that the reader makes of a sampled file
ENTRY = np.dtype([("video", "<u8", 2), ("view", "<u8"), ("frame", "<u4"), ("crc", "<u4")])
CHUNK = 1 << 24     # bytes read at once for check sums
# No locks, no permission to write, or no folder: the key is not held, and work may be done twice.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT, errno.ENOTDIR, *CLOSED)


def writable(folder, name=""):
    """<folder>/features/<name>; where that cannot be written, a folder in $LRCN_FEATURES or in the user's
    cache."""
    path = there = Path(folder) / "features" / name
    while not there.exists():
        there = there.parent
    if os.access(there, os.W_OK | os.X_OK):
        return path
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    own = os.environ.get("LRCN_FEATURES") or Path(cache, "lrcn", "features")
    return Path(own, hashlib.sha256(os.fsencode(Path(folder).resolve())).hexdigest()[:16], name)


def kept_encoder(folder, choices):
    """The file of an encoder that was built from these choices, plain containers, by these versions of the
    libraries."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torchvision", "timm")
                if importlib.util.find_spec(name)]
    name = hashlib.sha256(json.dumps([FORMAT, choices, versions]).encode()).hexdigest()[:16]
    return writable(folder, "encoders") / f"{name}.pth.tar"


def _sum(description):
    """The check sum of a key.json, on whose shape and dtype the features depend."""
    return zlib.crc32(json.dumps(description, sort_keys=True).encode())


def read_description(path):
    """A key.json without its check sum; UserError: that is wrong, or there is no such file."""
    description = files.read_json(path)
    if description.pop("sum", None) != _sum(description):
        raise UserError(f"{path}: its check sum is wrong")
    return description


def _mix(entries):
    """uint64, a hash of each entry without its check sum."""
    return (entries["video"][:, 0] ^ entries["view"]
            ^ entries["frame"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def check_sums(entries, rows):
    """uint32 (N,) of entries (N,) and their rows, an array (N, ...): each starts from the entry, so that a
    row under another entry is wrong too."""
    mixed = _mix(entries) ^ entries["video"][:, 1]
    seeds = ((mixed ^ mixed >> np.uint64(32)) & np.uint64(0xFFFFFFFF)).tolist()
    return np.array([zlib.crc32(row, seed) for row, seed in zip(rows, seeds, strict=True)], np.uint32)


class Store:
    """The entries of one key: plain containers that name encoder, weights, engine and precision.
    description: its key.json, from which `look` and `describe` take it."""

    def __init__(self, folder, key, description=None):
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self.path, self.key, self.description = writable(folder, name), key, description
        self.places = list(dict.fromkeys((self.path, Path(folder) / "features" / name)))
        self.segments = []

    @contextlib.contextmanager
    def alone(self):
        """Hold the key for one run; another one waits, and then finds what this one has encoded."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.lock(self.path, "sampled_data_path", "another run", wait=True))
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            yield

    @property
    def shape(self):
        """Of a row."""
        return tuple(self.description["shape"])

    @property
    def dtype(self):
        return np.dtype(self.description["dtype"])

    @property
    def row_bytes(self):
        return math.prod(self.shape) * self.dtype.itemsize

    def look(self):
        """Read key.json; None where none is whole. While `alone`."""
        for place in self.places:
            with contextlib.suppress(UserError):
                self.description = read_description(place / "key.json")
                return self.description
        return None

    def describe(self, **more):
        """Write key.json. more: shape and dtype of a row, or refused, why this engine does not serve."""
        self.description = {"key": self.key, **more}
        self._make_folder()
        files.write_json(self.path / "key.json", self.description | {"sum": _sum(self.description)})

    def _make_folder(self):
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--sampled_data_path: features cannot be written, neither beside the clips "
                            f"nor in {self.path} ({error.strerror}); set LRCN_FEATURES to another folder"
                            ) from None

    def open(self):
        """Read what all writers have written until now, behind the segments read before: rows keep their
        numbers."""
        for path in (path for place in self.places for path in sorted(place.glob("*.index"))):
            with contextlib.suppress(FileNotFoundError):    # another process prunes or deletes
                self.segments.append(Segment(path, self.row_bytes))
        return self

    def find(self, wanted):
        """int64 (N,): the number of the row of each of `wanted` (ENTRY without check sums), or -1. The check
        sums of these rows were right."""
        there = np.concatenate([s.entries for s in self.segments] or [np.zeros(0, ENTRY)])
        order = np.argsort(_mix(there), kind="stable")
        keys, sought = _mix(there)[order], _mix(wanted)
        last = np.searchsorted(keys, sought, "right") - 1
        numbers, left = np.full(len(wanted), -1, np.int64), np.arange(len(wanted) if len(there) else 0)
        while len(left):    # where a row is damaged, an earlier one of the same entry may be whole
            left = left[(last[left] >= 0) & (keys[last[left]] == sought[left])]
            rows = order[last[left]]
            names = ["video", "view", "frame"]
            good = there[rows][names] == wanted[left][names]
            good[good] = self._whole(there[rows[good]], rows[good])
            numbers[left[good]] = rows[good]
            left = left[~good]
            last[left] -= 1
        return numbers

    def _whole(self, entries, rows):
        """bool (N,): whether the check sums of rows are those of their entries."""
        right, step = np.zeros(len(rows), bool), max(1, CHUNK // self.row_bytes)
        order = np.argsort(rows, kind="stable")     # one way through the files
        for i in range(0, len(rows), step):
            part = order[i:i + step]
            values = self.read(rows[part]).view(np.uint8).reshape(len(part), self.row_bytes)
            right[part] = check_sums(entries[part], values) == entries["crc"][part]
        return right

    def read(self, rows):
        """The features (*rows.shape, *shape) of rows, numbers in any shape."""
        flat = np.asarray(rows).ravel().astype(np.int64)
        out = np.empty((len(flat), *self.shape), self.dtype)
        starts = np.cumsum([0] + [segment.count for segment in self.segments])
        segment = np.searchsorted(starts, flat, "right") - 1
        cuts = np.flatnonzero((np.diff(flat) != 1) | (np.diff(segment) != 0)) + 1
        raw = out.view(np.uint8).reshape(len(flat), self.row_bytes)
        for a, b in zip([0, *cuts.tolist()], [*cuts.tolist(), len(flat)], strict=True):
            if a < b:
                self.segments[segment[a]].read_into(raw[a:b], int(flat[a] - starts[segment[a]]))
        return out.reshape(*np.shape(rows), *self.shape)

    def writer(self, number):
        """The Writer of process `number` on this machine."""
        machine = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
        return Writer(self.path / f"{machine}-{number}", self.row_bytes)

    def require_space(self, rows):
        self._make_folder()
        files.require_space(self.path, rows * (self.row_bytes + ENTRY.itemsize), "the feature store")


class Segment:
    """What one writer has written: `count` `entries` (ENTRY,), and their rows in a file that stays open.
    most: no more of them."""

    def __init__(self, path, row_bytes, most=None):
        self.path, self.row_bytes = path, row_bytes
        self.file = open(path.with_suffix(".rows"), "rb", buffering=0)  # noqa: SIM115, as long as this
        whole = os.fstat(self.file.fileno()).st_size // row_bytes
        self.entries = np.fromfile(path, ENTRY)[:whole if most is None else most]
        self.count = len(self.entries)

    def read_into(self, out, row):
        """Read the rows from `row` on into out, uint8 (n, row_bytes)."""
        done, out = 0, memoryview(out).cast("B")
        while done < len(out):
            got = os.preadv(self.file.fileno(), [out[done:]], row * self.row_bytes + done)
            if not got:
                raise UserError(f"{self.path.with_suffix('.rows')} became shorter while it was read; check "
                                "this disk and run the same command again")
            done += got


class Writer:
    """Appends entries to a pair of files of this process, made with the first of them."""

    def __init__(self, path, row_bytes):
        self.path, self.row_bytes, self.handles = path, row_bytes, None

    def put(self, entries, values):
        """Store values (N, ...) under entries (ENTRY without check sums)."""
        raw = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
        entries = entries.copy()
        entries["crc"] = check_sums(entries, raw)
        try:
            self.handles = self.handles or self._open()
            count = os.fstat(self.handles[1]).st_size // ENTRY.itemsize
            for handle, data, size in ((self.handles[0], raw, self.row_bytes),
                                       (self.handles[1], entries, ENTRY.itemsize)):
                data, at = memoryview(data.tobytes()), count * size
                while len(data):
                    done = os.pwrite(handle, data, at)
                    data, at = data[done:], at + done
                os.fsync(handle)
        except BaseException:
            self.close()
            raise

    def _open(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        path, how = self.path, os.O_RDWR | os.O_CREAT
        index = files.take(path.with_suffix(".index"))
        if index is None:
            path = path.with_name(uuid.uuid4().hex)
            index = os.open(path.with_suffix(".index"), how | os.O_EXCL, 0o666)
        return os.open(path.with_suffix(".rows"), how, 0o666), index

    def close(self):
        handles, self.handles = self.handles, None
        for handle in handles or ():
            os.close(handle)
