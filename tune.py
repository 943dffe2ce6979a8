"""Compare settings of train.py by cross-validation on the training list only.

    python tune.py --sampled_data_path sampled --ucf_list_dir ucfTrainTestlist --folds 4 \\
        --set lr=1e-4,5e-4 --set readout=final,mean,attention --epochs 30
    python tune.py ... --set lr=1e-5..1e-3 --set dropout=0.2..0.7 --trials 50      # pip install optuna

trains every combination (--one_by_one: one change at a time; --trials: what Optuna chooses) on all folds
but one, and tests the last epoch on that one. Writes <output>/tune.csv, .md and .png, folds.csv,
settings.json and trainings.jsonl, from which the same command goes on after a kill. Any flag of train.py
holds for all settings. Only --refit reads the test list. The last line is the output folder
(docs/tuning.md).
"""
import dataclasses
import shlex
import sys
import time
from pathlib import Path

import numpy as np

import dataset
import networks
import utils
from lrcn.base import UserError, cli, files, workers
from lrcn.base.distributed import rank_and_world
from lrcn.base.values import POSITIVE, Number
from lrcn.data import splits
from lrcn.drawing import plots
from lrcn.evaluation.intervals import differing
from lrcn.runs import TuningFolder, versions
from lrcn.training import recipe as recipes
from lrcn.training import tuning
from lrcn.training.folds import TESTING, CrossValidation, Plan, Setting, Trainer
from lrcn.training.recipe import Recipe
from lrcn.training.run import starts
from lrcn.training.tuning import KNOWN

# What has no meaning here: the folds are the parts, and a training is not stopped in the middle and leaves no
# run folder.
ASIDE = ("split_size", "parts", "stop_after", "local_dir", "open_new_folder", "name", "resume",
         "load_checkpoint", "checkpoint_path", "save_checkpoint")
DRAWN = 60      # rows on the picture


def make_parser():
    parser = cli.Parser(__doc__)
    tune = parser.group("tuning")
    tune.add_argument("--set", action="append", default=[], metavar="FLAG=A,B,...|LOW..HIGH",
                      help="values of a flag of train.py, or of test_windows and flip; may be given again")
    tune.add_boolean("--one_by_one", default=False,
                     help="change one flag at a time, from the first value of each, not all combinations")
    tune.add_argument("--against", metavar="FLAG", help="take each row's difference from the row with this "
                      "flag's first value, all else equal (default: from the first row)")
    tune.add_argument("--trials", type=POSITIVE, metavar="N",
                      help="let Optuna ask for N settings (pip install optuna); ranges need this")
    tune.add_argument("--folds", type=Number(int, low=2), default=4, help="folds, made of whole groups")
    tune.add_argument("--seeds", type=POSITIVE, default=1, metavar="N",
                      help="training seeds of every setting: --seed and the numbers after it")
    tune.add_argument("--jobs", type=POSITIVE, metavar="N",
                      help="trainings at once, a thread each (default: one for each CPU core; 1 on a GPU)")
    tune.add_boolean("--refit", default=False,
                     help="train the best setting on the whole list, with every seed, and test it once")
    utils.add_windows_flags(parser.group("testing"))
    output = parser.group("output")
    output.add_argument("--output", default="tuning", metavar="DIR", help="folder to write into")
    recipes.add_flags(parser, ASIDE)
    return parser


def compare(args, base, space, validation):
    """[Setting], trained, with a bar on a terminal, or a line a setting in a log; then how long it took."""
    plan, begun, settings = validation.plan, time.monotonic(), None
    if not args.trials:
        settings = (tuning.one_by_one if args.one_by_one else tuning.grid)(base, space)
    asked = settings or [base, *(base.with_({d.name: v}) for d in space for v in d.values)]
    for flag in filter(None, (s.recipe.validated for s in asked)):
        raise UserError(f"{flag}: it needs a validation, and held-out folds choose nothing; leave it out")
    for start, learned in sorted(dict(start for s in asked for start in starts(s.recipe)).items()):
        dataset.refuse_leaks(start, learned.network, plan.videos,
                             "each is held out once; give a run of other clips, or leave it out")
    rows = args.trials + 1 if args.trials else len(settings)
    cli.say(f"{rows} settings x {args.folds} folds x {args.seeds} seeds: {len(plan.videos)} clips of "
            f"{len(plan.classes)} classes")
    with validation.processes(), cli.progress(total=rows * args.folds * args.seeds, unit="training",
                                              desc="tuning") as bar:
        def train(settings):
            keys = [{t.key for t in validation.trainings(setting)} for setting in settings]
            todo = set().union(*keys) - validation.done.keys()
            bar.update(sum(map(len, keys)) - len(todo))
            for training in validation.train(settings):
                todo.discard(training.key)
                bar.update()
                for setting, mine in zip(settings, keys, strict=True):
                    if bar.disable and training.key in mine and not mine & todo:
                        right = validation.right(setting)
                        cli.say(f"{tuning.title(setting, None)}: "
                                f"{validation.fault(setting) if right is None else f'{right.mean():.3f}'}")

        if args.trials:
            settings = tuning.search(base, space, args.trials, validation, train)
        else:
            train(settings)
    seconds, done = time.monotonic() - begun, validation.trained
    if done:
        cli.say(f"{done} trainings in {seconds:.1f} s, {60 * done / seconds:.1f} a minute, "
                f"{validation.jobs} at once")
    total = len({t.key for s in settings for t in validation.trainings(s)})
    cli.say(f"{len(settings)} settings, {total} trainings, {total - done} of them done before, or failed")
    return settings


def write_tables(out, rows, plan, against):
    """tune.csv, tune.md and tune.png, and the table on the terminal."""
    note = (f"{len(plan.videos)} clips of {len(plan.classes)} classes in {len(set(plan.groups))} groups, "
            f"{len(plan.numbers)} folds by group, seed{'s' * (len(plan.seeds) > 1)} "
            f"{', '.join(map(str, plan.seeds))}; chance {1 / len(plan.classes):.3f}")
    minus = f"{against} {dict(rows[0].setting.chosen)[against]}" if against else "the first row"
    flags = list(dict.fromkeys(name for row in rows for name, _ in row.setting.chosen))
    header = ["setting", *flags, *tuning.COLUMNS, *(f"fold_{k + 1}" for k in plan.numbers)]
    table = []
    for row in rows:
        chosen = dict(row.setting.chosen)
        cells = [row.name, *(str(chosen[name]) for name in flags), row.top1, *row.ci95, row.sd, row.loss,
                 row.minus, *row.minus_ci95, row.p, row.fault, *row.folds]
        cells += [None] * (len(header) - len(cells))    # of one without folds
        table.append([f"{x:.6g}" if isinstance(x, float) else x for x in cells])
    files.write_csv(out.table, header, table)
    files.write_text(out.text, "\n".join(["```", f"python {cli.command()}", "```", "", note + ".", "",
                                          *tuning.lines(rows, minus, markdown=True), ""]))
    there = [row for row in rows if row.top1 is not None]
    best = sorted(there, key=lambda row: (row is not rows[0], -row.top1))[:DRAWN]
    drawn = [row for row in there if row in best]
    if drawn:
        aside = f"The {len(drawn)} best of {len(there)} settings. " if len(drawn) < len(there) else ""
        plots.changes_picture(out.picture, drawn, n=len(plan.videos), note=aside + note, minus_what=minus)
    cli.say(*tuning.lines(rows, minus), sep="\n")


def refit(out, args, setting, plan):
    """Train the best setting on the whole training list, with every seed, and test each run once."""
    if not setting.recipe.ucf_list_dir and len(plan.seeds) > 1:
        raise UserError(f"--refit --seeds {args.seeds}: without --ucf_list_dir each seed draws a test part, "
                        f"also of clips that the folds held; give one seed")
    for seed in plan.seeds:
        run = out.refit(seed)
        recipe = dataclasses.replace(setting.recipe, seed=seed, split_size=0, local_dir=str(run),
                                     open_new_folder="False")
        if run.settings.is_file():
            there = Recipe.of(files.read_json(run.settings), run.settings).choices()
            differ = [name for name in differing(recipe.choices(), there) if name not in recipes.PLACES]
            if differ:
                raise UserError(f"--refit: {run} was trained with another {', '.join(differ)}; move it away, "
                                f"or give another --output")
        if run.test.metrics.is_file():
            cli.say(f"{run}: trained and tested before")
            continue
        begun = run.checkpoint("last").is_file()
        status = utils.train(*recipes.parse("", ["--resume", str(run)] if begun else recipe.words()))
        status = status or utils.test(run, recipe.device, "--test_windows", setting.test_windows,
                                      f"--flip={setting.flip}")
        if status:
            sys.exit(status)


def main():
    args = recipes.parse_args(make_parser())
    if rank_and_world()[1] > 1:
        raise UserError("tune.py is one process that starts others: run it without torchrun, with --jobs")
    recipe = Recipe(split_size=0, **{name: value for name, value in vars(args).items() if name in KNOWN})
    if recipe.split in ("all", "random"):
        raise UserError(f"--split {recipe.split}: settings share one training list; give --split 1, 2 or 3")
    base = Setting(recipe, args.test_windows, args.flip)    # before any --set
    space = [tuning.dimension(text) for text in args.set]
    against = tuning.check_space(space, args.trials, args.against)
    dataset.require_folders(recipe)
    device = utils.choose_device(recipe.device)
    videos, classes = dataset.training_pool(recipe)
    if len(classes) < 2:
        raise UserError(f"--sampled_data_path {recipe.sampled_data_path}: training videos of only one class")
    seed, folder = recipe.seed, Path(recipe.sampled_data_path).expanduser()
    plan = Plan(videos, np.array([classes.index(v.cls) for v in videos]), classes, folder,
                folds=splits.folds(videos, args.folds, seed), seeds=tuple(range(seed, seed + args.seeds)),
                device=device)
    out = TuningFolder(files.output_folder("output", args.output))
    with files.lock(out.path, "output", "tune.py"):
        files.write_json(out.settings, {**recipe.as_settings(), "test_windows": base.test_windows,
                                        "flip": base.flip, "classes": classes, "seeds": list(plan.seeds),
                                        "versions": versions()})
        files.write_csv(out.folds, ("video", "class", "group", "fold"),
                        [(v.name, v.cls, v.group, k + 1) for v, k in zip(videos, plan.folds, strict=True)])
        jobs = args.jobs or (workers.cores() if device.type == "cpu" else 1)
        validation = CrossValidation(Trainer(plan, networks.network_to_train), out.journal, jobs)
        rows = tuning.table(compare(args, base, space, validation), validation, against)
        write_tables(out, rows, plan, against)
        best = tuning.best(rows)
        chosen = dict(best.setting.chosen)
        words = shlex.join(best.setting.recipe.words(always=chosen))
        tested = " ".join(f"--{name}={chosen[name]}" for name in TESTING if name in chosen)
        cli.say(f"best: {best.name} ({best.top1:.3f}); as flags of train.py: {words}"
                + (f"; of test.py: {tested}" if tested else ""))
        if args.refit:
            refit(out, args, best.setting, plan)
    cli.say(out)


if __name__ == "__main__":
    cli.run(main)
