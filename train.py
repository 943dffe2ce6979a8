"""Train an LRCN on sampled clips.

    python train.py --sampled_data_path sampled --ucf_list_dir ucfTrainTestlist

leaves a run folder <local_dir>/<YYYYmmdd-HHMMSS>/ with settings.json, splits.csv, metrics.csv,
TensorBoard events, Saved_model_checkpoint/ (epoch_<n>, best and last .pth.tar) and figures/, and
prints its name as the last line. Stop it with Ctrl-C and go on with

    python train.py --resume auto
"""
import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

import models
import utils
from dataset import load_samples
from lrcn import checkpoints, runs
from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.base.ranks import Stop, ranks, set_seed
from lrcn.encoding import surgery
from lrcn.training.recipe import parse
from lrcn.training.run import Run

# ---------------------------------------------------------------- data



# ---------------------------------------------------------------- model

def make_model(args, classes, state, checkpoint):
    """The LRCN to train: from a checkpoint's state, or new, with --init_from's weights where given."""
    if state:
        model, known, _ = utils.build(state, f"--checkpoint_path {checkpoint}")
        if known != classes:
            raise UserError(f"--checkpoint_path {checkpoint}: trained on {len(known)} classes, and the data "
                            f"has {len(classes)}; give the flags and folders of that run")
        checkpoints.restore(model, state, checkpoint, "checkpoint_path")
        return model
    set_seed(args.seed)
    weights = args.encoder_weights
    if weights.lower() == "none":
        weights = None
    elif weights != "DEFAULT":
        weights = checkpoints.load_file(weights, "encoder_weights")
    encoder = models.build_encoder(args.encoder, weights, args.img_dim, args.modality)
    set_seed(args.seed)  # the head's weights do not depend on how the encoder came to be
    head = models.Head(encoder.feature_dim, len(classes), args.latent_dim, args.hidden_size,
                       args.lstm_layers, args.bidirectional, args.readout, args.dropout, args.loss_per_step)
    model = models.LRCN(encoder, head)
    if args.init_from:
        for line in checkpoints.take_over(model, utils.load_trained(args.init_from, flag="init_from").model):
            cli.say(line)
    return model


# ---------------------------------------------------------------- run


def train(args, checkpoint, device, rank):
    state = checkpoints.load_file(checkpoint, "checkpoint_path") if checkpoint else None
    samples, classes = load_samples(args, quiet=not rank.first)
    model = make_model(args, classes, state, checkpoint)
    run = Run(args, rank, device, samples, classes, model, trained_part(args, model.to(device)))
    run.prepare(state)
    if run.alone and not rank.first:
        return 0
    if rank.first:  # after the encoding, lest one that was stopped leaves an empty run folder
        run.start_folder(checkpoint)
    with Stop() as stop:
        complete = run.train(stop)
    if rank.first:
        if not complete:
            print(f"stopped in epoch {run.progress.epoch}; go on with: "
                  f"python train.py --resume {run.folder}", file=sys.stderr)
            return 128 + stop.signal
        run.draw()
        best = run.progress.best
        cli.say(f"best validation top-1 {best['top1']:.3f} of {len(run.val_feed.names)} clips, "
                f"epoch {best['epoch']}")
        cli.say(run.folder)
    return 0 if complete else 128 + stop.signal


def train_all_splits(args, rank, train_one):
    """--split all: train and test on the three official splits in turn; mean and deviation in one table."""
    new = runs.new_run_folder(args.local_dir, args.open_new_folder) if rank.first else ""
    folder = rank.share(str(new))
    figures = []
    for split in ("1", "2", "3"):
        cli.say(f"--- split {split}")
        one = argparse.Namespace(**{**vars(args), "split": split, "local_dir": f"{folder}/split_{split}",
                                    "open_new_folder": "False"})
        status = train_one(one)
        if status:
            return status
        if rank.first:
            test = Path(__file__).with_name("test.py")
            done = subprocess.run([sys.executable, test, "--model_dir", one.local_dir,
                                   "--device", args.device])
            if done.returncode:
                return done.returncode
            figures.append(files.read_json(Path(one.local_dir) / "test" / "metrics.json"))
    if rank.first:
        top1 = [m["top1"] for m in figures]
        rows = [(m["split"], m["videos"], m["top1"], *m["ci95"], m["top5"]) for m in figures]
        rows.append(("mean", sum(m["videos"] for m in figures), np.mean(top1), "", "",
                     np.mean([m["top5"] for m in figures])))
        rows.append(("deviation", "", np.std(top1, ddof=1), "", "", ""))
        files.write_csv(Path(folder) / "splits_summary.csv",
                        ("split", "videos", "top1", "ci95_low", "ci95_high", "top5"), rows)
        cli.say(f"three splits: top-1 {np.mean(top1):.3f} +- {np.std(top1, ddof=1):.3f} (mean and standard "
                f"deviation), {', '.join(f'{x:.3f}' for x in top1)}")
        cli.say(folder)
    return 0


def main():
    args, checkpoint = parse(__doc__)
    device = utils.choose_device(args.device)
    with ranks(device) as rank:
        if args.split == "all" and not checkpoint:
            return train_all_splits(args, rank, lambda one: train(one, None, device, rank))
        return train(args, checkpoint, device, rank)




def trained_part(args, model):
    """(network that is trained, what encodes for its feature cache or None, optimiser groups).

    Frozen encoder: the head, on cached features. last:K: the blocks and the head, on cached
    activations of the part before them. Otherwise the whole network, on frames.
    """
    model.encoder.moving_statistics = args.train_batch_norm
    model.encoder.requires_grad_(False)
    groups = [{"params": list(model.head.parameters()), "lr": args.lr}]
    if args.train_encoder == "none":
        return (model.head, model.encoder, groups) if args.feature_cache else (model, None, groups)
    last = None if args.train_encoder == "all" else int(args.train_encoder.removeprefix("last:"))
    groups.append({"params": surgery.unfreeze(model.encoder, last), "lr": args.encoder_lr})
    if args.recompute:
        surgery.recompute_activations(model.encoder)
    parts = surgery.cut(model.encoder, last) if last and args.feature_cache else None
    if parts:
        return models.Tail(model.encoder, parts[1], model.head), parts[0], groups
    if last and args.feature_cache:
        cli.say(f"{args.encoder} cannot be cut before its last {last} blocks: frames are encoded anew in "
                f"every epoch")
    return model, None, groups


if __name__ == "__main__":
    cli.run(main)
