"""The addresses of teach.py's page, and the session behind them: in this process, without a browser."""
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
from commands import call
from runs import last_line, refused, table
from videos import numbered, write_video

import networks
import teach
import utils
from lrcn.base import files
from lrcn.features.features import Options
from lrcn.teaching import footage, server
from lrcn.teaching.labels import Label, Labels
from lrcn.teaching.session import Session
from lrcn.training.recipe import Recipe
from lrcn.video.reader import probe
from lrcn.watching.films import find_films

testclient = pytest.importorskip("starlette.testclient", reason="pip install -r requirements-app.txt")
HERE, HOSTILE = "http://127.0.0.1:8000", "<b>\"x\", & ü<i>.mp4"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Four films of 6 s, one with a hostile name, one in a folder of its own."""
    folder = tmp_path_factory.mktemp("films")
    for n, name in enumerate(("a.mp4", HOSTILE, "deep/c.mp4", "d.mp4")):
        (folder / name).parent.mkdir(exist_ok=True)
        write_video(folder / f"{n}.mp4", [numbered(100 * n + i // 5, 64, 48) for i in range(150)]).rename(
            folder / name)
    return folder


def with_features(session, seed=0):
    """The session with features of all moments, which tell film and second apart."""
    rng = np.random.default_rng(seed)
    for film in session.films:
        times = (np.arange(int(film.seconds * 2.5)) / 2.5).tolist()
        session.take_in(film, times, rng.normal(size=(len(times), 8)).astype(np.float16))
        session.take_in(film, [], None)
    return session


@pytest.fixture
def session(films, tmp_path):
    session = with_features(Session(tmp_path, find_films(films), ["jump", "wave"]))
    yield session
    session.close()


@pytest.fixture
def page(session):
    return testclient.TestClient(server.make_app(session, "token", 8000), base_url=HERE)


def ask(page, address, code=200, **words):
    """What an address answers; words: the body of a POST."""
    reply = page.post(f"/token/{address}", json=words) if words else page.get(f"/token/{address}")
    assert reply.status_code == code, reply.text
    return reply.json()


def test_a_session_of_keys(page, session):
    first, second, _ = ask(page, "api/next")["moments"]
    clip = page.get(f"/token/clip/{first['id']}.mp4?start={first['start'] + 0.5}&end={first['end']}")
    path = session.folder / "clip.mp4"
    path.write_bytes(clip.content)
    assert clip.headers["content-type"] == "video/mp4" and probe(path).frames == pytest.approx(37, abs=1)
    reply = ask(page, "api/label", id=first["id"], film=first["film"], start=first["start"] + 0.5,
                end=first["end"], label="jump")
    assert reply["moments"][0] == second and reply["state"]["labels"] == 1
    assert [c["count"] for c in reply["state"]["classes"]] == [1, 0]
    for label in (None, "", "wave"):
        reply = ask(page, "api/label", id=ask(page, "api/next")["moments"][0]["id"], label=label)
    assert [(row["label"], row["kind"]) for row in table(session.labels.path)] == [
        ("jump", "class"), ("", "none"), ("", "skip"), ("wave", "class")]
    assert float(table(session.labels.path)[0]["start"]) == first["start"] + 0.5
    session.learn()
    state = ask(page, "api/state")
    assert state["labels"] == 3 and sum(film["labels"] for film in state["films"]) == 3
    assert all(film["timeline"][0][0] == 0 and film["timeline"][-1][1] == 6 for film in state["films"])
    guess = ask(page, "api/next")["moments"][0]["guess"]
    assert {name for name, _ in guess} == {"jump", "wave", None}
    assert sum(p for _, p in guess) == pytest.approx(1, abs=0.01)
    undone = table(session.labels.path)[-1]
    again = ask(page, "api/undo", sure=True)["moments"][0]
    assert (again["film"], again["start"]) == (undone["film"], float(undone["moment"]))
    assert ask(page, "api/class", name="turn")["classes"][2]["key"] == "3"
    reply = ask(page, "api/label", id=again["id"], label="turn")
    assert table(session.labels.path)[-1]["label"] == "turn" and reply["state"]["classes"][2]["count"] == 1
    # The same folder again has the same labels, and asks none of their moments
    other = with_features(Session(session.folder, {f.name: f.path for f in session.films}))
    assert other.labels.now == session.labels.now and other.labels.classes == ["jump", "wave", "turn"]
    asked = {(moment["film"], moment["start"]) for moment in other.next(20)}
    assert len(asked) == 12 - 4 and not asked & other.labels.now.keys()


def test_moments_are_found_by_film_class_likeness_and_suspicion(page, session):
    at = ask(page, f"api/find?by=film&value={quote(HOSTILE)}&time=4.5")["moments"]
    assert [(m["film"], m["start"], m["end"]) for m in at] == [(HOSTILE, 4, 6)]
    assert ask(page, "api/find?by=class&value=jump")["moments"] == []
    for number in range(2):
        for film in range(4):
            ask(page, "api/label", id=f"{film}-{number}", label=("jump", "wave")[number])
    session.learn()
    sure = ask(page, "api/find?by=class&value=jump")["moments"]
    shares = [dict(map(tuple, m["guess"]))["jump"] for m in sure]
    assert {m["start"] for m in sure} == {4} and shares == sorted(shares, reverse=True) and len(sure) == 4
    assert {m["start"] for m in ask(page, "api/find?by=like&value=0-0")["moments"]} == {4}
    state = ask(page, "api/state")
    suspects = ask(page, "api/find?by=suspects")["moments"]
    assert len(suspects) == sum(n for *_, n in state["confusions"])
    assert state["accuracy"]["n"] <= 8 and state["accuracy"]["low"] <= state["accuracy"]["value"]


def test_one_of_five_is_drawn_at_random_and_comes_whatever_is_learned(films, tmp_path):
    order = []
    for name, learns in (("learns", True), ("does not", False)):
        (tmp_path / name).mkdir()
        session = with_features(Session(tmp_path / name, find_films(films), ["jump", "wave"], 0.5))
        asked = []
        for key in range(30):
            moment = session.next()[0]
            asked.append((moment["id"], moment["why"]))
            session.label({"id": moment["id"], "label": ("jump", "wave")[key % 2]})
            if learns:
                session.learn()
        order.append([session.place[tuple(map(int, id.split("-")))] for id, why in asked])
        lots = [session.drawn[i] for i in order[-1]]
        random = [lots[i] for i in range(0, 30, 5)]
        assert random == sorted(random) and asked[0][1] == "random"
        assert all(min(set(session.drawn) - set(lots[:i])) == lots[i] for i in range(0, 30, 5))
    assert order[0] != order[1] and order[0][0] == order[1][0]


def test_news_is_waited_for_and_comes_at_once(session):
    version = session.version
    session.wait(version - 1, 60)
    session.next()
    session.label({"id": "0-0", "label": "jump"})
    assert session.version > version
    session.wait(version, 60)


def test_strangers_are_refused(page):
    def code(path="/token/api/state", **headers):
        return page.get(path, headers=headers).status_code

    assert code() == code(origin=HERE) == code(host="localhost:8000") == 200
    for host in ("evil.com", "127.0.0.1:8001", "127.0.0.1", "evil.com:8000", "127.0.0.1:8000.evil.com", ""):
        assert code(host=host) == 403
    for origin in ("http://evil.com", "null", "https://127.0.0.1:8000", "http://127.0.0.1:8001"):
        assert code(origin=origin) == 403
    for path in ("/", "/api/state", "/toke/api/state", "/tokenx/api/state", "/%00/",
                 "/t\u00f6ken/api/state", "/token/../api/state"):
        assert code(path) == 404, path
    assert page.options("/token/api/label", headers={"origin": HERE}).status_code == 405
    head = page.get("/token/api/state").headers
    assert "default-src 'self'" in head["content-security-policy"]
    assert "access-control-allow-origin" not in head


@pytest.mark.parametrize("body, kind", [
    (b"{}", "text/plain"), (b"{}", "application/x-www-form-urlencoded"), (b"[1]", "application/json"),
    (b"{", "application/json"), (b"\xff", "application/json"), (b"[" * 9000, "application/json"),
    (b" " * 70000 + b"{}", "application/json"), (b'{"id": {}, "label": []}', "application/json")])
def test_a_body_that_is_no_answer_changes_nothing(page, session, body, kind):
    reply = page.post("/token/api/label", content=body, headers={"content-type": kind})
    assert reply.status_code in (400, 404) and reply.json()["error"] and not session.labels.rows


NASTY = ["..", "%2e%2e", "../../etc/passwd", "/etc/passwd", "0-0/../../x", "-1", "1e9", "nan", "inf",
         "9" * 5000, "0-99", "99-0", "٠-٠", "<script>", "a\0b", "", "\u202e"]


@pytest.mark.parametrize("nasty", NASTY)
def test_nothing_in_any_parameter_leads_anywhere_else(page, session, nasty):
    """Whatever stands in the place of an id, a film, a second, a number or a name."""
    before = sorted(path for path in session.folder.rglob("*") if path.suffix != ".mp4")
    word = quote(nasty, safe="")
    for address in (f"clip/{word}.mp4", f"clip/{nasty}.mp4" if nasty.isprintable() else "clip/x.mp4",
                    f"clip/0-0.mp4?start={word}", f"clip/0-0.mp4?end={word}",
                    f"api/state?after={word}", f"api/find?by={word}", f"api/find?by=film&value={word}",
                    f"api/find?by=like&value={word}", f"api/find?by=class&value={word}",
                    f"api/find?by=film&value=a.mp4&time={word}", word, f"{word}/teach.js"):
        session.version += 1    # there is news for api/state
        reply = page.get(f"/token/{address}")
        assert reply.status_code in (200, 400, 404), address
        assert b"root:" not in reply.content and b"class Session" not in reply.content
    for words in ({"id": nasty, "label": "jump"}, {"id": "0-0", "label": nasty or "x"},
                  {"id": "0-0", "label": "jump", "start": nasty or "x"},
                  {"id": "0-0", "label": "jump", "end": nasty or "x"}):
        reply = page.post("/token/api/label", json=words)
        if reply.status_code == 200:    # -1, 1e9: as far as the film goes
            row = session.labels.undo()
            assert 0 <= row.start < row.end <= 6
        else:
            assert reply.status_code in (400, 404), words
    page.post("/token/api/class", json={"name": nasty})
    assert {name for name in session.labels.classes} <= {"jump", "wave", nasty} and not session.labels.rows
    assert sorted(path for path in session.folder.rglob("*") if path.suffix != ".mp4") == before


def test_features_are_encoded_once_whatever_restarts(films, tmp_path, capsys):
    there, shown = find_films(films), []
    recipe = Recipe(encoder="squeezenet1_1", encoder_weights="none", img_dim=32,
                    sampled_data_path=str(tmp_path / "frames"))
    for more in (0, 0, 1):
        if more:    # another film: nothing else is encoded again
            write_video(tmp_path / "new.mp4", 50)
            there["new.mp4"] = tmp_path / "new.mp4"
        session = Session(tmp_path, there)
        session.encode(networks.new_encoder(recipe, []), Options(utils.choose_device("cpu"), 0))
        assert all(film.whole and film.known == film.count for film in session.films)
        shown.append(np.stack(session.rows))
        said = capsys.readouterr().out
        assert ("encoding" in said) == (more == 1 or len(shown) == 1)
    assert np.array_equal(shown[0], shown[1]) and np.array_equal(shown[0], shown[2][:len(shown[0])])


def test_a_film_that_cannot_be_read_costs_no_other_one(films, tmp_path, monkeypatch):
    (tmp_path / "text.mp4").write_text("no film\n")
    session = Session(tmp_path, {"text.mp4": tmp_path / "text.mp4", **find_films(films)})
    monkeypatch.setattr(footage, "encoding", SimpleNamespace(encode_clips=lambda _, clips, *__: [
        np.zeros((clip.video.frames, 8)) for clip in clips]))
    session.encode(None, None)
    assert "cannot read text.mp4" in session.note and len(session.rows) == 4 * 3


class InProcess:
    """What subprocess.Popen is to teach.py: a script of this folder, run in the test's own process, and less
    of it."""
    less = {"train.py": ("--epochs", 2, "--no-pictures"), "test.py": ("--num_videos", 0)}

    def __init__(self, command, **_):
        script = Path(command[1]).name
        result = call(script, *command[2:], *self.less.get(script, ()), ok=False)
        self.stdout, self.returncode = result.out.splitlines(), result.code

    def wait(self):
        return self.returncode


def test_keys_become_a_run(films, trained, tmp_path, monkeypatch):
    """That begins with the network of another run; without one, in processes: test_teach_page.py."""
    monkeypatch.setattr(subprocess, "Popen", InProcess)
    out = tmp_path / "out"
    out.mkdir()
    (out / "settings.json").write_text('{"teach": "films", "clip_seconds": 2.0}')
    labels = Labels(out, ["jump", "wave"])
    for film in find_films(films):
        for start, name in ((0.0, "jump"), (2.0, "wave"), (4.0, "")):
            labels.add(Label(film, start, start + 2, name, "class" if name else "none", start))
    labels.close()
    words = ("--video_path", films, "--output_dir", out, "--model_dir", trained, "--device", "cpu",
             "--num_workers", 0, "--encoder_backend", "torch")
    run = last_line(call("teach.py", *words, "--finish", "--background", "nothing"))
    assert files.read_json(run / "settings.json")["init_from"] == str(trained)
    assert {(row["film"], row["class"], row["start"]) for row in table(out / "clips.csv")} == {
        (film, name, f"{2 * n:.3f}") for film in find_films(films)
        for n, name in enumerate(("jump", "wave", "nothing"))}
    assert {row["class"] for row in table(run / "splits.csv")} == {"jump", "wave", "nothing"}
    groups = {(row["group"], row["part"]) for row in table(run / "splits.csv")}
    assert len(groups) == 4 and files.read_json(run / "test/metrics.json")["videos"] >= 3


def test_a_run_guesses_before_the_first_key(films, trained, tmp_path):
    args = teach.make_parser().parse_args(["--model_dir", str(trained), "--device", "cpu"])
    encoder, options, known, rate, prior = teach.make_encoder(args, tmp_path / "frames")
    session = Session(tmp_path, find_films(films), rate=rate, known=known, prior=prior)
    session.encode(encoder, options)
    session.learn()
    moment, *_ = session.next()
    assert known == utils.load_recogniser(trained).classes == [c["name"] for c in session.state()["classes"]]
    assert {name for name, _ in moment["guess"]} <= {*known} and len(moment["guess"]) == 3
    session.close()


def test_flags_say_what_is_wrong(films, trained, tmp_path, monkeypatch):
    def no(*words, says):
        refused("teach.py", "--output_dir", tmp_path / "out", *words, says=says)

    no(says="--video_path is missing")
    no("--video_path", films, "--finish", says=("--output_dir", "no labels.csv"))
    no("--video_path", films, "--classes", "a/b", says="--classes a/b")
    no("--video_path", films, "--classes", "a,b", "--background", "a", says="--background a")
    no("--video_path", films, "--encoder_weights", tmp_path / "none.pth", says="--encoder_weights")
    no("--video_path", films, "--model_dir", trained, "--encoder", "resnet18", says="--model_dir")
    no("--video_path", films, "--output_dir", films / "out", says="folder of the films")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    no("--video_path", films, says="pip install -r requirements-app.txt")
    monkeypatch.undo()
    (tmp_path / "out").mkdir(exist_ok=True)
    with files.lock(tmp_path / "out", "output_dir", "another teach.py"):
        no("--video_path", films, says=("another teach.py", str(os.getpid())))
    (tmp_path / "out/settings.json").write_text(json.dumps({"teach": "films", "clip_seconds": 3}))
    no("--video_path", films, says=("clip_seconds 3", "choose another"))
