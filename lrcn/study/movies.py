"""Mixed-action movies: clips joined end to end, the windows over them, and their cuts.

    movies   clips of test videos joined end to end, two neighbours never of one action
    windows  T frames each, sliding by one frame; a movie of F frames has F - T + 1 of them
    cut      the border between two clips; the windows over it hold T-k frames of the first action
             and then k of the second, k = 0 ... T

Arrays only: no files, no network, no torch. Labels are ints, -1 stands for "none".
"""
from dataclasses import dataclass

import numpy as np

CONTROLS = ("hard", "backwards", "shuffled", "mixed")


@dataclass(frozen=True)
class Movies:
    """All frames of all movies in one line; int arrays (F,)."""
    video: np.ndarray       # which video a frame is of
    frame: np.ndarray       # which of its frames it is
    movie: np.ndarray       # counted from 0
    clip: np.ndarray        # number of the clip within all movies

    @property
    def cuts(self):
        """The first frames of the clips behind a cut, in the line of all frames."""
        return np.flatnonzero((np.diff(self.movie) == 0) & (np.diff(self.clip) != 0)) + 1


def draw_movies(labels, num_movies, movie_clips, frames, seed, segment_frames=None):
    """Join clips at random: neighbours differ in action, every video is used about as often. labels, frames:
    int (V,), of two actions or more. segment_frames: None for whole clips, or (low, high) for so many
    consecutive frames."""
    labels, rng = np.asarray(labels), np.random.default_rng((seed, 0))
    used, segments = np.zeros(len(labels), int), []
    for movie in range(num_movies):
        previous = -1
        for _ in range(movie_clips):
            allowed = np.flatnonzero(labels != previous)
            video = rng.choice(allowed[used[allowed] == used[allowed].min()])
            used[video] += 1
            previous = labels[video]
            start, length = 0, int(frames[video])
            if segment_frames is not None:
                low, high = (min(n, length) for n in segment_frames)
                length = rng.integers(low, high + 1)
                start = rng.integers(0, frames[video] - length + 1)
            segments.append((video, start, length, movie))
    video, start, length, movie = np.array(segments).T
    clip = np.repeat(np.arange(len(segments)), length)
    step = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return Movies(video[clip], start[clip] + step, movie[clip], clip)


@dataclass(frozen=True)
class Windows:
    """N windows of T frames."""
    movie: np.ndarray       # (N,)
    start: np.ndarray       # (N,), where in its movie the window begins
    video: np.ndarray       # (N, T), the frame at every step
    frame: np.ndarray       # (N, T)
    videos: np.ndarray      # (N, 3), of the window's first, second and third clip
    actions: np.ndarray     # (N, 3), their labels
    counts: np.ndarray      # (N, 3), frames of each of them
    majority: np.ndarray    # (N,), the action with the most frames, -1 for a tie
    majority_frames: np.ndarray     # (N,), its number of frames


def slide(movies, labels, length):
    """The Windows of `length` frames over all movies, in order; ValueError where one holds more than three
    clips, or no movie is as long as a window."""
    at = np.arange(len(movies.movie) - length + 1)      # empty when all is shorter than one window
    at = at[movies.movie[at] == movies.movie[at + length - 1]]
    if not len(at):
        raise ValueError(f"the movies have fewer than {length} frames")
    index = at[:, None] + np.arange(length)
    video = movies.video[index]
    part = movies.clip[index] - movies.clip[at, None]
    if part.max() > 2:
        raise ValueError(f"a window of {length} frames would hold more than three clips")
    begins = np.searchsorted(movies.movie, movies.movie[at])
    counts = np.stack([(part == p).sum(1) for p in range(3)], 1)
    videos = np.stack([np.where(part == p, video, -1).max(1) for p in range(3)], 1)
    actions = np.where(videos >= 0, labels[videos], -1)
    shown = labels[video]
    alike = (shown[:, :, None] == shown[:, None, :]).sum(2)     # (N, T): frames of the frame's own action
    most = alike.max(1)
    winner = shown[np.arange(len(at)), alike.argmax(1)]
    tie = ((alike == most[:, None]) & (shown != winner[:, None])).any(1)
    return Windows(movies.movie[at], at - begins, video, movies.frame[index], videos, actions, counts,
                   np.where(tie, -1, winner), most)


def mixes(windows):
    """(names, code): '4+1' is four frames of one action, then one of the next; code int (N,)."""
    counts, code = np.unique(-windows.counts, axis=0, return_inverse=True)
    return ["+".join(str(n) for n in row if n) for row in -counts], code.reshape(-1)


@dataclass(frozen=True)
class Cuts:
    """M cuts, each with its windows of two clips: for k = 0 ... T, T-k frames before it and k after it."""
    at: np.ndarray          # (M,), the second clip's first frame in the line of all frames
    videos: np.ndarray      # (M, 2)
    actions: np.ndarray     # (M, 2)
    video: np.ndarray       # (M, T+1, T)
    frame: np.ndarray       # (M, T+1, T)
    complete: np.ndarray    # (M, T+1), whether both clips are long enough for that window


def find_cuts(movies, labels, length):
    """The cuts of all movies, with their windows of `length` frames."""
    at = movies.cuts
    offsets = np.arange(-length, 1)[:, None] + np.arange(length)        # (T+1, T)
    index = at[:, None, None] + offsets
    within = np.clip(index, 0, len(movies.movie) - 1)
    sides = np.where(offsets < 0, movies.clip[at - 1, None, None], movies.clip[at, None, None])
    complete = ((within == index) & (movies.clip[within] == sides)).all(2)
    videos = np.stack([movies.video[at - 1], movies.video[at]], 1)
    return Cuts(at, videos, labels[videos], movies.video[within], movies.frame[within], complete)


def play(cuts, control, seed):
    """(video, frame) int (M, T+1, T) of the cuts' windows, played as `control` says.

    hard       as joined
    backwards  last frame first, so that the first action becomes the late one
    shuffled   another order for every window (windows of one action: one order for each video)
    mixed      as many frames of each action, but interleaved evenly, each action's in its own order
    """
    length = cuts.video.shape[2]
    order = np.arange(length)
    if control == "backwards":
        order = order[::-1]
    elif control == "shuffled":
        rng = np.random.default_rng((seed, 1))
        order = rng.permuted(np.broadcast_to(order, cuts.video.shape), axis=2)
        alone = rng.permuted(np.tile(np.arange(length), (cuts.videos.max() + 1, 1)), axis=1)
        order[:, 0], order[:, -1] = alone[cuts.videos[:, 0]], alone[cuts.videos[:, 1]]
    elif control == "mixed":
        order = np.zeros((length + 1, length), int)     # row k: the steps of a hard cut with k late frames
        for k in range(length + 1):
            late = np.zeros(length, bool)
            late[np.floor((np.arange(k) + 0.5) * length / max(k, 1)).astype(int)] = True
            order[k, ~late], order[k, late] = np.arange(length - k), np.arange(length - k, length)
    order = np.broadcast_to(order, cuts.video.shape)
    return np.take_along_axis(cuts.video, order, 2), np.take_along_axis(cuts.frame, order, 2)
