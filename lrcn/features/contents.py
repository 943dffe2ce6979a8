"""What a sampled video holds, as a fingerprint: content decides which features are its own.

    prints, stamps = fingerprints("sampled", ["Archery/v_Archery_g01_c01.avi"])     # uint64 (1, 2)
    require_unchanged("sampled", stamps, ["Archery/v_Archery_g01_c01.avi"])

A file is read for it once. <sampled>/features/videos.csv keeps the fingerprint beside the file's
size, times and inode; where one of these differs the file is read again, so that neither a file of
the same size nor one with its old date put back passes for the old one, and a folder that moved
costs at most a reading.
"""
import contextlib
import hashlib
import os
import time
from pathlib import Path

import numpy as np

from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.data.fields import flow_path
from lrcn.features.store import writable

COLUMNS = ("video", "size", "mtime_ns", "ctime_ns", "inode", "fingerprint")
# A file that changed this lately may change once more within one tick of the file system's clock.
SETTLED_NS = 2_000_000_000


def fingerprints(folder, paths):
    """(uint64 (paths, 2): 128 bits of a hash of each file's content, {path: what its stat said then}).

    UserError: a file is missing, or changed while it was read.
    """
    table, shared = writable(folder) / "videos.csv", Path(folder) / "features" / "videos.csv"
    known = _read(shared) | (_read(table) if table != shared else {})
    found, stamps, changed = [], {}, False
    for path in paths:
        stamp = _stamp(folder, path)
        before = known.get(path)
        if before is None or before[:-1] != stamp:
            before = known[path] = (*stamp, _hash(Path(folder) / path))
            changed = True
        stamps[path] = stamp
        found.append(before[-1])
    if changed:
        require_unchanged(folder, stamps, paths)
        now = time.time_ns()
        settled = [(path, *row) for path, row in known.items()
                   if now - max(int(row[1]), int(row[2])) > SETTLED_NS]
        with contextlib.suppress(OSError):      # it is read again next time
            table.parent.mkdir(parents=True, exist_ok=True)
            files.write_csv(table, COLUMNS, settled)
    return np.frombuffer(bytes.fromhex("".join(found)), "<u8").reshape(-1, 2), stamps


def require_unchanged(folder, stamps, paths):
    """UserError where a file is no longer the one whose fingerprint was taken."""
    for path in paths:
        if _stamp(folder, path) != stamps[path]:
            raise UserError(f"--sampled_data_path {folder}: {path} changed while it was read; let the script "
                            f"that writes there end, and run the same command again")


def contents(folder, videos, parts):
    """(uint64 (videos, 2): the fingerprints of sampled videos, and of their flow where the encoder sees it,
    their files' stamps as of `fingerprints`)."""
    found, stamps = fingerprints(folder, [video.path for video in videos])
    if "flow" in parts:
        flows, more = fingerprints(folder, [flow_path(video) for video in videos])
        found, stamps = found ^ flows, stamps | more
    return found, stamps


def _read(table):
    """{path: (size, mtime_ns, ctime_ns, inode, fingerprint)}, empty where there is no whole table."""
    if not table.is_file():
        return {}
    try:
        rows = files.read_csv(table, COLUMNS)
    except UserError:
        return {}
    return {r["video"]: tuple(r[c] for c in COLUMNS[1:]) for r in rows
            if len(r["fingerprint"]) == 32 and set(r["fingerprint"]) <= set("0123456789abcdef")
            and r["mtime_ns"].isdecimal() and r["ctime_ns"].isdecimal()}


def _stamp(folder, path):
    try:
        stat = os.stat(os.path.join(folder, path))
    except OSError:
        raise UserError(f"--sampled_data_path {folder}: {path} is missing; "
                        f"run preprocessing_data.py again") from None
    return tuple(str(n) for n in (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))


def _hash(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
