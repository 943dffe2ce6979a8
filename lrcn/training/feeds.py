"""What a training step is fed: clips' features from the store, or their frames, in an order of its own.

Features that fit lie on the device; of others a batch is read when it is needed, so that memory does not grow
with the data set.
"""
import argparse
import itertools

import numpy as np

from lrcn.base import Lazy, UserError, cli, files
from lrcn.base.distributed import Rank
from lrcn.base.files import composed
from lrcn.base.values import Number
from lrcn.base.workers import in_threads
from lrcn.data.frames import ClipSampler, clip_frames
from lrcn.features.features import Options, encode_clips

torch = Lazy("torch")

PINNED = 1 << 28        # bytes of features that are kept in a CPU's memory
PINNED_SHARE = 1 / 4    # of the free memory of another device
CHUNK = 1 << 24         # bytes that are copied at once


class FeatureFeed:
    """Features (N, T, ...) of each of V views of N clips: arrays, or features.Features."""

    def __init__(self, views, samples, device):
        self.device, lengths = device, getattr(views[0], "lengths", None)   # a video's, in every view
        self.lengths = lengths if lengths is None else torch.from_numpy(lengths)
        room = torch.cuda.mem_get_info(device)[0] * PINNED_SHARE if device.type == "cuda" else PINNED
        pinned = sum(v.nbytes for v in views) <= int(room)
        self.views = [_pinned(v, device) if pinned else v for v in views]
        self.labels = torch.tensor([s.label for s in samples])
        self.names = [v.path for v in samples]

    def batches(self, steps):
        """(features, labels, lengths) for every step's (clip numbers, view numbers), both (B,) on the CPU.
        lengths: those of models.Head; None where all clips have T frames."""
        for clips, views in steps:
            x = _take(self.views[0], clips)
            for v in range(1, len(self.views)):
                mine = torch.nonzero(views == v)[:, 0]
                if len(mine):
                    x[mine.to(x.device)] = _take(self.views[v], clips[mine])
            lengths = None if self.lengths is None else self.lengths[clips]
            x = x if lengths is None else x[:, :lengths.max()]
            yield x.to(self.device).float(), self.labels[clips].to(self.device), lengths


def _pinned(values, device):
    """An array or Features as a tensor on the device, in chunks: never twice in memory."""
    first = torch.from_numpy(np.ascontiguousarray(values[:1]))
    out = torch.empty(values.shape, dtype=first.dtype, device=device)
    chunk = max(1, CHUNK // max(first.nbytes, 1))
    for i in range(0, len(values), chunk):
        out[i:i + chunk] = torch.from_numpy(np.ascontiguousarray(values[i:i + chunk])).to(device)
    return out


def _take(values, clips):
    """A new tensor (B, T, ...) of the clips' features, where they are."""
    if isinstance(values, torch.Tensor):
        return values[clips.to(values.device)]
    return torch.from_numpy(values[clips.numpy()])


class FrameFeed:
    """Frames decoded anew in every epoch, by threads: uint8 (B, T, 3, S, S)."""

    def __init__(self, recipe, samples, transform, device, clips_per_video=1):
        self.recipe, self.transform, self.device = recipe, transform, device
        self.sampler, self.number = ClipSampler.of(recipe), clips_per_video
        self.places = [(v, k) for v in samples for k in range(len(self._clips(v, 0)))]
        self.labels = torch.tensor([v.label for v, _ in self.places])
        self.names = [v.path for v, _ in self.places]
        lengths = torch.tensor([self.sampler.count(video) for video, _ in self.places])
        self.lengths = lengths if len(lengths.unique()) > 1 else None

    def _clips(self, video, view):
        return self.sampler.training(video, view, self.recipe.seed, self.number)

    def batches(self, steps):
        steps = list(steps)
        decoded = in_threads(self._decode, steps, self.recipe.num_workers)
        for (numbers, _), frames in zip(steps, decoded, strict=True):
            yield (frames.to(self.device, non_blocking=True).movedim(-1, -3),
                   self.labels[numbers].to(self.device),
                   None if self.lengths is None else self.lengths[numbers])

    def _decode(self, step):
        """uint8 (B, T, S, S, 3) of a step's clips, each in its view."""
        frames = []
        for i, view in zip(*(numbers.tolist() for numbers in step), strict=True):
            video, k = self.places[i]
            frames.append(clip_frames(self.recipe.sampled_data_path, self._clips(video, view)[k],
                                      self.transform, self.recipe.seed))
        longest = max(map(len, frames))
        frames = [np.pad(one, [(0, longest - len(one))] + [(0, 0)] * (one.ndim - 1), "edge")
                  if len(one) < longest else one for one in frames]
        frames = torch.from_numpy(np.stack(frames))
        return frames.pin_memory() if self.device.type == "cuda" else frames


def epoch_steps(feed, recipe, epoch, world=1):
    """An epoch's [(clip numbers, view numbers)]: all clips in a random order, each in a random view; or, by
    --sampler balanced, as many clips, drawn so that all classes come equally often. Clips of similar lengths
    share a batch.

    The order depends on the seed and the epoch alone. No batch has fewer clips than there are ranks: a
    shorter last one joins the one before it.
    """
    size, count = max(recipe.batch_size, world), len(feed.labels)
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    if recipe.sampler == "balanced":
        rare = 1 / feed.labels.bincount()[feed.labels]
        order = torch.multinomial(rare, count, replacement=True, generator=generator)
    else:
        order = torch.randperm(count, generator=generator)
    drawn = torch.randint(recipe.views, (count,), generator=generator)
    if feed.lengths is not None:    # sorted within a few batches at a time, so that chance stays
        order = torch.cat([some[feed.lengths[some].argsort(stable=True)] for some in order.split(8 * size)])
    ends = list(range(size, count, size)) + [count]
    if len(ends) > 1 and ends[-1] - ends[-2] < world:
        del ends[-2]
    steps = [(order[a:b], drawn[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    if feed.lengths is None:
        return steps
    return [steps[i] for i in torch.randperm(len(steps), generator=generator)]


def class_weights(recipe, labels, classes):
    """float32 (C,): the weight of each class in the loss, 1 in the mean over the clips with these labels;
    None where all are alike. UserError: not a table of weights, or a class is missing."""
    if recipe.class_weights == "none":
        return None
    counts = labels.bincount(minlength=len(classes)).float()
    weights = 1 / counts.clamp(min=1)
    if recipe.class_weights != "balanced":
        table = cli.file("class_weights", recipe.class_weights, "give none, balanced, or a CSV file with the "
                                                                "columns class and weight")
        rows = {composed(row["class"]): row["weight"] for row in files.read_csv(table, ("class", "weight"))}
        try:
            weights = torch.tensor([Number(float, low=0)(rows[composed(cls)]) for cls in classes])
        except (KeyError, ValueError, argparse.ArgumentTypeError) as error:
            raise UserError(f"--class_weights {table}: expected a class and a weight >= 0 a line, for each "
                            f"of the {len(classes)} classes ({error})") from None
        if not (weights * counts).sum():
            raise UserError(f"--class_weights {table}: all weights are 0")
    return weights * counts.sum() / (weights * counts).sum()


def encoding_options(recipe, device, **more):
    """features.Options of what a recipe has encoded. more: of Options."""
    return Options(device, recipe.num_workers, recipe.seed, compile=recipe.compile,
                   backend=recipe.encoder_backend, precision=recipe.encoder_precision, **more)


def make_feeds(recipe, model, encoder, samples, device, rank=Rank()):     # noqa: B008
    """(training feed, validation feed): features that `encoder` gives, from the store, or, where it is None,
    frames for the model's own encoder."""
    train = [s for s in samples if s.part == "train"]
    val = [s for s in samples if s.part == "val"]
    if encoder is None:
        return (FrameFeed(recipe, train, model.encoder.transform, device, recipe.clips_per_video),
                FrameFeed(recipe, val, model.encoder.transform, device))
    sampler, options = ClipSampler.of(recipe), encoding_options(recipe, device, rank=rank)

    def clips(view):
        for video in train:
            yield from sampler.training(video, view, recipe.seed, recipe.clips_per_video)

    def encoded(clips, name):
        return encode_clips(encoder, clips, recipe.sampled_data_path, options, name)

    plain = encoded(itertools.chain(clips(0), (sampler.windows(s)[0] for s in val)), "train and val")
    takes = [clip.video for clip in clips(0)]
    views = [encoded(clips(v), f"view {v} of train") for v in range(1, recipe.views)]
    return (FeatureFeed([plain.part(slice(len(takes))), *views], takes, device),
            FeatureFeed([plain.part(slice(len(takes), None))], val, device))
