"""Train an LRCN on sampled clips.

    python train.py --sampled_data_path sampled --ucf_list_dir ucfTrainTestlist

writes a run folder, <local_dir>/<YYYYmmdd-HHMMSS>/ or <local_dir>/NAME/ with --name NAME: settings.json,
splits.csv, metrics.csv, TensorBoard events, checkpoints and figures/. The last line that it prints is
that folder. The features of a frozen encoder go into <sampled_data_path>/features/, for all runs and
scripts. Stop it with Ctrl-C, and go on as if it had not been stopped with

    python train.py --resume auto

A resumed run keeps its flags and its splits.csv. A flag that is given again counts, or is refused where
it would change the network. --split all trains and tests on the three official splits, in split_1/ to
split_3/ of the run folder, and writes splits_summary.csv.
"""
import dataclasses
from pathlib import Path

import numpy as np

import dataset
import utils
from lrcn import runs
from lrcn.base import cli, files
from lrcn.base.distributed import ranks
from lrcn.training.recipe import parse


def train_all_splits(recipe, device, rank):
    """--split all: train and test on the three official splits in turn; the exit status. UserError, before
    anything is trained: one of them lacks something, or holds out what its weights have learned."""
    for split in ("1", "2", "3") if recipe.init_from or recipe.streams else ():
        one = dataclasses.replace(recipe, split=split)
        samples, _ = dataset.training_samples(one, None, dataset.silent)
        dataset.before_training(one, None, None, samples, dataset.silent)
    new = runs.new_run_folder(recipe.local_dir, recipe.open_new_folder, "", recipe.name) if rank.first else ""
    folder = rank.broadcast(str(new))
    figures = []
    for split in ("1", "2", "3"):
        if rank.first:
            cli.say(f"--- split {split}")
        one = dataclasses.replace(recipe, split=split, local_dir=f"{folder}/split_{split}",
                                  open_new_folder="False", name=None)
        status = rank.all_reduce_max(utils.train(one, None, device, rank))
        if not status and rank.first:
            status = utils.test(one.local_dir, recipe.device)
        status = rank.broadcast(status)
        if status:
            return status
        figures.append(rank.first and files.read_json(runs.RunFolder(one.local_dir).test.metrics))
    if rank.first:
        videos, top1, top5 = ([m[name] for m in figures] for name in ("videos", "top1", "top5"))
        rows = [(m["split"], m["videos"], m["top1"], *m["ci95"], m["top5"]) for m in figures]
        rows += [("mean", sum(videos), np.mean(top1), "", "", np.mean(top5)),
                 ("deviation", "", np.std(top1, ddof=1), "", "", "")]
        files.write_csv(Path(folder, "splits_summary.csv"),
                        ("split", "videos", "top1", "ci95_low", "ci95_high", "top5"), rows)
        cli.say(f"three splits: top-1 {np.mean(top1):.3f} +- {np.std(top1, ddof=1):.3f} (mean and standard "
                f"deviation), {', '.join(f'{x:.3f}' for x in top1)}")
        cli.say(folder)
    return 0


def main():
    recipe, checkpoint = parse(__doc__)
    dataset.require_folders(recipe)     # before torch is loaded
    device = utils.choose_device(recipe.device)
    with ranks(device) as rank:
        if recipe.split == "all" and not checkpoint:
            return train_all_splits(recipe, device, rank)
        return utils.train(recipe, checkpoint, device, rank)


if __name__ == "__main__":
    cli.run(main)
