"""The store among processes: work that is shared, kills, and what is listed and removed."""
import os
import random
import re
import shutil
import time

import numpy as np
import pytest
import torch
from commands import ROOT, run, start
from runs import ONE_THREAD

import models
from lrcn.base import files
from lrcn.clips.frames import windows
from lrcn.clips.manifest import read_sampled
from lrcn.encoding.contents import fingerprints
from lrcn.encoding.features import Options, encode_clips
from lrcn.encoding.store import ENTRY, Store

CPU = Options(torch.device("cpu"), num_workers=0)
ENCODE = """
import os, sys, time
import torch
import models
from lrcn.clips.frames import windows
from lrcn.clips.manifest import read_sampled
from lrcn.encoding import features
features.KEEP_SECONDS = 0
pwrite = os.pwrite
def slow(*args):
    time.sleep(0.004)
    return pwrite(*args)
os.pwrite = slow
torch.manual_seed(0)
encoder = models.build_encoder("squeezenet1_1", None, 32)
folder, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
clips = [windows(video, 5)[0] for video in read_sampled(folder)[first:last]]
features.encode_clips(encoder, clips, folder, features.Options(torch.device("cpu"), 0))
"""


@pytest.fixture
def folder(sampled, tmp_path):
    """Sampled clips that no store belongs to yet."""
    return shutil.copytree(sampled, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))


@pytest.fixture
def script(tmp_path):
    """A script that encodes videos [first, last) of a folder, slowly."""
    path = tmp_path / "encode.py"
    path.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{ENCODE}")
    return path


def encode(folder, number=9):
    torch.manual_seed(0)
    encoder = models.build_encoder("squeezenet1_1", None, 32)
    clips = [windows(video, 5)[0] for video in read_sampled(folder)[:number]]
    return np.asarray(encode_clips(encoder, clips, folder, CPU))


def contents(folder):
    """{an entry's words: its row's bytes} of the only key in a folder; every row is whole."""
    [key] = folder.glob("features/*/key.json")
    store = Store(folder, files.read_json(key)["key"]).lay_out(files.read_json(key))
    entries = np.concatenate([segment.entries for segment in store.segments])
    rows = store.find(entries)
    assert (rows >= 0).all()
    names = [tuple(entry) for entry in entries[["video", "view", "frame"]].tolist()]
    return {(*video.tolist(), view, frame): row.tobytes()
            for (video, view, frame), row in zip(names, store.read(rows), strict=True)}, len(entries)


def frames_encoded(process):
    return sum(int(n) for n in re.findall(r"encoding frames: (\d+) frames", process.out))


def test_two_runs_together_share_the_work(folder, script, sampled, tmp_path):
    """Their videos overlap: what both encoded is the number of different frames."""
    processes = [start(script, folder, *some, env=ONE_THREAD) for some in ((0, 40), (20, 60))]
    assert all(process.wait(120).code == 0 for process in processes)
    assert sum(map(frames_encoded, processes)) == 300 == contents(folder)[1]
    peace = shutil.copytree(sampled, tmp_path / "peace", ignore=shutil.ignore_patterns("features"))
    run(script, peace, 0, 60, env=ONE_THREAD)
    assert contents(folder) == contents(peace)


@pytest.mark.slow
def test_twenty_kills_of_one_of_two_runs_leave_nothing_wrong(folder, script, sampled, tmp_path):
    moments, kept = random.Random(2), 0
    for _ in range(20):
        one, other = (start(script, folder, *some, env=ONE_THREAD) for some in ((0, 60), (30, 66)))
        time.sleep(moments.uniform(0.3, 2.5))
        one.kill()
        one.wait()
        time.sleep(moments.uniform(0, 0.3))
        other.kill()
        other.wait()
        there = [path.stat().st_size // ENTRY.itemsize for path in folder.glob("features/*/*.index")]
        kept = max([kept, *there])
        if kept >= 300:
            shutil.rmtree(folder / "features")
            kept = 1
    assert kept, "every kill came too early"
    for some in ((0, 60), (0, 66)):
        run(script, folder, *some, env=ONE_THREAD)
    peace = shutil.copytree(sampled, tmp_path / "peace", ignore=shutil.ignore_patterns("features"))
    run(script, peace, 0, 66, env=ONE_THREAD)
    mine, clean = contents(folder)[0], contents(peace)[0]
    assert mine == clean


def test_a_store_without_locks_is_never_wrong(folder, monkeypatch):
    """Two machines that see no lock of each other's write side by side; on a file system without locks
    the same."""
    from lrcn.base import files as base_files

    def no_lock(*args, **options):
        raise OSError(37, os.strerror(37))
    monkeypatch.setattr(base_files, "lock", no_lock)
    expected = encode(folder)
    monkeypatch.setattr("platform.node", lambda: "another")
    shutil.copytree(folder, folder.with_name("other"))
    assert np.array_equal(encode(folder, 12)[:9], expected)
    assert len(list(folder.glob("features/*/*.index"))) == 2


# ---------------------------------------------------------------- list and remove

def inventory(folder, *words, **options):
    command = "import runpy; runpy.run_module('lrcn.encoding.inventory', run_name='__main__')"
    script = folder.parent / "inventory.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{command}\n")
    return run(script, folder, *words, **options)


def test_the_list_says_what_is_there_and_prune_removes_what_no_video_needs(folder):
    values = encode(folder)
    gone = folder / read_sampled(folder)[0].path
    rows = (folder / "manifest.csv").read_text().splitlines(keepends=True)
    (folder / "manifest.csv").write_text("".join(row for row in rows if gone.stem not in row))
    old = folder / "features" / "0123456789abcdef"
    old.mkdir()
    (old / "features.bin").write_bytes(b"1" * 1000)
    (folder / "features" / "mean-1.npy").write_bytes(b"1")
    said = inventory(folder).out
    assert "squeezenet1_1 rgb 32 pixels, torch float32 (cpu)" in said
    assert "45 frames" in said and "5 of no use" in said and said.count("of an older format") == 2
    assert old.is_dir()
    said = inventory(folder, "--prune").out
    assert "40 frames" in said and "0 of no use" in said and said.count("removed") == 2 and not old.exists()
    assert len(list(folder.glob("features/*/*.rows"))) == 1
    assert np.array_equal(encode(folder, 8), values[1:])
    [index] = folder.glob("features/*/*.index")
    assert index.stat().st_size == 40 * ENTRY.itemsize


def test_prune_keeps_one_whole_row_of_an_entry(folder):
    values = encode(folder)
    [rows] = folder.glob("features/*/*.rows")
    raw = bytearray(rows.read_bytes())
    raw[5] ^= 1
    rows.write_bytes(raw)
    assert np.array_equal(encode(folder), values)
    inventory(folder, "--prune")
    assert contents(folder)[1] == 45 and np.array_equal(encode(folder), values)


def test_a_key_is_removed_by_its_name(folder):
    encode(folder)
    result = inventory(folder, "--remove", "nothing", ok=False)
    assert result.code == 2 and "--remove nothing: no such key" in result.err
    [key] = folder.glob("features/*/key.json")
    inventory(folder, "--remove", key.parent.name)
    assert not key.parent.exists()


def test_older_caches_are_said_and_never_read(folder, capsys):
    old = folder / "features" / "0123456789abcdef"
    old.mkdir(parents=True)
    (old / "features.bin").write_bytes(b"1" * 1000)
    encode(folder)
    assert "1 feature caches of an older format (0.00 MB) are not used any more" in capsys.readouterr().out


def test_a_fingerprint_is_read_from_the_file_once(folder, monkeypatch):
    paths = [video.path for video in read_sampled(folder)]
    past = time.time() - 100
    first = fingerprints(folder, paths)
    assert len(np.unique(first, axis=0)) == len(paths)
    monkeypatch.setattr("lrcn.encoding.contents.SETTLED_NS", 0)
    fingerprints(folder, paths)
    monkeypatch.setattr("lrcn.encoding.contents._hash", None)
    assert np.array_equal(fingerprints(folder, paths), first)
    os.utime(folder / paths[3], (past, past))
    with pytest.raises(TypeError):
        fingerprints(folder, paths)
