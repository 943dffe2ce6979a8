"""What the tests share: folders, made once a session, however many workers pytest-xdist has.

Command lines are in commands.py, tiny trainings in runs.py, videos in videos.py, browsers in browsers.py.
"""
import os
import shutil
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"     # before torch is imported: a worker is one core's work

import browsers
import commands
import pytest
from commands import call
from runs import HEAD, last_line, report_of, sample, train

from lrcn.base import files

# What takes longest begins first: the workers of pytest-xdist take tests from the end of each other's lists
LONG = ("test_teach_page.py", "test_whole_videos.py", "test_server.py", "test_resume.py")


def pytest_collection_modifyitems(items):
    """Mark as slow the scripts' tests, what is made of their outputs, draws or reads real clips, and state
    machines; begin with the modules in LONG."""
    items.sort(key=lambda item: item.path.name not in LONG)
    for item in items:
        if {"once", "ucf101", "checked", "browser"} & {*item.fixturenames} or item.name == "runTest" or \
                item.path.parent.name == "scripts":
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def _end_what_was_started():
    yield
    commands.end_all()


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(name, make): the path that make(folder) returned, called by the first worker that wants it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def once(name, make):
        folder, made = base / "shared" / name / "files", base / "shared" / name / "made"
        folder.mkdir(parents=True, exist_ok=True)
        with files.lock(made.parent, name, "a test", wait=True):
            if not made.exists():
                made.write_text(str(make(folder)))
        return Path(made.read_text())
    return once


@pytest.fixture(scope="session")
def demo(once):
    """Folder with UCF-101/ and ucfTrainTestlist/: 6 classes, 11 groups (7 of them test), 1 clip each."""
    def make(folder):
        call("demo_data.py", "--output_dir", folder, "--groups", 11, "--clips", 1)
        return folder
    return once("demo", make)


@pytest.fixture(scope="session")
def sampled(demo, once):
    """Folder of sampled clips, 5 frames each, of the `demo` videos. Do not change it: copy it."""
    def make(folder):
        sample(demo, folder / "sampled")
        return folder / "sampled"
    return once("sampled", make)


@pytest.fixture(scope="session")
def long(demo, once):
    """Folder of sampled clips that hold 10 frames a second of all of their videos, which differ in length."""
    def make(folder):
        sample(demo, folder / "long", "--num_frames_to_extract", "all", "--sampling_rate", 2.5, "--no-report")
        return folder / "long"
    return once("long", make)


@pytest.fixture(scope="session")
def flowing(demo, sampled, once):
    """The `sampled` folder with two fields of optical flow a frame. Do not change it: copy it."""
    def make(folder):
        out = shutil.copytree(sampled, folder / "sampled", ignore=shutil.ignore_patterns("features"))
        before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.avi")}
        sample(demo, out, "--no-report", "--flow", "dis", "--flow_preset", "ultrafast", "--flow_length", 2)
        assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/*.avi")}
        return out
    return once("flowing", make)


@pytest.fixture(scope="session")
def chunked(demo, once):
    """A folder with clips/, sampled for mc3_18, 15 frames a second, and two tested runs on them: video/ of 3
    chunks of 4 frames, each half in the next one, and image/. Do not change it: copy it."""
    chunks = ("--encoder", "video/mc3_18", "--img_dim", 16, "--chunk_frames", 4, "--chunk_stride", 2)

    def make(folder):
        said = sample(demo, folder / "clips", "--classes", "Grow,Shrink", "--no-report", "--for",
                      "video/mc3_18").out
        assert "chunks of 16 frames at 15 a second: --FPS 25 --sampling_rate 1.66667" in said
        for name, more in (("video", chunks), ("image", ("--stride", 2))):
            report_of(train(demo, folder / "clips", folder / name, "--num_frames_video", 3, "--epochs", 2,
                            "--open_new_folder", "False", *more))
        return folder
    return once("chunked", make)


@pytest.fixture(scope="session")
def trained(demo, sampled, once):
    """Run folder of a small head on a random ResNet-18 at 32 pixels. Do not change it: copy it."""
    return once("trained", lambda folder: train(
        demo, sampled, folder, "--encoder", "resnet18", "--epochs", 20, "--lr", 0.01, "--dropout", 0,
        "--latent_dim", 64, "--hidden_size", 16, "--label_smoothing", 0, "--checkpoint_interval", 20,
        "--val_check_interval", 5, "--pictures"))


@pytest.fixture(scope="session")
def tested(trained, once):
    """A copy of `trained` with the report of test.py, and four labelled clips. Do not change it: copy it."""
    def make(folder):
        shutil.copytree(trained, folder / "run")
        call("test.py", "--model_dir", folder / "run", "--num_videos", 4, "--num_workers", 0, "--device",
             "cpu", "--encoder_backend", "torch")
        return folder / "run"
    return once("tested", make)


@pytest.fixture(scope="session")
def two_runs(demo, sampled, once):
    """A folder with two tiny tested runs of one seed: rgb/ and rgbdiff/. Do not change them."""
    def make(folder):
        for name in ("rgb", "rgbdiff"):
            report_of(train(demo, sampled, folder / name, "--epochs", 3, "--modality", name,
                            "--open_new_folder", "False"))
        return folder
    return once("two_runs", make)


@pytest.fixture(scope="session")
def fused(two_runs, once):
    """Run folder of fuse.py --train over `two_runs`, a GRU. Do not change it: copy it."""
    return once("fused", lambda folder: last_line(call(
        "fuse.py", "--train", two_runs / "rgb", two_runs / "rgbdiff", *HEAD, "--rnn", "gru", "--local_dir",
        folder)))


@pytest.fixture(scope="session")
def flow_run(demo, flowing, once):
    """Run folder of a tiny run of one epoch on the flow of `flowing`. Do not change it: copy it."""
    return once("flow_run", lambda folder: train(demo, flowing, folder, "--modality", "flow", "--epochs", 1))


@pytest.fixture(scope="session")
def _chromium(tmp_path_factory):
    with browsers.chromium(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def browser(_chromium):
    """Chromium, driven by Selenium; skipped where there is none."""
    yield _chromium
    _chromium.get("about:blank")    # films that play on would take a core from the tests to come
    _chromium.get_log("browser")


@pytest.fixture(scope="session")
def ucf101():
    """Folder of real clips in UCF-101's layout, with the official lists."""
    folder = os.environ.get("UCF101_DIR")
    if not folder:
        pytest.skip("needs real UCF-101 clips: set UCF101_DIR to a folder with UCF-101/ and "
                    "ucfTrainTestlist/")
    assert (Path(folder) / "UCF-101").is_dir(), f"UCF101_DIR={folder} has no folder UCF-101"
    return Path(folder)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Say how a worker of pytest-xdist ended that was not asked to: by which signal, or with which status."""
    if error:
        print(f"\n{node.gateway.id}: its process ended with {node.gateway._io.popen.wait(10)}")
