"""preprocessing_data.py: which videos, which frames, what lies on disk, and what a kill leaves."""
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from commands import call, start
from runs import one_line, read_json, refused, table
from videos import class_folders, number_of, write_endless

from lrcn.data.manifest import MANIFEST_COLUMNS
from lrcn.video import avi
from lrcn.video.reader import probe, read_frames

SCRIPT = "preprocessing_data.py"


def preprocess(raw, out, *flags, **options):
    return call(SCRIPT, "--row_data_dir", raw, "--sampled_data_dir", out, "--no-report", *flags, **options)


def manifest(out):
    return {(row["class"], row["video"]): row for row in table(out / "manifest.csv")}


def shown(out, cls, name):
    clip = out / cls / f"{name}.avi"
    return [number_of(frame) for frame in read_frames(clip, range(avi.frames_in(clip)))]


def snapshot(out):
    """{path: bytes} of all that a run leaves, but its lock."""
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*"))
            if p.is_file() and p.suffix != ".lock" and p.name != ".lock"}


def write_lists(folder, train, test, split=1):
    folder.mkdir(exist_ok=True)
    names = sorted({name.split("/")[0] for name in [*train, *test]})
    (folder / "classInd.txt").write_text("".join(f"{i} {n}\r\n" for i, n in enumerate(names, 1)))
    (folder / f"trainlist{split:02d}.txt").write_text(
        "".join(f"{t} {names.index(t.split('/')[0]) + 1}\r\n" for t in train))
    (folder / f"testlist{split:02d}.txt").write_text("".join(f"{t}\r\n" for t in test))
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return class_folders(tmp_path_factory.mktemp("data") / "raw", frames=70)


@pytest.fixture(scope="module")
def done(raw, tmp_path_factory):
    """(folder of sampled clips, the run's result). Copy it before you change it."""
    out = tmp_path_factory.mktemp("data") / "sampled"
    return out, preprocess(raw, out)


def test_every_clip_holds_the_frames_that_the_manifest_names(raw, done):
    out, result = done
    rows = manifest(out)
    assert len(rows) == 12 and list(rows) == sorted(rows)
    for (cls, name), row in rows.items():
        start = int(row["start"])
        assert shown(out, cls, name) == [start + 10 * k for k in range(5)]
        assert row == {"video": name, "class": cls, "source": f"{cls}/{name}.avi", "source_fps": "25",
                       "source_frames": "70", "start": str(start), "stride": "10", "frames": "5"}
        assert probe(out / cls / f"{name}.avi").fps == 2.5
    assert len({row["start"] for row in rows.values()}) > 4      # not all the same
    assert (out / "manifest.csv").read_text().startswith(",".join(MANIFEST_COLUMNS) + "\n")
    assert not (out / "failed.csv").exists() and not list(out.glob(".journal*"))
    assert result.out.splitlines()[-1] == str(out) and "Traceback" not in result.err
    written = read_json(out / "settings.json")
    assert (written["sampling_rate"], written["FPS"], written["num_frames_to_extract"], written["seed"],
            written["ucf_list_dir"]) == (10, 25, 5, 42, None)
    assert set(written["versions"]) == {"python", "opencv"}


def test_the_start_depends_on_seed_and_name_alone(raw, done, tmp_path):
    part = shutil.copytree(raw, tmp_path / "part", ignore=shutil.ignore_patterns("Jump", "*g02*"))
    for name, seed in (("same", 42), ("other", 7)):
        preprocess(part, tmp_path / name, "--seed", seed)
    same, other, whole = (manifest(out) for out in (tmp_path / "same", tmp_path / "other", done[0]))
    assert len(same) == 6 and same.items() <= whole.items()
    assert same.keys() == other.keys() and same != other
    for cls, name in same:
        clip = Path(cls, f"{name}.avi")
        assert (tmp_path / "same" / clip).read_bytes() == (done[0] / clip).read_bytes()


WRONG = {   # behind --row_data_dir {raw} --sampled_data_dir out; what is said, where it is not the flag
    "--row_data_dir nowhere": "", "--row_data_dir=": "--row_data_dir is missing", "--FPS 0": "--FPS",
    "--sampled_data_dir=": "--sampled_data_dir is missing", "--sampled_data_dir {raw}": "",
    "--sampled_data_dir {raw}/Jump": "inside the other", "--sampled_data_dir {raw}/new": "inside the other",
    "--row_data_dir {raw}/Jump --sampled_data_dir {raw}": "inside the other",
    "--sampled_data_dir {full}": "holds other files", "--classes Jump,Fly": "no video of Fly",
    "--report --row_data_dir= --sampled_data_dir=": "--sampled_data_dir is missing",
    "--report --row_data_dir= --sampled_data_dir {full}": "no manifest.csv",
    "--sampled_data_dir {full}/other/x": "", "--ucf_list_dir none": "",
    "--ucf_list_dir {raw}": "--ucf_list_dir", "--num_frames_to_extract some": "--num_frames_to_extract",
    "--no_such_flag": "", "--sampled_data_dir {done} --sampling_rate 5": "sampling_rate 10, not 5.0",
    "--sampled_data_dir {done} --FPS 30": "FPS 25, not 30.0",
    "--sampled_data_dir {done} --seed 1": "seed 42, not 1",
    "--sampled_data_dir {done} --num_frames_to_extract 6": "num_frames_to_extract 5, not 6"}


@pytest.mark.parametrize("flags", WRONG)
def test_a_wrong_path_or_flag_gives_one_line_and_status_2(raw, done, tmp_path, flags):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").write_text("")
    names, kept = {"raw": raw, "full": tmp_path / "full", "done": done[0]}, snapshot(done[0])
    result = call(SCRIPT, "--row_data_dir", raw, "--sampled_data_dir", "out", *flags.format(**names).split(),
                  ok=False, cwd=tmp_path)
    one_line(result, (WRONG[flags] or flags).format(**names))
    assert not result.out and snapshot(done[0]) == kept


def test_a_clip_cut_off_by_a_power_cut_is_made_again_and_half_a_table_is_cleared_away(raw, done, tmp_path):
    out = shutil.copytree(done[0], tmp_path / "out")
    for name in (".manifest.123.tmp.csv", ".failed.123.tmp.csv", ".settings.123.tmp.json"):
        (out / name).write_text("video,cla")
    clip = out / "Run" / "v_Run_g02_c01.avi"
    clip.write_bytes(clip.read_bytes()[:-300])
    (out / "Jump" / "v_Jump_g01_c01.avi").unlink()
    result = preprocess(raw, out)
    assert "10 of 12 videos are sampled already" in result.out
    assert snapshot(out) == snapshot(done[0])


def test_a_second_run_is_refused_while_the_first_is_at_work_and_a_dead_ones_lock_is_free(tmp_path):
    raw, out = class_folders(tmp_path / "raw", videos=1, frames=50), tmp_path / "out"
    endless = write_endless(raw / "Turn" / "v_Turn_g99_c01.avi")    # hangs every decoder
    first = start(SCRIPT, "--row_data_dir", raw, "--sampled_data_dir", out, "--num_workers", 2, "--no-report")
    while len(list(out.glob("*/v_*.avi"))) < 2:     # one may wait behind the one that hangs
        assert first.poll() is None, first.err
        time.sleep(0.01)
    refused(SCRIPT, "--row_data_dir", raw, "--sampled_data_dir", out,
            says=(f"process {first.pid}", "another preprocessing run"))
    assert first.poll() is None
    first.kill()
    assert first.wait().code == -signal.SIGKILL
    assert {avi.frames_in(clip) for clip in out.glob("*/v_*.avi")} == {5}
    with pytest.raises(ProcessLookupError):     # its workers end too
        for _ in range(10_000):
            os.killpg(first.pid, 0)
            time.sleep(0.01)
    endless.unlink()
    preprocess(raw, out)
    assert len(manifest(out)) == 3


def test_the_last_rank_writes_the_manifest_and_one_that_does_not_fit_is_refused(raw, done, tmp_path):
    out = tmp_path / "out"
    for rank in (1, 0):
        assert not (out / "manifest.csv").exists()
        preprocess(raw, out, env={"RANK": rank, "WORLD_SIZE": 2})
    assert snapshot(out) == snapshot(done[0])
    for rank, world in ((2, 2), ("x", 1), (-1, 2)):
        result = preprocess(raw, tmp_path / "out", env={"RANK": rank, "WORLD_SIZE": world}, ok=False)
        one_line(result, "WORLD_SIZE")
