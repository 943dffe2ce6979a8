"""Simulated sessions of teach.py on films whose truth is known, with the truth as the person.

    python tests/teaching/sessions.py FOLDER --encoder_weights FILE [orders | intervals | suspects ...]

FOLDER gets films joined from the clips of $UCF101_DIR, as docs/films.md tells: ten of the clips on the test
list of split 1, and as many as there are of those on its training list. Prints what docs/teaching.md says.
"""
import os
import sys
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from lrcn.evaluation import intervals
from lrcn.teaching import asking
from lrcn.teaching.session import Choices, Session

SIX = ("Archery", "BasketballDunk", "HorseRace", "JumpRope", "PlayingPiano", "Surfing")
AT = (*range(10, 101, 5), 120, 140, 160)


class Person:
    """Labels the moments of films as their truth says: {film: [(start, end, class or None)]}."""

    def __init__(self, truth, wrong=0, seed=0):
        self.truth, self.wrong, self.rng = truth, wrong, np.random.default_rng(seed)
        self.classes = sorted({cls for rows in truth.values() for *_, cls in rows if cls})

    def says(self, film, start, end):
        """The class that fills most of a moment, None where none of them does."""
        shares = {}
        for begin, stop, cls in self.truth[film]:
            shares[cls] = shares.get(cls, 0) + max(0, min(end, stop) - max(start, begin))
        return max(shares, key=shares.get)

    def answer(self, session, moment):
        """Press the key of a moment; a share `wrong` of the keys is another one. The true class."""
        true = self.says(moment["film"], moment["start"], moment["end"])
        others = [cls for cls in (*self.classes, None) if cls != true]
        said = others[self.rng.integers(len(others))] if self.rng.random() < self.wrong else true
        session.label({"id": moment["id"], "label": said})
        return true


def make_films(folder, clips, most, seed=0):
    """Join clips {class: [Path]} to films of three or four of SIX, at most 6 s of each, with 3 s of other
    ones between; {film's name: [(start, end, class or None)]}."""
    from lrcn.video.reader import Video, fit_frame
    from lrcn.video.writer import Writer
    rng, truth = np.random.default_rng(seed), {}
    some = [(cls, path) for cls in SIX for path in clips[cls]]
    others = [(None, path) for cls in sorted(clips) if cls not in SIX for path in clips[cls]]
    some, others = ([rows[i] for i in rng.permutation(len(rows))] for rows in (some, others))
    folder.mkdir(parents=True, exist_ok=True)
    while len(some) >= 3 and len(others) >= 4 and len(truth) < most:
        count = min(len(some), 4 if len(truth) % 5 < 4 else 3)
        order = [row for i in range(count) for row in (others.pop(), some.pop()) if others] + [others.pop()]
        path = folder / f"{folder.name}_{len(truth):02d}.mp4"
        truth[path.name], written = [], 0
        with Writer(path, 25, 320, 240) as out:
            for cls, clip in order:
                with Video(clip) as video:
                    while video.grab() and video.time < (6 if cls else 3):
                        while out.frames < written + round((video.time + 1 / video.info.fps) * 25):
                            out.write(fit_frame(video.frame(), 320, 240))
                truth[path.name].append((written / 25, out.frames / 25, cls))
                written = out.frames
    return truth


def opened(folder, films, order="diverse", classes=SIX, seed=0, every=5):
    """A Session of films {name: path} that shares the features of `folder`, without a label."""
    for name in ("labels.csv", "classes.json"):
        (folder / name).unlink(missing_ok=True)
    return Session(folder, films, Choices(classes=list(classes), order=order, seed=seed, every=every))


def truth_of(session, person):
    """int (M,): the true class of all moments that a session knows, the last one for none."""
    said = [person.says(session.films[f].name, *session.span(session.films[f], n)) for f, n in session.place]
    return np.array([person.classes.index(cls) if cls else len(person.classes) for cls in said])


def right(model, session, truth):
    """bool (M,): whether a network of a model's labels is right on the moments of another session."""
    there = np.flatnonzero(model.labels >= 0)
    network = asking.fitted(model.moments.points[there], model.labels[there], model.classes)
    return network(model.moments.project(np.stack(session.rows))).argmax(1) == truth


def press(session, person, keys, told=()):
    """Press so many keys, and learn after each; yields the count where it is among `told`."""
    for count in range(1, keys + 1):
        moments = session.next()
        if not moments:
            return
        person.answer(session, moments[0])
        session.learn(hold=False)
        if count in told:
            yield count


def compare_orders(ready, films, others, truth, seeds=3):
    """Print accuracy on other films by labels, for each order."""
    person = Person(truth)
    held = ready(others)
    answers, number = truth_of(held, person), np.array([f for f, _ in held.place])
    total, curves = None, {}
    for order in asking.ORDERS:
        for seed in range(seeds):
            session = ready(films, order, seed)
            total = len(session.place)
            told = [n for n in AT if n < total] + [total]
            for count in press(session, person, total, told):
                curves.setdefault((order, count), []).append(right(session.model, held, answers))
    print(f"{len(films)} films, {total} moments; {len(others)} held out, {len(answers)} moments")
    whole = np.mean(curves["random", total])
    for order in asking.ORDERS:     # means over the seeds, intervals over seeds and films
        cells = [f"{n}: " + intervals.with_interval(np.mean(r), intervals.share_of(np.array(r), number).ci95)
                 for (own, n), r in curves.items() if own == order]
        first = next(n for (own, n), r in curves.items() if own == order and np.mean(r) >= 0.9 * whole)
        print(order, "0.9 of all labels' from", first, "|", "; ".join(cells), flush=True)


def cover_intervals(ready, truth, sessions=20, keys=60):
    """Print how often the page's interval holds the accuracy on all films that are not in the session."""
    held, rows, names = 0, [], sorted(truth)
    for seed in range(sessions):
        chosen = np.random.default_rng(seed).permutation(len(names))
        mine, others = ([names[i] for i in part] for part in (chosen[:10], chosen[10:]))
        person, session = Person(truth), ready(mine, "diverse", seed)
        list(press(session, person, keys))
        session.learn()
        said, there = session.accuracy, ready(others)
        true = right(session.model, there, truth_of(there, person)).mean()
        held += said["low"] <= true <= said["high"]
        rows.append((said["value"], said["low"], said["high"], said["n"], true))
        print(intervals.with_interval(said["value"], (said["low"], said["high"])), f"of {said['n']}, true "
              f"{true:.3f}", flush=True)
    print(f"{held} of {sessions} intervals hold the truth; mean said and true", np.mean(rows, 0).round(3))


def find_suspects(ready, films, truth, sessions=3, wrong=0.05):
    """Print how many planted wrong labels are among the first tenth of the suspects."""
    for seed in range(sessions):
        session, person = ready(films, "diverse", seed), Person(truth, wrong, seed)
        planted = {}
        while moments := session.next():
            true = person.answer(session, moments[0])
            label = session.labels.rows[-1]
            planted[label.key] = (label.label or None) != true
        session.learn()
        keys = [session.label_of(*key).key for key in session.place]
        first = [keys[i] for i in session.model.suspects()[:round(len(keys) / 10)]]
        print(f"{sum(planted[key] for key in first)} of {sum(planted.values())} wrong labels among the first "
              f"{len(first)} suspects of {len(keys)}", flush=True)


def time_keys(folder, moments=2000, keys=80, pause=1.0):
    """Print the seconds from a key to the next moment's clip, by a server, with features of real size."""
    import threading
    import time

    import httpx
    import uvicorn
    from videos import numbered, write_video

    from lrcn.teaching import server
    folder.mkdir(parents=True, exist_ok=True)
    whole, films, rng = folder / "whole.mp4", {}, np.random.default_rng(0)
    centres = rng.normal(size=(6, 1280))
    if not whole.is_file():
        write_video(whole, [numbered(i // 25, 320, 240) for i in range(25 * moments // 5)])
    for n in range(10):
        films[f"{n}.mp4"] = folder / f"{n}.mp4"
        if not films[f"{n}.mp4"].exists():
            os.link(whole, films[f"{n}.mp4"])
    session = opened(folder, films, classes=["a", "b", "c", "d", "e", "f"])
    for film in session.films:
        film.times, film.whole = (np.arange(int(film.seconds * 2.5)) / 2.5).tolist(), True
        clouds = centres[(np.array(film.times) / 20).astype(int) % 6]
        film.values = [(clouds + 2 * rng.normal(size=clouds.shape)).astype(np.float16)]
        session.add_moments(film)
    for film, number in list(session.place)[::10]:      # as after 200 keys
        session.label({"id": f"{film}-{number}", "label": "abcdef"[number // 10 % 6]})
    session.encode = lambda *_: None
    session.start(None, None)
    config = uvicorn.Config(server.make_app(session, "token", 8123), port=8123, log_level="error")
    threading.Thread(target=uvicorn.Server(config).run, daemon=True).start()
    page, took = httpx.Client(base_url="http://127.0.0.1:8123/token/", timeout=60), []
    time.sleep(10)
    [moment, *_] = page.get("api/next").json()["moments"]
    for _ in range(keys):
        begin = time.perf_counter()
        words = {"id": moment["id"], "label": "abcdef"[int(moment["start"] / 20) % 6]}
        [moment, *_] = page.post("api/label", json=words).json()["moments"]
        clip = page.get(f"clip/{moment['id']}.mp4?start={moment['start']}&end={moment['end']}")
        took.append(time.perf_counter() - begin)
        assert clip.status_code == 200
        time.sleep(pause)
    print(f"{len(session.place)} moments, {keys} keys, one in {pause} s: median {np.median(took):.3f} s, "
          f"95th percentile {np.quantile(took, 0.95):.3f} s, longest {max(took):.3f} s")
    session.close()


def main():
    folder, weights, *what = Path(sys.argv[1]), sys.argv[3], *sys.argv[4:]
    if what == ["speed"]:
        return time_keys(folder)
    import torch

    import networks
    from lrcn.base import files
    from lrcn.data.split_lists import read_lists
    from lrcn.features.features import Options
    from lrcn.training.recipe import Recipe
    ucf = Path(os.environ["UCF101_DIR"])
    (training, testing), films, truth = read_lists(ucf / "ucfTrainTestlist")[1], {}, {}
    for name, part in (("test", testing), ("train", training)):
        clips, cache = {}, folder / f"{name}.json"
        for row in part:
            path = ucf / "UCF-101" / row.cls / f"{row.video}.avi"
            if path.is_file():
                clips.setdefault(row.cls, []).append(path)
        if not cache.is_file():
            files.output_folder("folder", folder)
            files.write_json(cache, make_films(folder / name, clips, 10 if name == "test" else 100))
        for film, rows in files.read_json(cache).items():
            films[f"{name}/{film}"], truth[f"{name}/{film}"] = folder / name / film, rows
    recipe = Recipe(encoder="timm/tf_efficientnet_lite0", encoder_weights=weights,
                    sampled_data_path=str(folder / "session/frames"))
    (folder / "session").mkdir(exist_ok=True)
    encoder = networks.new_encoder(recipe, [])
    options = Options(torch.device("cpu"), 1, backend="auto")

    def ready(names, order="diverse", seed=0):
        session = opened(folder / "session", {name: films[name] for name in names}, order, seed=seed)
        session.encode(encoder, options)
        return session

    groups = {name: [film for film in films if film.startswith(name)] for name in ("test", "train")}
    if "orders" in what:
        compare_orders(ready, groups["test"], groups["train"], truth)
    if "more" in what:
        compare_orders(ready, groups["train"], groups["test"], truth)
    if "intervals" in what:
        cover_intervals(ready, truth)
    if "suspects" in what:
        find_suspects(ready, groups["test"] + groups["train"], truth)


if __name__ == "__main__":
    main()
