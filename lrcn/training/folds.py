"""Cross-validation: a recipe trained on all folds but one, and tested on that one, for every fold and seed.

    validation = CrossValidation(plan, build, Journal(path))
    validation.train(settings)              # what the journal does not have yet; several at once
    validation.right(setting)               # bool (seeds, videos): which held-out clips were told rightly

A held-out fold chooses nothing, not even the epoch: the last epoch's weights are tested, which is how the
winner is trained afterwards, on all clips (--split_size 0). Each training is the one that train.py would
do on these clips, with one thread, so that its answers do not depend on how many run at once.
"""
import contextlib
import functools
import hashlib
import io
import json
from collections import namedtuple
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lrcn import checkpoints, runs
from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.base.distributed import Rank, Stop
from lrcn.base.workers import pool
from lrcn.data.fields import flow_of
from lrcn.data.splits import Sample
from lrcn.evaluation.answers import Answers
from lrcn.features.features import Options, clip_features, predict_videos
from lrcn.features.rows import contents
from lrcn.training.feeds import epoch_steps, make_feeds
from lrcn.training.loop import Progress, make_learner, train_epoch
from lrcn.training.recipe import Recipe

FORMAT = 2
REPLACED = "a file that it depends on was replaced meanwhile; run the same command again"


@dataclass(frozen=True)
class Setting:
    """What is compared: a recipe, and how held-out clips are tested. chosen: ((flag, value), ...) of it."""
    recipe: Recipe
    test_windows: int | str = 1
    flip: bool = False
    chosen: tuple = ()

    def with_(self, chosen):
        """This setting with other values: {flag: value}."""
        tested = {name: chosen[name] for name in TESTING if name in chosen}
        recipe = replace(self.recipe, **{k: v for k, v in chosen.items() if k not in tested})
        return replace(self, recipe=recipe, chosen=tuple(chosen.items()), **tested)


TESTING = ("test_windows", "flip")
# One training: the Setting, its recipe's seed set; the fold that is held out; what names it in the journal.
Training = namedtuple("Training", "setting fold key")
# What predict_videos asks of a model
Fitted = namedtuple("Fitted", "model settings")


@dataclass
class Plan(Answers):
    """The clips of the training list, and the fold of each."""
    folds: np.ndarray = None    # int (videos,)
    seeds: tuple = ()           # of the trainings
    device: torch.device = None
    by_video = (*Answers.by_video, "folds")

    def samples(self, fold):
        """[Sample] of all other folds."""
        return [Sample(v, int(label), "train") for v, label, held in
                zip(self.videos, self.labels, self.folds, strict=True) if held != fold]

    def held_out(self, fold):
        return np.flatnonzero(self.folds == fold)

    @property
    def numbers(self):
        return range(int(self.folds.max()) + 1)


# ---------------------------------------------------------------- what it depends on

def depends(recipe, *stages):
    """{flag: value} of those that decide these stages (see recipe.flag), of files what they hold.

    The key of whatever is kept is made of this.
    """
    named = {"encoder_weights": [Path(recipe.encoder_weights).expanduser()], "streams": _streams(recipe),
             "init_from": recipe.init_from and [runs.checkpoint_path(recipe.init_from, flag="init_from")]}
    contents = {name: [_content(path) for path in paths] for name, paths in named.items() if paths}
    return {**recipe.deciding(*stages), **contents}


def _streams(recipe):
    return [runs.checkpoint_path(run, flag="streams") for run in recipe.streams or ()]


def _content(path):
    """A fingerprint of a file; the name itself where there is none."""
    if not path.is_file():
        return str(path)
    stat = path.stat()
    return _hash(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@functools.cache
def _hash(path, *stamp):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:16]


def sees_flow(recipe):
    """Whether the encoder sees optical flow, or one of its streams does."""
    return any("flow" in modality.split("+") for modality in
               [recipe.modality, *(_modality(path, _content(path)) for path in _streams(recipe))])


@functools.cache
def _modality(path, content):
    return Recipe.of(checkpoints.load_file(path, "streams").get("settings"), f"--streams {path}").modality


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- one training

_encoders = {}      # the last frozen one of this process


def _build(build, recipe, plan):
    """build's (model, network, encoder, groups), a frozen encoder made once."""
    key = _digest(depends(recipe, "encoder"))
    built = build(recipe, plan.classes, plan.device, _encoders.get(key))
    if recipe.frozen and key not in _encoders:
        _encoders.clear()
        _encoders[key] = built[0].encoder
    return built


def _options(recipe, plan, **more):
    return Options(plan.device, recipe.num_workers, recipe.seed, compile=recipe.compile,
                   backend=recipe.encoder_backend, precision=recipe.encoder_precision, **more)


def encode(build, setting, plan):
    """See to it that the store has what the trainings of this setting read, where it can be kept."""
    recipe = setting.recipe
    model, _, encoder, _ = _build(build, recipe, plan)
    if encoder is None:
        return
    options = _options(recipe, plan)
    make_feeds(recipe, encoder, True, plan.samples(None), options)
    if recipe.frozen:
        clip_features(Fitted(model, {"num_frames_video": recipe.num_frames_video}),
                      plan, options, setting.test_windows, setting.flip)


def train_fold(build, training, plan):
    """{right: "0110...", loss, seconds} of the held-out clips in list order, or {fault: in words}.

    seconds: those within the epochs. build(recipe, classes, device, encoder or None) gives (model, network
    that is trained, what encodes for its features or None, optimiser groups).
    """
    setting, threads = training.setting, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return _train_fold(build, setting, plan, training.fold)
    except UserError as error:
        return {"fault": str(error)}
    finally:
        torch.set_num_threads(threads)


def _train_fold(build, setting, plan, fold):
    recipe, held = setting.recipe, plan.held_out(fold)
    model, network, encoder, groups = _build(build, recipe, plan)
    feed, _ = make_feeds(recipe, encoder or model.encoder, encoder is not None, plan.samples(fold),
                         _options(recipe, plan))
    learner = make_learner(network, groups, recipe, len(feed.names), plan.device)
    progress, seconds = Progress(), 0.0
    while progress.epoch < recipe.epochs:
        progress.begin_epoch(recipe.seed, Rank())
        steps = epoch_steps(len(feed.names), recipe.batch_size, recipe.views, recipe.seed, progress.epoch)
        train_epoch(learner, feed, steps, progress, Stop(), Rank(), lambda *_: None)
        seconds += progress.seconds
        progress.finish_epoch(learner, None)
    # Features of an encoder that was trained here are of no use to anybody else.
    options = _options(recipe, plan, cache=recipe.frozen and recipe.feature_cache)
    with learner.averaged():
        shares = predict_videos(Fitted(model.eval(), {"num_frames_video": recipe.num_frames_video}),
                                plan[held], options, setting.test_windows, setting.flip)
    labels = plan.labels[held]
    true = np.maximum(shares[np.arange(len(held)), labels], 1e-12)
    return {"right": "".join("01"[int(hit)] for hit in shares.argmax(1) == labels),
            "loss": float(-np.log(true).mean()), "seconds": round(seconds, 3)}


# ---------------------------------------------------------------- what is done

class Journal:
    """The trainings that are done, a JSON line each: a kill costs those that were under way.

    `done`: {key: {right, loss, ...}}. A line that a kill cut off counts as not there.
    """

    def __init__(self, path):
        self.path, self.done = Path(path), {}
        for entry in files.read_lines(self.path) if self.path.is_file() else ():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                if not set(entry["right"]) - {"0", "1"} and np.isfinite(entry["loss"]):
                    self.done[str(entry["key"])] = entry

    def add(self, key, entry):
        self.done[key] = {"key": key, **entry}
        files.append_lines(self.path, [self.done[key]])


class CrossValidation:
    """The trainings of settings on a Plan, those in the journal done once and for all."""

    def __init__(self, plan, build, journal, jobs=1):
        self.plan, self.build, self.journal, self.jobs = plan, build, journal, jobs
        self.clips = {}     # {is flow seen?: a digest of each fold's clips}
        self.faults, self.encoded, self.executor = {}, set(), None
        self.trained, self.seconds = 0, 0.0     # of this call: trainings, and within their epochs

    def trainings(self, setting):
        """[Training] of a setting: every fold, with every seed."""
        return [Training(seeded, fold, self._key(seeded, fold)) for seed in self.plan.seeds
                for seeded in [replace(setting, recipe=replace(setting.recipe, seed=seed))]
                for fold in self.plan.numbers]

    def _key(self, setting, fold):
        """What a training's answers depend on, as 16 hex digits."""
        recipe, plan = setting.recipe, self.plan
        flow = sees_flow(recipe)
        if flow not in self.clips:
            prints = contents(plan.folder, plan.videos, ["flow"] if flow else [])[0].tolist()
            held = [[v.path for v in plan.videos], prints, plan.labels.tolist(),
                    flow and flow_of(plan.folder).settings()]
            self.clips[flow] = [_digest([held, (plan.folds == k).tolist()]) for k in plan.numbers]
        return _digest({"format": FORMAT, **recipe.choices(), **depends(recipe, "encoder"),
                        "device": plan.device.type, "test": [setting.test_windows, setting.flip],
                        "clips": self.clips[flow][fold]})

    def pending(self, settings):
        return [t for setting in settings for t in self.trainings(setting) if t.key not in self.journal.done]

    def train(self, settings, said=lambda training: None):
        """Do what the journal does not have; said(training) is called when one is done."""
        todo = {t.key: t for t in self.pending(settings)}       # two settings may be one
        for t in todo.values():
            self._encode(t.setting)
        if self.jobs == 1:
            for t in todo.values():
                self._take(t, train_fold(self.build, t, self.plan), said)
        else:
            self._train_at_once(list(todo.values()), said)

    def _encode(self, setting):
        key = _digest([depends(setting.recipe, "encoder", "clips"), setting.test_windows, setting.flip])
        if key not in self.encoded:
            self.encoded.add(key)
            encode(self.build, setting, self.plan)

    def _train_at_once(self, todo, said):
        running = {}
        try:
            while todo or running:
                while todo and len(running) < 2 * self.jobs:    # one ahead for each
                    t = todo.pop(0)
                    running[self.executor.submit(train_fold, self.build, t, self.plan)] = t
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    self._take(running.pop(future), future.result(), said)
        except BrokenProcessPool:
            raise UserError(f"--jobs {self.jobs}: a training's process died, perhaps for want of memory; run "
                            f"the same command again to go on, with fewer of them") from None

    def _take(self, training, outcome, said):
        key = self._key(training.setting, training.fold)
        if key != training.key:
            outcome = {"fault": REPLACED}
        if "fault" in outcome:
            self.faults[key] = outcome["fault"]
        else:
            self.journal.add(training.key, {"fold": training.fold, "seed": training.setting.recipe.seed,
                                            "setting": dict(training.setting.chosen), **outcome})
            self.trained += 1
            self.seconds += outcome["seconds"]
        said(training)

    @contextlib.contextmanager
    def processes(self):
        """Within, trainings run in processes of their own, `jobs` at once."""
        with pool(self.jobs) if self.jobs > 1 else contextlib.nullcontext() as self.executor:
            yield self

    # ------------------------------------------------------------ answers

    def fault(self, setting):
        """Why a training of this setting has no answers."""
        return next((self.faults[t.key] for t in self.trainings(setting) if t.key in self.faults),
                    REPLACED)

    def right(self, setting):
        """bool (seeds, videos): whether each clip was told rightly when its fold was held out; None where a
        training is missing."""
        found = np.zeros((len(self.plan.seeds), len(self.plan.videos)), bool)
        for i, t in enumerate(self.trainings(setting)):
            entry, held = self.journal.done.get(t.key), self.plan.held_out(t.fold)
            if entry is None or len(entry["right"]) != len(held):
                return None
            found[i // len(self.plan.numbers), held] = [hit == "1" for hit in entry["right"]]
        return found

    def loss(self, setting):
        """Mean cross-entropy of the held-out clips, over folds by their size and seeds."""
        trainings = self.trainings(setting)
        return float(np.average([self.journal.done[t.key]["loss"] for t in trainings],
                                weights=[len(self.plan.held_out(t.fold)) for t in trainings]))
