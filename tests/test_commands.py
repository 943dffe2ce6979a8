"""The helper that the other tests lean on: a run of it is a real process."""
import functools
import os
import sys

import pytest
from commands import call, run


@pytest.fixture
def script(tmp_path):
    def write(text):
        path = tmp_path / "script.py"
        path.write_text(text)
        return path
    return write


@pytest.mark.parametrize("fork", [True, False, None], ids=["forked", "new", "in this process"])
def test_a_run_has_its_own_argv_folder_environment_and_exit_status(script, tmp_path, fork):
    result_of = call if fork is None else functools.partial(run, fork=fork)
    before = os.getcwd(), sys.argv, {**os.environ}, sys.stdout
    path = script("import os, sys\nprint(sys.argv[1:], os.getcwd(), os.environ['WORD'], __name__)\n"
                  "print('oh', file=sys.stderr)\nsys.exit(3)")
    result = result_of(path, "--a", 1, env={"WORD": "here"}, cwd=tmp_path, ok=False)
    assert (result.code, result.err) == (3, "oh\n")
    assert result.out == f"['--a', '1'] {tmp_path} here __main__\n"
    with pytest.raises(AssertionError, match="exit status 3"):
        result_of(path, env={"WORD": "here"})
    assert before == (os.getcwd(), sys.argv, {**os.environ}, sys.stdout)
