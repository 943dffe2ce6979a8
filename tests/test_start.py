"""What is wrong with a command line is said before anything slow is imported.

One cold process forks a child for every script, and tells what the child has imported: no clock is read.
"""
import json
import shutil
import subprocess
import sys

import pytest
from commands import ROOT, environment
from runs import flags

SLOW = ("torch", "torchvision", "scipy", "sklearn", "matplotlib", "plotly", "cv2", "timm", "openvino",
        "onnxruntime", "tensorboard", "gradio", "optuna")
MISSING = {
    "preprocessing_data.py": ["--row_data_dir", "nowhere"],
    "train.py": ["--sampled_data_path", "nowhere"],
    "test.py": ["nowhere"],
    "test_continues_movie.py": ["nowhere"],
    "test_on_video.py": ["nowhere", "--video_path", "film.mp4"],
    "find_clips.py": ["nowhere", "--video_path", "film.mp4"],
    "compare.py": ["nowhere"],
    "fuse.py": ["nowhere", "nowhere too"],
    "tune.py": ["--sampled_data_path", "nowhere", "--set", "lr=1e-3,1e-4"],
    "report.py": ["nowhere"],
    "app.py": ["nowhere"],
    "teach.py": ["--video_path", "nowhere"],
    "export.py": ["nowhere"],
    "convert.py": ["nowhere", "--classes", "nowhere"],
    "benchmark.py": ["--sampled_data_path", "nowhere"],
    "demo_data.py": [],
}
CASES = {script: [["--help"], ["--no_such_flag", "1"], *[path] * bool(path)]
         for script, path in MISSING.items()}

# Imports what all scripts do, once; runs each list of commands in a child, one after another, and prints
# [[exit status, what was imported until then, its stderr] of each command].
COLD = """
import io, json, os, runpy, sys
import numpy, utils
for commands in json.loads(sys.argv[1]):
    reading, writing = os.pipe()
    if not os.fork():
        os.close(reading)
        sys.stdout, told = open(os.devnull, "w"), []
        for words in commands:
            sys.argv, sys.stderr, status = words, io.TextIOWrapper(io.BytesIO()), 0
            try:
                runpy.run_path(words[0], run_name="__main__")
            except SystemExit as end:
                status = end.code or 0
            sys.stderr.seek(0)
            told.append([status, sorted(sys.modules), sys.stderr.read()])
        with os.fdopen(writing, "w") as pipe:
            json.dump(told, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        print(pipe.read(), flush=True)
    os.wait()
"""


def cold(folder, *children):
    """[[exit status, imported modules, stderr] of each command] of every list of (script, words ...)."""
    commands = [[[str(ROOT / script), *map(str, words)] for script, *words in child] for child in children]
    done = subprocess.run([sys.executable, "-c", COLD, json.dumps(commands)], text=True, capture_output=True,
                          env=environment({"PYTHONPATH": ROOT}), check=True, cwd=folder)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """{script: [[exit status, imported modules, stderr] of each case]}"""
    children = ([[script, *words] for words in cases] for script, cases in CASES.items())
    return dict(zip(CASES, cold(tmp_path_factory.mktemp("cold"), *children), strict=True))


@pytest.mark.parametrize("script", CASES)
def test_nothing_slow_is_imported_to_say_that_a_command_line_is_wrong(started, script):
    for words, (status, modules, told) in zip(CASES[script], started[script], strict=True):
        assert not {name.partition(".")[0] for name in modules} & set(SLOW), (words, told)
        if words == ["--help"]:
            assert status == 0 and not told
        else:
            assert status == 2 and len(told.splitlines()) == 1 and any(word in told for word in words)


def test_no_network_is_imported_where_all_features_are_stored(demo, sampled, tested, tmp_path):
    run = shutil.copytree(tested, tmp_path / "run")
    [(_, [status, modules, told])] = cold(tmp_path, [
        ("train.py", *flags(demo, sampled, tmp_path, "--encoder", "resnet18", "--epochs", 1)),
        ("test.py", run, "--num_workers", 0, "--num_videos", 0, "--device", "cpu")])
    assert status == 0, told
    assert {"torch", "models"} <= set(modules)
    assert not {"torchvision", "timm", "torch._dynamo"} & set(modules)
