"""Measure where the time goes: sampling, decoding, encoding, the head, and the whole job.

    python benchmark.py --sampled_data_path sampled --ucf_list_dir ucfTrainTestlist \\
        --row_data_dir UCF-101 --encoder resnet152 --encoder_weights none --end_to_end

prints the rate of each step, medians of --repeats with their range, and writes benchmark.json. The bare
encoder (a batch that is ready on the device) and the encoder with everything around it (files read,
decoded, resized, features written) are timed in turns, so that their ratio holds on a busy machine.
"""
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import networks
import utils
from lrcn import runs
from lrcn.base import Lazy, cli, files
from lrcn.base.values import POSITIVE
from lrcn.data.frames import ClipSampler, clip_frames
from lrcn.data.manifest import SampledVideo, read_sampled
from lrcn.features.engines import BACKENDS, PRECISIONS, Engine, attempt, block, fastest, installed, judged
from lrcn.features.features import Options, encode_clips
from lrcn.features.rows import unique_rows
from lrcn.training import loop
from lrcn.training.feeds import FeatureFeed
from lrcn.training.recipe import DECIDED, Recipe, add_flags

torch = Lazy("torch")
models = Lazy("models")

HERE = Path(__file__).resolve().parent
OF_TRAIN = ("sampled_data_path", "ucf_list_dir", "encoder", "encoder_weights", "img_dim", "chunk_frames",
            "epochs", "encoder_backend", "encoder_precision", "device", "num_workers", "compile")
# {name in benchmark.json: (title, unit)}, in the order of measure_encoding's rows
RATES = {"decode": ("decode and resize, one thread", "frames/s"),
         "encode_bare": ("the bare encoder", "frames/s"),
         "start": ("the first clips into an empty store", "s"),
         "encode_cached": ("files to store, once under way", "frames/s"),
         "fraction": ("... of the bare rate", ""), "whole": ("... with the start", "frames/s")}


def make_parser():
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--row_data_dir", "--raw_data_dir", dest="row_data_dir", metavar="DIR", default=None,
        help="folder of the raw videos, to time preprocessing_data.py")
    add("--frames", type=POSITIVE, default=240,
        help="sampled frames, or chunks, to decode and encode in each repeat")
    add("--clips", type=POSITIVE, default=288, help="clips of the head's timed epochs")
    add("--num_frames_video", type=POSITIVE, default=5, help="frames in a clip")
    add("--repeats", type=POSITIVE, default=3, help="measurements of each rate")
    add_flags(parser, DECIDED.keys() - OF_TRAIN, group="flags of train.py")
    parser.set_defaults(encoder_weights="none", num_workers=2)      # the speed does not depend on weights
    parser.add_boolean("--engines", default=False, help="time every engine that is installed, in turns")
    parser.add_boolean("--end_to_end", default=False,
                       help="time train.py and test.py, and one epoch with --no-feature_cache")
    add("--output", default="benchmark.json", metavar="FILE", help="where the figures go")
    return parser


def rate(name, unit, values, **more):
    """One measured rate: printed, and returned for the file."""
    middle = statistics.median(values)
    spread = f"{min(values):.4g} to {max(values):.4g}, n = {len(values)}" if len(values) > 1 else "n = 1"
    cli.say(f"{name:<34}{middle:>10.4g} {unit}  ({spread})")
    return {"unit": unit, "median": middle, "values": values, **more}


def timed(work, *values):
    begun = time.perf_counter()
    work(*values)
    return time.perf_counter() - begun


def script(*command):
    """Run one of the scripts as a user does."""
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, cwd=HERE)
    if done.returncode:
        raise cli.UserError(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1]}")


def linked_copy(folder, where):
    """A folder with the sampled clips of `folder` and no feature cache, made of links."""
    where.mkdir()
    for path in Path(folder).resolve().iterdir():
        if path.name not in ("features", ".lock"):
            (where / path.name).symlink_to(path)
    return where


def measure_encoding(recipe, args, device, folder, scratch):
    """Decoding alone, the bare encoder, and the encoder behind the store."""
    length, encoder = recipe.num_frames_video, networks.new_encoder(recipe, None).to(device)
    unit, sampler = encoder.transform.unit, ClipSampler.of(recipe)
    clips = [clip for v in read_sampled(folder) for clip in sampler.windows(v, "all")[::length]]
    clips = clips[:max(2, args.frames // length)]       # --frames in all, none of them twice
    bare = fastest(encoder, device, recipe.encoder_backend, recipe.encoder_precision, recipe.compile)
    cli.say(f"{recipe.encoder}: {bare.engine}")
    size = block(encoder.transform, device)
    batch = torch.randint(0, 256, (size, *encoder.transform.shape), dtype=torch.uint8).to(device)
    # An engine is judged by so many frames, or chunks, when it is first used
    first = clips[:max(1, min(len(clips) // 2, judged(encoder.transform) // length))]
    frames, few = (len(unique_rows(some)[0]) for some in (clips, first))
    blocks = max(1, frames // size)

    def decode():
        for clip in clips:
            clip_frames(folder, clip, encoder.transform, 0)

    def store(name, some):
        options = Options(device, recipe.num_workers, compile=recipe.compile, backend=recipe.encoder_backend,
                          precision=recipe.encoder_precision)
        encode_clips(encoder, some, linked_copy(folder, scratch / name), options)

    rows = []
    bare_rate(bare, batch, blocks)
    for i in range(args.repeats):
        decoded, before = frames / timed(decode), bare_rate(bare, batch, blocks)
        start, whole = timed(store, f"one{i}", first), timed(store, f"all{i}", clips)
        alone = (before + bare_rate(bare, batch, blocks)) / 2
        cached = (frames - few) / max(whole - start, whole / 10)    # few frames: all may seem to be the start
        rows.append((decoded, alone, start, cached, cached / alone, frames / whole))
    kinds = [Engine(backend, precision) for backend in BACKENDS[1:] for precision in PRECISIONS[1:]
             if args.engines and installed(backend) and (backend, precision) != ("onnxruntime", "bfloat16")
             and (device.type == "cpu" or backend == "torch")]
    ready = {kind: attempt(encoder, device, kind, batch.cpu(), recipe.compile)[0] for kind in kinds}
    ready = {kind: encode for kind, encode in ready.items() if encode}
    turns = [[bare_rate(encode, batch, blocks) for encode in ready.values()] for _ in range(args.repeats)]
    engines = {str(kind): rate(f"{kind}, bare", f"{unit}/s", values)
               for kind, *values in zip(ready, *turns, strict=True)}
    columns = zip(RATES, zip(*rows, strict=True), strict=True)
    rates = {name: rate(*(word.replace("frames", unit) for word in RATES[name]), values)
             for name, values in columns}
    return {"engines": engines, "engine": str(bare.engine), **rates}, encoder.feature_dim


def bare_rate(encode, batch, blocks):
    """Frames a second of an engine on a batch that lies ready; .cpu() waits for the device."""
    return blocks * len(batch) / timed(lambda: [values.cpu() for values in encode.each([batch] * blocks)])


def measure_whole(recipe, folder, scratch):
    """train.py with its encoding and test.py; and one epoch that decodes and encodes every clip anew."""
    fresh, epochs = linked_copy(folder, scratch / "whole"), recipe.epochs
    words = replace(recipe, sampled_data_path=str(fresh), open_new_folder="False").words()
    train = timed(script, "train.py", *words, "--local_dir", scratch / "cached")
    test = timed(script, "test.py", "--model_dir", scratch / "cached")
    script("train.py", *words, "--no-feature_cache", "--epochs", 1, "--local_dir", scratch / "frames")
    epoch = float(files.read_csv(scratch / "frames" / "metrics.csv", ("seconds",))[0]["seconds"])
    return {"train": rate(f"train.py, {epochs} epochs and encoding", "s", [train]),
            "test": rate("test.py", "s", [test]),
            "epoch_without_cache": rate("an epoch with --no-feature_cache", "s", [epoch]),
            "times_faster": rate(f"{epochs} epochs, faster by the cache", "times", [epochs * epoch / train])}


def main():
    args = make_parser().parse_args()
    folder = cli.folder("sampled_data_path", args.sampled_data_path, "make it with preprocessing_data.py")
    device = utils.choose_device(args.device)
    choices = {name: getattr(args, name) for name in (*OF_TRAIN, "num_frames_video")}
    recipe = Recipe(**{**choices, "sampled_data_path": None})       # nothing is kept beside the clips
    result = {"machine": {**runs.versions(), "device": str(device), "threads": torch.get_num_threads()},
              "settings": vars(args)}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        scratch = Path(scratch)
        if args.row_data_dir:
            source = cli.folder("row_data_dir", args.row_data_dir, "give the folder of the raw videos")
            outputs = [scratch / f"sampled{i}" for i in range(args.repeats)]
            seconds = [timed(script, "preprocessing_data.py", "--row_data_dir", source.resolve(),
                             "--sampled_data_dir", out) for out in outputs]
            videos = len(files.read_csv(outputs[0] / "manifest.csv", ("video",)))
            result["sampling"] = rate("sampling, whole process", "videos/s", [videos / s for s in seconds],
                                      videos=videos)
        encoding, width = measure_encoding(recipe, args, device, folder, scratch)
        result |= encoding
        # Epochs of the default head on features that lie on the device
        values = np.random.default_rng(0).standard_normal((args.clips, recipe.num_frames_video, width))
        samples = [SampledVideo(f"v{i}", "c", "g", 5, "train", label=i % 101) for i in range(args.clips)]
        feed = FeatureFeed([values.astype(np.float16)], samples, device)
        head = models.Head(width, 101).to(device)
        groups = [{"params": list(head.parameters()), "lr": Recipe.lr}]
        learner, progress = loop.Learner(head, groups, Recipe(), feed, device), loop.Progress()
        seconds = []
        for _ in loop.epochs(learner, feed, progress, args.repeats + 1):
            seconds.append(progress.seconds)
            progress.finish_epoch(learner, None)
        result["head"] = rate(f"head, an epoch of {args.clips} clips", "s", seconds[1:], clips=args.clips)
        if args.end_to_end:
            result |= measure_whole(recipe, folder, scratch)
    files.write_json(args.output, result)
    cli.say(args.output)


if __name__ == "__main__":
    cli.run(main)
