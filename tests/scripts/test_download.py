"""download_ucf101.sh against a server on this machine, with archives of a few bytes."""
import os
import shutil
import subprocess
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "download_ucf101.sh"
TOOLS = ("unar", "7z", "bsdtar")
# What stands in for them where none is there: both archives of these tests are zip files.
BSDTAR = """#!/bin/sh
[ $1 = -tf ] && exec unzip -Z1 "$2"
exec unzip -qo "$2" -d "$4"
"""
VIDEOS = [f"{cls}/v_{cls}_g0{g}_c01.avi" for cls in ("Archery", "Surfing") for g in (1, 2)]
RAR, ZIP = "UCF101.rar", "UCF101TrainTestSplits-RecognitionTask.zip"


@pytest.fixture
def server(tmp_path):
    """A server of tmp_path/www with both archives; .requests: (name, range) of every GET."""
    www = tmp_path / "www"
    www.mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.reply(head=True)

        def do_GET(self):
            self.server.requests.append((self.path[1:], self.headers.get("Range")))
            self.reply(head=False)

        def reply(self, head):
            path = www / self.path[1:]
            if not path.is_file():
                return self.send_error(404)
            data, start = path.read_bytes(), 0
            if self.headers.get("Range") and self.server.ranges:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                if start >= len(data):
                    return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if not head:
                self.wfile.write(data[start:])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.requests, httpd.www, httpd.ranges = [], www, True
        write_archives(www)
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield httpd
        httpd.shutdown()


def write_archives(www, videos=VIDEOS, extra=()):
    """The two archives as zip files, which all the tools read whatever the name says."""
    with zipfile.ZipFile(www / RAR, "w") as archive:
        for name in videos:
            archive.writestr(f"UCF-101/{name}", os.urandom(2000))
        for name in extra:
            archive.writestr(name, "bad")
    with zipfile.ZipFile(www / ZIP, "w") as archive:
        for n in (1, 2, 3):
            archive.writestr(f"ucfTrainTestlist/trainlist0{n}.txt", f"{VIDEOS[0]} 1\r\n{VIDEOS[2]} 2\r\n")
            archive.writestr(f"ucfTrainTestlist/testlist0{n}.txt", f"{VIDEOS[1]}\r\n{VIDEOS[3]}\r\n")


def programs(tmp_path, without=(), only=None):
    """A PATH with what the script needs, and of the unpacking tools `only` one, or none of `without`."""
    folder = tmp_path / f"bin-{only}-{len(without)}"
    folder.mkdir(exist_ok=True)
    needed = ["bash", "awk", "cat", "curl", "find", "grep", "head", "ls", "lsar", "mkdir", "mktemp", "mv",
              "rm", "sed", "sort", "tail", "tr", "uname", "unzip", "wc"]
    for name in [*needed, *([only] if only else TOOLS)]:
        found = shutil.which(name)
        if found and name not in without and not (folder / name).exists():
            (folder / name).symlink_to(found)
    return str(folder)


def download(server, folder, path=None, videos=4, classes=2):
    env = {**os.environ, "UCF101_URL": f"http://127.0.0.1:{server.server_port}", "UCF101_VIDEOS": str(videos),
           "UCF101_CLASSES": str(classes), "no_proxy": "127.0.0.1"}
    if path:
        env["PATH"] = path
    elif not any(shutil.which(tool) for tool in TOOLS):
        stand_in = server.www.parent / "tools" / "bsdtar"
        stand_in.parent.mkdir(exist_ok=True)
        stand_in.write_text(BSDTAR)
        stand_in.chmod(0o755)
        env["PATH"] += f":{stand_in.parent}"
    return subprocess.run([shutil.which("bash"), str(SCRIPT), str(folder)], env=env, capture_output=True,
                          text=True, timeout=60)


@pytest.mark.parametrize("tool", TOOLS)
def test_fetches_unpacks_and_verifies_with_each_tool(server, tmp_path, tool):
    if not shutil.which(tool):
        pytest.skip(f"needs {tool}")
    done = download(server, tmp_path / "data", programs(tmp_path, only=tool))
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / "data" / "UCF-101" / name).stat().st_size == 2000 for name in VIDEOS)
    assert (tmp_path / "data" / "ucfTrainTestlist" / "testlist03.txt").is_file()
    assert not list((tmp_path / "data").glob("*.unpacking"))
    assert f"with {tool}" in done.stdout


@pytest.mark.parametrize("left, ranges, asked", [
    (lambda whole: whole[:3000], True, ["bytes=3000-"]), (lambda whole: whole, True, []),
    (lambda whole: b"the beginning", False, ["bytes=13-", None]), (lambda whole: whole * 3, True, [None])])
def test_a_broken_download_goes_on_where_it_was_or_is_fetched_anew(server, tmp_path, left, ranges, asked):
    server.ranges, whole = ranges, (server.www / RAR).read_bytes()
    (tmp_path / f"{RAR}.part").write_bytes(left(whole))
    done = download(server, tmp_path)
    assert done.returncode == 0, done.stderr
    assert [part for name, part in server.requests if name == RAR][-len(asked):] == asked
    assert (tmp_path / RAR).read_bytes() == whole
    server.requests.clear()     # a second run does nothing
    again = download(server, tmp_path)
    assert again.returncode == 0 and server.requests == [] and "unpacking" not in again.stdout


@pytest.mark.parametrize("name", ["../outside.avi", "/tmp/outside.avi", "UCF-101/../../outside.avi"])
def test_members_that_leave_the_folder_are_refused_before_anything_is_unpacked(server, tmp_path, name):
    write_archives(server.www, extra=[name])
    done = download(server, tmp_path / "data")
    assert done.returncode == 1
    assert "refused" in done.stderr.splitlines()[-1] and name in done.stderr.splitlines()[-1]
    assert not (tmp_path / "data" / "UCF-101").exists() and not (tmp_path / "outside.avi").exists()


def test_an_archive_with_a_link_is_refused(server, tmp_path):
    (tmp_path / "elsewhere" / "UCF-101").mkdir(parents=True)
    link = zipfile.ZipInfo("UCF-101")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(server.www / RAR, "w") as archive:
        archive.writestr(link, "../../elsewhere/UCF-101")
    done = download(server, tmp_path / "data")
    assert done.returncode == 1 and "is a link" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "data" / "UCF-101").exists()


def test_says_what_to_install_where_nothing_unpacks(server, tmp_path):
    done = download(server, tmp_path / "data", programs(tmp_path, without=TOOLS))
    assert done.returncode == 1 and "unrar unar 7z bsdtar" in done.stderr
    assert RAR not in [name for name, _ in server.requests], "said before the long download"


def test_missing_videos_are_counted(server, tmp_path):
    write_archives(server.www, videos=VIDEOS[:3])
    done = download(server, tmp_path / "data")
    assert done.returncode == 1 and "3 videos of 2 classes" in done.stderr
    listed = download(server, tmp_path / "data", videos=3)
    assert listed.returncode == 1 and f"1 listed videos are missing, such as {VIDEOS[3]}" in listed.stderr
