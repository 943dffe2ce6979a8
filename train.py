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

import cli
import dataset
import encoders
import files
import models
import splits
import training_flags
import utils
from cli import UserError
from trainer import Run

# ---------------------------------------------------------------- data

def load_samples(args, quiet=False):
    """([Sample] of train, val and, where no list says it, test; class names in label order)."""
    folder = cli.folder("sampled_data_path", args.sampled_data_path, "make it with preprocessing_data.py")
    videos = dataset.read_sampled(folder, args.group_pattern, args.groups)
    if args.ucf_list_dir and args.split != "random":
        lists = cli.folder("ucf_list_dir", args.ucf_list_dir, "give the folder of the split lists")
        listed, _ = splits.official_lists(lists, args.split)
        pool, sentence = splits.present(listed, videos, "training")
        if not quiet:
            cli.say(sentence)
        if not pool:
            raise UserError(f"--sampled_data_path {folder}: holds no video of the training list in "
                            f"--ucf_list_dir {lists}")
        order, test = splits.class_order(lists, listed), []
    else:
        order = splits.class_order(args.ucf_list_dir, videos)
        leaky = args.split == "random"
        if leaky:
            print("warning: --split random draws by video, not by group: near copies of the tested clips "
                  "are trained on, and the accuracy is inflated", file=sys.stderr)
        elif not (args.group_pattern or args.groups) and splits.look_alike([(v.cls, v.name) for v in videos]):
            print("warning: many videos share their name up to the last number; if such clips were cut from "
                  "one recording, say so with --group_pattern or --groups", file=sys.stderr)
        pool, test = splits.hold_out(videos, args.test_size, args.seed, by_video=leaky)
    names = {v.cls for v in pool}
    classes = [cls for cls in order if cls in names][:args.number_of_classes]
    pool = [v for v in pool if v.cls in set(classes)]
    train, val = splits.hold_out(pool, args.split_size, args.seed + 1, by_video=args.split == "random")
    if args.smaller_dataset:
        train, val = splits.smaller(train), splits.smaller(val)
    if not val:
        raise UserError("--split_size: no class has two groups, so that none can be held out for validation")
    return splits.make_samples({"train": train, "val": val, "test": test}, classes), classes


# ---------------------------------------------------------------- model

def make_model(args, classes, state, checkpoint):
    """The LRCN to train: from a checkpoint's state, or new, with --init_from's weights where given."""
    if state:
        model, known, _ = utils.build(state, f"--checkpoint_path {checkpoint}")
        if known != classes:
            raise UserError(f"--checkpoint_path {checkpoint}: trained on {len(known)} classes, and the data "
                            f"has {len(classes)}; give the flags and folders of that run")
        utils.restore(model, state, checkpoint, "checkpoint_path")
        return model
    utils.set_seed(args.seed)
    weights = args.encoder_weights
    if weights.lower() == "none":
        weights = None
    elif weights != "DEFAULT":
        weights = utils.load_file(weights, "encoder_weights")
    encoder = encoders.build_encoder(args.encoder, weights, args.img_dim, args.modality)
    utils.set_seed(args.seed)  # the head's weights do not depend on how the encoder came to be
    head = models.Head(encoder.feature_dim, len(classes), args.latent_dim, args.hidden_size,
                       args.lstm_layers, args.bidirectional, args.readout, args.dropout, args.loss_per_step)
    model = models.LRCN(encoder, head)
    if args.init_from:
        for line in utils.take_over(model, utils.load_trained(args.init_from, flag="init_from").model):
            cli.say(line)
    return model


# ---------------------------------------------------------------- run


def train(args, checkpoint, device, rank):
    state = utils.load_file(checkpoint, "checkpoint_path") if checkpoint else None
    samples, classes = load_samples(args, quiet=not rank.first)
    model = make_model(args, classes, state, checkpoint)
    run = Run(args, rank, device, samples, classes, model)
    run.prepare(state)
    if run.alone and not rank.first:
        return 0
    if rank.first:  # after the encoding, lest one that was stopped leaves an empty run folder
        run.start_folder(checkpoint)
    with utils.Stop() as stop:
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
    new = utils.new_run_folder(args.local_dir, args.open_new_folder) if rank.first else ""
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
    args, checkpoint = training_flags.parse(__doc__)
    device = utils.choose_device(args.device)
    with utils.ranks(device) as rank:
        if args.split == "all" and not checkpoint:
            return train_all_splits(args, rank, lambda one: train(one, None, device, rank))
        return train(args, checkpoint, device, rank)


if __name__ == "__main__":
    cli.run(main)
