"""What is wrong with a command line is said before anything slow is imported.

One cold process imports nothing itself and forks a child for every case; what the child has imported when it
ends is looked at, and no clock is.
"""
import json
import subprocess
import sys

import pytest
from commands import ROOT, environment

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
    "export.py": ["nowhere"],
    "benchmark.py": ["--sampled_data_path", "nowhere"],
    "demo_data.py": [],
}
CASES = [(script, *words) for script, path in MISSING.items()
         for words in (["--help"], ["--no_such_flag", "1"], *[path] * bool(path))]

# Reads nothing but JSON; runs each case in a child and prints [exit status, what was imported, its stderr].
COLD = """
import json, os, runpy, sys
for script, *words in json.loads(sys.argv[1]):
    reading, writing = os.pipe()
    if not os.fork():
        os.close(reading)
        status = 0
        sys.argv = [script, *words]
        sys.path[0] = os.path.dirname(script)
        sys.stdout = open(os.devnull, "w")
        sys.stderr = open("said", "w")
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            status = end.code
        sys.stderr.flush()
        os.write(writing, json.dumps([status, sorted(sys.modules)]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = json.load(pipe)
    os.wait()
    print(json.dumps([*answer, open("said").read()]), flush=True)
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """{(script, *words): [exit status, imported modules, stderr]}"""
    cases = [[str(ROOT / script), *words] for script, *words in CASES]
    done = subprocess.run([sys.executable, "-c", COLD, json.dumps(cases)], env=environment({}), text=True,
                          capture_output=True, check=True, cwd=tmp_path_factory.mktemp("cold"))
    return dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_nothing_slow_is_imported_to_say_that_a_command_line_is_wrong(started, case):
    status, modules, said = started[case]
    assert not {name.partition(".")[0] for name in modules} & set(SLOW), said
    if "--help" in case:
        assert status == 0 and not said
    else:
        assert status == 2 and len(said.splitlines()) == 1 and any(word in said for word in case[1:])
