"""What the weights of a network were trained on, through any number of runs that started from one another. A
video and its group are kept as eight bytes of a hash each: a checkpoint holds no names, and the 9,537 videos
of a training list take 110 KB."""
import hashlib
from dataclasses import dataclass

from lrcn.base.cli import UserError


def _mark(*names):
    digest = hashlib.blake2b("\0".join(names).encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def leaked(videos, marks, trained_on=()):
    """Those of `videos` that are in `marks`, or whose group is. trained_on: this run's own training videos,
    whose groups do not count: a published split may cut through a group."""
    groups = marks - {_mark("group", group) for group in {v.group for v in trained_on}}
    return [v for v in videos if _mark("video", *v.origin) in marks or _mark("group", v.group) in groups]


@dataclass(frozen=True)
class Learned:
    """Marks of what an encoder, and its network as a whole, were trained on; known: are these all?"""
    encoder: frozenset = frozenset()
    network: frozenset = frozenset()
    known: bool = True

    def __or__(self, other):
        return Learned(self.encoder | other.encoder, self.network | other.network, self.known and other.known)

    def after(self, videos, frozen):
        """This and a training on `videos`, of an encoder that was frozen or not."""
        new = frozenset(_mark(*names) for v in videos for names in (("video", *v.origin), ("group", v.group)))
        return self | Learned(frozenset() if frozen else new, new)

    def state(self):
        return {"encoder": sorted(self.encoder), "network": sorted(self.network), "known": self.known}

    @classmethod
    def of(cls, state, source):
        """The Learned of a checkpoint's entry; UserError for what `state` did not write."""
        lists = [state.get(name) for name in ("encoder", "network")] if isinstance(state, dict) else [None]
        if not all(isinstance(one, list) and all(type(mark) is int for mark in one) for one in lists) \
                or not isinstance(state.get("known"), bool):
            raise UserError(f"{source}: learned: expected lists of whole numbers and a truth value")
        return cls(*map(frozenset, lists), state["known"])
