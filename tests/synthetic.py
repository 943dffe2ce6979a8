"""A run folder of any size whose figures are drawn at random, as the scripts would have left it.

    run = write_run(folder, classes=101, videos=3783)       # for pages and pictures; it holds no network

Its clips and films show numbered frames.
"""
import csv
import json
from pathlib import Path

import numpy as np
from videos import numbered

from lrcn.data.manifest import MANIFEST_COLUMNS, clip_path
from lrcn.evaluation import scores
from lrcn.runs import RunFolder
from lrcn.video.writer import Writer, write_clip


def names_of(count):
    """Class names, some of them long ones."""
    verbs = ("Apply", "Throw", "Carry", "Balance", "Push", "Turn", "Lift", "Paint", "Ride", "Climb", "Row")
    things = ("Ball", "Rope", "Bicycle", "Discus", "Hammer", "Canoe", "Wall", "Horse", "Trampoline", "Cake")
    return [f"{verbs[i % 11]}{things[i // 11]}" for i in range(count)]


def table(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([header, *rows])


def jsonfile(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_run(folder, classes=6, videos=84, seed=0, films=1, clips=True, video_name=None, sampled=None):
    """The RunFolder; `classes` and `videos`: how many, or the classes' names themselves.

    clips: whether sampled clips lie in <folder>/sampled for the page to draw from; sampled: another run's.
    """
    run, rng = RunFolder(Path(folder) / f"run{seed}"), np.random.default_rng(seed)
    names = names_of(classes) if isinstance(classes, int) else list(classes)
    labels = np.sort(np.arange(videos) % len(names))
    form = video_name or "v_{cls}_g{group:02d}_c{i:04d}"
    tested = [(names[k], form.format(cls=names[k], group=i % 7 + 1, i=i)) for i, k in enumerate(labels)]
    groups = [f"{cls}/g{i % 7 + 1:02d}" for i, (cls, _) in enumerate(tested)]
    shares = answers(rng, labels, len(names))
    sampled = sampled or run.path.parent / "sampled"
    write_tested(run, names, tested, groups, labels, shares)
    if clips:
        write_sampled(sampled, tested)
    counts = rng.integers(70, 125, len(names))
    table(run.splits, ("video", "class", "label", "group", "part"),
          [(f"v_train_{k}_{i}", names[k], k, f"{names[k]}/g{8 + i % 18}", "val" if i % 18 < 3 else "train")
           for k in range(len(names)) for i in range(counts[k])])
    jsonfile(run.settings, {"sampled_data_path": str(sampled), "readout": "mean" if seed else "final",
                            "seed": seed, "classes": names,
                            "versions": {"python": "3", "command": "train.py --seed 0"}})
    write_history(run, rng)
    write_study(run)
    for i in range(films):
        write_film(run.film(f"holiday {i}"), names)
    return run


def answers(rng, labels, count):
    """Probabilities (N, C) of a network that is often right, and confuses neighbouring classes."""
    z = rng.normal(0, 1.3, (len(labels), count))
    z[np.arange(len(labels)), labels] += rng.normal(4.2, 2.2, len(labels))
    z[np.arange(len(labels)), (labels + 1) % count] += rng.normal(2.4, 1.5, len(labels))
    z = np.exp(z - z.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


def write_tested(run, names, tested, groups, labels, shares):
    guess = shares.argmax(1)
    table(run.test.predictions, ("video", "class", "label", "group", "predicted", "predicted_class", "right",
                                 *(f"p_{cls}" for cls in names)),
          [(name, cls, label, group, g, names[g], int(g == label), *(f"{p:.6g}" for p in row))
           for (cls, name), label, group, g, row in zip(tested, labels, groups, guess, shares, strict=True)])
    jsonfile(run.test.metrics, {"split": "1", "leaky": False, **scores.summarise(shares, labels, groups),
                                "note": f"{len(tested)} of {len(tested)} listed test videos present",
                                "windows": 1, "encoder": "none", "readout": "final",
                                "num_frames_video": 5, "seed": 0, "parameters": 1_250_000,
                                "checkpoint": "best.pth.tar"})
    run.test.command.write_text("test.py --model_dir RUN\n")


def write_sampled(folder, tested):
    """Sampled clips of five numbered frames: the same few pictures under every name."""
    frames = [numbered(i, 64, 48) for i in range(5)]
    first = None
    for cls, name in tested:
        path = clip_path(folder, cls, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if first is None:
            write_clip(path, frames, 2.5)
            first = path.read_bytes()
        path.write_bytes(first)
    table(folder / "manifest.csv", MANIFEST_COLUMNS,
          [[{"video": name, "class": cls, "source": f"{cls}/{name}.avi", "source_fps": 25, "start": 0,
             "source_frames": 60, "stride": 10, "frames": 5}[column] for column in MANIFEST_COLUMNS]
           for cls, name in tested])
    jsonfile(folder / "settings.json", {"FPS": 25, "sampling_rate": 10})


def write_history(run, rng, epochs=60):
    rows = []
    for epoch in range(1, epochs + 1):
        fall, validated = 4.6 * np.exp(-epoch / 12), epoch % 5 == 0
        noise = rng.normal(0, 0.02, 4)
        rows.append((epoch, 5e-4 * np.cos(epoch / epochs * 1.5), fall + 0.6 + noise[0],
                     1 - fall / 5 + noise[1],
                     *((fall + 1.0 + noise[2], 0.8 - fall / 6 + noise[3]) if validated else ("", "")), "", "",
                     0.4))
    table(run.metrics, ("epoch", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top3",
                        "val_top5", "seconds"), rows)


def write_study(run, length=5):
    """The part of a study's metrics.json that a page shows."""
    def figure(value, n=400):
        value = round(float(value), 4)
        return {"value": value, "ci95": [max(value - 0.05, 0), min(value + 0.05, 1)], "n": n}

    def curve(slope):
        return {"curve": {str(k): figure(1 / (1 + np.exp(-slope * (k - length / 2))))
                          for k in range(length + 1)}}

    mixes = {f"{length - k}+{k}": {"first": figure(1 - k / length), "second": figure(0.8 * k / length),
                                   "neither": figure(0.2 * k / length), "n": 400} for k in range(1, length)}
    gates = {str(k): {gate: [[[0.5 + 0.05 * k + s * t for t in range(length)] for s in (0.02, 0.04)]]
                      for gate in ("input", "forget")} for k in range(length + 1)}
    jsonfile(run.study.metrics, {"movies": 100, "windows": 7600, "accuracy": 0.8, "ci95": [0.77, 0.83],
                                 "recency_index": figure(0.1), "shares_by_mix": mixes,
                                 "lstm": {"gates_by_step": gates},
                                 "switching": {name: curve(slope) for name, slope in
                                               (("hard", 1.6), ("both ways", 1.5), ("backwards", 1.3))}})


def write_film(film, names, seconds=12):
    film.path.mkdir(parents=True, exist_ok=True)
    with Writer(film.film, 10, 96, 64) as out:
        for i in range(seconds * 10):
            out.write(numbered(i, 96, 64))
    spoken = [names[0], names[1 % len(names)], "unsure", names[0]]
    table(film.segments, ("start", "end", "label", "probability"),
          [(3 * i, 3 * i + 3, label, 0.9 - 0.2 * i) for i, label in enumerate(spoken)])
    table(film.predictions, ("start", "end", "label_1", "probability_1", "label_2", "probability_2"),
          [(t / 2, t / 2 + 2, names[0], 0.5 + 0.4 * np.cos(t / 3), names[1 % len(names)],
            0.5 - 0.4 * np.cos(t / 3)) for t in range(2 * seconds - 3)])
