"""The report on a test: figures, tables and pictures."""
import numpy as np

from lrcn.base import cli, files
from lrcn.data.frames import source_frames
from lrcn.data.manifest import sampling_settings
from lrcn.drawing import labels, plots
from lrcn.evaluation import scores
from lrcn.evaluation.answers import COLUMN, LEAKY, RANDOM
from lrcn.evaluation.intervals import with_interval
from lrcn.runs import TestFolder
from lrcn.video.sampling import Rate
from lrcn.video.writer import Writer


def write(test, data, more, num_videos, seed):
    """Write everything into a TestFolder, whole or not at all; the main figures in a sentence. data: a
    dataset.TestData with its probabilities; without its folder there are no pictures of frames. more: what
    metrics.json holds beside the figures, `seed` among it."""
    leak = data.leak or (RANDOM if data.split == "random" else "")
    metrics = {"split": data.split, "leaky": bool(leak), "leak": leak,
               **scores.summarise(data.probabilities, data.labels, data.groups), **more, **confidence(data)}
    split = LEAKY if leak == RANDOM else f"split {data.split}" + (f", LEAKY: {leak}" if leak else "")
    note = (f"{split}, n = {metrics['videos']} videos in {metrics['groups']} groups, top-1 "
            f"{with_interval(metrics['top1'], metrics['ci95'])}, seed {metrics['seed']}")
    with files.replaced_folder(test.path) as new:
        folder = TestFolder(new)
        for sub in (folder.figures, folder.videos):
            sub.mkdir()
        files.write_json(folder.metrics, metrics)
        files.write_text(folder.command, cli.command() + "\n")
        classes, probabilities, predicted = data.classes, data.probabilities, data.predicted
        by_class = scores.by_class(probabilities, data.labels)
        few = scores.under_represented(data.train_counts)
        accuracy, n = by_class["recall"], by_class.pop("videos")
        files.write_csv(folder.confusion, ["true \\ predicted", *classes],
                        [(cls, *row) for cls, row in zip(classes, data.matrix().tolist(), strict=True)])
        files.write_csv(folder.accuracy,
                        ["class", "accuracy", "test_videos", "train_videos", "under_represented", *by_class],
                        [(cls, shown(a), k, t, int(f), *map(shown, rest)) for cls, a, k, t, f, *rest
                         in zip(classes, accuracy, n, data.train_counts, few, *by_class.values(),
                                strict=True)])
        files.write_csv(folder.predictions, ["video", "class", "label", "group", "predicted",
                                             "predicted_class", "right", *(COLUMN + cls for cls in classes)],
                        [(v.name, v.cls, label, v.group, guess, classes[guess], int(guess == label),
                          *(f"{p:.6g}" for p in row)) for v, label, guess, row
                         in zip(data.videos, data.labels, predicted, probabilities, strict=True)])
        wrong = np.flatnonzero(predicted != data.labels)
        wrong = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")]
        files.write_csv(folder.mistakes, ["video", "class", "predicted_class", "probability", "p_true"],
                        [(data.videos[i].name, data.videos[i].cls, classes[predicted[i]],
                          f"{probabilities[i].max():.6g}", f"{probabilities[i, data.labels[i]]:.6g}")
                         for i in wrong])
        draw(folder, data, accuracy, n, few, note, num_videos, seed)
    top5 = f"top-5 {metrics['top5']:.3f}, " if len(data.classes) > 5 else ""
    return (f"test {note}; {top5}mean class accuracy {metrics['mean_class_accuracy']:.3f}, "
            f"macro F1 {metrics['macro_f1']:.3f}, {metrics['classes']} classes{confidence_words(metrics)}")


def confidence(data):
    """Figures of the background, and of the confidence at temperature 1, for metrics.json."""
    figures = {}
    if data.uncalibrated is not None:
        figures["ece_before"] = scores.expected_error(scores.reliability(data.uncalibrated, data.labels))
    if data.background is not None:
        figures["background"] = {"class": data.classes[data.background],
                                 **scores.apart(data.predicted, data.labels, data.groups, data.background)}
    return figures


def confidence_words(metrics):
    """The confidence, and the background, in words."""
    line, apart = f"; expected calibration error {metrics['ece']:.3f}", metrics.get("background")
    if metrics.get("temperature", 1) != 1:
        line += f" ({metrics['ece_before']:.3f} before temperature {metrics['temperature']:.3g})"
    if apart and apart["classes_videos"]:
        top1 = with_interval(apart["top1"], apart["ci95"])
        line += (f"; background {apart['class']} apart: top-1 {top1} of {apart['classes_videos']} videos of "
                 f"the other classes, {apart['called_background']} of them called {apart['class']}; "
                 f"{apart['called_a_class']} of its {apart['background_videos']} videos called a class")
    return line


def shown(value):
    """A figure of a table; empty where there is none."""
    return "" if np.isnan(value) else f"{value:.6g}"


def draw(folder, data, accuracy, n, few, note, num_videos, seed):
    """The confusion matrix, the accuracy of every class, a grid of labels, and num_videos labelled clips:
    half of them wrong ones where there are so many, in a seeded order."""
    classes, matrix = data.classes, data.matrix()
    plots.confusion_matrix(folder.confusion_picture, matrix, classes, note=note)
    plots.accuracy_per_class(folder.accuracy_picture, classes, accuracy, n, few, few_means=scores.FEW_MEANS,
                             note=note)
    tables = {"as answered": scores.reliability(data.probabilities, data.labels)}
    if data.uncalibrated is not None and not np.array_equal(data.uncalibrated, data.probabilities):
        tables["before, at temperature 1"] = scores.reliability(data.uncalibrated, data.labels)
    plots.reliability(folder.reliability, {
        f"{name}: expected calibration error {scores.expected_error(bins):.3f}": bins
        for name, bins in tables.items()}, note)
    plots.test_videos(folder.figures / "videos_per_class.png", classes, n, np.diag(matrix), note=note)
    if data.train_counts.any():
        correlation = scores.correlation_words(data.train_counts[n > 0], accuracy[n > 0])
        plots.accuracy_by_training(folder.figures / "accuracy_by_training_videos.png", classes,
                                   data.train_counts, accuracy, n, few, correlation, scores.FEW_MEANS, note)
    random, right = np.random.default_rng(seed), data.predicted == data.labels
    wrong, good = (random.permutation(np.flatnonzero(right == value)) for value in (False, True))
    take = max(min(len(wrong), num_videos // 2), num_videos - len(good))
    chosen = random.permutation(np.concatenate([wrong[:take], good[:num_videos - min(take, len(wrong))]]))
    if not len(chosen) or data.folder is None:
        return

    def clip(i):
        return source_frames(data.folder, data.videos[i], range(data.videos[i].frames))

    true, predicted = ([classes[label] for label in of[chosen]] for of in (data.labels, data.predicted))
    labels.label_grid(folder.figures / "labels.png", [clip(i)[0] for i in chosen[:16]], true[:16],
                     predicted[:16], [data.probabilities[i].max() for i in chosen[:16]],
                     title="Test clips: first frame, predicted and true class",
                     note=f"{note}. Up to half of them are wrong answers")
    fps = Rate.of(sampling_settings(data.folder)).per_second
    drawing = cli.progress(chosen.tolist(), desc="drawing clips", unit="clip")
    for i, meant, guess in zip(drawing, true, predicted, strict=True):
        path = folder.clip(data.videos[i].cls, data.videos[i].name, right=meant == guess)
        path.parent.mkdir(exist_ok=True)
        frames = [labels.label_frame(frame, meant, guess) for frame in clip(i)]
        with Writer(path, fps, *frames[0].shape[1::-1]) as writer:
            for frame in frames:
                writer.write(frame)
