"""Train an LRCN on sampled clips.

    python train.py --sampled_data_path sampled --ucf_list_dir ucfTrainTestlist

leaves a run folder <local_dir>/<YYYYmmdd-HHMMSS>/ with settings.json, splits.csv, metrics.csv,
TensorBoard events, Saved_model_checkpoint/ (epoch_<n>, best, last and, frozen, encoder .pth.tar) and
figures/, and prints its name as the last line; what a frozen encoder says of each frame goes into
<sampled_data_path>/features/, for all runs and scripts. Stop it with Ctrl-C and go on with

    python train.py --resume auto

as if it had not been stopped, with the flags and the parts of splits.csv that it began with; a flag
that is given again wins, or is refused where it changes the network. --split all trains and tests on
the three official splits in turn, in split_1/ to split_3/ of the folder, and adds splits_summary.csv.
"""
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

import dataset
import utils
from lrcn import checkpoints, runs
from lrcn.base import cli, files
from lrcn.base.ranks import Rank, Stop, alone_environment, ranks
from lrcn.clips import fields
from lrcn.clips.manifest import sampling_settings
from lrcn.encoding.features import Options
from lrcn.training import run as training
from lrcn.training.engine import make_learner
from lrcn.training.feeds import make_feeds
from lrcn.training.pictures import Album
from lrcn.training.recipe import parse

# ---------------------------------------------------------------- run

def saved_settings(recipe, samples):
    """What a checkpoint keeps: the recipe, which list tests it, and how its clips were sampled, so that
    test_on_video.py samples alike, wherever the clips are by then.

    frame_step: the training clips' seconds between frames, their median; frame_step_low and _high: the
    tenth and the ninetieth of a hundred. With the stride that was asked for they are all the same.
    """
    sampled = sampling_settings(recipe.sampled_data_path)
    listed = recipe.ucf_list_dir or recipe.split == "random"
    flow = fields.require(recipe.sampled_data_path, recipe)
    return {**recipe.as_settings(), "test_split": recipe.split if listed else "drawn",
            **({"flow": flow} if flow else {}),
            **{name: sampled.get(name) for name in ("FPS", "sampling_rate")},
            **frame_steps([s.video for s in samples if s.part == "train"])}


def frame_steps(videos):
    """{name of STEPS: seconds between the frames of these clips}; nothing where clips have one frame."""
    steps = [v.step for v in videos if v.step and v.frames > 1]
    if not steps:
        return {}
    shares = np.percentile(steps, [50, 10, 90], method="nearest")
    return {name: round(float(share), 6) for name, share in zip(utils.STEPS, shares, strict=True)}


def say_samples(samples, classes):
    """How many videos, of which classes, in which part."""
    parts = [f"{n} {word}" for part, word in (("train", "training"), ("val", "validation"), ("test", "test"))
             if (n := sum(s.part == part for s in samples))]
    names = ", ".join(classes[:8]) + (" ..." if len(classes) > 8 else "")
    cli.say(f"{', '.join(parts)} videos of {len(classes)} classes: {names}")


def train(recipe, checkpoint, device, rank):
    """Train one run; its exit status."""
    source = f"--checkpoint_path {checkpoint}"
    state = checkpoints.load_file(checkpoint, "checkpoint_path") if checkpoint else None
    before = runs.RunFolder.of(checkpoint) if checkpoint else None
    samples, classes = dataset.training_samples(recipe, before, cli.say if rank.first else dataset.silent)
    fields.require(recipe.sampled_data_path, recipe, state and state["settings"].get("flow"))
    if rank.first:
        say_samples(samples, classes)
    model = (utils.continued_model(state, checkpoint, classes) if state else
             utils.new_model(recipe, classes)).to(device)
    network, encoder, groups = utils.trained_part(recipe, model)
    options = Options(device, recipe.num_workers, recipe.seed, compile=recipe.compile, rank=rank,
                      backend=recipe.encoder_backend, precision=recipe.encoder_precision)
    feeds = make_feeds(recipe, encoder or model.encoder, encoder is not None, samples, options)
    if network is model.head:   # a head on cached features trains in seconds: rank 0 does it alone
        if not rank.first:
            return 0
        rank = Rank()
    elif rank.world > 1:
        network = torch.nn.parallel.DistributedDataParallel(network, find_unused_parameters=True)
    learner = make_learner(network, groups, recipe, len(feeds[0].names), device, rank.world)
    settings, folder, album = saved_settings(recipe, samples), None, None
    if rank.first:  # after the encoding, lest one that was stopped leaves an empty run folder
        resumed = before if checkpoint and checkpoint.parent == before.checkpoints else None
        settings["device_used"] = str(device)
        folder = training.open_folder(resumed, recipe, settings, classes, samples, model)
        album = Album(folder, recipe, classes, samples, state["progress"]["epoch"] if state else None)
    run = training.Run(recipe, rank, model, learner, feeds, settings, classes, folder, album)
    if state:
        run.take_up(state, source)
    return go(run)


def go(run):
    """All epochs of a run, and its pictures; the exit status."""
    if run.album and run.recipe.pictures:
        run.album.class_distribution()
    with Stop() as stop:
        complete = run.train(stop)
    if run.rank.first and not complete:
        cli.say(f"stopped in epoch {run.progress.epoch}; go on with: python train.py --resume {run.folder}",
                file=sys.stderr)
    elif run.rank.first:
        if run.recipe.pictures:
            run.album.final(run)
        best = run.progress.best
        if best:
            cli.say(f"best validation top-1 {best['top1']:.3f} of {len(run.val_feed.names)} clips, "
                    f"epoch {best['epoch']}")
        cli.say(run.folder)
    if run.album:
        run.album.close()
    return 0 if complete else 128 + (stop.signal or 2)


# ---------------------------------------------------------------- three splits

def train_all_splits(recipe, device, rank):
    """--split all: train and test on the three official splits in turn; the exit status."""
    new = runs.new_run_folder(recipe.local_dir, recipe.open_new_folder) if rank.first else ""
    folder = rank.share(str(new))
    tested = []
    for split in ("1", "2", "3"):
        if rank.first:
            cli.say(f"--- split {split}")
        one = dataclasses.replace(recipe, split=split, local_dir=f"{folder}/split_{split}",
                                  open_new_folder="False")
        status = rank.most(train(one, None, device, rank))
        if not status and rank.first:
            status = cli.run_script(Path(__file__).with_name("test.py"), "--model_dir", one.local_dir,
                                    "--device", recipe.device, env=alone_environment())
        status = rank.share(status)
        if status:
            return status
        tested.append(runs.RunFolder(one.local_dir).test.metrics)
    if rank.first:
        summarise_splits(Path(folder), [files.read_json(path) for path in tested])
    return 0


def summarise_splits(folder, figures):
    """splits_summary.csv: each split's figures, their mean and their deviation. figures: metrics.json."""
    top1 = [m["top1"] for m in figures]
    rows = [(m["split"], m["videos"], m["top1"], *m["ci95"], m["top5"]) for m in figures]
    rows.append(("mean", sum(m["videos"] for m in figures), np.mean(top1), "", "",
                 np.mean([m["top5"] for m in figures])))
    rows.append(("deviation", "", np.std(top1, ddof=1), "", "", ""))
    columns = ("split", "videos", "top1", "ci95_low", "ci95_high", "top5")
    files.write_csv(folder / "splits_summary.csv", columns, rows)
    cli.say(f"three splits: top-1 {np.mean(top1):.3f} +- {np.std(top1, ddof=1):.3f} (mean and standard "
            f"deviation), {', '.join(f'{x:.3f}' for x in top1)}")
    cli.say(folder)


def main():
    recipe, checkpoint = parse(__doc__)
    device = utils.choose_device(recipe.device)
    with ranks(device) as rank:
        if recipe.split == "all" and not checkpoint:
            return train_all_splits(recipe, device, rank)
        return train(recipe, checkpoint, device, rank)


if __name__ == "__main__":
    cli.run(main)
