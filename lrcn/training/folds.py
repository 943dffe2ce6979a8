"""Cross-validation: a recipe trained on all folds but one, and tested on that one, for every fold and seed.

A held-out fold chooses nothing, not even the epoch: the last epoch's weights are tested, as the winner is
trained afterwards, on all clips (--split_size 0). Each training is that of train.py on these clips, with one
thread, so that its answers do not depend on how many run at once.
"""
import contextlib
import functools
import hashlib
import io
import json
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lrcn import runs
from lrcn.base import Lazy, UserError, files
from lrcn.base.workers import pool
from lrcn.data.fields import FLOW, flow_of
from lrcn.data.frames import ClipSampler
from lrcn.evaluation.answers import Answers
from lrcn.features.features import clip_features, predict_videos
from lrcn.features.rows import contents
from lrcn.training.feeds import class_weights, encoding_options, make_feeds
from lrcn.training.loop import Learner, Progress, epochs
from lrcn.training.recipe import Recipe

torch = Lazy("torch")

FORMAT = 2
REPLACED = "a file that it depends on was replaced meanwhile; run the same command again"


@dataclass(frozen=True)
class Setting:
    """A recipe, and how held-out clips are tested. chosen: its ((flag, value), ...) that are compared."""
    recipe: Recipe
    test_windows: int | str = 1
    flip: bool = False
    chosen: tuple = ()

    def with_(self, chosen):
        """This setting with other values: {flag: value}."""
        tested = {name: chosen[name] for name in TESTING if name in chosen}
        recipe = replace(self.recipe, **{name: chosen[name] for name in chosen.keys() - tested})
        return replace(self, recipe=recipe, chosen=tuple(chosen.items()), **tested)


TESTING = ("test_windows", "flip")
# One training: a Setting with its seed; the fold that is held out; its key in the journal.
Training = namedtuple("Training", "setting fold key")


@dataclass
class Plan(Answers):
    """The clips of the training list, and the fold of each."""
    folds: np.ndarray = None    # int (videos,)
    seeds: tuple = ()           # of the trainings
    device: "torch.device" = None
    by_video = (*Answers.by_video, "folds")

    def samples(self, fold):
        """[SampledVideo] of all other folds, to be trained on."""
        return [replace(v, label=int(label), part="train") for v, label, held in
                zip(self.videos, self.labels, self.folds, strict=True) if held != fold]

    def held_out(self, fold):
        return np.flatnonzero(self.folds == fold)

    @property
    def numbers(self):
        return range(int(self.folds.max()) + 1)


# ---------------------------------------------------------------- what it depends on

def depends(recipe, *stages):
    """{flag: value} that decide these stages (see recipe.flag), for the keys of what is kept; of a file, what
    it holds."""
    named = {"encoder_weights": [Path(recipe.encoder_weights).expanduser()],
             "streams": [runs.checkpoint_path(run, flag="streams") for run in recipe.streams or ()],
             "init_from": recipe.init_from and [runs.checkpoint_path(recipe.init_from, flag="init_from")]}
    return {**recipe.deciding(*stages),
            **{name: [_content(path) for path in paths] for name, paths in named.items() if paths}}


def _content(path):
    """A fingerprint of a file; the name itself where there is none."""
    if not path.is_file():
        return str(path)
    stat = path.stat()
    return _hash(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@functools.cache
def _hash(path, *stamp):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


_encoders = {}      # the last frozen one of this process


@dataclass(frozen=True)
class Trainer:
    """What a process needs for a training on a plan's clips. build: networks.network_to_train."""
    plan: Plan
    build: Callable

    def _built(self, recipe):
        """What build returns; a frozen encoder is made once."""
        key = _digest(depends(recipe, "encoder"))
        built = self.build(recipe, self.plan.classes, self.plan.device, _encoders.get(key))
        if recipe.frozen and key not in _encoders:
            _encoders.clear()
            _encoders[key] = built[0].encoder
        return built

    def encode(self, setting):
        """Put what the trainings of this setting read into the store, where it can be kept."""
        recipe, plan = setting.recipe, self.plan
        model, _, encoder, _ = self._built(recipe)
        if encoder is None:
            return
        make_feeds(recipe, model, encoder, plan.samples(None), plan.device)
        if recipe.frozen:
            clip_features(model, ClipSampler.of(recipe), plan, encoding_options(recipe, plan.device),
                          setting.test_windows, setting.flip)

    def train(self, training):
        """{right: "0110...", loss, seconds} of the held-out clips in list order, or {fault: in words};
        seconds: within the epochs."""
        setting, plan, threads = training.setting, self.plan, torch.get_num_threads()
        recipe = setting.recipe
        torch.set_num_threads(1)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                model, network, encoder, groups = self._built(recipe)
                feed, _ = make_feeds(recipe, model, encoder, plan.samples(training.fold), plan.device)
                weights, progress = class_weights(recipe, feed.labels, plan.classes), Progress()
                learner = Learner(network, groups, recipe, feed, plan.device, weights=weights)
                for _ in epochs(learner, feed, progress, recipe.epochs):
                    progress.finish_epoch(learner, None)
                held = plan[plan.held_out(training.fold)]
                # The features of an encoder that was trained here are used once.
                options = encoding_options(recipe, plan.device, cache=recipe.frozen and recipe.feature_cache)
                with learner.averaged():
                    probabilities = predict_videos(model.eval(), ClipSampler.of(recipe), held, options,
                                                   setting.test_windows, setting.flip)
                true = np.maximum(probabilities[np.arange(len(held.labels)), held.labels], 1e-12)
                return {"right": "".join("01"[int(hit)] for hit in probabilities.argmax(1) == held.labels),
                        "loss": float(-np.log(true).mean()),
                        "seconds": round(sum(row["seconds"] for row in progress.history), 3)}
        except UserError as error:
            return {"fault": str(error)}
        finally:
            torch.set_num_threads(threads)


class CrossValidation:
    """The trainings of settings on a Plan, each done once.

    journal: a file with a JSON line for each, so that a kill costs only those under way; a line that a kill
    cut off does not count. `done`: {key: {right, loss, ...}}.
    """

    def __init__(self, trainer, journal, jobs=1):
        self.plan, self.trainer, self.journal, self.jobs = trainer.plan, trainer, Path(journal), jobs
        self.clips = {}     # {whether flow is seen: a digest of each fold's clips}
        self.done, self.faults, self.encoded, self.executor = {}, {}, set(), None
        self.trained = 0    # trainings of this call
        for entry in files.read_lines(self.journal) if self.journal.is_file() else ():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                if not set(entry["right"]) - {"0", "1"} and np.isfinite(entry["loss"]):
                    self.done[str(entry["key"])] = entry

    def trainings(self, setting):
        """[Training] of a setting: every fold, with every seed."""
        return [Training(seeded, fold, self._key(seeded, fold)) for seed in self.plan.seeds
                for seeded in [replace(setting, recipe=replace(setting.recipe, seed=seed))]
                for fold in self.plan.numbers]

    def _key(self, setting, fold):
        """What a training's answers depend on, as 16 hex digits."""
        recipe, plan = setting.recipe, self.plan
        flow = "flow" in recipe.modality or bool(recipe.streams) and (plan.folder / FLOW).is_dir()
        if flow not in self.clips:
            prints = contents(plan.folder, plan.videos, ["flow"] if flow else [])[0].tolist()
            held = [[v.path for v in plan.videos], prints, plan.labels.tolist(),
                    flow and flow_of(plan.folder).settings()]
            self.clips[flow] = [_digest([held, (plan.folds == k).tolist()]) for k in plan.numbers]
        return _digest({"format": FORMAT, **recipe.choices(), **depends(recipe, "encoder"),
                        "device": plan.device.type, "test": [setting.test_windows, setting.flip],
                        "clips": self.clips[flow][fold]})

    def train(self, settings):
        """Do what the journal does not have, and yield each Training when it is done."""
        todo = {t.key: t for setting in settings for t in self.trainings(setting)}  # two settings may be one
        todo = [t for key, t in todo.items() if key not in self.done]
        for t in todo:
            key = _digest([depends(t.setting.recipe, "encoder", "clips"), t.setting.test_windows,
                           t.setting.flip])
            if key not in self.encoded:
                self.encoded.add(key)
                self.trainer.encode(t.setting)
        for t, outcome in self._outcomes(todo):
            key = self._key(t.setting, t.fold)
            if key != t.key:
                outcome = {"fault": REPLACED}
            if "fault" in outcome:
                self.faults[key] = outcome["fault"]
            else:
                self.done[t.key] = {"key": t.key, "fold": t.fold, "seed": t.setting.recipe.seed,
                                    "setting": dict(t.setting.chosen), **outcome}
                files.append_lines(self.journal, [self.done[t.key]])
                self.trained += 1
            yield t

    def _outcomes(self, todo):
        """(training, its outcome) in the order in which they end."""
        if self.jobs == 1:
            yield from ((t, self.trainer.train(t)) for t in todo)
            return
        try:
            running = {self.executor.submit(self.trainer.train, t): t for t in todo}
            for future in as_completed(running):
                yield running[future], future.result()
        except BrokenProcessPool:
            raise UserError(f"--jobs {self.jobs}: a training's process died, perhaps because memory ran out; "
                            "run the same command again to go on, with fewer --jobs") from None

    @contextlib.contextmanager
    def processes(self):
        """Within, trainings run in processes of their own, `jobs` at once."""
        with pool(self.jobs) if self.jobs > 1 else contextlib.nullcontext() as self.executor:
            yield self

    # ------------------------------------------------------------ answers

    def fault(self, setting):
        """Why a training of this setting has no answers."""
        return next((self.faults[t.key] for t in self.trainings(setting) if t.key in self.faults), REPLACED)

    def right(self, setting):
        """bool (seeds, videos): whether the answer on each clip was right when its fold was held out; None
        where a training is missing."""
        right = np.zeros((len(self.plan.seeds), len(self.plan.videos)), bool)
        for i, t in enumerate(self.trainings(setting)):
            entry, held = self.done.get(t.key), self.plan.held_out(t.fold)
            if entry is None or len(entry["right"]) != len(held):
                return None
            right[i // len(self.plan.numbers), held] = [hit == "1" for hit in entry["right"]]
        return right

    def loss(self, setting):
        """Mean cross-entropy of the held-out clips, over folds by their size and seeds."""
        trainings = self.trainings(setting)
        return float(np.average([self.done[t.key]["loss"] for t in trainings],
                                weights=[len(self.plan.held_out(t.fold)) for t in trainings]))
