"""Several studied runs side by side: pooled over training seeds, as a table and as pictures."""
from dataclasses import dataclass

from lrcn.study import figures, plots
from lrcn.study.pictures import R_LABEL, curve_points, ends
from lrcn.study.report import as_json as plain
from lrcn.study.report import cell, variant_name

SIGNS = {1: "late", -1: "early", 0: "neither"}


@dataclass
class Variant:
    """Networks that differ in their training seed alone; figures pooled over them."""
    name: str
    runs: int
    seeds: list
    figures: dict       # name: Estimate
    curve: object       # figures.Switching of the hard cut


def variants(studied):
    """[Variant] of [(settings, Study)], in order of appearance: those of one name are pooled.

    Encoder and length are named where they differ.
    """
    groups = {}
    for settings, found in studied:
        key = (variant_name(settings), settings["encoder"], settings["num_frames_video"])
        groups.setdefault(key, []).append((settings, found))
    several = len({key[1:] for key in groups}) > 1
    return [pool_runs(", ".join(map(str, key)) if several else key[0],
                      [settings["training_seed"] for settings, _ in members],
                      [found for _, found in members], number)
            for number, (key, members) in enumerate(groups.items())]


def pool_runs(name, seeds, studies, seed=0):
    """The Variant of several runs' Studies."""
    headlines = [s.headline() for s in studies]
    pooled = {key: figures.pool([h[key] for h in headlines], seed) for key in headlines[0]}
    curves = [s.switching["hard"] for s in studies]
    curve = [figures.pool(list(points), seed) for points in zip(*(c.curve for c in curves), strict=True)]
    fit = [figures.pool([getattr(c, key) for c in curves], seed)
           for key in ("point", "slope", "lapse", "recency")]
    return Variant(name, len(studies), seeds, pooled, figures.Switching(curve, *fit))


def verdict(estimate):
    """Whether late or early frames count more, or the interval holds zero."""
    interval = estimate.ci95
    return "" if interval is None else SIGNS[int(interval[0] > 0) - int(interval[1] < 0)]


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
           ("recency_index_backwards", "played backwards"))


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
    value, low, high, _ = ends([v.figures["recency_index"] for v in variants])
    names = [f"{v.name} ({v.runs} runs)" for v in variants]
    return {
        "comparison": plots.intervals_by_run(
            folder / "comparison.png", names, value, low, high, note=note,
            title="Does the last frame decide, or the majority?",
            xlabel="recency index (+1 the last frame alone, 0 all frames alike, -1 the first alone)"),
        "comparison_curves": plots.switching_curves(
            folder / "comparison_curves.png", [curve_points(v.name, v.curve) for v in variants], note=note,
            title="Switching curves, mean over the seeds", ylabel=R_LABEL)}
