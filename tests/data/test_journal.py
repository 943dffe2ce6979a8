"""The folder of sampled clips through any course of events: a changing source, kills, a full disk, --keep.

A state machine drives preprocessing_data.py, in forked processes where they end in the middle of what they
write, and compares what lies there with a dict of what should.
"""
import contextlib
import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import pytest
from commands import call
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lrcn.base import files
from lrcn.data import sampler
from lrcn.data.manifest import CLIP_COLUMNS, MANIFEST_COLUMNS, clip_path
from lrcn.video import avi
from lrcn.video.reader import read_frames
from lrcn.video.writer import write_clip

KEYS = [(cls, name) for cls in ("A", "B") for name in ("x", "y", "z")]
RUBBISH, KILLED, FULL = -1, 9, 28


class Fault:
    """Counts what changes the disk; at the `at`-th time the process dies, or the disk is full from then."""

    def __init__(self, at, kind):
        self.left, self.kind = at, kind

    def wrap(self, function):
        def call(*args, **options):
            self.left -= 1
            if self.left == 0 and self.kind == KILLED:
                os._exit(KILLED)
            if self.left <= 0 and self.kind == FULL:
                raise OSError(errno.ENOSPC, "no space left on device", str(args[0]))
            return function(*args, **options)
        return call


def sample(raw, out, keep, fault):
    """The exit status of preprocessing_data.py, or FULL; a Fault that kills ends a process of its own."""
    if fault.kind == KILLED and (child := os.fork()):
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code, names = 4, ("fsync", "replace", "unlink")[:3 if fault.kind == KILLED else 2]
    try:
        with contextlib.ExitStack() as patches:
            for place, name in ((sampler, "write_clip"), *((os, name) for name in names)):
                patches.enter_context(mock.patch.object(place, name, fault.wrap(getattr(place, name))))
            result = call("preprocessing_data.py", "--row_data_dir", raw, "--sampled_data_dir", out,
                          "--no-report", "--FPS", 10, "--sampling_rate", 1, *["--keep"] * keep, ok=False)
        code = FULL if "the disk is full" in result.err else result.code
    finally:
        if fault.kind == KILLED:
            os._exit(code)
    return code


class Preprocessing(RuleBasedStateMachine):
    """source: {key: its grey level}, what is in the raw folder. clips: {key: levels that its clip may have,
    None: no clip}: more than one after a run that was ended in the middle."""

    @initialize()
    def begin(self):
        self.place = TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.raw, self.out = Path(self.place.name, "raw"), Path(self.place.name, "out")
        self.source, self.clips, self.clock = {}, {key: {None} for key in KEYS}, 0
        self.put(KEYS[0], 40)

    def teardown(self):
        self.place.cleanup()

    @rule(key=st.sampled_from(KEYS), level=st.sampled_from([RUBBISH, 40, 120, 200]))
    def put(self, key, level):
        """Add a video, put another in its place, or write it anew as it was."""
        path = clip_path(self.raw, *key)
        path.parent.mkdir(parents=True, exist_ok=True)
        if level == RUBBISH:
            path.write_bytes(b"no video")
        else:
            write_clip(path, [np.full((16, 16, 3), level, np.uint8)] * 6, 10)
        self.clock += 1
        os.utime(path, ns=(self.clock * 10**9, self.clock * 10**9))
        self.source[key] = level

    @rule(key=st.sampled_from(KEYS))
    def remove(self, key):
        if key in self.source and len(self.source) > 1:
            clip_path(self.raw, *key).unlink()
            del self.source[key]

    @rule(keep=st.booleans(), at=st.integers(1, 60), kind=st.sampled_from([KILLED, FULL]))
    def sample_and_fail(self, keep, at, kind):
        code = sample(self.raw, self.out, keep, Fault(at, kind))
        if code in (KILLED, FULL):
            for key in KEYS:
                self.clips[key] = self.clips[key] | {self.wanted(key)} | ({None} if not keep else set())
        else:
            self.done(code, keep)

    @rule(keep=st.booleans())
    def sample_all(self, keep):
        self.done(sample(self.raw, self.out, keep, Fault(0, None)), keep)

    def wanted(self, key):
        level = self.source.get(key)
        return None if level == RUBBISH else level

    def done(self, code, keep):
        """A run that came to its end: the tables and the clips are those of the source, or what is kept."""
        failed = [key for key in self.source if self.source[key] == RUBBISH]
        assert code in ((0, 1) if failed else (0,))
        tables = (("manifest.csv", MANIFEST_COLUMNS), ("clips.csv", CLIP_COLUMNS))
        rows, facts = ({(row["class"], row["video"]) for row in files.read_csv(self.out / name, columns)}
                       for name, columns in tables)
        assert rows == facts
        assert files.read_json(self.out / "settings.json")["clips"] == len(rows)
        assert {(path.parent.name, path.stem) for path in self.out.glob("*/*.avi")} == rows
        for key in KEYS:
            there = self.level(key) if key in rows else None
            may = {self.wanted(key)}
            if keep:
                may = (self.clips[key] - {None}) | (may if None in self.clips[key] else set())
            assert there in may, (key, there, may, keep)
            self.clips[key] = {there}
        assert not list(self.out.glob(".journal*")) and not list(self.out.rglob("*.tmp*"))
        if not keep:
            said = files.read_csv(self.out / "failed.csv", ("source", "reason")) if failed else []
            assert {row["source"] for row in said} == {f"{cls}/{name}.avi" for cls, name in failed}

    def level(self, key):
        grey = read_frames(clip_path(self.out, *key), [0])[0].mean()
        return min((40, 120, 200), key=lambda level: abs(level - grey))

    @invariant()
    def what_has_its_name_is_whole(self):
        """At any moment: a clip is whole, or under a temporary name; a table can be read."""
        for path in self.out.glob("*/[!.]*.avi"):
            assert avi.frames_in(path) == 5
        if (self.out / "manifest.csv").exists():
            files.read_csv(self.out / "manifest.csv", MANIFEST_COLUMNS)


Preprocessing.TestCase.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
TestPreprocessing = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")(Preprocessing.TestCase)


def test_a_clip_that_was_written_before_a_kill_and_never_told_goes_with_its_source():
    one = Preprocessing()
    one.begin()
    for _ in range(2):
        one.sample_and_fail(keep=False, at=4, kind=KILLED)
        one.put(KEYS[1], RUBBISH)
    one.remove(KEYS[0])
    one.sample_all(keep=False)
    one.teardown()
