"""Bad and odd videos: each is sampled rightly, or listed in failed.csv with its reason; the rest go on."""
import errno
import os
import shutil
import socket

import pytest
from commands import ROOT, run
from runs import refused, table
from videos import class_folders, numbered, set_header_frames, turn, write_sound, write_video

from lrcn.data import fields, sampler
from lrcn.data.sources import Job
from lrcn.video import writer
from lrcn.video.flow import Flow
from lrcn.video.reader import probe
from lrcn.video.sampling import Rate
from lrcn.video.writer import write_clip
from tests.scripts.test_preprocessing import SCRIPT, manifest, preprocess, shown

# In every worker of preprocessing_data.py the decoder crashes or hangs at a film that is named like a signal
CRASHING = """
import os, signal, sys
sys.path.insert(0, ROOT)
import preprocessing_data
from lrcn.base import cli
from lrcn.data import sampler
read_clip = sampler.read_clip
def bad(path, *rest):
    if path.stem.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[path.stem])
    return read_clip(path, *rest)
sampler.read_clip = bad
if __name__ == "__main__":
    cli.run(preprocessing_data.main)
"""


@pytest.fixture(scope="module")
def listening():
    """A socket at which nobody should knock, and which would not answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def write_hazards(folder, port):
    """{source: reason} of what has the ending of a film and is none."""
    good = write_video(folder / "good.avi", 60)
    os.mkfifo(folder / "pipe.avi")
    (folder / "device.avi").symlink_to("/dev/zero")
    (folder / "folder.avi").mkdir()
    (folder / "dangling.avi").symlink_to(folder / "nowhere.avi")
    (folder / "zero_bytes.avi").write_bytes(b"")
    (folder / "cut_in_the_head.avi").write_bytes(good.read_bytes()[:150])
    write_sound(folder / "sound.avi")
    head, tail = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n", "\n#EXT-X-ENDLIST\n"
    texts = {"letter.avi": "Dear Sir or Madam\n" * 500, "playlist.avi": f"{head}{good}{tail}",
             "list.ts": f"{head}{good.name}{tail}", "pipes.ts": f"{head}{folder / 'pipe.avi'}{tail}",
             "address.mp4": f"{head}http://127.0.0.1:{port}/a.ts{tail}",
             "concat.mkv": f"ffconcat version 1.0\nfile {good}\n",
             "subfile.mp4": f"{head}subfile,,start,0,end,{good.stat().st_size},,:{good}{tail}",
             "concat:good.avi|good.avi": "x", "subfile,,start,0,end,900,,:good.avi": "x"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    reasons = {**dict.fromkeys(("pipe.avi", "device.avi"), "it is no file but a pipe or a device"),
               **dict.fromkeys((*texts, "sound.avi", "cut_in_the_head.avi"),
                               "no video in it that can be decoded"),
               "dangling.avi": "the file does not exist", "zero_bytes.avi": "the file is empty"}
    return {f"{folder.name}/{name}": reason for name, reason in reasons.items()}


@pytest.fixture(scope="module")
def odd(tmp_path_factory, listening):
    """(folder of clips sampled from a folder of good, odd and bad videos, the run's result, {source: reason}
    of what is no video)."""
    raw = tmp_path_factory.mktemp("odd") / "raw"
    odd = raw / "Odd"
    for count in (1, 3, 30):
        write_video(odd / f"frames_{count}.avi", count)
    write_video(odd / "half.avi", 60, 12.5)
    turn(write_video(odd / "phone.mp4", 60))
    for count in (5000, 3, 0):
        set_header_frames(write_video(odd / f"head_says_{count}.avi", 60), count)
    write_clip(odd / "odd_size.avi", [numbered(i, 61, 47) for i in range(60)], 25)
    whole = write_video(odd / "cut_in_the_middle.avi", 90).read_bytes()
    begin, end = whole.index(b"movi"), whole.rindex(b"idx1")
    (odd / "cut_in_the_middle.avi").write_bytes(whole[:begin + (end - begin) * 4 // 5])
    reasons = write_hazards(raw / "Bad", listening.getsockname()[1])
    for name, reason in (("SIGSEGV", "crashed (SIGSEGV)"), ("SIGABRT", "crashed (SIGABRT)"),
                         ("SIGSTOP", "did not finish within 6 seconds")):
        write_video(raw / "Bad" / f"{name}.avi", 45)
        reasons[f"Bad/{name}.avi"] = f"the decoder {reason}"
    script, out = raw.parent / "crashing.py", raw.parent / "out"
    script.write_text(CRASHING.replace("ROOT", repr(str(ROOT))))
    # who waited for a pipe would be told that it took too long, too
    return out, run(script, "--row_data_dir", raw, "--sampled_data_dir", out, "--num_workers", 2,
                    "--time_limit", 6, ok=False, fork=False), reasons


def test_every_odd_video_is_sampled_and_what_is_none_costs_itself_alone(odd, listening):
    out, result, reasons = odd
    failed, left_out = ({row["source"]: row["reason"] for row in table(out / name)}
                        for name in ("failed.csv", "data_report/left_out.csv"))
    assert failed == reasons and left_out == {**reasons, "Bad/folder.avi": "it is a folder, and empty"}
    assert {cls for cls, _ in manifest(out)} == {"Odd", "Bad"} and len(manifest(out)) == 11
    assert result.code == 1 and "Traceback" not in result.err, result      # more than a tenth are none
    assert f"{len(reasons)} of {len(reasons) + 11} videos could not be sampled" in result.err
    assert result.out.splitlines()[-1] == str(out)
    with pytest.raises(BlockingIOError):
        listening.accept()


@pytest.mark.parametrize("name, stride, frames, size", [
    ("half", 5, 60, (64, 48)), ("phone", 10, 60, (48, 64)), ("odd_size", 10, 60, (61, 47)),
    *((f"head_says_{count}", 10, 60, (64, 48)) for count in (5000, 3, 0)),
    ("frames_30", 7, 30, (64, 48)), ("frames_3", 1, 3, (64, 48)), ("frames_1", 1, 1, (64, 48))])
def test_odd_sizes_rates_and_headers_are_sampled_rightly(odd, name, stride, frames, size):
    row, info = manifest(odd[0])["Odd", name], probe(odd[0] / "Odd" / f"{name}.avi")
    assert (int(row["stride"]), int(row["source_frames"]), int(row["frames"])) == (stride, frames, 5)
    assert (info.width, info.height, info.frames) == (*size, 5)     # as the source is shown
    wanted = [int(row["start"]) + k * stride for k in range(5)]
    assert wanted[-1] < frames or frames < 5 and row["start"] == "0"
    wanted = [min(number, frames - 1) for number in wanted]     # a very short one repeats its last frame
    if name != "phone":     # its picture is turned, and its number with it
        assert shown(odd[0], "Odd", name) == wanted


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
    make, more = (fields.add_fields, {"flow": Flow("dis")}) if work == "flow" else (sampler.sample, {})
    told = sampler.attempt(make, job, tmp_path / "out", rank=0, raw=tmp_path / "raw", rate=Rate(), seed=1,
                           count="all" if work == "all" else 5, **more)
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
