"""compare.py: tested runs side by side, video by video."""
import json

import cv2
import numpy as np
import pytest
from commands import call
from runs import answered_run, last_line, refused, table

from lrcn.evaluation import intervals


def made_up_run(folder, right, videos=None, settings=None, **metrics):
    """A run folder with nothing but the test results, and the settings, that compare.py --no-speed reads."""
    videos = videos or [f"v_A_g{i // 2:02}_c{i % 2:02}" for i in range(len(right))]
    said = {video: ("A", (int(hit), int(not hit))) for video, hit in zip(videos, right, strict=True)}
    answered_run(folder, said, **metrics)
    if settings:
        (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def compare(folder, *words):
    """(rows of comparison.csv, the lines on the terminal below the heading)."""
    result = call("compare.py", *words, "--output", folder / "out", "--no-speed")
    return table(last_line(result) / "comparison.csv"), result.out.splitlines()[1:]


def test_runs_are_compared_video_by_video_and_a_leaky_one_is_called_so(tmp_path):
    random = np.random.default_rng(0)
    one, other = random.random(60) < 0.6, random.random(60) < 0.8
    runs = [made_up_run(tmp_path / name, right, leaky=name == "leaky")
            for name, right in (("one", one), ("other", other), ("leaky", one))]
    rows, lines = compare(tmp_path, *runs, "--names", "frames", "lrcn", "leaky")
    first, second, _ = rows
    assert (first["run"], second["run"]) == ("frames", "lrcn") and first["minus_first"] == ""
    assert float(first["top1"]) == pytest.approx(one.mean())
    assert float(second["minus_first"]) == pytest.approx(other.mean() - one.mean())
    _, ends, p = intervals.paired(one[None], other[None], np.arange(60) // 2)
    assert float(second["mcnemar_p"]) == pytest.approx(p)
    assert [float(second["minus_first_low"]), float(second["minus_first_high"])] == pytest.approx(ends)
    assert ["LEAKY" in row["remark"] for row in rows] == [False, False, True]
    assert ["LEAKY" in line for line in lines[:3]] == [False, False, True]
    assert cv2.imread(str(tmp_path / "out" / "comparison.png")).std() > 1


def test_runs_of_several_seeds_are_averaged_and_other_videos_are_not_paired(tmp_path):
    right = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)
    seeds = [made_up_run(tmp_path / f"seed{i}", row) for i, row in enumerate(right)]
    others = made_up_run(tmp_path / "others", right[0], videos=[f"v_A_g{i}9_c01" for i in range(4)])
    rows, lines = compare(tmp_path, f"{seeds[0]},{seeds[1]}", seeds[1], others)
    assert [(row["runs"], row["top1"]) for row in rows] == [("2", "0.375"), ("1", "0.25"), ("1", "0.5")]
    assert float(rows[1]["minus_first"]) == pytest.approx(-0.125) and rows[1]["mcnemar_p"] == ""
    assert rows[2]["minus_first"] == "" == rows[2]["minus_first_low"]
    remark = "tested on other videos than seed0 (0 of its 4 in common): no paired difference"
    assert rows[2]["remark"] == remark and any(remark in line for line in lines)


def test_runs_pool_that_differ_in_their_seed_alone_and_the_table_names_what_else_differs(tmp_path):
    one, two, again, wide = (
        made_up_run(tmp_path / name, [True, False],
                    settings={"local_dir": name, "seed": seed, "hidden_size": size, "epochs": size - 5})
        for name, seed, size in (("one", 1, 8), ("two", 2, 8), ("again", 1, 8), ("wide", 1, 12)))
    (first, second), lines = compare(tmp_path, f"{one},{two}", wide)
    assert (first["runs"], first["flags"]) == ("2", "")
    assert second["flags"] == "hidden_size 12, epochs 7" and any(second["flags"] in line for line in lines)
    for word, says in ((f"{one},{wide}", "wide has hidden_size 12, epochs 7"), (f"{one},{one}", "folder"),
                       (f"{one},{again}", "seed 1")):
        refused("compare.py", two, word, "--output", tmp_path / "out", "--no-speed", says=says)


@pytest.mark.parametrize("name, text, says", [
    ("test/predictions.csv", "", "predictions.csv"),
    ("test/predictions.csv", "video,class,group,right\n", "run test.py again"),
    ("test/predictions.csv", "video,class,group,right\nv,A,g,yes\n", "right 0 or 1"),
    ("test/metrics.json", '{"parameters": "7"}', "parameters"),
    ("settings.json", '{"seed": 1, "hidden_size": "5"}', "hidden_size: expected a whole number"),
    ("settings.json", "[]", "settings.json")])
def test_a_damaged_file_is_one_line(tmp_path, name, text, says):
    folder = made_up_run(tmp_path / "one", [True, False], settings={"seed": 1})
    (folder / name).write_text(text)
    refused("compare.py", folder, "--output", tmp_path / "out", "--no-speed", says=says)


def test_a_run_that_was_not_tested_is_one_line(tmp_path):
    (tmp_path / "run").mkdir()
    for words, says in (((tmp_path / "run",), "run test.py on it first"), ((tmp_path / "absent",), "absent"),
                        ((made_up_run(tmp_path / "one", [True]), "--names", "a", "b"), "--names")):
        refused("compare.py", *words, "--output", tmp_path / "out", "--no-speed", says=says)
    assert not (tmp_path / "out").exists()
