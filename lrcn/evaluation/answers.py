"""Videos with their labels, and what a network says of them: of a test, of a tested run that is read again,
of the folds of a cross-validation."""
import contextlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from lrcn.base import UserError, cli, files
from lrcn.data.manifest import SampledVideo
from lrcn.runs import RunFolder

RANDOM = "random split by video: near copies of the tested clips were trained on"     # why a test is leaky
LEAKY = "LEAKY random split by video"       # the same, in a few words
COLUMN = "p_"    # before a class's name, the column of its probability


@dataclass
class Answers:
    """Videos in an order. What is not known yet, or not at hand, is None."""
    videos: list                        # N manifest.SampledVideo
    labels: np.ndarray                  # int64 (N,)
    classes: list                       # C names in label order
    folder: Path = None                 # of the sampled clips
    probabilities: np.ndarray = None    # float64 (N, C)
    right: np.ndarray = None            # bool (N,)
    by_video = ("labels", "probabilities", "right")

    @property
    def groups(self):
        return [v.group for v in self.videos]

    @property
    def names(self):
        """[(class, video)]."""
        return [v.key for v in self.videos]

    @cached_property
    def predicted(self):
        """int (N,): the most probable class of each video."""
        return self.probabilities.argmax(1)

    def matrix(self):
        """Videos int (C, C), true class by row."""
        count = np.zeros((len(self.classes),) * 2, int)
        np.add.at(count, (self.labels, self.predicted), 1)
        return count

    def __getitem__(self, chosen):
        """These Answers of some videos, by their numbers or a bool (N,)."""
        order = np.arange(len(self.videos))[chosen]
        arrays = {key: getattr(self, key)[order] for key in self.by_video if getattr(self, key) is not None}
        return replace(self, videos=[self.videos[i] for i in order], **arrays)

    def of(self, names):
        """These Answers in the order of `names`; ValueError where they are of other videos."""
        place = {name: i for i, name in enumerate(self.names)}
        if place.keys() != set(names) or len(place) != len(names):
            raise ValueError("other videos")
        return self[[place[name] for name in names]]

    def with_classes(self, classes):
        """These Answers with the labels of `classes`, the same names in another order."""
        place = [self.classes.index(cls) for cls in classes]
        return replace(self, classes=list(classes), labels=np.argsort(place)[self.labels],
                       probabilities=self.probabilities[:, place])


def read_tested(folder):
    """(RunFolder, what metrics.json holds, Answers) of a tested run; UserError: it is not one, or damaged."""
    run = RunFolder(cli.folder("runs", folder, "give run folders that test.py has tested"))
    if not run.test.metrics.is_file():
        raise UserError(f"{run}: no test/metrics.json in this run; run test.py on it first")
    metrics = files.read_json(run.test.metrics)
    if type(metrics.get("parameters")) not in (int, type(None)):
        raise UserError(f"{run.test.metrics}: parameters: expected a whole number; run test.py again")
    return run, metrics, read_answers(run.test)


def read_answers(test):
    """The Answers in a TestFolder's predictions.csv; UserError names a wrong line."""
    path = test.predictions
    rows = files.read_csv(path, ("video", "class", "group", "right"))
    if not rows or {r["right"] for r in rows} - {"0", "1"}:
        raise UserError(f"{path}: expected a line for every tested video, right 0 or 1; run test.py again")
    classes = [name.removeprefix(COLUMN) for name in rows[0] if name and name.startswith(COLUMN)]
    label = {cls: i for i, cls in enumerate(classes)}
    probabilities = np.zeros((len(rows), len(classes)))
    for i, row in enumerate(rows):
        with contextlib.suppress(TypeError, ValueError):
            probabilities[i] = [float(row[COLUMN + cls]) for cls in classes]
        p = probabilities[i]
        if row["class"] not in label or not abs(p.sum() - 1) < 1e-3 or p.min() < 0:
            raise UserError(f"{path} line {i + 2}: expected a class with a column of its own, and "
                            f"probabilities that add up to 1; run test.py again")
    videos = [SampledVideo(r["video"], r["class"], r["group"], 1) for r in rows]
    answers = Answers(videos, np.array([label[v.cls] for v in videos]), classes, None, probabilities,
                      np.array([r["right"] == "1" for r in rows]))
    if len(set(answers.names)) < len(videos):
        raise UserError(f"{path}: a video appears twice; run test.py again")
    return answers
