"""What a clip looks like in numbers: hashes that a codec does not move, and pairs that are all found."""
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from lrcn.data import likeness


def picture(seed, size=(120, 160)):
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def distance(one, other):
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_a_picture_keeps_its_hash_through_a_codec_and_another_size_and_differs_from_others():
    frames = [picture(seed) for seed in range(20)]
    hashes = [likeness.perceptual_hash(likeness.small(f)) for f in frames]
    for frame, known in zip(frames, hashes, strict=True):
        coded = cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
        larger = cv2.resize(coded, (480, 360))
        assert distance(likeness.perceptual_hash(likeness.small(larger)), known) <= 6
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 6


@pytest.mark.parametrize("frames, black, frozen, hashes", [
    ([np.zeros((60, 80, 3), np.uint8)] * 5, True, True, 0), ([picture(1)] * 5, False, True, 1),
    ([picture(k) for k in range(5)], False, False, 3), ([picture(1)], False, True, 1),
    ([np.full((60, 80, 3), 200, np.uint8)] * 5, False, True, 0)])
def test_a_look_tells_black_and_frozen_clips(frames, black, frozen, hashes):
    look = likeness.Look()
    assert all(a is b for a, b in zip(look.at(frames), frames, strict=True))
    width, height, light, contrast, change, found = look.facts()
    assert (height, width) == frames[0].shape[:2]
    assert (light < likeness.BLACK and contrast < likeness.FLAT) is black
    assert (change < likeness.FROZEN) is frozen and len(found.split()) == hashes


def test_a_look_at_a_long_video_holds_few_pictures_and_sees_its_beginning_middle_and_end():
    look = likeness.Look()
    for _ in look.at(np.full((8, 8, 3), i // 4, np.uint8) for i in range(1000)):
        assert len(look.pictures) <= likeness.HELD
    seen = [p.mean() * 4 for p in look.pictures]
    assert seen[0] == 0 and 480 < seen[(len(seen) - 1) // 2] < 520 and seen[-1] > 960


HASHES = st.lists(st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 63), max_size=8)), max_size=3),
                  max_size=12)
BASES = [0, 2**64 - 1, 0x0123456789ABCDEF, 0xF0F0F0F00F0F0F0F]


@settings(max_examples=60, deadline=None)
@given(HASHES, st.integers(0, 7))
def test_the_clusters_are_those_of_all_pairs(spec, nearest):
    clips = [[f"{BASES[base] ^ sum(1 << bit for bit in bits):016x}" for base, bits in clip] for clip in spec]
    near = np.array([[any(distance(a, b) <= nearest for a in one for b in other) for other in clips]
                     for one in clips]).reshape(len(clips), len(clips))
    count, label = connected_components(near, directed=False) if clips else (0, [])
    expected = sorted(g for k in range(count) if len(g := [i for i, x in enumerate(label) if x == k]) > 1)
    assert likeness.clusters(clips, nearest) == expected
