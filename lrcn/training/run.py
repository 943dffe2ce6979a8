"""A training run: what is encoded, what is trained, and what is written into the run folder when."""

import time

import numpy as np
import torch
from tqdm import tqdm

from lrcn import checkpoints, runs, scores
from lrcn.base import cli, files
from lrcn.base.ranks import Rank
from lrcn.clips import splits
from lrcn.clips.frames import source_frames, windows
from lrcn.clips.manifest import sampling_settings
from lrcn.drawing import labels, plots
from lrcn.encoding.features import Options
from lrcn.training import engine
from lrcn.training.feeds import epoch_steps, make_feeds
from lrcn.video.sampling import Rate


class Run:
    """One training run: its folder, its learner, and what is written when."""

    def __init__(self, args, rank, device, samples, classes, model, parts):
        self.args, self.rank, self.device, self.folder = args, rank, device, None
        self.samples, self.classes, self.model, self.parts = samples, classes, model, parts
        sampled = sampling_settings(args.sampled_data_path)
        listed = args.ucf_list_dir or args.split == "random"
        self.settings = {**vars(args), "test_split": args.split if listed else "drawn",
                         # test_on_video.py samples alike, wherever the clips are by then
                         **{name: sampled.get(name) for name in ("FPS", "sampling_rate")}}
        self.progress, self.saved_at = engine.Progress(), time.monotonic()
        self.writer = None

    def prepare(self, state):
        """Encode, and make the learner; take up the checkpoint's state where there is one."""
        args = self.args
        self.network, encoder, groups = self.parts
        options = Options(self.device, args.num_workers, args.seed, compile=args.compile,
                                   rank=self.rank)
        self.train_feed, self.val_feed = make_feeds(args, encoder or self.model.encoder, encoder is not None,
                                                    self.samples, options)
        # A head on cached features trains in seconds: rank 0 does it alone.
        self.alone = args.train_encoder == "none" and args.feature_cache
        if self.alone:
            self.rank = Rank(self.rank.number, 1) if self.rank.first else self.rank
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
        return epoch_steps(self.count, self.args.batch_size, self.views, self.args.seed, epoch,
                                  self.rank.world)

    def validate(self):
        labels = self.val_feed.labels.cpu()
        self.val_logits = engine.predict(self.network, self.val_feed, len(labels))
        return scores.score(self.val_logits, labels)

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
        folder = runs.RunFolder(self.folder)
        frozen = self.args.train_encoder == "none"
        with self.learner.averaged():
            state = {**checkpoints.describe(self.model, self.classes, self.settings),
                     "epoch": self.progress.epoch, "progress": vars(self.progress),
                     "head": self.model.head.state_dict(), "encoder_digest": self.encoder_digest(),
                     "encoder": None if frozen else self.model.encoder.state_dict(),
                     "learner": self.learner.state()}
            for name in names:
                whole = {"encoder": self.model.encoder.state_dict()} if name == "best" else {}
                checkpoints.save_file(folder.checkpoint(name), {**state, **whole})

    def encoder_digest(self):
        if self.args.train_encoder != "none" or not hasattr(self, "_digest"):
            self._digest = self.model.encoder.digest()
        return self._digest

    def start_folder(self, checkpoint):
        """A resumed run goes on in its folder; a new one gets its own, with what it starts from."""
        args = self.args
        resumed = checkpoint and checkpoint.parent == runs.RunFolder.of(checkpoint).checkpoints
        folder = self.folder = (checkpoint.parent.parent if resumed else
                                runs.new_run_folder(args.local_dir, args.open_new_folder))
        cli.say(f"run folder: {folder}")
        for sub in (".", runs.RunFolder(folder).checkpoints.name, "figures"):
            (folder / sub).mkdir(exist_ok=True)
            files.remove_leftovers(folder / sub)
        size = 4 * checkpoints.count_parameters(self.model)
        files.require_space(folder, 2 * size + 12 * checkpoints.count_parameters(self.model.head) * 3,
                            "the checkpoints")
        if not resumed:
            files.write_json(folder / "settings.json", {**self.settings, "classes": self.classes,
                                                        "versions": runs.versions(),
                                                        "device_used": str(self.device)})
            splits.write_splits(folder / "splits.csv", self.samples)
            if args.train_encoder == "none":
                checkpoints.save_file(runs.RunFolder(folder).checkpoint("encoder"),
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
            self.picture("attention", plots.attention_picture, clips[0], self.attention(chosen[0]),
                         title=f"Attention over the frames of a clip of {true[0]}", note=self.note())
        if self.progress.best:
            flags = {k: v for k, v in vars(self.args).items() if isinstance(v, int | float | str | bool)}
            self.writer.add_hparams(flags, {"best/val_top1": self.progress.best["top1"]}, run_name=".")
        self.writer.close()

    def clip_frames(self, video):
        """A clip as it was sampled: uint8 (T, H, W, 3)."""
        clip = windows(video, self.args.num_frames_video)[0]
        return source_frames(self.args.sampled_data_path, video, clip.frames)

    def moving_picture(self, name, frames, true, said):
        """A labelled GIF, on disk and in TensorBoard, which shows it as it shows any picture."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        path = self.folder / "figures" / f"{name}.gif"
        fps = Rate.of(self.settings).per_second
        labels.clip_gif(path, frames, fps, true=true, predicted=said)
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
