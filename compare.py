"""Several tested runs side by side: one table, one picture, and a paired test against the first.

    python compare.py RUN_A RUN_B RUN_C --output comparison

reads each run's test/metrics.json and test/predictions.csv (run test.py first), times each model,
and leaves comparison.csv and comparison.png in the output folder, its last printed line. Runs that
differ in their training seed alone are given in one word, with commas: RUN_A1,RUN_A2,RUN_A3; their
figures are averaged. The column flags says in what else a recipe differs from the first, remark what
keeps two rows from being compared: a leaky split, or other test videos.
"""
import statistics
import time
from pathlib import Path

import numpy as np
import torch

import utils
from lrcn import checkpoints
from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.drawing import plots
from lrcn.evaluation import scores
from lrcn.evaluation.answers import read_answers, read_metrics
from lrcn.features.features import FrameEncoder
from lrcn.runs import RunFolder
from lrcn.training.recipe import Recipe

COLUMNS = ("run", "runs", "encoder", "readout", "split", "videos", "top1", "ci95_low", "ci95_high",
           "top1_sd_of_runs", "parameters", "frames_per_second", "minus_first", "minus_first_low",
           "minus_first_high", "mcnemar_p", "flags", "checkpoint", "remark")
LEAKY = "LEAKY random split by video"


def make_parser():
    parser = cli.Parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders that test.py has tested")
    parser.add_argument("--names", nargs="+", default=None, help="names in the table, in the same order")
    parser.add_argument("--output", default="comparison", metavar="DIR", help="folder to write into")
    parser.add_argument("--device", default="auto", help="where the models are timed")
    parser.add_boolean("--speed", default=True, help="time the models, a few seconds each")
    return parser


class Tested:
    """The test results of runs of one recipe: right bool (runs, videos), in the order of `videos`."""

    def __init__(self, word):
        self.folders = [cli.folder("runs", part, "give run folders of train.py") for part in word.split(",")]
        runs = [RunFolder(folder) for folder in self.folders]
        self.metrics = [read_metrics(run.test) for run in runs]
        self.leaky = any(metrics.get("leaky") for metrics in self.metrics)
        tables = [read_answers(run.test) for run in runs]
        self.videos = sorted(tables[0].videos)
        self.right = np.array([self._in_order(folder, answers).right
                               for folder, answers in zip(self.folders, tables, strict=True)])
        self.groups = self._in_order(self.folders[0], tables[0]).groups
        self.top1 = float(self.right.mean())
        self.interval = scores.share_of(self.right, self.groups).ci95
        self.flags, *others = [read_flags(run) for run in runs]
        for folder, flags in zip(self.folders[1:], others, strict=True):
            other = differing(flags, self.flags)
            if other:
                raise UserError(f"{word}: no seeds of one recipe, {folder} has {other}; give them as words "
                                f"of their own")
        refuse_twice(word, runs)

    def _in_order(self, folder, answers):
        try:
            return answers.of(self.videos)
        except ValueError:
            raise UserError(f"{folder}: tested on other videos than {self.folders[0]}") from None


def refuse_twice(word, runs):
    """UserError where one run, or one seed of the recipe, stands twice in the word."""
    known = {}
    for run in runs:
        settings = files.read_json(run.settings) if run.settings.is_file() else {}
        seed = f"seed {settings.get('seed', run)}"
        for what in (f"folder {run.path.resolve()}", seed):
            before = known.setdefault(what, run)
            if before is not run:
                raise UserError(f"runs {word}: {before} and {run} have the same {what} and count once; give "
                                f"trainings with other seeds, or this one alone")


def read_flags(run):
    """{flag: value} of the run's recipe but for the seed; {} without a settings.json."""
    if not run.settings.is_file():
        return {}
    return Recipe.of(files.read_json(run.settings), run.settings).compared()


def differing(flags, first):
    """What `flags` has other than `first`, in words: "readout mean, epochs 20"."""
    return ", ".join(f"{name} {value}" for name, value in flags.items()
                     if name in first and value != first[name])


def frames_per_second(folder, device):
    """(parameters, frames a second through encoder and head) of a run's best checkpoint."""
    trained = utils.load_trained(folder, device=device)
    encoder, length = trained.model.encoder, trained.settings["num_frames_video"]
    streams = [(FrameEncoder(one, device), torch.zeros(length, *one.transform.shape, dtype=torch.uint8))
               for one in getattr(encoder, "streams", [encoder])]

    @torch.inference_mode()
    def clip():
        features = torch.cat([encode(frames).float() for encode, frames in streams], 1)
        return trained.model.head(features[None]).cpu()

    clip()
    rates, end = [], time.monotonic() + 3
    while time.monotonic() < end or len(rates) < 3:
        begun = time.perf_counter()
        clip()
        rates.append(length / (time.perf_counter() - begun))
    return checkpoints.count_parameters(trained.model), statistics.median(rates)



def row_of(name, tested, first, first_name, speed):
    some = tested.metrics[0]
    spread = float(np.std(tested.right.mean(1), ddof=1)) if len(tested.right) > 1 else None
    minus, ends, p, remarks = None, (None, None), None, [LEAKY] if tested.leaky else []
    if tested.videos != first.videos:
        common = len(set(tested.videos) & set(first.videos))
        remarks.append(f"tested on other videos than {first_name} ({common} of its {len(tested.videos)} in "
                       f"common): no paired difference")
    elif tested is not first:
        minus, ends, p = scores.paired(first.right, tested.right, tested.groups)
    return dict(zip(COLUMNS, (name, len(tested.right), some.get("encoder"), some.get("readout"),
                              some.get("split"), len(tested.videos), tested.top1, *tested.interval, spread,
                              *speed, minus, *ends, p, differing(tested.flags, first.flags),
                              some.get("checkpoint"), "; ".join(remarks)), strict=True))


def show(rows):
    """The table, as text."""
    wide = max(len(r["run"]) for r in rows)
    cli.say(f"{'run':<{wide}}  runs  videos  top-1 [95% interval]     parameters  frames/s  "
            f"minus {rows[0]['run']} [95%]; what differs")
    for r in rows:
        against = ""
        if r["minus_first"] is not None:
            against = f"{r['minus_first']:+.3f} [{r['minus_first_low']:+.3f}, {r['minus_first_high']:+.3f}]"
            against += "" if r["mcnemar_p"] is None else f", McNemar p {r['mcnemar_p']:.2g}"
        against = "; ".join(part for part in (against, r["flags"], r["remark"]) if part)
        fps = "-" if r["frames_per_second"] is None else f"{r['frames_per_second']:.0f}"
        cli.say(f"{r['run']:<{wide}}  {r['runs']:>4}  {r['videos']:>6}  {r['top1']:.3f} "
                f"[{r['ci95_low']:.3f}, {r['ci95_high']:.3f}]   {r['parameters'] or '-':>12}  {fps:>8}  "
                f"{against}".rstrip())


def main():
    args = make_parser().parse_args()
    if args.names and len(args.names) != len(args.runs):
        raise UserError(f"--names: {len(args.names)} names for {len(args.runs)} runs")
    tested = [Tested(word) for word in args.runs]
    names = args.names or [t.folders[0].name for t in tested]
    device = utils.choose_device(args.device)
    # What fuse.py made of several runs has no network of its own to be timed
    speeds = [frames_per_second(t.folders[0], device) if args.speed and "streams" not in t.metrics[0] else
              (t.metrics[0].get("parameters"), None) for t in tested]
    rows = [row_of(name, t, tested[0], names[0], speed)
            for name, t, speed in zip(names, tested, speeds, strict=True)]
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_csv(folder / "comparison.csv", COLUMNS,
                    [["" if r[c] is None else r[c] for c in COLUMNS] for r in rows])
    alike = all(t.videos == tested[0].videos for t in tested)
    notes = [f"some runs use a {LEAKY}"] * any(t.leaky for t in tested)
    notes += [] if alike else ["the runs were tested on different videos"]
    plots.runs_table_picture(folder / "comparison.png", names, [r["top1"] for r in rows],
                             [r["ci95_low"] for r in rows], [r["ci95_high"] for r in rows],
                             [r["parameters"] for r in rows], [r["frames_per_second"] for r in rows],
                             n=rows[0]["videos"] if alike else None, note="; ".join(notes))
    show(rows)
    cli.say(folder)


if __name__ == "__main__":
    cli.run(main)
