"""Training and evaluation: batches in, weights and figures out.

The order of an epoch, its views and its dropout depend on the seed and the epoch alone, so that a
resumed run is the run that was never stopped. Nothing waits for the device within an epoch: loss
and hits are summed there and read once.
"""


import numpy as np
import torch
from torch.utils.data import DataLoader

from lrcn.base.cli import UserError
from lrcn.base.workers import quiet, started
from lrcn.clips.frames import ClipFrames, training_clip, windows
from lrcn.encoding.features import encode_clips


class FeatureFeed:
    """Features on the device: (V, N, T, ...) for V views of N clips. No loader, no worker."""

    def __init__(self, views, samples, device):
        self.views = [torch.from_numpy(v).to(device) for v in views]
        self.labels = torch.tensor([s.label for s in samples], device=device)
        self.names = [s.video.path for s in samples]

    def batches(self, steps):
        """(features, labels) for every step's (clip numbers, view numbers), both (B,) on the CPU."""
        device = self.labels.device
        for clips, views in steps:
            clips, views = clips.to(device), views.to(device)
            x = self.views[0][clips]
            for v in range(1, len(self.views)):
                mine = (views == v).view(-1, *[1] * (x.dim() - 1))
                x = torch.where(mine, self.views[v][clips], x)
            yield x.float(), self.labels[clips]


class FrameFeed:
    """Frames decoded anew in every epoch, by worker processes: uint8 (B, T, 3, S, S)."""

    def __init__(self, folder, samples, length, transform, seed, device, num_workers):
        self.folder, self.length, self.transform, self.seed = folder, length, transform, seed
        self.videos, self.device, self.num_workers = [s.video for s in samples], device, num_workers
        self.labels = torch.tensor([s.label for s in samples])
        self.names = [s.video.path for s in samples]

    def batches(self, steps):
        steps = list(steps)
        clips = [training_clip(self.videos[i], self.length, v, self.seed)
                 for numbers, views in steps for i, v in zip(numbers.tolist(), views.tolist(), strict=True)]
        ends = np.cumsum([0] + [len(numbers) for numbers, _ in steps])
        loader = DataLoader(ClipFrames(self.folder, clips, self.transform, self.seed),
                            batch_sampler=[range(a, b) for a, b in zip(ends, ends[1:], strict=False)],
                            collate_fn=stack_clips, num_workers=self.num_workers, worker_init_fn=quiet,
                            # of its own, lest it draws from the one that makes the dropout
                            generator=torch.Generator().manual_seed(self.seed),
                            pin_memory=self.device.type == "cuda")
        for (numbers, _), frames in zip(steps, started(loader), strict=True):
            if isinstance(frames, str):
                raise UserError(frames)
            yield (frames.to(self.device, non_blocking=True).movedim(-1, -3),
                   self.labels[numbers].to(self.device))


def stack_clips(clips):
    """[uint8 (T, S, S, 3)] -> tensor (B, T, S, S, 3), or the text of the first error among them."""
    errors = [clip for clip in clips if isinstance(clip, str)]
    return errors[0] if errors else torch.from_numpy(np.stack(clips))


def plain_steps(count, size=64):
    """Every clip once, in order, in its plain view."""
    numbers = torch.arange(count)
    return [(part, torch.zeros_like(part)) for part in numbers.split(size)]


def epoch_steps(count, size, views, seed, epoch, world=1):
    """An epoch's [(clip numbers, view numbers)]: all clips in a random order, each in a random view.

    No batch has fewer clips than there are ranks; a last one that would joins the one before it.
    """
    size = max(size, world)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator)
    drawn = torch.randint(views, (count,), generator=generator)
    ends = list(range(size, count, size)) + [count]
    if len(ends) > 1 and ends[-1] - ends[-2] < world:
        del ends[-2]
    return [(order[a:b], drawn[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def make_feeds(args, encoder, cached, samples, options):
    """(training feed, validation feed), from the feature cache or from frames."""
    train = [s for s in samples if s.part == "train"]
    val = [s for s in samples if s.part == "val"]
    folder, length = args.sampled_data_path, args.num_frames_video
    if not cached:
        return [FrameFeed(folder, part, length, encoder.transform, args.seed, options.device,
                                 args.num_workers) for part in (train, val)]
    # Sorted, so that the plain view's cache serves every seed and split_size.
    both = sorted(train + val, key=lambda s: s.video.path)
    plain = encode_clips(encoder, [windows(s.video, length)[0] for s in both], folder,
                                  options, "train and val")
    row = {s.video.path: i for i, s in enumerate(both)}
    views = [plain[[row[s.video.path] for s in train]]]
    for v in range(1, args.views):
        clips = [training_clip(s.video, length, v, args.seed) for s in train]
        views.append(encode_clips(encoder, clips, folder, options, f"view {v} of train"))
    return (FeatureFeed(views, train, options.device),
            FeatureFeed([plain[[row[s.video.path] for s in val]]], val, options.device))
