"""A folder is replaced whole or not at all, whatever happens in between; a table is read in any form."""
import contextlib
import csv
import itertools
import os
import shutil
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcn.base import files
from lrcn.base.cli import UserError


def fill(folder, word, names=("a.csv", "b.csv", "videos/c.txt")):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, word)


def content(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(params=["exchanged", "renamed"])
def out(request, tmp_path, monkeypatch):
    """A folder to replace, where the system swaps two names at once and where it cannot."""
    if request.param == "renamed":
        monkeypatch.setattr(files.ctypes, "CDLL", lambda _: None)
    return tmp_path / "run" / "out"


def test_a_folder_is_replaced_by_the_new_one_but_after_an_error_and_nothing_else_is_left(out):
    for word in ("old", "new"):
        with files.replaced_folder(out) as new:
            fill(new, word)
    with pytest.raises(ZeroDivisionError), files.replaced_folder(out) as new:
        fill(new, "newer", ["a.csv"])
        raise ZeroDivisionError
    assert set(content(out).values()) == {"new"} and len(content(out)) == 3
    assert list(out.parent.iterdir()) == [out]


def test_what_others_left_in_the_folder_stays_and_what_an_earlier_run_left_goes(out):
    there = out.with_name("elsewhere")
    fill(there, "old", ["a.csv", "stale.png", "notes.txt", "videos/stale.txt", "others/deep/x.txt"])
    (there / "link").symlink_to("notes.txt")
    out.symlink_to(there)       # which stays a link
    with files.replaced_folder(out, own=["*.png"]) as new:
        fill(new, "new")
    assert content(there) == {"a.csv": "new", "b.csv": "new", "videos/c.txt": "new", "notes.txt": "old",
                              "others/deep/x.txt": "old", "link": "old"}
    assert (there / "link").is_symlink() and out.is_symlink()


def test_a_file_in_the_folders_place_is_one_line(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out: cannot write there"), files.replaced_folder(tmp_path / "out"):
        raise AssertionError
    assert (tmp_path / "out").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_the_next_run_clears_away_what_a_killed_one_left_and_two_at_once_are_refused(out):
    fill(out, "old")
    dead = out.with_name(".out.999999.tmp")
    fill(dead, "half")
    with files.replaced_folder(out) as mine:
        assert not dead.exists()
        fill(mine, "mine")
        with pytest.raises(UserError, match=rf"another process \({os.getpid()}\) is writing this folder"), \
                files.replaced_folder(out):
            raise AssertionError
        with files.replaced_folder(out.with_name("other")) as other:    # a folder beside it may be written
            fill(other, "other")
        shutil.rmtree(out.with_name("other"))
    assert set(content(out).values()) == {"mine"}
    assert list(out.parent.iterdir()) == [out]


def test_a_kill_between_two_renames_is_mended_by_the_next_run(out):
    fill(out.with_name(".out.before"), "old")
    with files.replaced_folder(out, own=["b.csv"]) as new:
        assert set(content(out).values()) == {"old"}
        fill(new, "new", ["a.csv"])
    assert content(out) == {"a.csv": "new", "videos/c.txt": "old"}
    assert list(out.parent.iterdir()) == [out]


def test_a_kill_at_any_step_leaves_the_old_folder_or_the_new_one(tmp_path):
    out, states, calls = tmp_path / "out", [], itertools.count(1)

    def end_at_the_step(event, args):
        changes = ("open", "os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove", "os.chmod")
        if event in changes and next(calls) == step:
            os._exit(9)

    fill(out, "old", ["a.csv", "b.csv"])
    fill(out, "theirs", ["notes.txt"])
    for step in range(1, 100):
        child = os.fork()
        if not child:       # which alone has the hook
            sys.addaudithook(end_at_the_step)
            with files.replaced_folder(out) as new:
                fill(new, "new", ["a.csv", "b.csv"])
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        got = content(out)
        assert got.pop("notes.txt") == "theirs"
        assert got in ({"a.csv": w, "b.csv": w} for w in ("old", "new")), step
        states.append(got["a.csv"])
        if status == 0:
            break
        assert status == 9
        fill(out, "old", ["a.csv", "b.csv"])
    assert step > 10 and {"old", "new"} == set(states)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


CELL = st.text(st.characters(codec="cp1252", exclude_categories=["Cc", "Cs", "Zs", "Cf"]), min_size=1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), max_size=5), st.sampled_from(",;\t|"), st.booleans(),
       st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]))
def test_a_table_is_read_however_a_program_divides_and_encodes_it(tmp_path_factory, rows, mark, stated, code):
    path = tmp_path_factory.getbasetemp() / "table.csv"
    with open(path, "w", newline="", encoding=code) as f:
        f.write(f"sep={mark}\r\n" if stated else "")
        csv.writer(f, delimiter=mark).writerows([("video", "group, or so"), *rows])
    if code == "cp1252":    # but for bytes that are UTF-8 too
        with contextlib.suppress(UnicodeDecodeError):
            path.read_bytes().decode()
            return
    assert [tuple(row.values()) for row in files.read_csv(path, ("video", "group, or so"))] == rows
