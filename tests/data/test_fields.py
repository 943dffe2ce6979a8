"""Optical flow beside sampled clips: added, followed, read, and never mistaken for another."""
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import one_line

import models
from lrcn.base.cli import UserError
from lrcn.data import fields
from lrcn.data.frames import Clip, ClipSampler, Cut, clip_frames
from lrcn.data.manifest import FLOW, read_sampled
from lrcn.features.features import Options, encode_clips
from lrcn.features.inventory import needed_videos
from lrcn.training.recipe import Recipe
from lrcn.video import avi
from lrcn.video.flow import Flow, fields_at
from tests.scripts.test_preprocessing import preprocess

CPU = Options(torch.device("cpu"), num_workers=0)


def test_flow_is_added_to_a_sampled_folder_and_is_that_of_the_source(demo, flowing):
    rows = {(row["class"], row["video"]): row for row in fields.files.read_csv(
        flowing / "manifest.csv", ("class", "video", "source", "start", "stride"))}
    flow = fields.flow_of(flowing)
    assert flow == Flow("dis", preset="ultrafast", length=2)
    for video in read_sampled(flowing)[::20]:
        row = rows[video.cls, video.name]
        indices = [int(row["start"]) + int(row["stride"]) * i for i in range(5)]
        expected = fields_at(demo / "UCF-101" / row["source"], indices, flow)
        found = fields.source_fields(flowing, video, range(5), 2)
        error = np.abs(found.astype(int) - expected)
        assert found.shape == expected.shape and error.mean() < 0.5 and error.max() < 32    # JPEG at an edge
        np.testing.assert_array_equal(fields.source_fields(flowing, video, [1, 4, 4], 1),
                                      found[[1, 4, 4]][..., [0, 2]])


def test_the_folder_goes_on_and_follows_its_source_with_its_flow(demo, flowing, tmp_path):
    raw = shutil.copytree(demo / "UCF-101", tmp_path / "raw")
    out, names = tmp_path / "out", sorted({path.name for path in raw.iterdir()})[:2]
    flags = "--ucf_list_dir", demo / "ucfTrainTestlist", "--classes", ",".join(names)
    said = preprocess(raw, out, *flags, "--flow", "dis", "--flow_preset", "ultrafast").out
    assert "optical flow, dis ultrafast, of 22 clips: 22 in" in said
    files = sorted((out / FLOW).glob("*/*.avi"))
    assert len(files) == 22 and {avi.frames_in(path) for path in files} == {10}
    assert "of 22 clips: all there" in preprocess(raw, out, *flags).out    # without --flow
    one_line(preprocess(raw, out, *flags, "--flow", "farneback", ok=False), "--flow", "backend dis")
    one_line(preprocess(raw, out, *flags, "--flow", "dis", "--flow_preset", "large", ok=False),
             "--flow_preset large", "dis has medium")
    # A kill leaves a half file under another name, or a file that broke off; a video goes, another changes.
    half = files[3].with_name(f".{files[3].stem}.0-1.tmp.avi")
    half.write_bytes(b"RIFF")
    files[4].write_bytes(files[4].read_bytes()[:-100])
    gone, changed = (next(raw.rglob(path.name)) for path in (files[0], files[1]))
    before = files[1].read_bytes()
    shutil.copyfile(next(raw.rglob(files[-1].name)), changed)
    gone.unlink()
    assert "of 21 clips: 2 in" in preprocess(raw, out, *flags).out
    assert not half.exists() and not files[0].exists() and files[1].read_bytes() != before
    assert avi.frames_in(files[4]) == 10


@pytest.mark.parametrize("modality, length", [("flow", 1), ("flow", 2), ("rgb+rgbdiff+flow", 1)])
def test_a_flipped_clip_negates_the_horizontal_motion(flowing, modality, length):
    encoder = models.build_encoder("squeezenet1_1", None, 32, modality, length)
    video = read_sampled(flowing)[0]
    plain, flipped = (clip_frames(flowing, Clip(video, tuple(range(5)), view), encoder.transform, 0)
                      for view in (0, -1))
    flipped = flipped[..., ::-1, :]
    assert flipped.shape == (5, *encoder.transform.shape)
    if modality != "flow":
        np.testing.assert_array_equal(flipped[:, :2], plain[:, :2])
        plain, flipped = plain[:, 2], flipped[:, 2]
    np.testing.assert_array_equal(flipped[..., :length], 255 - plain[..., :length])
    np.testing.assert_array_equal(flipped[..., length:], plain[..., length:])


def test_the_flow_of_a_cut_leads_from_picture_to_picture(flowing):
    one, other = read_sampled(flowing)[:2]
    transform = models.build_encoder("squeezenet1_1", None, 64, "rgb+flow").transform
    own, still, cut = (clip_frames(flowing, Clip(one, (3,), view), transform, 0)
                       for view in (0, Cut(one, 3), Cut(other, 3)))
    assert (abs(still[0, 1, ..., :2].astype(int) - 128) <= 1).all()      # onto itself: nothing moves
    assert abs(cut[0, 1].astype(int) - own[0, 1]).mean() > 3
    both = clip_frames(flowing, Clip(one, (1, 3), Cut(other, 3)), transform, 0)     # one view, two frames
    early = clip_frames(flowing, Clip(one, (1,), Cut(other, 3)), transform, 0)
    np.testing.assert_array_equal(both, np.concatenate([early, cut]))
    assert (early[0, 1] != cut[0, 1]).any()
    assert (cut[0, 0] == own[0, 0]).all() and (still[0, 0] == own[0, 0]).all()


def test_features_of_flow_are_those_of_the_flow_that_is_there(flowing, tmp_path):
    folder = shutil.copytree(flowing, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))
    videos = read_sampled(folder)[:2]
    clips = [ClipSampler(5).windows(video)[0] for video in videos]
    torch.manual_seed(0)
    encoder = models.build_encoder("squeezenet1_1", None, 32, "flow")
    first = np.asarray(encode_clips(encoder, clips, folder, CPU))
    one, other = (folder / fields.flow_path(video) for video in videos)
    needed = needed_videos(folder)
    shutil.copyfile(other, one)
    second = np.asarray(encode_clips(encoder, clips, folder, CPU))
    assert not np.allclose(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert needed != needed_videos(folder)
    one.unlink()
    with pytest.raises(UserError, match="is missing"):
        encode_clips(encoder, clips, folder, CPU)


def test_a_folder_without_flow_or_with_other_flow_is_refused(sampled, flowing):
    assert fields.require(sampled, Recipe()) is None
    recipe = Recipe(modality="rgb+flow", flow_length=2)
    saved = fields.require(flowing, recipe)
    assert saved == fields.flow_of(flowing).settings() and fields.require(flowing, recipe, saved) == saved
    for folder, other, before, words in ((sampled, recipe, None, "--flow dis"),
                                         (flowing, recipe, {**saved, "bound": 10.0}, "trained on bound 10"),
                                         (flowing, replace(recipe, flow_length=3), None, "--flow_length 3")):
        with pytest.raises(UserError, match=words):
            fields.require(folder, other, before)
