"""Bad and odd videos: each is sampled rightly, or listed in failed.csv with its reason; the rest go on."""
import errno
import os
import shutil
import socket

import numpy as np
import pytest
from commands import ROOT, run
from runs import refused, table
from videos import class_folders, numbered, set_header_frames, turn, write_sound, write_video
from zoo import encode, make, times_of

from lrcn.data import fields, sampler
from lrcn.data.sources import Job
from lrcn.video import writer
from lrcn.video.flow import Flow
from lrcn.video.reader import probe
from lrcn.video.sampling import Rate
from lrcn.video.writer import write_clip
from tests.scripts.test_preprocessing import SCRIPT, manifest, preprocess, shown

# In every worker of preprocessing_data.py OpenCV crashes or hangs
CRASHING = """
import os, signal, sys
sys.path.insert(0, ROOT)
import preprocessing_data
from lrcn.base import cli
from lrcn.data import sampler
BAD = {"Run_g04": signal.SIGSEGV, "Turn_g01": signal.SIGABRT, "Jump_g02": signal.SIGSTOP}
read_clip = sampler.read_clip
def bad(path, *rest):
    for name, number in BAD.items():
        if name in str(path):
            os.kill(os.getpid(), number)
    return read_clip(path, *rest)
sampler.read_clip = bad
if __name__ == "__main__":
    cli.run(preprocessing_data.main)
"""


def failures(out):
    return {row["source"]: row["reason"] for row in table(out / "failed.csv")}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """(folder of clips sampled from a folder of good, odd and bad videos, the run's result)."""
    raw = class_folders(tmp_path_factory.mktemp("odd") / "raw", classes=("Good",), videos=70, frames=45)
    odd = raw / "Odd"
    write_video(odd / "one_frame.avi", 1)
    write_video(odd / "three_frames.avi", 3)
    write_video(odd / "thirty_frames.avi", 30)
    write_video(odd / "exactly.avi", 41)
    write_video(odd / "ntsc.avi", 120, 29.97)
    write_video(odd / "half.avi", 60, 12.5)
    write_video(odd / "sixty.mp4", 150, 60)
    write_video(odd / "portrait.avi", 60, width=48, height=90)
    turn(write_video(odd / "phone.mp4", 60))
    write_video(odd / "large.mp4", 9, width=3840, height=2160)
    write_video(odd / "grey.avi", 60, grey=True)
    ticks = [*range(50), *(50 + 5 * (k // 2) + 4 * (k % 2) for k in range(50))]
    encode(odd / "variable.mp4", count=100, times=[tick / 25 for tick in ticks])
    set_header_frames(write_video(odd / "too_many_in_head.avi", 60), 5000)
    set_header_frames(write_video(odd / "too_few_in_head.avi", 60), 3)
    set_header_frames(write_video(odd / "none_in_head.avi", 60), 0)
    write_clip(odd / "odd_size.avi", [numbered(i, 61, 47) for i in range(60)], 25)
    whole = write_video(odd / "cut_in_the_middle.avi", 90).read_bytes()
    begin, end = whole.index(b"movi"), whole.rindex(b"idx1")
    (odd / "cut_in_the_middle.avi").write_bytes(whole[:begin + (end - begin) * 4 // 5])
    (odd / "cut_in_the_head.avi").write_bytes(whole[:150])
    (odd / "zero_bytes.avi").write_bytes(b"")
    (odd / "letter.avi").write_text("Dear Sir or Madam\n" * 500)
    (odd / "playlist.avi").write_text("#EXTM3U\n#EXTINF:1,\n" + str(odd / "grey.avi") + "\n#EXT-X-ENDLIST\n")
    write_sound(odd / "sound.avi")
    (odd / "folder.avi").mkdir()
    os.symlink(odd / "nowhere.avi", odd / "dangling.avi")
    out = raw.parent / "out"
    return out, preprocess(raw, out)


def test_the_good_ones_go_on_and_every_odd_one_is_sampled_or_listed(odd):
    out, result = odd
    done, failed = manifest(out), failures(out)
    assert sum(cls == "Good" for cls, _ in done) == 70
    assert failed == {
        "Odd/cut_in_the_head.avi": "no video in it that can be decoded",
        "Odd/dangling.avi": "the file does not exist",
        "Odd/letter.avi": "no video in it that can be decoded",
        "Odd/playlist.avi": "no video in it that can be decoded",
        "Odd/sound.avi": "no video in it that can be decoded",
        "Odd/zero_bytes.avi": "the file is empty"}
    assert "6 of 93 videos could not be sampled" in result.err and "Traceback" not in result.err
    assert result.out.splitlines()[-1] == str(out)
    assert not [p for p in out.rglob("*.avi") if p.stem in ("letter", "sound", "zero_bytes")]


@pytest.mark.parametrize("name, stride, frames, size", [
    ("exactly", 10, 41, (64, 48)), ("ntsc", 12, 120, (64, 48)), ("half", 5, 60, (64, 48)),
    ("sixty", 24, 150, (64, 48)), ("portrait", 10, 60, (48, 90)), ("phone", 10, 60, (48, 64)),
    ("large", 2, 9, (3840, 2160)), ("grey", 10, 60, (64, 48)), ("too_many_in_head", 10, 60, (64, 48)),
    ("too_few_in_head", 10, 60, (64, 48)), ("none_in_head", 10, 60, (64, 48)),
    ("odd_size", 10, 60, (61, 47))])
def test_odd_sizes_rates_and_headers_are_sampled_rightly(odd, name, stride, frames, size):
    row, info = manifest(odd[0])["Odd", name], probe(odd[0] / "Odd" / f"{name}.avi")
    assert (int(row["stride"]), int(row["source_frames"]), int(row["frames"])) == (stride, frames, 5)
    assert (info.width, info.height, info.frames) == (*size, 5)     # as the source is shown
    wanted = [int(row["start"]) + k * stride for k in range(5)]
    assert wanted[-1] < frames
    if name != "phone":     # its picture is turned, and its number with it
        assert shown(odd[0], "Odd", name) == wanted


def test_a_short_video_gets_a_smaller_stride_and_a_very_short_one_repeats_its_last_frame(odd):
    out, rows = odd[0], manifest(odd[0])
    row = rows["Odd", "thirty_frames"]
    start, stride = int(row["start"]), int(row["stride"])
    assert stride == 7 and shown(out, "Odd", "thirty_frames") == [start + 7 * k for k in range(5)]
    assert shown(out, "Odd", "three_frames") == [0, 1, 2, 2, 2]
    assert shown(out, "Odd", "one_frame") == [0, 0, 0, 0, 0]
    for name, frames in (("three_frames", "3"), ("one_frame", "1")):
        row = rows["Odd", name]
        assert (row["source_frames"], row["start"], row["stride"], row["frames"]) == (frames, "0", "1", "5")


def test_a_decoder_that_crashes_or_hangs_takes_one_video_with_it(tmp_path):
    raw = class_folders(tmp_path / "raw", videos=6, frames=45)
    (tmp_path / "crashing.py").write_text(CRASHING.replace("ROOT", repr(str(ROOT))))
    result = run(tmp_path / "crashing.py", "--row_data_dir", raw, "--sampled_data_dir", tmp_path / "out",
                 "--num_workers", 2, "--time_limit", 4, ok=False, fork=False)
    assert failures(tmp_path / "out") == {
        "Run/v_Run_g04_c01.avi": "the decoder crashed (SIGSEGV)",
        "Turn/v_Turn_g01_c01.avi": "the decoder crashed (SIGABRT)",
        "Jump/v_Jump_g02_c01.avi": "the decoder did not finish within 4 seconds"}, result
    assert len(manifest(tmp_path / "out")) == 15


@pytest.mark.parametrize("number", [errno.EACCES, errno.EINVAL, errno.ENAMETOOLONG, errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("where", ["open", "replace", "source"])
@pytest.mark.parametrize("work", ["clip", "all", "flow"])
def test_an_error_of_one_file_costs_that_file_and_one_of_the_disk_ends_the_run(
        tmp_path, monkeypatch, number, where, work):
    video = write_video(tmp_path / "raw/A/v.avi", 60)
    (tmp_path / "out/A").mkdir(parents=True)
    job, error = Job("A", "v", "A/v.avi"), OSError(number, os.strerror(number), str(video))

    def fail(*names, **_):
        if where == "source" or ".tmp" in str(names[0]):
            raise error if where == "source" else OSError(number, os.strerror(number), names[0])
        return open(*names)
    if where == "source":
        monkeypatch.setattr(sampler, "opened" if work == "all" else "read_clip", fail)
    else:
        monkeypatch.setattr(writer if where == "open" else os, where, fail, raising=where == "replace")
    options = dict(raw=tmp_path / "raw", out=tmp_path / "out", rank=0, rate=Rate(), seed=1)
    make, more = (fields.add_fields, {"flow": Flow("dis")}) if work == "flow" else (sampler.sample, {})
    told = sampler.attempt(make, job, count="all" if work == "all" else 5, **options, **more)
    if where == "source":
        assert told == ("failed", str(error))
    elif number in (errno.ENOSPC, errno.EIO):
        assert told == ("full", (number, os.strerror(number)))
    else:
        assert told == ("failed", os.strerror(number))
    assert not list((tmp_path / "out/A").iterdir())


def test_clips_that_cannot_fit_are_refused_with_both_numbers(tmp_path, monkeypatch):
    raw, out = class_folders(tmp_path / "raw", videos=8, frames=45), tmp_path / "out"
    with monkeypatch.context() as small:
        small.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 5000))
        refused(SCRIPT, "--row_data_dir", raw, "--sampled_data_dir", out, says=("0.01 MB are free", "MB in"))
    assert not (out / "manifest.csv").exists()
    # What was sampled before it was known counts.
    assert "going on: 16 of 24" in preprocess(raw, out).out


SHORT = {"one": 0, "four_k": 2}     # films shorter than a clip, and the stride that is left
NO_FILM = "no video in it that can be decoded"
STEP = 0.4
EIGHT = ("interlaced_mpeg2", "av1", "hdr", "variable_mkv", "edit_list", "transport", "one", "four_k")


@pytest.fixture(scope="module")
def listening():
    """A socket at which nobody should knock, and which would not answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def write_hazards(folder, port):
    """{name: reason} of what has the ending of a film and is none."""
    good = write_video(folder / "good.avi", 60)
    os.mkfifo(folder / "pipe.avi")
    (folder / "device.avi").symlink_to("/dev/zero")
    (folder / "folder.avi").mkdir()
    head, tail = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n", "\n#EXT-X-ENDLIST\n"
    texts = {"list.ts": f"{head}{good.name}{tail}", "pipes.ts": f"{head}{folder / 'pipe.avi'}{tail}",
             "address.mp4": f"{head}http://127.0.0.1:{port}/a.ts{tail}",
             "concat.mkv": f"ffconcat version 1.0\nfile {good}\n",
             "subfile.mp4": f"{head}subfile,,start,0,end,{good.stat().st_size},,:{good}{tail}",
             "concat:good.avi|good.avi": "x", "subfile,,start,0,end,900,,:good.avi": "x"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {**dict.fromkeys(("pipe.avi", "device.avi"), "it is no file but a pipe or a device"),
            **dict.fromkeys(texts, NO_FILM)}


@pytest.fixture(scope="module")
def sampled_zoo(tmp_path_factory, listening):
    """(folder of the clips, the reasons that the tables should give)."""
    folder = tmp_path_factory.mktemp("zoo")
    for name in EIGHT:
        make(folder / "raw" / "Odd", name)
    reasons = write_hazards(folder / "raw" / "Bad", listening.getsockname()[1])
    result = run("preprocessing_data.py", "--row_data_dir", folder / "raw", "--sampled_data_dir",
                 folder / "out", "--num_frames_to_extract", 5, "--num_workers", 2, ok=False)
    assert result.code == 1 and "Traceback" not in result.err, result     # more than a tenth are none
    return folder / "out", reasons


@pytest.mark.parametrize("name", EIGHT)
def test_a_clip_shows_the_frames_nearest_to_each_step_from_its_start(sampled_zoo, name):
    out, times = sampled_zoo[0], times_of(name)
    start, numbers = int(manifest(out)["Odd", name]["start"]), shown(out, "Odd", name)
    assert len(numbers) == 5 and numbers[0] == start
    if name in SHORT:
        assert numbers == [start + k * SHORT[name] for k in range(5)]
        return
    away = np.abs(times - (times[start] + STEP * np.arange(5))[:, None])
    np.testing.assert_allclose(away[range(5), numbers], away.min(1), atol=2e-3)


def test_what_is_no_film_is_listed_with_its_reason_and_nobody_waits(sampled_zoo, listening):
    out, reasons = sampled_zoo      # who waited for it would be told that it took too long
    failed = {row["source"]: row["reason"] for row in table(out / "failed.csv")}
    assert failed == {f"Bad/{name}": reason for name, reason in reasons.items()}
    left_out = {row["source"]: row["reason"] for row in table(out / "data_report" / "left_out.csv")}
    assert left_out == {**failed, "Bad/folder.avi": "it is a folder, and empty"}
    with pytest.raises(BlockingIOError):
        listening.accept()
