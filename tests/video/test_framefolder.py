"""Numbered pictures are read like the video that they came from, frames and flow alike."""
import re
import shutil

import cv2
import numpy as np
import pytest
from commands import call
from hypothesis import assume, given
from hypothesis import strategies as st
from runs import one_line, table
from videos import class_folders, number_of, numbered

from lrcn.data.fields import source_fields
from lrcn.data.frames import source_frames
from lrcn.data.manifest import read_sampled
from lrcn.video.flow import Flow
from lrcn.video.framefolder import opened, series
from lrcn.video.reader import Video, VideoError


@pytest.mark.parametrize("names, frames, fault", [
    (["1.jpg", "10.jpg", "0.jpg"], ["0.jpg", "1.jpg", "10.jpg"], ""),
    (["frame000001.jpg", ".DS_Store", "Thumbs.db", "n_frames"], ["frame000001.jpg"], ""),
    (["IMG_2.JPG", "img_1.jpg", "cover.png"], ["img_1.jpg", "IMG_2.JPG"], ""),
    (["v_A_g01_c01-2.webp", "v_A_g01_c01-1.webp"], ["v_A_g01_c01-1.webp", "v_A_g01_c01-2.webp"], ""),
    (["f2.bmp", "f1.bmp", "poster1.jpg"], ["f1.bmp", "f2.bmp"], ""),
    (["a.jpg", "1.jpg"], [], "without a number"), (["1.jpg", "01.jpg"], [], "two pictures have one number"),
    (["a1.jpg", "a2.jpg", "b1.jpg", "b2.jpg"], [], r"a1.jpg \(of 2\), b1.jpg \(of 2\)"),
    (["flow_x_1.jpg", "flow_y_1.jpg"], [], "optical flow alone"), ([], [], "no numbered pictures")])
def test_the_one_series_of_numbered_pictures_in_a_folder_is_its_video(names, frames, fault):
    found = series(names)
    assert [*found.frames.values()] == frames
    assert re.search(fault, found.fault) and bool(found.fault) is bool(fault)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Nd"], exclude_characters="/."), max_size=8),
       st.sampled_from(["flow_x_ flow_y_", "flow_u flow_v", "x_ y_", "clip.flow-x- clip.flow-y-", "u v"]))
def test_any_word_may_stand_before_the_number_and_flow_beside_it_is_no_video(word, flow):
    planes = flow.split()
    frames = [f"{word}{i:03d}.jpg" for i in range(1, 12)]
    fields = [[f"{plane}{i:03d}.jpg" for i in range(1, 12)] for plane in planes]
    assume(word.lower() not in planes and "flow" not in word.lower())
    found = series({*frames, *fields[0], *fields[1]})
    assert [[*names.values()] for names in (found.frames, *found.flow)] == [frames, *fields]
    assert [*series(frames).frames.values()] == frames and series(frames).flow == ({}, {})


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    for i in range(12):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), numbered(i))
    with opened(tmp_path, 25) as video:
        seen = [(number_of(video.frame()), video.time) for _ in iter(video.grab, False)]
        assert seen == [(i, i / 25) for i in range(12)] and video.info.frames == 12
    (tmp_path / "3.jpg").write_bytes(b"no picture")
    with opened(tmp_path, 25) as video, pytest.raises(VideoError, match="3.jpg is no picture"):
        video.advance(3)
        video.frame()


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """Two classes of videos, and their frames and flow in the layout of UCF-101's public pictures."""
    tmp_path = tmp_path_factory.mktemp("layouts")
    raw = class_folders(tmp_path / "raw", classes=("Jump", "Run"), videos=2, frames=50)
    for path in raw.rglob("*.avi"):
        with Video(path) as video:
            frames = [video.frame() for _ in iter(video.grab, False)]
        flow = Flow("farneback")
        for i, frame in enumerate(frames, 1):
            pictures = [("jpegs_256", frame[..., ::-1])]
            if i < len(frames):
                u, v = np.moveaxis(flow.code(flow.between(*map(flow.prepare, frames[i - 1:i + 1]))), -1, 0)
                pictures += [("tvl1_flow/u", u), ("tvl1_flow/v", v)]
            for kind, picture in pictures:
                file = tmp_path / kind / path.stem / f"frame{i:06d}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(file), picture, [cv2.IMWRITE_JPEG_QUALITY, 98])
    return tmp_path


def sample(raw, out, *more, ok=True):
    return call("preprocessing_data.py", "--row_data_dir", raw, "--sampled_data_dir", out, "--num_workers", 1,
               "--no-report", *more, ok=ok)


def test_public_pictures_give_the_clips_and_the_flow_of_the_videos(layouts):
    flow = ("--flow", "farneback", "--flow_length", 2)
    sample(layouts / "raw", layouts / "one", *flow)
    sample(layouts / "jpegs_256", layouts / "two", *flow, "--flow_dir", layouts / "tvl1_flow",
           "--write_frames", layouts / "frames")
    one, two = (table(layouts / name / "manifest.csv") for name in ("one", "two"))
    assert len(one) == 4 and [r | {"source": ""} for r in one] == [r | {"source": ""} for r in two]
    for video in read_sampled(layouts / "one"):
        frames = [source_frames(layouts / name, video, range(5)).astype(int) for name in ("one", "two")]
        assert abs(frames[0] - frames[1]).mean() < 3
        flows = [source_fields(layouts / name, video, range(5), 2).astype(int) for name in ("one", "two")]
        assert abs(flows[0] - flows[1]).mean() < 2
    # Frames and flow in one folder a video, as most public code has them, with what systems leave there.
    for path in [*layouts.glob("jpegs_256/*/*"), *layouts.glob("tvl1_flow/*/*/*")]:
        word = {"u": "flow_x_", "v": "flow_y_"}.get(path.parents[1].name, "img_")
        video = path.parent.name
        target = layouts / "both" / video.split("_")[1] / video / f"{word}{path.name[-10:]}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        (target.parent / "Thumbs.db").touch()
    for name, more in (("four", ()), ("five", ("--flow_dir", layouts / "both"))):
        said = sample(layouts / "both", layouts / name, *flow, *more).out
        assert ("beside the frames of 4 videos" in said) is (not more)
        for video in read_sampled(layouts / "two"):
            other = next(v for v in read_sampled(layouts / name) if v.name == video.name)
            flows = [source_fields(layouts / n, v, range(5), 2) for n, v in (("two", video), (name, other))]
            assert (flows[0] == flows[1]).all()
    # The frames that were written are a data set themselves: five frames of 2.5 a second.
    sample(layouts / "frames", layouts / "three", "--FPS", 2.5, "--sampling_rate", 1)
    three = table(layouts / "three" / "manifest.csv")
    assert [(r["class"], r["video"], r["frames"], r["stride"]) for r in three] == \
        [(r["class"], r["video"], "5", "1") for r in one]


def test_flow_that_is_not_there_is_said(layouts, tmp_path):
    flow = shutil.copytree(layouts / "tvl1_flow", tmp_path / "flow")
    shutil.rmtree(flow / "u" / "v_Run_g02_c01")
    (flow / "u" / "v_Run_g01_c01" / "frame000003.jpg").unlink()
    for plane in "uv":
        (flow / plane / "v_Jump_g01_c01" / "frame000001.jpg").unlink()
    for number in range(25, 50):
        (flow / "v" / "v_Jump_g02_c01" / f"frame{number:06d}.jpg").unlink()
    places = (layouts / "jpegs_256", tmp_path / "out", "--flow_dir", flow)
    one_line(sample(*places, ok=False), "--flow_dir", "--flow tvl1")
    result = sample(*places, "--flow", "tvl1", ok=False)
    assert result.code == 1
    for words in ("v_Run_g02_c01: no u/v_Run_g02_c01/", "has no picture of number 3 (1 of 49",
                  "begin with number 1, and its flow", "has no picture of number 25 (25 of 49"):
        assert words in result.err
    assert not list((tmp_path / "out").rglob("optical_flow/*/*.avi"))
