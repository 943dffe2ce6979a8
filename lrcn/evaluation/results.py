"""The report on a test: figures, tables and pictures of the probabilities that videos were given.

    said = write(RunFolder(run).test, data, classes, probabilities, metrics(...), num_videos=30, seed=42)

data: the tested videos as dataset.TestData has them; where its folder is None, the clips themselves
are not at hand, and the pictures of frames are left out.
"""
import numpy as np
from sklearn.metrics import confusion_matrix

from lrcn.base import cli, files
from lrcn.data.frames import source_frames
from lrcn.data.manifest import sampling_settings
from lrcn.drawing import grids, labels, plots
from lrcn.evaluation import scores
from lrcn.evaluation.answers import RANDOM, SHARE
from lrcn.runs import TestFolder
from lrcn.video.sampling import Rate


def write(test, data, classes, probabilities, more, num_videos, seed):
    """Write everything into a TestFolder, whole or not at all; the main figures in a sentence.

    probabilities: (videos, C). more: what metrics.json holds beside the figures, `seed` among it.
    """
    leak = data.leak or (RANDOM if data.split == "random" else "")
    metrics = {"split": data.split, "leaky": bool(leak), "leak": leak,
               **scores.summarise(probabilities, data.labels, data.groups), **more}
    low, high = metrics["ci95"]
    share = "LEAKY random split by video" if leak == RANDOM else f"split {data.split}"
    share += f", LEAKY: {leak}" if leak and leak != RANDOM else ""
    note = (f"{share}, n = {metrics['videos']} videos in {metrics['groups']} groups, top-1 "
            f"{metrics['top1']:.3f} [{low:.3f}, {high:.3f}], seed {metrics['seed']}")
    with files.replaced_folder(test.path) as new:
        folder = TestFolder(new)
        for sub in (folder.figures, folder.videos):
            sub.mkdir()
        files.write_json(folder.metrics, metrics)
        files.write_text(folder.command, cli.command() + "\n")
        tables = write_tables(folder, data, classes, probabilities)
        draw(folder, data, classes, probabilities, tables, note, num_videos, seed)
    top5 = f"top-5 {metrics['top5']:.3f}, " if len(classes) > 5 else ""
    return (f"test {note}; {top5}mean class accuracy {metrics['mean_class_accuracy']:.3f}, "
            f"{metrics['classes']} classes")


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
    predicted, columns = probabilities.argmax(1), [SHARE + cls for cls in classes]
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

def draw(folder, data, classes, probabilities, tables, note, num_videos, seed):
    """The confusion matrix, the accuracy of every class, a grid of labels, labelled clips."""
    matrix, accuracy, n, few = tables
    plots.confusion_matrix(folder.confusion_picture, matrix, classes, note=note)
    plots.accuracy_per_class(folder.accuracy_picture, classes, accuracy, n, few, few_means=scores.FEW_MEANS,
                             note=note)
    guesses = probabilities.argmax(1)
    right = np.bincount(data.labels, guesses == data.labels, minlength=len(classes)).astype(int)
    plots.test_videos(folder.figures / "videos_per_class.png", classes, n, right, note=note)
    if data.train_counts.any():
        words = scores.correlation_words(data.train_counts[n > 0], accuracy[n > 0])
        plots.accuracy_by_training(folder.figures / "accuracy_by_training_videos.png", classes,
                                   data.train_counts, accuracy, n, few, words, scores.FEW_MEANS, note=note)
    chosen = choose(guesses == data.labels, num_videos if data.folder else 0, seed)
    if chosen:
        draw_grid(folder, data, classes, probabilities, chosen[:16], note)
    fps = Rate.of(sampling_settings(data.folder)).per_second if chosen else None
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
