"""Going on with a run: exactly where it stopped, on the data and with the recipe that it had."""
import contextlib
import copy
import os
import shutil
import signal
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from unittest import mock

import pytest
import runs
import torch
from commands import call
from hypothesis import HealthCheck, settings, stateful
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from runs import TINY, assert_same_run, flags, last_line, metrics, read_json, refused, train, weights

import utils
from lrcn import checkpoints
from lrcn.base import distributed
from lrcn.base.cli import UserError
from lrcn.runs import RunFolder
from lrcn.training import loop
from lrcn.training.recipe import Recipe, parse

# The third step of this process's training is told to stop.
STOP_AT_3 = """
import os, signal
from lrcn.training import loop
loss, steps = loop.Learner.loss, []
def stopping(*args):
    steps.append(args)
    if len(steps) == 3 and os.environ["RANK"] == "0":
        signal.raise_signal(signal.SIGTERM)
    return loss(*args)
loop.Learner.loss = stopping
"""
NORMS = ("--encoder", "shufflenet_v2_x0_5")


def train_here(*words):
    """The exit status of train.py's flags."""
    return utils.train(*parse("", list(map(str, words))))


def gone_on(folder, *more):
    return last_line(call("train.py", "--resume", folder, *more))


class Killed(BaseException):
    """In the place of SIGKILL."""


@contextlib.contextmanager
def killed_at(n):
    """The n-th time that something reaches the disk raises, a checkpoint half written; so does every later
    time, as if the process were gone."""
    left, save = n, torch.save

    def counted(function, half=None):
        def call(*args, **options):
            nonlocal left
            left -= 1
            if left == 0 and half:
                half(*args, **options)
            if left <= 0:
                raise Killed
            return function(*args, **options)
        return call

    def half_save(state, path):
        save(state, path)
        os.truncate(path, os.path.getsize(path) // 2)

    with contextlib.ExitStack() as patches:
        patches.enter_context(contextlib.suppress(Killed))
        for name in ("fsync", "replace", "mkdir", "unlink"):
            patches.enter_context(mock.patch.object(os, name, counted(getattr(os, name))))
        patches.enter_context(mock.patch.object(torch, "save", counted(save, half_save)))
        yield


@contextlib.contextmanager
def stopped_at(n):
    loss, left = loop.Learner.loss, n

    def stopping(*args):
        nonlocal left
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGTERM)
        return loss(*args)

    with mock.patch.object(loop.Learner, "loss", stopping):
        yield


# Courses whose rate does not depend on --epochs: a run that is made longer is the longer run.
COURSES = (("--scheduler", "constant", "--views", 2, "--lr", 0.01),
           ("--scheduler", "constant", "--accumulate", 2, "--mixup", 0.4, "--ema", 0.9, "--no-feature_cache"),
           ("--scheduler", "plateau", "--warmup_epochs", 0, "--lr", 0.5, "--optimizer", "sgd"))


class RunFolderMachine(RuleBasedStateMachine):
    """A run folder through stops, kills and damage: it ends as that of the run that nothing happened to."""
    words, oracles = (), {}     # of the data; {course, seed, epochs: run folder}
    scratch = None

    def __init__(self):
        super().__init__()
        self.run = RunFolder(tempfile.mkdtemp(dir=self.scratch))
        self.epochs = self.seed = 1
        self.course = None

    @initialize(course=st.sampled_from(COURSES))
    def choose(self, course):
        self.course = course

    def train(self, *words):
        recipe, checkpoint = parse("", list(map(str, words)))
        self.seed = recipe.seed
        return utils.train(recipe, checkpoint)

    def anew(self, folder):
        return self.train(*self.words, *self.course, "--seed", self.seed, "--epochs", self.epochs,
                          "--local_dir", folder, "--open_new_folder", "False")

    def go_on(self):
        """As a person would: from the last checkpoint, from an older one, or from the start."""
        inside = self.run.checkpoints
        for path in (self.run.checkpoint("last"), *inside.glob("epoch_*"), *inside.glob("best*")):
            if path.is_file():
                last = path == self.run.checkpoint("last")
                try:
                    return self.train(*(("--resume", self.run) if last else
                                        ("--load_checkpoint", "--checkpoint_path", path)),
                                      "--epochs", self.epochs)
                except UserError as error:
                    assert "not a whole checkpoint" in str(error)
        return self.anew(self.run)

    @rule(more=st.integers(0, 2))
    def train_on(self, more):
        self.epochs = min(self.epochs + more, 6)
        assert self.go_on() == 0

    @rule(n=st.integers(1, 12))
    def be_stopped(self, n):
        with stopped_at(n):
            assert self.go_on() in (0, 143)

    @rule(n=st.integers(1, 50), more=st.integers(0, 2))
    def be_killed(self, n, more):
        self.epochs = min(self.epochs + more, 6)
        with killed_at(n):
            self.go_on()

    @rule(seed=st.integers(1, 2), n=st.integers(1, 50))
    def begin_again_and_be_killed(self, seed, n):
        self.seed = seed
        with killed_at(n):
            self.anew(self.run)

    @precondition(lambda self: self.run.checkpoint("last").is_file())
    @rule(share=st.floats(0, 1, exclude_max=True), how=st.sampled_from(("gone", "cut", "another bit")))
    def lose_the_last_checkpoint(self, share, how):
        path = self.run.checkpoint("last")
        raw = bytearray(path.read_bytes())
        at = int(share * len(raw))
        raw[at:at + 1] = bytes(byte ^ 1 for byte in raw[at:at + 1])     # one that was cut before may be empty
        path.unlink() if how == "gone" else path.write_bytes(raw[:at] if how == "cut" else raw)

    @precondition(lambda self: self.run.metrics.is_file())
    @rule(share=st.floats(0, 1))
    def cut_the_metrics(self, share):
        os.truncate(self.run.metrics, int(share * self.run.metrics.stat().st_size))

    def teardown(self):
        if self.course is None:
            return
        assert self.go_on() == 0
        of_what = self.course, self.seed, self.epochs
        if of_what not in self.oracles:
            self.oracles[of_what] = tempfile.mkdtemp(dir=self.scratch)
            self.anew(self.oracles[of_what])
        assert_same_run(self.run.path, Path(self.oracles[of_what]))
        assert not runs.half_files(self.run.path)


def test_a_run_folder_ends_as_that_of_a_run_that_nothing_happened_to(demo, sampled, tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolderMachine, "words", flags(demo, sampled, tmp_path))
    monkeypatch.setattr(RunFolderMachine, "scratch", tmp_path)
    stateful.run_state_machine_as_test(RunFolderMachine, settings=settings(
        max_examples=5, stateful_step_count=6, deadline=None, suppress_health_check=list(HealthCheck)))


@pytest.mark.parametrize("more", [("--val_check_interval", 5), ("--split_size", 0)])
def test_stopping_between_validations_or_without_any_adds_none(demo, sampled, tmp_path, more):
    words = ("--epochs", 3, "--lr", 0.01, *more)
    whole = train(demo, sampled, tmp_path / "whole", *words)
    folder = train(demo, sampled, tmp_path / "again", *words, "--stop_after", 2)
    assert [row["val_top1"] for row in metrics(folder)] == ["", ""]
    assert_same_run(gone_on(folder), whole)


def test_what_counts_the_steps_cannot_change_in_the_middle_of_an_epoch(demo, sampled, tmp_path):
    words = flags(demo, sampled, tmp_path, "--epochs", 2, "--open_new_folder", "False")
    with stopped_at(3):
        assert train_here(*words) == 143
    for name, value in (("--batch_size", 3), ("--accumulate", 2), ("--views", 2)):
        refused("train.py", "--resume", tmp_path, name, value, says=(name, "epoch 1"))
    assert gone_on(tmp_path, "--epochs", 3)


def test_settings_json_follows_a_resumed_run_and_its_places_are_absolute(demo, sampled, tmp_path):
    shutil.copytree(sampled, tmp_path / "here")
    words = ("--sampled_data_path", "here", "--ucf_list_dir", demo / "ucfTrainTestlist", *TINY)
    folder = tmp_path / last_line(call("train.py", *words, "--epochs", 1, cwd=tmp_path))
    gone_on(folder, "--epochs", 2)
    settings = read_json(folder / "settings.json")
    assert settings["epochs"] == 2 and settings["sampled_data_path"] == str(tmp_path / "here")


def test_a_second_training_in_one_run_folder_names_the_first_and_changes_nothing(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "Saved_model_checkpoint" / ".best.1.tmp.tar").touch()     # the first one is about to rename it
    settings = read_json(folder / "settings.json")
    anew = ("--sampled_data_path", settings["sampled_data_path"], *TINY, "--epochs", 1, "--local_dir", folder,
            "--open_new_folder", "False")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    first = f"another training (process {os.getpid()})"
    with RunFolder(folder).lock("resume"):
        for flag, words in (("--resume", ("--resume", folder)), ("--local_dir", anew)):
            refused("train.py", *words, says=(f"{flag} {folder}", first))
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_of_an_older_run_the_last_checkpoint_goes_first_and_the_best_one_last(trained, tmp_path, monkeypatch):
    folder, gone, unlink = RunFolder(shutil.copytree(trained, tmp_path / "run")), [], Path.unlink

    def noted(path, *args, **more):
        gone.append(path)
        unlink(path, *args, **more)
    monkeypatch.setattr(Path, "unlink", noted)
    there = {path for path in folder.checkpoints.iterdir() if path.suffix == ".tar"}
    settings = read_json(folder.settings)
    words = ("--sampled_data_path", settings["sampled_data_path"], "--ucf_list_dir", settings["ucf_list_dir"],
             *TINY, "--epochs", 1, "--local_dir", folder, "--open_new_folder", "False")
    assert train_here(*words) == 0
    older = [path for path in gone if path in there]
    assert older[0] == folder.checkpoint("last") and older[-1] == folder.checkpoint("best")
    assert {path.name for path in older[1:-2]} == {path.name for path in there if path.match("epoch_*")}


def test_every_flag_of_a_resumed_run_is_refused_or_followed(demo, sampled, tmp_path, monkeypatch):
    words = flags(demo, sampled, tmp_path / "begun", "--epochs", 2, "--stop_after", 1, *NORMS,
                  "--train_encoder", "last:1", "--num_frames_video", 3, "--views", 2, "--warmup_epochs", 0,
                  "--open_new_folder", "False", "--number_of_classes", 2)
    train_here(*words)
    saved = Recipe.of(read_json(tmp_path / "begun" / "settings.json"), "settings")

    real, last = checkpoints.load_file, RunFolder(tmp_path / "begun").checkpoint("last")
    state = real(last, "resume")    # once, and not from every copy of the run
    monkeypatch.setattr(checkpoints, "load_file", lambda path, flag: copy.deepcopy(state) if
                        path.name == last.name else real(path, flag))

    def weights_after(name, *more):
        folder = shutil.copytree(tmp_path / "begun", tmp_path / name)
        assert train_here("--resume", folder, *more) == 0
        return weights(folder)
    usual = weights_after("usual")
    same = {"epochs", "patience", "class_weights"}      # two epochs, and classes of one size
    refused, followed = set(), set()
    for f in fields(Recipe):
        # what is written where, by which machine; the data's places; precisions of CUDA; less memory
        if f.metadata["group"] in ("output", "machine") or f.metadata["decides"] in ("place", "nothing") \
                or f.name == "amp":
            continue
        other = replace(saved, **{f.name: runs.other_value(f.name, saved)})
        words = sorted(set(other.words()) - set(saved.words())) or [f"--{f.name}={f.default}"]
        try:
            found = weights_after(f.name, *words)
            assert any(not torch.equal(found[key], usual[key]) for key in usual) or f.name in same, f.name
            followed.add(f.name)
        except UserError as error:
            assert f"--{f.name}" in str(error)
            refused.add(f.name)
    assert {"augment", "seed", "split_size", "groups", "resize", "optimizer", "hidden_size"} <= refused
    assert {"lr", "encoder_lr", "weight_decay", "views", "clips_per_video", "train_batch_norm"} <= followed


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_stopped_in_mid_epoch_go_on_exactly_and_in_one(demo, sampled, tmp_path):
    more = ("--epochs", 2, "--lr", 0.05, "--scheduler", "constant", "--warmup_epochs", 0, "--ema", 0.9,
            "--no-feature_cache")
    whole = last_line(runs.launched("train.py", *flags(demo, sampled, tmp_path / "whole", *more)))
    script = runs.patched(tmp_path, "train.py", STOP_AT_3)
    result = runs.launched(script, *flags(demo, sampled, tmp_path / "begun", *more), ok=False)
    folder = result.err.split("--resume ")[1].split()[0]
    assert runs.load(folder)["progress"]["step"] == 3
    runs.launched("train.py", "--resume", folder)
    assert_same_run(tmp_path / "begun" / folder.split("/")[-1], whole)
    assert [row["epoch"] for row in metrics(gone_on(whole, "--epochs", 3))] == ["1", "2", "3"]


def test_a_loss_that_is_not_finite_on_another_process_ends_this_one(demo, sampled, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed.Rank, "all_reduce_max", lambda *_: loop.NOT_FINITE)
    with pytest.raises(UserError, match="is not finite in epoch 1, on another process"):
        train_here(*flags(demo, sampled, tmp_path))
