"""One page of a run, whole in one file: it opens from the disk, and asks no server for anything.

    write_page(run, clips, compared, [run, other], words)       # <run>/report.html; how many bytes

The page's programs stand in it, plotly.js (MIT licence) among them, and its Content-Security-Policy lets
no other one run: by their hashes, so that the same run gives the same page. Names of the data reach the page
as text: through Jinja2's escaping, as JSON, or through charts.plain.
"""
import base64
import functools
import hashlib
import os
import shlex
from pathlib import Path
from urllib.parse import quote

import jinja2
import markupsafe
import numpy as np
from plotly.offline import get_plotlyjs

from lrcn.base import files
from lrcn.evaluation import scores
from lrcn.pages import charts, reading
from lrcn.runs import loss_words

HERE = Path(__file__).parent


@functools.cache
def environment():
    """Jinja2 with escaping everywhere, and this page's ways of writing a figure."""
    made = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=jinja2.StrictUndefined,
                              finalize=lambda value: "–" if value is None else value)
    made.filters.update(share=share, interval=interval, figure=figure,
                        url=lambda path: quote(os.fsencode(path)))
    return made


def share(value):
    value = reading.number(value)
    return "–" if value is None else f"{value:.1%}"


def figure(value, digits=3):
    value = reading.number(value)
    return "–" if value is None else f"{value:.{digits}f}"


def interval(ends, sign=""):
    """The ends of an interval in words, nothing where there is none."""
    ends = [reading.number(end) for end in ends] if isinstance(ends, list) else []
    if len(ends) != 2 or None in ends:
        return ""
    return f"{ends[0]:{sign}.1%} to {ends[1]:{sign}.1%}"


def write_page(run, clips, compared, runs, words):
    """Write <run>/report.html; its size in bytes.

    clips: {number of the tested video: path below the run}. compared: rows of reading.side_by_side,
    of `runs` in their order, or []. words: remarks for the reader.
    """
    scripts = [markupsafe.Markup(text) for text in (get_plotlyjs(), (HERE / "page.js").read_text("utf-8"))]
    data = page_data(run, clips, compared, runs)
    warning = reading.share_words(run.metrics)
    text = environment().get_template("page.html").render(
        run=run, data=data, compared=compared, runs=runs, words=words, scripts=scripts,
        hashes=[hashed(script) for script in scripts],
        css=markupsafe.Markup((HERE / "page.css").read_text("utf-8")), protocol=warning[0], leaky=warning[1],
        chance=chance(run.tested), facts=facts(run), commands=commands(run), few_means=scores.FEW_MEANS,
        here=run.folder.path, loss_words=loss_words(run.settings))
    # A film's name may be no UTF-8: here it gets marks of replacement, in addresses its own bytes.
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    files.write_text(run.folder.report, text)
    return len(text.encode())


def hashed(script):
    """A script's name in a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode()


def chance(tested):
    """(share of an even guess, of the most frequent class always) among the tested videos, or None."""
    if tested is None:
        return None
    return 1 / len(tested.classes), float(np.bincount(tested.labels).max() / len(tested.labels))


# ---------------------------------------------------------------- data

def page_data(run, clips, compared, runs):
    """What the page's program shows, in plain containers."""
    data = {"charts": {}, "films": [], "classes": [], "videos": [], "gates": {}, "matrix": []}
    if run.history:
        data["charts"].update(charts.curves(run.history))
    if run.tested:
        data.update(test_data(run, clips))
        data["charts"].update(test_charts(run))
    if run.study.get("switching"):
        data["charts"].update({"switching": charts.switching(run.study), "shares": charts.shares(run.study)})
        data["gates"] = charts.gates(run.study)
        data["charts"]["gates"] = data["gates"].get(middle(data["gates"]))
    for i, film in enumerate(run.films):
        data["charts"][f"film{i}"] = charts.timeline(film)
        data["films"].append({"segments": film.segments, "plays": film.folder.film.is_file()})
    if compared:
        data["compared"] = disagreements(runs, compared)
    return data


def middle(gates):
    """The key of the windows with half of their frames from the later action; None without any."""
    return list(gates)[len(gates) // 2] if gates else None


def test_data(run, clips):
    tested = run.tested
    shares, videos = tested.probabilities, []
    best = np.argsort(-shares, axis=1, kind="stable")[:, :reading.TOP]
    for i, (_, name) in enumerate(tested.names):
        top = [[int(k), round(float(shares[i, k]), 4)] for k in best[i]]
        videos.append([name, int(tested.labels[i]), int(tested.predicted[i]), top,
                       round(float(shares[i, tested.labels[i]]), 4), quote(clips[i]) if i in clips else 0])
    accuracy, n = scores.per_class(tested.right, tested.labels, len(tested.classes))
    counts = run.train_counts
    few = scores.under_represented(counts) if counts.any() else np.zeros(len(counts), bool)
    return {"classes": tested.classes, "videos": videos, "matrix": tested.matrix().tolist(),
            "accuracy": [None if np.isnan(a) else round(float(a), 4) for a in accuracy], "n": n.tolist(),
            "train": counts.tolist() if counts.any() else None, "few": few.tolist()}


def test_charts(run):
    tested, counts = run.tested, run.train_counts
    found = {"confusion": charts.confusion(tested.matrix(), tested.classes)}
    if counts.any():
        accuracy, n = scores.per_class(tested.right, tested.labels, len(tested.classes))
        words = scores.correlation_words(counts[n > 0], accuracy[n > 0])
        found["training"] = charts.accuracy_by_training(tested.classes, counts, accuracy, n,
                                                        scores.under_represented(counts), words)
    return found


def disagreements(runs, compared):
    """{names, answers}: of the runs tested on the first's videos, the class that each gives to each video.

    A page knows its own run's videos by number, so the answers are in the order of the first run's.
    """
    rows = [row for row in compared if "answers" in row]
    return {"names": [row["name"] for row in rows], "answers": [row["answers"] for row in rows],
            "videos": [[name, cls] for cls, name in runs[0].tested.names]}


# ---------------------------------------------------------------- how it was made

def facts(run):
    """[(what, how much)] of the data, for a table."""
    found = [(f"{part} videos", f"{sum(counts.values())} of {len(counts)} classes")
             for part, counts in run.parts.items()]
    for name in ("videos", "groups", "windows", "note", "encoder", "parameters", "checkpoint", "epoch",
                 "seed"):
        if name in run.metrics:
            found.append((f"tested {name}" if name in ("videos", "groups") else name, run.metrics[name]))
    return found


def commands(run):
    """The command lines that made the run, in the order of the work, where the files tell them."""
    versions = run.settings.get("versions")
    told = [versions.get("command") if isinstance(versions, dict) else None, *run.commands,
            f"report.py {shlex.quote(str(run.folder))}"]
    return [f"python {line}" for line in told if isinstance(line, str)]
