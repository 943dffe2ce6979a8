"""Training and evaluation: batches in, weights and figures out.

The order of an epoch, its views and its dropout depend on the seed and the epoch alone, so that a
resumed run is the run that was never stopped. Nothing waits for the device within an epoch: loss
and hits are summed there and read once.
"""

import contextlib
import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from lrcn.base.cli import UserError
from lrcn.base.ranks import set_seed
from lrcn.training.feeds import plain_steps

METRICS = ("epoch", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top3", "val_top5",
           "seconds")


@torch.inference_mode()
def predict(network, feed, count):
    """Logits float32 (count, classes) on the CPU, every clip in its plain view.

    The batches are of one size whatever --batch_size says, so that the result never depends on it.
    """
    network.eval()
    return torch.cat([network(x).float().cpu() for x, _ in feed.batches(plain_steps(count))])


@dataclass
class Progress:
    """How far a run has come; goes into every checkpoint, in plain containers."""
    epoch: int = 0              # the epoch under way, or the last one done
    step: int = 0               # its steps that are done; 0: the epoch is done
    history: list = field(default_factory=list)     # the rows of metrics.csv
    best: dict = field(default_factory=dict)        # epoch, top1, loss of best.pth.tar
    sums: list = field(default_factory=lambda: [0.0, 0.0, 0.0])  # loss, hits, clips of a broken-off epoch
    seconds: float = 0.0        # spent in the broken-off epoch


class Learner:
    """A network, its optimiser and its schedule; what a step changes, and what a checkpoint keeps.

    network: what is trained and run on a batch; groups: optimiser groups of its parameters.
    """

    def __init__(self, network, groups, options, total_steps, steps_per_epoch, device):
        self.network, self.options, self.device = network, options, device
        self.optimizer = torch.optim.AdamW(groups, lr=options.lr, weight_decay=options.weight_decay,
                                           fused=device.type == "cuda")
        self.parameters = [p for group in groups for p in group["params"]]
        # What the validation loss takes off the learning rate, as the rate of an optimiser of its own
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            torch.optim.SGD([torch.zeros(1)], lr=1.0), factor=0.3, patience=3)
        warm = options.warmup_epochs * steps_per_epoch
        if options.scheduler in ("cosine", "step"):  # the other courses do not depend on --epochs at all
            warm = min(warm, total_steps / 5)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: (schedule_factor(options.scheduler, step, warm, total_steps)
                                          * self.plateau.optimizer.param_groups[0]["lr"]))
        self.amp = device.type == "cuda" and options.amp != "none"
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp and options.amp == "float16")
        self.average = ({k: v.detach().clone() for k, v in network.state_dict().items()}
                        if options.ema else None)

    def loss(self, x, labels):
        """(mean cross-entropy, logits (B, C)) of a batch, with label smoothing and mixup."""
        smoothing, targets, mix = self.options.label_smoothing, labels, None
        if self.options.mixup:
            share = float(np.random.default_rng(torch.randint(2**31, ()).item()).beta(
                self.options.mixup, self.options.mixup))
            mix = torch.randperm(len(x), device=x.device)
            x = share * x + (1 - share) * x[mix]
        with torch.autocast(self.device.type, getattr(torch, self.options.amp, torch.bfloat16),
                            enabled=self.amp):
            logits = self.network(x)
        logits = logits.float()
        if logits.dim() == 3:  # one prediction a time step
            steps, logits = logits, logits.mean(1)
            per_step = [steps[:, t] for t in range(steps.shape[1])]
        else:
            per_step = [logits]
        loss = sum(F.cross_entropy(z, targets, label_smoothing=smoothing) for z in per_step) / len(per_step)
        if mix is not None:
            other = sum(F.cross_entropy(z, targets[mix], label_smoothing=smoothing) for z in per_step)
            loss = share * loss + (1 - share) * other / len(per_step)
        return loss, logits

    def update(self):
        """One step of the optimiser with the gradients gathered so far."""
        self.scaler.unscale_(self.optimizer)
        if self.options.clip_grad:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.options.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.average is not None:
            # Young averages are short, or the first random weights would last for ages.
            decay = min(self.options.ema, (1 + self.schedule.last_epoch) / (10 + self.schedule.last_epoch))
            for key, value in self.network.state_dict().items():
                kept = self.average[key]
                if value.is_floating_point():
                    kept.lerp_(value.detach(), 1 - decay)
                else:
                    kept.copy_(value)

    @contextlib.contextmanager
    def averaged(self):
        """With the averaged weights in the network, where an average is kept."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self):
        for key, value in self.network.state_dict().items() if self.average is not None else ():
            self.average[key], _ = value.clone(), value.copy_(self.average[key])

    def state(self):
        """Optimiser, schedule, scaler and random states; within averaged() the raw weights too."""
        return {"optimizer": self.optimizer.state_dict(),
                "schedule": {"last_epoch": self.schedule.last_epoch},
                "plateau": self.plateau.state_dict(),
                "scaler": self.scaler.state_dict(), "raw": self.average,
                "random": {"torch": torch.get_rng_state(),
                           "cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []}}

    def restore(self, state):
        """Take up a checkpoint's state() again, random states included."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.plateau.load_state_dict(state["plateau"])
        self.plateau.optimizer.param_groups[0]["lr"] = self.plateau._last_lr[0]
        # The course itself is made anew, because --epochs may have grown
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        for group, factor, base in zip(self.optimizer.param_groups, self.schedule.lr_lambdas,
                                       self.schedule.base_lrs, strict=True):
            group["lr"] = base * factor(self.schedule.last_epoch)
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None and state["raw"]:
            self.average = {k: v.to(self.device) for k, v in state["raw"].items()}
            self._swap()  # the checkpoint's weights were the average
        torch.set_rng_state(state["random"]["torch"])
        if self.device.type == "cuda" and state["random"]["cuda"]:
            torch.cuda.set_rng_state_all(state["random"]["cuda"])


def schedule_factor(name, step, warm, total):
    """What the learning rate is multiplied with at a step: a linear warm-up, then by `name`."""
    if step < warm:
        return (step + 1) / (warm + 1)
    done = min(1.0, (step - warm) / max(1, total - warm))
    if name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if name == "step":
        return 0.1 ** int(done * 3)
    return 1.0


def train_epoch(learner, feed, steps, progress, stop, rank, show):
    """Go through the steps that progress has not done; returns True when the epoch is complete.

    stop: utils.Stop, looked at after every step. show(steps done, sums) is called a few times a
    second. UserError: a loss that is not finite, with its step and clips.
    """
    options, device = learner.options, learner.device
    learner.network.train()
    sums = torch.tensor(progress.sums, dtype=torch.float64 if device.type != "mps" else torch.float32,
                        device=device)
    first_bad = torch.full((), -1, dtype=torch.int64, device=device)
    begun = shown = time.monotonic()
    before = progress.seconds
    todo = steps[progress.step:]
    for x, labels in feed.batches([tuple(part[rank.number::rank.world] for part in s) for s in todo]):
        # An update is that of one large batch: every clip of its steps counts alike.
        begin = progress.step - progress.step % options.accumulate
        clips = sum(len(numbers) for numbers, _ in steps[begin:begin + options.accumulate])
        loss, logits = learner.loss(x, labels)
        learner.scaler.scale(loss * (len(labels) * rank.world / clips)).backward()
        bad = ~torch.isfinite(loss.detach())
        first_bad = torch.where((first_bad < 0) & bad, progress.step, first_bad)
        hits = (logits.detach().argmax(1) == labels).sum()
        sums += torch.stack([loss.detach() * len(labels), hits, hits.new_tensor(len(labels))])
        progress.step += 1
        if progress.step % options.accumulate == 0 or progress.step == len(steps):
            if device.type == "cpu" and bad:  # there the look costs nothing
                break
            learner.update()
        now = time.monotonic()
        if now - shown > 0.3:
            shown = now
            show(progress.step, sums)
        if progress.step % options.accumulate == 0 and rank.any(stop.signal):
            break
    if first_bad >= 0:
        raise not_finite(learner, steps[int(first_bad)][0], int(first_bad), progress.epoch, feed)
    if rank.world > 1:
        torch.distributed.all_reduce(sums)
    show(progress.step, sums)
    progress.sums = sums.tolist()
    progress.seconds = before + time.monotonic() - begun
    return progress.step == len(steps)


def not_finite(learner, numbers, step, epoch, feed):
    names = [feed.names[i] for i in numbers.tolist()]
    return UserError(f"the loss is not finite in epoch {epoch}, step {step + 1}, at learning rate "
                     f"{learner.optimizer.param_groups[0]['lr']:.3g}; the last good checkpoint stays. "
                     f"Lower --lr, or look at the clips of that batch: {', '.join(names)}")


def finish_epoch(progress, learner, validation):
    """Turn the sums into the epoch's row of metrics.csv; validation: score() or None."""
    loss, hits, clips = progress.sums
    row = {"epoch": progress.epoch, "lr": learner.optimizer.param_groups[0]["lr"],
           "train_loss": loss / clips, "train_top1": hits / clips}
    row |= {f"val_{k}": validation[k] if validation else None for k in ("loss", "top1", "top3", "top5")}
    row["seconds"] = round(progress.seconds, 3)
    progress.history.append(row)
    progress.step, progress.sums, progress.seconds = 0, [0.0, 0.0, 0.0], 0.0
    return row


def is_better(validation, best):
    """More right answers, or as many at a lower loss."""
    return not best or ((validation["top1"], -validation["loss"]) > (best["top1"], -best["loss"]))


def begin_epoch(progress, seed):
    """Start the next epoch, unless one was broken off: that one goes on."""
    if progress.step == 0:
        progress.epoch += 1
        set_seed(seed, progress.epoch)
