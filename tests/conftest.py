"""What the tests share: folders, made once a session, however many workers pytest-xdist has.

Command lines are in commands.py, tiny trainings in runs.py, videos in videos.py, browsers in browsers.py.
"""
import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")   # before torch is imported: a worker is one core's work

import pytest
from commands import end_all, run

from lrcn.base import files


def pytest_collection_modifyitems(items):
    for item in items:
        if "ucf101" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def _end_what_was_started():
    yield
    end_all()


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
        run("demo_data.py", "--output_dir", folder, "--groups", 11, "--clips", 1)
        return folder
    return once("demo", make)


@pytest.fixture(scope="session")
def sampled(demo, once):
    """Folder of sampled clips, 5 frames each, of the `demo` videos. Do not change it: copy it."""
    def make(folder):
        run("preprocessing_data.py", "--row_data_dir", demo / "UCF-101", "--sampled_data_dir",
            folder / "sampled", "--ucf_list_dir", demo / "ucfTrainTestlist", "--num_workers", 2)
        return folder / "sampled"
    return once("sampled", make)


@pytest.fixture(scope="session")
def flowing(demo, sampled, once):
    """The `sampled` folder with two fields of optical flow a frame. Do not change it: copy it."""
    def make(folder):
        out = shutil.copytree(sampled, folder / "sampled", ignore=shutil.ignore_patterns("features"))
        before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.avi")}
        run("preprocessing_data.py", "--row_data_dir", demo / "UCF-101", "--sampled_data_dir", out,
            "--ucf_list_dir", demo / "ucfTrainTestlist", "--num_workers", 2, "--no-report", "--flow", "dis",
            "--flow_length", 2)
        assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/*.avi")}
        return out
    return once("flowing", make)


@pytest.fixture(scope="session")
def trained(demo, sampled, once):
    """Run folder of a small head on a random ResNet-18 at 32 pixels. Do not change it: copy it."""
    from runs import train
    return once("trained", lambda folder: train(
        demo, sampled, folder, "--encoder", "resnet18", "--epochs", 20, "--lr", 0.01, "--dropout", 0,
        "--latent_dim", 64, "--hidden_size", 16, "--label_smoothing", 0, "--checkpoint_interval", 20,
        "--val_check_interval", 5, "--pictures"))


@pytest.fixture(scope="session")
def _chromium(tmp_path_factory):
    from browsers import chromium
    with chromium(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def browser(_chromium):
    """Chromium, driven by Selenium; skipped where there is none."""
    yield _chromium
    _chromium.get("about:blank")    # films that play on would take a core from the tests to come


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
