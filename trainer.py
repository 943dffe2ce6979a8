"""A training run: what is encoded, what is trained, and what is written into the run folder when."""
import time

import numpy as np
import torch
from tqdm import tqdm

import cli
import dataset
import encoders
import engine
import features
import files
import labelled_video
import models
import plots
import splits
import study_plots
import utils


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


class Run:
    """One training run: its folder, its learner, and what is written when."""

    def __init__(self, args, rank, device, samples, classes, model):
        self.args, self.rank, self.device, self.folder = args, rank, device, None
        self.samples, self.classes, self.model = samples, classes, model
        sampled = dataset.sampling_settings(args.sampled_data_path)
        listed = args.ucf_list_dir or args.split == "random"
        self.settings = {**vars(args), "test_split": args.split if listed else "drawn",
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
        for sub in (".", utils.CHECKPOINTS, "figures"):
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
        """The figures at the end: curves, validation frames and clips with their labels, attention."""
        self.picture("curves", plots.curves, self.progress.history, note=self.note())
        if not hasattr(self, "val_logits"):
            self.validate()
        val = [s for s in self.samples if s.part == "val"]
        random = np.random.default_rng(self.args.seed)
        chosen = random.choice(len(val), min(16, len(val)), replace=False).tolist()
        shares = self.val_logits.softmax(1)
        true = [self.classes[val[i].label] for i in chosen]
        said = [self.classes[shares[i].argmax()] for i in chosen]
        clips = [self.clip_frames(val[i].video) for i in chosen]
        self.picture("validation_labels", plots.label_grid, [clip[0] for clip in clips], true, said,
                     [shares[i].max().item() for i in chosen],
                     title="Validation clips: first frame, predicted and true class", note=self.note())
        for n in range(min(4, len(chosen))):
            self.moving_picture(f"validation_clip_{n + 1}", clips[n], true[n], said[n])
        if self.args.readout == "attention":
            self.picture("attention", study_plots.attention_picture, clips[0], self.attention(chosen[0]),
                         title=f"Attention over the frames of a clip of {true[0]}", note=self.note())
        if self.progress.best:
            flags = {k: v for k, v in vars(self.args).items() if isinstance(v, int | float | str | bool)}
            self.writer.add_hparams(flags, {"best/val_top1": self.progress.best["top1"]}, run_name=".")
        self.writer.close()

    def clip_frames(self, video):
        """A clip as it was sampled: uint8 (T, H, W, 3)."""
        clip = dataset.windows(video, self.args.num_frames_video)[0]
        return dataset.source_frames(self.args.sampled_data_path, video, clip.frames)

    def moving_picture(self, name, frames, true, said):
        """A labelled GIF, on disk and in TensorBoard, which shows it as it shows any picture."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        path = self.folder / "figures" / f"{name}.gif"
        fps = (self.settings["FPS"] or 25) / (self.settings["sampling_rate"] or 10)
        labelled_video.clip_gif(path, frames, fps, true=true, predicted=said)
        image = Summary.Image(height=frames.shape[1], width=frames.shape[2], colorspace=3,
                              encoded_image_string=path.read_bytes())
        self.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]),
                                            self.progress.epoch)

    @torch.inference_mode()
    def attention(self, i):
        """The attention read-out's weights over time for validation clip number i, (T,)."""
        number = torch.tensor([i])
        x, _ = next(iter(self.val_feed.batches([(number, torch.zeros_like(number))])))
        features = x if self.network is self.model.head else self.network.features(x)
        head = self.model.head.eval()
        return head.attention(head.steps(features))[0].cpu().numpy()
