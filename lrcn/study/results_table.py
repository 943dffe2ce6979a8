"""What the mixed-action study of one run says: metrics.json, windows.csv, and its sentences.

A network.Study is turned into plain containers and words here; no files.
"""
import numpy as np

from lrcn.study import figures
from lrcn.study.movies import mixes

NAMED = ("readout", "bidirectional", "loss_per_step")


def variant_name(settings, flags=()):
    """Read-out and direction, what the original's question is about, and the flags that differ besides."""
    more = [f"{name} {value}" for name, value in dict(flags).items() if name not in NAMED]
    if settings["readout"] == "none":
        return ", ".join(["none (no LSTM)", *more])
    steps = ["per step"] if settings["per_step"] else []
    return ", ".join([settings["readout"], "both ways" if settings["bidirectional"] else "one way", *steps,
                      *more])


def note(settings):
    """The small print under every picture. settings: what measured_on gave."""
    return (f"{variant_name(settings)}, training seed {settings['training_seed']}; "
            f"{settings['test_videos']} test videos of {settings['groups']} groups, {settings['classes']} "
            f"classes, split {settings['split']}.")


def cell(estimate):
    """An Estimate in a line of text: 0.912 [0.874, 0.941], or - where it has no value."""
    found = estimate.as_json(3)
    if found["value"] is None:
        return "-"
    value, *ends = (f"{x + 0.0:.3f}" for x in (found["value"], *(found["ci95"] or ())))     # no -0.000
    return f"{value} [{ends[0]}, {ends[1]}]" if ends else value


def as_json(value):
    """Estimates and Switchings anywhere in plain containers -> plain containers."""
    if hasattr(value, "as_json"):
        return value.as_json()
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [as_json(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def metrics(found, settings):
    """The content of metrics.json. settings: what it was measured on, plain containers."""
    accuracy, windows = found.accuracy.as_json(), found.windows
    by_frames = {str(k): e.as_json() for k, e in found.by_frames.items()}
    ties = int((windows.majority < 0).sum())
    return {
        "movies": int(windows.movie.max()) + 1, "windows": len(windows.movie),
        "accuracy": accuracy["value"], "ci95": accuracy["ci95"],
        "windows_with_majority": accuracy["n"], "windows_tied": ties,
        "accuracy_by_frames": {k: e["value"] for k, e in by_frames.items()},
        "ci95_by_frames": {k: e["ci95"] for k, e in by_frames.items()},
        "windows_by_frames": {k: e["n"] for k, e in by_frames.items()},
        "clip_accuracy": found.clip_accuracy.as_json(),
        "accuracy_by_phase": as_json(found.by_phase),
        "shares_by_mix": {row["mix"]: {k: as_json(v) for k, v in row.items() if k != "mix"}
                          for row in found.shares},
        "majority_or_last_frame": as_json(found.duel),
        "recency_index": found.recency.as_json(),
        "switching": as_json(found.switching),
        "hard_minus_mixed": {str(k): e.as_json() for k, e in enumerate(found.order_effect)},
        "influence_by_position": as_json(found.influence),
        "attention_by_position": as_json(found.attention),
        "lstm": as_json({k: v for k, v in found.states.items() if k != "pictures"}),
        "measured_on": settings,
    }


def sentence(found):
    """The study in one line."""
    duel = found.duel
    n, text = found.accuracy.n, ""
    if duel["majority"].n:
        text = (f"; where majority and last frame disagree (n = {duel['majority'].n}), the majority wins "
                f"{cell(duel['majority'])}, the last frame {cell(duel['last_frame'])}; recency index "
                f"{cell(found.recency)}")
    return (f"{len(found.windows.movie)} windows of {int(found.windows.movie.max()) + 1} movies, "
            f"accuracy {cell(found.accuracy)} (n = {n}){text}")


WINDOW_COLUMNS = ("movie", "start", "mix", "frames_first", "frames_second", "frames_third", "first",
                  "second", "third", "video_first", "video_second", "video_third", "majority",
                  "majority_frames", "predicted", "right", "outcome", "p_first", "p_second", "p_third",
                  "other", "p_other")


def window_rows(found):
    """Rows of windows.csv: empty where there is no such clip, and majority and right for a tie."""
    w, predicted = found.windows, found.predicted
    own, other, best = figures.probabilities(w, found.p)
    mix, code = mixes(w)
    who = figures.outcomes(w, predicted)
    name = [*found.classes, ""]          # label -1 reads the last
    video = [*found.names, ""]
    for i in range(len(w.movie)):
        tie = w.majority[i] < 0
        yield (w.movie[i], w.start[i], mix[code[i]], *w.counts[i], *(name[a] for a in w.actions[i]),
               *(video[v] for v in w.videos[i]), name[w.majority[i]], w.majority_frames[i],
               name[predicted[i]], "" if tie else int(predicted[i] == w.majority[i]),
               figures.OUTCOMES[who[i]], *("" if np.isnan(x) else f"{x:.6f}" for x in own[i]),
               name[other[i]], f"{best[i]:.6f}")
