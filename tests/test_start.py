"""What is wrong with a command line is said before anything slow is imported.

One cold process forks a child for every script; what the child has imported after each case is looked at, and
no clock is.
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

# Imports NumPy, which is quick, once for all; runs each script in a child, case by case, and prints
# [[exit status, what was imported until then, its stderr] of each case].
COLD = """
import io, json, os, runpy, sys
import numpy
for script, cases in json.loads(sys.argv[1]).items():
    reading, writing = os.pipe()
    if not os.fork():
        os.close(reading)
        sys.path[0] = os.path.dirname(script)
        sys.stdout, said = open(os.devnull, "w"), []
        for words in cases:
            sys.argv, sys.stderr, status = [script, *words], io.TextIOWrapper(io.BytesIO()), 0
            try:
                runpy.run_path(script, run_name="__main__")
            except SystemExit as end:
                status = end.code
            sys.stderr.seek(0)
            said.append([status, sorted(sys.modules), sys.stderr.read()])
        with os.fdopen(writing, "w") as pipe:
            json.dump(said, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        print(pipe.read(), flush=True)
    os.wait()
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """{script: [[exit status, imported modules, stderr] of each case]}"""
    cases = {str(ROOT / script): words for script, words in CASES.items()}
    done = subprocess.run([sys.executable, "-c", COLD, json.dumps(cases)], env=environment({}), text=True,
                          capture_output=True, check=True, cwd=tmp_path_factory.mktemp("cold"))
    return dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("script", CASES)
def test_nothing_slow_is_imported_to_say_that_a_command_line_is_wrong(started, script):
    for words, (status, modules, said) in zip(CASES[script], started[script], strict=True):
        assert not {name.partition(".")[0] for name in modules} & set(SLOW), (words, said)
        if words == ["--help"]:
            assert status == 0 and not said
        else:
            assert status == 2 and len(said.splitlines()) == 1 and any(word in said for word in words)


# Runs scripts to their end, one after another, and prints what they have imported together
WARM = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code
print(*sys.modules)
"""


def test_no_network_is_imported_where_all_features_are_stored(demo, sampled, tested, tmp_path):
    run = shutil.copytree(tested, tmp_path / "run")
    scripts = [("train.py", *flags(demo, sampled, tmp_path, "--encoder", "resnet18", "--epochs", 1)),
               ("test.py", run, "--num_workers", 0, "--num_videos", 0, "--device", "cpu")]
    words = json.dumps([[str(ROOT / script), *map(str, words)] for script, *words in scripts])
    done = subprocess.run([sys.executable, "-c", WARM, words], env=environment({"PYTHONPATH": ROOT}),
                          text=True, capture_output=True, check=True, cwd=tmp_path)
    imported = set(done.stdout.splitlines()[-1].split())
    assert {"torch", "models"} <= imported
    assert not {"torchvision", "timm", "torch._dynamo"} & imported
