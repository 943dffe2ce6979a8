"""Which stretches of a film are proposed, and how tables of stretches are read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcn.base.cli import UserError
from lrcn.data.groups import find_groups
from lrcn.watching.candidates import Stretch, of_films, propose, read_stretches, write_stretches

TIMES = np.arange(100) * 0.4        # 40 s


def film(*runs, classes=3):
    """Probabilities of TIMES: (start, end, class, probability) where one class stands out."""
    shares = np.full((len(TIMES), classes), 0.05)
    for start, end, cls, share in runs:
        shares[np.searchsorted(TIMES, start):np.searchsorted(TIMES, end), cls] = share
    return shares


def test_the_best_stretches_lie_on_the_actions_and_not_two_on_one():
    shares = film((5, 13, 0, 0.9), (20, 27, 1, 0.8), (30, 38, 0, 0.7))
    found = propose(TIMES, 40.0, shares, seconds=5, per_class=3, least=0.4)
    assert [row[2] for row in found] == [0, 1, 0]
    for (start, end, _, share), (first, last, p) in zip(
            found, [(5, 13, 0.9), (20, 27, 0.8), (30, 38, 0.7)], strict=True):
        assert first - 0.5 <= start and end <= last + 0.5 and end - start == pytest.approx(5)
        assert share == pytest.approx(p, abs=0.02)
    assert len(propose(TIMES, 40.0, shares, 5, per_class=1, least=0.4)) == 2
    assert [row[2] for row in propose(TIMES, 40.0, shares, 5, 3, least=0.4, wanted={1})] == [1]
    assert [row[2] for row in propose(TIMES, 40.0, shares, 5, 3, least=0.75)] == [0, 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2 ** 32), st.floats(0.5, 15), st.integers(1, 5), st.floats(0, 0.9), st.floats(0, 0.9))
def test_no_two_candidates_share_more_than_they_may(seed, seconds, per_class, overlap, least):
    random = np.random.default_rng(seed)
    times = np.cumsum(random.uniform(0.1, 0.9, random.integers(1, 120)))
    times -= times[0]
    end = float(times[-1]) + 0.3
    shares = random.dirichlet(np.ones(4) * 0.3, len(times))
    found = propose(times, end, shares, seconds, per_class, overlap, least)
    length = min(seconds, end)
    assert all(sum(row[2] == cls for row in found) <= per_class for cls in range(4))
    for i, (start, stop, cls, share) in enumerate(found):
        inside = (times >= start - 1e-3) & (times < stop + 1e-3)
        assert start >= 0 and stop <= end + 1e-3 and stop - start == pytest.approx(length, abs=2e-3)
        assert share >= least and shares[inside, cls].max() >= share - 1e-9
        for other in found[:i]:
            assert min(stop, other[1]) - max(start, other[0]) <= overlap * length + 3e-3
    if least == 0:
        assert found


def test_a_table_is_read_as_it_was_written(tmp_path):
    rows = [Stretch("a/film.mp4", "Jump high", 1.5, 6.5, 0.75), Stretch("b.mov", "Run", 0, 2)]
    write_stretches(tmp_path / "candidates.csv", rows)
    assert read_stretches(tmp_path / "candidates.csv", "from") == rows
    (tmp_path / "labels.csv").write_text("video,start,end,class\nb.mov,0,2,Run\n")
    assert read_stretches(tmp_path / "labels.csv", "truth") == rows[1:]
    (tmp_path / "kinetics.csv").write_text("label,youtube_id,time_start,time_end,split\n"
                                           "abseiling,-3B32lodo2M,12,22,train\n")
    assert read_stretches(tmp_path / "kinetics.csv", "from") == [
        Stretch("-3B32lodo2M", "abseiling", 12, 22, None, "-3B32lodo2M")]


@pytest.mark.parametrize("text, words", [
    ("film,start,end\n", "line 1: column class"), ("x\n", "line 1: column video"),
    ("film,class,start,end\na.mp4,Jump,5,5\n", "line 2: from 5 to 5"),
    ("film,class,start,end\na.mp4,Jump,-1,5\n", "line 2: from -1 to 5"),
    ("film,class,start,end\na.mp4,Jump,nan,5\n", "line 2: from nan"),
    ("film,class,start,end\na.mp4,Jump,0,1e99\n", "line 2: from 0 to 1e"),
    ("film,class,start,end\na.mp4,Jump,soon,5\n", "line 2: 'soon' to '5' are not seconds"),
    ("film,class,start,end\na.mp4,../x,0,5\n", "'../x' cannot be"),
    ("film,class,start,end\n,Jump,0,5\n", "no film is named"),
    ("film,class,start,end\na.mp4,,0,5\n", "'' cannot be"),
    ("label,youtube_id,time_start,time_end\nJump,../../etc,0,5\n", "'../../etc' cannot be")])
def test_a_wrong_table_is_refused_with_its_line(tmp_path, text, words):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match="--from") as caught:
        read_stretches(tmp_path / "t.csv", "from")
    assert words in str(caught.value)


def test_films_are_known_by_their_paths_names_and_addresses():
    films = ["a/film.mp4", "b/film.mp4", "c/Jump [-3B32lodo2M].mkv", "dQw4w9WgXcQ.webm", "d/other.avi",
             "one.mp4", "deep/one.mp4"]
    names = ["a/film.mp4", "film", "-3B32lodo2M", "dQw4w9WgXcQ", "other.avi", "other", "nothing.mp4",
             "one.mp4"]
    found, absent = of_films([Stretch(name, "A", 0, 1) for name in names], films)
    assert {film: len(rows) for film, rows in found.items()} == {
        "a/film.mp4": 1, "c/Jump [-3B32lodo2M].mkv": 1, "dQw4w9WgXcQ.webm": 1, "d/other.avi": 2,
        "one.mp4": 1}
    assert absent == {"film": "2 films have this name", "nothing.mp4": "not there"}


def test_the_name_of_a_clip_or_frame_tells_its_film_in_whatever_class():
    one, other = Stretch("a.mp4", "A", 3.2, 8.2), Stretch("a.mp4", "B", 61.25, 66.25)
    address = Stretch("x.mp4", "A", 12, 22, None, "-3B32lodo2M")
    names = [("A", one.name("my film_2")), ("B", other.name("my film_2")),
             ("A", other.frame_name("my film_2", 61.4)), ("A", address.name("x")),
             ("A", Stretch("b", "A", 0, 1).name("other"))]
    assert names[0][1] == "my film_2_00003.200-00008.200" and names[2][1] == "my film_2_00061.400"
    assert names[3][1] == "-3B32lodo2M_000012_000022"
    groups = list(find_groups(names).values())
    assert groups == ["my film_2"] * 3 + ["-3B32lodo2M", "other"]
