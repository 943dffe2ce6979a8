"""Clips, views and the feature cache: encoded once, checked before use, never stale."""
import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import models
from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.clips.frames import clip_frames, mirrored, training_clip, window, windows
from lrcn.clips.manifest import read_sampled
from lrcn.encoding.features import Blocks, FrameEncoder, Options, encode_clips, unique_rows
from lrcn.encoding.store import cache_key

CPU = Options(torch.device("cpu"), num_workers=0)
LENGTH = 5


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return models.build_encoder("squeezenet1_1", None, 32)


@pytest.fixture
def folder(sampled, tmp_path):
    """Sampled clips that no cache belongs to yet."""
    return shutil.copytree(sampled, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))


@pytest.fixture
def clips(folder):
    return [windows(video, LENGTH)[0] for video in read_sampled(folder)[:9]]


@pytest.fixture
def encoded(monkeypatch):
    """The number of frames of every call of the encoder, its first, to learn its shape, left out."""
    calls = []
    real = FrameEncoder.__call__

    def noted(self, frames):
        if vars(self).setdefault("probed", False):
            calls.append(len(frames))
        self.probed = True
        return real(self, frames)
    monkeypatch.setattr(FrameEncoder, "__call__", noted)
    return calls


def direct(encoder, folder, clips, seed=42):
    """What the encoder says of the clips' frames, without any of the machinery."""
    frames = np.stack([clip_frames(folder, clip, encoder.transform, seed) for clip in clips])
    with torch.inference_mode():
        x = torch.from_numpy(frames).permute(0, 1, 4, 2, 3)
        return encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2]).numpy()


def caches(folder):
    return sorted((folder / "features").iterdir())


# ---------------------------------------------------------------- cache

def test_every_frame_is_encoded_once_and_the_second_time_none(encoder, folder, clips, encoded):
    values = encode_clips(encoder, clips, folder, CPU)
    assert sum(encoded) == len(clips) * LENGTH
    assert values.shape == (9, LENGTH, 512) and values.dtype == np.float16
    expected = direct(encoder, folder, clips)
    assert np.abs(values - expected).max() <= 2e-3 * np.abs(expected).max()
    encoded.clear()
    assert np.array_equal(encode_clips(encoder, clips, folder, CPU), values)
    assert encoded == [] and len(caches(folder)) == 1


def test_windows_that_share_frames_encode_them_once(encoder, folder, encoded):
    video = read_sampled(folder)[0]
    overlapping = [window(video, start, 3) for start in range(3)]
    values = encode_clips(encoder, overlapping, folder, CPU)
    assert sum(encoded) == 5
    assert np.array_equal(values[0, 2], values[2, 0])


def test_without_a_cache_the_values_are_the_same_and_nothing_is_written(encoder, folder, clips):
    values = encode_clips(encoder, clips, folder, replace(CPU, cache=False))
    assert not (folder / "features").exists()
    assert np.array_equal(values, encode_clips(encoder, clips, folder, CPU))


def cut_off(cache):
    path = cache / "features.bin"
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def damage(cache):
    path = cache / "features.bin"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def zero(cache):
    path = cache / "features.bin"
    path.write_bytes(bytes(path.stat().st_size))


def grow(cache):
    with open(cache / "features.bin", "ab") as f:
        f.write(bytes(1000))


def cut_sums(cache):
    (cache / "blocks.bin").write_bytes((cache / "blocks.bin").read_bytes()[:9])


def random_sums(cache):
    path = cache / "blocks.bin"
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def no_sums(cache):
    (cache / "blocks.bin").unlink()


def no_data(cache):
    (cache / "features.bin").unlink()


def foreign_key(cache):
    key = files.read_json(cache / "key.json")
    files.write_json(cache / "key.json", key | {"weights": "0" * 16})
    damage(cache)


def broken_key(cache):
    (cache / "key.json").write_text('{"format": 1, ')


SPOILERS = [cut_off, damage, zero, grow, cut_sums, random_sums, no_sums, no_data, foreign_key, broken_key]


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda f: f.__name__)
def test_a_truncated_damaged_or_foreign_cache_is_encoded_again(encoder, folder, clips, encoded, spoil):
    values = encode_clips(encoder, clips, folder, CPU).copy()
    [cache] = caches(folder)
    encoded.clear()
    spoil(cache)
    assert np.array_equal(encode_clips(encoder, clips, folder, CPU), values)
    assert bool(encoded) == (spoil is not grow)
    if spoil is damage:
        assert encoded == [8], "one byte is one block"
    encoded.clear()
    encode_clips(encoder, clips, folder, CPU)
    assert encoded == [] and caches(folder) == [cache]


def test_encoding_that_was_stopped_goes_on_where_it_was(encoder, folder, clips, encoded, monkeypatch):
    expected = encode_clips(encoder, clips, folder, replace(CPU, cache=False))
    encoded.clear()
    real = Blocks.__getitem__

    def stopped(self, i):
        if i == 3:
            raise KeyboardInterrupt
        return real(self, i)
    monkeypatch.setattr(Blocks, "__getitem__", stopped)
    with pytest.raises(KeyboardInterrupt):
        encode_clips(encoder, clips, folder, CPU)
    monkeypatch.setattr(Blocks, "__getitem__", real)
    before = sum(encoded)
    assert before == 24
    assert np.array_equal(encode_clips(encoder, clips, folder, CPU), expected)
    assert sum(encoded) - before <= 45 - 16, "what was encoded before is encoded again"


def test_a_cache_belongs_to_its_encoder_transform_clips_views_and_precision(encoder, folder, clips):
    def key(encoder=encoder, clips=clips, options=CPU, folder=folder):
        rows, _ = unique_rows(clips)
        return json.dumps(cache_key(encoder, rows, folder, options, "float32"), sort_keys=True)

    torch.manual_seed(1)
    other_weights = models.build_encoder("squeezenet1_1", None, 32)
    view = [training_clip(clip.video, LENGTH, 1, 42) for clip in clips]
    keys = {"first": key(), "weights": key(other_weights),
            "size": key(models.build_encoder("squeezenet1_1", encoder.backbone.state_dict(), 40)),
            "fewer clips": key(clips=clips[:-1]), "order": key(clips=clips[::-1]),
            "mirror": key(clips=[mirrored(clip) for clip in clips]),
            "view": key(clips=view), "precision": key(options=replace(CPU, dtype="float32")),
            "seed": key(clips=view, options=replace(CPU, seed=7))}
    assert len(set(keys.values())) == len(keys)
    assert key() == keys["first"]
    assert key(options=replace(CPU, seed=7)) == keys["first"], "the plain view does not depend on the seed"
    with open(folder / "manifest.csv", "a") as f:
        f.write("v_New_g01_c01,New,x.avi,25,60,0,10,5\n")
    manifest = key()
    path = folder / clips[0].video.path
    path.write_bytes(path.read_bytes() + b"\0")
    assert len({keys["first"], manifest, key()}) == 3


def test_another_networks_cache_is_never_used(encoder, folder, clips):
    encode_clips(encoder, clips, folder, CPU)
    torch.manual_seed(1)
    other = models.build_encoder("squeezenet1_1", None, 32)
    values = encode_clips(other, clips, folder, CPU)
    expected = direct(other, folder, clips)
    assert np.abs(values - expected).max() <= 2e-3 * np.abs(expected).max()
    assert len(caches(folder)) == 2


def test_features_too_large_for_float16_are_kept_in_float32(encoder, folder, clips):
    loud = copy.deepcopy(encoder)
    with torch.no_grad():
        loud.scale.mul_(1e6)
    values = encode_clips(loud, clips, folder, CPU)
    assert values.dtype == np.float32 and np.isfinite(values).all() and values.max() > 65504
    np.testing.assert_allclose(values, direct(loud, folder, clips), rtol=2e-3, atol=values.max() * 1e-4)
    assert encode_clips(encoder, clips, folder, CPU).dtype == np.float16


def test_worker_processes_change_no_bit(encoder, folder, clips):
    values = [encode_clips(encoder, clips, folder, replace(CPU, cache=False, num_workers=n))
              for n in (0, 1, 3)]
    assert np.array_equal(values[0], values[1]) and np.array_equal(values[0], values[2])


def test_a_clip_that_cannot_be_read_is_named(encoder, folder, clips):
    path = folder / clips[4].video.path
    path.write_bytes(path.read_bytes()[:2000])
    for workers in (0, 2):
        with pytest.raises(UserError, match=f"cannot read {clips[4].video.path}"):
            encode_clips(encoder, clips, folder, replace(CPU, num_workers=workers))
