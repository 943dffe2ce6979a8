"""Several studied runs side by side: pooled over training seeds, as a table and as pictures."""
from dataclasses import dataclass

from lrcn.evaluation.scores import pool
from lrcn.study import figures, graphs, panels
from lrcn.study.results_table import as_json as plain
from lrcn.study.results_table import cell, variant_name

SIGNS = {1: "late", -1: "early", 0: "neither"}


@dataclass
class Variant:
    """Networks that differ in their training seed alone; figures pooled over them."""
    name: str
    runs: int
    seeds: list
    figures: dict       # name: Estimate
    curve: object       # figures.Switching of both ways


def variants(studied):
    """[Variant] of [(settings, flags, Study)], in order of appearance.

    flags: {name: value} of what makes two runs seeds of one recipe. Runs are pooled where they are all
    the same; those that differ between the variants are in their names.
    """
    said = {}       # every value of a flag; where a network has no LSTM, its flags say nothing
    for name, value in (item for _, flags, _ in studied for item in flags.items()):
        said.setdefault(name, set()).add(str(value))
    differing = {name for name, values in said.items() if len(values) > 1}
    groups = {}
    for settings, flags, found in studied:
        groups.setdefault(tuple(sorted((k, str(v)) for k, v in flags.items())), []).append(
            (settings, flags, found))
    return [pool_runs(variant_name(members[0][0], {k: v for k, v in members[0][1].items() if k in differing}),
                      [settings["training_seed"] for settings, *_ in members],
                      [found for *_, found in members]) for members in groups.values()]


def pool_runs(name, seeds, studies):
    """The Variant of several runs' Studies."""
    headlines = [s.headline() for s in studies]
    pooled = {key: pool([h[key] for h in headlines]) for key in headlines[0]}
    curves = [s.switching["both ways"] for s in studies]
    curve = [pool(points) for points in zip(*(c.curve for c in curves), strict=True)]
    fit = [pool([getattr(c, key) for c in curves]) for key in ("point", "slope", "lapse", "recency")]
    return Variant(name, len(studies), seeds, pooled, figures.Switching(curve, *fit))


def verdict(estimate):
    """Whether late or early frames count more, or the interval holds zero."""
    ends = estimate.as_json()["ci95"]       # rounded: a network blind to order has 0 but for its last digits
    return "" if ends is None else SIGNS[int(ends[0] > 0) - int(ends[1] < 0)]


def as_json(pooled):
    """{name: its runs, seeds, figures and curve} of Variants, plain containers."""
    return {v.name: {"runs": v.runs, "seeds": v.seeds, "figures": plain(v.figures),
                     "switching": v.curve.as_json()} for v in pooled}


def table(variants):
    """(header, rows) of comparison.csv; a figure that a variant lacks is left empty."""
    names = list(dict.fromkeys(key for v in variants for key in v.figures))
    header = ["variant", "runs", "seeds", "frames_that_count_more"]
    header += [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
    rows = []
    for v in variants:
        row = [v.name, v.runs, " ".join(map(str, v.seeds)), verdict(v.figures["recency_index"])]
        for name in names:
            found = v.figures[name].as_json() if name in v.figures else {"value": None, "ci95": None}
            row += ["" if x is None else x for x in (found["value"], *(found["ci95"] or (None, None)))]
        rows.append(row)
    return header, rows


PRINTED = (("clip_accuracy", "whole clips right"), ("won_by_majority", "majority wins"),
           ("won_by_last_frame", "last frame wins"), ("recency_index", "recency index"),
           ("recency_index_hard", "as joined"), ("recency_index_backwards", "played backwards"))


def printed_table(variants):
    """The figures that answer the question, as lines of text."""
    wide = max(len(v.name) for v in variants) + 2
    lines = [" " * wide + "runs  " + "".join(f"{title:<24}" for _, title in PRINTED) + "counts more"]
    for v in variants:
        cells = [cell(v.figures[key]) for key, _ in PRINTED]
        lines.append(f"{v.name:<{wide}}{v.runs:<6}" + "".join(f"{c:<24}" for c in cells)
                     + verdict(v.figures["recency_index"]))
    return "\n".join(lines)


def draw(variants, folder, note):
    """Recency index and switching curve of every variant -> {name: picture}."""
    value, low, high, _ = panels.ends([v.figures["recency_index"] for v in variants])
    names = [f"{v.name} ({v.runs} run{'s' * (v.runs > 1)})" for v in variants]
    return {
        "comparison": graphs.intervals_by_run(
            folder / "comparison.png", names, value, low, high, note=note,
            title="Does the last frame decide, or the majority?",
            xlabel="recency index (+1 the last frame alone, 0 all frames alike, -1 the first alone)"),
        "comparison_curves": graphs.switching_curves(
            folder / "comparison_curves.png", [panels.curve_points(v.name, v.curve) for v in variants],
            title="Switching curves, mean over the seeds", ylabel=panels.R_LABEL, note=note)}
