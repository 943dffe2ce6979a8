"""Tiny synthetic videos for the tests: every frame shows its own number, in black and white blocks.

    write_video(path, frames=60, fps=25)            # the ending chooses the container
    [number_of(frame) for frame in read_frames(path, [0, 10, 20])] == [0, 10, 20]
    class_folders(folder, classes=("Jump", "Run"), videos=3)
"""
import contextlib
import functools
import http.server
import os
import struct
import threading
import wave

import cv2
import numpy as np

COLUMNS, ROWS = 4, 3    # blocks: twelve bits, numbers below 4096
CODECS = {".avi": "XVID", ".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".webm": "VP80"}


def numbered(number, width=64, height=48, grey=False):
    """Frame uint8 (height, width, 3) RGB that shows `number` as bits; coloured unless grey."""
    bits = (number >> np.arange(COLUMNS * ROWS)) & 1
    blocks = np.where(bits.reshape(ROWS, COLUMNS, 1), 235, 20).astype(np.uint8).repeat(3, axis=2)
    if not grey:
        blocks[:, :, 2] = blocks[:, :, 2] // 2 + 60
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    return np.ascontiguousarray(blocks[rows][:, columns])


def number_of(frame):
    """The number that a frame shows, however it was compressed or scaled."""
    height, width = frame.shape[:2]
    rows = ((np.arange(ROWS) + 0.5) * height / ROWS).astype(int)
    columns = ((np.arange(COLUMNS) + 0.5) * width / COLUMNS).astype(int)
    bits = frame[rows][:, columns, 0].reshape(-1) > 127
    return int((bits << np.arange(COLUMNS * ROWS)).sum())


def write_video(path, frames=60, fps=25, width=64, height=48, grey=False, codec=None):
    """A video of numbered frames (or of the given RGB frames); returns the path."""
    if isinstance(frames, int):
        frames = [numbered(i, width, height, grey) for i in range(frames)]
    height, width = frames[0].shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    fourcc = cv2.VideoWriter_fourcc(*(codec or CODECS[path.suffix]))
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, fps, (width, height))
    assert writer.isOpened(), f"OpenCV cannot write {path}"
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def class_folders(folder, classes=("Jump", "Run", "Turn"), videos=4, **options):
    """<folder>/<Class>/v_<Class>_g01_c01.avi ...: one clip a group; returns the folder."""
    for cls in classes:
        for i in range(1, videos + 1):
            write_video(folder / cls / f"v_{cls}_g{i:02d}_c01.avi", **options)
    return folder


def write_endless(path):
    """A file in which a decoder looks for the next frame for many minutes: cut off, and then zeros (a hole
    in the file, which takes no room)."""
    whole = write_video(path.with_name("whole.mkv"), 60)
    os.truncate(whole, whole.stat().st_size // 2)
    os.truncate(whole, 64 * 2**30)
    return whole.rename(path)


def write_sound(path):
    """A file with sound and no picture."""
    with open(path, "wb") as f, wave.open(f, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", "NONE"))
        sound.writeframes(bytes(16000))
    return path


def set_header_frames(path, frames):
    """Write another count of frames into an AVI's two headers, and take its index away."""
    raw = bytearray(path.read_bytes())
    for at in (48, raw.index(b"strh") + 40):
        raw[at:at + 4] = struct.pack("<I", frames)
    path.write_bytes(raw[:raw.rindex(b"idx1")])
    return path


def turn(path):
    """Mark an .mp4 as lying on its side, as phones do: its track's matrix turns it by 90 degrees."""
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"tkhd") + 44
    raw[at:at + 20] = struct.pack(">5i", 0, 1 << 16, 0, -1 << 16, 0)
    path.write_bytes(raw)
    return path


def join(path, clips, size=(160, 120)):
    """Write clips behind one another, 25 frames a second; the seconds at which each ends."""
    from lrcn.video.reader import Video, fit_frame
    from lrcn.video.writer import Writer
    ends = []
    with Writer(path, 25, *size) as out:
        for clip in clips:
            with Video(clip) as video:
                while video.grab():
                    out.write(fit_frame(video.frame(), *size))
            ends.append(out.frames / 25)
    return ends


@contextlib.contextmanager
def served(folder, lengths=True):
    """The address of a web server of the files in a folder. lengths: whether it tells them."""
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def send_header(self, name, value):
            if lengths or name != "Content-Length":
                super().send_header(name, value)
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
