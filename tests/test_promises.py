"""What docs/promises.md promises: a test of each promise's name. Details are in the tests that they name.

Kills, signals and full disks are tried on the real command line, with one of the script's functions wrapped
(runs.patched), so that the moment is hit exactly.
"""
import contextlib
import os
import pickle
import re
import shutil
import signal
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from commands import call, run, start

import dataset
import utils
from lrcn import checkpoints
from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.data import groups, split_lists, splits
from lrcn.features.store import ENTRY
from lrcn.runs import RunFolder
from lrcn.training.recipe import Recipe

HARD = ("--dropout", 0.5, "--views", 2, "--scheduler", "cosine", "--lr", 0.01)


@pytest.fixture(scope="module")
def whole(demo, sampled, tmp_path_factory):
    """A run of 6 epochs that nothing interrupted, with dropout, two views and a schedule."""
    return runs.train(demo, sampled, tmp_path_factory.mktemp("whole"), "--epochs", 6, *HARD)


@pytest.fixture
def copied(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copied")


# At the n-th call of one of them the process dies, and a write leaves its first half behind; or from then on
# the disk is full.
FAULTY = """
import os, signal
import torch
from lrcn.features import features
features.KEEP_SECONDS = 0
name, left, how = os.environ["FAULT"].split()
left = int(left)
def faulty(function, half=lambda *args: None):
    def call(*args, **options):
        global left
        left -= 1
        if left > 0:
            return function(*args, **options)
        if how == "full":
            raise OSError(28, os.strerror(28))
        half(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    return call
pwrite, save = os.pwrite, torch.save
def half_save(state, path):
    save(state, path)
    os.truncate(path, os.path.getsize(path) // 2)
if name == "pwrite":
    os.pwrite = faulty(pwrite, lambda handle, data, at: pwrite(handle, data[:len(data) // 2], at))
elif name == "save":
    torch.save = faulty(save, half_save)
else:
    os.replace = faulty(os.replace)
"""


def check_what_is_there(local_dir):
    """Every file of a killed run that has its final name is whole."""
    local_dir = Path(local_dir)
    for path in local_dir.glob("*/Saved_model_checkpoint/*.pth.tar"):
        if not path.name.startswith("."):
            assert checkpoints.load_file(path, "x")
    for path in local_dir.glob("*/metrics.csv"):
        epochs = [int(row["epoch"]) for row in runs.metrics(path.parent)]
        assert epochs == [*range(1, len(epochs) + 1)]
    for path in local_dir.glob("*/settings.json"):
        assert runs.read_json(path)["classes"]
    for path in local_dir.glob("*/splits.csv"):
        assert splits.read_splits(path)


def test_promise_1_a_kill_leaves_whole_files_and_the_next_run_goes_on(whole, demo, sampled, tmp_path):
    """Of the store, a checkpoint, another file. Every write: below, test_store.py, test_journal.py."""
    mine = shutil.copytree(sampled, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))
    script, local_dir = runs.patched(tmp_path, "train.py", FAULTY), tmp_path / "runs"
    first = runs.flags(demo, mine, local_dir, "--epochs", 6, "--checkpoint_interval", 1, *HARD, "--pictures")
    again = "--resume", "auto", "--local_dir", local_dir
    outs = []
    for words, moment in ((first, "pwrite 8"), (first, "save 7"), (again, "replace 4")):
        result = run(script, *words, ok=False, env={"FAULT": f"{moment} killed"})
        assert result.code == -signal.SIGKILL, moment
        check_what_is_there(local_dir)
        outs.append(result.out)
    assert int(re.search(r"encoding train and val: .* (\d+) more are in", outs[1])[1]) > 0
    folder = runs.last_line(call("train.py", *again))
    runs.assert_same_run(folder, whole)
    assert not runs.half_files(folder)


def test_promise_1_a_file_is_old_or_new_whichever_step_of_its_writing_fails(tmp_path, monkeypatch):
    """It is flushed, then renamed, then its folder is flushed."""
    def counted(name, real):
        def call(*args):
            calls.append(name)
            if len(calls) == failing:
                raise OSError(5, "the disk is gone")
            return real(*args)
        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    for failing in range(7):
        calls = []
        with pytest.raises(OSError) if failing else contextlib.nullcontext():
            checkpoints.save_file(tmp_path / "x.pth.tar", {"a": torch.tensor(failing)})
            files.write_csv(tmp_path / "x.csv", ["a"], [[failing]])
        assert calls == (["fsync", "replace", "fsync"] * 2)[:failing or 6]
        assert checkpoints.load_file(tmp_path / "x.pth.tar", "x")["a"] == (failing if failing > 2 else 0)
        assert runs.table(tmp_path / "x.csv") == [{"a": str(failing if failing > 5 else 0)}]
        assert not runs.half_files(tmp_path)


def test_promise_2_a_resumed_run_is_the_run_that_was_never_stopped(whole, demo, sampled, tmp_path):
    folder = runs.train(demo, sampled, tmp_path, *HARD, "--epochs", 6, "--stop_after", 3)
    assert len(runs.metrics(folder)) == 3
    assert runs.last_line(call("train.py", "--resume", "auto", "--local_dir", tmp_path)) == folder
    runs.assert_same_run(folder, whole, names=("last", "best", "epoch_4", "epoch_6"))
    # by the flags of old, and from a checkpoint that is not the newest
    path = folder / "Saved_model_checkpoint" / "epoch_2.pth.tar"
    call("train.py", "--load_checkpoint", "True", "--checkpoint_path", path)
    runs.assert_same_run(folder, whole)


def test_promise_2_one_epoch_and_one_more_are_two_at_once(demo, sampled, tmp_path):
    more = ("--scheduler", "constant", "--train_encoder", "last:1", "--accumulate", 2, "--mixup", 0.4,
            "--readout", "attention", "--no-feature_cache", "--encoder", "shufflenet_v2_x0_5",
            "--train_batch_norm")
    expected = runs.train(demo, sampled, tmp_path / "a", "--epochs", 2, *more)
    folder = runs.train(demo, sampled, tmp_path / "b", "--epochs", 1, *more)
    assert runs.last_line(call("train.py", "--resume", folder, "--epochs", 2)) == folder
    runs.assert_same_run(folder, expected)


# The signal comes in the middle of a step.
SIGNALLED = """
import os
from lrcn.training import loop
loss, left = loop.Learner.loss, int(os.environ["STEPS"])
def signalled(self, *batch):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    return loss(self, *batch)
loop.Learner.loss = signalled
"""


def test_promise_3_a_signal_finishes_the_step_saves_and_says_how_to_go_on(whole, demo, sampled, tmp_path):
    script = runs.patched(tmp_path, "train.py", SIGNALLED)
    words = runs.flags(demo, sampled, tmp_path / "runs", "--epochs", 6, *HARD)
    for number, code, steps, place in ((signal.SIGTERM, 143, 8, (2, 3)), (signal.SIGINT, 130, 4, (3, 2))):
        result = run(script, *words, ok=False, env={"STEPS": steps, "SIGNAL": int(number)})
        assert result.code == code and "Traceback" not in result.err, result
        said = result.err.splitlines()[-1]
        assert "go on with: python train.py --resume " in said
        words = said.split("python train.py ")[1].split()
        progress = runs.load(words[1])["progress"]
        assert (progress["epoch"], progress["step"]) == place, "it did not stop after the step under way"
    folder = runs.last_line(call("train.py", *words))
    assert str(folder) == words[1]
    runs.assert_same_run(folder, whole)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def zip_bomb(path, *_):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("archive/data.pkl", "archive/data/0"):
            archive.writestr(name, bytes(10_000_000))


def malicious(path, state, proof):
    torch.save({**state, "epoch": Malicious(proof)}, path)


PICKLE, BROKEN = "more than tensors and plain containers", "not a whole checkpoint"
SPOILED = {     # what puts something else in the place of a checkpoint; `proof` exists if it could run code
    "malicious": (malicious, PICKLE),
    "malicious, old format": (
        lambda path, state, proof: path.write_bytes(pickle.dumps(Malicious(proof), protocol=2)), PICKLE),
    "truncated": (lambda path, *_: path.write_bytes(path.read_bytes()[:-path.stat().st_size // 3]), BROKEN),
    "damaged": (lambda path, *_: path.write_bytes(
        (raw := path.read_bytes())[:100] + b"\xff" * 40 + raw[140:]), BROKEN),
    "empty": (lambda path, *_: path.write_bytes(b""), BROKEN),
    "text": (lambda path, *_: path.write_text("<html>404 not found</html>"), BROKEN),
    "zip bomb": (zip_bomb, "unpacks to 0.02 GB"),
    "a tensor": (lambda path, *_: torch.save(torch.zeros(3), path), "not a checkpoint"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_promise_4_a_strangers_checkpoint_cannot_run_code_and_gets_one_line(copied, tmp_path, kind):
    path, proof, (spoil, says) = RunFolder(copied).checkpoint("best"), tmp_path / "proof", SPOILED[kind]
    spoil(path, runs.load(copied, "best"), proof)
    with pytest.raises(UserError, match=f"--model_dir {re.escape(str(path))}.*{says}") as error:
        utils.load_trained(copied)
    assert "\n" not in str(error.value)
    assert not proof.exists(), "code in a checkpoint was run"


def test_promise_4_every_script_reads_a_strangers_checkpoint_as_carefully(copied, demo, sampled, tmp_path):
    path, proof = RunFolder(copied).checkpoint("best"), tmp_path / "proof"
    malicious(path, runs.load(copied, "best"), proof)
    shutil.copy(path, path.with_name("last.pth.tar"))
    for script, *words in (("test.py", "--model_dir", copied), ("train.py", "--resume", copied),
                           ("train.py", *runs.flags(demo, sampled, tmp_path, "--encoder_weights", path)),
                           ("train.py", *runs.flags(demo, sampled, tmp_path, "--init_from", copied))):
        runs.refused(script, *words, says=PICKLE)
        assert not proof.exists(), "code in a checkpoint was run"


def test_promise_5_bad_videos_are_listed_and_the_others_go_on(demo, tmp_path):
    raw = tmp_path / "raw" / "Jump"
    raw.mkdir(parents=True)
    good = sorted((demo / "UCF-101").glob("*/*.avi"))[:10]
    for i, path in enumerate(good):
        shutil.copy(path, raw / f"v_Jump_g{i:02d}_c01.avi")
    (raw / "v_Jump_g98_c01.avi").write_text("no video")
    call("preprocessing_data.py", "--row_data_dir", tmp_path / "raw", "--sampled_data_dir", tmp_path / "out")
    assert len(runs.table(tmp_path / "out" / "manifest.csv")) == 10
    [failed] = runs.table(tmp_path / "out" / "failed.csv")
    assert "v_Jump_g98_c01.avi" in failed["source"] and failed["reason"]


def test_promise_6_a_bad_list_is_refused_with_file_and_line(demo, sampled, tmp_path):
    lists = shutil.copytree(demo / "ucfTrainTestlist", tmp_path / "lists")
    plain = Recipe(sampled_data_path=str(sampled), ucf_list_dir=str(demo / "ucfTrainTestlist"))
    odd, path = replace(plain, ucf_list_dir=str(lists)), lists / "trainlist01.txt"
    good = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + good.replace("\n", "  \r\n\r\n").encode())
    assert dataset.training_samples(odd) == dataset.training_samples(plain)
    path.write_text(good + "../outside/v_A_g01_c01.avi 1\n")
    where = f"{re.escape(str(path))} line {len(good.splitlines()) + 1}: .*leaves the data set's folder"
    with pytest.raises(UserError, match=where):
        dataset.training_samples(odd)


def test_promise_7_a_loss_that_is_not_finite_names_its_step_and_clips(copied):
    good = (copied / "Saved_model_checkpoint" / "last.pth.tar").read_bytes()
    line = runs.refused("train.py", "--resume", copied, "--epochs", 9, "--lr", 1e30, "--clip_grad", 0,
                   "--scheduler", "constant",
                   says=("the loss is not finite in epoch ", ", step ", "at learning rate 1e+30"))
    named = [word for word in line.replace(",", " ").split() if word.endswith(".avi")]
    listed = {f"{row['class']}/{row['video']}.avi" for row in runs.table(copied / "splits.csv")
              if row["part"] == "train"}
    assert 1 <= len(named) <= 4 and set(named) <= listed
    assert (copied / "Saved_model_checkpoint" / "last.pth.tar").read_bytes() == good


def test_promise_8_a_step_that_cannot_fit_is_refused_with_both_numbers(whole, demo, sampled, tmp_path):
    mine = shutil.copytree(sampled, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))
    full = ("import shutil\n"
            "shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**9, 10**9, 20_000)")
    script = runs.patched(tmp_path, "train.py", full)
    result = run(script, *runs.flags(demo, mine, tmp_path / "runs"), ok=False)
    runs.one_line(result, "the feature store needs 0.13 MB", "0.02 MB are free")
    # what `whole` needs is in the store
    result = run(script, *runs.flags(demo, sampled, tmp_path / "runs", *HARD), ok=False)
    runs.one_line(result, "the checkpoints need", "0.02 MB are free")


# A checkpoint grows past a limit, as torch's own writer reports it.
LIMITED = """
import resource, signal
from lrcn import checkpoints
save = checkpoints.save_file
def limited(path, state):
    if path.name == "best.pth.tar":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    save(path, state)
checkpoints.save_file = limited
"""


def test_promise_8_a_full_disk_ends_with_one_line_and_no_half_file(whole, demo, sampled, tmp_path):
    mine = shutil.copytree(sampled, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))
    command = runs.flags(demo, mine, tmp_path / "runs", "--epochs", 6, *HARD)
    for patch, fault in ((FAULTY, "pwrite 10 full"), (LIMITED, ""), (FAULTY, "replace 8 full")):
        result = run(runs.patched(tmp_path, "train.py", patch), *command, ok=False, env={"FAULT": fault})
        runs.one_line(result, "the disk is full", code=1)
        assert not runs.half_files(tmp_path)
        check_what_is_there(tmp_path / "runs")
    runs.assert_same_run(runs.last_line(call("train.py", *command)), whole)


def test_promise_9_the_same_seed_gives_the_same_bits_whatever_the_workers(whole, demo, sampled, tmp_path):
    mine = shutil.copytree(sampled, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))
    again = runs.train(demo, mine, tmp_path / "again", "--epochs", 6, *HARD, "--num_workers", 4)
    runs.assert_same_run(again, whole)
    other = runs.train(demo, sampled, tmp_path, "--epochs", 6, "--stop_after", 1, *HARD, "--seed", 43)
    assert runs.metrics(other)[0] != runs.metrics(whole)[0], "the seed does nothing"
    uncached = [runs.train(demo, sampled, tmp_path / str(workers), "--epochs", 1, *HARD, "--no-feature_cache",
                      "--num_workers", workers) for workers in (0, 4)]
    runs.assert_same_run(*uncached)


def test_promise_10_no_group_crosses_train_validation_and_test(demo, whole):
    """As a property, and over the official lists: test_splits.py. Here of a real run."""
    rows = runs.table(whole / "splits.csv")
    test, _ = split_lists.official_lists(demo / "ucfTrainTestlist", 1)[::-1]
    parts = {part: {row["group"] for row in rows if row["part"] == part} for part in ("train", "val")}
    parts["test"] = set(groups.find_groups([(row.cls, row.video) for row in test]).values())
    assert all(parts.values()) and sum(map(len, parts.values())) == len(set.union(*parts.values()))


def test_promise_11_two_runs_of_a_second_get_two_folders_and_share_the_work(whole, demo, sampled, tmp_path):
    """Two preprocessing runs into one folder: test_preprocessing.py."""
    same = "import time\nstrftime = time.strftime\ntime.strftime = lambda f, *a: " \
           "'20261121-110000' if f == '%Y%m%d-%H%M%S' else strftime(f, *a)"
    mine = shutil.copytree(sampled, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))
    script = runs.patched(tmp_path, "train.py", same)
    command = runs.flags(demo, mine, tmp_path / "runs", "--epochs", 6, *HARD)
    processes = [start(script, *command) for _ in range(2)]
    folders = [runs.last_line(process.wait()) for process in processes]
    assert sorted(f.name for f in folders) == ["20261121-110000", "20261121-110000-2"]
    for folder in folders:
        runs.assert_same_run(folder, whole)
    [index] = mine.glob("features/*/*.index")
    entries = np.fromfile(index, ENTRY)[["video", "view", "frame"]]
    assert len(np.unique(entries)) == len(entries), "a frame was encoded twice"


def test_promise_12_the_figures_equal_scikit_learns_on_predictions_csv(tested):
    from sklearn import metrics as sk
    folder = RunFolder(tested).test.path
    rows, figures = runs.table(folder / "predictions.csv"), runs.read_json(folder / "metrics.json")
    classes = [name.removeprefix("p_") for name in rows[0] if name.startswith("p_")]
    true = [classes.index(row["class"]) for row in rows]
    said = [int(row["predicted"]) for row in rows]
    shares = np.array([[float(row[f"p_{cls}"]) for cls in classes] for row in rows])
    labels = range(len(classes))
    assert [int(row["label"]) for row in rows] == true and len(set(said)) > 1
    assert figures["videos"] == len(rows) == 42
    assert figures["top1"] == pytest.approx(sk.accuracy_score(true, said))
    for k in (3, 5):
        assert figures[f"top{k}"] == pytest.approx(sk.top_k_accuracy_score(true, shares, k=k, labels=labels))
    assert figures["mean_class_accuracy"] == pytest.approx(sk.balanced_accuracy_score(true, said))
    loss = sk.log_loss(true, shares / shares.sum(1, keepdims=True), labels=labels)
    assert figures["loss"] == pytest.approx(loss, rel=1e-4)
    matrix = [[int(row[cls]) for cls in classes] for row in runs.table(folder / "confusion_matrix.csv")]
    assert matrix == sk.confusion_matrix(true, said, labels=labels).tolist()
    recall = sk.recall_score(true, said, average=None, labels=labels)
    rows = runs.table(folder / "accuracy_per_class.csv")
    for row, expected, n in zip(rows, recall, np.bincount(true), strict=True):
        assert float(row["accuracy"]) == pytest.approx(expected, abs=1e-5) and int(row["test_videos"]) == n
