"""Several tested runs side by side: one table, one picture, and a paired test against the first.

    python compare.py RUN_A RUN_B RUN_C --output comparison

reads what test.py wrote for each run, times each model, and writes comparison.csv and comparison.png into the
output folder, which is the last printed line. Runs that differ only in their seed are joined by commas
(RUN_A1,RUN_A2,RUN_A3), and their figures averaged. The column `flags` lists the flags that differ from the
first run's; `remark` says why two rows cannot be compared: a leaky split, or other test videos.
"""
import statistics
import time

import utils
from lrcn import checkpoints
from lrcn.base import Lazy, UserError, cli, files
from lrcn.drawing import plots
from lrcn.evaluation.answers import LEAKY, read_tested
from lrcn.evaluation.intervals import compare, differing
from lrcn.training.recipe import read_flags
from lrcn.watching.recogniser import Recogniser

torch = Lazy("torch")

COLUMNS = ("run", "runs", "encoder", "readout", "split", "videos", "top1", "ci95_low", "ci95_high",
           "top1_sd_of_runs", "parameters", "frames_per_second", "minus_first", "minus_first_low",
           "minus_first_high", "mcnemar_p", "flags", "checkpoint", "remark")


def make_parser():
    parser = cli.Parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders that test.py has tested")
    parser.add_argument("--names", nargs="+", default=None, help="names in the table, in the same order")
    parser.add_argument("--output", default="comparison", metavar="DIR", help="folder to write into")
    parser.add_argument("--device", default="auto", help="where the models are timed")
    parser.add_boolean("--speed", default=True, help="time the models, a few seconds each")
    return parser


class Tested:
    """The test results of runs of one recipe: right bool (runs, videos), in the order of `names`."""

    def __init__(self, word):
        runs, self.metrics, tests = zip(*map(read_tested, word.split(",")), strict=True)
        self.folder, self.names = runs[0].path, sorted(tests[0].names)
        self.groups, self.right = tests[0].of(self.names).groups, []
        self.flags, known = read_flags(runs[0]), {}     # no folder or seed may be given twice
        for run, test in zip(runs, tests, strict=True):
            try:
                self.right.append(test.of(self.names).right)
            except ValueError:
                raise UserError(f"{run}: tested on other videos than {runs[0]}") from None
            other = differing(read_flags(run), self.flags)
            if other:
                raise UserError(f"{word}: these runs differ in more than their seed ({run} has "
                                f"{listed(other)}); put a space there instead of the comma")
            settings = files.read_json(run.settings) if run.settings.is_file() else {}
            for what in (f"folder {run.path.resolve()}", f"seed {settings.get('seed', run)}"):
                before = known.setdefault(what, run)
                if before is not run:
                    raise UserError(f"runs {word}: {before} and {run} have the same {what}; give runs with "
                                    "different seeds, or one of the two")
        self.remarks = [LEAKY] if any(metrics.get("leaky") for metrics in self.metrics) else []


def listed(flags):
    return ", ".join(f"{name} {value}" for name, value in flags.items())


def frames_per_second(folder, device):
    """(parameters, frames a second through encoder and head) of a run's best checkpoint, on its engine."""
    trained = utils.load_trained(folder, device=device)
    recogniser = Recogniser.of_run(trained, device)
    length = recogniser.length
    frames = [torch.zeros(length, *one.transform.shape, dtype=torch.uint8) for one in recogniser.encoders]

    @torch.inference_mode()
    def clip():
        features = [encode(seen).float() for encode, seen in zip(recogniser.encoders, frames, strict=True)]
        return recogniser.head(torch.cat(features, 1)[None]).cpu()

    clip()
    rates, end = [], time.monotonic() + 3
    while time.monotonic() < end or len(rates) < 3:
        begun = time.perf_counter()
        clip()
        rates.append(length / (time.perf_counter() - begun))
    return checkpoints.count_parameters(trained.model), statistics.median(rates)


def main():
    args = make_parser().parse_args()
    if args.names and len(args.names) != len(args.runs):
        raise UserError(f"--names: {len(args.names)} names for {len(args.runs)} runs")
    first, *_ = tested = [Tested(word) for word in args.runs]
    names = args.names or [t.folder.name for t in tested]
    device = utils.choose_device(args.device)
    # What fuse.py made of several runs has no network of its own to be timed
    speeds = [frames_per_second(t.folder, device) if args.speed and "streams" not in t.metrics[0] else
              (t.metrics[0].get("parameters"), None) for t in tested]
    compared, rows, lines, wide = [], [], [], max(map(len, names))
    for name, t, (parameters, fps) in zip(names, tested, speeds, strict=True):
        paired = t.names == first.names
        if not paired:
            common = len(set(t.names) & set(first.names))
            t.remarks.append(f"tested on other videos than {names[0]} ({common} of its {len(t.names)} in "
                             f"common): no paired difference")
        figures = compare(t.right, t.groups, first.right if paired and t is not first else None)
        metrics, flags = t.metrics[0], listed(differing(t.flags, first.flags))
        remark = "; ".join(t.remarks)
        compared.append(figures)
        rows.append((name, len(t.right), metrics.get("encoder"), metrics.get("readout"), metrics.get("split"),
                     len(t.names), figures.top1, *figures.ci95, figures.sd, parameters, fps, figures.minus,
                     *figures.minus_ci95, figures.p, flags, metrics.get("checkpoint"), remark))
        mcnemar = "" if figures.p is None else f", McNemar p {figures.p:.2g}"
        against = "; ".join(part for part in (figures.difference + mcnemar, flags, remark) if part)
        speed = "-" if fps is None else f"{fps:.0f}"
        lines.append(f"{name:<{wide}}  {len(t.right):>4}  {len(t.names):>6}  {figures}   "
                     f"{parameters or '-':>12}  {speed:>8}  {against}".rstrip())
    folder = files.output_folder("output", args.output)
    files.write_csv(folder / "comparison.csv", COLUMNS, rows)
    alike = all(t.names == first.names for t in tested)
    notes = [f"some runs use a {LEAKY}"] * any(LEAKY in t.remarks for t in tested)
    notes += [] if alike else ["the runs were tested on different videos"]
    plots.runs_table_picture(folder / "comparison.png", names, compared, *zip(*speeds, strict=True),
                             n=len(first.names) if alike else None, note="; ".join(notes))
    cli.say(f"{'run':<{wide}}  runs  videos  top-1 [95% interval]     parameters  frames/s  "
            f"minus {names[0]} [95%]; what differs", *lines, folder, sep="\n")


if __name__ == "__main__":
    cli.run(main)
