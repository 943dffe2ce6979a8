"""Run the scripts as a person's command line would, without paying for torch each time.

    from commands import call, run, start
    result = call("train.py", "--epochs", 2, "--local_dir", folder)     # .code .out .err
    result = call("train.py", "--lr", "x", ok=False)                    # any exit status will do
    result = run("train.py", "--epochs", 2)                             # in a process of its own
    process = start("train.py", ...); process.kill(); result = process.wait()

`call` runs the script in the test's own process, in a third of the time: for all that needs no process to
be shown. Importing torch, its friends and the package takes 5 s. So `run` forks the scripts from a server of
multiprocessing that has imported them once and computed nothing: every run is a process of its own, with its
own pid, process group, argv, folder, environment, random state and exit status. Where fork is unsafe after
such imports (macOS), and with fork=False, it is an ordinary new process.
"""
import atexit
import concurrent.futures
import contextlib
import functools
import io
import multiprocessing.forkserver
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
# lrcn before OpenCV, which reads the environment that it sets; the own modules compute nothing at import.
PRELOADED = ["commands", "lrcn", "torch", "torchvision", "cv2", "av", "numpy", "scipy.stats",
             "scipy.optimize", "matplotlib.pyplot", "sklearn.metrics", "torch.utils.tensorboard", "tqdm",
             "timm", "jinja2", "plotly.graph_objects", "lrcn.training.run", "lrcn.pages.page",
             "lrcn.watching.films", "utils"]


@dataclass
class Result:
    """code: exit status, or minus the signal that ended the process."""
    code: int
    out: str
    err: str

    def __str__(self):
        return f"exit status {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Process:
    """A script at work. pid is also its process group."""

    def __init__(self, pid, poll, folder, command):
        self.pid, self._poll, self._folder, self.command = pid, poll, Path(folder), command
        self._code = None

    def poll(self):
        """The exit status, None while it runs."""
        if self._code is None:
            self._code = self._poll()
        return self._code

    def kill(self, number=signal.SIGKILL, group=False):
        """Send a signal to the process, or to it and its workers; nothing happens after its end."""
        with contextlib.suppress(ProcessLookupError):   # it may end now, or not have its group yet
            if self.poll() is None:
                (os.killpg if group else os.kill)(self.pid, number)

    @property
    def out(self):
        return (self._folder / "out").read_text(errors="replace")

    @property
    def err(self):
        return (self._folder / "err").read_text(errors="replace")

    def wait(self, timeout=300):
        """Result, once it has ended; a process that takes longer is killed and fails the test."""
        end, pause = time.monotonic() + timeout, 0.001
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill(group=True)
                raise AssertionError(f"{self.command}: still running after {timeout} s\n"
                                     f"{self.out}\n{self.err}")
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
        return Result(self._code, self.out, self.err)


@functools.cache
def _forks():
    """The context of processes that are forked from the server, which is started when it is first needed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with mock.patch.dict(os.environ, environment({"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}), clear=True):
        multiprocessing.forkserver.ensure_running()
    return context


# A shell starts its background jobs deaf to Ctrl-C, and children inherit that: a run must not.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_started = []


@functools.cache
def _scratch():
    """A folder for outputs and working folders, gone when the session ends."""
    return tempfile.TemporaryDirectory(prefix="commands-", ignore_cleanup_errors=True)


def environment(changes):
    """This process's environment, made fit for tests; a change to None takes a variable out."""
    env = {**os.environ, "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0",
           "TF_CPP_MIN_LOG_LEVEL": "3"}
    env.update({key: None if value is None else str(value) for key, value in changes.items()})
    return {key: value for key, value in env.items() if value is not None}


def start(script, *flags, env=None, cwd=None, fork=sys.platform == "linux"):
    """Process: `python <repository>/<script> <flags>`, its output in files, nothing on stdin. flags: anything
    that str() turns into a word. env: changes to the environment. cwd: an empty folder unless given."""
    folder = tempfile.mkdtemp(dir=_scratch().name)
    for name in ("out", "err"):
        Path(folder, name).touch()
    argv, env = [str(ROOT / script), *map(str, flags)], environment(env or {})
    cwd = cwd or tempfile.mkdtemp(dir=folder)
    if fork:
        child = _forks().Process(target=_run_and_leave, args=(argv, env, cwd, folder))
        child.start()
        pid, poll = child.pid, lambda: child.exitcode
    else:
        with open(Path(folder, "out"), "wb") as out, open(Path(folder, "err"), "wb") as err:
            child = subprocess.Popen([sys.executable, *argv], env=env, cwd=cwd, stdout=out, stderr=err,
                                     stdin=subprocess.DEVNULL, start_new_session=True)
        pid, poll = child.pid, child.poll
    process = Process(pid, poll, folder, " ".join([str(script), *argv[1:]]))
    _started.append(process)
    return process


def run(script, *flags, ok=True, timeout=300, **options):
    """Result of a whole run; with ok the test fails, output shown, unless the exit status is 0."""
    process = start(script, *flags, **options)
    result = process.wait(timeout)
    assert result.code == 0 or not ok, f"{process.command}: {result}"
    return result


def call(script, *flags, ok=True, env=None, cwd=None):
    """Result of the script in this process: its output, and what it would end with. What preprocessing gives
    to workers is done here too, one after another. Exceptions that would be a traceback are the test's."""
    import torch

    from lrcn.base import workers
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    path = str(ROOT / script)
    before = os.getcwd(), torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    try:
        os.chdir(cwd or tempfile.mkdtemp(dir=_scratch().name))
        with mock.patch.dict(os.environ, environment(env or {}), clear=True), \
                mock.patch.object(sys, "argv", [path, *map(str, flags)]), \
                mock.patch.object(workers, "results", lambda f, tasks, *_: ((t, f(t)) for t in tasks)), \
                mock.patch.object(workers, "pool", concurrent.futures.ThreadPoolExecutor), \
                contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            runpy.run_path(path, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        os.chdir(before[0])
        torch.set_num_threads(before[1])
        signal.signal(signal.SIGTERM, before[2])
    for stream in streams:
        stream.seek(0)
    result = Result(code, *(stream.read() for stream in streams))
    assert code == 0 or not ok, f"{script} {' '.join(map(str, flags))}: {result}"
    return result


def end_all():
    """Kill what a failed test left running."""
    for process in _started:
        process.kill(group=True)
    _scratch().cleanup()


def _become(argv, env, cwd, folder):
    """Turn this fresh child into the process that was asked for."""
    os.setpgid(0, 0)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for handle, path, flags in ((0, os.devnull, os.O_RDONLY), (1, folder + "/out", os.O_WRONLY),
                                (2, folder + "/err", os.O_WRONLY)):
        source = os.open(path, flags)
        os.dup2(source, handle)
        os.close(source)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = argv
    sys.path[0] = os.path.dirname(argv[0])


def _run_and_leave(argv, *more):
    """Run a script as __main__ in a fresh child and leave as Python does, but without taking the borrowed
    modules apart, which costs 1.5 s a run."""
    _become(argv, *more)
    code = 0
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)
