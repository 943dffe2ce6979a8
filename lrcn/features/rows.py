"""Which pictures some clips need, each once: their entries in the store, and the pictures in batches.

The store knows a video by the fingerprint of its content. <sampled>/features/videos.csv keeps that beside the
file's size, times and inode; the file is read again only where one of these differs.
"""
import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lrcn.base import Lazy, UserError, files
from lrcn.data.fields import flow_path
from lrcn.data.frames import Clip, Cut, clip_frames
from lrcn.features.engines import block
from lrcn.features.store import ENTRY, writable

torch = Lazy("torch")
cv2 = Lazy("cv2")

COLUMNS = ("video", "size", "mtime_ns", "ctime_ns", "inode", "fingerprint")
# A file that changed this recently may change again within one tick of the file system's clock.
SETTLED_NS = 2_000_000_000


def fingerprints(folder, paths):
    """(uint64 (paths, 2): 128 bits of a hash of each file's content, {path: its stamp, see _stamp}).
    UserError: a file is missing, or changed while it was read."""
    table, shared = writable(folder) / "videos.csv", Path(folder) / "features" / "videos.csv"
    known = _known(shared) | (_known(table) if table != shared else {})
    stamps = {path: _stamp(folder, path) for path in paths}
    changed = [path for path in stamps if known.get(path, ())[:-1] != stamps[path]]
    for path in changed:
        digest = hashlib.blake2b(Path(folder, path).read_bytes(), digest_size=16)
        known[path] = (*stamps[path], digest.hexdigest())
    if changed:
        require_unchanged(folder, stamps, paths)
        now = time.time_ns()
        settled = [(path, *row) for path, row in known.items()
                   if now - max(int(row[1]), int(row[2])) > SETTLED_NS]
        with contextlib.suppress(OSError):      # it is read again next time
            table.parent.mkdir(parents=True, exist_ok=True)
            files.write_csv(table, COLUMNS, settled)
    raw = bytes.fromhex("".join(known[path][-1] for path in paths))
    return np.frombuffer(raw, "<u8").reshape(-1, 2), stamps


def require_unchanged(folder, stamps, paths):
    """UserError where a file has changed since its fingerprint was taken."""
    for path in paths:
        if _stamp(folder, path) != stamps[path]:
            raise UserError(f"--sampled_data_path {folder}: {path} changed while it was read; let the script "
                            f"that writes there end, and run the same command again")


def contents(folder, videos, parts):
    """`fingerprints` of sampled videos, together with their flow where that is among the `parts` that the
    encoder sees."""
    prints, stamps = fingerprints(folder, [video.path for video in videos])
    if "flow" in parts:
        flows, more = fingerprints(folder, [flow_path(video) for video in videos])
        prints, stamps = prints ^ flows, stamps | more
    return prints, stamps


def _known(table):
    """{path: (size, mtime_ns, ctime_ns, inode, fingerprint)}, empty where there is no whole table."""
    try:
        rows = files.read_csv(table, COLUMNS) if table.is_file() else ()
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


@dataclass(frozen=True)
class MeanFrame:
    """The view of a clip that is one picture, the mean of its frames; grey where it has no video."""
    frames: tuple = ()


@dataclass(eq=False)
class Rows:
    """The pictures that some clips need, each once: a video's frame in a view, or the chunk behind it."""
    shots: list         # (video, view)
    owner: np.ndarray   # int32 (rows,): the shot's number
    frame: np.ndarray   # int32 (rows,): the frame's

    def __len__(self):
        return len(self.owner)

    def __getitem__(self, chosen):
        """[Clip] of the chosen rows: neighbours of one shot make one clip."""
        owner, frame = self.owner[chosen], self.frame[chosen]
        cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
        return [Clip(self.shots[owner[a]][0], tuple(frame[a:b].tolist()), self.shots[owner[a]][1])
                for a, b in zip(cuts, cuts[1:], strict=False)]


def unique_rows(clips):
    """(Rows, index int32 (clips, T) into them, lengths) of clips. lengths: None where all are equally long,
    else int64 (clips,); the index repeats the last frame of a shorter clip."""
    shots, owner, frames = {}, [], []
    for clip in clips:
        owner.append(shots.setdefault((clip.video, clip.view), len(shots)))
        frames.append(np.array(clip.frames, np.int32))
    lengths = np.array([len(one) for one in frames], np.int64)
    longest = lengths.max(initial=0)
    if (lengths == longest).all():
        lengths = None
    else:
        frames = [np.pad(one, (0, longest - len(one)), "edge") for one in frames]
    frames = np.array(frames, np.int64).reshape(len(frames), -1)
    keys, index = np.unique(np.array(owner, np.int64)[:, None] << 32 | frames, return_inverse=True)
    rows = Rows(list(shots), (keys >> 32).astype(np.int32), (keys & 0xFFFFFFFF).astype(np.int32))
    return rows, index.reshape(frames.shape).astype(np.int32), lengths


def entries_of(folder, rows, seed, parts=("rgb",)):
    """(ENTRY (rows,): the fingerprint of every row's video, its view and its frame; the files' stamps as of
    `fingerprints`). parts: what the encoder sees."""
    shown = list({video for shot in rows.shots for video in _videos(*shot)})
    values, stamps = contents(folder, shown, parts)
    prints = {None: np.zeros(2, np.uint64), **dict(zip(shown, values, strict=True))}
    videos = np.array([prints[video] for video, _ in rows.shots], np.uint64)
    views = np.zeros(len(rows.shots), np.uint64)    # all that pictures depend on beside the video
    for i, (video, view) in enumerate(rows.shots):
        if isinstance(view, MeanFrame):
            text = f"mean of {view.frames}"
        elif isinstance(view, Cut):
            text = f"a cut to frame {view.frame} of {prints[view.video].tolist()}"
        else:
            text = str(view) if view in (0, -1) else f"{seed}/{video.cls}/{video.name}/{view}"
        views[i] = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    entries = np.zeros(len(rows), ENTRY)
    entries["video"], entries["view"], entries["frame"] = videos[rows.owner], views[rows.owner], rows.frame
    return entries, stamps


def _videos(video, view):
    """The videos that a shot's pictures come from."""
    return [one for one in (video, view.video if isinstance(view, Cut) else None) if one]


class Blocks:
    """The pictures, or chunks, of chosen rows in batches: i -> uint8 (size, [M or K,] S, S, C).

    The last one is filled up with its last picture. UserError names a file that cannot be read, or that no
    longer has its stamp. stamps: see entries_of.
    """

    def __init__(self, rows, chosen, folder, transform, options, stamps=None):
        self.rows, self.chosen, self.stamps = rows, chosen, stamps or {}
        self.folder, self.transform, self.seed = folder, transform, options.seed
        self.size, self.pinned = block(transform, options.device), options.device.type == "cuda"

    def __len__(self):
        return -(-len(self.chosen) // self.size)

    def numbers(self, i):
        """The rows in batch i."""
        return self.chosen[i * self.size:(i + 1) * self.size]

    def __getitem__(self, i):
        cv2.setNumThreads(1)
        pictures, at = np.empty((self.size, *self.transform.shape), np.uint8), 0
        clips = self.rows[self.numbers(i)]
        for clip in clips:
            part, at = pictures[at:at + len(clip.frames)], at + len(clip.frames)
            if clip.video is None:
                part[:] = 128
                continue
            mean = isinstance(clip.view, MeanFrame)
            shown = Clip(clip.video, clip.view.frames) if mean else clip
            frames = clip_frames(self.folder, shown, self.transform, self.seed)
            part[:] = frames.mean(0).round() if mean else frames
        pictures[at:] = pictures[at - 1]
        sources = {path for clip in clips for video in _videos(clip.video, clip.view)
                   for path in (video.path, flow_path(video))}
        require_unchanged(self.folder, self.stamps, sources & self.stamps.keys())
        pictures = torch.from_numpy(pictures)
        return pictures.pin_memory() if self.pinned else pictures
