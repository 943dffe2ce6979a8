"""Set-up on machines that lack something: each failure says what to do. No package is installed.

The programs that setup.sh calls (python3, df, uname) are stood in for by small scripts on PATH,
and .venv/bin/python by what the fake python3 "makes".
"""
import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

# What `python3 -m venv .venv` leaves: a python whose pip and imports do as the test says.
VENV_PYTHON = r"""#!/bin/bash
echo "$*" >> calls
case "$*" in
    "-m pip --version"|"-c ") exit 0 ;;
    --version) echo Python 3.12.1 ;;
    "-m pip uninstall"*) touch uninstalled ;;
    "-m pip install"*openvino) exit $(cat openvino_exit) ;;
    "-m pip"*) cat pip_says; exit $(cat pip_exit) ;;
    "-c import cv2") [ -e uninstalled ] || { cat cv2_says >&2; [ ! -s cv2_says ]; } ;;
    "-c import torch") [ -e torch_there ] ;;
esac
"""
PYTHON3 = r"""#!/bin/bash
case "$*" in
    --version) echo Python 3.12.1 ;;
    "-m venv .venv") mkdir -p .venv/bin
        [ -e no_venv ] && { echo "ensurepip is not available"; exit 1; }
        cp venv_python .venv/bin/python ;;
    *) cat version ;;
esac
"""

WELL = {"version": "3.12", "free_kb": "90000000", "pip_exit": "0", "openvino_exit": "0", "cv2_says": "",
        "pip_says": "Successfully installed torch"}


@pytest.fixture
def machine(tmp_path):
    """A folder with the project's set-up files and fake programs first on PATH."""
    for name in ("setup.sh", "Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    program(programs / "python3", PYTHON3)
    program(programs / "df", 'echo Filesystem\necho "/dev/x 1 1 $(cat free_kb) 1% /"')
    program(programs / "uname", 'case "$1" in -s) echo Linux;; -m) echo x86_64;; *) echo Linux-x86_64;; esac')
    program(tmp_path / "venv_python", VENV_PYTHON)
    for name, text in WELL.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def program(path, text):
    path.write_text(text if text.startswith("#!") else f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def setup(machine, *args):
    env = {**os.environ, "PATH": f"{machine / 'programs'}:{os.environ['PATH']}", "TMPDIR": "/tmp"}
    done = subprocess.run(args or ("bash", "setup.sh", "tests"), cwd=machine, env=env, text=True,
                          capture_output=True, timeout=60)
    assert (done.returncode == 0) == (machine / ".venv/ready-for-demo").exists()
    return done


def test_set_up_installs_what_is_needed_once_and_again_when_the_requirements_change(machine):
    def of_the_tests(target):
        """How often the packages of the tests were installed, after `make target`."""
        done = setup(machine, "make", target)
        assert done.returncode == 0, done.stderr
        return (machine / "calls").read_text().count("-r requirements-dev.txt")

    (machine / "demo.py").touch()
    makefile = (machine / "Makefile").read_text()
    (machine / "Makefile").write_text(re.sub(r"\t\.venv/bin/python -m pytest.*\n", "\t@true\n", makefile))
    assert of_the_tests("demo") == 0 and "-r requirements.txt" in (machine / "calls").read_text()
    assert of_the_tests("test") == of_the_tests("test") == 1
    later = (machine / ".venv/ready-for-tests").stat().st_mtime + 10
    os.utime(machine / "requirements.txt", (later, later))
    assert of_the_tests("test") == 2


@pytest.mark.parametrize("changes, advice", [
    ({"no_venv": ""}, "apt install python3-venv"),
    *(({"version": old}, f"Python {old}, and 3.10 or newer is needed; name another one: make demo PYTHON=")
      for old in ("2.7", "3.9", "3.6")),
    ({"free_kb": "6500000"}, "need 7 GB, and 6 GB are free"),
    ({"cv2_says": "Traceback\nImportError: numpy is broken"}, "numpy is broken"),
    *(({"pip_says": says, "pip_exit": "1"}, advice) for says, advice in (
        ("WARNING: Retrying: Failed to establish a new connection: [Errno -3] Temporary failure in name "
         "resolution\nERROR: No matching distribution found for torch>=2.10", "check the network"),
        ("ERROR: No matching distribution found for torch>=2.10", "name another Python"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
         "the disk is full"),
        ("ERROR: something else", ".venv/setup.log")))])
def test_what_is_missing_is_told_in_the_last_line_and_mended_the_next_try_goes_on(machine, changes, advice):
    for name, text in changes.items():
        (machine / name).write_text(text)
    done = setup(machine)
    assert done.returncode == 1 and advice in done.stderr.splitlines()[-1]
    assert "pip_says" in changes or "cv2_says" in changes or not (machine / ".venv").exists()
    assert "pip_says" not in changes or changes["pip_says"] in (machine / ".venv/setup.log").read_text()
    calls = machine / "calls"
    assert not calls.exists() or "headless" not in calls.read_text()
    for name in changes:
        (machine / name).unlink()
        if name in WELL:
            (machine / name).write_text(WELL[name])
    assert setup(machine).returncode == 0


def test_a_purpose_that_is_none_and_a_python_that_is_not_there(machine):
    assert "say demo or tests" in setup(machine, "bash", "setup.sh", "python3.12").stderr
    done = setup(machine, "bash", "setup.sh", "demo", "python9")
    assert done.returncode == 1 and "there is no python9" in done.stderr


@pytest.mark.parametrize("library", ["libGL.so.1", "libxcb.so.1"])
def test_without_a_system_library_the_headless_opencv_takes_its_place(machine, library):
    (machine / "cv2_says").write_text(f"ImportError: {library}: cannot open shared object file: No such file")
    done = setup(machine)
    assert done.returncode == 0, done.stderr
    assert f"opencv-python lacks a system library here (ImportError: {library}" in done.stdout
    calls = (machine / "calls").read_text()
    removed = calls.index("pip uninstall -y -q opencv-python\n")
    assert removed < calls.index("--no-deps opencv-python-headless")


def test_what_is_only_faster_may_be_absent_and_space_is_not_asked_for_again_once_torch_is_there(machine):
    (machine / "openvino_exit").write_text("1")
    done = setup(machine)
    assert done.returncode == 0 and "openvino is not available" in done.stdout, done
    (machine / "torch_there").touch()
    (machine / "free_kb").write_text("1000")
    assert setup(machine).returncode == 0


def listed(text):
    return sorted(line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#"))


def test_conda_and_pip_install_the_same_packages():
    environment = (ROOT / "environment.yml").read_text()
    conda = re.findall(r"^ {6}- (\S+)$", environment.partition("- pip:")[2], re.MULTILINE)
    wanted = listed((ROOT / "requirements.txt").read_text())
    assert sorted(conda) == wanted
    assert "name: lrcn_env" in environment
    assert {"torch>=2.10", "torchvision", "opencv-python"} <= set(wanted)


def imported_names(path):
    """The first words of what a file imports, wherever in it."""
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    names = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    return {name.split(".")[0] for name in names + [n.module for n in nodes if isinstance(n, ast.ImportFrom)]}


def test_the_scripts_import_nothing_that_is_not_in_the_requirements():
    packages = {"cv2": "opencv-python", "sklearn": "scikit-learn", "PIL": "matplotlib", "starlette": "gradio",
                "markupsafe": "Jinja2", "jinja2": "Jinja2", "google": "tensorboard"}
    optional = {"timm", "openvino", "optuna", "onnx", "onnxruntime", "gradio"}  # imported where they are used
    wanted = {re.split(r"[<>=]", line)[0] for line in listed((ROOT / "requirements.txt").read_text())}
    own = {path.stem for path in ROOT.glob("*.py")} | {"lrcn"}
    for path in [*ROOT.glob("*.py"), *(ROOT / "lrcn").rglob("*.py")]:
        for name in imported_names(path):
            known = name in own or name in sys.stdlib_module_names
            assert known or packages.get(name, name) in optional | wanted, f"{path.name} imports {name}"


def test_a_line_of_the_demo_names_only_scripts_that_are_there():
    import demo
    for command in demo.COMMANDS:
        assert Path(ROOT, command.split()[0]).is_file()


def test_the_shell_scripts_are_clean():
    if not shutil.which("shellcheck"):
        pytest.skip("needs shellcheck")
    done = subprocess.run(["shellcheck", "setup.sh", "download_ucf101.sh", ".ci/run"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
