"""Clips, views and the feature store: encoded once, checked before use, never stale."""
import copy
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import models
from lrcn.data.frames import Clip, ClipSampler, clip_frames
from lrcn.data.manifest import read_sampled
from lrcn.features import backbones, features
from lrcn.features.features import Options, encode_clips

CPU = Options(torch.device("cpu"), num_workers=0)
LENGTH = 5


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return models.build_encoder("squeezenet1_1", None, 32)


@pytest.fixture
def clips(folder):
    return [ClipSampler(LENGTH).windows(video)[0] for video in read_sampled(folder)[:9]]


def direct(encoder, folder, clips, seed=42):
    """What the encoder says of the clips' frames, without any of the machinery."""
    frames = np.stack([clip_frames(folder, clip, encoder.transform, seed) for clip in clips])
    with torch.inference_mode():
        x = torch.from_numpy(frames).permute(0, 1, 4, 2, 3)
        return encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2]).numpy()


def test_every_frame_is_encoded_once_and_the_second_time_none(encoder, folder, clips, encoded, monkeypatch):
    values = encode_clips(encoder, clips, folder, CPU)
    assert encoded == [len(clips) * LENGTH]
    assert values.shape == (9, LENGTH, 512) and values.dtype == np.float16
    expected = direct(encoder, folder, clips)
    assert np.abs(np.asarray(values) - expected).max() <= 2e-3 * np.abs(expected).max()
    monkeypatch.setattr(features, "FrameEncoder", None)     # a full store is read without one
    again = encode_clips(encoder, clips, folder, CPU)
    assert np.array_equal(again, values) and len(encoded) == 1
    assert np.array_equal(values[[4, 0]], np.asarray(values)[[4, 0]])
    assert np.array_equal(values.part(slice(2, 5))[1:], np.asarray(values)[3:5])


def test_other_clips_cost_the_frames_that_are_new(encoder, folder, encoded):
    videos = read_sampled(folder)
    encode_clips(encoder, [Clip(video, (0, 1, 2)) for video in videos[:4]], folder, CPU)
    later = [Clip(video, (2, 3, 4)) for video in videos[3::-1]]
    values = encode_clips(encoder, later, folder, CPU)
    assert encoded == [12, 8]       # windows share two of their three frames
    assert np.array_equal(values, encode_clips(encoder, later, folder, replace(CPU, cache=False)))
    encode_clips(encoder, [ClipSampler(5).windows(video)[0] for video in videos[:6]], folder, CPU)
    assert encoded == [12, 8, 12, 10]
    encode_clips(encoder, [ClipSampler(5).windows(videos[1])[0]], folder, CPU)
    assert len(encoded) == 4


def test_a_feature_depends_on_no_neighbour(encoder, folder, clips):
    whole = np.asarray(encode_clips(encoder, clips, folder, replace(CPU, cache=False)))
    for part in ([3], [8, 1, 5], [7, 6, 5, 4, 3, 2]):
        alone = encode_clips(encoder, [clips[i] for i in part], folder, replace(CPU, cache=False))
        assert np.array_equal(alone, whole[part])
    assert not (folder / "features").exists()


def test_a_file_of_the_same_size_and_date_with_other_content_is_new(encoder, folder, clips, encoded):
    encode_clips(encoder, clips, folder, CPU)
    path, other = folder / clips[0].video.path, folder / clips[4].video.path
    before, size = path.stat(), max(path.stat().st_size, other.stat().st_size) + 1
    path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    encode_clips(encoder, clips, folder, CPU)
    path.write_bytes(other.read_bytes().ljust(size, b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    values = encode_clips(encoder, clips, folder, CPU)
    assert encoded == [45, 5, 5] and np.array_equal(values[0], values[4])


def test_a_folder_that_moved_or_has_a_damaged_table_costs_nothing(encoder, folder, clips, encoded, tmp_path):
    values = np.asarray(encode_clips(encoder, clips, folder, CPU))
    moved = folder.rename(tmp_path / "elsewhere")
    assert np.array_equal(encode_clips(encoder, clips, moved, CPU), values)
    copied = shutil.copytree(moved, tmp_path / "copied")
    for table in ("", "x" * 500, "video,size,mtime_ns,ctime_ns,inode,fingerprint\na,b"):
        assert np.array_equal(encode_clips(encoder, clips, copied, CPU), values)
        (copied / "features" / "videos.csv").write_text(table)
    encode_clips(encoder, clips, copied, CPU)
    assert encoded == [45]


def test_an_entry_belongs_to_its_encoder_transform_view_and_precision(encoder, folder, clips, encoded):
    clips = clips[:3]
    view = [ClipSampler(LENGTH).training(clip.video, 1, 42)[0] for clip in clips]
    torch.manual_seed(1)
    other = models.build_encoder("squeezenet1_1", None, 32)
    differing = models.build_encoder("squeezenet1_1", encoder.backbone.state_dict(), 32, "rgbdiff")
    larger = models.build_encoder("squeezenet1_1", encoder.backbone.state_dict(), 40)
    for arguments in ((encoder, clips, folder, CPU), (other, clips, folder, CPU),
                      (larger, clips, folder, CPU), (differing, clips, folder, CPU),
                      (encoder, [replace(clip, view=-1) for clip in clips], folder, CPU),
                      (encoder, view, folder, CPU), (encoder, view, folder, replace(CPU, seed=7)),
                      (encoder, clips, folder, replace(CPU, dtype="float32")),
                      (encoder, clips, folder, replace(CPU, precision="bfloat16"))):
        values = encode_clips(*arguments)
        assert np.array_equal(values, encode_clips(*arguments[:3], replace(arguments[3], cache=False)))
        assert encoded.pop() == encoded.pop(), "taken from another's"
        assert encode_clips(*arguments).shape == (3, LENGTH, 512) and encoded == []
    encode_clips(encoder, clips, folder, replace(CPU, seed=7))
    assert encoded == [], "the plain view does not depend on the seed"


def test_features_too_large_for_float16_are_kept_in_float32(encoder, folder, clips):
    loud = copy.deepcopy(encoder)
    with torch.no_grad():
        loud.scale.mul_(1e6)
    values = np.asarray(encode_clips(loud, clips, folder, CPU))
    assert values.dtype == np.float32 and np.isfinite(values).all() and values.max() > 65504
    np.testing.assert_allclose(values, direct(loud, folder, clips), rtol=2e-3, atol=values.max() * 1e-4)


def test_a_vision_transformer_without_weights_takes_the_size_of_its_preset():
    with torch.device("meta"):      # 630 million parameters, and no memory
        network, transform = backbones.build("vit_h_14", False, None)
    assert transform.crop == 518 and network.encoder.pos_embedding.shape[1] == (518 // 14) ** 2 + 1
