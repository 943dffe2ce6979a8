"""Several tested runs side by side: one table, one picture, and a paired test against the first.

    python compare.py RUN_A RUN_B RUN_C --output comparison

reads each run's test/metrics.json and test/predictions.csv (run test.py first), times each model,
and leaves comparison.csv and comparison.png in the output folder, its last printed line. Runs of
one recipe with several seeds are given in one word, with commas: RUN_A1,RUN_A2,RUN_A3; their
figures are averaged.
"""
import statistics
import time
from pathlib import Path

import numpy as np
import torch

import utils
from lrcn import checkpoints, scores
from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.drawing import plots
from lrcn.encoding.features import FrameEncoder
from lrcn.runs import RunFolder
from lrcn.scores import paired

COLUMNS = ("run", "runs", "encoder", "readout", "split", "videos", "top1", "ci95_low", "ci95_high",
           "top1_sd_of_runs", "parameters", "frames_per_second", "minus_first", "minus_first_low",
           "minus_first_high", "mcnemar_p", "checkpoint")


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
        self.metrics, right, self.videos = [], [], None
        for folder in self.folders:
            test = RunFolder(folder).test
            if not test.metrics.is_file():
                raise UserError(f"{folder}: no test/metrics.json in this run; run test.py on it first")
            self.metrics.append(files.read_json(test.metrics))
            rows = files.read_csv(test.predictions, ("video", "class", "group", "right"))
            rows = sorted(rows, key=lambda r: (r["class"], r["video"]))
            videos = [(r["class"], r["video"]) for r in rows]
            if self.videos not in (None, videos):
                raise UserError(f"{folder}: tested on other videos than {self.folders[0]}")
            self.videos, self.groups = videos, [r["group"] for r in rows]
            right.append([r["right"] == "1" for r in rows])
        self.right = np.array(right)
        self.top1 = float(self.right.mean())
        self.interval = scores.bootstrap_interval(self.right.mean(0), self.groups)


def frames_per_second(folder, device):
    """(parameters, frames a second through encoder and head) of a run's best checkpoint."""
    trained = utils.load_trained(folder, device=device)
    encode = FrameEncoder(trained.model.encoder, device)
    length = trained.settings["num_frames_video"]
    frames = torch.zeros(length, *trained.model.encoder.transform.shape, dtype=torch.uint8)

    @torch.inference_mode()
    def clip():
        return trained.model.head(encode(frames).float()[None]).cpu()

    clip()
    rates, end = [], time.monotonic() + 3
    while time.monotonic() < end or len(rates) < 3:
        begun = time.perf_counter()
        clip()
        rates.append(length / (time.perf_counter() - begun))
    return checkpoints.count_parameters(trained.model), statistics.median(rates)



def row_of(name, tested, first, speed):
    some = tested.metrics[0]
    spread = float(np.std(tested.right.mean(1), ddof=1)) if len(tested.right) > 1 else None
    difference, (low, high), p = paired(first, tested) if tested is not first else (None, (None, None), None)
    return dict(zip(COLUMNS, (name, len(tested.right), some.get("encoder"), some.get("readout"),
                              some.get("split"), len(tested.videos), tested.top1, *tested.interval, spread,
                              *speed, difference, low, high, p, some.get("checkpoint")), strict=True))


def show(rows):
    """The table, as text."""
    wide = max(len(r["run"]) for r in rows)
    cli.say(f"{'run':<{wide}}  runs  videos  top-1 [95% interval]     parameters  frames/s  "
            f"minus first [95%]")
    for r in rows:
        against = ""
        if r["minus_first"] is not None:
            against = f"{r['minus_first']:+.3f} [{r['minus_first_low']:+.3f}, {r['minus_first_high']:+.3f}]"
            against += "" if r["mcnemar_p"] is None else f", McNemar p {r['mcnemar_p']:.2g}"
        fps = "-" if r["frames_per_second"] is None else f"{r['frames_per_second']:.0f}"
        cli.say(f"{r['run']:<{wide}}  {r['runs']:>4}  {r['videos']:>6}  {r['top1']:.3f} "
                f"[{r['ci95_low']:.3f}, {r['ci95_high']:.3f}]   {r['parameters'] or '-':>12}  {fps:>8}  "
                f"{against}")


def main():
    args = make_parser().parse_args()
    if args.names and len(args.names) != len(args.runs):
        raise UserError(f"--names: {len(args.names)} names for {len(args.runs)} runs")
    tested = [Tested(word) for word in args.runs]
    names = args.names or [t.folders[0].name for t in tested]
    device = utils.choose_device(args.device)
    speeds = [frames_per_second(t.folders[0], device) if args.speed else
              (t.metrics[0].get("parameters"), None) for t in tested]
    rows = [row_of(name, t, tested[0], speed) for name, t, speed in zip(names, tested, speeds, strict=True)]
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_csv(folder / "comparison.csv", COLUMNS,
                    [["" if r[c] is None else r[c] for c in COLUMNS] for r in rows])
    leaky = any(t.metrics[0].get("leaky") for t in tested)
    plots.runs_table_picture(folder / "comparison.png", names, [r["top1"] for r in rows],
                             [r["ci95_low"] for r in rows], [r["ci95_high"] for r in rows],
                             [r["parameters"] for r in rows], [r["frames_per_second"] for r in rows],
                             n=rows[0]["videos"],
                             note="some runs use a LEAKY random split by video" if leaky else "")
    show(rows)
    cli.say(folder)


if __name__ == "__main__":
    cli.run(main)
