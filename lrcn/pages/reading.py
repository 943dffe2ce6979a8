"""What lies in a run folder, read for its report: every value checked, and what is absent left out.

    run = read_run("20261121-110128")       # .tested, .history, .study, .films ... or None, or empty
    table = side_by_side([run, other])      # the comparison with paired tests

A run folder may come from a stranger: numbers are numbers here or None, words are words.
"""
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from lrcn import scores
from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.clips.splits import read_splits
from lrcn.runs import FilmFolder, RunFolder

TOP = 5


@dataclass(frozen=True)
class Tested:
    """test/predictions.csv. videos: (class, name) of N; labels, predicted: int (N,); probabilities (N, C)."""
    classes: list
    videos: list
    groups: list
    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray

    @property
    def right(self):
        return self.labels == self.predicted

    def matrix(self):
        """Videos (C, C), true class by row."""
        found = np.zeros((len(self.classes),) * 2, int)
        np.add.at(found, (self.labels, self.predicted), 1)
        return found


@dataclass(frozen=True)
class Film:
    """One film of test_on_video.py. windows: [(start, end, {label: probability})], in seconds."""
    name: str
    folder: FilmFolder
    segments: list      # (start, end, label, probability)
    windows: list


@dataclass(frozen=True)
class Run:
    """All that a page shows of one run; None or empty where a script has not run yet."""
    folder: RunFolder
    settings: dict
    history: list       # rows of metrics.csv, numbers or None
    parts: dict         # {part: Counter of classes}
    metrics: dict       # of test.py
    tested: Tested | None
    study: dict
    films: list

    @property
    def name(self):
        return self.folder.path.resolve().name

    @property
    def train_counts(self):
        """int (C,): training videos of the tested classes."""
        counts = self.parts.get("train", Counter())
        return np.array([counts[cls] for cls in self.tested.classes])


def read_run(folder):
    """The Run of a run folder; UserError where there is nothing of one, or a file is damaged."""
    run = RunFolder(folder)
    read = (run.settings, run.metrics, run.test.metrics, run.test.predictions)
    if not any(path.is_file() for path in read):
        raise UserError(f"{run}: this is no run folder (no settings.json, no metrics.csv, no test/ in it); give "
                        f"the folder that train.py printed")
    parts = {}
    for row in read_splits(run.splits) if run.splits.is_file() else ():
        parts.setdefault(row["part"], Counter())[row["class"]] += 1
    return Run(run, _json(run.settings), read_history(run.metrics), parts, _json(run.test.metrics),
               read_predictions(run.test.predictions) if run.test.predictions.is_file() else None,
               _json(run.study.metrics), read_films(run))


def _json(path):
    return files.read_json(path) if path.is_file() else {}


def number(text):
    """A finite number, or None for anything else."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and not isinstance(text, bool) else None


def read_history(path):
    """Rows of metrics.csv, {column: number or None}."""
    if not path.is_file():
        return []
    return [{key: number(value) for key, value in row.items() if key} for row in files.read_csv(path, ("epoch",))]


# ---------------------------------------------------------------- tests

COLUMNS = ("video", "class", "label", "group", "predicted")


def read_predictions(path):
    """The Tested of a predictions.csv; UserError with the line where it is none of test.py's."""
    rows = files.read_csv(path, COLUMNS)
    classes = [column[2:] for column in rows[0] if column and column.startswith("p_")] if rows else []
    if not rows or not classes:
        raise UserError(f"{path}: expected a line for every tested video and a column for every class; run "
                        f"test.py again")
    labels, shares = np.zeros((len(rows), 2), int), np.zeros((len(rows), len(classes)))
    for i, row in enumerate(rows):
        values = [number(row[f"p_{cls}"]) for cls in classes]
        said = [row[name] for name in ("label", "predicted")]
        if None in values or not all(x.isascii() and x.isdecimal() and int(x) < len(classes) for x in said):
            raise UserError(f"{path} line {i + 2}: not the labels and probabilities of {len(classes)} classes; "
                            f"run test.py again")
        labels[i], shares[i] = said, values
    return Tested(classes, [(row["class"], row["video"]) for row in rows], [row["group"] for row in rows],
                  *labels.T, shares)


def share_words(metrics):
    """How the tested videos were chosen, as a sentence, and whether it is one to warn of."""
    split = str(metrics.get("split", ""))
    if metrics.get("leaky"):
        return ("random split by video: near copies of the tested clips were trained on, and the accuracy is "
                "inflated"), True
    if split in ("1", "2", "3"):
        return f"official split {split}, whole groups", False
    return "test part drawn by whole groups" if split == "drawn" else f"split {split}", False


def side_by_side(runs, choices):
    """What a comparison shows: {rows, disagreements}, the first run being what the others are measured by.

    choices: {flag: value} of every run. Runs that were tested on other videos get no paired test.
    """
    first, found, order = runs[0].tested, [], {}
    if first is None:
        raise UserError(f"{runs[0].folder}: no test/predictions.csv in this run; run test.py on it first")
    order = {video: i for i, video in enumerate(first.videos)}
    for run, flags in zip(runs, choices, strict=True):
        if run.tested is None:
            raise UserError(f"{run.folder}: no test/predictions.csv in this run; run test.py on it first")
        estimate = scores.share_of(run.tested.right, run.tested.groups)
        row = {"name": run.name, "top1": estimate.value, "ci95": estimate.ci95, "n": len(run.tested.videos),
               "flags": [(name, value) for name, value in flags.items()
                         if name in choices[0] and value != choices[0][name]]}
        if run is not runs[0] and set(run.tested.videos) == set(order):
            row.update(_paired(first, run.tested, order))
        found.append(row)
    return found


def _paired(first, other, order):
    """The paired test of a run against the first, on the same videos; answers: its class for each of them."""
    place = np.argsort([order[video] for video in other.videos])
    right = other.right[place]
    value, ends, p = scores.paired(first.right[None], right[None], first.groups)
    both = {f"{a}{b}": int(((first.right == a) & (right == b)).sum()) for a in (0, 1) for b in (0, 1)}
    return {"minus": value, "minus_ci95": ends, "p": p, "both": both,
            "answers": [other.classes[i] for i in other.predicted[place]]}


# ---------------------------------------------------------------- films

def read_films(run):
    """[Film] of a run's test_on_video/, by name; a folder that holds no such tables is passed over."""
    found = []
    for path in sorted(run.films.iterdir()) if run.films.is_dir() else ():
        film = FilmFolder(path)
        if film.segments.is_file() and film.predictions.is_file():
            segments = [(*_span(row, film.segments), row["label"], number(row["probability"]))
                        for row in files.read_csv(film.segments, ("start", "end", "label", "probability"))]
            found.append(Film(path.name, film, segments, _windows(film.predictions)))
    return found


def _span(row, path):
    start, end = number(row["start"]), number(row["end"])
    if start is None or end is None:
        raise UserError(f"{path}: start and end have to be seconds; run test_on_video.py again")
    return start, end


def _windows(path):
    rows = files.read_csv(path, ("start", "end", "label_1", "probability_1"))
    top = range(1, 1 + sum(1 for name in (rows[0] if rows else ()) if name and name.startswith("label_")))
    return [(*_span(row, path), {row[f"label_{i}"]: number(row[f"probability_{i}"]) for i in top
                                 if row.get(f"label_{i}")}) for row in rows]
