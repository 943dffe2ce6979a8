"""tune.py: a cross-validation that is what train.py and test.py do, goes on after a kill, and is blind to
the test list."""
import json
import shutil
import sys

import pytest
from commands import call, run
from runs import TINY, data_flags, last_line, one_line, patched, read_json, refused, report_of, table, train

from lrcn.base import cli

FOUR = ("--set", "lr=1e-2,1e-3", "--set", "readout=final,none")


def words(demo, sampled, output, *more):
    """Of a tiny tuning, one process: 24 training clips in 2 folds."""
    return (*data_flags(demo, sampled), *TINY, "--folds", 2, "--epochs", 2, "--jobs", 1, "--output", output,
            *more)


def tune(*arguments):
    return call("tune.py", *words(*arguments))


def journal(output):
    lines = [line.split("\t")[-1] for line in (output / "trainings.jsonl").read_text().splitlines()]
    return [line for line in lines if line.startswith("{") and line.endswith("}")]


@pytest.fixture(scope="module")
def tuned(demo, sampled, tmp_path_factory):
    """(output folder of four settings, its Result). Do not change it: copy it."""
    output = tmp_path_factory.mktemp("tuned") / "tuning"
    result = tune(demo, sampled, output, *FOUR)
    assert last_line(result) == output
    return output, result


def test_a_fold_is_what_train_py_and_test_py_make_of_it(tuned, demo, sampled, tmp_path):
    output, _ = tuned
    folds, lists = table(output / "folds.csv"), tmp_path / "lists"
    assert len(folds) == 24 and {row["fold"] for row in folds} == {"1", "2"}
    shutil.copytree(demo / "ucfTrainTestlist", lists)
    for name, kept in (("trainlist01.txt", "1"), ("testlist01.txt", "2")):
        (lists / name).write_text("".join(f"{r['class']}/{r['video']}.avi\n" for r in folds
                                          if r["fold"] == kept))
    folder = train(demo, sampled, tmp_path, "--ucf_list_dir", lists, "--epochs", 2, "--lr", 1e-2,
                   "--split_size", 0)
    assert {row["part"] for row in table(folder / "splits.csv")} == {"train"}
    report = report_of(folder)
    right = "".join(row["right"] for row in table(report / "predictions.csv"))
    [entry] = [e for e in map(json.loads, journal(output)) if e["fold"] == 1
               and e["setting"] == {"lr": 0.01, "readout": "final"}]
    assert entry["right"] == right and "0" in right and "1" in right
    assert entry["loss"] == pytest.approx(read_json(report / "metrics.json")["loss"], abs=1e-6)


def test_the_table_is_made_of_the_held_out_clips(tuned):
    output, result = tuned
    rows, entries = table(output / "tune.csv"), list(map(json.loads, journal(output)))
    assert [(r["lr"], r["readout"]) for r in rows] == \
        [("0.01", "final"), ("0.01", "none"), ("0.001", "final"), ("0.001", "none")]
    assert [r["setting"] for r in rows] == ["lr 0.01, readout final", "readout none", "lr 0.001",
                                            "lr 0.001, readout none"]
    for row in rows:
        mine = {e["fold"]: e["right"] for e in entries
                if e["setting"] == {"lr": float(row["lr"]), "readout": row["readout"]}}
        hits = "".join(mine.values())
        assert len(mine) == 2 and len(hits) == 24
        assert float(row["top1"]) == pytest.approx(hits.count("1") / 24, abs=1e-5)
        assert float(row["fold_1"]) == pytest.approx(mine[0].count("1") / len(mine[0]), abs=1e-5)
        assert float(row["ci95_low"]) < float(row["top1"]) < float(row["ci95_high"])
        if row is not rows[0]:
            assert float(row["minus_first"]) == pytest.approx(float(row["top1"]) - float(rows[0]["top1"]),
                                                              abs=1e-5)
    assert "8 trainings in " in result.out and "a minute" in result.out
    assert result.out.count("encoding ") <= 1       # every frame once for all trainings, or none
    text = (output / "tune.md").read_text()
    assert text.startswith("```\npython tune.py ") and text.count("\n|") == 2 + len(rows)
    assert (output / "tune.png").stat().st_size > 10_000


def test_the_same_command_again_trains_nothing_and_says_the_same(tuned, demo, sampled, tmp_path):
    output = tmp_path / "again"
    shutil.copytree(tuned[0], output)
    before = (output / "tune.csv").read_bytes(), (output / "trainings.jsonl").read_bytes()
    result = tune(demo, sampled, output, *FOUR)
    assert ((output / "tune.csv").read_bytes(), (output / "trainings.jsonl").read_bytes()) == before
    assert "trainings in" not in result.out and "encoding" not in result.out
    # other settings of the same folder take what is there, and train the rest
    result = tune(demo, sampled, output, "--set", "lr=1e-3,5e-4", "--set", "readout=final", "--set",
                  "flip=no")
    assert "2 trainings in " in result.out and "2 settings, 4 trainings, 2 of them" in result.out
    # what was chosen is told where it is what train.py does without being asked, too
    [best] = [line for line in result.out.splitlines() if line.startswith("best: ")]
    assert "--readout=final" in best and "--lr=0.0" in best and best.endswith("; of test.py: --flip=False")


def test_a_difference_can_be_taken_within_the_other_flags(tuned, demo, sampled, tmp_path):
    output = tmp_path / "against"
    shutil.copytree(tuned[0], output)
    result = tune(demo, sampled, output, *FOUR, "--against", "readout")
    rows = table(output / "tune.csv")
    assert [bool(row["minus_first"]) for row in rows] == [False, True, False, True]
    for row, other in ((rows[1], rows[0]), (rows[3], rows[2])):
        assert float(row["minus_first"]) == pytest.approx(float(row["top1"]) - float(other["top1"]), abs=1e-5)
        assert row["lr"] == other["lr"] and row["setting"] == f"lr {row['lr']}, readout none"
    assert "minus readout final [95%]" in result.out


# SIGTERM comes after three trainings. Its processes are forks: new ones would import torch anew.
STOPPED = """
import multiprocessing, signal
from lrcn.base import files
fork = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda _=None: fork
append, left = files.append_lines, 3
def stopping(*args):
    global left
    append(*args)
    left -= 1
    if not left:
        signal.raise_signal(signal.SIGTERM)
files.append_lines = stopping
"""


def test_a_tuning_of_several_processes_that_sigterm_ended_goes_on_to_the_same_table(tuned, demo, sampled,
                                                                                    tmp_path):
    output, script = tmp_path / "out", patched(tmp_path, "tune.py", STOPPED)
    one_line(run(script, *words(demo, sampled, output, *FOUR, "--jobs", 2), ok=False), "stopped", code=143)
    done = journal(output)
    assert len(done) == 3 and not (output / "tune.csv").exists()
    with open(output / "trainings.jsonl", "a") as f:
        f.write('{"key": "a line that a kill cut o')
    result = tune(demo, sampled, output, *FOUR)
    assert "5 trainings in " in result.out and journal(output)[:3] == done and len(journal(output)) == 8
    assert (output / "tune.csv").read_bytes() == (tuned[0] / "tune.csv").read_bytes()


def test_neither_the_test_list_nor_a_test_video_is_looked_at(tuned, demo, sampled, tmp_path):
    shutil.copytree(sampled, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))
    lists = shutil.copytree(demo / "ucfTrainTestlist", tmp_path / "ucfTrainTestlist")
    tested = (lists / "testlist01.txt").read_text().split()
    for path in (*lists.glob("testlist*"), *(tmp_path / "sampled" / name for name in tested)):
        path.unlink()
    assert len(tested) == 42
    tune(tmp_path, tmp_path / "sampled", tmp_path / "blind", *FOUR)
    for name in ("tune.csv", "folds.csv"):
        assert (tmp_path / "blind" / name).read_bytes() == (tuned[0] / name).read_bytes()


def test_a_training_that_fails_costs_its_own_row(demo, sampled, tmp_path):
    result = tune(demo, sampled, tmp_path / "out", "--set", "lr=1e-2,1e30", "--clip_grad", 0,
                  "--optimizer", "sgd")
    good, bad = table(tmp_path / "out" / "tune.csv")
    assert good["top1"] and not good["fault"] and not bad["top1"]
    assert "not finite" in bad["fault"] and "best: lr 0.01" in result.out


@pytest.mark.parametrize("wrong, says", [
    (("--set", "lr=1e-4..1e-2"), ("--set lr", "--trials N")),
    (("--set", "lr=1e-4", "--set", "lr=1e-3"), ("--set lr: given twice",)),
    (("--trials", 3), ("--trials 3", "nothing to search")),
    (("--folds", 25), ("--folds 25", "24 groups")),
    (("--split", "random"), ("--split random",)),
    (("--set", "lr=1e-4,1e-3", "--against", "readout"), ("--against readout", "--set")),
    (("--set", "scheduler=cosine,plateau"), ("--scheduler plateau",)),
    (("--sampled_data_path", "nowhere"), ("--sampled_data_path nowhere",)),
])
def test_a_wrong_word_is_one_line(wrong, says, demo, sampled, tmp_path):
    refused("tune.py", *words(demo, sampled, tmp_path / "out", *wrong), says=says)
    assert not (tmp_path / "out" / "tune.csv").exists()


def test_optuna_asks_within_the_ranges_and_asks_the_same_after_a_kill(demo, sampled, tmp_path):
    pytest.importorskip("optuna")
    search = ("--set", "lr=1e-4..1e-1", "--set", "readout=none,mean", "--hidden_size", 4, "--trials", 3)
    output = tmp_path / "search"
    tune(demo, sampled, output, *search, "--readout", "none")
    rows, entries = table(output / "tune.csv"), journal(output)
    assert rows[0]["setting"] == "lr 0.0005, readout none" and 2 <= len(rows) <= 4
    assert all(1e-4 <= float(row["lr"]) <= 1e-1 and len(row["lr"]) < 9 for row in rows)
    assert len(entries) == 2 * len(rows)
    whole = (output / "tune.csv").read_bytes()
    (output / "trainings.jsonl").write_text("\n".join(entries[:3]) + "\n")     # what a kill would have left
    result = tune(demo, sampled, output, *search, "--readout", "none")
    assert (output / "tune.csv").read_bytes() == whole
    assert f"{len(entries) - 3} trainings in " in result.out


def test_without_optuna_one_line_says_how_to_get_it(demo, sampled, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    refused("tune.py", *words(demo, sampled, tmp_path / "out", "--set", "lr=1e-4..1e-2", "--trials", 2),
            says=("--trials 2", "pip install optuna"))


def test_refit_trains_the_best_on_all_and_tests_it_once(tuned, demo, sampled, tmp_path, monkeypatch):
    output = tmp_path / "refit"
    shutil.copytree(tuned[0], output)
    monkeypatch.setattr(cli, "run_script", lambda script, *words, env: call(script.name, *words).code)
    result = tune(demo, sampled, output, *FOUR, "--refit")
    folder, rows = output / "refit" / "seed_42", table(output / "tune.csv")
    best = max(rows, key=lambda row: float(row["top1"]))
    settings, metrics = read_json(folder / "settings.json"), read_json(folder / "test" / "metrics.json")
    assert (str(settings["lr"]), settings["readout"]) == (best["lr"], best["readout"])
    assert [row["part"] for row in table(folder / "splits.csv")] == ["train"] * 24
    assert metrics["videos"] == 42 and metrics["checkpoint"] == "best.pth.tar" and metrics["epoch"] == 2
    stamp = (folder / "test" / "metrics.json").stat().st_mtime_ns
    again = tune(demo, sampled, output, *FOUR, "--refit")
    assert (folder / "test" / "metrics.json").stat().st_mtime_ns == stamp
    assert "trained and tested before" in again.out and last_line(result) == output
    refused("tune.py", *words(demo, sampled, output, "--set", "latent_dim=8", "--refit"),
            says=("--refit", "latent_dim", "--output"))


def test_a_run_that_has_learned_the_held_out_clips_is_no_start(demo, sampled, tmp_path):
    frozen, learned, other = (train(demo, sampled, tmp_path, "--epochs", 1, *more) for more in (
        ("--split_size", 0), ("--split_size", 0, "--train_encoder", "last:1"), ("--modality", "rgbdiff")))
    for flag, *before in (("--init_from", frozen), ("--streams", frozen, learned)):
        refused("tune.py", *words(demo, sampled, tmp_path / "out", flag, ",".join(map(str, before))),
                says=(f"{flag} {before[-1]}", "24 of the 24 videos"))
    usual = "--encoder", "resnet152", "--encoder_weights", "DEFAULT", "--img_dim", "none"
    result = tune(demo, sampled, tmp_path / "frozen", "--set", "lr=1e-2", "--streams", f"{frozen},{other}",
                  *usual)
    assert "1 settings, 2 trainings" in result.out
