"""What a clip looks like in a few numbers: black, frozen, and which clips are nearly the same picture.

The hash is pHash (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"):
the signs of the 64 lowest DCT coefficients of 32 x 32 grey pixels against their median.
"""
import numpy as np

from lrcn.base.lazy import Lazy

cv2 = Lazy("cv2")

SIDE, LOW = 32, 8
HELD = 64               # small pictures that a Look keeps of a long video
BLACK, FLAT = 16, 4     # grey levels: darker, and with less spread, is black; with less spread has no hash
CANDIDATES = 500_000    # pairs that are compared at once
FROZEN = 0.1            # grey levels between the first, middle and last frame: less is frozen
# The cosines of an orthonormal DCT-II, (LOW, SIDE): two small products are faster than a whole transform.
_COSINES = np.sqrt(2 / SIDE) * np.cos(np.pi / SIDE * np.outer(np.arange(LOW), np.arange(SIDE) + 0.5))
_COSINES[0] /= np.sqrt(2)
_COSINES = _COSINES.astype(np.float32)


def small(frame):
    """uint8 (H, W, 3) RGB -> float32 (32, 32): green, which is nearly grey, and cheap."""
    step = max(1, min(frame.shape[:2]) // 96)
    thin = np.ascontiguousarray(frame[::step, ::step, 1])
    return cv2.resize(thin, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)


def perceptual_hash(picture):
    """The 64 bits of a small() picture, as 16 hexadecimal digits."""
    low = (_COSINES @ picture @ _COSINES.T).ravel()
    middle = LOW * LOW // 2
    return np.packbits(low >= np.partition(low, middle)[middle]).tobytes().hex()


class Look:
    """Keeps small pictures of the frames of a clip as they come, HELD at most of a long video."""

    def __init__(self):
        self.shape, self.pictures, self.count, self.step = (0, 0), [], 0, 1

    def at(self, frames):
        """Yields the frames."""
        for frame in frames:
            if self.count % self.step == 0:
                self.pictures.append(small(frame))
                if len(self.pictures) > HELD:
                    self.pictures, self.step = self.pictures[::2], 2 * self.step
            self.shape = frame.shape[:2]
            self.count += 1
            yield frame

    def facts(self):
        """[width, height, light, contrast, change, hashes] of the first, the middle and the last picture."""
        last = len(self.pictures) - 1
        three = [self.pictures[i] for i in (0, last // 2, last)]
        spread = [float(picture.std()) for picture in three]
        change = max(float(np.abs(one - other).mean()) for one, other in zip(three, three[1:], strict=False))
        hashes = dict.fromkeys(perceptual_hash(p) for p, s in zip(three, spread, strict=True) if s >= FLAT)
        light = float(np.mean([picture.mean() for picture in three]))
        return [self.shape[1], self.shape[0], round(light, 1), round(max(spread), 1), round(change, 2),
                " ".join(hashes)]


def clusters(hashes, nearest=6):
    """[[clip numbers]] of clips that are linked by nearly equal frames: at most `nearest` of 64 bits differ.
    hashes: for every clip, a list of perceptual hashes. Frames are compared only where a quarter of the hash
    differs in one bit at most: up to seven bits between two hashes leave such a quarter. What is linked
    already is not compared: clips that are all alike cost little, and memory does not grow with pairs."""
    owner = np.repeat(np.arange(len(hashes)), [len(h) for h in hashes])
    texts = [h for clip in hashes for h in clip]
    if not texts:
        return []
    values, place = np.unique(np.frombuffer(bytes.fromhex("".join(texts)), ">u8").astype(np.uint64),
                              return_inverse=True)
    label = components(len(hashes) + len(values), owner, len(hashes) + _near(values, nearest)[place])
    label = label[:len(hashes)]
    order = np.argsort(label, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    return sorted((group.tolist() for group in groups if len(group) > 1), key=lambda g: g[0])


def _near(values, nearest):
    """int (N,): the component of each of `values`, different uint64 (N,), in the graph of those that differ
    in at most `nearest` bits."""
    size, label = len(values), np.arange(len(values))
    for quarter in range(4):
        keys = (values >> np.uint64(16 * quarter) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.lexsort((label, keys))
        for flip in (0, *(1 << bit for bit in range(16))):
            rows = np.arange(size)
            while len(rows):
                ranked, bucket = (keys * size + label)[order], (keys[rows] ^ flip) * size
                begin, end = np.searchsorted(ranked, bucket), np.searchsorted(ranked, bucket + size)
                own = np.searchsorted(ranked, bucket + label[rows])
                past = np.searchsorted(ranked, bucket + label[rows], "right")
                counts = end - begin - (past - own)     # of those that it is not linked to
                most = max(1, np.searchsorted(np.cumsum(counts), CANDIDATES, "right"))
                now, counts, rows = rows[:most], counts[:most], rows[most:]
                at = np.repeat(begin[:most] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
                at += np.where(at >= np.repeat(own[:most], counts), np.repeat((past - own)[:most], counts), 0)
                one, other = np.repeat(now, counts), order[at]
                near = np.bitwise_count(values[one] ^ values[other]) <= nearest
                if near.any():
                    label = components(size, label[one[near]], label[other[near]])[label]
                    order = np.lexsort((label, keys))
    return label


def components(size, one, other):
    """int (size,): the connected component of every node of a graph with edges from `one` to `other`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(size, size))
    return connected_components(graph, directed=False)[1]
