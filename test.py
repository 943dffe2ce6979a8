"""Test a trained model on the official test list (or on the test part of your own data).

    python test.py --model_dir 20261121-110128

takes the best checkpoint of the run and the folders that it was trained with, counts every test
video once, and leaves <model_dir>/test/ with metrics.json, predictions.csv, mistakes.csv (the most
confident first), confusion_matrix and accuracy_per_class (.png and .csv), figures/ and
videos/<Class>/. An earlier test/ stands until the new one is whole. Prints that folder as the last line.
"""
import numpy as np
from sklearn.metrics import confusion_matrix

import dataset
import utils
from lrcn import checkpoints, scores
from lrcn.base import cli, files
from lrcn.base.ranks import ranks
from lrcn.base.values import COUNT
from lrcn.clips.frames import source_frames
from lrcn.clips.manifest import sampling_settings
from lrcn.drawing import grids, labels, plots
from lrcn.encoding.predictions import predict_videos
from lrcn.runs import RunFolder, TestFolder
from lrcn.training import recipe
from lrcn.video.sampling import Rate


def make_parser():
    parser = cli.Parser(__doc__)
    utils.add_model_flags(parser)
    utils.add_data_flags(parser)
    recipe.add_compared_flags(parser)
    testing, output = parser.group("testing"), parser.group("output")
    utils.add_windows_flags(testing)
    output.add_argument("--num_videos", type=COUNT, default=30,
                        help="test clips drawn into videos/, half of them wrong where there are so many")
    output.add_argument("--seed", type=COUNT, default=42, help="of the choice of clips that are drawn")
    parser.group("machine").add_boolean("--compile", default=False, help="torch.compile the encoder")
    return parser


# ---------------------------------------------------------------- tables

def write_tables(folder, data, classes, probabilities):
    """All .csv files of a TestFolder -> (matrix, accuracy, n, few): what the pictures show of them."""
    predicted = probabilities.argmax(1)
    write_predictions(folder, data, classes, probabilities)
    matrix = confusion_matrix(data.labels, predicted, labels=range(len(classes)))
    files.write_csv(folder.confusion, ["true \\ predicted", *classes],
                    [(cls, *row) for cls, row in zip(classes, matrix.tolist(), strict=True)])
    accuracy, n = scores.per_class(predicted == data.labels, data.labels, len(classes))
    few = scores.under_represented(data.train_counts)
    files.write_csv(folder.accuracy,
                    ["class", "accuracy", "test_videos", "train_videos", "under_represented"],
                    [(cls, "" if np.isnan(a) else f"{a:.6g}", k, t, int(f)) for cls, a, k, t, f
                     in zip(classes, accuracy, n, data.train_counts, few, strict=True)])
    return matrix, accuracy, n, few


def write_predictions(folder, data, classes, probabilities):
    """predictions.csv in the order of the list, and what is wrong in it as mistakes.csv."""
    predicted, columns = probabilities.argmax(1), [f"p_{cls}" for cls in classes]
    rows = [(v.name, v.cls, label, v.group, guess, classes[guess], int(guess == label),
             *(f"{p:.6g}" for p in row))
            for v, label, guess, row in zip(data.videos, data.labels, predicted, probabilities, strict=True)]
    files.write_csv(folder.predictions,
                    ["video", "class", "label", "group", "predicted", "predicted_class", "right", *columns],
                    rows)
    wrong = np.flatnonzero(predicted != data.labels)
    wrong = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")]
    files.write_csv(folder.mistakes, ["video", "class", "predicted_class", "probability", "p_true"],
                    [(data.videos[i].name, data.videos[i].cls, classes[predicted[i]],
                      f"{probabilities[i].max():.6g}", f"{probabilities[i, data.labels[i]]:.6g}")
                     for i in wrong])


# ---------------------------------------------------------------- pictures

def draw(folder, data, classes, probabilities, tables, note, args):
    """The confusion matrix, the accuracy of every class, a grid of labels, labelled clips."""
    matrix, accuracy, n, few = tables
    plots.confusion_matrix(folder.confusion_picture, matrix, classes, note=note)
    plots.accuracy_per_class(folder.accuracy_picture, classes, accuracy, n, few, few_means=scores.FEW_MEANS,
                             note=note)
    guesses = probabilities.argmax(1)
    chosen = choose(guesses == data.labels, args.num_videos, args.seed)
    if chosen:
        draw_grid(folder, data, classes, probabilities, chosen[:16], note)
    fps = Rate.of(sampling_settings(data.folder)).per_second
    for i in cli.progress(chosen, desc="drawing clips", unit="clip"):
        meant, said, video = classes[data.labels[i]], classes[guesses[i]], data.videos[i]
        path = folder.clip(video.cls, video.name, right=meant == said)
        path.parent.mkdir(exist_ok=True)
        labels.labelled_clip_video(path, [clip(data, i)], [meant], [said], fps)


def draw_grid(folder, data, classes, probabilities, chosen, note):
    guesses = probabilities.argmax(1)
    true, said = ([classes[labels[i]] for i in chosen] for labels in (data.labels, guesses))
    grids.label_grid(folder.figures / "labels.png", [clip(data, i)[0] for i in chosen], true, said,
                     [probabilities[i].max() for i in chosen],
                     title="Test clips: first frame, predicted and true class",
                     note=f"{note}. Half of those drawn are wrong ones, where there are so many")


def clip(data, i):
    """Test video number i as it was sampled: uint8 (T, H, W, 3)."""
    return source_frames(data.folder, data.videos[i], range(data.videos[i].frames))


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
            utils.say_disagreement(args, trained)
            cli.say(data.note)
        options = utils.encoding_options(args, trained, device, cache=args.feature_cache,
                                         compile=args.compile, rank=rank)
        probabilities = predict_videos(trained, data, options, args.test_windows, args.flip)
    if not rank.first:
        return
    report(args, trained, data, probabilities)


def report(args, trained, data, probabilities):
    """Write everything, and say the main figures."""
    if args.test_windows != 1 and all(v.frames <= trained.settings["num_frames_video"] for v in data.videos):
        cli.say("one window a video is all that was sampled; preprocessing_data.py "
                "--num_frames_to_extract all keeps more")
    metrics = measured(args, trained, data, probabilities)
    low, high = metrics["ci95"]
    leak = "LEAKY random split by video" if metrics["leaky"] else f"split {data.split}"
    note = (f"{leak}, n = {metrics['videos']} videos in {metrics['groups']} groups, top-1 "
            f"{metrics['top1']:.3f} [{low:.3f}, {high:.3f}], seed {metrics['seed']}")
    test = RunFolder(trained.folder).test
    with files.replaced_folder(test.path) as new:
        folder = TestFolder(new)
        for sub in (folder.figures, folder.videos):
            sub.mkdir()
        files.write_json(folder.metrics, metrics)
        tables = write_tables(folder, data, trained.classes, probabilities)
        draw(folder, data, trained.classes, probabilities, tables, note, args)
    top5 = f"top-5 {metrics['top5']:.3f}, " if len(trained.classes) > 5 else ""
    cli.say(f"test {note}; {top5}mean class accuracy {metrics['mean_class_accuracy']:.3f}, "
            f"{metrics['classes']} classes")
    cli.say(test)


def measured(args, trained, data, probabilities):
    """What metrics.json holds."""
    return {"split": data.split, "leaky": data.split == "random",
            **scores.summarise(probabilities, data.labels, data.groups),
            "windows": args.test_windows, "flip": args.flip, "note": data.note,
            "checkpoint": trained.checkpoint.name, "epoch": trained.epoch,
            "encoder": trained.settings["encoder"], "readout": trained.settings["readout"],
            "num_frames_video": trained.settings["num_frames_video"],
            "sampling_rate": sampling_settings(data.folder).get("sampling_rate"),
            "seed": trained.settings["seed"], "parameters": checkpoints.count_parameters(trained.model)}


if __name__ == "__main__":
    cli.run(main)
