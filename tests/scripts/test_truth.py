"""test_on_video.py against the truth, and at the speed of the training clips."""

import numpy as np
import pytest
from commands import call
from runs import one_line, read_json, table, train
from videos import join, write_video

import utils

QUIET = ("--no-video", "--encoder_backend", "torch", "--device", "cpu")


@pytest.fixture(scope="module")
def films(demo, tmp_path_factory):
    """Two films of three joined clips of the demo each, and labels.csv, which says what they show."""
    folder, rows = tmp_path_factory.mktemp("films"), ["video,start,end,class"]
    clips = sorted((demo / "UCF-101").rglob("*_g01_c01.avi"))
    for n in range(2):
        parts = clips[3 * n:3 * n + 3]
        ends = join(folder / f"{n}.mp4", parts)
        rows += [f"{n}.mp4,{begin:.3f},{end:.3f},{clip.parent.name}"
                 for begin, end, clip in zip([0, *ends], ends, parts, strict=False)]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def watched(model, source, out, *more, **options):
    return call("test_on_video.py", "--model_dir", model, "--video_path", source, "--output_dir", out, *QUIET,
                *more, **options)


def test_the_truth_of_a_folder_is_told_film_by_film_and_in_all(trained, films, tmp_path):
    result = watched(trained, films, tmp_path, "--truth", films / "labels.csv")
    whole, *each = (read_json(tmp_path / name / "truth.json") for name in ("", "0", "1"))
    assert whole["films"] == 2 and whole["true_segments"] == 6
    assert whole["frames"] == sum(one["frames"] for one in each) > 30
    right = sum(one["frames_right"] * one["frames"] for one in each)
    assert whole["frames_right"] == pytest.approx(right / whole["frames"])
    assert f"truth: {100 * whole['frames_right']:.1f}% of {whole['frames']} frames right" in result.out
    assert (tmp_path / "0" / "wrong.csv").read_text().startswith("start,end,truth,predicted\n")
    watched(trained, films / "0.mp4", tmp_path)
    assert not (tmp_path / "0" / "truth.json").exists()     # of the labelling before this one


def test_wrong_words_about_the_truth_are_one_line(trained, films, tmp_path):
    (tmp_path / "t.csv").write_text("video,start,end,class\nother.mp4,0,1,A\n")
    for table_, says in ((tmp_path / "no.csv", "does not exist"), (tmp_path / "t.csv", "names none"),
                         (films / "0.mp4", "cannot read")):
        one_line(watched(trained, films, tmp_path / "out", "--truth", table_, ok=False), "--truth", says)
    one_line(watched(trained, "0", tmp_path / "out", "--truth", films / "labels.csv", ok=False), "--truth",
             "camera")


@pytest.fixture(scope="module")
def short_clips(tmp_path_factory):
    """Run folder of clips of 16 frames out of videos that are too short for them: 64 frames at 25 a second
    leave every fourth; in every class one long video, whose frames are 0.4 s apart."""
    folder = tmp_path_factory.mktemp("short")
    for cls in ("Jump", "Run"):
        for i in range(5):
            write_video(folder / "raw" / cls / f"v_{cls}_g{i:02d}_c01.avi", 64 if i else 200)
    call("preprocessing_data.py", "--row_data_dir", folder / "raw", "--sampled_data_dir", folder / "clips",
         "--num_frames_to_extract", 16, "--no-report")
    return train(None, folder / "clips", folder, "--num_frames_video", 16, "--epochs", 1)


def starts(folder):
    return np.array([float(row["start"]) for row in table(folder / "predictions.csv")])


def test_a_film_is_seen_at_the_speed_of_the_training_clips(short_clips, tmp_path):
    settings = read_json(short_clips / "settings.json")
    assert settings["frame_step"] == 0.16 and settings["frame_step_low"] == 0.16
    film = write_video(tmp_path / "film.mp4", 200, 25)
    result = watched(short_clips, film, tmp_path / "out")
    assert "frames are 0.16 s apart, as in half of the training clips (not 0.4 s" in result.out
    windows = table(tmp_path / "out" / "film" / "predictions.csv")
    np.testing.assert_allclose(np.diff(starts(tmp_path / "out" / "film")), 0.16, atol=0.002)
    assert float(windows[0]["end"]) - float(windows[0]["start"]) == pytest.approx(15 * 0.16, abs=0.002)
    result = watched(short_clips, film, tmp_path / "out", "--sampling_rate", 10)
    np.testing.assert_allclose(np.diff(starts(tmp_path / "out" / "film")), 0.4, atol=0.002)
    assert "apart" not in result.out + result.err


@pytest.mark.parametrize("high, warned", [(0.16, False), (0.2, False), (0.4, True)])
def test_a_wide_spread_of_the_training_clips_is_warned_of(short_clips, capsys, high, warned):
    trained = utils.load_trained(short_clips)
    trained.settings["frame_step_high"] = high
    assert utils.watching_rate(trained).step == pytest.approx(0.16)
    assert ("no single speed matches them all" in capsys.readouterr().err) == warned
