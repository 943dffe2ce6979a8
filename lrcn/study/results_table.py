"""A network.Study as plain containers and text, and several side by side, pooled over training seeds."""
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from lrcn.evaluation.intervals import pool, with_interval
from lrcn.study import figures
from lrcn.study.movies import mixes

NAMED = ("readout", "bidirectional", "loss_per_step")


def variant_name(settings, flags=()):
    """Read-out and direction, what the original's question is about, and the flags that differ besides."""
    parts = ["none (no LSTM)"] if settings["readout"] == "none" else [
        settings["readout"], "both ways" if settings["bidirectional"] else "one way",
        *["per step"] * bool(settings["per_step"])]
    return ", ".join(parts + [f"{name} {value}" for name, value in dict(flags).items() if name not in NAMED])


def cell(estimate):
    """An Estimate in a line of text: 0.912 [0.874, 0.941], or - where it has no value."""
    rounded = estimate.as_json(3)
    if rounded["value"] is None:
        return "-"
    value, *ends = (x + 0.0 for x in (rounded["value"], *(rounded["ci95"] or ())))     # no -0.000
    return with_interval(value, ends) if ends else f"{value:.3f}"


def as_json(value):
    """Estimates and Switchings anywhere in plain containers -> plain containers."""
    if hasattr(value, "as_json"):
        return value.as_json()
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [as_json(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def metrics(study, settings):
    """The content of metrics.json. settings: what it was measured on, plain containers."""
    values, windows = as_json(study.figures), study.windows
    accuracy, by_frames = values.pop("accuracy"), values.pop("accuracy_by_frames")
    return {
        "movies": int(windows.movie.max()) + 1, "windows": len(windows.movie),
        "accuracy": accuracy["value"], "ci95": accuracy["ci95"],
        "windows_with_majority": accuracy["n"], "windows_tied": int((windows.majority < 0).sum()),
        **{f"{name}_by_frames": {k: e[key] for k, e in by_frames.items()}
           for name, key in (("accuracy", "value"), ("ci95", "ci95"), ("windows", "n"))},
        **values, "measured_on": settings}


def sentence(study):
    """The study in one line."""
    accuracy, duel, text = study.figures["accuracy"], study.figures["majority_or_last_frame"], ""
    if duel["majority"].n:
        text = (f"; where majority and last frame disagree (n = {duel['majority'].n}), the majority wins "
                f"{cell(duel['majority'])}, the last frame {cell(duel['last_frame'])}; recency index "
                f"{cell(study.figures['recency_index'])}")
    return (f"{len(study.windows.movie)} windows of {int(study.windows.movie.max()) + 1} movies, "
            f"accuracy {cell(accuracy)} (n = {accuracy.n}){text}")


WINDOW_COLUMNS = ("movie", "start", "mix", "frames_first", "frames_second", "frames_third", "first", "second",
                  "third", "video_first", "video_second", "video_third", "majority", "majority_frames",
                  "predicted", "right", "outcome", "p_first", "p_second", "p_third", "other", "p_other")


def window_rows(study):
    """Rows of windows.csv: empty where there is no such clip, and majority and right for a tie."""
    w, predicted = study.windows, study.predicted
    shown, rest = w.actions >= 0, study.p.copy()
    row = np.broadcast_to(np.arange(len(w.movie))[:, None], shown.shape)
    own = np.where(shown, rest[row, w.actions], np.nan)     # of the three actions
    rest[row[shown], w.actions[shown]] = -1
    best = rest.max(1)                  # of the other classes, unless the window shows all of them
    other = np.where(best < 0, -1, rest.argmax(1))
    mix, code = mixes(w)
    who = figures.outcomes(w, predicted)
    name, video = [*study.classes, ""], [*study.clips.names, ""]        # label -1 reads the last
    for i in range(len(w.movie)):
        tie = w.majority[i] < 0
        yield (w.movie[i], w.start[i], mix[code[i]], *w.counts[i], *(name[a] for a in w.actions[i]),
               *(video[v] for v in w.videos[i]), name[w.majority[i]], w.majority_frames[i],
               name[predicted[i]], "" if tie else int(predicted[i] == w.majority[i]),
               figures.OUTCOMES[who[i]], *("" if np.isnan(x) else f"{x:.6f}" for x in own[i]),
               name[other[i]], f"{max(best[i], 0):.6f}")


@dataclass
class Variant:
    """Networks that differ in their training seed alone, and their figures, pooled."""
    name: str
    seeds: list
    figures: dict       # name: Estimate
    curve: object       # figures.Switching of both ways

    @property
    def verdict(self):
        """Whether late or early frames count more, or the interval holds zero."""
        ends = self.figures["recency_index"].as_json()["ci95"]      # rounded: a network blind to order has 0
        return "" if ends is None else "late" if ends[0] > 0 else "early" if ends[1] < 0 else "neither"

    def as_json(self):
        return {"runs": len(self.seeds), "seeds": self.seeds, "figures": as_json(self.figures),
                "switching": self.curve.as_json()}


def variants(studied):
    """[Variant] of [(settings, flags, Study)], in order of appearance. flags: {name: value} of what makes two
    runs seeds of one recipe; those that differ between the variants are in their names."""
    values, groups = defaultdict(set), defaultdict(list)    # every value of a flag; the runs of a recipe
    for run in studied:
        recipe = tuple(sorted((name, str(value)) for name, value in run[1].items()))
        groups[recipe].append(run)
        for name, value in recipe:
            values[name].add(value)
    pooled = []
    for members in groups.values():
        settings, flags, studies = zip(*members, strict=True)
        name = variant_name(settings[0], {k: v for k, v in flags[0].items() if len(values[k]) > 1})
        headlines = [study.headline() for study in studies]
        curves = [study.figures["switching"]["both ways"] for study in studies]
        curve = [pool(points) for points in zip(*(c.curve for c in curves), strict=True)]
        fit = [pool([getattr(c, key) for c in curves]) for key in ("point", "slope", "lapse", "recency")]
        pooled.append(Variant(name, [own["training_seed"] for own in settings],
                              {key: pool([h[key] for h in headlines]) for key in headlines[0]},
                              figures.Switching(curve, *fit)))
    return pooled


def table(variants):
    """(header, rows) of comparison.csv; None for a figure that a variant lacks."""
    names = list(dict.fromkeys(key for v in variants for key in v.figures))
    header = ["variant", "runs", "seeds", "frames_that_count_more"]
    header += [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
    rows = []
    for v in variants:
        rows.append([v.name, len(v.seeds), " ".join(map(str, v.seeds)), v.verdict])
        for figure in (v.figures[name].as_json() if name in v.figures else {} for name in names):
            rows[-1] += [figure.get("value"), *(figure.get("ci95") or (None, None))]
    return header, rows


PRINTED = (("clip_accuracy", "whole clips right"), ("won_by_majority", "majority wins"),
           ("won_by_last_frame", "last frame wins"), ("recency_index", "recency index"),
           ("recency_index_hard", "as joined"), ("recency_index_backwards", "played backwards"))


def printed_table(variants):
    """The figures that answer the question, [a line of text]."""
    wide = max(len(v.name) for v in variants) + 2
    lines = [" " * wide + "runs  " + "".join(f"{title:<24}" for _, title in PRINTED) + "counts more"]
    for v in variants:
        cells = "".join(f"{cell(v.figures[key]):<24}" for key, _ in PRINTED)
        lines.append(f"{v.name:<{wide}}{len(v.seeds):<6}{cells}{v.verdict}")
    return lines
