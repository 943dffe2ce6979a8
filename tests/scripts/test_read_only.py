"""Somebody who may only read: the clips, or a run."""
import shutil

import pytest
from commands import ROOT, run
from runs import flags, last_line, one_line, report_of, train

from lrcn.base import files

READ_ONLY = f"""
import ctypes, os, runpy, sys
folder, sys.argv = sys.argv[1], [{str(ROOT)!r} + "/" + sys.argv[2], *sys.argv[3:]]
libc, path = ctypes.CDLL(None), os.fsencode(folder)
new_mounts, private, bind, closed = 0x20000, 0x44000, 0x1000, 0x1021
libc.unshare(new_mounts)    # root is stopped by no permission, but by a mount that this process alone sees
for source, target, how in ((None, b"/", private), (path, path, bind), (path, path, closed)):
    libc.mount(source, target, None, ctypes.c_ulong(how), None)
if os.access(folder, os.W_OK):
    sys.exit(77)
sys.path.insert(0, {str(ROOT)!r})
from lrcn.evaluation import results
results.draw = lambda *_: None
runpy.run_path(sys.argv[0], run_name="__main__")
"""
INVENTORY = "lrcn/features/inventory.py"


@pytest.fixture
def reading(tmp_path):
    """reading(folder, script, *words): the Result of a script to which this folder is read only."""
    path = tmp_path / "read_only.py"
    path.write_text(READ_ONLY)

    def reading(folder, script, *words, env=None):
        result = run(path, folder, script, *words, ok=False, env=env)
        if result.code == 77:
            pytest.skip("needs the right to mount")
        return result
    return reading


@pytest.fixture
def folder(sampled, tmp_path):
    return shutil.copytree(sampled, tmp_path / "sampled", ignore=shutil.ignore_patterns("features"))


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_clips(demo, folder, tmp_path, reading):
    words, mine = flags(demo, folder, tmp_path / "run", "--epochs", 1), tmp_path / "mine"
    before = listing(folder)
    result, there = reading(folder, "train.py", *words, env={"LRCN_FEATURES": mine}), folder / "features"
    assert result.code == 0 and f"{there} cannot be written, they go to {mine}" in result.out, result
    model = last_line(result)
    again = reading(folder, "train.py", *words, env={"LRCN_FEATURES": None, "XDG_CACHE_HOME": mine})
    assert again.code == 0 and f"they go to {mine}/lrcn/features" in again.out, again
    assert listing(folder) == before
    train(demo, folder, tmp_path / "other", "--epochs", 1)
    report_of(model)
    before, nowhere = listing(folder), {"LRCN_FEATURES": "/proc/nothing"}
    for result in (reading(folder, "train.py", *words, env=nowhere),
                   reading(folder, "test.py", "--model_dir", model, "--num_workers", 0, env=nowhere),
                   reading(folder, "report.py", model, env=nowhere)):
        assert result.code == 0 and "encoding" not in result.out and not result.err, result
    one_line(reading(folder, "train.py", *words, "--img_dim", 40, env=nowhere), "--sampled_data_path",
             "/proc/nothing", "LRCN_FEATURES")
    closed, raw = f"--sampled_data_dir {folder}", ("--row_data_dir", demo / "UCF-101")
    for words, more in (("write there", (folder, *raw, "--ucf_list_dir", demo / "ucfTrainTestlist")),
                        ("write there", (folder, "--report")), ("make this folder", (folder / "new", *raw))):
        one_line(reading(folder, "preprocessing_data.py", "--sampled_data_dir", *more), closed,
                 f"cannot {words} (Read-only")
    [key] = folder.glob("features/*/key.json")
    one_line(reading(folder, INVENTORY, folder, "--remove", key.parent.name), f"--remove: {key.parent}")
    assert listing(folder) == before
    manifest = folder / "manifest.csv"
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:20]))
    files.write_json(folder / "settings.json", {**files.read_json(folder / "settings.json"), "clips": 19})
    before = listing(folder)
    one_line(reading(folder, INVENTORY, folder, "--prune"), f"--prune: {key.parent}")
    assert listing(folder) == before


def test_a_run(demo, sampled, tmp_path, reading):
    model = train(demo, sampled, tmp_path, "--epochs", 1)
    before = listing(model)
    for words, said in ((("train.py", "--resume", model, "--epochs", 2), f"--resume {model}: cannot write"),
                        (("test.py", "--model_dir", model), f"{model}/test: cannot write there"),
                        (("report.py", model), f"{model}")):
        one_line(reading(model, *words), said, "Read-only")
    assert listing(model) == before
