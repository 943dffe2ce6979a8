"""Which pictures some clips need, each once, and these pictures in batches.

    rows, index = unique_rows(clips)                # rows[index[i, t]] is frame t of clip i
    entries, stamps = entries_of("sampled", rows, seed)     # what the store knows each of them by
    Blocks(rows, numbers, "sampled", transform, options)[0]     # uint8 (size, [M,] S, S, C)
"""
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from lrcn.data.fields import flow_path
from lrcn.data.frames import Clip, Cut, clip_frames
from lrcn.features.contents import contents, require_unchanged
from lrcn.features.engines import BLOCK
from lrcn.features.store import ENTRY, view_number


@dataclass(frozen=True)
class MeanFrame:
    """The view of a clip that is one picture, the mean of its frames; of no video: grey."""
    frames: tuple = ()


class Rows:
    """The pictures that some clips need, each once: a video's frame in a view.

    shots: [(video, view)]; owner, frame: int32 (rows,), the shot's number and the frame's.
    """

    def __init__(self, shots, owner, frame):
        self.shots, self.owner, self.frame = shots, owner, frame

    def __len__(self):
        return len(self.owner)

    def __getitem__(self, chosen):
        """[Clip] of the chosen rows: neighbours of one shot make one clip."""
        owner, frame = self.owner[chosen], self.frame[chosen]
        cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
        return [Clip(self.shots[owner[a]][0], tuple(frame[a:b].tolist()), self.shots[owner[a]][1])
                for a, b in zip(cuts, cuts[1:], strict=False)]


def unique_rows(clips):
    """(Rows, index int32 (clips, T) into them) of clips of equal length, which may come one by one."""
    shots, owner, frames = {}, [], []
    for clip in clips:
        owner.append(shots.setdefault((clip.video, clip.view), len(shots)))
        frames.append(np.array(clip.frames, np.int32))
    frames = np.array(frames, np.int64).reshape(len(frames), -1)
    keys, index = np.unique(np.array(owner, np.int64)[:, None] << 32 | frames, return_inverse=True)
    rows = Rows(list(shots), (keys >> 32).astype(np.int32), (keys & 0xFFFFFFFF).astype(np.int32))
    return rows, index.reshape(frames.shape).astype(np.int32)


def entries_of(folder, rows, seed, parts=("rgb",)):
    """(The store's ENTRY of every row, (rows,): what its video holds, its view, its frame; the stamps of the
    files, see contents.py). parts: what the encoder sees of it; its flow counts where that is among them."""
    shown = list({video for video, _ in rows.shots if video}
                 | {view.video for _, view in rows.shots if isinstance(view, Cut)})
    values, stamps = contents(folder, shown, parts)
    prints = dict(zip(shown, values, strict=True))
    none = np.zeros(2, np.uint64)
    videos = np.array([prints[video] if video else none for video, _ in rows.shots], np.uint64)
    plain = {view: view_number(str(view)) for view in (0, -1)}
    views = np.array([plain[view] if view in plain else view_number(_view_words(video, view, seed, prints))
                      for video, view in rows.shots], np.uint64)
    found = np.zeros(len(rows), ENTRY)
    found["video"], found["view"], found["frame"] = videos[rows.owner], views[rows.owner], rows.frame
    return found, stamps


def _view_words(video, view, seed, prints):
    """All that a view's pictures depend on, beside what the video holds."""
    if isinstance(view, MeanFrame):
        return f"mean of {view.frames}"
    if isinstance(view, Cut):
        return f"a cut to frame {view.frame} of {prints[view.video].tolist()}"
    return f"{seed}/{video.cls}/{video.name}/{view}"


def clip_pictures(folder, clip, transform, seed):
    """uint8 (T, [M,] S, S, C) of a clip of Rows."""
    if not isinstance(clip.view, MeanFrame):
        return clip_frames(folder, clip, transform, seed)
    if clip.video is None:
        return np.full((1, *transform.shape), 128, np.uint8)
    frames = clip_frames(folder, Clip(clip.video, clip.view.frames), transform, seed)
    return frames.mean(0, keepdims=True).round().astype(np.uint8)


def _files(clip):
    """The files that a clip's pictures may come from."""
    videos = (clip.video, clip.view.video if isinstance(clip.view, Cut) else None)
    return {path for video in videos if video for path in (video.path, flow_path(video))}


class Blocks:
    """The pictures of chosen rows in batches: i -> uint8 (size, [M,] S, S, C).

    The last one is filled up with its last picture. UserError names a file that cannot be read, or that
    is not what its stamp says when its pictures are there. stamps: see entries_of.
    """

    def __init__(self, rows, chosen, folder, transform, options, stamps=None):
        self.rows, self.chosen, self.size = rows, chosen, BLOCK[options.device.type]
        self.stamps = stamps or {}
        self.source, self.pinned = (folder, transform, options.seed), options.device.type == "cuda"

    def __len__(self):
        return -(-len(self.chosen) // self.size)

    def numbers(self, i):
        """The rows in batch i."""
        return self.chosen[i * self.size:(i + 1) * self.size]

    def __getitem__(self, i):
        cv2.setNumThreads(1)
        folder, transform, seed = self.source
        numbers = self.numbers(i)
        found = np.empty((self.size, *transform.shape), np.uint8)
        at = 0
        for clip in self.rows[numbers]:
            found[at:at + len(clip.frames)] = clip_pictures(folder, clip, transform, seed)
            at += len(clip.frames)
        found[at:] = found[at - 1]
        require_unchanged(folder, self.stamps, [path for clip in self.rows[numbers] for path in _files(clip)
                                                if path in self.stamps])
        found = torch.from_numpy(found)
        return found.pin_memory() if self.pinned else found
