"""Train an LRCN on sampled clips.

    python train.py --sampled_data_path sampled --ucf_list_dir ucfTrainTestlist

leaves a run folder <local_dir>/<YYYYmmdd-HHMMSS>/ with settings.json, splits.csv, metrics.csv,
TensorBoard events, Saved_model_checkpoint/ (epoch_<n>, best and last .pth.tar) and figures/, and
prints its name as the last line. Stop it with Ctrl-C and go on with

    python train.py --resume auto
"""
import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import cli
import dataset
import encoders
import engine
import features
import files
import models
import plots
import splits
import training_flags
import utils
from cli import UserError

# ---------------------------------------------------------------- data

def load_samples(args, quiet=False):
    """([Sample] of train, val and, where no list says it, test; class names in label order)."""
    folder = cli.folder("sampled_data_path", args.sampled_data_path, "make it with preprocessing_data.py")
    videos = dataset.read_sampled(folder, args.group_pattern, args.groups)
    if args.ucf_list_dir and args.split != "random":
        lists = cli.folder("ucf_list_dir", args.ucf_list_dir, "give the folder of the split lists")
        listed, _ = splits.official_lists(lists, args.split)
        pool, sentence = splits.present(listed, videos, "training")
        if not quiet:
            cli.say(sentence)
        if not pool:
            raise UserError(f"--sampled_data_path {folder}: holds no video of the training list in "
                            f"--ucf_list_dir {lists}")
        order, test = splits.class_order(lists, listed), []
    else:
        order = splits.class_order(args.ucf_list_dir, videos)
        leaky = args.split == "random"
        if leaky:
            print("warning: --split random draws by video, not by group: near copies of the tested clips "
                  "are trained on, and the accuracy is inflated", file=sys.stderr)
        elif not (args.group_pattern or args.groups) and splits.look_alike([(v.cls, v.name) for v in videos]):
            print("warning: many videos share their name up to the last number; if such clips were cut from "
                  "one recording, say so with --group_pattern or --groups", file=sys.stderr)
        pool, test = splits.hold_out(videos, args.test_size, args.seed, by_video=leaky)
    names = {v.cls for v in pool}
    classes = [cls for cls in order if cls in names][:args.number_of_classes]
    pool = [v for v in pool if v.cls in set(classes)]
    train, val = splits.hold_out(pool, args.split_size, args.seed + 1, by_video=args.split == "random")
    if args.smaller_dataset:
        train, val = splits.smaller(train), splits.smaller(val)
    if not val:
        raise UserError("--split_size: no class has two groups, so that none can be held out for validation")
    return splits.make_samples({"train": train, "val": val, "test": test}, classes), classes


def make_feeds(args, encoder, cached, samples, options):
    """(training feed, validation feed), from the feature cache or from frames."""
    train = [s for s in samples if s.part == "train"]
    val = [s for s in samples if s.part == "val"]
    folder, length = args.sampled_data_path, args.num_frames_video
    if not cached:
        return [engine.FrameFeed(folder, part, length, encoder.transform, args.seed, options.device,
                                 args.num_workers) for part in (train, val)]
    # Sorted, so that the plain view's cache serves every seed and split_size.
    both = sorted(train + val, key=lambda s: s.video.path)
    plain = features.encode_clips(encoder, [dataset.windows(s.video, length)[0] for s in both], folder,
                                  options, "train and val")
    row = {s.video.path: i for i, s in enumerate(both)}
    views = [plain[[row[s.video.path] for s in train]]]
    for v in range(1, args.views):
        clips = [dataset.training_clip(s.video, length, v, args.seed) for s in train]
        views.append(features.encode_clips(encoder, clips, folder, options, f"view {v} of train"))
    return (engine.FeatureFeed(views, train, options.device),
            engine.FeatureFeed([plain[[row[s.video.path] for s in val]]], val, options.device))


# ---------------------------------------------------------------- model

def make_model(args, classes, state, checkpoint):
    """The LRCN to train: from a checkpoint's state, or new, with --init_from's weights where given."""
    if state:
        model, known, _ = utils.build(state, f"--checkpoint_path {checkpoint}")
        if known != classes:
            raise UserError(f"--checkpoint_path {checkpoint}: trained on {len(known)} classes, and the data "
                            f"has {len(classes)}; give the flags and folders of that run")
        utils.restore(model, state, checkpoint, "checkpoint_path")
        return model
    utils.set_seed(args.seed)
    weights = args.encoder_weights
    if weights.lower() == "none":
        weights = None
    elif weights != "DEFAULT":
        weights = utils.load_file(weights, "encoder_weights")
    encoder = encoders.build_encoder(args.encoder, weights, args.img_dim)
    utils.set_seed(args.seed)  # the head's weights do not depend on how the encoder came to be
    head = models.Head(encoder.feature_dim, len(classes), args.latent_dim, args.hidden_size,
                       args.lstm_layers, args.bidirectional, args.readout, args.dropout, args.loss_per_step)
    model = models.LRCN(encoder, head)
    if args.init_from:
        for line in utils.take_over(model, utils.load_trained(args.init_from).model):
            cli.say(line)
    return model


def trained_part(args, model):
    """(network that is trained, what encodes for its feature cache or None, optimiser groups).

    Frozen encoder: the head, on cached features. last:K: the blocks and the head, on cached
    activations of the part before them. Otherwise the whole network, on frames.
    """
    model.encoder.moving_statistics = args.train_batch_norm
    model.encoder.requires_grad_(False)
    groups = [{"params": list(model.head.parameters()), "lr": args.lr}]
    if args.train_encoder == "none":
        return (model.head, model.encoder, groups) if args.feature_cache else (model, None, groups)
    last = None if args.train_encoder == "all" else int(args.train_encoder.removeprefix("last:"))
    groups.append({"params": encoders.unfreeze(model.encoder, last), "lr": args.encoder_lr})
    if args.recompute:
        encoders.recompute_activations(model.encoder)
    parts = encoders.cut(model.encoder, last) if last and args.feature_cache else None
    if parts:
        return models.Tail(model.encoder, parts[1], model.head), parts[0], groups
    if last and args.feature_cache:
        cli.say(f"{args.encoder} cannot be cut before its last {last} blocks: frames are encoded anew in "
                f"every epoch")
    return model, None, groups


# ---------------------------------------------------------------- run

class Run:
    """One training run: its folder, its learner, and what is written when."""

    def __init__(self, args, rank, device, samples, classes, model):
        self.args, self.rank, self.device, self.folder = args, rank, device, None
        self.samples, self.classes, self.model = samples, classes, model
        sampled = dataset.sampling_settings(args.sampled_data_path)
        self.settings = {**vars(args), "test_split": args.split if args.ucf_list_dir else "drawn",
                         # test_on_video.py samples alike, wherever the clips are by then
                         **{name: sampled.get(name) for name in ("FPS", "sampling_rate")}}
        self.progress, self.saved_at = engine.Progress(), time.monotonic()
        self.writer = None

    def prepare(self, state):
        """Encode, and make the learner; take up the checkpoint's state where there is one."""
        args = self.args
        self.network, encoder, groups = trained_part(args, self.model.to(self.device))
        options = features.Options(self.device, args.num_workers, args.seed, compile=args.compile,
                                   rank=self.rank)
        self.train_feed, self.val_feed = make_feeds(args, encoder or self.model.encoder, encoder is not None,
                                                    self.samples, options)
        # A head on cached features trains in seconds: rank 0 does it alone.
        self.alone = args.train_encoder == "none" and args.feature_cache
        if self.alone:
            self.rank = utils.Rank(self.rank.number, 1) if self.rank.first else self.rank
        self.count = len(self.train_feed.names)
        self.views = args.views
        steps = len(self.steps(1))
        updates = -(-steps // args.accumulate)
        network = self.network
        if self.rank.world > 1 and not self.alone:
            network = torch.nn.parallel.DistributedDataParallel(network, find_unused_parameters=True)
        self.learner = engine.Learner(network, groups, args, updates * args.epochs, updates, self.device)
        if state:
            self.learner.restore(state["learner"])
            self.progress = engine.Progress(**state["progress"])

    def steps(self, epoch):
        return engine.epoch_steps(self.count, self.args.batch_size, self.views, self.args.seed, epoch,
                                  self.rank.world)

    def validate(self):
        labels = self.val_feed.labels.cpu()
        self.val_logits = engine.predict(self.network, self.val_feed, len(labels))
        return engine.score(self.val_logits, labels)

    def train(self, stop):
        """All epochs that are left; False when a signal ended them early."""
        args, progress, world = self.args, self.progress, self.rank
        last = min(args.epochs, args.stop_after or args.epochs)
        total = args.epochs * len(self.steps(1))
        done = (progress.epoch - bool(progress.step)) * len(self.steps(1)) + progress.step
        with tqdm(total=total, initial=done, unit="step", desc="training", disable=not world.first,
                  mininterval=0.3) as bar:
            def show(step, sums):
                loss, hits, clips = sums.tolist()
                bar.set_description(f"epoch {progress.epoch}/{args.epochs}", refresh=False)
                bar.set_postfix(loss=f"{loss / max(clips, 1):.3f}", top1=f"{hits / max(clips, 1):.3f}",
                                **self.shown, refresh=False)
                bar.update((progress.epoch - 1) * len(self.steps(1)) + step - bar.n)

            self.shown = {}
            while progress.epoch < last or progress.step:
                engine.begin_epoch(progress, args.seed)
                steps = self.steps(progress.epoch)
                if not engine.train_epoch(self.learner, self.train_feed, steps, progress, stop, world, show):
                    self.save("last")
                    return False
                self.end_epoch(progress.epoch == last)
                if stop.signal and progress.epoch < last:
                    self.save("last")
                    return False
        return True

    def end_epoch(self, final):
        """Validate, save and log as the intervals say; only rank 0 writes."""
        args, progress = self.args, self.progress
        checked = final or progress.epoch % args.val_check_interval == 0
        with self.learner.averaged():
            validation = self.validate() if checked and self.rank.first else None
        row = engine.finish_epoch(progress, self.learner, validation)
        if validation:
            self.shown = {"val_top1": f"{validation['top1']:.3f}"}
            if self.args.scheduler == "plateau":
                self.learner.plateau.step(validation["loss"])
        if self.rank.first:
            names = []
            if validation and engine.is_better(validation, progress.best):
                progress.best = {"epoch": progress.epoch, "top1": validation["top1"],
                                 "loss": validation["loss"]}
                names.append("best")
            if final or progress.epoch % args.checkpoint_interval == 0:
                names += [f"epoch_{progress.epoch}", "last"]
            elif time.monotonic() - self.saved_at > 60:  # long epochs: a kill costs a minute, not five
                names.append("last")
            self.log(row)
            self.save(*names)
        self.rank.wait()

    def log(self, row):
        rows = [["" if r[k] is None else r[k] for k in engine.METRICS] for r in self.progress.history]
        files.write_csv(self.folder / "metrics.csv", engine.METRICS, rows)
        for key, value in row.items():
            if value is not None and key != "epoch":
                self.writer.add_scalar(key.replace("_", "/", 1), value, row["epoch"])

    def save(self, *names):
        """Write checkpoints of this moment; best.pth.tar holds the frozen encoder too."""
        if not names or not self.rank.first:
            return
        self.saved_at = time.monotonic()
        folder = self.folder / utils.CHECKPOINTS
        frozen = self.args.train_encoder == "none"
        with self.learner.averaged():
            state = {**utils.describe(self.model, self.classes, self.settings),
                     "epoch": self.progress.epoch, "progress": vars(self.progress),
                     "head": self.model.head.state_dict(), "encoder_digest": self.encoder_digest(),
                     "encoder": None if frozen else self.model.encoder.state_dict(),
                     "learner": self.learner.state()}
            for name in names:
                whole = {"encoder": self.model.encoder.state_dict()} if name == "best" else {}
                utils.save_file(folder / f"{name}.pth.tar", {**state, **whole})

    def encoder_digest(self):
        if self.args.train_encoder != "none" or not hasattr(self, "_digest"):
            self._digest = self.model.encoder.digest()
        return self._digest

    def start_folder(self, checkpoint):
        """A resumed run goes on in its folder; a new one gets its own, with what it starts from."""
        args = self.args
        resumed = checkpoint and checkpoint.parent.name == utils.CHECKPOINTS
        folder = self.folder = (checkpoint.parent.parent if resumed else
                                utils.new_run_folder(args.local_dir, args.open_new_folder))
        cli.say(f"run folder: {folder}")
        for sub in (utils.CHECKPOINTS, "figures"):
            (folder / sub).mkdir(exist_ok=True)
            files.remove_leftovers(folder / sub)
        size = 4 * utils.count_parameters(self.model)
        files.require_space(folder, 2 * size + 12 * utils.count_parameters(self.model.head) * 3,
                            "the checkpoints")
        if not resumed:
            files.write_json(folder / "settings.json", {**self.settings, "classes": self.classes,
                                                        "versions": utils.versions(),
                                                        "device_used": str(self.device)})
            splits.write_splits(folder / "splits.csv", self.samples)
            if args.train_encoder == "none":
                utils.save_file(folder / utils.CHECKPOINTS / utils.ENCODER_FILE,
                                {"encoder": self.model.encoder.state_dict()})
        from torch.utils.tensorboard import SummaryWriter
        self.writer = SummaryWriter(str(folder), purge_step=self.progress.epoch + 1 if resumed else None)
        self.picture("class_distribution", plots.class_distribution,
                     self.classes, *(splits.class_counts(self.samples, part, self.classes)
                                     for part in ("train", "val")), note=self.note())

    def note(self):
        """What stands in small print under every picture."""
        leak = "random split by video (leaky). " if self.args.split == "random" else ""
        return f"{leak}seed {self.args.seed}"

    def picture(self, name, draw, *values, file=None, **options):
        image = draw(self.folder / "figures" / (file or f"{name}.png"), *values, **options)
        self.writer.add_image(name, image, self.progress.epoch, dataformats="HWC")

    def draw(self):
        """The figures at the end: curves, and a grid of validation frames with their labels."""
        self.picture("curves", plots.curves, self.progress.history, note=self.note())
        if not hasattr(self, "val_logits"):
            self.validate()
        val = [s for s in self.samples if s.part == "val"]
        random = np.random.default_rng(self.args.seed)
        chosen = sorted(random.choice(len(val), min(16, len(val)), replace=False).tolist())
        shares = self.val_logits.softmax(1)
        frames = [dataset.source_frames(self.args.sampled_data_path, val[i].video, [0])[0] for i in chosen]
        self.picture("validation_labels", plots.label_grid, frames,
                     [self.classes[val[i].label] for i in chosen],
                     [self.classes[shares[i].argmax()] for i in chosen],
                     [shares[i].max().item() for i in chosen],
                     title="Validation clips: first frame, predicted and true class", note=self.note())
        best = self.progress.best
        if best:
            flags = {k: v for k, v in vars(self.args).items() if isinstance(v, int | float | str | bool)}
            self.writer.add_hparams(flags, {"best/val_top1": best["top1"]}, run_name=".")
        self.writer.close()


def train(args, checkpoint, device, rank):
    state = utils.load_file(checkpoint, "checkpoint_path") if checkpoint else None
    samples, classes = load_samples(args, quiet=not rank.first)
    model = make_model(args, classes, state, checkpoint)
    run = Run(args, rank, device, samples, classes, model)
    run.prepare(state)
    if run.alone and not rank.first:
        return 0
    if rank.first:  # after the encoding, lest one that was stopped leaves an empty run folder
        run.start_folder(checkpoint)
    with utils.Stop() as stop:
        complete = run.train(stop)
    if rank.first:
        if not complete:
            print(f"stopped in epoch {run.progress.epoch}; go on with: "
                  f"python train.py --resume {run.folder}", file=sys.stderr)
            return 128 + stop.signal
        run.draw()
        best = run.progress.best
        cli.say(f"best validation top-1 {best['top1']:.3f} of {len(run.val_feed.names)} clips, "
                f"epoch {best['epoch']}")
        cli.say(run.folder)
    return 0 if complete else 128 + stop.signal


def train_all_splits(args, rank, train_one):
    """--split all: train and test on the three official splits in turn; mean and deviation in one table."""
    folder = rank.share(str(utils.new_run_folder(args.local_dir, args.open_new_folder)) if rank.first else None)
    figures = []
    for split in ("1", "2", "3"):
        cli.say(f"--- split {split}")
        one = argparse.Namespace(**{**vars(args), "split": split, "local_dir": f"{folder}/split_{split}",
                                    "open_new_folder": "False"})
        status = train_one(one)
        if status:
            return status
        if rank.first:
            test = Path(__file__).with_name("test.py")
            done = subprocess.run([sys.executable, test, "--model_dir", one.local_dir, "--device", args.device])
            if done.returncode:
                return done.returncode
            figures.append(files.read_json(Path(one.local_dir) / "test" / "metrics.json"))
    if rank.first:
        top1 = [m["top1"] for m in figures]
        rows = [(m["split"], m["videos"], m["top1"], *m["ci95"], m["top5"]) for m in figures]
        rows.append(("mean", sum(m["videos"] for m in figures), np.mean(top1), "", "",
                     np.mean([m["top5"] for m in figures])))
        rows.append(("deviation", "", np.std(top1, ddof=1), "", "", ""))
        files.write_csv(Path(folder) / "splits_summary.csv",
                        ("split", "videos", "top1", "ci95_low", "ci95_high", "top5"), rows)
        cli.say(f"three splits: top-1 {np.mean(top1):.3f} +- {np.std(top1, ddof=1):.3f} (mean and standard "
                f"deviation), {', '.join(f'{x:.3f}' for x in top1)}")
        cli.say(folder)
    return 0


def main():
    args, checkpoint = training_flags.parse(__doc__)
    device = utils.choose_device(args.device)
    with utils.ranks(device) as rank:
        if args.split == "all" and not checkpoint:
            return train_all_splits(args, rank, lambda one: train(one, None, device, rank))
        return train(args, checkpoint, device, rank)


if __name__ == "__main__":
    cli.run(main)
