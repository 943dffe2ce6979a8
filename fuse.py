"""Several runs, one answer: the mean of their probabilities (late fusion), or a head over all of them.

    python fuse.py RUN_A RUN_B                      # Simonyan and Zisserman 2014, section 5
    python fuse.py RUN_A RUN_B --weights 1 2        # or tuned: the smallest validation loss
    python fuse.py --train RUN_A RUN_B --rnn gru --readout attention --epochs 30

The first two average what test.py wrote for each run (test videos, classes and split have to be the same)
and write <local_dir>/<YYYYmmdd-HHMMSS>-fused/test/ as test.py does. The third trains a head on the features
of the runs' encoders: train.py --streams with the first run's data, split and parts; all flags of train.py
work. The last line is the folder (docs/fusion.md).
"""
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

import dataset
import utils
from lrcn.base import UserError, cli, files
from lrcn.base.distributed import ranks
from lrcn.base.values import COUNT, Number, number_or_all
from lrcn.data.frames import MODALITIES, ClipSampler
from lrcn.evaluation import results, scores
from lrcn.evaluation.answers import RANDOM, read_tested
from lrcn.evaluation.intervals import compare
from lrcn.features.features import predict_videos
from lrcn.runs import RunFolder, check_name, new_run_folder
from lrcn.training.recipe import OF_AN_ENCODER, Recipe, add_flags, parse

# What a trained fusion has from its streams, or cannot have.
NOT_OF_A_FUSION = (*OF_AN_ENCODER, "augment", "init_from", "streams", "parts", "train_encoder", "encoder_lr",
                   "train_batch_norm", "recompute", "feature_cache", "resume", "load_checkpoint",
                   "checkpoint_path")
OF_THE_FIRST = ("sampled_data_path", "ucf_list_dir", "split", "group_pattern", "groups", "split_size",
                "num_frames_video", "seed")


def make_parser():
    parser = cli.Parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders that test.py has tested")
    parser.add_argument("--weights", nargs="+", type=Number(float, low=0, word="tuned"), metavar="W",
                        help="a weight for every run (default: equal), or `tuned` on the validation part")
    # no add_boolean: a RUN follows it
    parser.add_argument("--train", action="store_true", help="train a head over the runs' encoders")
    output = parser.group("output")
    output.add_argument("--output_dir", metavar="DIR", help="folder of a mean (default: a new run folder)")
    output.add_argument("--num_videos", type=COUNT, default=30, help="labelled clips to write, for a mean")
    add_flags(parser, NOT_OF_A_FUSION, lambda f: "the first run's" if f in OF_THE_FIRST else "train.py's")
    return parser


# ---------------------------------------------------------------- streams

class Stream:
    """A tested run; its `answers` are in the order of the first stream's. UserError: it was tested on
    something else than the first."""

    def __init__(self, folder, first=None):
        self.run, self.metrics, self.answers = read_tested(folder)
        if first is None:
            return
        split, other = (s.metrics.get("split") for s in (self, first))
        if split != other:
            raise UserError(f"{self.run}: tested on split {split}, {first.run} on {other}; test both on one")
        mine, theirs = (set(s.answers.classes) for s in (self, first))
        if mine != theirs:
            raise UserError(f"{self.run}: knows other classes than {first.run} ({min(mine ^ theirs)} is in "
                            "only one of them); train both on the same")
        try:
            self.answers = self.answers.of(first.answers.names).with_classes(first.answers.classes)
        except ValueError:
            raise UserError(f"{self.run}: tested on other videos than {first.run}; use the same") from None


def choose_weights(words, streams, args):
    """(weights (S,), where they are from) of --weights. `tuned`: the least cross-entropy on the videos that
    all runs held out for validation."""
    if words is None:
        return np.ones(len(streams)), "equal"
    if words == ["tuned"]:
        device = utils.choose_device(args.device or "auto")
        known = [on_validation(stream, args, device) for stream in streams]
        common = sorted(set.intersection(*map(set, known)))
        if not common:
            raise UserError("--weights tuned: no video is in the validation part of all runs; train them "
                            "with one --seed and --split_size, or give numbers")
        weights = scores.likeliest_weights(np.array([[own[video] for video in common] for own in known]))
        chosen = f"on {len(common)} validation videos"
        cli.say(f"--weights tuned: {', '.join(f'{w:.3f}' for w in weights)}, chosen {chosen}")
        return weights, f"tuned {chosen}"
    if len(words) != len(streams) or "tuned" in words or not sum(words):
        raise UserError(f"--weights {' '.join(map(str, words))}: expected {len(streams)} numbers, one for "
                        "each run and not all 0, or the word tuned")
    return np.array(words), "given"


def on_validation(stream, args, device):
    """{(class, video): a stream's probability of the true class} in its run's validation part."""
    windows, flip = stream.metrics.get("windows", 1), stream.metrics.get("flip") is True
    if fault := number_or_all.fault(windows):
        raise UserError(f"{stream.run.test.metrics}: windows: {fault}; run test.py again")
    trained = utils.load_trained(stream.run.path, stream.metrics.get("checkpoint"), device, flag="runs")
    data = dataset.validation_data(trained)
    cli.say(f"{stream.run}: {data.note}")
    options = utils.encoding_options(args, trained)
    p = predict_videos(trained.model, ClipSampler.of(trained.recipe), data, options, windows, flip)
    return dict(zip(data.names, p[np.arange(len(p)), data.labels], strict=True))


def fuse(streams, weights, origin, folder, args):
    """Write the report of the weighted mean into a RunFolder."""
    first = streams[0].answers
    fused = replace(first, probabilities=scores.weighted_mean([s.answers.probabilities for s in streams],
                                                              weights))
    right = fused.predicted == fused.labels
    figures = [compare(right, first.groups, s.answers.right) for s in streams]
    gains = [{"run": str(s.run.path.resolve()), "weight": float(w), "top1": float(s.answers.right.mean()),
              "gain": f.minus, "gain_ci95": f.minus_ci95, "mcnemar_p": f.p}
             for s, w, f in zip(streams, weights / weights.sum(), figures, strict=True)]
    sizes = [stream.metrics.get("parameters") for stream in streams]
    leak = next((s.metrics.get("leak") or RANDOM for s in streams if s.metrics.get("leaky")), "")
    data = dataset.tested_data(fused, streams[0].run, streams[0].metrics.get("split"), leak)
    if data.folder is None:
        cli.say("the sampled clips are no longer where the first run had them: no pictures of frames")
    more = {}
    for name in ("windows", "flip", "checkpoint", "encoder", "readout", "num_frames_video", "sampling_rate",
                 "seed"):
        values = [stream.metrics.get(name) for stream in streams]
        more[name] = values[0] if all(v == values[0] for v in values) else " + ".join(map(str, values))
    more |= {"parameters": None if None in sizes else sum(sizes), "streams": gains, "weights": origin}
    cli.say(results.write(folder.test, data, more, args.num_videos,
                          Recipe.seed if args.seed is None else args.seed))
    for stream, gain, f in zip(streams, gains, figures, strict=True):
        cli.say(f"{stream.run}: weight {gain['weight']:.3f}, alone {gain['top1']:.3f}; the fusion gains "
                f"{f.difference}, McNemar p {f.p:.2g}")


def train(args):
    """Train a head with --streams, as train.py does; its exit status."""
    runs = [utils.load_trained(folder, flag="runs") for folder in args.runs]
    for run in runs:
        if run.recipe.streams:
            raise UserError(f"runs {run.folder}: this is itself a fusion; give the runs that it is made of")
    first = runs[0]
    parts = RunFolder(first.folder).splits
    if not parts.is_file():
        raise UserError(f"runs {first.folder}: its splits.csv is missing, which says what was held out")
    given = {f.name: value for f in fields(Recipe) if (value := getattr(args, f.name, None)) is not None}
    chunk = max(run.chunk for run in runs)      # a stream without chunks sees the first frame of each
    # What the encoders see together: the data have to hold it.
    transforms = [run.model.encoder.transform for run in runs]
    parts_seen = {part for transform in transforms for part in transform.parts}
    [modality] = [one for one in MODALITIES if set(one.split("+")) == parts_seen]
    recipe = Recipe(**{name: getattr(first.recipe, name) for name in OF_THE_FIRST} | given,
                    encoder=" + ".join(run.model.encoder.name for run in runs), modality=modality,
                    flow_length=max(t.flow_length for t in transforms), parts=str(parts),
                    streams=[str(run.folder) for run in runs],
                    **({"chunk_frames": chunk[0], "chunk_stride": chunk[1]} if chunk != (1, 1) else {}))
    recipe, _ = parse("", recipe.words())
    device = utils.choose_device(recipe.device)
    with ranks(device) as rank:
        return utils.train(recipe, None, device, rank)


def main():
    args = make_parser().parse_args()
    if len(args.runs) < 2:
        raise UserError(f"runs {args.runs[0]}: a fusion needs two or more runs")
    if args.train:
        return train(args)
    if args.name:
        check_name(args.name, args.local_dir or ".")
    args.num_workers = Recipe.num_workers if args.num_workers is None else args.num_workers
    first = Stream(args.runs[0])
    streams = [first, *(Stream(folder, first) for folder in args.runs[1:])]
    weights, origin = choose_weights(args.weights, streams, args)
    if not args.output_dir:
        folder = RunFolder(new_run_folder(args.local_dir or ".", "True", "-fused", args.name))
    else:
        folder = RunFolder(Path(args.output_dir).expanduser())
        if folder.checkpoints.exists():
            raise UserError(f"--output_dir {folder}: this is a run of train.py; choose another folder")
        files.output_folder("output_dir", folder.path)
    fuse(streams, weights, origin, folder, args)
    cli.say(folder)


if __name__ == "__main__":
    cli.run(main)
