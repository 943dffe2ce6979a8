"""preprocessing_data.py: which videos, which frames, what lies on disk, and what a kill leaves."""
import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import run, start
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from videos import class_folders, number_of, write_endless, write_video

import preprocessing_data
from lrcn.base import cli
from lrcn.data.journal import Journal, read_state
from lrcn.data.manifest import FACTS, MANIFEST_COLUMNS, clip_path
from lrcn.data.sources import Job
from lrcn.video import avi
from lrcn.video.reader import probe, read_frames

SCRIPT = "preprocessing_data.py"


def preprocess(raw, out, *flags, **options):
    return run(SCRIPT, "--row_data_dir", raw, "--sampled_data_dir", out, "--num_workers", 2, "--no-report",
               *flags, **options)


def manifest(out):
    with open(out / "manifest.csv", newline="") as f:
        return {(row["class"], row["video"]): row for row in csv.DictReader(f)}


def shown(out, cls, name):
    """The source frame numbers that a clip holds."""
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
    """3 classes of 4 videos: 25 fps, 2.8 s."""
    return class_folders(tmp_path_factory.mktemp("data") / "raw", frames=70)


@pytest.fixture(scope="module")
def done(raw, tmp_path_factory):
    """(folder of sampled clips, the run's result). Copy it before you change it."""
    out = tmp_path_factory.mktemp("data") / "sampled"
    return out, preprocess(raw, out)


# ---------------------------------------------------------------- what is written

def test_every_clip_holds_the_frames_that_the_manifest_names(raw, done):
    out, result = done
    rows = manifest(out)
    assert len(rows) == 12 and list(rows) == sorted(rows)
    for (cls, name), row in rows.items():
        start = int(row["start"])
        assert shown(out, cls, name) == [start + 10 * k for k in range(5)]
        assert row == {"video": name, "class": cls, "source": f"{cls}/{name}.avi", "source_fps": "25",
                       "source_frames": "70", "start": str(start), "stride": "10", "frames": "5"}
        info = probe(out / cls / f"{name}.avi")
        assert (info.fps, info.frames, info.width, info.height) == (2.5, 5, 64, 48)
    assert len({row["start"] for row in rows.values()}) > 4      # not all the same
    assert (out / "manifest.csv").read_text().startswith(",".join(MANIFEST_COLUMNS) + "\n")
    assert not (out / "failed.csv").exists() and not list(out.glob(".journal*"))
    assert result.out.splitlines()[-1] == str(out) and "Traceback" not in result.err
    written = json.loads((out / "settings.json").read_text())
    assert (written["sampling_rate"], written["FPS"], written["num_frames_to_extract"], written["seed"],
            written["ucf_list_dir"]) == (10, 25, 5, 42, None)
    assert set(written["versions"]) == {"python", "opencv"}


@pytest.mark.parametrize("flag, value, before", [
    ("sampling_rate", "5", "10"), ("FPS", "30", "25"), ("num_frames_to_extract", "6", "5"),
    ("seed", "1", "42")])
def test_other_flags_into_the_same_folder_are_refused(raw, done, flag, value, before):
    kept = snapshot(done[0])
    result = preprocess(raw, done[0], f"--{flag}", value, ok=False)
    assert result.code == 2 and len(result.err.splitlines()) == 1
    assert f"--{flag} {value}" in result.err and f"--{flag} {before}" in result.err
    assert snapshot(done[0]) == kept


def test_the_start_depends_on_seed_and_name_alone(raw, done, tmp_path):
    out, _ = done
    part = tmp_path / "part"
    for name in ("v_Run_g02_c01.avi", "v_Run_g04_c01.avi"):
        (part / "Run").mkdir(parents=True, exist_ok=True)
        shutil.copy(raw / "Run" / name, part / "Run" / name)
    preprocess(part, tmp_path / "out", "--num_workers", 1)
    for key, row in manifest(tmp_path / "out").items():
        assert row == manifest(out)[key]
        clip = Path(key[0], f"{key[1]}.avi")
        assert (tmp_path / "out" / clip).read_bytes() == (out / clip).read_bytes()
    preprocess(part, tmp_path / "other", "--seed", 7)
    starts = [[row["start"] for row in manifest(tmp_path / name).values()] for name in ("out", "other")]
    assert starts[0] != starts[1]


def test_the_original_readmes_command_with_its_typographic_dashes(raw, tmp_path):
    out = tmp_path / "out"
    run(SCRIPT, "–-sampled_data_dir", out, "-–row_data_dir", raw, "--sampling-rate", 10, "--FPS=25",
        "--num-frames-to-extract", 3, "-num_workers", 2)
    assert {row["frames"] for row in manifest(out).values()} == {"3"}
    again = run(SCRIPT, "--sampled_data_path", out, "--raw_data_dir", raw, "--num_frames_to_extract", 3)
    assert "nothing to do" in again.out


def test_all_frames_of_a_video(tmp_path):
    write_video(tmp_path / "raw/A/long.avi", 300)
    write_video(tmp_path / "raw/A/fast.avi", 300, 29.97)
    preprocess(tmp_path / "raw", tmp_path / "out", "--num_frames_to_extract", "all")
    assert shown(tmp_path / "out", "A", "long") == list(range(0, 300, 10))
    assert shown(tmp_path / "out", "A", "fast") == list(range(0, 300, 12))
    rows = manifest(tmp_path / "out")
    assert [rows["A", "long"][c] for c in ("source_frames", "start", "stride", "frames")] == \
        ["300", "0", "10", "30"]


# ---------------------------------------------------------------- which videos

@pytest.mark.parametrize("flags, says", [
    (["--row_data_dir", "nowhere", "--sampled_data_dir", "out"], "--row_data_dir nowhere"),
    (["--sampled_data_dir", "out"], "--row_data_dir is missing"),
    (["--row_data_dir", "{raw}"], "--sampled_data_dir is missing"),
    (["--row_data_dir", "{raw}", "--sampled_data_dir", "{raw}"], "--sampled_data_dir {raw}"),
    (["--row_data_dir", "{raw}/Jump", "--sampled_data_dir", "out"], "nothing to sample in its class folders"),
    (["--row_data_dir", "{raw}", "--sampled_data_dir", "{raw}/Jump"], "inside the other"),
    (["--row_data_dir", "{raw}", "--sampled_data_dir", "{raw}/new"], "inside the other"),
    (["--row_data_dir", "{raw}/Jump", "--sampled_data_dir", "{raw}"], "inside the other"),
    (["--row_data_dir", "{raw}", "--sampled_data_dir", "{full}"], "holds other files"),
    (["--row_data_dir", "{raw}", "--sampled_data_dir", "out", "--classes", "Jump,Fly"], "no video of Fly"),
    (["--report"], "--sampled_data_dir is missing"),
    (["--report", "--sampled_data_dir", "{full}"], "no manifest.csv"),
    (["--row_data_dir", "{raw}", "--sampled_data_dir", "{file}/x"], "--sampled_data_dir {file}/x"),
    (["--row_data_dir", "{raw}", "--sampled_data_dir", "out", "--ucf_list_dir", "none"],
     "--ucf_list_dir none"),
    (["--row_data_dir", "{raw}", "--sampled_data_dir", "out", "--ucf_list_dir", "{raw}"], "--ucf_list_dir"),
    (["--row_data_dir", "{raw}", "--sampled_data_dir", "out", "--FPS", "0"], "--FPS"),
    (["--row_data_dir", "{raw}", "--sampled_data_dir", "out", "--num_frames_to_extract", "some"],
     "--num_frames_to_extract"),
    (["--row_data_dir", "{raw}", "--sampled_data_dir", "out", "--no_such_flag"], "--no_such_flag"),
])
def test_a_wrong_path_or_flag_gives_one_line_and_status_2(raw, tmp_path, flags, says, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/other").write_text("")
    names = {"raw": raw, "file": tmp_path / "file", "full": tmp_path / "full"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [SCRIPT, *(flag.format(**names) for flag in flags)])
    with pytest.raises(SystemExit) as end:
        cli.run(preprocessing_data.main)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and says.format(**names) in err
    assert len(err.splitlines()) == 1 and out == ""


# ---------------------------------------------------------------- kills, locks, several processes

@pytest.fixture
def stuck(tmp_path):
    """A folder of 13 videos, one of which hangs every decoder."""
    folder = class_folders(tmp_path / "stuck", frames=50)
    write_endless(folder / "Turn" / "v_Turn_g99_c01.avi")
    return folder


def all_but_stuck(out):
    """True when 11 or 12 clips are there: one video may wait behind the one that hangs."""
    return len(list(out.glob("*/v_*.avi"))) >= 11


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_whole_clips_and_resumes_to_the_same(tmp_path):
    raw = class_folders(tmp_path / "raw", videos=25, frames=50, width=160, height=120)
    begin = time.monotonic()
    preprocess(raw, tmp_path / "at_once")
    whole = time.monotonic() - begin
    out = tmp_path / "killed"
    counts = []
    for i in range(12):
        process = start(SCRIPT, "--row_data_dir", raw, "--sampled_data_dir", out, "--num_workers", 2,
                        "--no-report")
        time.sleep(whole * (0.3 + 0.7 * (i * 0.618 % 1)))
        process.kill(group=i % 2 == 0)      # in turn: all of it, and the parent alone
        process.wait()
        clips = [p for p in out.glob("*/*.avi") if not p.name.startswith(".")]
        assert all(avi.frames_in(clip) == 5 for clip in clips)
        counts.append(len(clips))
    assert counts == sorted(counts) and len(set(counts)) > 1, counts
    preprocess(raw, out)
    assert snapshot(out).keys() == snapshot(tmp_path / "at_once").keys()
    assert snapshot(out) == snapshot(tmp_path / "at_once")


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


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_journal_that_breaks_off_or_is_damaged_names_whole_clips_only(done, tmp_path, data):
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(done[0], out)
    rows = manifest(out)
    (out / "manifest.csv").unlink()
    writing = Journal(out, 0)
    for (cls, name), row in rows.items():
        writing.add("done", Job(cls, name, row["source"]), [*row.values(), *FACTS])
    writing.add("failed", Job("A", "b", "A/b.avi"), "the file is empty")
    writing.flush()
    raw = bytearray(writing.path.read_bytes()[:data.draw(st.integers(0, 3000))])
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=3)):
        if raw:
            raw[at % len(raw)] = value
    writing.path.write_bytes(raw + data.draw(st.binary(max_size=20)))
    whole, _ = read_state(out)
    for key, rows in whole.items():
        for row in rows:
            assert avi.frames_in(clip_path(out, *key)) == int(row["frames"])
            assert row.keys() == {*MANIFEST_COLUMNS, *FACTS}


@pytest.mark.slow
def test_a_second_run_is_refused_while_the_first_is_at_work_and_a_dead_ones_lock_is_free(stuck, tmp_path):
    out = tmp_path / "out"
    first = start(SCRIPT, "--row_data_dir", stuck, "--sampled_data_dir", out)
    wait_for(lambda: all_but_stuck(out))
    second = preprocess(stuck, out, ok=False)
    assert second.code == 2 and len(second.err.splitlines()) == 1
    assert f"process {first.pid}" in second.err and "another preprocessing run" in second.err
    assert first.poll() is None
    first.kill()
    first.wait()
    third = preprocess(stuck, out, "--time_limit", 1)
    assert len(manifest(out)) == 12 and third.code == 0


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to look for processes")
@pytest.mark.slow
def test_no_worker_outlives_its_parent_even_if_its_decoder_hangs(stuck, tmp_path):
    process = start(SCRIPT, "--row_data_dir", stuck, "--sampled_data_dir", tmp_path / "out")
    wait_for(lambda: all_but_stuck(tmp_path / "out"))
    assert len(group_members(process.pid)) >= 3
    process.kill()
    process.wait()
    wait_for(lambda: not group_members(process.pid), 20)


def group_members(group):
    """Processes of a process group that are not dead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_a_signal_ends_the_run_with_a_line_that_says_how_to_go_on(stuck, tmp_path, number, code):
    out = tmp_path / "out"
    process = start(SCRIPT, "--row_data_dir", stuck, "--sampled_data_dir", out, "--num_workers", 2,
                        "--no-report")
    wait_for(lambda: all_but_stuck(out))
    process.kill(number, group=number == signal.SIGINT)     # Ctrl-C reaches the workers too
    result = process.wait()
    assert result.code == code and "Traceback" not in result.err
    assert "run the same command again to go on" in result.err.splitlines()[-1]
    again = preprocess(stuck, out, "--time_limit", 1)
    assert "of 13 videos are sampled already" in again.out and len(manifest(out)) == 12


def ranks(raw, out, world, env=None):
    return [start(SCRIPT, "--row_data_dir", raw, "--sampled_data_dir", out, "--num_workers", 1, "--no-report",
                  env={"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "localhost", "MASTER_PORT": "29500",
                       **(env or {})}) for rank in range(world)]


def test_the_ranks_of_a_launch_share_the_videos_and_agree_with_one_process(raw, done, tmp_path):
    (first, *others) = [process.wait() for process in ranks(raw, tmp_path / "out", 3)]
    assert [r.code for r in (first, *others)] == [0, 0, 0], (first, others)
    assert snapshot(tmp_path / "out") == snapshot(done[0])
    assert first.out.splitlines()[-1] == str(tmp_path / "out")
    assert all(other.out == "" for other in others)


def test_the_manifest_is_written_by_the_rank_that_ends_last(raw, done, tmp_path):
    out = tmp_path / "out"
    for rank in (1, 0):
        assert not (out / "manifest.csv").exists()
        preprocess(raw, out, env={"RANK": rank, "WORLD_SIZE": 2})
    assert snapshot(out) == snapshot(done[0])


def test_two_launches_do_not_share_a_folder(stuck, tmp_path):
    write_endless(stuck / "Turn" / "v_Turn_g98_c01.avi")    # one for each rank, which does not end by itself
    out = tmp_path / "out"
    first = ranks(stuck, out, 2)
    wait_for(lambda: all_but_stuck(out))
    for result in [process.wait() for process in ranks(stuck, out, 2, {"MASTER_PORT": "29501"})]:
        assert result.code == 2 and "is at work in this folder" in result.err
    assert preprocess(stuck, out, ok=False).code == 2
    for process in first:
        process.kill(signal.SIGTERM)
    assert all(process.wait().code in (0, 143) for process in first)


def test_a_rank_that_does_not_fit_is_refused(raw, tmp_path):
    for rank, world in ((2, 2), ("x", 1), (-1, 2)):
        result = preprocess(raw, tmp_path / "out", env={"RANK": rank, "WORLD_SIZE": world}, ok=False)
        assert result.code == 2 and "WORLD_SIZE" in result.err


@pytest.mark.skipif(sys.platform != "linux", reason="torchrun's store wants Linux here")
@pytest.mark.slow
def test_torchrun_starts_it_without_torch(raw, done, tmp_path):
    torchrun = Path(sys.executable).with_name("torchrun")
    if not torchrun.exists():
        pytest.skip("no torchrun beside this Python")
    result = subprocess.run([torchrun, "--standalone", "--nproc_per_node", "2",
                             Path(__file__).parent.parent.parent / SCRIPT, "--row_data_dir", raw,
                             "--sampled_data_dir", tmp_path / "out", "--num_workers", "1", "--no-report"],
                            capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(tmp_path / "out")
    assert snapshot(tmp_path / "out") == snapshot(done[0])


# ---------------------------------------------------------------- real clips

def test_the_real_clips_are_sampled_as_specified(ucf101, tmp_path):
    result = preprocess(ucf101 / "UCF-101", tmp_path / "out", "--ucf_list_dir", ucf101 / "ucfTrainTestlist")
    rows = manifest(tmp_path / "out")
    raw = sorted((ucf101 / "UCF-101").glob("*/*.avi"))
    assert len(rows) == len(raw) and not (tmp_path / "out/failed.csv").exists()
    assert "listed training videos present" in result.out
    for row in rows.values():
        fps, frames, stride = float(row["source_fps"]), int(row["source_frames"]), int(row["stride"])
        expected = {25.0: 10, 29.97: 12}[fps]
        if frames > 4 * expected:
            assert stride == expected and abs(4 * stride / fps - 1.6) < 0.002
        else:
            assert stride == (frames - 1) // 4
    # The clips show the source's frames, to JPEG's precision.
    for key in list(rows)[::40]:
        row = rows[key]
        wanted = [int(row["start"]) + k * int(row["stride"]) for k in range(5)]
        source = read_frames(ucf101 / "UCF-101" / row["source"], wanted).astype(int)
        clip = read_frames(tmp_path / "out" / key[0] / f"{key[1]}.avi", range(5))
        assert abs(clip - source).mean() < 3
