"""A training run's pictures: in its figures folder, and in TensorBoard beside its curves."""
import functools

import numpy as np

from lrcn.base.lazy import Lazy
from lrcn.data.frames import ClipSampler, source_frames
from lrcn.drawing import labels, plots
from lrcn.runs import loss_words
from lrcn.video.sampling import Rate

torch = Lazy("torch")
tensorboard = Lazy("torch.utils.tensorboard")

SHOWN, MOVING = 16, 4       # validation clips on the grid, and as moving pictures


class Album:
    """Curves and pictures of one run. resumed_at: the epoch after which an older run's curves go."""

    def __init__(self, folder, recipe, classes, samples, resumed_at=None):
        self.folder, self.recipe, self.classes = folder, recipe, classes
        self.samples, self.val = samples, [s for s in samples if s.part == "val"]
        self.epoch = resumed_at or 0
        self.writer = tensorboard.SummaryWriter(
            str(folder), purge_step=None if resumed_at is None else resumed_at + 1)
        self.writer.add_custom_scalars({"training and validation": {
            name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in ("loss", "top1")}})
        leak = "random split by video (leaky). " if recipe.split == "random" else ""
        self.note = f"{leak}seed {recipe.seed}"     # in small print under every picture

    def scalars(self, row):
        """An epoch's row of metrics.csv as points on the curves."""
        self.epoch = row["epoch"]
        for key, value in row.items():
            if value is not None and key != "epoch":
                self.writer.add_scalar(key.replace("_", "/", 1), value, row["epoch"])

    def picture(self, name, draw, *values, **options):
        path = self.folder.figures / f"{name}.png"
        self.show(name, path, draw(path, *values, **{"note": self.note, **options}).shape)

    def show(self, name, path, shape):
        """A picture's file, PNG or GIF, in TensorBoard as it is. shape: (H, W, 3)."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        image = Summary.Image(height=shape[0], width=shape[1], colorspace=shape[2],
                              encoded_image_string=path.read_bytes())
        self.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), self.epoch)

    def class_distribution(self):
        self.picture("class_distribution", plots.class_distribution, self.classes,
                     *(np.bincount([v.label for v in self.samples if v.part == part],
                                   minlength=len(self.classes)) for part in ("train", "val")))

    @functools.cached_property
    def shown(self):
        """(numbers of the validation videos that are shown, the same all through the run; their clips as
        they were sampled, uint8 (T, H, W, 3))."""
        random = np.random.default_rng(self.recipe.seed)
        chosen = random.choice(len(self.val), min(SHOWN, len(self.val)), replace=False).tolist()
        sampler = ClipSampler.of(self.recipe)
        return chosen, [source_frames(self.recipe.sampled_data_path, v, sampler.windows(v)[0].frames)
                        for v in (self.val[i] for i in chosen)]

    def answers(self, run):
        """(true classes, predicted ones, their probabilities) of the shown clips in the last validation."""
        chosen = self.shown[0]
        probabilities = run.val_logits.softmax(1)[chosen]
        return ([self.classes[self.val[i].label] for i in chosen],
                [self.classes[i] for i in probabilities.argmax(1)], probabilities.max(1).values.tolist())

    def label_grid(self, run):
        """The shown clips with their labels: a step of TensorBoard's slider."""
        self.picture("validation_labels", labels.label_grid, [clip[0] for clip in self.shown[1]],
                     *self.answers(run), title="Validation clips: first frame, predicted and true class",
                     note=f"The weights of epoch {run.progress.epoch}. {self.note}")

    def final(self, run):
        """The pictures of a run.Run that is done."""
        progress, best = run.progress, run.progress.best
        self.picture("curves", plots.curves, progress.history, best and best["epoch"], len(self.classes),
                     note=f"{loss_words(self.recipe.as_settings())} {self.note}".strip())
        if best:
            flags = {k: v for k, v in self.recipe.as_settings().items() if isinstance(v, int | float | str)}
            self.writer.add_hparams(flags, {"best/val_top1": best["top1"]}, run_name=".")
        if not self.val:
            return
        if run.val_logits is None:      # resumed when all was done
            run.validate()
            self.label_grid(run)
        (chosen, clips), (true, predicted, _) = self.shown, self.answers(run)
        for n, clip in enumerate(clips[:MOVING]):
            name = f"validation_clip_{n + 1}"
            path = self.folder.figures / f"{name}.gif"
            labels.clip_gif(path, (labels.label_frame(frame, true[n], predicted[n]) for frame in clip),
                            Rate.of(run.settings).per_second)
            self.show(name, path, clip.shape[1:])
        if self.recipe.readout == "attention":
            number, network, head = torch.tensor([chosen[0]]), run.learner.plain, run.model.head.eval()
            x, *_ = next(iter(run.val_feed.batches([(number, torch.zeros_like(number))])))
            with torch.inference_mode():
                weights = head.attention(head.steps(x if network is head else network.features(x)))
            self.picture("attention", labels.attention_picture, clips[0], weights[0].cpu().numpy(),
                         title=f"Attention over the frames of a clip of {true[0]}")
