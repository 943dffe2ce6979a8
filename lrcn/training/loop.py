"""Training and prediction: batches in, weights and logits out.

The order of an epoch, its views and its dropout depend on the seed, the epoch and the rank alone, so
that a resumed run equals one that was never stopped. Nothing waits for the device within an epoch:
loss and hits are summed there and read once.
"""
import contextlib
import functools
import inspect
import math
import time
from dataclasses import asdict, dataclass, field

import numpy as np

from lrcn.base import Lazy, UserError, inference_mode
from lrcn.base.distributed import Rank, set_seed
from lrcn.base.signals import Stop
from lrcn.base.values import Number, Numbers, check
from lrcn.training.feeds import epoch_steps

torch = Lazy("torch")
F = Lazy("torch.nn.functional")

METRICS = ("epoch", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top3", "val_top5",
           "seconds")
# {name: (class in torch.optim, its options, what it keeps of every parameter)}
_OF_ADAM = ("step", "exp_avg", "exp_avg_sq")
OPTIMIZERS = {"adamw": ("AdamW", {}, _OF_ADAM), "adam": ("Adam", {}, _OF_ADAM),
              "sgd": ("SGD", {"momentum": 0.9}, ("momentum_buffer",))}
STOPPED, NOT_FINITE = 1, 2      # why an epoch was broken off


@inference_mode
def predict(network, feed, count):
    """Logits float32 (count, classes) on the CPU, every clip in its plain view. The batches have one size, so
    that the result does not depend on --batch_size."""
    network.eval()
    steps = [(clips, torch.zeros_like(clips)) for clips in torch.arange(count).split(64)]
    return torch.cat([network(x, lengths).float().cpu() for x, _, lengths in feed.batches(steps)])


@dataclass
class Progress:
    """How far a run has come; goes into every checkpoint, in plain containers."""
    epoch: int = 0              # the epoch under way, or the last one done
    step: int = 0               # its steps that are done; 0: the epoch is done
    history: list = field(default_factory=list)     # the rows of metrics.csv
    best: dict = field(default_factory=dict)        # epoch, top1, loss of best.pth.tar
    sums: list = field(default_factory=lambda: [0.0, 0.0, 0.0])  # loss, hits, clips of a broken-off epoch
    seconds: float = 0.0        # spent in the broken-off epoch

    @classmethod
    def of(cls, state, source):
        """The progress in a checkpoint; UserError names a wrong value."""
        count, real = Number(int, low=0), Number(float)
        check(state, {"epoch": count, "step": count, "sums": Numbers(3, real),
                      "seconds": Number(float, low=0)}, f"{source}: progress")
        if not (isinstance(state.get("history"), list) and isinstance(state.get("best"), dict)):
            raise UserError(f"{source}: progress: history or best is missing")
        for row in state["history"]:
            check(row, {k: Number(float, none=True) for k in METRICS}, f"{source}: progress: history")
        if state["best"]:
            check(state["best"], {"epoch": count, "top1": real, "loss": real}, f"{source}: progress: best")
        return cls(**{name: state[name] for name in asdict(cls())})

    def finish_epoch(self, learner, validation):
        """Turn the sums into the epoch's row of metrics.csv; validation: scores.score() or None."""
        loss, hits, clips = self.sums
        row = {"epoch": self.epoch, "lr": learner.lr, "train_loss": loss / clips, "train_top1": hits / clips}
        row |= {f"val_{k}": validation[k] if validation else None for k in ("loss", "top1", "top3", "top5")}
        row["seconds"] = round(self.seconds, 3)
        self.history.append(row)
        self.step, self.sums, self.seconds = 0, [0.0, 0.0, 0.0], 0.0
        return row


# ---------------------------------------------------------------- learning

def plain_optimizer(groups, recipe, **more):
    """The optimiser of a recipe, without torch's wrappers for torch.compile: they are not needed here, and
    take more than a second to import. Methods that torch does not wrap stay as they are."""
    for method in vars(torch.optim.Optimizer).values():
        if inspect.isfunction(inner := getattr(method, "__wrapped__", None)):
            vars(inner).setdefault("__dynamo_disable", inner)
    name, options, _ = OPTIMIZERS[recipe.optimizer]
    optimizer = getattr(torch.optim, name)(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, **options,
                                           **more)
    optimizer.step = torch.no_grad()(functools.partial(inspect.unwrap(type(optimizer).step), optimizer))
    return optimizer


class Learner:
    """A network, its optimiser and its schedule; what a step changes, and what a checkpoint keeps.

    network: is trained and run on a batch. groups: of its parameters, for the optimiser. feed: the training
    clips, whose number decides how long the schedule is. weights: float (C,), of the classes in the loss;
    None where all are alike.
    """

    def __init__(self, network, groups, recipe, feed, device, rank=Rank(), weights=None):    # noqa: B008
        self.network, self.recipe, self.device = network, recipe, device
        self.feed, self.rank, self.weights = feed, rank, weights
        self.plain = getattr(network, "module", network)    # without DistributedDataParallel's wrapper
        self.optimizer = plain_optimizer(groups, recipe, fused=device.type in ("cpu", "cuda"))
        self.parameters = [p for group in groups for p in group["params"]]
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        # The factor by which --scheduler plateau lowers the rate: that of an optimiser of its own
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            torch.optim.SGD([torch.zeros(1)], lr=1.0), factor=0.3, patience=3)
        an_epoch = -(-len(self.steps(1)) // recipe.accumulate)
        self.total, self.updates = an_epoch * recipe.epochs, 0
        self.warm = recipe.warmup_epochs * an_epoch if recipe.scheduler != "onecycle" else 0
        if recipe.scheduler in ("cosine", "step"):  # the others do not depend on --epochs
            self.warm = min(self.warm, self.total / 5)
        self.amp = device.type == "cuda" and recipe.amp != "none"
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp and recipe.amp == "float16")
        self.average = {k: v.clone() for k, v in self.plain.state_dict().items()} if recipe.ema else None
        self._set_rates()

    def steps(self, epoch):
        """[(clip numbers, view numbers)] of an epoch, of all ranks together."""
        return epoch_steps(self.feed, self.recipe, epoch, self.rank.world)

    @property
    def lr(self):
        """The head's learning rate of the next update."""
        return self.optimizer.param_groups[0]["lr"]

    def _set_rates(self):
        course = schedule_factor(self.recipe.scheduler, self.updates, self.warm, self.total)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * (course * self.plateau.optimizer.param_groups[0]["lr"])

    def validated(self, loss):
        """Let a validation loss lower the rate, with --scheduler plateau."""
        if self.recipe.scheduler == "plateau":
            self.plateau.step(loss)
            self._set_rates()

    def loss(self, x, labels, lengths=None):
        """(mean cross-entropy, logits (B, C)) of a batch, with label smoothing and mixup; lengths: see
        models.Head."""
        mix = None
        if self.recipe.mixup:
            share = float(np.random.default_rng(torch.randint(2**31, ()).item()).beta(
                self.recipe.mixup, self.recipe.mixup))
            mix = torch.randperm(len(x), device=x.device)
            mixed = share * x + (1 - share) * x[mix]
            x = mixed if x.is_floating_point() else mixed.round().to(x.dtype)   # frames stay frames
            lengths = None if lengths is None else torch.maximum(lengths, lengths[mix.cpu()])
        with torch.autocast(self.device.type, getattr(torch, self.recipe.amp, torch.bfloat16),
                            enabled=self.amp):
            logits = self.network(x) if lengths is None else self.network(x, lengths)
        logits = logits.float()
        if logits.dim() == 2 or logits.shape[1] == 1:   # one prediction, or one a time step
            lengths = None
        loss = self._cross_entropy(logits, labels, lengths)
        if mix is not None:
            loss = share * loss + (1 - share) * self._cross_entropy(logits, labels[mix], lengths)
        return loss, logits.mean(1) if logits.dim() == 3 else logits

    def _cross_entropy(self, logits, labels, lengths):
        """The mean over clips; with a prediction a time step, each clip's mean over its own steps."""
        smoothing = self.recipe.label_smoothing
        if self.weights is None and lengths is None:
            steps = logits.unbind(1) if logits.dim() == 3 else [logits]
            return sum(F.cross_entropy(z, labels, label_smoothing=smoothing) for z in steps) / len(steps)
        steps = logits if logits.dim() == 3 else logits[:, None]
        losses = F.cross_entropy(steps.movedim(2, 1), labels[:, None].expand(steps.shape[:2]), self.weights,
                                 reduction="none", label_smoothing=smoothing)
        if lengths is None:
            return losses.mean()
        read = torch.arange(steps.shape[1], device=losses.device) < lengths.to(losses.device)[:, None]
        return (torch.where(read, losses, 0).sum(1) / read.sum(1)).mean()

    def update(self):
        """One step of the optimiser with the gradients gathered so far."""
        self.scaler.unscale_(self.optimizer)
        if self.recipe.clip_grad:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        self._set_rates()
        if self.average is not None:
            # A short average at first, else the random first weights would last long
            decay = min(self.recipe.ema, (1 + self.updates) / (10 + self.updates))
            for key, value in self.plain.state_dict().items():
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

    def _swap(self):
        with torch.no_grad():
            for key, value in self.plain.state_dict().items() if self.average is not None else ():
                self.average[key], _ = value.clone(), value.copy_(self.average[key])

    # ------------------------------------------------------------ checkpoints

    def random_state(self):
        """torch's random states of this process."""
        return {"torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []}

    def state(self, random):
        """Optimiser, schedule, scaler and every rank's random_state(); within averaged() the raw weights."""
        return {"optimizer": self.optimizer.state_dict(), "schedule": {"last_epoch": self.updates},
                "plateau": self.plateau.state_dict(), "scaler": self.scaler.state_dict(),
                "raw": self.average, "random": random[0], "random_of_ranks": random}

    def restore(self, state, source):
        """Take up a checkpoint's state(); whether this rank's random state was in it."""
        try:
            _check_moments(state["optimizer"], self.optimizer.defaults, OPTIMIZERS[self.recipe.optimizer][2])
            self.optimizer.load_state_dict(state["optimizer"])
            for group in self.optimizer.param_groups:   # which came from the checkpoint
                group["weight_decay"] = self.recipe.weight_decay
            self.plateau.load_state_dict(state["plateau"])
            self.plateau.optimizer.param_groups[0]["lr"] = float(state["plateau"]["_last_lr"][0])
            self.updates = int(state["schedule"]["last_epoch"])
            self.scaler.load_state_dict(state["scaler"])
            if self.average is not None and state["raw"]:
                raw = {k: v.to(self.device) for k, v in state["raw"].items()}
                self.average = {k: raw[k].view(v.shape).to(v.dtype) for k, v in self.average.items()}
                self._swap()  # the checkpoint's weights were the average
            self._set_rates()
            known = state["random_of_ranks"]
            if len(known) != self.rank.world:
                return False
            random = known[self.rank.number]
            torch.set_rng_state(random["torch"])
            if self.device.type == "cuda" and random["cuda"]:
                torch.cuda.set_rng_state_all(random["cuda"])
            return True
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
            fault = " ".join(str(error).split())[:100]
            raise UserError(f"{source}: learner: its optimiser's or random state is damaged ({fault}); go on "
                            f"from another checkpoint") from None


def _check_moments(saved, defaults, kept):
    """Raise a ValueError unless each parameter has the moments in `kept`, and each group its numbers. (torch
    checks how many there are.)"""
    for number, moments in saved["state"].items():
        for name in kept:
            if not torch.isfinite(moments[name]).all():
                raise ValueError(f"{name} of parameter {number} is not finite")
    for group in saved["param_groups"]:
        for name in sorted({"lr", "weight_decay", "eps", "momentum"} & defaults.keys()):
            if fault := Number(float, low=0).fault(group[name]):
                raise ValueError(f"{name}: {fault}")


def schedule_factor(name, step, warm, total):
    """What the learning rate is multiplied with at a step: a linear warm-up, then by `name`."""
    if step < warm:
        return (step + 1) / (warm + 1)
    done = min(1.0, (step - warm) / max(1, total - warm))
    if name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if name == "step":
        return 0.1 ** int(done * 3)
    if name != "onecycle":
        return 1.0
    # Smith's one cycle: from 1/25 up to 1 in three tenths of all steps, and down to 1/250,000
    top = 0.3 * total - 1
    low, high, done = ((1 / 25, 1, step / top) if step <= top and top > 0 else
                       (1, 1 / 250_000, min(1.0, (step - top) / max(1, total - 1 - top))))
    return high + (low - high) * 0.5 * (1 + math.cos(math.pi * done))


# ---------------------------------------------------------------- epochs

def epochs(learner, feed, progress, last, stop=None, show=lambda step, sums: None):
    """Train until epoch `last` is done. Yields after each whether it is complete (a signal breaks it off);
    the caller then calls progress.finish_epoch. stop, show: see train_epoch."""
    while progress.epoch < last or progress.step:
        if progress.step == 0:      # else one was broken off, and goes on
            progress.epoch += 1
            number = learner.rank.number
            set_seed(learner.recipe.seed, progress.epoch, *([number] if number else []))
        yield train_epoch(learner, feed, progress, stop or Stop(), show)


def train_epoch(learner, feed, progress, stop, show):
    """Go through the epoch's steps that progress has not done; returns True when it is complete.

    stop: a signals.Stop, looked at after every update. show(steps done, sums) is called a few times a
    second. UserError: a loss that is not finite, with its step and clips.
    """
    accumulate, on_cpu = learner.recipe.accumulate, learner.device.type == "cpu"
    rank, steps = learner.rank, learner.steps(progress.epoch)
    learner.network.train()
    # Of the epoch so far, on the device; rank 0 adds the sums over all ranks of one that was broken off
    sums = torch.tensor(progress.sums if rank.first else [0.0] * 3, device=learner.device,
                        dtype=torch.float64 if learner.device.type != "mps" else torch.float32)
    first_bad = torch.full((), -1, dtype=torch.int64, device=learner.device)
    begun = shown = time.monotonic()
    why = 0
    own = [tuple(part[rank.number::rank.world] for part in step) for step in steps[progress.step:]]
    for x, labels, lengths in feed.batches(own):
        # An update is that of one large batch: every clip of its steps counts alike.
        begin = progress.step - progress.step % accumulate
        clips = sum(len(numbers) for numbers, _ in steps[begin:begin + accumulate])
        loss, logits = learner.loss(x, labels, lengths)
        learner.scaler.scale(loss * (len(labels) * rank.world / clips)).backward()
        loss, hits = loss.detach(), (logits.detach().argmax(1) == labels).sum()
        bad = ~torch.isfinite(loss)
        first_bad = torch.where((first_bad < 0) & bad, progress.step, first_bad)
        sums += torch.stack([loss * len(labels), hits, hits.new_tensor(len(labels))])
        progress.step += 1
        if progress.step % accumulate == 0 or progress.step == len(steps):
            # On a CPU this check is free; on a device it waits for the end of the epoch
            why = rank.all_reduce_max(NOT_FINITE if on_cpu and bad else STOPPED if stop.signal else 0)
            if why == NOT_FINITE:
                break
            learner.update()
        if time.monotonic() - shown > 0.3:
            shown = time.monotonic()
            show(progress.step, sums.tolist())
        if why:
            break
    step = int(first_bad)
    if rank.all_reduce_max(step >= 0):      # then every rank ends
        where = f"the loss is not finite in epoch {progress.epoch}"
        if step < 0:
            raise UserError(f"{where}, on another process")
        names = [feed.names[i] for i in steps[step][0].tolist()]
        raise UserError(f"{where}, step {step + 1}, at learning rate {learner.lr:.3g}. The last good "
                        f"checkpoint stays; lower --lr, or look at the clips {', '.join(names)}")
    if rank.world > 1:
        torch.distributed.all_reduce(sums)
    progress.sums = sums.tolist()
    show(progress.step, progress.sums)
    progress.seconds += time.monotonic() - begun
    return progress.step == len(steps)
