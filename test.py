"""Test a trained model on the official test list (or on the test part of your own data).

    python test.py --model_dir 20261121-110128

takes the best checkpoint of the run and the folders that it was trained with, counts every test
video once, and leaves <model_dir>/test/ with metrics.json, predictions.csv, confusion_matrix and
accuracy_per_class (.png and .csv), figures/ and videos/. Prints that folder as the last line.
"""
import numpy as np
from sklearn.metrics import confusion_matrix
from tqdm import tqdm

import dataset
import utils
from lrcn import checkpoints, scores
from lrcn.base import cli, files
from lrcn.base.cli import UserError
from lrcn.base.ranks import ranks
from lrcn.clips.frames import source_frames
from lrcn.clips.manifest import sampling_settings
from lrcn.drawing import labels, plots
from lrcn.encoding.predictions import predict_videos
from lrcn.video.sampling import Rate


def make_parser():
    parser = cli.Parser(__doc__)
    utils.add_model_flags(parser)
    utils.add_data_flags(parser)
    parser.add_argument("--test_windows", type=number_or_all, default=1, metavar="N|all",
                        help="windows of a video whose softmax is averaged; more than one needs videos "
                             "sampled with --num_frames_to_extract all")
    parser.add_boolean("--flip", default=False, help="average over every window and its mirror image")
    parser.add_argument("--num_videos", type=cli.count, default=30,
                        help="test clips drawn into videos/, half of them wrong where there are so many")
    parser.add_argument("--seed", type=cli.count, default=42, help="of the choice of clips that are drawn")
    parser.add_boolean("--compile", default=False, help="torch.compile the encoder")
    return parser


def number_or_all(text):
    return text if text == "all" else cli.positive_int(text)


def write_tables(folder, data, classes, probabilities, metrics):
    """metrics.json, predictions.csv, and the two .csv beside the pictures."""
    predicted = probabilities.argmax(1)
    rows = [(v.name, v.cls, label, v.group, guess, classes[guess], int(guess == label),
             *(f"{p:.6g}" for p in row))
            for v, label, guess, row in zip(data.videos, data.labels, predicted, probabilities, strict=True)]
    files.write_csv(folder / "predictions.csv",
                    ["video", "class", "label", "group", "predicted", "predicted_class", "right",
                     *(f"p_{cls}" for cls in classes)], rows)
    matrix = confusion_matrix(data.labels, predicted, labels=range(len(classes)))
    files.write_csv(folder / "confusion_matrix.csv", ["true \\ predicted", *classes],
                    [(cls, *row) for cls, row in zip(classes, matrix.tolist(), strict=True)])
    accuracy, n = scores.per_class(predicted == data.labels, data.labels, len(classes))
    few = scores.under_represented(data.train_counts)
    files.write_csv(folder / "accuracy_per_class.csv",
                    ["class", "accuracy", "test_videos", "train_videos", "under_represented"],
                    [(cls, "" if np.isnan(a) else f"{a:.6g}", k, t, int(f)) for cls, a, k, t, f
                     in zip(classes, accuracy, n, data.train_counts, few, strict=True)])
    files.write_json(folder / "metrics.json", metrics)
    return matrix, accuracy, n, few


def draw(folder, data, classes, probabilities, tables, note, args):
    """The confusion matrix, the accuracy of every class, a grid of labels, labelled clips."""
    matrix, accuracy, n, few = tables
    plots.confusion_matrix(folder / "confusion_matrix.png", matrix, classes, note=note)
    plots.accuracy_per_class(folder / "accuracy_per_class.png", classes, accuracy, n, few,
                             few_means="less than half the median class's training videos", note=note)
    chosen = choose(probabilities.argmax(1) == data.labels, args.num_videos, args.seed)
    guesses = probabilities.argmax(1)

    def clip(i):
        return source_frames(data.folder, data.videos[i], range(data.videos[i].frames))

    true, predicted = ([classes[labels[i]] for i in chosen] for labels in (data.labels, guesses))
    if chosen:
        grid = slice(0, 16)
        plots.label_grid(folder / "figures" / "labels.png", [clip(i)[0] for i in chosen[grid]],
                         true[grid], predicted[grid], [probabilities[i].max() for i in chosen[grid]],
                         title="Test clips: first frame, predicted and true class",
                         note=f"{note}. Half of those drawn are wrong ones, where there are so many")
    fps = Rate.of(sampling_settings(data.folder)).per_second
    for i, meant, said in zip(tqdm(chosen, desc="drawing clips", unit="clip"), true, predicted, strict=True):
        mark = "right" if meant == said else "wrong"
        labels.labelled_clip_video(folder / "videos" / f"{data.videos[i].name}_{mark}.mp4", [clip(i)],
                                           [meant], [said], fps)


def choose(right, number, seed):
    """`number` clips, half of them wrong ones where there are so many, in a seeded order."""
    random = np.random.default_rng(seed)
    wrong, good = (random.permutation(np.flatnonzero(right == value)) for value in (False, True))
    take = max(min(len(wrong), number // 2), number - len(good))
    return random.permutation(np.concatenate([wrong[:take], good[:number - min(take, len(wrong))]])).tolist()


def main():
    args = make_parser().parse_args()
    device = utils.choose_device(args.device)
    with ranks(device) as rank:
        trained = utils.load_trained(args.model_dir, args.model_name, device)
        data = dataset.test_data(trained, args.sampled_data_path, args.ucf_list_dir, args.split)
        if rank.first:
            cli.say(data.note)
        options = utils.encoding_options(args, trained, device, cache=args.feature_cache,
                                         compile=args.compile, rank=rank)
        probabilities = predict_videos(trained, data, options, args.test_windows, args.flip)
    if not rank.first:
        return
    report(args, trained, data, probabilities)


def report(args, trained, data, probabilities):
    """Write everything, and say the main figures."""
    sampled = sampling_settings(data.folder)
    if args.test_windows != 1 and all(v.frames <= trained.settings["num_frames_video"] for v in data.videos):
        cli.say("one window a video is all that was sampled; preprocessing_data.py "
                "--num_frames_to_extract all keeps more")
    metrics = {"split": data.split, "leaky": data.split == "random",
               **scores.summarise(probabilities, data.labels, data.groups),
               "windows": args.test_windows, "flip": args.flip, "note": data.note,
               "checkpoint": trained.checkpoint.name, "epoch": trained.epoch,
               "encoder": trained.settings["encoder"], "readout": trained.settings["readout"],
               "num_frames_video": trained.settings["num_frames_video"],
               "sampling_rate": sampled.get("sampling_rate"), "seed": trained.settings["seed"],
               "parameters": checkpoints.count_parameters(trained.model)}
    folder = trained.folder / "test"
    try:
        for sub in ("figures", "videos"):
            (folder / sub).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--model_dir {trained.folder}: cannot write into it ({error.strerror})") from None
    for old in (folder / "videos").glob("*.mp4"):
        old.unlink()
    low, high = metrics["ci95"]
    leak = "LEAKY random split by video" if metrics["leaky"] else f"split {data.split}"
    note = (f"{leak}, n = {metrics['videos']} videos in {metrics['groups']} groups, top-1 "
            f"{metrics['top1']:.3f} [{low:.3f}, {high:.3f}], seed {metrics['seed']}")
    tables = write_tables(folder, data, trained.classes, probabilities, metrics)
    draw(folder, data, trained.classes, probabilities, tables, note, args)
    cli.say(f"test {note}; top-5 {metrics['top5']:.3f}, mean class accuracy "
            f"{metrics['mean_class_accuracy']:.3f}, {metrics['classes']} classes")
    cli.say(folder)


if __name__ == "__main__":
    cli.run(main)
