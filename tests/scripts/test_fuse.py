"""fuse.py: the mean of several runs' probabilities, against arithmetic by hand and scikit-learn, and heads
that are trained over several streams."""
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from commands import run
from runs import (
    ONE_THREAD,
    answered_run,
    data_flags,
    last_line,
    load,
    one_line,
    read_json,
    report_of,
    table,
    train,
)
from sklearn.metrics import accuracy_score, log_loss

import utils
from lrcn.base.cli import UserError
from lrcn.drawing.labels import flow_colors
from lrcn.evaluation import scores
from lrcn.training.recipe import parse
from lrcn.video.reader import read_frames
from lrcn.video.writer import Writer
from lrcn.watching.recogniser import Recogniser

CLASSES = ["A", "B", "C"]
# Two streams that know different things: {video: (class, what the first says, what the second says)}
KNOWN = {"v_A_g01_c01": ("A", (0.6, 0.3, 0.1), (0.2, 0.7, 0.1)),      # means 0.4, 0.5, 0.1: B, wrong
         "v_B_g01_c01": ("B", (0.5, 0.4, 0.1), (0.1, 0.8, 0.1)),      # 0.3, 0.6, 0.1: B
         "v_B_g02_c01": ("B", (0.2, 0.5, 0.3), (0.4, 0.35, 0.25)),    # 0.3, 0.425, 0.275: B
         "v_C_g01_c01": ("C", (0.1, 0.5, 0.4), (0.3, 0.1, 0.6))}      # 0.2, 0.3, 0.5: C


def stream(folder, number, **more):
    said = {video: (row[0], row[number]) for video, row in KNOWN.items()}
    return answered_run(folder, said, CLASSES, **more)


@pytest.fixture
def streams(tmp_path):
    return stream(tmp_path / "frames", 1), stream(tmp_path / "motion", 2)


def fused(tmp_path, *words):
    """(metrics.json, probabilities (N, C), rows of predictions.csv) of fuse.py."""
    folder = last_line(run("fuse.py", *words, "--local_dir", tmp_path))
    rows = table(folder / "test" / "predictions.csv")
    shares = np.array([[float(v) for k, v in row.items() if k.startswith("p_")] for row in rows])
    return read_json(folder / "test" / "metrics.json"), shares, rows


def test_the_fusion_is_the_mean_by_hand_and_its_figures_are_scikit_learns(streams, tmp_path):
    metrics, shares, rows = fused(tmp_path, *streams)
    np.testing.assert_allclose(shares, [(0.4, 0.5, 0.1), (0.3, 0.6, 0.1), (0.3, 0.425, 0.275),
                                        (0.2, 0.3, 0.5)], atol=1e-6)
    labels = [CLASSES.index(row["class"]) for row in rows]
    assert metrics["top1"] == accuracy_score(labels, shares.argmax(1)) == 0.75
    assert metrics["loss"] == pytest.approx(log_loss(labels, shares, labels=range(3)))
    assert [s["top1"] for s in metrics["streams"]] == [0.5, 0.5]
    assert [s["gain"] for s in metrics["streams"]] == [0.25, 0.25]
    assert all(s["mcnemar_p"] > 0.4 and s["gain_ci95"][0] < 0.25 < s["gain_ci95"][1]
               for s in metrics["streams"]), "one video won, none lost: a coin's toss"
    assert metrics["encoder"] == "frames + motion" and metrics["parameters"] == 14


def test_weights_are_those_of_the_paper(streams, tmp_path):
    metrics, shares, _ = fused(tmp_path, *streams, "--weights", 1, 2)
    np.testing.assert_allclose(shares[0], [1 / 3, 1.7 / 3, 0.1], rtol=1e-5)
    assert [s["weight"] for s in metrics["streams"]] == pytest.approx([1 / 3, 2 / 3])


def test_the_order_of_runs_and_of_their_classes_and_videos_does_not_matter(streams, tmp_path):
    backwards = {video: (cls, tuple(np.array(motion)[[2, 0, 1]]))
                 for video, (cls, _, motion) in reversed(KNOWN.items())}
    turned = answered_run(tmp_path / "turned", backwards, ["C", "A", "B"])
    third = stream(tmp_path / "third", 1)
    ways = [fused(tmp_path, *order) for order in ((streams[0], streams[1], third),
                                                  (third, turned, streams[0]))]
    assert ways[0][2] == ways[1][2]
    assert ways[0][0]["loss"] == ways[1][0]["loss"]


def test_a_run_fused_with_itself_is_itself(streams, tmp_path):
    _, _, rows = fused(tmp_path, streams[0], streams[0], "--weights", 3, 1)
    assert rows == table(streams[0] / "test" / "predictions.csv")


def test_the_likeliest_weights_are_the_best_of_a_fine_grid():
    random = np.random.default_rng(1)
    chosen = random.uniform(0.05, 1, (2, 40)) ** [[2], [1]]
    found = scores.likeliest_weights(chosen)
    grid = np.linspace(0, 1, 2001)
    loss = -np.log(grid[:, None] * chosen[0] + (1 - grid[:, None]) * chosen[1]).mean(1)
    assert found[0] == pytest.approx(grid[loss.argmin()], abs=1e-3) and found.sum() == pytest.approx(1)


def test_compare_takes_the_fused_folder_and_pairs_it_with_a_stream(streams, tmp_path):
    folder = last_line(run("fuse.py", *streams, "--output_dir", tmp_path / "both"))
    assert folder == tmp_path / "both"
    rows = table(last_line(run("compare.py", streams[0], folder, "--no-speed", "--output", tmp_path / "out"))
                 / "comparison.csv")
    run("compare.py", folder, folder, "--output", tmp_path / "out")     # nothing of it can be timed
    assert float(rows[1]["minus_first"]) == 0.25 and rows[1]["parameters"] == "14"


@pytest.mark.parametrize("change, says", [
    ({"split": "2"}, "tested on split 2"),
    ({"classes": ["A", "B", "C", "D"]}, "knows other classes"),
    ({"windows": "many"}, "windows: expected")])
def test_runs_of_something_else_are_refused_in_one_line(streams, tmp_path, change, says):
    classes = change.get("classes", CLASSES)
    said = {video: (row[0], (*row[2], *[0.0] * (len(classes) - 3))) for video, row in KNOWN.items()}
    other = answered_run(tmp_path / "other", said, **{"classes": CLASSES, **change})
    one_line(run("fuse.py", other if "windows" in change else streams[0], other, "--weights", "tuned",
                 "--local_dir", tmp_path, ok=False), says)
    assert not list(tmp_path.glob("*-fused"))


def test_other_videos_and_wrong_words_are_refused_in_one_line(streams, tmp_path):
    short = answered_run(tmp_path / "short", {v: (r[0], r[2]) for v, r in list(KNOWN.items())[:3]}, CLASSES)
    bare = tmp_path / "bare"
    bare.mkdir()
    damaged = answered_run(tmp_path / "damaged", {"v_A_g01_c01": ("A", (0.6, 0.9, 0.1))}, CLASSES)
    for words, says in (((streams[0], short), "tested on other videos"),
                        ((streams[0], bare), "run test.py on it"), ((streams[0],), "one run is no fusion"),
                        ((streams[0], tmp_path / "no"), "does not exist"),
                        ((*streams, "--weights", "1"), "expected 2 numbers"),
                        ((*streams, "--weights", "1", "x"), "expected 2 numbers"),
                        ((*streams, "--weights", "0", "0"), "expected 2 numbers"),
                        ((*streams, "--weights", "1", "-1"), "expected 2 numbers"),
                        ((streams[0], damaged), "add up to 1")):
        one_line(run("fuse.py", *words, "--local_dir", tmp_path / "out", ok=False), says)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- real runs

@pytest.fixture(scope="module")
def pair(demo, sampled, once):
    """A folder with two tiny tested runs of one seed, frames and differences."""
    def make(folder):
        for name in ("rgb", "rgbdiff"):
            report_of(train(demo, sampled, folder / name, "--epochs", 3, "--modality", name,
                            "--open_new_folder", "False"))
        return folder
    return once("pair", make)


def test_tuned_weights_are_those_of_the_least_loss_on_the_validation_videos(pair, tmp_path):
    result = run("fuse.py", pair / "rgb", pair / "rgbdiff", "--weights", "tuned", "--local_dir", tmp_path,
                 "--num_videos", 2, "--num_workers", 0, "--device", "cpu", env=ONE_THREAD)
    folder = last_line(result)
    val = sum(row["part"] == "val" for row in table(pair / "rgb" / "splits.csv"))
    assert val and f"chosen on {val} validation videos" in result.out
    metrics = read_json(folder / "test" / "metrics.json")
    assert metrics["weights"] == f"tuned on {val} validation videos"
    assert sum(s["weight"] for s in metrics["streams"]) == pytest.approx(1)
    assert len(list((folder / "test" / "videos").rglob("*.mp4"))) == 2, "the first run's clips are at hand"
    assert table(folder / "test" / "accuracy_per_class.csv")[0]["train_videos"] != "0"


def test_without_common_validation_videos_nothing_is_tuned(pair, demo, sampled, tmp_path):
    other = train(demo, sampled, tmp_path, "--epochs", 1, "--seed", 5)
    report_of(other)
    chosen = [{(r["class"], r["video"]) for r in table(f / "splits.csv") if r["part"] == "val"}
              for f in (pair / "rgb", other)]
    if chosen[0] & chosen[1]:
        pytest.skip("these seeds share a validation video")
    one_line(run("fuse.py", pair / "rgb", other, "--weights", "tuned", "--local_dir", tmp_path, ok=False),
             "no video is in the validation part of all runs")
    one_line(run("fuse.py", pair / "rgb", other, "--output_dir", other, ok=False), "a run of train.py")


# ---------------------------------------------------------------- a head over several streams

@pytest.fixture(scope="module")
def joint(pair, once):
    """A run folder of fuse.py --train over the frozen streams of `pair`, a GRU."""
    return once("joint", lambda folder: last_line(run(
        "fuse.py", "--train", pair / "rgb", pair / "rgbdiff", *HEAD, "--rnn", "gru", "--local_dir", folder,
        env=ONE_THREAD)))


HEAD = ("--latent_dim", 16, "--hidden_size", 8, "--batch_size", 4, "--epochs", 3, "--val_check_interval", 1,
        "--no-pictures", "--num_workers", 0, "--device", "cpu", "--encoder_backend", "torch",
        "--encoder_precision", "float32")


def test_frozen_streams_of_one_encoder_are_the_run_that_sees_both(pair, demo, sampled, tmp_path):
    result = run("fuse.py", "--train", pair / "rgb", pair / "rgbdiff", *HEAD, "--local_dir", tmp_path,
                 env=ONE_THREAD)
    assert result.out.count("are in the feature store") == 2 and "encoding" not in result.out, \
        "each stream's features are those that its run has left"
    fused = last_line(result)
    whole = train(demo, sampled, tmp_path / "whole", "--epochs", 3, "--modality", "rgb+rgbdiff")
    ours, theirs = load(fused)["head"], load(whole)["head"]
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():     # features differ by the rounding of other batches
        torch.testing.assert_close(value, theirs[key], atol=5e-3, rtol=0.05)
    assert table(fused / "splits.csv") == table(whole / "splits.csv")


def test_a_fused_run_is_a_run_like_any_other(joint, pair, demo, tmp_path):
    fused = shutil.copytree(joint, tmp_path / "fused")
    report = report_of(fused)
    assert read_json(report / "metrics.json")["videos"] == 42
    compared = run("compare.py", pair / "rgb", fused, "--output", tmp_path / "out", "--device", "cpu")
    rows = table(last_line(compared) / "comparison.csv")
    assert float(rows[1]["frames_per_second"]) > 0 and "streams" in rows[1]["flags"]
    study = last_line(run("test_continues_movie.py", "--model_dir", fused, "--num_movies", 5, "--movie_clips",
                          4, "--no-pictures", "--num_workers", 0, "--device", "cpu"))
    assert read_json(study / "metrics.json")["windows"] > 0
    one_line(run("export.py", fused, ok=False), "a fused run has several encoders")
    resumed = run("train.py", "--resume", fused, "--epochs", 4, env=ONE_THREAD)
    assert last_line(resumed) == fused and len(table(fused / "metrics.csv")) == 4


def test_the_checkpoint_has_the_streams_and_their_heads(joint, pair):
    state = load(joint, "best")
    spec = state["encoder_spec"]
    assert [one["modality"] for one in spec["streams"]] == ["rgb", "rgbdiff"] and len(spec["heads"]) == 2
    assert state["head_spec"]["feature_dim"] == 2 * spec["heads"][0]["feature_dim"]
    own = load(pair / "rgbdiff", "best")["head"]
    assert all(torch.equal(value, state["encoder"][f"heads.1.{key}"]) for key, value in own.items())


@pytest.mark.parametrize("change, says", [
    (lambda spec: spec["streams"].pop(), "a head for each"),
    (lambda spec: spec["heads"][0].update(hidden_size=900_000), "heads.0.lstm"),
    (lambda spec: spec["heads"][1].update(classes=7), "7 classes, expected 6"),
    (lambda spec: spec["streams"][1].update(crop=10 ** 9), "stream 2: crop"),
    (lambda spec: spec["streams"][1].update(streams=[]), "nothing here is called 'streams'")])
def test_a_foreign_spec_of_streams_is_one_line(joint, tmp_path, change, says):
    state = load(joint, "best")
    change(state["encoder_spec"])
    torch.save(state, tmp_path / "best.pth.tar")
    one_line(run("test.py", "--model_dir", tmp_path / "best.pth.tar", ok=False), says)


def test_a_film_of_a_fusion_has_the_bars_of_every_stream(joint, pair, demo, tmp_path):
    film = sorted((demo / "UCF-101" / "Grow").glob("*.avi"))[0]
    out = {}
    for folder in (joint, pair / "rgb"):
        result = run("test_on_video.py", "--model_dir", folder, "--video_path", film, "--output_dir",
                     tmp_path / folder.name, "--device", "cpu", env=ONE_THREAD)
        out[folder] = cv2.VideoCapture(str(last_line(result) / "labelled.mp4")), result.out
    sizes = [video.get(cv2.CAP_PROP_FRAME_HEIGHT) for video, _ in out.values()]
    assert sizes[0] > sizes[1] == 240, "the panels stand under the frame"
    counted = [re.search(r"(\d+) frames encoded, (\d+) windows", said).groups() for _, said in out.values()]
    assert counted[0] == counted[1], "each stream sees every frame once"
    frame = out[joint][0].read()[1]
    assert frame[250:].std() > 10


def test_the_sliders_answers_are_the_fusions_and_each_runs_own(joint, pair, demo):
    frames = read_frames(sorted((demo / "UCF-101" / "Grow").glob("*.avi"))[0], range(0, 48, 6))
    sliders = [Recogniser.of_run(utils.load_trained(folder), torch.device("cpu"))
               for folder in (joint, pair / "rgb", pair / "rgbdiff")]
    fused, *alone = [slider.answers([slider.crop(frame) for frame in frames]) for slider in sliders]
    assert fused.shape == (4, 3, 6) and sliders[0].names == ["rgb", "rgbdiff"]
    np.testing.assert_allclose(fused[:, 1:], np.concatenate(alone, 1), atol=1e-5)
    assert np.abs(fused[:, 0] - fused[:, 1]).max() > 1e-3
    one_by_one = Recogniser.of_run(utils.load_trained(joint), torch.device("cpu"))
    pieces = [one_by_one.answers([one_by_one.crop(frame)]) for frame in frames]
    np.testing.assert_allclose(np.concatenate(pieces), fused, atol=1e-5)


def test_flow_as_colours_is_white_at_rest_and_another_hue_each_way():
    planes = np.full((3, 8, 8, 2), 127, np.uint8)
    planes[1, ..., 0], planes[2, ..., 1] = 255, 0     # to the right; up
    rest, right, up = (flow_colors(p)[4, 4].astype(int) for p in planes)
    assert rest.min() > 240 and right.min() < 20 and up.min() < 20
    assert right.argmax() == 0 and np.abs(right - up).max() > 100


def test_a_fusion_is_no_stream_of_another(joint, pair, tmp_path):
    one_line(run("fuse.py", "--train", pair / "rgb", joint, "--local_dir", tmp_path, ok=False),
             "itself a fusion")


def test_streams_that_do_not_suit_train_py_are_one_line(joint, pair, demo, sampled, tmp_path):
    both = f"{pair / 'rgb'},{pair / 'rgbdiff'}"
    for words, says in ((("--streams", pair / "rgb"), "one run is no fusion"),
                        (("--streams", both, "--train_encoder", "all"), "--train_encoder"),
                        (("--streams", both, "--no-feature_cache"), "--no-feature_cache"),
                        (("--streams", both, "--classes", "Grow,Shrink"), "train all on the same"),
                        (("--streams", both, "--parts", tmp_path / "no.csv"), "does not exist"),
                        (("--streams", both), "--encoder squeezenet1_1: the encoders of --streams"),
                        (("--streams", both, "--encoder", "resnet152", "--encoder_weights", "DEFAULT",
                          "--img_dim", "none", "--augment", "heavy"), "--augment heavy: the encoders of")):
        one_line(run("train.py", *data_flags(demo, sampled), *HEAD, "--encoder", "squeezenet1_1",
                     "--encoder_weights", "none", "--img_dim", 32, "--local_dir", tmp_path / "x", *words,
                     ok=False), says)


@pytest.mark.parametrize("table", [None, "cross_fit.csv"])
def test_a_fusion_of_when_there_was_cross_fitting_loads(joint, tmp_path, table):
    state = load(joint)
    state["settings"]["cross_fit"] = table
    old = shutil.copytree(joint / "Saved_model_checkpoint", tmp_path / "old") / "last.pth.tar"
    torch.save(state, old)
    now, words = utils.load_trained(joint), ("--load_checkpoint", "--checkpoint_path", str(old))
    assert utils.load_trained(old).recipe == now.recipe
    if table:
        with pytest.raises(UserError, match="cross-fitted"):
            parse("", words)
    else:
        assert parse("", words)[0].streams == now.recipe.streams


def test_an_encoder_that_was_trained_on_what_the_first_run_held_out_is_refused(pair, demo, sampled, tmp_path):
    other = train(demo, sampled, tmp_path, "--epochs", 1, "--train_encoder", "last:1", "--seed", 5)
    one_line(run("fuse.py", "--train", pair / "rgb", other, *HEAD, "--local_dir", tmp_path, ok=False),
             "--streams", "it was trained on 5 of the 48 videos that are held out", "--parts")


# ---------------------------------------------------------------- what one stream alone cannot tell

def draw(cls, seed, length=12, side=64):
    """A video of a white disc on a plain wall: Red and Blue differ in the wall's colour alone, Fast and Slow
    in the disc's motion alone, which no single frame shows."""
    random = np.random.default_rng(seed)
    tint = {"Red": (110, 50, 50), "Blue": (50, 50, 110)}.get(cls, (70, 70, 70))
    wall = np.clip(np.array(tint) + random.integers(-15, 15), 0, 255).astype(np.uint8)
    speed = {"Fast": 6.0, "Slow": 0.6}.get(cls, 3.0)
    angle, place = random.uniform(0, 2 * np.pi), random.uniform(0, side, 2)
    frames = []
    for t in range(length):
        frame = np.full((side, side, 3), wall, np.uint8)
        at = (place + speed * t * np.array([np.cos(angle), np.sin(angle)])) % side
        for dx in (-side, 0, side):
            for dy in (-side, 0, side):
                cv2.circle(frame, (round(at[0] + dx), round(at[1] + dy)), 12, (255, 255, 255), -1)
        frames.append(frame)
    return frames


@pytest.fixture(scope="module")
def cues(once):
    """Folder with sampled/ and lists/ of four classes: a pair that colour tells, one that motion tells."""
    def make(folder):
        lists = {"trainlist01": [], "testlist01": []}
        (folder / "lists").mkdir()
        for label, cls in enumerate(("Blue", "Fast", "Red", "Slow"), 1):
            (folder / "raw" / cls).mkdir(parents=True)
            for group in range(1, 31):
                name = f"v_{cls}_g{group:02}_c01.avi"
                with Writer(folder / "raw" / cls / name, 25, 64, 64) as writer:
                    for frame in draw(cls, 1000 * label + group):
                        writer.write(frame)
                part = "testlist01" if group <= 12 else "trainlist01"
                lists[part].append(f"{cls}/{name}" + (f" {label}" if part == "trainlist01" else ""))
        for name, lines in {**lists, "classInd": ["1 Blue", "2 Fast", "3 Red", "4 Slow"]}.items():
            (folder / "lists" / f"{name}.txt").write_text("\n".join(lines) + "\n")
        run("preprocessing_data.py", "--row_data_dir", folder / "raw", "--sampled_data_dir",
            folder / "sampled", "--ucf_list_dir", folder / "lists", "--sampling_rate", 2,
            "--num_workers", 2)
        return folder
    return once("cues", make)


def within(test, pair):
    """The share of a pair's videos that go to the right one of the two, whatever else is probable."""
    rows = [row for row in table(test / "predictions.csv") if row["class"] in pair]
    return np.mean([(float(row[f"p_{pair[0]}"]) > float(row[f"p_{pair[1]}"])) == (row["class"] == pair[0])
                    for row in rows])


# A colour's or a motion's worth of a random ResNet-18's features, learned in a second
CUES = (*HEAD, "--latent_dim", 64, "--batch_size", 8, "--readout", "none", "--projection", "batchnorm",
        "--epochs", 40, "--lr", 0.005, "--dropout", 0.5, "--label_smoothing", 0.2, "--val_check_interval",
        10)


@pytest.mark.slow
def test_each_stream_fails_on_one_pair_and_both_fusions_get_both(cues, tmp_path):
    streams = [last_line(run(
        "train.py", "--sampled_data_path", cues / "sampled", "--ucf_list_dir", cues / "lists", *CUES,
        "--encoder", "resnet18", "--encoder_weights", "none", "--img_dim", 32, "--modality", name,
        "--local_dir", tmp_path / name, env=ONE_THREAD)) for name in ("rgb", "rgbdiff")]
    tests = [report_of(folder) for folder in streams]
    late = last_line(run("fuse.py", *streams, "--local_dir", tmp_path, "--num_videos", 0)) / "test"
    joint = report_of(last_line(run("fuse.py", "--train", *streams, *CUES, "--dropout", 0,
                                    "--label_smoothing", 0, "--local_dir", tmp_path, env=ONE_THREAD)))
    said = {name: [within(test, pair) for pair in (("Blue", "Red"), ("Fast", "Slow"))]
            for name, test in zip(("rgb", "rgbdiff", "late", "joint"), (*tests, late, joint), strict=True)}
    assert said["rgb"][0] > 0.9 and said["rgbdiff"][1] > 0.9, said
    assert said["rgb"][1] < 0.75 and said["rgbdiff"][0] < 0.75, said
    assert min(said["late"]) > 0.9 and min(said["joint"]) > 0.9, said
