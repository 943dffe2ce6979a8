"""Mixed-action movies, their windows and cuts, against plain Python."""
import math
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcn.study.movies import CONTROLS, draw_movies, find_cuts, play, slide


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=40).filter(lambda x: len(set(x)) > 1),
       st.integers(1, 12), st.integers(2, 9), st.integers(1, 6), st.integers(0, 1000))
def test_movies_are_seeded_neighbours_differ_and_all_videos_are_used(labels, movies, clips, T, seed):
    labels, frames = np.array(labels), np.full(len(labels), T)
    made = draw_movies(labels, movies, clips, frames, seed)
    again = draw_movies(labels, movies, clips, frames, seed)
    assert np.array_equal(made.video, again.video) and np.array_equal(made.frame, again.frame)
    assert len(made.video) == movies * clips * T
    played = made.video.reshape(movies, clips, T)
    assert (played == played[..., :1]).all()                    # a clip stays in one piece
    assert (made.frame.reshape(-1, T) == np.arange(T)).all()
    actions = labels[played[..., 0]]
    assert (actions[:, 1:] != actions[:, :-1]).all()
    assert len(slide(made, labels, T).movie) == movies * (clips * T - T + 1)
    balanced = np.repeat(np.arange(3 + labels[0]), clips)       # as many videos of each action
    used = np.bincount(draw_movies(balanced, movies, clips, np.ones(len(balanced), int), seed).video,
                       minlength=len(balanced))
    assert used.max() - used.min() <= 2


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 4), st.integers(0, 4), st.integers(0, 1000))
def test_windows_say_what_stands_in_them(T, more, spread, seed):
    low = max(1, T // 2 + more % 2)
    labels = np.array([0, 0, 1, 1, 2])
    frames = np.array([7, 9, 8, 10, 7])
    made = draw_movies(labels, 4, 5, frames, seed, (low, low + spread))
    windows = slide(made, labels, T)
    lengths = Counter(made.clip.tolist())
    assert all(low <= n <= min(low + spread, 10) for n in lengths.values())
    at = 0
    for movie in range(4):
        line = [i for i in range(len(made.movie)) if made.movie[i] == movie]
        for start in range(len(line) - T + 1):
            inside = line[start:start + T]
            runs = list(dict.fromkeys(made.clip[i] for i in inside))
            counts = [sum(made.clip[i] == c for i in inside) for c in runs]
            assert windows.counts[at].tolist() == counts + [0] * (3 - len(runs))
            videos = [next(made.video[i] for i in inside if made.clip[i] == c) for c in runs]
            assert windows.videos[at].tolist() == videos + [-1] * (3 - len(runs))
            tally = Counter(labels[made.video[i]] for i in inside).most_common()
            assert windows.majority_frames[at] == tally[0][1]
            tie = len(tally) > 1 and tally[1][1] == tally[0][1]
            assert windows.majority[at] == (-1 if tie else tally[0][0])
            assert (windows.movie[at], windows.start[at]) == (movie, start)
            at += 1
    assert at == len(windows.movie)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 7), st.integers(0, 1000))
def test_cuts_hold_the_frames_around_them_and_controls_the_same_frames(T, seed):
    labels = np.array([0, 1, 2, 0, 1])
    made = draw_movies(labels, 3, 6, np.full(5, 8), seed, (2, 8))
    cuts = find_cuts(made, labels, T)
    assert len(cuts.at) == 3 * 5
    for m, at in enumerate(cuts.at):
        before = int((made.clip == made.clip[at - 1]).sum())
        after = int((made.clip == made.clip[at]).sum())
        for k in range(T + 1):
            assert cuts.complete[m, k] == (T - k <= before and k <= after)
            if cuts.complete[m, k]:
                line = np.arange(at - T + k, at + k)
                assert np.array_equal(cuts.frame[m, k], made.frame[line])
                assert np.array_equal(cuts.video[m, k], made.video[line])
    for control in CONTROLS:
        video, frame = play(cuts, control, seed)
        assert np.array_equal(np.sort(video * 10 + frame, 2), np.sort(cuts.video * 10 + cuts.frame, 2))
    assert np.array_equal(play(cuts, "backwards", 0)[1], cuts.frame[..., ::-1])


def test_mixed_windows_interleave_the_two_actions():
    labels = np.array([0, 1])
    cuts = find_cuts(draw_movies(labels, 1, 2, np.full(2, 5), 0), labels, 5)
    video, frame = (values[0] for values in play(cuts, "mixed", 0))
    steps = np.where(video == video[0, 0], frame, 5 + frame) - np.arange(6)[:, None]    # of the hard cut
    for k, row in enumerate(steps.tolist()):
        late = [i for i, s in enumerate(row) if s >= 5 - k]
        assert len(late) == k and sorted(row) == list(range(5))
        assert all(b - a <= math.ceil(5 / k) for a, b in zip(late, late[1:], strict=False))
