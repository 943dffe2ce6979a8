"""Odd films through the scripts: sampled and labelled at their times; what is no film is listed at once."""
import os
import socket

import numpy as np
import pytest
from commands import run
from runs import table
from videos import write_video
from zoo import make, times_of

from tests.scripts.test_preprocessing import manifest, shown

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
