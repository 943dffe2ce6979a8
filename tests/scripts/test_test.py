"""test.py on its command line: every test video once, the same figures however it is run."""
import shutil
import signal
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from commands import call
from runs import half_files, last_line, load, one_line, read_json, refused, report_of, table

import dataset
import utils
from lrcn.base.signals import handled
from lrcn.data import split_lists
from lrcn.data.frames import ClipSampler, clip_frames
from lrcn.evaluation import results, scores
from lrcn.features.features import Options, predict_videos

FAST = ("--num_workers", 0, "--num_videos", 0, "--device", "cpu")


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copied")


@pytest.fixture
def report(tested):
    return tested / "test"


def test_the_report_holds_what_the_readme_lists(report):
    assert report.name == "test"
    names = {str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()}
    assert {"metrics.json", "predictions.csv", "mistakes.csv", "reliability.png", "confusion_matrix.png",
            "confusion_matrix.csv", "accuracy_per_class.png", "accuracy_per_class.csv", "figures/labels.png",
            "figures/videos_per_class.png", "figures/accuracy_by_training_videos.png"} <= names
    videos = sorted((report / "videos").rglob("*.mp4"))
    assert len(videos) == 4
    right = {(row["class"], row["video"]): row["right"] for row in table(report / "predictions.csv")}
    for path in videos:
        name, _, mark = path.stem.rpartition("_")
        assert mark == {"1": "right", "0": "wrong"}[right[path.parent.name, name]]
        assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 5
    for path in report.glob("*.png"):
        assert cv2.imread(str(path)).std() > 1
    figures = read_json(report / "metrics.json")
    assert {"split", "videos", "classes", "top1", "top5", "mean_class_accuracy", "loss", "ci95", "windows",
            "checkpoint"} <= figures.keys()
    assert (figures["split"], figures["videos"], figures["classes"], figures["windows"]) == ("1", 42, 6, 1)
    assert 0 <= figures["ci95"][0] <= figures["top1"] <= figures["ci95"][1] <= 1
    assert figures["checkpoint"] == "best.pth.tar" and figures["leaky"] is False
    assert figures["top1"] > 0.25, "six classes that the head has learnt in part"


def test_every_test_video_is_counted_once_in_list_order_and_mistakes_the_most_confident_first(report, demo):
    _, listed = split_lists.official_lists(demo / "ucfTrainTestlist", 1)
    rows = table(report / "predictions.csv")
    assert [(row["class"], row["video"]) for row in rows] == [(row.cls, row.video) for row in listed]
    for row in rows:
        shares = {name[2:]: float(share) for name, share in row.items() if name.startswith("p_")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
        assert row["predicted_class"] == max(shares, key=shares.get) == [*shares][int(row["predicted"])]
        row["probability"], row["p_true"] = row["p_" + row["predicted_class"]], row["p_" + row["class"]]
    mistakes = table(report / "mistakes.csv")
    wrong = [{name: row[name] for name in mistakes[0]} for row in rows if row["right"] == "0"]
    assert mistakes == sorted(wrong, key=lambda row: -float(row["probability"]))


def test_a_folder_of_classes_that_was_not_sampled_is_tested_as_it_lies(copied, demo, tmp_path):
    folder = tmp_path / "more"
    for cls in ("Grow", "Shrink", "Jump"):
        (folder / cls).mkdir(parents=True)
        for i, path in enumerate(sorted((demo / "UCF-101" / cls.replace("Jump", "Grow")).glob("*.avi"))[:3]):
            shutil.copy(path, folder / cls / f"new_{i}.avi")
    for _ in range(2):      # the second time nothing is left to sample
        with mock.patch.object(results, "draw"):
            result = call("test.py", "--model_dir", copied, "--labelled_folder", folder, *FAST)
        assert last_line(result) == copied / "test_on_folder" / "more" and not (copied / "test").exists()
        assert "Jump in the test only" in result.out and "in the training only" in result.out
        rows = table(last_line(result) / "predictions.csv")
        assert [(row["class"], row["video"]) for row in rows] == [
            (cls, f"new_{i}") for cls in ("Grow", "Shrink") for i in range(3)]
        figures = read_json(last_line(result) / "metrics.json")
        assert (figures["videos"], figures["split"], figures["leaky"]) == (6, "folder", False)
        settings = read_json(last_line(result) / "sampled" / "settings.json")
        assert settings["sampling_rate"] == load(copied, "best")["settings"]["sampling_rate"]
    refused("test.py", "--model_dir", copied, "--labelled_folder", folder, "--split", 1,
            says="--split 1: --labelled_folder")
    refused("test.py", "--model_dir", copied, "--labelled_folder", folder / "x",
            says=f"--labelled_folder {folder / 'x'}")


def test_a_checkpoints_temperature_is_that_of_its_validation_and_an_older_one_has_none(copied):
    def told():
        model = utils.load_trained(copied)
        data = dataset.validation_data(model)
        return model.model.head.spec, data.labels, *predict_videos(
            model.model, ClipSampler(5), data, Options(torch.device("cpu"), 0), temperature=1.0)

    spec, labels, sure, raw = told()
    assert spec["temperature"] == pytest.approx(scores.temperature(np.log(raw), labels), rel=1e-3) != 1
    assert spec["min_probability"] == pytest.approx(scores.nine_of_ten(sure, labels), abs=1e-4)
    before, state = read_json(report_of(copied) / "metrics.json"), load(copied, "best")
    assert [state["head_spec"].pop(name) for name in ("temperature", "min_probability")] == [
        before["temperature"], before["min_probability"]]
    torch.save(state, copied / "Saved_model_checkpoint" / "best.pth.tar")
    spec, _, older, same = told()
    assert spec["temperature"] == 1 and np.array_equal(older, same)
    np.testing.assert_allclose(older, raw, atol=1e-6)
    after = read_json(report_of(copied) / "metrics.json")
    assert after["ece"] == after["ece_before"] == pytest.approx(before["ece_before"], abs=1e-6)
    assert after["ece"] != before["ece"] and after["top1"] == before["top1"]


def whole(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_test_that_is_stopped_leaves_the_first_ones_outputs_whole(copied):
    folder = report_of(copied)
    (folder / "notes.txt").write_text("mine")
    before = whole(folder)
    with handled(signal.default_int_handler), \
            mock.patch.object(results, "draw", lambda *_: signal.raise_signal(signal.SIGTERM)):
        result = call("test.py", "--model_dir", copied, *FAST, ok=False)
    one_line(result, "stopped", code=128 + signal.SIGTERM)
    assert whole(folder) == before and not half_files(copied)
    report_of(copied)
    assert (folder / "notes.txt").read_text() == "mine"


def test_another_checkpoint_and_all_windows_are_flags(copied):
    folder = report_of(copied, "--model_name", "epoch_20", "--test_windows", "all", "--flip")
    figures = read_json(folder / "metrics.json")
    assert (figures["checkpoint"], figures["epoch"]) == ("epoch_20.pth.tar", 20)
    assert (figures["windows"], figures["flip"]) == ("all", True)


def test_the_wrong_split_is_refused_because_its_test_videos_were_trained_on(copied, demo, tmp_path):
    lists = shutil.copytree(demo / "ucfTrainTestlist", tmp_path / "lists")
    shutil.copy(lists / "trainlist01.txt", lists / "testlist02.txt")
    shutil.copy(lists / "testlist01.txt", lists / "trainlist02.txt")
    refused("test.py", "--model_dir", copied, *FAST, "--ucf_list_dir", lists, "--split", 2,
            says=("--split 2: 24 of its test videos", "were in the training"))
    assert not (copied / "test").exists()
    (copied / "splits.csv").unlink()
    refused("test.py", "--model_dir", copied, *FAST, says="splits.csv is missing")


def test_a_sampled_video_that_cannot_be_read_is_named_never_replaced(copied, sampled, tmp_path):
    mine = shutil.copytree(sampled, tmp_path / "mine", ignore=shutil.ignore_patterns("features"))
    rows = table(mine / "manifest.csv")
    row = next(row for row in rows if "_g01_" in row["video"])
    path = mine / row["class"] / f"{row['video']}.avi"
    path.write_bytes(path.read_bytes()[:3000])
    for says in (f"cannot read {row['class']}/{row['video']}.avi",
                 f"{row['class']}/{row['video']}.avi is missing"):
        refused("test.py", "--model_dir", copied, *FAST, "--sampled_data_path", mine,
                says=("--sampled_data_path", says))
        path.unlink(missing_ok=True)


def test_the_softmax_of_several_windows_and_their_mirror_images_is_averaged(trained, long):
    model = utils.load_trained(trained)
    data = dataset.test_data(model, long)
    assert min(video.frames for video in data.videos) > 6
    data, options = data[:6], Options(torch.device("cpu"), 0)
    got = predict_videos(model.model, ClipSampler(5), data, options, 2, flip=True)
    transform = model.model.encoder.transform
    for i in (0, 5):
        video = data.videos[i]
        first, second = ClipSampler(5).windows(video, 2)
        assert first.frames != second.frames and len(ClipSampler(5).windows(video, "all")) == video.frames - 4
        shares = []
        for clip in (first, second):
            frames = torch.from_numpy(clip_frames(long, clip, transform, 0)).permute(0, 3, 1, 2)
            with torch.inference_mode():
                shares += [model.model(x[None]).softmax(1)[0] for x in (frames, frames.flip(3))]
        np.testing.assert_allclose(got[i], torch.stack(shares).mean(0).numpy(), atol=5e-3)
    assert np.abs(got - predict_videos(model.model, ClipSampler(5), data, options, 1)).max() > 1e-3


def test_a_run_that_is_none_is_one_line(copied, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for flags, says in (
            (("--model_dir", tmp_path / "absent"), "--model_dir"),
            (("--model_dir", tmp_path / "file"), "not a whole checkpoint"),
            (("--model_dir", tmp_path / "empty"), "this is no run folder"),
            (("--model_dir", copied / "a\x1b[31m\u202e\nb"), "a\\x1b[31m\\u202e\\nb: this folder does not"),
            (("--model_dir", copied, "--model_name", "epoch_7"), "there: best.pth.tar, epoch_20.pth.tar"),
            (("--model_dir", copied, "--sampled_data_path", tmp_path / "empty"), "no manifest.csv"),
            (("--model_dir", copied, "--ucf_list_dir", tmp_path / "empty"), "--ucf_list_dir"),
            (("--model_dir", copied, "--device", "tpu"), "--device tpu"),
            (("--model_dir", copied, "--test_windows", "some"), "--test_windows"),
            ((), "--model_dir")):
        refused("test.py", *flags, says=says)
