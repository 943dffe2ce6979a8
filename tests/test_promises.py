"""What the README promises: a test of each promise's name. Details are in the tests that they name.

Kills, signals, full disks and foreign files are tried on the real command lines; where a moment has
to be hit exactly, the script runs with one of its functions wrapped (runs.patched).
"""
import os
import pickle
import random
import re
import shutil
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run, start
from runs import (
    ONE_THREAD,
    assert_same_run,
    flags,
    half_files,
    last_line,
    load,
    metrics,
    one_line,
    patched,
    read_json,
    table,
    train,
    weights,
)

import utils
from lrcn import checkpoints
from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.data import groups, split_lists, splits
from lrcn.features.store import ENTRY
from lrcn.runs import RunFolder

HARD = ("--dropout", 0.5, "--views", 2, "--scheduler", "cosine", "--lr", 0.01)


@pytest.fixture(scope="module")
def whole(demo, sampled, tmp_path_factory):
    """A run of 6 epochs that nothing interrupted, with dropout, two views and a schedule."""
    return train(demo, sampled, tmp_path_factory.mktemp("whole"), "--epochs", 6, *HARD, "--pictures")


@pytest.fixture
def copied(whole, tmp_path):
    """A copy of the run, to be damaged."""
    return shutil.copytree(whole, tmp_path / "copied")


# ---------------------------------------------------------------- 1: kills

# Counts what reaches the disk and dies at the KILL_AT-th time; a write that is cut off leaves its first half.
# Between two of them the disk is as after the first.
KILLER = """
import os, signal
import torch
from lrcn.features import features
left = int(os.environ["KILL_AT"])
features.KEEP_SECONDS = 0
def counted(function, half=None):
    def call(*args, **options):
        global left
        left -= 1
        if left == 0:
            if half:
                half(*args, **options)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return call
pwrite, save = os.pwrite, torch.save
def half_save(state, path):
    save(state, path)
    os.truncate(path, os.path.getsize(path) // 2)
os.pwrite = counted(pwrite, lambda handle, data, at: pwrite(handle, data[:len(data) // 2], at))
torch.save = counted(save, half_save)
for name in ("fsync", "replace", "mkdir"):
    setattr(os, name, counted(getattr(os, name)))
"""


def check_what_is_there(local_dir):
    """Every file of a killed run that has its final name is whole."""
    local_dir = Path(local_dir)
    for path in local_dir.glob("*/Saved_model_checkpoint/*.pth.tar"):
        if not path.name.startswith("."):
            assert checkpoints.load_file(path, "x")
    for path in local_dir.glob("*/metrics.csv"):
        epochs = [int(row["epoch"]) for row in metrics(path.parent)]
        assert epochs == [*range(1, len(epochs) + 1)]
    for path in local_dir.glob("*/settings.json"):
        assert read_json(path)["classes"]
    for path in local_dir.glob("*/splits.csv"):
        assert splits.read_splits(path)


@pytest.mark.slow
def test_promise_1_a_kill_at_any_moment_of_encoding(whole, demo, sampled, tmp_path):
    """With test_preprocessing.py's 12 and the training's 12 below: 36 kills."""
    mine = shutil.copytree(sampled, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))
    script = patched(tmp_path, "train.py", KILLER)
    command = flags(demo, mine, tmp_path / "runs", "--epochs", 6, *HARD, "--pictures")
    moments, kept, went_on = random.Random(1), 0, 0
    for i in range(12):     # at a write, cut off in its middle where it is one of data
        if i % 4 == 0:      # three more runs go on with what this one leaves
            shutil.rmtree(mine / "features", ignore_errors=True)
        result = run(script, *command, ok=False, env=ONE_THREAD | {"KILL_AT": moments.randint(5, 24)})
        assert result.code == -signal.SIGKILL, "it was not killed"
        check_what_is_there(tmp_path / "runs")
        kept = max(kept, *(path.stat().st_size for path in mine.glob("features/*/*.index")), 0)
        went_on += " frames, 0 more are in" not in result.out
    assert kept and went_on >= 3
    assert_same_run(last_line(run("train.py", *command, env=ONE_THREAD)), whole)


@pytest.mark.slow
def test_promise_1_a_kill_at_any_moment_of_training(whole, demo, sampled, tmp_path):
    script = patched(tmp_path, "train.py", KILLER)
    local_dir = tmp_path / "runs"
    command = flags(demo, sampled, local_dir, "--epochs", 6, "--checkpoint_interval", 1, *HARD, "--pictures")

    def going_on():
        found = list(local_dir.glob("*/Saved_model_checkpoint/last.pth.tar"))
        return ["--resume", "auto", "--local_dir", local_dir] if found else command

    moments, epochs, kills = random.Random(2), [], 0
    while kills < 12:
        result = run(script, *going_on(), ok=False, env=ONE_THREAD | {"KILL_AT": moments.randint(8, 60)})
        check_what_is_there(local_dir)
        last = sorted(local_dir.glob("*/Saved_model_checkpoint/last.pth.tar"))
        epochs.append(load(last[-1].parent.parent)["epoch"] if last else 0)
        if result.code == 0:    # it was done before it was killed: once more from the start
            assert epochs[-1] == 6
            shutil.rmtree(local_dir)
        else:
            assert result.code == -signal.SIGKILL, result.err
            kills += 1
    assert len(set(epochs)) > 2, "the kills never hit a run between its epochs"
    folder = last_line(run("train.py", *going_on(), env=ONE_THREAD))
    assert_same_run(folder, whole)
    assert not half_files(folder)


def test_promise_1_a_file_is_flushed_then_renamed_then_its_folder_flushed(tmp_path, monkeypatch):
    calls = []

    def noted(name, real):
        return lambda *args: (calls.append(name), real(*args))[1]

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    checkpoints.save_file(tmp_path / "x.pth.tar", {"a": torch.zeros(3)})
    files.write_csv(tmp_path / "x.csv", ["a"], [[1]])
    assert calls == ["fsync", "replace", "fsync"] * 2


# ---------------------------------------------------------------- 2: resume

def resumed(demo, sampled, local_dir, first, then, *more):
    """A run with `more` flags that was begun with `first` and gone on with by `then`."""
    folder = train(demo, sampled, local_dir, *more, *first)
    again = last_line(run("train.py", "--resume", folder, *then, env=ONE_THREAD))
    assert again == folder
    return folder


@pytest.mark.slow
def test_promise_2_a_resumed_run_is_the_run_that_was_never_stopped(whole, demo, sampled, tmp_path):
    folder = resumed(demo, sampled, tmp_path / "a", ("--epochs", 6, "--stop_after", 3), (), *HARD)
    assert [row["epoch"] for row in metrics(folder)] == list("123456")
    assert_same_run(folder, whole, names=("last", "best", "epoch_4", "epoch_6"))
    # by the flags of old, and from a checkpoint that is not the newest
    path = folder / "Saved_model_checkpoint" / "epoch_2.pth.tar"
    run("train.py", "--load_checkpoint", "True", "--checkpoint_path", path, env=ONE_THREAD)
    assert_same_run(folder, whole)
    # automatically the newest
    auto = train(demo, sampled, tmp_path / "a", "--epochs", 6, "--stop_after", 1, *HARD)
    result = run("train.py", "--resume", "auto", "--local_dir", tmp_path / "a", env=ONE_THREAD)
    assert last_line(result) == auto and auto != folder
    assert_same_run(auto, whole)


@pytest.mark.parametrize("more", [
    ("--scheduler", "constant", "--views", 2),
    ("--scheduler", "plateau", "--ema", 0.9, "--warmup_epochs", 0, "--lr", 0.05),
    ("--scheduler", "constant", "--train_encoder", "last:1", "--accumulate", 2, "--mixup", 0.4,
     "--readout", "attention", "--no-feature_cache", "--encoder", "shufflenet_v2_x0_5", "--train_batch_norm"),
])
@pytest.mark.slow
def test_promise_2_n_epochs_and_then_m_are_m_epochs_at_once(demo, sampled, tmp_path, more):
    if "plateau" in more:   # the course of its rate may not depend on --epochs
        more += ("--checkpoint_interval", 1)
    at_once = train(demo, sampled, tmp_path / "a", "--epochs", 5, *more)
    folder = resumed(demo, sampled, tmp_path / "b", ("--epochs", 2), ("--epochs", 5), *more)
    assert_same_run(folder, at_once)


# ---------------------------------------------------------------- 3: signals

# The third step of the second epoch takes a while, and says so.
SLOW = """
import time
from lrcn.training import loop
loss, calls = loop.Learner.loss, 0
def slow(self, x, labels):
    global calls
    calls += 1
    if calls == 8:
        print("third step", flush=True)
        time.sleep(1)
    return loss(self, x, labels)
loop.Learner.loss = slow
"""


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.slow
def test_promise_3_a_signal_finishes_the_step_saves_and_says_how_to_go_on(whole, demo, sampled, tmp_path,
                                                                          number, code):
    script = patched(tmp_path, "train.py", SLOW)
    process = start(script, *flags(demo, sampled, tmp_path / "runs", "--epochs", 6, *HARD), env=ONE_THREAD)
    while "third step" not in process.out:
        assert process.poll() is None, process.err
        time.sleep(0.002)
    process.kill(number)
    result = process.wait()
    assert result.code == code and "Traceback" not in result.err, result
    said = result.err.splitlines()[-1]
    assert "go on with: python train.py --resume " in said
    folder = Path(said.split("--resume ")[1])
    progress = load(folder)["progress"]
    assert (progress["epoch"], progress["step"]) == (2, 3), "it did not stop after the step under way"
    again = run("train.py", *said.split("python train.py ")[1].split(), env=ONE_THREAD)
    assert last_line(again) == folder
    assert_same_run(folder, whole)


# ---------------------------------------------------------------- 4: checkpoints of strangers

class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def zip_bomb(path, *_):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("archive/data.pkl", "archive/data/0"):
            archive.writestr(name, bytes(200_000_000))


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
    "zip bomb": (zip_bomb, "unpacks to 0.40 GB"),
    "a tensor": (lambda path, *_: torch.save(torch.zeros(3), path), "not a checkpoint"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_promise_4_a_strangers_checkpoint_cannot_run_code_and_gets_one_line(copied, tmp_path, kind):
    """In detail: test_checkpoints.py."""
    path, proof, (spoil, says) = RunFolder(copied).checkpoint("best"), tmp_path / "proof", SPOILED[kind]
    spoil(path, load(copied, "best"), proof)
    with pytest.raises(UserError, match=f"--model_dir {re.escape(str(path))}.*{says}") as error:
        utils.load_trained(copied)
    assert "\n" not in str(error.value)
    assert not proof.exists(), "code in a checkpoint was run"


@pytest.mark.slow
def test_promise_4_every_script_reads_a_strangers_checkpoint_as_carefully(copied, demo, sampled, tmp_path):
    path, proof = RunFolder(copied).checkpoint("best"), tmp_path / "proof"
    malicious(path, load(copied, "best"), proof)
    shutil.copy(path, path.with_name("last.pth.tar"))
    for script, *words in (("test.py", "--model_dir", copied), ("train.py", "--resume", copied),
                           ("train.py", *flags(demo, sampled, tmp_path, "--encoder_weights", path)),
                           ("train.py", *flags(demo, sampled, tmp_path, "--init_from", copied))):
        one_line(run(script, *words, ok=False, env=ONE_THREAD, timeout=60), PICKLE)
        assert not proof.exists(), "code in a checkpoint was run"


# ---------------------------------------------------------------- 5: bad videos

def test_promise_5_bad_videos_are_listed_and_the_others_go_on(demo, tmp_path):
    """In detail: test_bad_videos.py."""
    raw = tmp_path / "raw" / "Jump"
    raw.mkdir(parents=True)
    good = sorted((demo / "UCF-101").glob("*/*.avi"))[:10]
    for i, path in enumerate(good):
        shutil.copy(path, raw / f"v_Jump_g{i:02d}_c01.avi")
    (raw / "v_Jump_g98_c01.avi").write_text("no video")
    result = run("preprocessing_data.py", "--row_data_dir", tmp_path / "raw", "--sampled_data_dir",
                 tmp_path / "out", "--num_workers", 2)
    assert result.code == 0
    assert len(table(tmp_path / "out" / "manifest.csv")) == 10
    [failed] = table(tmp_path / "out" / "failed.csv")
    assert "v_Jump_g98_c01.avi" in failed["source"] and failed["reason"]


# ---------------------------------------------------------------- 6: bad lists

@pytest.mark.slow
def test_promise_6_a_bad_list_is_refused_with_file_and_line(demo, sampled, tmp_path):
    """In detail: test_splits.py."""
    lists = shutil.copytree(demo / "ucfTrainTestlist", tmp_path / "lists")
    path = lists / "trainlist01.txt"
    good = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + good.replace("\n", "  \r\n\r\n").encode())
    command = ("--sampled_data_path", sampled, "--ucf_list_dir", lists)
    odd = train(demo, sampled, tmp_path / "runs", *command, "--epochs", 1)
    assert table(odd / "splits.csv") == table(train(demo, sampled, tmp_path, "--epochs", 1) / "splits.csv")
    path.write_text(good + "../outside/v_A_g01_c01.avi 1\n")
    result = run("train.py", *flags(demo, sampled, tmp_path / "runs", *command), ok=False, env=ONE_THREAD)
    one_line(result, f"{path} line {len(good.splitlines()) + 1}", "leaves the data set's folder")


# ---------------------------------------------------------------- 7: a loss that is not finite

@pytest.mark.slow
def test_promise_7_a_loss_that_is_not_finite_names_its_step_and_clips(demo, sampled, tmp_path):
    folder = train(demo, sampled, tmp_path, "--epochs", 2)
    good = (folder / "Saved_model_checkpoint" / "last.pth.tar").read_bytes()
    result = run("train.py", "--resume", folder, "--epochs", 9, "--lr", 1e30, "--clip_grad", 0,
                 "--scheduler", "constant", ok=False, env=ONE_THREAD)
    one_line(result, "the loss is not finite in epoch ", ", step ", "at learning rate 1e+30")
    named = [word for word in result.err.splitlines()[-1].replace(",", " ").split() if word.endswith(".avi")]
    listed = {f"{row['class']}/{row['video']}.avi" for row in table(folder / "splits.csv")
              if row["part"] == "train"}
    assert 1 <= len(named) <= 4 and set(named) <= listed
    assert (folder / "Saved_model_checkpoint" / "last.pth.tar").read_bytes() == good


# ---------------------------------------------------------------- 8: the disk

def test_promise_8_a_step_that_cannot_fit_is_refused_with_both_numbers(demo, sampled, tmp_path):
    mine = shutil.copytree(sampled, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))
    full = ("import shutil\n"
            "shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**9, 10**9, 20_000)")
    script = patched(tmp_path, "train.py", full)
    result = run(script, *flags(demo, mine, tmp_path / "runs"), ok=False, env=ONE_THREAD)
    one_line(result, "the feature store needs 0.13 MB", "0.02 MB are free")
    run("train.py", *flags(demo, mine, tmp_path / "first", "--epochs", 1), env=ONE_THREAD)
    result = run(script, *flags(demo, mine, tmp_path / "runs"), ok=False, env=ONE_THREAD)
    one_line(result, "the checkpoints need", "0.02 MB are free")


FULL = """
import os
from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.features import features
written = 0
def full(real, after):
    def call(*args, **options):
        global written
        written += 1
        if written > after:
            raise OSError(28, os.strerror(28))
        return real(*args, **options)
    return call
"""


@pytest.mark.parametrize("patch", [
    # the feature store, at its first byte and in its middle
    FULL + "os.pwrite = full(os.pwrite, 0)",
    FULL + "features.KEEP_SECONDS = 0\nos.pwrite = full(os.pwrite, 9)",
    # a checkpoint, as torch's own writer reports it
    "import resource, signal\nfrom lrcn import checkpoints\nsave = checkpoints.save_file\n"
    "def limited(path, state):\n    if path.name == 'best.pth.tar':\n"
    "        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n    save(path, state)\n"
    "checkpoints.save_file = limited",
    # metrics.csv
    FULL + "files.write_csv = full(files.write_csv, 2)",
])
@pytest.mark.slow
def test_promise_8_a_full_disk_ends_with_one_line_and_no_half_file(whole, demo, sampled, tmp_path, patch):
    mine = shutil.copytree(sampled, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))
    script = patched(tmp_path, "train.py", patch)
    command = flags(demo, mine, tmp_path / "runs", "--epochs", 6, *HARD)
    result = run(script, *command, ok=False, env=ONE_THREAD)
    one_line(result, "the disk is full", code=1)
    assert not half_files(tmp_path)
    check_what_is_there(tmp_path / "runs")
    assert_same_run(last_line(run("train.py", *command, env=ONE_THREAD)), whole)


# ---------------------------------------------------------------- 9: same seed, same result

@pytest.mark.slow
def test_promise_9_the_same_seed_gives_the_same_bits_for_0_1_or_4_workers(whole, demo, sampled, tmp_path):
    for workers in (1, 4):
        mine = shutil.copytree(sampled, tmp_path / str(workers), ignore=shutil.ignore_patterns("features"))
        again = train(demo, mine, tmp_path / f"runs{workers}", "--epochs", 6, *HARD, "--num_workers", workers)
        assert_same_run(again, whole)
    other = train(demo, sampled, tmp_path / "other", "--epochs", 6, *HARD, "--seed", 43)
    assert weights(other) and metrics(other) != metrics(whole), "the seed does nothing"


@pytest.mark.slow
def test_promise_9_the_same_holds_without_a_feature_cache(demo, sampled, tmp_path):
    folders = [train(demo, sampled, tmp_path / str(workers), "--epochs", 1, *HARD, "--no-feature_cache",
                     "--num_workers", workers) for workers in (0, 1, 4)]
    assert_same_run(folders[1], folders[0])
    assert_same_run(folders[2], folders[0])


# ---------------------------------------------------------------- 10: groups

def test_promise_10_no_group_crosses_train_validation_and_test(demo, whole):
    """As a property, and over the official lists: test_splits.py. Here of a real run."""
    rows = table(whole / "splits.csv")
    test, _ = split_lists.official_lists(demo / "ucfTrainTestlist", 1)[::-1]
    parts = {part: {row["group"] for row in rows if row["part"] == part} for part in ("train", "val")}
    parts["test"] = set(groups.find_groups([(row.cls, row.video) for row in test]).values())
    assert all(parts.values()) and sum(map(len, parts.values())) == len(set.union(*parts.values()))


# ---------------------------------------------------------------- 11: two at once

@pytest.mark.slow
def test_promise_11_two_runs_of_the_same_second_get_two_folders(demo, sampled, tmp_path, whole):
    """Two preprocessing runs into one folder: test_preprocessing.py."""
    same = "import time\nstrftime = time.strftime\ntime.strftime = lambda f, *a: " \
           "'20261121-110000' if f == '%Y%m%d-%H%M%S' else strftime(f, *a)"
    script = patched(tmp_path, "train.py", same)
    command = flags(demo, sampled, tmp_path / "runs", "--epochs", 6, *HARD)
    processes = [start(script, *command, env=ONE_THREAD) for _ in range(2)]
    folders = [last_line(process.wait()) for process in processes]
    assert sorted(f.name for f in folders) == ["20261121-110000", "20261121-110000-2"]
    for folder in folders:
        assert_same_run(folder, whole)


@pytest.mark.slow
def test_promise_11_two_runs_that_encode_the_same_clips_share_the_work(demo, sampled, tmp_path, whole):
    mine = shutil.copytree(sampled, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))
    command = flags(demo, mine, tmp_path / "runs", "--epochs", 6, *HARD)
    processes = [start("train.py", *command, env=ONE_THREAD) for _ in range(2)]
    for process in processes:
        assert_same_run(last_line(process.wait()), whole)
    [index] = mine.glob("features/*/*.index")
    entries = np.fromfile(index, ENTRY)[["video", "view", "frame"]]
    assert len(np.unique(entries)) == len(entries), "a frame was encoded twice"


# ---------------------------------------------------------------- 12: figures

@pytest.mark.slow
def test_promise_12_the_figures_equal_scikit_learns_on_predictions_csv(trained, tmp_path):
    from sklearn import metrics as sk
    copied = shutil.copytree(trained, tmp_path / "run")
    folder = last_line(run("test.py", "--model_dir", copied, "--num_workers", 0, "--num_videos", 2,
                           env=ONE_THREAD))
    rows, figures = table(folder / "predictions.csv"), read_json(folder / "metrics.json")
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
    matrix = [[int(row[cls]) for cls in classes] for row in table(folder / "confusion_matrix.csv")]
    assert matrix == sk.confusion_matrix(true, said, labels=labels).tolist()
    recall = sk.recall_score(true, said, average=None, labels=labels)
    rows = table(folder / "accuracy_per_class.csv")
    for row, expected, n in zip(rows, recall, np.bincount(true), strict=True):
        assert float(row["accuracy"]) == pytest.approx(expected, abs=1e-5) and int(row["test_videos"]) == n
