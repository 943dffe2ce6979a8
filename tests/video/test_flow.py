"""Optical flow: planted motions, how fields are coded, and what is taken where a video ends."""
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from videos import turn, write_video

from lrcn.base.cli import UserError
from lrcn.video.flow import ZERO, Flow, fields_at, fields_of, flowing, sample_video
from lrcn.video.reader import Video
from lrcn.video.sampling import Rate


def moving(frames, motion=(3, -2), size=(160, 120)):
    """[uint8 (H, W, 3)] of clouds that move by (u, v) pixels a frame."""
    (u, v), (width, height), n = motion, size, frames - 1
    noise = np.random.default_rng(0).random((height + abs(v) * n, width + abs(u) * n, 3), np.float32)
    clouds = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)
    clouds = clouds.astype(np.uint8)
    at = [(t if u < 0 else n - t, t if v < 0 else n - t) for t in range(frames)]
    return [np.ascontiguousarray(clouds[abs(v) * y:, abs(u) * x:][:height, :width]) for x, y in at]


def pixels(planes, bound=20):
    return planes.astype(np.float32) * (2 * bound / 255) - bound


@pytest.mark.parametrize("backend", ["dis", "farneback", "tvl1"])
def test_a_planted_motion_is_found(backend):
    if backend == "tvl1" and not hasattr(cv2, "optflow"):
        with pytest.raises(UserError, match="opencv-contrib-python"):
            Flow(backend).require()
        return
    flow, (before, after) = Flow(backend), moving(2)
    field = pixels(flow.code(flow.between(flow.prepare(before), flow.prepare(after))))
    assert np.abs(field[10:-10, 10:-10].mean((0, 1)) - (3, -2)).max() < 0.25


def test_raft_runs_on_a_file_of_weights_and_refuses_another(tmp_path):
    import torch
    from torchvision.models.optical_flow import raft_small

    from lrcn.video.flow import weights_digest
    file = tmp_path / "raft.pth"
    torch.manual_seed(0)
    torch.save(raft_small(weights=None).state_dict(), file)
    flow = Flow("raft", preset="small", weights=str(file), digest=weights_digest(file))
    field = flow.between(*moving(2, size=(60, 50)))
    assert field.shape == (50, 60, 2) and np.isfinite(field).all()
    with pytest.raises(UserError, match="another file than"):
        Flow("raft", preset="small", weights=str(file), digest="0" * 16).require()
    file.write_bytes(b"no weights")
    with pytest.raises(UserError, match="not the weights of raft_small"):
        Flow("raft", preset="small", weights=str(file), digest=weights_digest(file)).require()


@given(st.floats(-60, 60, width=32), st.sampled_from([5.0, 20.0]))
def test_a_motion_comes_back_to_half_a_step_and_is_clamped(v, bound):
    flow = Flow(bound=bound)
    found = pixels(flow.code(np.full((1, 1, 2), v, np.float32)), bound)
    assert np.abs(found - np.clip(v, -bound, bound)).max() <= bound / 255 + 1e-4
    assert (flow.code(np.zeros((2, 2, 2), np.float32)) == ZERO).all()


class Counted(Flow):
    """A flow whose field says which two frames it is of: the first's number, and the pairs until now."""
    def prepare(self, frame):
        return frame[..., 0]

    def between(self, before, after):
        assert after[0, 0] == before[0, 0] + 1
        return np.repeat(before[..., None].astype(np.float32), 2, 2) + 0.25     # no tie of the rounding


@pytest.mark.parametrize("length", [1, 3])
def test_fields_are_those_behind_each_frame_and_the_last_is_repeated(length):
    flow, n = Counted(length=length, bound=127.5), 12
    frames = ((i, np.full((4, 5, 3), i, np.uint8), i if i % 5 in (0, 1) else None) for i in range(n))
    found = {item: planes for item, _, planes in flowing(frames, flow)}
    assert list(found) == [0, 1, 5, 6, 10, 11]
    for i, planes in found.items():
        expected = [128 + min(i + k, n - 2) for k in range(length)] * 2
        assert planes.shape == (4, 5, 2 * length) and planes[0, 0].tolist() == expected


def test_a_file_read_at_once_by_indices_and_frame_by_frame_has_the_same_flow(tmp_path):
    frames = moving(25, (2, 1))
    path, flow = write_video(tmp_path / "film.mp4", frames), Flow(length=2)
    with Video(path) as video:
        streamed = list(sample_video(video, Rate(25, 8), flow))
    indices = [index for index, *_ in streamed]
    assert indices == [0, 8, 16, 24]
    at_once = fields_at(path, indices, flow)
    np.testing.assert_array_equal(np.stack([planes for *_, planes in streamed]), at_once)
    np.testing.assert_array_equal(fields_at(path, [8, 24, 24], flow), at_once[[1, 3, 3]])
    with Video(path) as video:
        shown = [video.frame() for _ in iter(video.grab, False)]
    np.testing.assert_array_equal(fields_of(None, shown[8], shown[9:11], flow), at_once[1])
    np.testing.assert_array_equal(fields_of(shown[23], shown[24], [], flow), at_once[3])
    assert np.abs(pixels(at_once).mean((1, 2)) - (2, 2, 1, 1)).max() < 0.25
    assert (fields_at(write_video(tmp_path / "one.mp4", frames[:1]), [0, 0], flow) == ZERO).all()


def test_a_video_that_a_phone_has_turned_has_turned_flow(tmp_path):
    path, flow = write_video(tmp_path / "film.mp4", moving(12)), Flow()
    assert np.abs(pixels(fields_at(path, [2], flow))[0].mean((0, 1)) - (3, -2)).max() < 0.25
    with Video(turn(path)) as video:
        video.grab()
        assert video.frame().shape == (160, 120, 3)
        turns = round(video._frame.rotation / 90) % 4
    found = pixels(fields_at(path, [2], flow))[0].mean((0, 1))
    expected = {1: (-2, -3), 3: (2, 3)}[turns]      # rot90 takes (u, v) to (v, -u)
    assert np.abs(found - expected).max() < 0.25


@pytest.mark.parametrize("said, words", [
    ({"backend": "magic"}, "backend"), ({"length": 0}, "length"), ({"bound": float("nan")}, "bound"),
    ({"preset": "large"}, "dis has medium")])
def test_settings_of_a_file_are_checked(said, words):
    with pytest.raises(UserError, match=words):
        Flow.of({**Flow().settings(), **said}, "settings.json")
    assert Flow.of(Flow("raft").settings(), "x") == Flow("raft")
