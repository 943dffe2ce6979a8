"""test.py on its command line: every test video once, the same figures however it is run."""
import shutil
import signal
import time

import cv2
import numpy as np
import pytest
import torch
from commands import run, start
from runs import ONE_THREAD, data_flags, half_files, last_line, load, one_line, read_json, report_of, table

import dataset
import utils
from lrcn.data import split_lists
from lrcn.data.frames import clip_frames, windows
from lrcn.features.features import Options, clip_features, head_logits, predict_videos

FAST = ("--num_workers", 0, "--num_videos", 0, "--device", "cpu")


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copied")


@pytest.fixture(scope="module")
def report(trained, tmp_path_factory):
    """The folder that test.py wrote for a copy of the run."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("report") / "run")
    return last_line(run("test.py", "--model_dir", folder, "--num_workers", 0, "--num_videos", 4,
                         env=ONE_THREAD))


def test_the_report_holds_what_the_readme_lists(report):
    assert report.name == "test"
    names = {str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()}
    assert {"metrics.json", "predictions.csv", "mistakes.csv", "confusion_matrix.png", "confusion_matrix.csv",
            "accuracy_per_class.png", "accuracy_per_class.csv", "figures/labels.png",
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


def test_every_test_video_is_counted_once_in_list_order(report, demo):
    _, listed = split_lists.official_lists(demo / "ucfTrainTestlist", 1)
    rows = table(report / "predictions.csv")
    assert [(row["class"], row["video"]) for row in rows] == [(row.cls, row.video) for row in listed]
    for row in rows:
        shares = [float(v) for k, v in row.items() if k.startswith("p_")]
        assert sum(shares) == pytest.approx(1, abs=1e-4) and int(row["predicted"]) == int(np.argmax(shares))
        assert row["predicted_class"] == [k[2:] for k in row if k.startswith("p_")][int(row["predicted"])]


def test_mistakes_are_listed_the_most_confident_first(report):
    wrong = {row["video"]: row for row in table(report / "predictions.csv") if row["right"] == "0"}
    mistakes = table(report / "mistakes.csv")
    assert mistakes and {row["video"] for row in mistakes} == wrong.keys()
    sure = [float(row["probability"]) for row in mistakes]
    assert sure == sorted(sure, reverse=True)
    for row in mistakes:
        same = wrong[row["video"]]
        assert (row["class"], row["predicted_class"]) == (same["class"], same["predicted_class"])
        assert (row["probability"], row["p_true"]) == (same[f"p_{row['predicted_class']}"],
                                                       same[f"p_{row['class']}"])


def test_clips_of_one_name_in_two_classes_are_both_drawn(copied, demo, sampled, tmp_path):
    mine = shutil.copytree(sampled, tmp_path / "mine", ignore=shutil.ignore_patterns("features"))
    lists = shutil.copytree(demo / "ucfTrainTestlist", tmp_path / "lists")
    for cls in ("Grow", "Shrink"):
        old, new = f"v_{cls}_g01_c01", "v_same_g01_c01"
        (mine / cls / f"{old}.avi").rename(mine / cls / f"{new}.avi")
        for path in (mine / "manifest.csv", lists / "testlist01.txt"):
            path.write_text(path.read_text().replace(old, new))
    result = run("test.py", "--model_dir", copied, "--num_workers", 0, "--num_videos", 42,
                 "--sampled_data_path", mine, "--ucf_list_dir", lists, env=ONE_THREAD)
    assert not result.err, "a log has no progress bar"
    drawn = [path.relative_to(copied / "test" / "videos") for path in copied.rglob("*.mp4")]
    assert len(drawn) == 42
    assert {path.parent.name for path in drawn if "v_same_" in path.name} == {"Grow", "Shrink"}


def test_a_folder_of_classes_that_was_not_sampled_is_tested_as_it_lies(copied, demo, tmp_path):
    folder = tmp_path / "more"
    for cls in ("Grow", "Shrink", "Jump"):
        (folder / cls).mkdir(parents=True)
        for i, path in enumerate(sorted((demo / "UCF-101" / cls.replace("Jump", "Grow")).glob("*.avi"))[:3]):
            shutil.copy(path, folder / cls / f"new_{i}.avi")
    for _ in range(2):      # the second time nothing is left to sample
        result = run("test.py", "--model_dir", copied, "--labelled_folder", folder, *FAST, env=ONE_THREAD)
        assert last_line(result) == copied / "test_on_folder" / "more" and not (copied / "test").exists()
        assert "Jump in the test alone" in result.out and "in the training alone" in result.out
        rows = table(last_line(result) / "predictions.csv")
        assert [(row["class"], row["video"]) for row in rows] == [
            (cls, f"new_{i}") for cls in ("Grow", "Shrink") for i in range(3)]
        figures = read_json(last_line(result) / "metrics.json")
        assert (figures["videos"], figures["split"], figures["leaky"]) == (6, "folder", False)
        settings = read_json(last_line(result) / "sampled" / "settings.json")
        assert settings["sampling_rate"] == load(copied, "best")["settings"]["sampling_rate"]
    one_line(run("test.py", "--model_dir", copied, "--labelled_folder", folder, "--split", 1, ok=False),
             "--split 1: --labelled_folder")
    one_line(run("test.py", "--model_dir", copied, "--labelled_folder", folder / "x", ok=False),
             f"--labelled_folder {folder / 'x'}")


# ---------------------------------------------------------------- killed

def whole(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_second_test_that_is_killed_leaves_the_first_ones_outputs_whole(copied, number):
    folder = report_of(copied, "--num_videos", 2)
    (folder / "notes.txt").write_text("mine")
    before = whole(folder)
    process = start("test.py", "--model_dir", copied, "--num_workers", 0, "--num_videos", 42, env=ONE_THREAD)
    while not list(copied.glob(".test.*.tmp/videos/*/*.mp4")):
        assert process.poll() is None, process.err
        time.sleep(0.002)
    process.kill(number, group=True)
    result = process.wait()
    assert whole(folder) == before
    if number == signal.SIGTERM:
        one_line(result, "stopped", code=128 + number)
        assert not half_files(copied)
    report_of(copied, "--num_videos", 3)
    assert len(list(folder.rglob("*.mp4"))) == 3 and (folder / "notes.txt").read_text() == "mine"
    assert not half_files(copied)


@pytest.mark.slow
def test_a_signal_to_the_group_ends_decoding_workers_without_a_word_of_theirs(copied):
    for pause in (0, 0.01, 0.03, 0.06):     # while they are started, and at work
        process = start("test.py", "--model_dir", copied, "--num_workers", 2, "--no-feature_cache",
                        env=ONE_THREAD)
        while "encoding" not in process.out:
            assert process.poll() is None, process.err
            time.sleep(0.002)
        time.sleep(pause)
        process.kill(signal.SIGTERM, group=True)
        one_line(process.wait(), "stopped", code=128 + signal.SIGTERM)


# ---------------------------------------------------------------- the same, however it is run

@pytest.mark.slow
def test_batch_size_workers_and_cache_change_nothing(copied, report):
    expected = (report / "metrics.json").read_bytes()
    for flags in (("--batch_size", 1), ("--batch_size", 32), ("--num_workers", 2), ("--no-feature_cache",)):
        folder = report_of(copied, *flags)
        assert (folder / "metrics.json").read_bytes() == expected, flags
        assert (folder / "predictions.csv").read_bytes() == (report / "predictions.csv").read_bytes()


def test_logits_from_the_cache_and_from_the_whole_network_agree(trained, sampled):
    """The cache holds float16 of an encoder whose batch norms are folded; the network has neither."""
    model = utils.load_trained(trained)
    data = dataset.test_data(model)
    options = Options(torch.device("cpu"), 0)
    values, _ = clip_features(model.model, 5, data, options)
    cached = head_logits(model.model.head, values)
    transform = model.model.encoder.transform
    frames = np.stack([clip_frames(sampled, windows(video, 5)[0], transform, 0)
                       for video in data.videos])
    with torch.inference_mode():
        whole = model.model(torch.from_numpy(frames).permute(0, 1, 4, 2, 3))
    assert values.dtype == np.float16 and len(whole) == 42
    assert (cached - whole).abs().max() <= 2e-3 * whole.abs().max()


@pytest.mark.slow
def test_a_checkpoint_is_all_that_is_needed(copied, demo, sampled, report, tmp_path):
    """No flag of training is repeated, and both names of the folders of old work."""
    path = copied / "Saved_model_checkpoint"
    for flags in ((copied, "--model_name", "best.pth.tar"), (path, "--model_name", "best")):
        folder = report_of(*flags, *data_flags(demo, sampled))
        assert (folder / "predictions.csv").read_bytes() == (report / "predictions.csv").read_bytes()
    last = read_json(report_of(copied, "--model_name", "epoch_20") / "metrics.json")
    assert (last["checkpoint"], last["epoch"]) == ("epoch_20.pth.tar", 20)


def test_the_wrong_split_is_refused_because_its_test_videos_were_trained_on(copied, demo, tmp_path):
    lists = shutil.copytree(demo / "ucfTrainTestlist", tmp_path / "lists")
    shutil.copy(lists / "trainlist01.txt", lists / "testlist02.txt")
    (lists / "trainlist02.txt").write_text((lists / "testlist01.txt").read_text())
    index = split_lists.read_class_index(lists)
    lines = [f"{line} {index[line.split('/')[0]]}" for line in (lists / "testlist01.txt").read_text().split()]
    (lists / "trainlist02.txt").write_text("\n".join(lines))
    result = run("test.py", "--model_dir", copied, *FAST, "--ucf_list_dir", lists, "--split", 2, ok=False)
    one_line(result, "--split 2: 24 of its test videos", "were in the training")
    assert not (copied / "test").exists()
    (copied / "splits.csv").unlink()
    one_line(run("test.py", "--model_dir", copied, *FAST, ok=False), "splits.csv is missing")


def test_videos_that_are_absent_or_of_unknown_classes_are_counted_and_said(copied, demo, sampled, tmp_path):
    few = tmp_path / "few"
    shutil.copytree(sampled, few, ignore=shutil.ignore_patterns("features"))
    lines = (few / "manifest.csv").read_text().splitlines()
    left = lines[:1] + [line for line in lines[1:] if "_g02_" not in line]
    (few / "manifest.csv").write_text("\n".join(left) + "\n")
    lists = shutil.copytree(demo / "ucfTrainTestlist", tmp_path / "lists")
    index = max(split_lists.read_class_index(lists).values()) + 1
    with open(lists / "classInd.txt", "a") as f:
        f.write(f"{index} Unknown\n")
    with open(lists / "testlist01.txt", "a") as f:
        f.write("Unknown/v_Unknown_g01_c01.avi\n")
    with open(few / "manifest.csv", "a") as f:
        f.write("v_Unknown_g01_c01,Unknown,x.avi,25,60,0,10,5\n")
    result = run("test.py", "--model_dir", copied, *FAST, "--sampled_data_path", few, "--ucf_list_dir", lists)
    assert ("37 of 43 listed test videos present, 1 of them of classes that the model does not know"
            in result.out)
    assert read_json(last_line(result) / "metrics.json")["videos"] == 36


def test_a_sampled_video_that_cannot_be_read_is_named_never_replaced(copied, sampled, tmp_path):
    mine = shutil.copytree(sampled, tmp_path / "mine", ignore=shutil.ignore_patterns("features"))
    rows = table(mine / "manifest.csv")
    row = next(row for row in rows if "_g01_" in row["video"])
    path = mine / row["class"] / f"{row['video']}.avi"
    path.write_bytes(path.read_bytes()[:3000])
    result = run("test.py", "--model_dir", copied, *FAST, "--sampled_data_path", mine, ok=False)
    one_line(result, "--sampled_data_path", f"cannot read {row['class']}/{row['video']}.avi")
    path.unlink()
    result = run("test.py", "--model_dir", copied, *FAST, "--sampled_data_path", mine, ok=False)
    one_line(result, "--sampled_data_path", f"{row['class']}/{row['video']}.avi is missing")


# ---------------------------------------------------------------- windows and mirror images

@pytest.fixture(scope="module")
def long_clips(demo, tmp_path_factory):
    """All frames of the demo's videos at FPS/sampling_rate, more than a window."""
    folder = tmp_path_factory.mktemp("long") / "sampled"
    run("preprocessing_data.py", "--row_data_dir", demo / "UCF-101", "--sampled_data_dir", folder,
        "--ucf_list_dir", demo / "ucfTrainTestlist", "--num_frames_to_extract", "all", "--sampling_rate", 5)
    return folder


def test_the_softmax_of_several_windows_and_their_mirror_images_is_averaged(trained, long_clips):
    model = utils.load_trained(trained)
    data = dataset.test_data(model, long_clips)
    assert min(video.frames for video in data.videos) > 6
    data = data[:6]
    options = Options(torch.device("cpu"), 0, cache=False)
    got = predict_videos(model.model, 5, data, options, 2, flip=True)
    transform = model.model.encoder.transform
    for i in (0, 5):
        video = data.videos[i]
        first, second = windows(video, 5, 2)
        assert first.frames != second.frames and len(windows(video, 5, "all")) == video.frames - 4
        shares = []
        for clip in (first, second):
            frames = torch.from_numpy(clip_frames(long_clips, clip, transform, 0)).permute(0, 3, 1, 2)
            with torch.inference_mode():
                shares += [model.model(x[None]).softmax(1)[0] for x in (frames, frames.flip(3))]
        np.testing.assert_allclose(got[i], torch.stack(shares).mean(0).numpy(), atol=5e-3)
    assert np.abs(got - predict_videos(model.model, 5, data, options, 1)).max() > 1e-3


@pytest.mark.slow
def test_all_windows_are_a_flag(copied, long_clips):
    folder = report_of(copied, "--sampled_data_path", long_clips, "--test_windows", "all", "--flip")
    figures = read_json(folder / "metrics.json")
    assert (figures["windows"], figures["flip"], figures["videos"]) == ("all", True, 42)


# ---------------------------------------------------------------- wrong folders

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
        one_line(run("test.py", *flags, ok=False), says)


def test_a_checkpoint_without_its_encoder_says_what_is_missing(copied, report):
    encoder = copied / "Saved_model_checkpoint" / "encoder.pth.tar"
    other = {k: v + 1 if v.is_floating_point() else v for k, v in load(copied, "encoder")["encoder"].items()}
    torch.save({"encoder": other}, encoder)
    last = ("--model_dir", copied, *FAST, "--model_name", "last")
    one_line(run("test.py", *last, ok=False), "not the one that it was trained with")
    encoder.unlink()
    one_line(run("test.py", *last, ok=False), "encoder.pth.tar is missing")
    folder = report_of(copied)     # best.pth.tar holds everything
    assert (folder / "metrics.json").read_bytes() == (report / "metrics.json").read_bytes()
