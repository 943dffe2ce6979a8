"""labels.csv: whatever keys are pressed and wherever it is killed, what was answered is there again."""
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcn.base import files
from lrcn.base.cli import UserError
from lrcn.teaching.labels import HEAD, Label, Labels, can_be_named

NAMES = ["jump", "wave, \"twice\"", "=1+1", "é", "a;b"]
FILMS = ["a.mp4", "deep/b, c.mp4", "\"q\".mkv", "ü\u202e.mp4"]
labels = st.builds(
    lambda film, k, kind, name, moved: Label(film, round(2.0 * k + moved, 3), 2.0 * k + 2,
                                             name if kind == "class" else "", kind, 2.0 * k),
    st.sampled_from(FILMS), st.integers(0, 3), st.sampled_from(["class", "none", "skip"]),
    st.sampled_from(NAMES), st.sampled_from([0.0, 0.125, 1.999]))
keys = st.lists(labels | st.just("undo"), max_size=12)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Nothing is flushed to a slow disk for the tests' sake."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def press(there, some):
    for key in some:
        there.undo() if key == "undo" else there.add(key)


def stack(some):
    """The rows that keys leave, and of each moment the last."""
    rows = []
    for key in some:
        rows = rows[:-1] if key == "undo" else [*rows, key]
    return rows, {row.key: row for row in rows}


@settings(max_examples=50, deadline=None)
@given(keys, keys)
def test_any_keys_are_there_after_a_restart_and_go_on(tmp_path_factory, some, more):
    folder, there = tmp_path_factory.mktemp("labels"), None
    for before, after in (([], some), (some, [*some, *more])):
        there = Labels(folder, NAMES)
        assert (there.rows, there.now) == stack(before)
        press(there, after[len(before):])
        assert (there.rows, there.now) == stack(after) and there.classes == NAMES
        there.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(labels, min_size=1, max_size=4), st.data())
def test_killed_at_any_byte_it_has_the_whole_rows_and_takes_the_next_key(tmp_path_factory, some, data):
    folder = tmp_path_factory.mktemp("labels")
    there = Labels(folder, NAMES)
    press(there, some)
    there.close()
    whole = there.path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    os.truncate(there.path, cut)
    kept = max(0, whole[:cut].count(b"\n") - 1)
    again = Labels(folder)
    assert again.rows == some[:kept] and again.path.read_bytes().startswith(HEAD)
    again.add(some[0])
    again.close()
    assert Labels(folder).rows == [*some[:kept], some[0]]


def test_a_key_is_on_the_disk_before_it_is_answered(tmp_path, monkeypatch):
    there, seen = Labels(tmp_path, ["a"]), []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(there.path.read_bytes()))
    there.add(Label("f.mp4", 0.0, 2.0, "a", "class", 0.0))
    assert seen == [HEAD + b"f.mp4,0.000,2.000,a,class,0.000\n"]
    there.undo()
    assert seen[1:] == [HEAD]


def test_a_full_disk_leaves_no_half_row(tmp_path, monkeypatch):
    there, write = Labels(tmp_path, ["a"]), os.write
    label = Label("f.mp4", 0.0, 2.0, "a", "class", 0.0)
    there.add(label)

    def full(handle, line):
        if len(line) < 20:
            raise OSError(28, "No space left on device")
        return write(handle, line[:12])
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        there.add(label)
    assert there.path.read_bytes() == HEAD + label.line() and there.rows == [label]


def test_classes_keep_the_order_of_their_keys(tmp_path):
    there = Labels(tmp_path, ["wave"])
    assert [there.add_class(name) for name in (" jump  up ", "wave", "e\u0301")] == ["jump up", "wave", "é"]
    assert Labels(tmp_path, ["new", "wave"]).classes == ["wave", "jump up", "é", "new"]
    for name in ("", "..", "a/b", "a\\b", ".hidden", "a\0b", "x" * 201, "\ud800", "a\u202eb", "films.csv"):
        with pytest.raises(UserError, match="class"):
            there.add_class(name)
    assert files.read_json(there.names)["classes"] == ["wave", "jump up", "é", "new"]


@pytest.mark.parametrize("text, says", [
    ("film,class\n", "line 1"), ("a\n", "line 1"), (HEAD.decode() + "x\n", "line 2"),
    (HEAD.decode() + "f,0,2,a,class,0\nf,2,1,a,class,0\n", "line 3"),
    (HEAD.decode() + "f,0,2,,class,0\n", "line 2"), (HEAD.decode() + "f,0,nan,a,class,0\n", "line 2")])
def test_another_file_is_left_as_it_is_and_said(tmp_path, text, says):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        Labels(tmp_path)
    assert (tmp_path / "labels.csv").read_text() == text


def test_films_whose_names_break_a_row_cannot_be_named():
    assert [can_be_named(name) for name in ("a,\"b\".mp4", "a\nb", "a\rb", "\udcff", "é")] == [
        True, False, False, False, True]
