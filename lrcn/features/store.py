"""The feature store: one entry a frame of a video, encoded once and shared by all runs and scripts.

    <sampled_data_dir>/features/
        videos.csv           what every sampled file holds, see rows.py
        <key>/key.json       encoder, digest of its weights, transform and modality, engine, precision
        <key>/<writer>.rows  features, one row an entry, appended
        <key>/<writer>.index one ENTRY a row: which frame of which content in which view, check sum

Safe to delete. Entries are only ever appended, by one writer a file (the process that has locked it;
without locks each makes files of its own), rows before their index. A row counts when its check sum,
which its index entry is part of, is right: what a kill cut off and what a disk damaged is not there,
and is encoded again. A row that was found is read from the file that was open then, at its place
there: neither another writer nor --prune nor a deletion gives its number to another row.
"""
import contextlib
import errno
import hashlib
import importlib.metadata
import importlib.util
import json
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
CHUNK = 1 << 24     # bytes read at once while check sums are looked at
# What a file system without locks says, one that is only read, and a folder that is deleted or cannot be
# made; work may be done twice there.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT, errno.ENOTDIR, *CLOSED)


def writable(folder, name=""):
    """<folder>/features/<name>; where that may not be written, a folder of the user's own in its place:
    in $LRCN_FEATURES, or in the user's cache."""
    path = there = Path(folder) / "features" / name
    while not there.exists():
        there = there.parent
    if os.access(there, os.W_OK | os.X_OK):
        return path
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    own = os.environ.get("LRCN_FEATURES") or Path(cache, "lrcn", "features")
    return Path(own, hashlib.sha256(os.fsencode(Path(folder).resolve())).hexdigest()[:16], name)


def kept_encoder(folder, choices):
    """The file of an encoder that was built from these choices, plain containers: its weights, and what it
    said. Other versions of the libraries build another one."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "torchvision", "timm")
                if importlib.util.find_spec(name)]
    name = hashlib.sha256(json.dumps([FORMAT, choices, versions]).encode()).hexdigest()[:16]
    return writable(folder, "encoders") / f"{name}.pth.tar"


def _sum(description):
    """The check sum of a key.json: another shape or dtype there would make other features of the rows."""
    return zlib.crc32(json.dumps(description, sort_keys=True).encode())


def read_description(path):
    """What a key.json says, its check sum aside; UserError: that is wrong, or there is none."""
    description = files.read_json(path)
    if description.pop("sum", None) != _sum(description):
        raise UserError(f"{path}: its check sum is wrong")
    return description


def _mix(entries):
    """uint64 of each entry, its check sum aside, nearly always another one for another entry."""
    return (entries["video"][:, 0] ^ entries["view"]
            ^ entries["frame"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def check_sums(entries, rows):
    """uint32 (N,) of entries (N,) and their rows, an array (N, ...). Each starts from its entry, so that a
    row under a wrong entry is wrong too."""
    mixed = _mix(entries) ^ entries["video"][:, 1]
    seeds = ((mixed ^ mixed >> np.uint64(32)) & np.uint64(0xFFFFFFFF)).tolist()
    return np.array([zlib.crc32(row, seed) for row, seed in zip(rows, seeds, strict=True)], np.uint32)


class Store:
    """The entries of one key: plain containers that name encoder, weights, engine and precision.
    `description` is its key.json, None before `describe`."""

    def __init__(self, folder, key):
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self.path, self.key, self.description = writable(folder, name), key, None
        self.places = list(dict.fromkeys((self.path, Path(folder) / "features" / name)))
        self.segments, self.starts, self.seen = [], np.zeros(0, np.int64), {}

    @contextlib.contextmanager
    def alone(self):
        """Hold the key for one run; another one waits, and finds there what this one has encoded."""
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(files.lock(self.path, "sampled_data_path", "another run", wait=True))
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            yield

    def look(self):
        """Read key.json, None if none is whole; what lies under another key is removed. While `alone`."""
        for place in list(self.places):
            with contextlib.suppress(UserError):
                if files.read_json(place / "key.json").get("key") == self.key:
                    self.description = read_description(place / "key.json")
                    return self.description
                if place != self.path:
                    self.places.remove(place)
                    continue
                for path in (*place.glob("*.rows"), *place.glob("*.index")):
                    path.unlink()
        return None

    def describe(self, **more):
        """Write key.json. shape, dtype: of a row; or refused: why this engine does not serve."""
        self.description = {"key": self.key, **more}
        self._make_folder()
        files.write_json(self.path / "key.json", self.description | {"sum": _sum(self.description)})

    def _make_folder(self):
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--sampled_data_path: features cannot be written, neither beside the clips nor "
                            f"in {self.path} ({error.strerror}); set LRCN_FEATURES to a folder of your own"
                            ) from None

    def lay_out(self, description):
        """Take up the shape of a row."""
        self.description = description
        self.shape, self.dtype = tuple(description["shape"]), np.dtype(description["dtype"])
        self.row_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        return self

    def open(self):
        """See the entries that all writers have left until now. Those seen before keep their numbers."""
        for path in (path for place in self.places for path in sorted(place.glob("*.index"))):
            with contextlib.suppress(FileNotFoundError):    # another process prunes or deletes
                segment = Segment(path, self.row_bytes)
                first = self.seen.get(segment.identity, 0)
                self.add(segment, first, len(segment.entries) - first)
        return self

    def add(self, segment, first, count):
        """See `count` entries of a segment from `first` on."""
        if count > 0:
            segment.first, segment.count = first, count
            segment.entries = segment.entries[first:first + count]
            self.segments.append(segment)
            self.seen[segment.identity] = first + count
            self.starts = np.cumsum([0] + [s.count for s in self.segments])[:-1]

    def find(self, wanted):
        """int64 (N,): the number of the row of each of `wanted` (ENTRY, their check sums ignored), or -1.
        Every row that is named has been read and its check sum was right."""
        there = np.concatenate([s.entries for s in self.segments] or [np.zeros(0, ENTRY)])
        order = np.argsort(_mix(there), kind="stable")
        keys, sought = _mix(there)[order], _mix(wanted)
        last = np.searchsorted(keys, sought, "right") - 1
        numbers, left = np.full(len(wanted), -1, np.int64), np.arange(len(wanted) if len(there) else 0)
        while len(left):    # where a row is damaged, an earlier one of the same entry may not be
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
                owner = self.segments[segment[a]]
                owner.read_into(raw[a:b], int(flat[a] - self.starts[segment[a]]) + owner.first)
        return out.reshape(*np.shape(rows), *self.shape)

    def writer(self, number):
        """The Writer of process `number` on this machine."""
        machine = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
        return Writer(self.path / f"{machine}-{number}", self.row_bytes)

    def require_space(self, rows):
        self._make_folder()
        files.require_space(self.path, rows * (self.row_bytes + ENTRY.itemsize), "the feature store")


class Segment:
    """What one writer has left: `entries` (ENTRY,), and its rows in a file that stays open."""

    def __init__(self, path, row_bytes):
        self.path, self.row_bytes, self.first = path, row_bytes, 0
        self.file = open(path.with_suffix(".rows"), "rb", buffering=0)  # noqa: SIM115, as long as this
        there = os.fstat(self.file.fileno())
        self.identity = there.st_dev, there.st_ino
        self.entries = np.fromfile(path, ENTRY)[:there.st_size // row_bytes]
        self.count = len(self.entries)

    def read_into(self, out, row):
        """Fill out, uint8 (n, row_bytes), from `row` on."""
        done, out = 0, memoryview(out).cast("B")
        while done < len(out):
            got = os.preadv(self.file.fileno(), [out[done:]], row * self.row_bytes + done)
            if not got:
                raise UserError(f"{self.path.with_suffix('.rows')} became shorter while it was read; check "
                                "this disk and run the same command again")
            done += got


class Writer:
    """Appends entries to one pair of files; they are made with the first, and no other process's."""

    def __init__(self, path, row_bytes):
        self.path, self.row_bytes, self.handles = path, row_bytes, None

    def put(self, entries, values):
        """Store values (N, ...) under entries (ENTRY, their check sums still to be made)."""
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
        for path in (self.path, *(self.path.with_name(f"{self.path.name}-{n}") for n in range(1, 9))):
            if index := files.take(path.with_suffix(".index")):
                break
        else:
            path = self.path.with_name(uuid.uuid4().hex)
            index = os.open(path.with_suffix(".index"), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        return os.open(path.with_suffix(".rows"), os.O_RDWR | os.O_CREAT, 0o666), index

    def close(self):
        handles, self.handles = self.handles, None
        for handle in handles or ():
            os.close(handle)
