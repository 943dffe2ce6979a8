"""What lies in a run folder, read for its report: every value checked, for a run folder may come from a
stranger, and what is absent left out."""
import contextlib
import math
from collections import Counter, defaultdict
from dataclasses import dataclass

from lrcn import checkpoints
from lrcn.base import UserError, files
from lrcn.data.splits import read_splits
from lrcn.evaluation import answers
from lrcn.evaluation.intervals import compare, differing
from lrcn.runs import FilmFolder, RunFolder

TOP = 5


@dataclass(frozen=True)
class Film:
    """One film of test_on_video.py, in seconds."""
    name: str
    folder: FilmFolder
    segments: list      # (start, end, label, probability)
    windows: list       # (start, end, {label: probability})


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


def read_run(folder):
    """The Run of a run folder; UserError where there is nothing of one, or a file is damaged."""
    run = RunFolder(folder)
    read = (run.settings, run.metrics, run.test.metrics, run.test.predictions)
    if not any(path.is_file() for path in read):
        raise UserError(f"{run}: this is no run folder (no settings.json, no metrics.csv, no test/ in it); "
                        f"give the folder that train.py printed")
    parts = {}
    for row in read_splits(run.splits) if run.splits.is_file() else ():
        parts.setdefault(row.part, Counter())[row.cls] += 1
    metrics, tested, test = _at_once(run.test.path, lambda: (
        _json(run.test.metrics), answers.read_answers(run.test) if run.test.predictions.is_file() else None,
        _command(run.test.command)))
    study, studied = _at_once(run.study.path, lambda: (_json(run.study.metrics), _command(run.study.command)))
    drawn = [study.get(name) for name in ("switching", "shares_by_mix", "recency_index")]
    if study and not (all(isinstance(part, dict) for part in drawn) and all(
            isinstance(c, dict) and isinstance(c.get("curve"), dict) for c in drawn[0].values())):
        raise UserError(f"{run.study.metrics}: no figures of the mixed-action study; run "
                        "test_continues_movie.py again")
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
            if stamp() == before:
                return content
        except (OSError, UserError):
            if stamp() == before:
                raise


def _json(path):
    """A JSON object in which a name that is absent stands for None, which a page shows as a dash."""
    return defaultdict(lambda: None, files.read_json(path) if path.is_file() else {})


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
    """Rows of metrics.csv, {column: number or None}; UserError where the last checkpoint knows others."""
    if not run.metrics.is_file():
        return []
    rows, known = files.read_csv(run.metrics, ("epoch",)), []
    with contextlib.suppress(UserError, AttributeError, KeyError, TypeError):     # damaged, or an older one
        history = checkpoints.load_file(run.checkpoint("last"), "run")["progress"]["history"]
        known = [{name: "" if value is None else str(value) for name, value in row.items()}
                 for row in history]
    for i, row in enumerate(known):
        if len(rows) <= i or any(rows[i].get(name) != text for name, text in row.items()):
            raise UserError(f"{run.metrics}: epoch {i + 1} differs from the training: the file is cut off or "
                            f"changed; train.py --resume {run} writes it again")
    return [{key: number(value) for key, value in row.items() if key} for row in rows]


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
    """A row a run for a comparison, the first being what the others are measured by; those that were tested
    on other videos get no paired test. choices: {flag: value} of every run."""
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


def read_films(run):
    """[Film] of a run's test_on_video/, by name; a folder that holds no such tables is passed over."""
    def spans(path, *columns):
        """[(start, end, row)] of a table."""
        rows = [(number(row["start"]), number(row["end"]), row)
                for row in files.read_csv(path, ("start", "end", *columns))]
        if any(None in row[:2] for row in rows):
            raise UserError(f"{path}: start and end have to be seconds; run test_on_video.py again")
        return rows

    def tables(film):
        return ([(a, b, row["label"], number(row["probability"]))
                 for a, b, row in spans(film.segments, "label", "probability")],
                [(a, b, {label: number(row.get(name.replace("label", "probability")))
                         for name, label in row.items() if name and name.startswith("label_") and label})
                 for a, b, row in spans(film.predictions, "label_1", "probability_1")])

    folders = [FilmFolder(path) for path in sorted(run.films.iterdir())] if run.films.is_dir() else ()
    return [Film(film.path.name, film, *_at_once(film.path, lambda film=film: tables(film)))
            for film in folders if film.segments.is_file() and film.predictions.is_file()]
