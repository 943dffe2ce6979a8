"""Clips that are there already, in teach.py: what is decided of them is a table that the scripts follow."""
import itertools

import cv2
import numpy as np
import pytest
from commands import call
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import last_line, refused, table
from videos import number_of, write_video

import dataset
import models
from lrcn.base.cli import UserError
from lrcn.data import split_lists, splits
from lrcn.data.manifest import read_sampled
from lrcn.data.review import Decision, followed, read_review
from lrcn.data.sources import Job
from lrcn.features.features import Options
from lrcn.teaching import server
from lrcn.teaching.review import Entry, Review, of_candidates, of_clips
from lrcn.training.recipe import Recipe
from lrcn.video.reader import probe, read_frames

testclient = pytest.importorskip("starlette.testclient", reason="pip install -r requirements-app.txt")
KEYS = list(itertools.product("AB", ("1", "2", "v_A_g01_c01")))
SAID = st.tuples(st.integers(1, len(KEYS)), st.sampled_from(("keep", "drop")),
                 st.sampled_from(("A", "B", "new")))


@settings(max_examples=40, deadline=None)
@given(st.lists(SAID, max_size=12))
def test_any_decisions_are_the_table_and_the_jobs_that_follow_it(tmp_path_factory, said):
    folder = tmp_path_factory.mktemp("review")
    rows = [Decision(n, f"{'/'.join(key)}.avi", None, None, key[0], "", "g", "keep", "/".join(key))
            for n, key in enumerate(KEYS, 1)]
    review, last = Review(folder, "clips", [Entry(row, None, row.was) for row in rows], ""), {}
    for number, action, cls in said:
        review.item({"number": number, "action": action, "class": cls})
        last[number] = (action, cls)
    decisions = read_review(folder)
    assert [(d.action, d.cls) for d in decisions] == [last.get(d.number, ("keep", d.origin[0])) for d in rows]
    assert [item["now"] for item in review.items()] == [d.cls for d in decisions]
    jobs = [Job(*d.origin, d.source) for d in rows]
    kept, left_out, _ = followed(jobs, decisions)
    assert {source for source, _ in left_out} == {d.source for d in decisions if d.action == "drop"}
    assert {(job.source, job.cls, job.origin) for job in kept} == {
        (d.source, d.cls, d.origin) for d in decisions if d.action == "keep"}
    # one name for one clip, and none that another clip has by itself
    assert len({job.key for job in kept}) == len(kept)
    assert all(job.key not in KEYS or job.key == job.origin for job in kept)


@pytest.mark.parametrize("row, words", [
    ("x,a.mp4,,,A,,,keep,A/1", "line 2: 'x' is not the"), ("1,a.mp4,,,A,,,buy,A/1", "line 2: action 'buy'"),
    ("1,a.mp4,,,../A,,,keep,A/1", "line 2: expected a class"), ("1,a.mp4,,,A,,,keep,1", "line 2: expected a"),
    ("1,a.mp4,5,2,A,,,keep,A/1", "line 2: from 5.0 to 2.0"),
    ("1,a.mp4,,,A,,,keep,A/1\n1,b,,,A,,,keep,A/2", "number")])
def test_a_wrong_table_is_refused_with_its_line(tmp_path, row, words):
    (tmp_path / "review.csv").write_text(f"number,source,start,end,class,part,group,action,was\n{row}\n")
    with pytest.raises(UserError, match=words):
        read_review(tmp_path)
    (tmp_path / "review.csv").write_text("film,stars\nholiday,5\n")     # somebody's own
    assert read_review(tmp_path) == []


COLORS = {"A": (200, 60, 60), "B": (60, 200, 60), "C": (60, 60, 200)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of pictures, folder of clips): three classes, eight groups of two; one clip of B lies in A, one
    is black."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    for cls, color in COLORS.items():
        (folder / "raw" / cls).mkdir(parents=True)
        for group, clip in itertools.product(range(8), range(2)):
            shown = COLORS["B"] if (cls, group, clip) == ("A", 3, 1) else color
            picture = np.clip(rng.integers(-60, 60, (6, 8, 3)).repeat(8, 0).repeat(8, 1) + shown, 0, 255)
            picture = picture * ((cls, group, clip) != ("C", 5, 0))
            cv2.imwrite(str(folder / "raw" / cls / f"v_{cls}_g{group:02d}_c{clip}.png"), picture[:, :, ::-1])
    preprocess(folder / "raw", folder / "sampled")
    return folder / "raw", folder / "sampled"


def preprocess(raw, out, *more):
    return call("preprocessing_data.py", "--row_data_dir", raw, "--sampled_data_dir", out, "--num_workers", 1,
                *more)


def parts_of(sampled, run):
    """{origin: part} of a training on these clips that knows the parts of `run`."""
    recipe = Recipe(sampled_data_path=str(sampled), parts=run and str(run), allow_pictures=True)
    samples, _ = dataset.training_samples(recipe, say=dataset.silent)
    return samples, {v.origin: v.part for v in samples}


def test_clips_are_judged_and_preprocessing_follows_what_is_decided(made, tmp_path):
    raw, sampled = made
    samples, parts = parts_of(sampled, None)
    splits.write_splits(tmp_path / "splits.csv", samples)
    before = {v.origin: (v.group, (sampled / v.path).read_bytes()) for v in read_sampled(sampled)}

    review = of_clips(sampled)
    models.torch.manual_seed(0)
    encoder = models.build_encoder("resnet18", None, 32)
    review.judge(encoder, Options(models.torch.device("cpu"), num_workers=0))
    ranked = sorted(review.items(), key=lambda item: -item["suspicion"])
    wrong, black = (next(item for item in ranked if item["name"] == name)
                    for name in ("v_A_g03_c1", "v_C_g05_c0"))
    assert wrong in ranked[:2] and wrong["reasons"][-1] == "networks that have not seen it say B"
    assert wrong["guess"][0][0] == "B" and "black" in black["reasons"] and black["suspicion"] == 1
    numbers = {item["name"]: item["number"] for item in ranked}
    odd = table(sampled / "data_report/odd.csv")
    assert odd and all(numbers[row["video"]] == int(row["number"]) for row in odd)

    test = next(origin for origin, part in parts.items() if part == "test" and origin[0] == "A")
    review.item({"number": numbers[test[1]], "class": "C"})
    review.item({"number": wrong["number"], "class": "B"})
    review.item({"number": black["number"], "action": "drop"})
    for keep in ((), ("--keep",), ()):
        said = preprocess(raw, sampled, *keep).out
        assert "of 48 clips that it knows 2 have another class, and 1 are left out" in said
    assert "nothing to do: all 47 pictures" in said
    videos = {v.origin: v for v in read_sampled(sampled)}
    assert videos.keys() == before.keys() - {("C", black["name"])}
    assert videos[test].cls == "C" and videos["A", wrong["name"]].cls == "B"
    for key, video in videos.items():
        assert before[key] == (video.group, (sampled / video.path).read_bytes())
    assert set(sampled.glob("*/*.avi")) == {sampled / v.path for v in videos.values()}
    reasons = {row["source"]: row["reason"] for row in table(sampled / "data_report/left_out.csv")}
    assert reasons[f"C/{black['name']}.png"] == f"dropped, number {black['number']} of review.csv"
    now = parts_of(sampled, tmp_path / "splits.csv")[1]
    assert now == {key: part for key, part in parts.items() if key in videos}
    listed = [split_lists.Listed(*key, "") for key, part in parts.items() if part == "test"]
    assert videos[test] in split_lists.present(listed, videos.values(), "test")[0]

    other = preprocess(raw, tmp_path / "other", "--review", sampled / "review.csv")
    assert read_sampled(last_line(other)) == list(videos.values())
    again = of_clips(sampled)
    assert {item["name"]: item["number"] for item in again.items()} == numbers
    assert probe(again.thumb(numbers[test[1]])).frames == 1
    for name, cls in ((test[1], "A"), (wrong["name"], "A"), (black["name"], "C")):
        again.item({"number": numbers[name], "action": "keep", "class": cls})
    preprocess(raw, sampled, "--keep")
    assert before == {v.key: (v.group, (sampled / v.path).read_bytes()) for v in read_sampled(sampled)}


def test_candidates_are_moved_relabelled_and_dropped_and_cut_again(tmp_path):
    film, out = write_video(tmp_path / "films" / "holiday.mp4", 250), tmp_path / "candidates"
    rows = [("Jump", 1, 3), ("Jump", 4, 6), ("Run", 7, 9), ("Run", 0, 1)]
    (tmp_path / "all.csv").write_text("film,class,start,end,probability\n" + "".join(
        f"holiday,{cls},{start},{end},0.{n}\n" for n, (cls, start, end) in enumerate(rows, 5)))

    def cut(of):
        return call("find_clips.py", "--from", of, "--video_path", film.parent, "--output_dir", out)

    def clips():
        return {(path.parent.name, path.stem): number_of(read_frames(path, [0])[0])
                for path in out.glob("[JR]*/*.mp4")}
    cut(tmp_path / "all.csv")
    review = of_candidates(out / "candidates.csv", {"holiday.mp4": film})
    items = {item["number"]: item for item in review.items()}
    assert [(i["now"], i["start"], i["end"]) for i in items.values()] == rows
    assert [round(i["suspicion"], 4) for i in items.values()] == [0.5, 0.4, 0.3, 0.2] and items[1]["reasons"]
    assert all(item["group"] == "holiday" and item["seconds"] == 10 for item in items.values())
    review.item({"number": 1, "start": 2.0, "end": 3.2})
    review.item({"number": 2, "class": "Run"})
    assert review.item({"number": 3, "action": "drop"})["action"] == "drop"
    assert probe(review.thumb(1)).frames == 30 and probe(review.thumb(2)).frames == 50
    picture = cv2.imread(str(review.strip(1, 2, 6)))
    assert picture.shape[0] == 100 and abs(picture.shape[1] - 900) < 90
    tiles = np.split(picture[:, :, ::-1], range(133, picture.shape[1], 133), axis=1)
    assert [number_of(tile) for tile in tiles] == [50 + int(100 * (i + 0.5) / len(tiles) + 0.99)
                                                   for i in range(len(tiles))]
    before = (out / "review.csv").read_bytes()
    page = testclient.TestClient(server.make_app(review, "token", 8000), base_url="http://127.0.0.1:8000")
    for asked in ({"start": 5.0}, {"class": "../x"}, {"class": "candidates.csv"}, {"action": "buy"},
                  {"class": ""}, {"start": "soon"}, {"start": []}, {"start": True}, {"end": 1e9, "start": 99},
                  {"start": -1}, {"class": "x" * 300}, {"class": ["Run"]}, {"number": None}, {"number": 9}):
        answer = page.post("/token/api/item", json={"number": 1, **asked})
        assert answer.status_code == (404 if asked == {"number": 9} else 400) and answer.json()["error"]
    for address in ("thumb/9.mp4", "thumb/..%2f1.mp4", "thumb/-1.mp4", "film/1.jpg",
                    "film/1.jpg?from=nan&to=1", "film/1.jpg?from=0&to=1e9", "film/1.jpg?from=3&to=2",
                    "film/%2e%2e/review.csv"):
        assert page.get(f"/token/{address}").status_code in (400, 404)
    assert page.get("/token/thumb/1.mp4").headers["content-type"] == "video/mp4"
    assert page.get("/token/api/state").json()["mode"] == "candidates"
    assert before == (out / "review.csv").read_bytes()

    refused("preprocessing_data.py", "--row_data_dir", out, "--sampled_data_dir", tmp_path / "sampled",
            says=("number 1 of review.csv was moved", "find_clips.py --from"))
    cut(out / "review.csv")
    assert clips() == {("Jump", "holiday_00002.000-00003.200"): 50,
                       ("Run", "holiday_00004.000-00006.000"): 100, ("Run", "holiday_00000.000-00001.000"): 0}
    again = of_candidates(out / "candidates.csv", {"holiday.mp4": film})
    assert [(i["number"], i["now"], i["action"]) for i in again.items()] == [
        (1, "Jump", "keep"), (2, "Run", "keep"), (3, "Run", "drop"), (4, "Run", "keep")]
    preprocess(out, tmp_path / "sampled")
    assert {v.group for v in read_sampled(tmp_path / "sampled")} == {"holiday"}
    again.item({"number": 3, "action": "keep"})
    cut(out / "review.csv")
    assert len(clips()) == 4 and {row["number"] for row in table(out / "candidates.csv")} == set("1234")
