"""What all scripts share on their command lines: words, flags, progress, and how they end."""
import io
import os
import signal
import subprocess
import sys
import time

import pytest
from commands import ROOT, call, run
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import refused

from lrcn.base import cli

HOSTILE = "a\x1b[31mred\x1b[2J\u202egpj.exe\nsecond\tline\udcff"


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_what_is_printed_is_one_line_that_no_terminal_obeys(text):
    shown = cli.printable(text)
    assert shown.isprintable() and shown.encode() is not None
    assert cli.printable(shown) == shown
    assert text.isprintable() == (shown == text)


def test_words_and_progress_bars_show_names_escaped_and_a_log_has_no_bar(capsys):
    cli.say(HOSTILE, "Größe 歩く")
    shown = capsys.readouterr().out
    assert shown == "a\\x1b[31mred\\x1b[2J\\u202egpj.exe\\nsecond\\tline\\udcff Größe 歩く\n"
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    with cli.progress([1], desc=HOSTILE, file=terminal) as bar:
        list(bar)
    assert list(cli.progress(range(3), desc="x")) == [0, 1, 2] and capsys.readouterr() == ("", "")
    assert "a\\x1b[31mred" in terminal.getvalue() and "\u202e" not in terminal.getvalue()


SCRIPT = """
from lrcn.base import cli
from lrcn.base.values import POSITIVE
def main():
    parser = cli.Parser("A script.")
    group = parser.group("network")
    group.add_argument("--batch_size", type=POSITIVE, default=32, help="clips a step")
    assert parser.group("network") is group
    group.add_boolean("--bidirectional", default=True, help="both ways")
    parser.add_argument("--model_dir", required=True)
    args = parser.parse_args()
    cli.say(args.batch_size, args.bidirectional)
    raise cli.UserError(f"--model_dir {args.model_dir}: no")
cli.run(main)
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


@pytest.mark.parametrize("flags, shown", [
    (["--model_dir", HOSTILE], "--model_dir a\\x1b[31mred\\x1b[2J\\u202egpj.exe\\nsecond\\tline\\udcff: no"),
    (["--model_dir", "x", "--batch_size", "\x1b[2J"], "\\x1b")])
def test_an_error_is_one_line_whatever_the_name(script, flags, shown):
    assert "\x1b" not in refused(script, *flags, says=shown)


def test_an_error_is_one_line_on_a_terminal_that_lacks_its_letters(script):
    env = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ROOT}
    result = run(script, "--model_dir", "歩く", env=env, ok=False, fork=False)
    assert result.code == 2 and result.err == "script.py: error: --model_dir \\u6b69\\u304f: no\n"


@pytest.mark.parametrize("flags, says", [
    (["--batchsize", "3"], "--batchsize: there is no such flag; did you mean --batch_size?"),
    (["--modeldir=x"], "--modeldir=x: there is no such flag; did you mean --model_dir?"),
    (["–-no-bidirectionl"], "–-no-bidirectionl: there is no such flag; did you mean --no_bidirectional?"),
    (["--model_dir", "x", "--", "--batchsize"], "unrecognized arguments")])
def test_an_unknown_flag_is_named_with_the_one_that_was_meant(script, flags, says):
    refused(script, *flags, says=says)


@pytest.mark.parametrize("value", ["-3B32lodo2M_000059_000069.mp4", "-x.mp4", "-_a"])
def test_a_value_that_begins_with_a_dash_is_told_how_to_be_given(value, capsys):
    parser = cli.Parser("")
    parser.add_argument("--video_path")
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--video-path", value])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and len(said.splitlines()) == 1
    assert f"given as ./{value} or --video_path={value}" in said
    assert parser.parse_args([f"--video_path={value}"]).video_path == value
    with pytest.raises(SystemExit):
        parser.parse_args(["--video_path"])
    assert "dash" not in capsys.readouterr().err


def test_groups_have_headings_in_help_and_work_as_flags_do(script):
    shown = call(script, "--help").out
    assert "\nnetwork:\n  --batch_size BATCH_SIZE " in shown and "clips a step (default: 32)" in shown
    assert "--bidirectional" in shown.partition("network:")[2]
    result = call(script, "--model_dir", "x", "--no-bidirectional", "--batch-size", "4", ok=False)
    assert result.code == 2 and result.out == "4 False\n"


POOL = """
import time
from lrcn.base import cli
from lrcn.base.workers import pool
def main():
    with pool(2) as executor:
        for i, _ in enumerate(executor.map(time.sleep, [0.05] * 1000)):
            if i == 1:
                cli.say("at work")
cli.run(main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_leaves_one_line_and_no_worker(number):
    process = subprocess.Popen([sys.executable, "-c", POOL], start_new_session=True, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout.readline() == "at work\n"
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number and len(err.splitlines()) == 1, err
    end = time.monotonic() + 60     # Python's own tracker of resources ends a moment after its script
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(process.pid, 0)
            time.sleep(0.02)
