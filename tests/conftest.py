"""What the tests share: command lines (see commands.py) and data, made once a session.

`from conftest import run, start` for the command lines; the fixtures are folders:

    demo     a small rendering of the embedded data set: demo/UCF-101, demo/ucfTrainTestlist
    sampled  its sampled clips, as preprocessing_data.py leaves them
    trained  a run folder of train.py on them: six classes, told apart far better than by chance
    ucf101   the real clips, where the environment variable UCF101_DIR names them
"""
import os
from pathlib import Path

import pytest
from commands import ROOT, Process, Result, end_all, run, start

__all__ = ["ROOT", "Process", "Result", "run", "start"]


@pytest.fixture(scope="session", autouse=True)
def _end_what_was_started():
    yield
    end_all()


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """Folder with UCF-101/ and ucfTrainTestlist/: 6 classes, 11 groups (7 of them test), 1 clip each."""
    folder = tmp_path_factory.mktemp("demo")
    run("demo_data.py", "--output_dir", folder, "--groups", 11, "--clips", 1)
    return folder


@pytest.fixture(scope="session")
def sampled(demo, tmp_path_factory):
    """Folder of sampled clips, 5 frames each, of the `demo` videos. Do not change it: copy it."""
    folder = tmp_path_factory.mktemp("sampled") / "sampled"
    run("preprocessing_data.py", "--row_data_dir", demo / "UCF-101", "--sampled_data_dir", folder,
        "--ucf_list_dir", demo / "ucfTrainTestlist", "--num_workers", 2)
    return folder


@pytest.fixture(scope="session")
def trained(demo, sampled, tmp_path_factory):
    """Run folder of a small head on a random ResNet-18 at 32 pixels. Do not change it: copy it."""
    from runs import train
    return train(demo, sampled, tmp_path_factory.mktemp("trained"), "--encoder", "resnet18", "--epochs", 20,
                 "--lr", 0.01, "--dropout", 0, "--latent_dim", 64, "--hidden_size", 16,
                 "--label_smoothing", 0, "--checkpoint_interval", 20, "--val_check_interval", 5,
                 script="train.py")


@pytest.fixture(scope="session")
def ucf101():
    """Folder of real clips in UCF-101's layout, with the official lists."""
    folder = os.environ.get("UCF101_DIR")
    if not folder:
        pytest.skip("needs real UCF-101 clips: set UCF101_DIR to a folder with UCF-101/ and "
                    "ucfTrainTestlist/")
    assert (Path(folder) / "UCF-101").is_dir(), f"UCF101_DIR={folder} has no folder UCF-101"
    return Path(folder)
