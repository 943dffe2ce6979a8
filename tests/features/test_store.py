"""The store: what is listed and removed, and every operation in any order. Kills: test_promises.py."""
import contextlib
import errno
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

import models
import networks
from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.data.frames import ClipSampler
from lrcn.data.manifest import read_sampled
from lrcn.features import features
from lrcn.features.features import Options, encode_clips
from lrcn.features.inventory import keys, main, prune
from lrcn.features.store import ENTRY, Store
from lrcn.training.recipe import Recipe

CPU = Options(torch.device("cpu"), num_workers=0)


def encode(folder, number=9):
    torch.manual_seed(0)
    encoder = models.build_encoder("squeezenet1_1", None, 32)
    clips = [ClipSampler(5).windows(video)[0] for video in read_sampled(folder)[:number]]
    return np.asarray(encode_clips(encoder, clips, folder, CPU))


@pytest.fixture
def inventory(monkeypatch, capsys):
    def call(folder, *words):
        monkeypatch.setattr("sys.argv", ["inventory", str(folder), *words])
        capsys.readouterr()
        main()
        return capsys.readouterr().out
    return call


def test_the_list_says_what_is_there_and_prune_removes_what_no_video_needs(folder, inventory):
    values = encode(folder)
    gone = folder / read_sampled(folder)[0].path
    rows = (folder / "manifest.csv").read_text().splitlines(keepends=True)
    (folder / "manifest.csv").write_text("".join(row for row in rows if gone.stem not in row))
    said = inventory(folder)
    assert "squeezenet1_1 rgb 32 pixels, torch float32 (cpu)" in said
    assert "45 frames" in said and "5 not needed" in said
    kept = folder / "features" / "encoders" / "a.pth.tar"
    kept.parent.mkdir()
    kept.touch()
    said = inventory(folder, "--prune")
    assert "40 frames" in said and "0 not needed" in said and not kept.parent.exists()
    assert len(list(folder.glob("features/*/*.rows"))) == 1
    assert np.array_equal(encode(folder, 8), values[1:])
    [index] = folder.glob("features/*/*.index")
    assert index.stat().st_size == 40 * ENTRY.itemsize


def test_the_features_go_out_as_plain_arrays_of_the_key_that_is_named(folder, inventory, tmp_path):
    values, videos = encode(folder), read_sampled(folder)
    assert "9 videos" in inventory(folder, "--export", str(tmp_path / "out.npz"))
    with np.load(tmp_path / "out.npz", allow_pickle=False) as out:
        arrays = dict(out)
    assert np.array_equal(arrays["features"], values.reshape(45, -1))
    assert arrays["videos"].tolist() == [v.path for v in videos[:9] for _ in range(5)]
    assert arrays["labels"].tolist() == [v.cls for v in videos[:9] for _ in range(5)]
    assert arrays["frames"].tolist() == [*range(5)] * 9
    torch.manual_seed(1)
    other = models.build_encoder("squeezenet1_1", None, 32)
    encode_clips(other, ClipSampler(5).windows(videos[0]), folder, CPU)
    [one, other] = (path.name for path in keys(folder))
    with pytest.raises(UserError, match=f"--key None: choose one of {one}, {other}"):
        inventory(folder, "--export", str(tmp_path / "out.npz"))
    assert "5 frames of 1 videos" in "".join(
        inventory(folder, "--key", key, "--export", str(tmp_path / "out.npz")) for key in (one, other))


def test_a_description_without_its_check_sum_costs_no_rows(folder, inventory):
    values = encode(folder)
    [key] = folder.glob("features/*/key.json")
    [rows] = folder.glob("features/*/*.rows")
    before, said = rows.read_bytes(), files.read_json(key)
    for change in ({"dtype": "float32"}, {"sum": None}):
        files.write_json(key, said | change)
        assert f"{key.parent.name}  key.json is damaged or old" in inventory(folder, "--prune")
        assert rows.read_bytes() == before
        assert np.array_equal(encode(folder), values) and rows.read_bytes() == before
    with pytest.raises(UserError, match="--remove nothing: no such key"):
        inventory(folder, "--remove", "nothing")
    for description in (said, said | {"sum": None}):
        encode(folder)
        files.write_json(key, description)
        inventory(folder, "--remove", key.parent.name)
        assert not key.parent.exists()


SMALL = Recipe(encoder="squeezenet1_1", encoder_weights="none", img_dim=32)


@pytest.mark.parametrize("seen, shape", [({}, (3,)), ({"modality": "rgb+rgbdiff"}, (2, 3)),
                                         ({"modality": "flow", "flow_length": 2}, (4,))])
def test_the_network_of_a_kept_encoder_is_the_one_that_was_built_at_once(seen, shape, tmp_path):
    recipe = replace(SMALL, sampled_data_path=str(tmp_path), **seen)
    built, kept = (networks.new_encoder(recipe, []) for _ in range(2))
    frames = torch.randint(256, (2, *shape, 32, 32), dtype=torch.uint8)
    assert kept.weights_alone and not built.weights_alone and kept.spec() == built.spec()
    with torch.inference_mode():
        assert torch.equal(kept.whole(frames), built(frames))


def test_a_kept_encoder_that_is_damaged_or_of_another_name_is_built_anew(tmp_path):
    recipe = replace(SMALL, sampled_data_path=str(tmp_path))
    built = networks.new_encoder(recipe, [])
    [path] = tmp_path.glob("features/encoders/*")
    good, every = path.read_bytes(), range(0, path.stat().st_size, path.stat().st_size // 10)
    networks.new_encoder(replace(recipe, seed=2), [])
    [other] = set(path.parent.iterdir()) - {path}
    torch.save([1], tmp_path / "list")
    for damaged in (b"", good[:len(good) // 2], (tmp_path / "list").read_bytes(), other.read_bytes(),
                    *(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:] for at in every)):
        path.write_bytes(damaged)
        again, kept = (networks.new_encoder(recipe, []) for _ in range(2))
        assert again.digest() == kept.digest() == built.digest() and again.spec() == built.spec()
        assert kept.weights_alone


KEY, VIDEOS, FRAMES = {"k": 1}, 6, 4
SOME = st.lists(st.integers(0, VIDEOS - 1), min_size=1, unique=True)


def value(entry):
    """What the encoder says of an entry's picture, float16 (2,)."""
    return np.array([entry["video"][0], entry["frame"]], np.float16)


MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None     # where a write costs least


class StoreMachine(RuleBasedStateMachine):
    """encode_clips itself on entries in the place of clips, an encoder that knows `value`, real files.

    Other writers append while a run encodes, as ranks and machines without a common lock do; readers of
    before go on reading. Whatever happens, what is read is `value`.
    """

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        self.content, self.readers, self.others, self.during = list(range(1, VIDEOS + 1)), [], {}, None
        self.patches = contextlib.ExitStack()
        for name, fake in {
                "unique_rows": lambda entries: (entries, np.arange(len(entries))[:, None], None),
                "entries_of": lambda folder, entries, seed, parts: (entries, {}),
                "store_key": lambda *_: KEY, "_encode": self.put_all, "cli": mock.Mock(),
                "FrameEncoder": mock.Mock(),
                "_first_use": lambda *_: (True, {"shape": [2], "dtype": "float16"}),
                "Blocks": lambda rows, chosen, *_: SimpleNamespace(rows=rows, chosen=chosen)}.items():
            self.patches.enter_context(mock.patch.object(features, name, fake))

    def teardown(self):
        self.patches.close()
        for writer in self.others.values():
            writer.close()
        shutil.rmtree(self.folder)

    def put_all(self, encoder, blocks, keep, *_):
        for numbers in np.array_split(blocks.chosen, 2):
            if len(numbers):
                keep(numbers, np.stack([value(entry) for entry in blocks.rows[numbers]]))
            if self.during:
                during, self.during = self.during, None
                during()

    def entries(self, videos):
        entries = np.zeros((len(videos), FRAMES), ENTRY)
        entries["video"][..., 0] = np.array([self.content[video] for video in videos])[:, None]
        entries["frame"] = np.arange(FRAMES)
        return entries.ravel()

    def check(self, entries, found):
        assert np.array_equal(np.asarray(found)[:, 0], np.stack([value(entry) for entry in entries]))

    @rule(videos=SOME)
    def encode(self, videos):
        entries = self.entries(videos)
        encoder = SimpleNamespace(transform=SimpleNamespace(parts=("rgb",), unit="frames"))
        found = encode_clips(encoder, entries, self.folder, CPU)
        self.during = None      # nothing was missing: it must not happen under another rule's lock
        self.check(entries, found)
        self.readers = [*self.readers[-4:], (entries, found)]

    @rule(videos=SOME, theirs=SOME, name=st.sampled_from("az"))
    def encode_beside_another(self, videos, theirs, name):
        self.during = lambda: self.another_writes(theirs, name)
        self.encode(videos)

    @rule(videos=SOME, theirs=SOME)
    def encode_while_another_prunes(self, videos, theirs):
        self.during = lambda: self.prune(theirs)
        with mock.patch.object(files, "lock", mock.Mock(side_effect=OSError(errno.ENOLCK, ""))):
            self.encode(videos)

    @rule(videos=SOME)
    def encode_while_features_are_deleted(self, videos):
        self.during = self.delete
        self.encode(videos)

    @rule(videos=SOME, at=st.integers(1, 5), share=st.floats(0, 1),
          fault=st.sampled_from([KeyboardInterrupt(), OSError(errno.ENOSPC, "full")]))
    def encode_until_a_write_breaks_off(self, videos, at, share, fault):
        writes, real = [], os.pwrite

        def break_off(handle, data, where):
            writes.append(where)
            if len(writes) == at:
                real(handle, data[:int(share * len(data))], where)
                raise fault
            return real(handle, data, where)
        with mock.patch.object(os, "pwrite", break_off), contextlib.suppress(type(fault)):
            self.encode(videos)

    @rule(videos=SOME, name=st.sampled_from("az"))
    def another_writes(self, videos, name):
        """A writer whose file sorts before or after this machine's."""
        store = Store(self.folder, KEY, {"shape": [2], "dtype": "float16"})
        if (store.path / "key.json").is_file():
            writer = self.others.setdefault(name, store.writer(0))
            writer.path = store.path / f"{'0' if name == 'a' else 'z'}-other"
            entries = self.entries(videos)
            writer.put(entries, np.stack([value(entry) for entry in entries]))

    @rule(name=st.sampled_from("az"))
    def another_ends(self, name):
        if name in self.others:
            self.others.pop(name).close()

    @rule(videos=SOME)
    def prune(self, videos):
        for store in filter(None, keys(self.folder).values()):
            prune(store, {tuple(video) for video in self.entries(videos)["video"].tolist()})

    @rule(kind=st.sampled_from(["rows", "index"]), where=st.floats(0, 1), change=st.integers(1, 255),
          cut=st.booleans())
    def damage(self, kind, where, change, cut):
        self.readers = []
        for path in self.folder.glob(f"features/*/*.{kind}"):
            raw = bytearray(path.read_bytes()) or bytearray(1)
            at = int(where * (len(raw) - 1))
            raw[at] ^= change
            path.write_bytes(raw[:at] if cut else raw)

    @rule()
    def delete(self):
        shutil.rmtree(self.folder / "features", ignore_errors=True)

    @rule(dtype=st.sampled_from(["int16", "float32", "float16"]))
    def spoil_the_description(self, dtype):
        for path in self.folder.glob("features/*/key.json"):
            files.write_json(path, files.read_json(path) | {"dtype": dtype})

    @rule(video=st.integers(0, VIDEOS - 1))
    def replace_a_video(self, video):
        self.content[video] = max(self.content) + 1

    @rule()
    def read_on(self):
        for entries, found in self.readers:
            self.check(entries, found)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def test_a_clip_that_changes_while_it_is_encoded_is_not_stored(folder, monkeypatch):
    [video] = read_sampled(folder)[:1]
    truth, other = encode(folder, 1), folder / read_sampled(folder)[40].path
    shutil.rmtree(folder / "features")
    before, real = (folder / video.path).read_bytes(), features._first_use

    def then_it_changes(*args):
        said = real(*args)
        (folder / video.path).write_bytes(other.read_bytes())
        return said
    monkeypatch.setattr(features, "_first_use", then_it_changes)
    with pytest.raises(UserError, match=f"{video.path} changed while it was read"):
        encode(folder, 1)
    monkeypatch.undo()
    (folder / video.path).write_bytes(before)
    assert np.array_equal(encode(folder, 1), truth)


@pytest.mark.parametrize("wait", [True, False])
def test_a_lock_whose_file_was_deleted_meanwhile_is_taken_anew(wait, tmp_path, monkeypatch):
    real = files.fcntl.flock

    def deleted_first(handle, how):
        monkeypatch.setattr(files.fcntl, "flock", real)
        (tmp_path / ".lock").unlink()
        return real(handle, how)
    monkeypatch.setattr(files.fcntl, "flock", deleted_first)
    with files.lock(tmp_path, "flag", "another", wait=wait), open(tmp_path / ".lock") as f, \
            pytest.raises(BlockingIOError):
        real(f, files.fcntl.LOCK_EX | files.fcntl.LOCK_NB)
