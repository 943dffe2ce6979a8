"""One page of a run: a file that opens from the disk without a server, and small films of clips beside it.

Its scripts are in it, plotly.js (MIT licence) too, and its Content-Security-Policy lets no others run, by
their hashes. Names of the data reach it as text: through Jinja2's escaping, as JSON, or through charts.plain.
"""
import base64
import functools
import hashlib
import os
import shlex
from collections import Counter, defaultdict
from pathlib import Path
from urllib.parse import quote

import markupsafe
import numpy as np

from lrcn.base import Lazy, cli, files
from lrcn.data.frames import source_frames
from lrcn.data.manifest import read_sampled, sampling_settings
from lrcn.drawing import style
from lrcn.evaluation import scores
from lrcn.pages import charts, reading
from lrcn.runs import loss_words
from lrcn.video.reader import fit_frame
from lrcn.video.sampling import Rate
from lrcn.video.writer import Writer

offline = Lazy("plotly.offline")
jinja2 = Lazy("jinja2")

HERE = Path(__file__).parent
SIDE, FRAMES, STILL = 192, 60, 112      # pixels of a small film's longer side; its frames; of a still's side


def figure(value, form=".3f"):
    value = reading.number(value)
    return "–" if value is None else f"{value:{form}}"


def interval(ends, sign=""):
    """The ends of an interval, nothing where there is none."""
    ends = [reading.number(end) for end in ends] if isinstance(ends, list) else []
    if len(ends) != 2 or None in ends:
        return ""
    return f"{ends[0]:{sign}.1%} to {ends[1]:{sign}.1%}"


def write_page(run, clips, compared, runs, warning):
    """Write <run>/report.html; its size in bytes. clips: {number of the tested video: path below the run}.
    compared: rows of reading.side_by_side, of `runs` in their order, or []. warning: a sentence, or None."""
    own = "".join((HERE / name).read_text("utf-8") for name in ("shared.js", "page.js"))
    scripts = [markupsafe.Markup(offline.get_plotlyjs()), markupsafe.Markup(own)]
    tested = {"videos": "tested videos", "groups": "tested groups"}
    facts = [(f"{part} videos", f"{sum(counts.values())} of {len(counts)} classes")
             for part, counts in run.parts.items()]
    facts += [(tested.get(name, name), run.metrics[name]) for name in
              ("videos", "groups", "windows", "note", "encoder", "parameters", "checkpoint", "epoch", "seed")
              if name in run.metrics]
    versions = run.settings.get("versions")
    trained = versions.get("command") if isinstance(versions, dict) else None
    commands = [trained, *run.commands, f"report.py {shlex.quote(str(run.folder))}"]
    protocol, leaky = reading.protocol(run.metrics)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined,
                                     finalize=lambda value: "–" if value is None else value)
    environment.filters.update(share=functools.partial(figure, form=".1%"), interval=interval, figure=figure,
                               url=lambda path: quote(os.fsencode(path)))
    text = environment.get_template("page.html").render(
        run=run, data=page_data(run, clips, compared, runs), compared=compared, runs=runs,
        warning=warning, scripts=scripts,
        hashes=["sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
                for script in scripts],
        css=markupsafe.Markup((HERE / "page.css").read_text("utf-8")), protocol=protocol, leaky=leaky,
        facts=facts, commands=[f"python {line}" for line in commands if isinstance(line, str)],
        few_means=scores.FEW_MEANS, here=run.folder.path, loss_words=loss_words(run.settings))
    # A film's name may be no UTF-8: here it gets marks of replacement, in addresses its own bytes.
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    files.write_text(run.folder.report, text)
    return len(text.encode())


def page_data(run, clips, compared, runs):
    """What the page's program shows, in plain containers."""
    data = {"charts": {}, "films": [], "classes": [], "videos": [], "gates": {}, "matrix": []}
    if run.history:
        data["charts"].update(charts.curves(run.history))
    if run.tested:
        tested, matrix, trained = run.tested, run.tested.matrix(), run.parts.get("train", Counter())
        counts = np.array([trained[cls] for cls in tested.classes])
        best = np.argsort(-tested.probabilities, axis=1, kind="stable")[:, :reading.TOP]
        stills = run.folder.report_clips
        for i, (_, name) in enumerate(tested.names):
            p, label = tested.probabilities[i].tolist(), int(tested.labels[i])
            data["videos"].append([name, label, int(tested.predicted[i]),
                                   [[k, round(p[k], 4)] for k in best[i].tolist()], round(p[label], 4),
                                   quote(clips[i]) if i in clips else 0,
                                   quote(f"{stills.name}/{i}.jpg") if (stills / f"{i}.jpg").is_file() else 0])
        by_class = scores.by_class(tested.probabilities, tested.labels)
        accuracy, n = by_class["recall"], by_class["videos"]
        few = scores.under_represented(counts)
        data.update(classes=tested.classes, matrix=matrix.tolist(), n=n.tolist(), few=few.tolist(),
                    accuracy=[None if np.isnan(a) else round(float(a), 4) for a in accuracy],
                    train=counts.tolist() if counts.any() else None)
        data["charts"]["confusion"] = charts.confusion(matrix, tested.classes)
        if counts.any():
            correlation = scores.correlation_words(counts[n > 0], accuracy[n > 0])
            data["charts"]["training"] = charts.accuracy_by_training(tested.classes, counts, accuracy, n, few,
                                                                     correlation)
    if run.study.get("switching"):
        data["charts"].update({"switching": charts.switching(run.study), "shares": charts.shares(run.study)})
        data["gates"] = charts.gates(run.study)
        # Shown at first: the windows with half of their frames from the later action
        data["charts"]["gates"] = [*data["gates"].values(), None][len(data["gates"]) // 2]
    for i, film in enumerate(run.films):
        data["charts"][f"film{i}"] = charts.timeline(film)
        data["films"].append({"segments": film.segments, "plays": film.folder.film.is_file()})
    if compared:    # the answers are in the first run's order; a page counts its own run's videos
        rows = [row for row in compared if "answers" in row]
        data["compared"] = {"names": [row["name"] for row in rows],
                            "videos": [[name, cls] for cls, name in runs[0].tested.names],
                            "answers": [row["answers"] for row in rows]}
    return data


def write_clips(run, sampled, most):
    """({number of the tested video: path below the run folder} of small films, the `most` surest ones of each
    cell of the confusion matrix, or test.py's where the clips are gone; a sentence about that, or None). A
    still of every tested video lies beside them."""
    tested, folder, there, missing = run.tested, run.folder, {}, None
    try:
        if sampled and most:
            fps = Rate.of(sampling_settings(sampled)).per_second
            there = {video.key: video for video in read_sampled(sampled)}
    except cli.UserError as error:
        missing = f"the sampled clips cannot be read ({error}): the page plays the films that test.py left"
    if not there:
        paths = (folder.test.clip(*name, right) for name, right in
                 zip(tested.names, tested.right, strict=True))
        return {i: path.relative_to(folder.path).as_posix()
                for i, path in enumerate(paths) if path.is_file()}, missing
    drawn, surest = {}, defaultdict(list)
    for i in np.argsort(-tested.probabilities.max(1), kind="stable").tolist():
        surest[tested.labels[i], tested.predicted[i]].append(i)
    chosen = {i for cell in surest.values() for i in cell[:most]}
    with files.replaced_folder(folder.report_clips, own=("*",)) as new:
        for i in cli.progress(range(len(tested.videos)), desc="drawing clips", unit="clip"):
            video = there.get(tested.names[i])
            if video is None:
                continue
            seen = range(min(video.frames, FRAMES)) if i in chosen else [video.frames // 2]
            try:
                frames = source_frames(sampled, video, seen)
            except (OSError, cli.UserError):
                continue
            high, wide = frames[0].shape[:2]
            small, size = ([max(2, round(side * most / max(high, wide) / 2) * 2) for side in (wide, high)]
                           for most in (STILL, SIDE))
            style.write_picture(new / f"{i}.jpg", fit_frame(frames[len(frames) // 2], *small))
            if i in chosen:
                with Writer(new / f"{i}.mp4", fps, *size) as writer:
                    for frame in frames:
                        writer.write(fit_frame(frame, *size))
                drawn[i] = f"{folder.report_clips.name}/{i}.mp4"
    return drawn, None
