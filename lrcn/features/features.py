"""From clips to features, through the feature store, so that every frame is encoded once.

All batches have one shape, the last one filled up: a feature depends neither on its neighbours nor on
interruptions, ranks or the list of clips. See store.py.
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

# A kill loses this much work at most; writing more often slows the encoder.
KEEP_SECONDS = 2
# An encoder with larger features on noise gets float32: float16 ends at 65504.
FLOAT16_ROOM = 4096
HEAD_BATCH = 256    # clips that a head takes at once


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
    """Features of clips, (clips, T, ...), read from disk when they are indexed: 4 bytes a frame in memory.

    features[i], features[[3, 1]], features[5:9] are arrays; np.asarray(features) is all of them.
    read: index (...) -> array (..., *shape). lengths: see unique_rows.
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
        return self.read(self.index[clips])

    def __array__(self, dtype=None, copy=None):
        return self.read(self.index).astype(dtype or self.dtype, copy=False)


def encode_clips(encoder, clips, folder, options, what="frames"):
    """Features of frames.Clips, kept in the store of `folder` unless options.cache is off; float32 where
    float16 is too small.

    encoder: a frozen models.Encoder, or models.Streams of several, each of which has its features
    under a key of its own.
    """
    if hasattr(encoder, "streams"):
        clips = list(clips)
        parts = [encode_clips(stream, clips, folder, options, what) for stream in encoder.streams]
        return Features(lambda clips: np.concatenate([part[clips] for part in parts], -1),
                        np.arange(len(clips)), (*parts[0].shape[1:-1], sum(part.shape[-1] for part in parts)),
                        np.result_type(*(part.dtype for part in parts)), parts[0].lengths)
    rows, index, lengths = unique_rows(clips)
    if not options.cache:
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
    for _ in range(3):      # somebody may delete features/ meanwhile
        store, numbers = _encode_missing(encoder, rows, folder, options, what)
        if (numbers >= 0).all():
            for segment in store.segments:      # needed to find rows, not to read them
                segment.entries = None
            index = numbers.astype(np.uint32 if len(numbers) < 2**32 else np.int64)[index]
            return Features(store.read, index, store.shape, store.dtype, lengths)
    raise UserError(f"--sampled_data_path {folder}: what was written to {store.path} is read back with other "
                    "values; check this disk, or give --no-feature_cache")


def _encode_missing(encoder, rows, folder, options, what):
    """(Store, int64: the number of each row in it), once all ranks have encoded what was missing."""
    rank = options.rank
    with contextlib.ExitStack() as held:
        plan, ready, store = _plan(encoder, rows, folder, options, what, held) if rank.first else (None,) * 3
        engine, key, description, wanted, numbers, stamps = rank.broadcast(plan)
        store = store or Store(folder, key, description)
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
        segments = [(segment.path, segment.count) for segment in store.segments]
        numbers, segments = rank.broadcast((numbers, segments) if rank.first else None)
        if not rank.first:      # the same numbers on all ranks
            store.segments = [Segment(path, store.row_bytes, count) for path, count in segments]
    return store, numbers


def _plan(encoder, rows, folder, options, what, held):
    """(plan, FrameEncoder or None, Store); `held` holds the store's lock.

    plan: Engine, key, description, ENTRY of every row, its number in the store (-1: missing), files' stamps.
    """
    wanted, stamps = entries_of(folder, rows, options.seed, encoder.transform.parts)

    def judge(engine):
        store, ready = Store(folder, store_key(encoder, engine, options)), None
        lock = held.enter_context(contextlib.ExitStack())
        lock.enter_context(store.alone())
        before = store.look() or {}
        if before.get("judged_by") != engine.judged_by:
            ready, new = _first_use(encoder, engine, rows, folder, options)
            rows_keep = {name: before[name] for name in ("shape", "dtype") if ready and name in before}
            store.describe(**(new | rows_keep))
        fault = store.description.get("refused")
        if fault:
            lock.close()
        return (store, ready), fault

    engine, (store, ready) = choose(encoder, options.backend, options.precision, options.device, judge)
    numbers = store.open().find(wanted)
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
    """All that a feature depends on beside its picture, in plain containers as they come back from JSON."""
    spec = json.loads(json.dumps(encoder.spec()))
    if spec.get("augment") == "none":   # which changes no picture
        del spec["augment"]
    spec.pop("chunk_stride", None)      # nor does it change a chunk
    return {"format": FORMAT, "encoder": spec, "weights": encoder.digest(), "backend": engine.backend,
            "precision": engine.precision, "device": options.device.type,
            "batch": block(encoder.transform, options.device), "wanted_dtype": options.dtype}


def _first_use(encoder, engine, rows, folder, options):
    """(FrameEncoder, {shape, dtype, judged_by}) of an engine that serves on frames from all over the rows,
    else (None, {refused, judged_by}). The features of noise decide the dtype."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, judged(encoder.transform)).astype(int))
    blocks = Blocks(rows, chosen, folder, encoder.transform, options)
    frames = torch.cat([blocks[i] for i in range(len(blocks))])[:len(chosen)]
    ready, fault = attempt(encoder, options.device, engine, frames, options.compile)
    if fault:
        return None, {"refused": fault, "judged_by": engine.judged_by}
    noise = torch.Generator().manual_seed(0)
    values = ready(torch.randint(0, 256, blocks[0].shape, dtype=torch.uint8, generator=noise))
    small = options.dtype == "float16" and bool(values.abs().max() < FLOAT16_ROOM)
    # in deep networks without trained weights activations grow without bound
    return ready, {"shape": list(values.shape[1:]), "dtype": "float16" if small else "float32",
                   "judged_by": engine.judged_by}


def _encode(frame_encoder, blocks, keep, dtype, options, what):
    """Encode blocks; keep(numbers of rows, values) gets the features in order, every few seconds."""
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
        flush()     # after a Ctrl-C too


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
def head_logits(head, values, device="cpu"):
    """Logits float32 (clips, C) of features (clips, T, D), an array or Features."""
    head, lengths, logits = head.to(device).eval(), getattr(values, "lengths", None), []
    for i in range(0, len(values), HEAD_BATCH):
        part = slice(i, i + HEAD_BATCH)
        some = torch.from_numpy(np.ascontiguousarray(values[part]))
        own = None if lengths is None else torch.from_numpy(lengths[part])
        some = some if own is None else some[:, :own.max()]
        logits.append(head(some.to(device).float(), own).float().cpu())
    return torch.cat(logits)


def softmax(logits):
    """Probabilities (..., C) of logits; UserError where a damaged model gives nan or inf."""
    if not torch.isfinite(logits).all():
        raise UserError("--model_dir: the answers of this model are not finite: its weights or its transform "
                        "are damaged; take another checkpoint")
    return logits.softmax(-1)


def predict_videos(model, sampler, data, options, number=1, flip=False, temperature=None):
    """Probabilities float64 (videos, C): the mean softmax of a video's windows. With a temperature a pair:
    these, and those with it instead of the head's own."""
    values, owner = clip_features(model, sampler, data, options, number, flip)
    logits = head_logits(model.head, values, options.device).double()

    def averaged(logits):
        total = np.zeros((len(data.videos), logits.shape[1]))
        np.add.at(total, owner, softmax(logits).numpy())
        return total / np.bincount(owner)[:, None]

    if temperature is None:
        return averaged(logits)
    return averaged(logits), averaged(logits * (model.head.spec["temperature"] / temperature))
