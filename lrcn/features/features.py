"""Encode every frame once: from clips to features, through the feature store.

Frames are encoded in batches of one fixed shape, the last one filled up, so that a feature depends
neither on its neighbours nor on interruptions, ranks or the list of clips. See store.py.
"""
import contextlib
import json
import time
from dataclasses import dataclass, field, replace

import numpy as np

from lrcn.base import Lazy, UserError, cli, inference_mode
from lrcn.base.distributed import Rank
from lrcn.base.workers import in_threads
from lrcn.features.engines import FrameEncoder, attempt, block, choose, judged
from lrcn.features.rows import Blocks, entries_of, unique_rows
from lrcn.features.store import FORMAT, Segment, Store

torch = Lazy("torch")

# What a kill costs at the most; a store that is written more often slows the encoder.
KEEP_SECONDS = 2
# Features larger than this on a probe are kept in float32: float16 ends at 65504.
FLOAT16_ROOM = 4096


@dataclass
class Options:
    """How frames are encoded. backend, precision: see engines.candidates."""
    device: "torch.device"
    num_workers: int = 2
    seed: int = 42
    cache: bool = True
    dtype: str = "float16"
    compile: bool = False
    rank: Rank = field(default_factory=Rank)
    backend: str = "torch"
    precision: str = "auto"


class Features:
    """Features of clips, (clips, T, ...), that are read when asked for: 4 bytes a frame in memory.

    features[i], features[[3, 1]], features[5:9] are arrays; np.asarray(features) is all of them.
    read: index (...) -> array (..., *shape). lengths: as of unique_rows.
    """

    def __init__(self, read, index, shape, dtype, lengths=None):
        self.read, self.index, self.dtype = read, index, np.dtype(dtype)
        self.shape, self.lengths = (*index.shape, *shape), lengths

    def __len__(self):
        return len(self.index)

    @property
    def nbytes(self):
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def part(self, clips):
        """The Features of some of the clips."""
        index = self.index[clips]
        lengths = None if self.lengths is None else self.lengths[clips]
        return Features(self.read, index, self.shape[index.ndim:], self.dtype, lengths)

    def __getitem__(self, clips):
        if isinstance(clips, tuple):
            return self[clips[0]][clips[1:]]
        return self.read(self.index[clips])

    def __array__(self, dtype=None, copy=None):
        return self.read(self.index).astype(dtype or self.dtype, copy=False)


def encode_clips(encoder, clips, folder, options, what="frames"):
    """Features of clips; every frame of a view is encoded once, in the life of a data set.

    float32 takes the place of float16 where the features would not fit into it.
    encoder: a frozen models.Encoder (or what is left of one, see its `spec` and `digest`), or several
    as `streams` of one, each of which has its features under a key of its own.
    clips: frames.Clips. Kept in the store of `folder` unless options.cache is off.
    """
    if hasattr(encoder, "streams"):
        clips = list(clips)
        parts = [encode_clips(stream, clips, folder, options, what) for stream in encoder.streams]
        return Features(lambda clips: np.concatenate([part[clips] for part in parts], -1),
                        np.arange(len(clips)), (*parts[0].shape[1:-1], sum(part.shape[-1] for part in parts)),
                        np.result_type(*(part.dtype for part in parts)), parts[0].lengths)
    rows, index, lengths = unique_rows(clips)
    if not options.cache:   # the same features, kept nowhere
        def judge(engine):
            first = _first_use(encoder, engine, rows, folder, options)
            return first, first[1].get("refused")

        engine, (ready, layout) = choose(encoder, options.backend, options.precision, options.device, judge)
        if options.rank.first:
            cli.say(f"encoding {what}: {len(rows)} {encoder.transform.unit}; {engine}")
        values = np.empty((len(rows), *layout["shape"]), layout["dtype"])
        _encode(ready, Blocks(rows, np.arange(len(rows)), folder, encoder.transform, options),
                values.__setitem__, values.dtype, options, what)
        return Features(values.__getitem__, index, values.shape[1:], values.dtype, lengths)
    for _ in range(3):      # features/ may be deleted under this run
        store, numbers = _encode_missing(encoder, rows, folder, options, what)
        if (numbers >= 0).all():
            for segment in store.segments:      # the rows that were found can still be read
                segment.entries = None
            index = numbers.astype(np.uint32 if len(numbers) < 2**32 else np.int64)[index]
            return Features(store.read, index, store.shape, store.dtype, lengths)
    raise UserError(f"--sampled_data_path {folder}: what was written to {store.path} is read back with other "
                    "values; check this disk, or give --no-feature_cache")


def _encode_missing(encoder, rows, folder, options, what):
    """(Store, the number of each row in it, int64): what was not there is encoded, by all ranks."""
    rank = options.rank
    with contextlib.ExitStack() as held:
        plan, ready, store = _plan(encoder, rows, folder, options, what, held) if rank.first else (None,) * 3
        engine, key, description, wanted, numbers, stamps = rank.broadcast(plan)
        store = store or Store(folder, key).lay_out(description)
        pending = np.flatnonzero(numbers < 0)
        if len(pending):
            mine = np.array_split(pending, rank.world)[rank.number]
            ready = ready or FrameEncoder(encoder, options.device, options.compile, engine)
            with contextlib.closing(store.writer(rank.number)) as writer:
                _encode(ready, Blocks(rows, mine, folder, encoder.transform, options, stamps),
                        lambda some, values: writer.put(wanted[some], values), store.dtype, options, what)
            rank.barrier()
            if rank.first:
                numbers[pending] = store.open().find(wanted[pending])
        seen = [(segment.path, segment.first, segment.count) for segment in store.segments]
        numbers, seen = rank.broadcast((numbers, seen) if rank.first else None)
        if not rank.first:      # the same numbers as the first process's
            for path, first, count in seen:
                store.add(Segment(path, store.row_bytes), first, count)
    return store, numbers


def _plan(encoder, rows, folder, options, what, held):
    """(plan, FrameEncoder or None, Store); `held` keeps the store for this run.

    plan: Engine, key, description, ENTRY of every row, its number in the store of this key (-1: it is to be
    encoded), stamps of the files.
    """
    wanted, stamps = entries_of(folder, rows, options.seed, encoder.transform.parts)

    def judge(engine):
        store, ready = Store(folder, store_key(encoder, engine, options)), None
        lock = held.enter_context(contextlib.ExitStack())
        lock.enter_context(store.alone())
        before = store.look() or {}
        if before.get("judged_by") != engine.judged_by:
            ready, new = _first_use(encoder, engine, rows, folder, options)
            # Its rows keep their shape.
            kept = {name: before[name] for name in ("shape", "dtype") if ready and name in before}
            store.describe(**(new | kept))
        fault = store.description.get("refused")
        if fault:
            lock.close()
        return (store, ready), fault

    engine, (store, ready) = choose(encoder, options.backend, options.precision, options.device, judge)
    numbers = store.lay_out(store.description).open().find(wanted)
    missing, unit = int((numbers < 0).sum()), encoder.transform.unit
    if missing:
        store.require_space(missing)
        elsewhere = (f"; {store.places[-1].parent} cannot be written, they go to {store.path}"
                     if store.places[1:] else "")
        cli.say(f"encoding {what}: {missing} {unit}, {len(rows) - missing} more are in the feature store; "
                f"{engine}{elsewhere}")
    else:
        cli.say(f"{what}: all {len(rows)} {unit} are in the feature store; {engine}")
    return (engine, store.key, store.description, wanted, numbers, stamps), ready, store


def store_key(encoder, engine, options):
    """What a feature depends on beside its picture, in plain containers as they come back from JSON."""
    spec = json.loads(json.dumps(encoder.spec()))
    if spec.get("augment") == "none":   # its pictures are the plain ones
        del spec["augment"]
    spec.pop("chunk_stride", None)      # says which chunks there are, and not what is in one
    return {"format": FORMAT, "encoder": spec, "weights": encoder.digest(), "backend": engine.backend,
            "precision": engine.precision, "device": options.device.type,
            "batch": block(encoder.transform, options.device), "wanted_dtype": options.dtype}


def _first_use(encoder, engine, rows, folder, options):
    """(FrameEncoder, {shape, dtype, judged_by}) of an engine that serves by frames from all over the rows,
    else (None, {refused, judged_by}). Noise says how large features get."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, judged(encoder.transform)).astype(int))
    blocks = Blocks(rows, chosen, folder, encoder.transform, options)
    frames = torch.cat([blocks[i] for i in range(len(blocks))])[:len(chosen)]
    ready, fault = attempt(encoder, options.device, engine, frames, options.compile)
    if fault:
        return None, {"refused": fault, "judged_by": engine.judged_by}
    noise = torch.Generator().manual_seed(0)
    values = ready(torch.randint(0, 256, blocks[0].shape, dtype=torch.uint8, generator=noise))
    small = options.dtype == "float16" and bool(values.abs().max() < FLOAT16_ROOM)
    # Deep networks without trained weights let their activations grow without bound.
    return ready, {"shape": list(values.shape[1:]), "dtype": "float16" if small else "float32",
                   "judged_by": engine.judged_by}


def _encode(frame_encoder, blocks, keep, dtype, options, what):
    """Run blocks through the encoder; keep(rows' numbers, values) gets them in order, every few seconds."""
    bar = cli.progress(total=len(blocks.chosen), unit=blocks.transform.unit[:-1], desc=f"encoding {what}",
                       show=options.rank.first, mininterval=0.5, smoothing=0.05)
    done, kept_at = [], time.monotonic()

    def flush():
        nonlocal done, kept_at
        if done:
            keep(*map(np.concatenate, zip(*done, strict=True)))
        done, kept_at = [], time.monotonic()

    decoded = in_threads(blocks.__getitem__, range(len(blocks)), options.num_workers)
    try:
        for i, values in enumerate(frame_encoder.each(decoded)):
            numbers = blocks.numbers(i)
            values = values[:len(numbers)].to(getattr(torch, dtype.name))
            done.append((numbers, values.cpu().numpy()))
            bar.update(len(numbers))
            if time.monotonic() - kept_at > KEEP_SECONDS:
                flush()
    finally:
        decoded.close()
        bar.close()
        flush()  # what was encoded before a Ctrl-C is kept


# ---------------------------------------------------------------- what a trained model says of videos

def clip_features(model, sampler, data, options, number=1, flip=False):
    """(Features (clips, T, D), the clips' videos int (clips,)) of all test windows of a ClipSampler."""
    clips, owner = [], []
    for i, video in enumerate(data.videos):
        mine = sampler.windows(video, number)
        mine += [replace(clip, view=-1) for clip in mine] if flip else []
        clips += mine
        owner += [i] * len(mine)
    return encode_clips(model.encoder, clips, data.folder, options, "test"), np.array(owner)


@inference_mode
def head_logits(head, values, device="cpu", chunk=256):
    """Logits float32 (clips, C) of features (clips, T, D), an array or Features, in chunks of one size."""
    head, lengths = head.to(device).eval(), getattr(values, "lengths", None)

    def part(i):
        some = torch.from_numpy(np.ascontiguousarray(values[i:i + chunk]))
        own = None if lengths is None else torch.from_numpy(lengths[i:i + chunk])
        some = some if own is None else some[:, :own.max()]
        return head(some.to(device).float(), own).float().cpu()
    return torch.cat([part(i) for i in range(0, len(values), chunk)])


def softmax(logits):
    """Probabilities (..., C) of logits; UserError where a damaged model gives what is no number."""
    if not torch.isfinite(logits).all():
        raise UserError("--model_dir: the answers of this model are not finite: its weights or its transform "
                        "are damaged; take another checkpoint")
    return logits.softmax(-1)


def predict_videos(model, sampler, data, options, number=1, flip=False, temperature=None):
    """Probabilities float64 (videos, C): the softmax, averaged over a video's windows. With a temperature
    (probabilities, those that it would give in the place of the head's own)."""
    values, owner = clip_features(model, sampler, data, options, number, flip)
    logits = head_logits(model.head, values, options.device).double()

    def averaged(logits):
        total = np.zeros((len(data.videos), logits.shape[1]))
        np.add.at(total, owner, softmax(logits).numpy())
        return total / np.bincount(owner)[:, None]

    if temperature is None:
        return averaged(logits)
    return averaged(logits), averaged(logits * (model.head.spec["temperature"] / temperature))
