"""What lies in a run folder, read for its report: every value checked, and what is absent left out.

    run = read_run("20261121-110128")       # .tested, .history, .study, .films ... or None, or empty
    table = side_by_side([run, other], choices)      # the comparison with paired tests

A run folder may come from a stranger: numbers are numbers here or None, words are words.
"""
import contextlib
import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from lrcn import checkpoints
from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.data.splits import read_splits
from lrcn.evaluation import answers
from lrcn.evaluation.comparison import compare, differing
from lrcn.runs import FilmFolder, RunFolder

TOP = 5


class Record(dict):
    """A JSON object in which a name that is absent stands for None, which a page shows as a dash."""

    def __missing__(self, key):
        return None


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
    tested: answers.Answers | None
    study: dict
    films: list
    commands: list      # of test.py and test_continues_movie.py, as they were written

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
        raise UserError(f"{run}: this is no run folder (no settings.json, no metrics.csv, no test/ in it); "
                        f"give the folder that train.py printed")
    parts = {}
    for row in read_splits(run.splits) if run.splits.is_file() else ():
        parts.setdefault(row["part"], Counter())[row["class"]] += 1
    metrics, tested, test = _at_once(run.test.path, lambda: (
        _json(run.test.metrics),
        answers.read_answers(run.test) if run.test.predictions.is_file() else None,
        _command(run.test.command)))
    study, studied = _at_once(run.study.path, lambda: (
        read_study(run.study.metrics), _command(run.study.command)))
    return Run(run, _json(run.settings), read_history(run), parts, metrics, tested, study,
               read_films(run), [command for command in (test, studied) if command])


def _at_once(folder, read):
    """What read() gives of a folder that another script may replace: read again until it was one folder."""
    def stamp():
        with contextlib.suppress(OSError):
            status = folder.stat()
            return status.st_ino, status.st_mtime_ns
    while True:
        before = stamp()
        try:
            content = read()
        except (OSError, UserError):
            if stamp() == before:
                raise
            continue
        if stamp() == before:
            return content


def _json(path):
    return Record(files.read_json(path) if path.is_file() else {})


def _command(path):
    """The command line in a file; "" where there is none."""
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").strip()
    return ""


def number(text):
    """A finite number, or None for anything else."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and not isinstance(text, bool) else None


def read_history(run):
    """Rows of a run's metrics.csv, {column: number or None}; UserError where they are not those that its
    last checkpoint knows."""
    if not run.metrics.is_file():
        return []
    rows, known = files.read_csv(run.metrics, ("epoch",)), []
    with contextlib.suppress(UserError, AttributeError, KeyError, TypeError):     # damaged, or an older one
        history = checkpoints.load_file(run.checkpoint("last"), "run")["progress"]["history"]
        known = [{name: "" if value is None else str(value) for name, value in row.items()}
                 for row in history]
    for i, wanted in enumerate(known):
        if len(rows) <= i or any(rows[i].get(name) != text for name, text in wanted.items()):
            raise UserError(f"{run.metrics}: epoch {i + 1} is not there as it was trained: the file is cut "
                            f"off or changed; train.py --resume {run} writes it anew")
    return [{key: number(value) for key, value in row.items() if key} for row in rows]


def read_study(path):
    """metrics.json of test_continues_movie.py, {} without one; UserError where a page cannot show it."""
    figures = _json(path)
    parts = [figures.get(name) for name in ("switching", "shares_by_mix", "recency_index")]
    curves = parts[0].values() if isinstance(parts[0], dict) else [None]
    if figures and not (all(isinstance(part, dict) for part in parts)
                      and all(isinstance(c, dict) and isinstance(c.get("curve"), dict) for c in curves)):
        raise UserError(f"{path}: not the figures of a study; run test_continues_movie.py again")
    return figures


# ---------------------------------------------------------------- tests

def protocol(metrics):
    """How the tested videos were chosen, as a sentence, and whether it is one to warn of."""
    split = str(metrics.get("split", ""))
    if metrics.get("leaky"):
        leak = metrics.get("leak") if isinstance(metrics.get("leak"), str) else ""
        return f"{leak or answers.RANDOM}, and the accuracy is inflated", True
    if split in ("1", "2", "3"):
        return f"official split {split}, whole groups", False
    return "test part drawn by whole groups" if split == "drawn" else f"split {split}", False


def side_by_side(runs, choices):
    """A row a run for a comparison, the first being what the others are measured by.

    choices: {flag: value} of every run. Runs that were tested on other videos get no paired test.
    """
    for run in runs:
        if run.tested is None:
            raise UserError(f"{run.folder}: no test/predictions.csv in this run; run test.py on it first")
    first, rows = runs[0].tested, []
    for run, flags in zip(runs, choices, strict=True):
        tested, same = run.tested, set(run.tested.names) == set(first.names)
        if same:
            tested = tested.of(first.names)
        row = {"name": run.name, "n": len(tested.videos), "flags": differing(flags, choices[0]),
               **vars(compare(tested.right, tested.groups, first.right if rows and same else None))}
        if same:    # answers: the class that it gives to each of the first's videos
            row["answers"] = [tested.classes[i] for i in tested.predicted]
            row["both"] = {f"{a}{b}": int(((first.right == a) & (tested.right == b)).sum())
                           for a in (0, 1) for b in (0, 1)}
        rows.append(row)
    return rows


# ---------------------------------------------------------------- films

def read_films(run):
    """[Film] of a run's test_on_video/, by name; a folder that holds no such tables is passed over."""
    films = []
    for path in sorted(run.films.iterdir()) if run.films.is_dir() else ():
        film = FilmFolder(path)
        if film.segments.is_file() and film.predictions.is_file():
            films.append(Film(path.name, film, *_at_once(path, lambda film=film: (
                [(*_span(row, film.segments), row["label"], number(row["probability"])) for row in
                 files.read_csv(film.segments, ("start", "end", "label", "probability"))],
                _windows(film.predictions)))))
    return films


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
