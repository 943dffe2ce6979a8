"""What a test has written of a run, read again: its figures, and its answers video by video.

    answers = read_answers(RunFolder("20261121-110128").test)       # .videos .groups .right
    shares = read_shares(RunFolder("20261121-110128").test)         # and .classes .labels .probabilities
"""
from dataclasses import dataclass, replace

import numpy as np

from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.base.values import Number

RANDOM = "random split by video: near copies of the tested clips were trained on"     # why a test is leaky
SHARE = "p_"    # before a class's name, the column of its probability
SHARE_OF_ONE = Number(float, low=0, high=1.000001)


def read_metrics(test):
    """metrics.json of a TestFolder; UserError where there is none, or the file is not test.py's."""
    if not test.metrics.is_file():
        raise UserError(f"{test.path.parent}: no test/metrics.json in this run; run test.py on it first")
    found = files.read_json(test.metrics)
    if type(found.get("parameters")) not in (int, type(None)):
        raise UserError(f"{test.metrics}: parameters: expected a whole number; run test.py again")
    return found


@dataclass
class Answers:
    """Tested videos in the order of the file: (class, name) pairs, their groups, right bool (N,)."""
    videos: list
    groups: list
    right: np.ndarray

    def of(self, videos):
        """These answers in the order of `videos`; ValueError where they are of others."""
        place = {video: i for i, video in enumerate(self.videos)}
        if place.keys() != set(videos) or len(place) != len(videos):
            raise ValueError("other videos")
        order = [place[video] for video in videos]
        chosen = {"videos": list(videos), "groups": [self.groups[i] for i in order]}
        return replace(self, **chosen, **{name: value[order] for name, value in vars(self).items()
                                          if isinstance(value, np.ndarray)})


@dataclass
class Shares(Answers):
    """Answers with their probabilities float64 (N, C), labels int64 (N,), the class names in label order."""
    classes: list
    labels: np.ndarray
    probabilities: np.ndarray

    def with_classes(self, classes):
        """These answers with the labels of `classes`, the same names in another order."""
        place = [self.classes.index(cls) for cls in classes]
        return replace(self, classes=list(classes), labels=np.argsort(place)[self.labels],
                       probabilities=self.probabilities[:, place])


def read_answers(test):
    """The Answers in a TestFolder's predictions.csv."""
    return Answers(*_columns(test.predictions, _rows(test.predictions, ("video", "class", "group", "right"))))


def _rows(path, columns):
    rows = files.read_csv(path, columns)
    if not rows or {r["right"] for r in rows} - {"0", "1"}:
        raise UserError(f"{path}: expected a line for every tested video, right 0 or 1; run test.py again")
    return rows


def _columns(path, rows):
    videos = [(r["class"], r["video"]) for r in rows]
    if len(set(videos)) < len(videos):
        raise UserError(f"{path}: a video stands there twice; run test.py again")
    return videos, [r["group"] for r in rows], np.array([r["right"] == "1" for r in rows])


def read_shares(test):
    """The Shares in a TestFolder's predictions.csv; UserError names the line that has no probabilities."""
    path = test.predictions
    rows = _rows(path, ("video", "class", "group", "right", "label"))
    classes = [name.removeprefix(SHARE) for name in rows[0] if name and name.startswith(SHARE)]
    label = {cls: i for i, cls in enumerate(classes)}
    shares = np.zeros((len(rows), len(classes)))
    for i, row in enumerate(rows):
        shares[i] = [_share(row[SHARE + cls], f"{path} line {i + 2}") for cls in classes]
        if row["class"] not in label or abs(shares[i].sum() - 1) > 1e-3:
            raise UserError(f"{path} line {i + 2}: expected a class with a column of its own, and "
                            f"probabilities that add up to 1; run test.py again")
    labels = np.array([label[row["class"]] for row in rows])
    return Shares(*_columns(path, rows), classes, labels, shares)


def _share(text, where):
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = float("nan")
    if SHARE_OF_ONE.fault(value):
        raise UserError(f"{where}: {text!s:.30} is no probability; run test.py again")
    return value
