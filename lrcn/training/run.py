"""A training run: what it starts from, the epochs, and what is written into the run folder when."""
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from lrcn import checkpoints
from lrcn.base import UserError, cli, files
from lrcn.base.signals import Stop
from lrcn.data import fields, splits
from lrcn.data.frames import ClipSampler
from lrcn.data.learned import Learned
from lrcn.data.manifest import sampling_settings
from lrcn.evaluation import scores
from lrcn.features import engines
from lrcn.runs import ENDING, RunFolder, checkpoint_path, versions
from lrcn.training.loop import METRICS, Progress, epochs, predict
from lrcn.training.recipe import Recipe

# A checkpoint in the middle of an epoch counts its steps: they have to stay the same ones.
OF_A_STEP = ("batch_size", "accumulate", "views", "clips_per_video")
STEPS = ("frame_step", "frame_step_low", "frame_step_high")     # the training clips', in seconds


# ---------------------------------------------------------------- what it starts from

def what_it_learned(state, path, flag, later=()):
    """The Learned of a checkpoint; of an older one, which does not hold it, from the splits.csv beside it and
    the runs that it started from, if they still exist. later: checkpoints that started from it."""
    source = f"--{flag} {path}"
    if "learned" in state:
        return Learned.of(state["learned"], source)
    recipe, table = Recipe.of(state.get("settings"), source), RunFolder.of(path).splits
    learned = Learned()
    for _, before in starts(recipe, (*later, Path(path).resolve())):
        learned |= before
    if not table.is_file():
        return replace(learned, known=False)
    return learned.after([v for v in splits.read_splits(table) if v.part == "train"], recipe.frozen)


def starts(recipe, later=None):
    """[(flag and run, Learned of what is taken over from it)] of --init_from and --streams.

    later: None for a new training; else the checkpoints that started from this recipe's. Of a run that is
    gone, or one of these, nothing is known.
    """
    begun = []
    for flag, run in [("init_from", recipe.init_from), *(("streams", run) for run in recipe.streams or ())]:
        if run is None:
            continue
        try:
            path = checkpoint_path(run, flag=flag)
            if path.resolve() in (later or ()):
                raise UserError("it started from itself, or has replaced the run that it started from")
            learned = what_it_learned(checkpoints.load_file(path, flag), path, flag, later or ())
        except UserError:
            if later is None:
                raise
            learned = Learned(known=False)
        if flag == "streams":   # whose encoder alone is used; of the other run the projection too
            learned = replace(learned, network=learned.encoder)
        begun.append((f"--{flag} {run}", learned))
    return begun


# ---------------------------------------------------------------- what it keeps

def saved_settings(recipe, samples, encoder):
    """What a checkpoint keeps: the recipe, which list tests it, and how its clips were sampled, so that
    test_on_video.py samples alike without them.

    frame_step, frame_step_low, frame_step_high: seconds between the frames of the training clips (with a
    video encoder, of its chunks), their median and tenth and ninetieth percentiles. clip_frames: the median
    length, where clips may differ in it. chunk_step: frames from one chunk to the next, their median.
    """
    sampler = ClipSampler.of(recipe)
    train = [v for v in samples if v.part == "train"]
    more = {} if sampler.length else {"clip_frames": int(np.median([sampler.count(v) for v in train]))}
    sampled = sampling_settings(recipe.sampled_data_path)
    listed = recipe.ucf_list_dir or recipe.split == "random"
    flow = fields.require(recipe.sampled_data_path, recipe)
    spacing = {v: sampler.spacing(v) for v in train if v.frames > 1}
    if sampler.chunk:
        more["chunk_step"] = round(sampler.chunk_stride * float(np.median([*spacing.values()] or [1])))
        spacing = dict.fromkeys(spacing, 1)
    steps = [v.step * frames for v, frames in spacing.items() if v.step]
    return {**recipe.as_settings(), **more, "test_split": recipe.split if listed else "drawn",
            **({"flow": flow} if flow else {}), "engines": engines.kept(encoder),
            **{name: sampled.get(name) for name in ("FPS", "sampling_rate", "num_frames_to_extract")},
            **({name: round(float(np.percentile(steps, percent, method="nearest")), 6)
                for name, percent in zip(STEPS, (50, 10, 90), strict=True)} if steps else {})}


def fill_folder(run, resumed, recipe, settings, classes, samples, model):
    """Write what a run, new or resumed, starts from into its RunFolder; UserError: the disk is too small."""
    cli.say(f"run folder: {run}")
    for folder in (run.path, run.checkpoints, run.figures):
        folder.mkdir(exist_ok=True)
        files.remove_leftovers(folder)
    if recipe.save_checkpoint:
        Path(recipe.save_checkpoint).expanduser().parent.mkdir(parents=True, exist_ok=True)
    size, head = 4 * checkpoints.count_parameters(model), 12 * checkpoints.count_parameters(model.head)
    files.require_space(run.path, 2 * size + 3 * head, "the checkpoints")
    older = [] if resumed else sorted(run.checkpoints.glob(f"*{ENDING}"), reverse=True)
    if older:   # first of all: after a kill they must not lie beside the new run's splits.csv. The last one
        # goes first and the best one last: a kill in between leaves a whole run, or none
        cli.say(f"{len(older)} checkpoints of an older run in this folder are deleted")
        for path in older:
            path.unlink()
        run.metrics.unlink(missing_ok=True)
    if not resumed:
        run.settings.unlink(missing_ok=True)    # it has the seal of an older splits.csv
        splits.write_splits(run.splits, samples)
        if recipe.frozen:
            checkpoints.save_file(run.checkpoint("encoder"), {
                "encoder": model.encoder.state_dict(keep_vars=True)})
    seal = {"splits": splits.splits_seal(run.splits)} if run.splits.is_file() else {}
    files.write_json(run.settings, {**settings, "classes": classes, **seal, "versions": versions()})


class Run:
    """One training run. folder: its RunFolder, and album its album.Album, on rank 0; None elsewhere.
    learned: a data.learned.Learned, this training included."""

    def __init__(self, model, learner, feeds, settings, classes, learned, folder=None, album=None):
        self.recipe, self.rank, self.model, self.learner = learner.recipe, learner.rank, model, learner
        self.train_feed, self.val_feed = feeds
        self.settings, self.classes, self.learned = settings, classes, learned
        self.folder, self.album = folder, album
        self.progress, self.saved_at = Progress(), time.monotonic()
        self.encoder_digest = model.encoder.digest() if self.recipe.frozen else None
        self.shown, self.val_logits = {}, None      # behind the progress bar; of the last validation

    def take_up(self, state, source):
        """Go on where a checkpoint's state was written; UserError where that cannot be done exactly."""
        saved, recipe = state["settings"], self.recipe
        self.progress = Progress.of(state.get("progress"), source)
        for name in OF_A_STEP if self.progress.step else ():
            if saved.get(name, getattr(recipe, name)) != getattr(recipe, name):
                where = f"--{name} {saved[name]}, in the middle of epoch {self.progress.epoch}"
                raise UserError(f"--{name} {getattr(recipe, name)}: the run that is resumed stopped at "
                                f"{where}; leave the flag out")
        known = self.learner.restore(state.get("learner"), source)
        if self.progress.step and not known and self.rank.first:
            cli.say("the run was stopped with another number of processes: the rest of epoch "
                    f"{self.progress.epoch} uses other random dropout")

    # ------------------------------------------------------------ epochs

    def go(self):
        """All epochs that are left, and the pictures; the exit status: 130 or 143 after a signal, else 0."""
        if self.album and self.recipe.pictures:
            self.album.class_distribution()
        with Stop() as stop:
            complete = self.train(stop)
        if self.rank.first and not complete:
            cli.warn(f"stopped in epoch {self.progress.epoch}; go on with: python train.py --resume "
                     f"{self.folder}")
        elif self.rank.first:
            if self.recipe.pictures:
                self.album.final(self)
            best = self.progress.best
            if self.exhausted:
                cli.say(f"--patience {self.recipe.patience}: no validation since then was better; stopped "
                        f"after epoch {self.progress.epoch}")
            if best:
                cli.say(f"best validation top-1 {best['top1']:.3f} of {len(self.val_feed.names)} clips, "
                        f"epoch {best['epoch']}")
            elif not self.val_feed.names:
                cli.say("no validation part: the confidence is not calibrated (temperature 1)")
            if self.recipe.save_checkpoint and self.folder.checkpoint("best").is_file():
                with files.atomic(Path(self.recipe.save_checkpoint).expanduser()) as copy:
                    shutil.copyfile(self.folder.checkpoint("best"), copy)
            cli.say(self.folder)
        if self.album:
            self.album.writer.close()
        return 0 if complete else 128 + (stop.signal or 2)

    def train(self, stop):
        """All epochs that are left; False when a signal ended them early."""
        recipe, progress = self.recipe, self.progress
        last = min(recipe.epochs, recipe.stop_after or recipe.epochs)
        if self.rank.first and progress.history:    # after a kill the file may be another
            self.write_metrics()
        if self.exhausted and not progress.step:
            last = progress.epoch
        if progress.epoch >= last and not progress.step:    # perhaps not of the newest checkpoint
            self.save("last")
        per_epoch = len(self.learner.steps(1))
        done = (progress.epoch - bool(progress.step)) * per_epoch + progress.step
        with cli.progress(total=recipe.epochs * per_epoch, initial=done, unit="step", desc="training",
                          show=self.rank.first, mininterval=0.3) as bar:
            for complete in epochs(self.learner, self.train_feed, progress, last, stop,
                                   lambda step, sums: self.show(bar, step, sums)):
                if complete:
                    self.end_epoch(last)
                    if self.exhausted:
                        break
                if not complete or self.rank.all_reduce_max(bool(stop.signal)) and progress.epoch < last:
                    self.save("last")
                    return False
        return True

    def show(self, bar, step, sums):
        loss, hits, clips = sums
        bar.set_description(f"epoch {self.progress.epoch}/{self.recipe.epochs}", refresh=False)
        bar.set_postfix(loss=f"{loss / max(clips, 1):.3f}", top1=f"{hits / max(clips, 1):.3f}", **self.shown,
                        refresh=False)
        bar.update((self.progress.epoch - 1) * len(self.learner.steps(1)) + step - bar.n)

    def end_epoch(self, last):
        """Validate, save and log as the intervals say; only rank 0 writes."""
        recipe, progress = self.recipe, self.progress
        final = progress.epoch == recipe.epochs
        validation = None
        if self.val_feed.names and (final or progress.epoch % recipe.val_check_interval == 0):
            validation = self.rank.broadcast(self.validate() if self.rank.first else None)
        row = progress.finish_epoch(self.learner, validation)
        names = []
        if validation:
            self.shown = {"val_top1": f"{validation['top1']:.3f}"}
            self.learner.validated(validation["loss"])
            now, best = {k: validation[k] for k in ("top1", "loss")}, progress.best
            # more right answers, or as many at a lower loss
            if not best or (now["top1"], -now["loss"]) > (best["top1"], -best["loss"]):
                progress.best = {"epoch": progress.epoch, **now}
                names += ["best"]
            final |= self.exhausted
        elif final:     # no validation (--split_size 0): the last weights are those to take
            names += ["best"]
        if final or progress.epoch % recipe.checkpoint_interval == 0:
            names += [f"epoch_{progress.epoch}", "last"]
        elif progress.epoch == last or self.rank.all_reduce_max(time.monotonic() - self.saved_at > 60):
            names += ["last"]   # of long epochs a kill costs a minute, not five
        if self.rank.first:
            self.log(row)
        self.save(*names)

    def validate(self):
        """The score of the weights that are tested, as they are trained; then the head is calibrated by it.
        The calibrated logits (V, C) stay in `val_logits`."""
        head, labels = self.model.head, self.val_feed.labels.cpu()
        head.spec["temperature"] = 1.0
        with self.learner.averaged():
            logits = predict(self.learner.plain, self.val_feed, len(self.val_feed.names))
        head.spec["temperature"] = scores.temperature(logits.numpy(), labels.numpy())
        self.val_logits = logits / head.spec["temperature"]
        head.spec["min_probability"] = scores.nine_of_ten(self.val_logits.softmax(1).numpy(), labels.numpy())
        return scores.score(logits, labels)

    @property
    def exhausted(self):
        """Whether --patience validations after the best one were no better."""
        best, patience = self.progress.best, self.recipe.patience
        return bool(patience and best) and patience <= sum(
            row["val_top1"] is not None and row["epoch"] > best["epoch"] for row in self.progress.history)

    # ------------------------------------------------------------ what is written

    def write_metrics(self):
        rows = [[row[key] for key in METRICS] for row in self.progress.history]
        files.write_csv(self.folder.metrics, METRICS, rows)

    def log(self, row):
        self.write_metrics()
        self.album.scalars(row)
        if row["val_top1"] is not None and self.recipe.pictures:
            self.album.label_grid(self)
        if not sys.stderr.isatty():     # in a log, a line for each epoch instead of the bar
            cli.say(f"epoch {row['epoch']}/{self.recipe.epochs}: " + ", ".join(
                f"{key} {row[key]:.3f}" for key in METRICS[2:6] if row[key] is not None))

    def save(self, *names):
        """Write checkpoints of this moment; best.pth.tar holds the frozen encoder too."""
        if not names:
            return
        self.saved_at = time.monotonic()
        random = self.rank.gather(self.learner.random_state())
        if not self.rank.first:
            return
        with self.learner.averaged():
            encoder, weights = self.model.encoder, self.model.encoder.state_dict(keep_vars=True)
            state = {**checkpoints.describe(self.model, self.classes, self.settings),
                     "epoch": self.progress.epoch, "progress": vars(self.progress),
                     "head": self.model.head.state_dict(),
                     "encoder_digest": self.encoder_digest or encoder.digest(),
                     "encoder": None if self.recipe.frozen else weights,
                     "learner": self.learner.state(random), "learned": self.learned.state()}
            same = None     # last is a copy of epoch_<n>
            for name in names:
                whole, path = {"encoder": weights} if name == "best" else {}, self.folder.checkpoint(name)
                if same and not whole:
                    with files.atomic(path) as temporary:
                        shutil.copyfile(same, temporary)
                    continue
                checkpoints.save_file(path, {**state, **whole})
                same = same if whole else path
