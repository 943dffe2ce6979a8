"""fuse.py: the mean of several runs' probabilities, against arithmetic by hand and scikit-learn."""
import csv
import json

import numpy as np
import pytest
from commands import run
from runs import ONE_THREAD, last_line, one_line, read_json, report_of, table, train
from sklearn.metrics import accuracy_score, log_loss

from lrcn import scores

CLASSES = ["A", "B", "C"]
# Two streams that know different things: {video: (class, what the first says, what the second says)}
KNOWN = {"v_A_g01_c01": ("A", (0.6, 0.3, 0.1), (0.2, 0.7, 0.1)),      # means 0.4, 0.5, 0.1: B, wrong
         "v_B_g01_c01": ("B", (0.5, 0.4, 0.1), (0.1, 0.8, 0.1)),      # 0.3, 0.6, 0.1: B
         "v_B_g02_c01": ("B", (0.2, 0.5, 0.3), (0.4, 0.35, 0.25)),    # 0.3, 0.425, 0.275: B
         "v_C_g01_c01": ("C", (0.1, 0.5, 0.4), (0.3, 0.1, 0.6))}      # 0.2, 0.3, 0.5: C


def made_up_run(folder, said, classes=CLASSES, split="1", **metrics):
    """A run folder with the test results alone. said: {video: (class, probabilities)}."""
    (folder / "test").mkdir(parents=True)
    with open(folder / "test" / "predictions.csv", "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(("video", "class", "label", "group", "predicted", "predicted_class", "right",
                         *(f"p_{cls}" for cls in classes)))
        for video, (cls, shares) in said.items():
            best = int(np.argmax(shares))
            writer.writerow((video, cls, classes.index(cls), video[:7], best, classes[best],
                             int(classes[best] == cls), *shares))
    (folder / "test" / "metrics.json").write_text(json.dumps(
        {"split": split, "parameters": 7, "checkpoint": "best.pth.tar", "seed": 1, "encoder": folder.name,
         **metrics}))
    return folder


def stream(folder, number, **more):
    return made_up_run(folder, {video: (row[0], row[number]) for video, row in KNOWN.items()}, **more)


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
    assert all(s["mcnemar_p"] == 1 and s["gain_ci95"][0] < 0.25 < s["gain_ci95"][1]
               for s in metrics["streams"]), "one video won, none lost: a coin's toss"
    assert metrics["encoder"] == "frames + motion" and metrics["parameters"] == 14


def test_weights_are_those_of_the_paper(streams, tmp_path):
    metrics, shares, _ = fused(tmp_path, *streams, "--weights", 1, 2)
    np.testing.assert_allclose(shares[0], [1 / 3, 1.7 / 3, 0.1], rtol=1e-5)
    assert [s["weight"] for s in metrics["streams"]] == pytest.approx([1 / 3, 2 / 3])


def test_the_order_of_runs_and_of_their_classes_and_videos_does_not_matter(streams, tmp_path):
    backwards = {video: (cls, tuple(np.array(motion)[[2, 0, 1]]))
                 for video, (cls, _, motion) in reversed(KNOWN.items())}
    turned = made_up_run(tmp_path / "turned", backwards, ["C", "A", "B"])
    third = stream(tmp_path / "third", 1)
    ways = [fused(tmp_path, *order) for order in ((streams[0], streams[1], third),
                                                  (third, turned, streams[0]))]
    assert ways[0][2] == ways[1][2]
    assert ways[0][0]["loss"] == ways[1][0]["loss"]


def test_a_run_fused_with_itself_is_itself(streams, tmp_path):
    _, _, rows = fused(tmp_path, streams[0], streams[0], "--weights", 3, 1)
    assert rows == table(streams[0] / "test" / "predictions.csv")


def test_random_probabilities_in_any_order_give_the_same_bits():
    random = np.random.default_rng(0)
    streams, weights = random.dirichlet(np.ones(7), (4, 50)), random.uniform(0.1, 1, 4)
    whole = scores.weighted_mean(streams, weights)
    np.testing.assert_allclose(whole, np.average(streams, axis=0, weights=weights), rtol=1e-12)
    order = [2, 0, 3, 1]
    assert np.array_equal(whole, scores.weighted_mean(streams[order], weights[order]))


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
    other = made_up_run(tmp_path / "other", said, **change)
    one_line(run("fuse.py", other if "windows" in change else streams[0], other, "--weights", "tuned",
                 "--local_dir", tmp_path, ok=False), says)
    assert not list(tmp_path.glob("*-fused"))


def test_other_videos_and_wrong_words_are_refused_in_one_line(streams, tmp_path):
    short = made_up_run(tmp_path / "short", {v: (r[0], r[2]) for v, r in list(KNOWN.items())[:3]})
    bare = tmp_path / "bare"
    bare.mkdir()
    damaged = made_up_run(tmp_path / "damaged", {"v_A_g01_c01": ("A", (0.6, 0.9, 0.1))})
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
    one_line(run("fuse.py", pair / "rgb", other, "--weights", "tuned", "--local_dir", tmp_path, "--num_workers",
                 0, ok=False), "no video is in the validation part of all runs")
    one_line(run("fuse.py", pair / "rgb", other, "--output_dir", other, ok=False), "a run of train.py")
