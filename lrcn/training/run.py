"""A training run: the epochs, and what is written into the run folder when.

    run = Run(recipe, rank, model, learner, feeds, settings, classes, folder, album)
    run.take_up(state, source)          # of a checkpoint, where there is one
    complete = run.train(stop)
"""
import sys
import time

from lrcn import checkpoints, scores
from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.clips import splits
from lrcn.runs import RunFolder, new_run_folder, versions
from lrcn.training import engine
from lrcn.training.feeds import epoch_steps

# A checkpoint in the middle of an epoch counts its steps: they have to stay the same ones.
OF_A_STEP = ("batch_size", "accumulate", "views", "seed")


def open_folder(run, recipe, settings, classes, samples, model):
    """The RunFolder to write to: `run` of a resumed one, else a new one with what it starts from."""
    resumed = run is not None
    run = run or RunFolder(new_run_folder(recipe.local_dir, recipe.open_new_folder))
    make_room(run, model)
    files.write_json(run.settings, {**settings, "classes": classes, "versions": versions()})
    if not resumed:
        splits.write_splits(run.splits, samples)
        if recipe.frozen:
            checkpoints.save_file(run.checkpoint("encoder"), {"encoder": model.encoder.state_dict()})
    return run


def make_room(run, model):
    """Say where the run is, and make the places that it writes to; UserError when the disk is too small."""
    cli.say(f"run folder: {run}")
    for folder in (run.path, run.checkpoints, run.figures):
        folder.mkdir(exist_ok=True)
        files.remove_leftovers(folder)
    size, head = 4 * checkpoints.count_parameters(model), 12 * checkpoints.count_parameters(model.head)
    files.require_space(run.path, 2 * size + 3 * head, "the checkpoints")


class Run:
    """One training run. folder: its RunFolder, and album a pictures.Album, on rank 0; None elsewhere."""

    def __init__(self, recipe, rank, model, learner, feeds, settings, classes, folder=None, album=None):
        self.recipe, self.rank, self.model, self.learner = recipe, rank, model, learner
        self.train_feed, self.val_feed = feeds
        self.settings, self.classes = settings, classes
        self.folder, self.album = folder, album
        self.progress, self.saved_at = engine.Progress(), time.monotonic()
        self.encoder_digest = model.encoder.digest() if recipe.frozen else None
        self.shown, self.val_logits = {}, None      # behind the progress bar; of the last validation
        self.watched = rank.first and sys.stderr.isatty()

    def take_up(self, state, source):
        """Go on where a checkpoint's state was written; UserError where that cannot be done exactly."""
        saved, recipe = state["settings"], self.recipe
        self.progress = engine.Progress.of(state.get("progress"), source)
        for name in OF_A_STEP if self.progress.step else ("seed",):
            if saved.get(name, getattr(recipe, name)) != getattr(recipe, name):
                where = f", in the middle of epoch {self.progress.epoch}" if self.progress.step else ""
                raise UserError(f"--{name} {getattr(recipe, name)}: the run that is resumed stopped at "
                                f"--{name} {saved[name]}{where}; leave the flag out")
        known = self.learner.restore(state.get("learner"), self.rank, source)
        if self.progress.step and not known and self.rank.first:
            cli.say(f"the run was stopped with another number of processes: what is left of epoch "
                    f"{self.progress.epoch} is trained with other dropout")

    def steps(self, epoch):
        return epoch_steps(len(self.train_feed.names), self.recipe.batch_size, self.recipe.views,
                           self.recipe.seed, epoch, self.rank.world)

    # ------------------------------------------------------------ epochs

    def train(self, stop):
        """All epochs that are left; False when a signal ended them early."""
        recipe, progress = self.recipe, self.progress
        last = min(recipe.epochs, recipe.stop_after or recipe.epochs)
        with self.bar() as bar:
            while progress.epoch < last or progress.step:
                progress.begin_epoch(recipe.seed, self.rank)
                if not engine.train_epoch(self.learner, self.train_feed, self.steps(progress.epoch), progress,
                                          stop, self.rank, lambda step, sums: self.show(bar, step, sums)):
                    self.save("last")
                    return False
                self.end_epoch(last)
                if self.rank.most(bool(stop.signal)) and progress.epoch < last:
                    self.save("last")
                    return False
        return True

    def bar(self):
        progress, per_epoch = self.progress, len(self.steps(1))
        done = (progress.epoch - bool(progress.step)) * per_epoch + progress.step
        return cli.progress(total=self.recipe.epochs * per_epoch, initial=done, unit="step", desc="training",
                            show=self.rank.first, mininterval=0.3)

    def show(self, bar, step, sums):
        loss, hits, clips = sums
        bar.set_description(f"epoch {self.progress.epoch}/{self.recipe.epochs}", refresh=False)
        bar.set_postfix(loss=f"{loss / max(clips, 1):.3f}", top1=f"{hits / max(clips, 1):.3f}", **self.shown,
                        refresh=False)
        bar.update((self.progress.epoch - 1) * len(self.steps(1)) + step - bar.n)

    def end_epoch(self, last):
        """Validate, save and log as the intervals say; only rank 0 writes."""
        recipe, progress = self.recipe, self.progress
        final = progress.epoch == recipe.epochs
        validation = None
        if self.val_feed.names and (final or progress.epoch % recipe.val_check_interval == 0):
            validation = self.rank.share(self.validate() if self.rank.first else None)
        row = progress.finish_epoch(self.learner, validation)
        names = []
        if validation:
            self.shown = {"val_top1": f"{validation['top1']:.3f}"}
            self.learner.validated(validation["loss"])
            names += ["best"] if progress.is_best(validation) else []
        elif final:     # no validation (--split_size 0): the last weights are those to take
            names += ["best"]
        if final or progress.epoch % recipe.checkpoint_interval == 0:
            names += [f"epoch_{progress.epoch}", "last"]
        elif progress.epoch == last or self.rank.most(time.monotonic() - self.saved_at > 60):
            names += ["last"]   # of long epochs a kill costs a minute, not five
        if self.rank.first:
            self.log(row)
        self.save(*names)

    def validate(self):
        """The score of the weights that are tested; their logits (V, C) stay in `val_logits`."""
        with self.learner.averaged():
            self.val_logits = engine.predict(self.learner.plain, self.val_feed, len(self.val_feed.names))
        return scores.score(self.val_logits, self.val_feed.labels.cpu())

    # ------------------------------------------------------------ what is written

    def log(self, row):
        rows = [["" if r[k] is None else r[k] for k in engine.METRICS] for r in self.progress.history]
        files.write_csv(self.folder.metrics, engine.METRICS, rows)
        self.album.scalars(row)
        if row["val_top1"] is not None and self.recipe.pictures:
            self.album.validated(self)
        if not self.watched:    # in a log, a line an epoch stands in the place of the bar
            cli.say(f"epoch {row['epoch']}/{self.recipe.epochs}: " + ", ".join(
                f"{key} {row[key]:.3f}" for key in engine.METRICS[2:6] if row[key] is not None))

    def save(self, *names):
        """Write checkpoints of this moment; best.pth.tar holds the frozen encoder too."""
        if not names:
            return
        self.saved_at = time.monotonic()
        random = self.rank.gather(self.learner.random_state())
        if not self.rank.first:
            return
        with self.learner.averaged():
            encoder = self.model.encoder
            state = {**checkpoints.describe(self.model, self.classes, self.settings),
                     "epoch": self.progress.epoch, "progress": vars(self.progress),
                     "head": self.model.head.state_dict(),
                     "encoder_digest": self.encoder_digest or encoder.digest(),
                     "encoder": None if self.recipe.frozen else encoder.state_dict(),
                     "learner": self.learner.state(random)}
            for name in names:
                whole = {"encoder": encoder.state_dict()} if name == "best" else {}
                checkpoints.save_file(self.folder.checkpoint(name), {**state, **whole})
