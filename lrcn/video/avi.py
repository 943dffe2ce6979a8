"""Motion JPEG in AVI files: frames are written one by one, and read by their numbers."""
import errno
import os
import struct
from fractions import Fraction

import numpy as np

from lrcn.base.lazy import Lazy

cv2 = Lazy("cv2")

EMPTY = 8   # bytes of a chunk without a picture: the one before it stays
INDEX = [("id", "S4"), ("flags", "<u4"), ("offset", "<u4"), ("size", "<u4")]


class Writer:
    """4.5 times as fast as OpenCV's writer, and it reports every error. stream: a seekable binary file;
    release() writes the head's sizes, by which frames_in() knows a whole file."""

    HEAD = 224
    LIMIT = 2 ** 32 - 2 ** 24

    def __init__(self, stream, fps, width, height):
        self.stream, self.rate = stream, Fraction(fps).limit_denominator(100000)
        self.size, self.entries = (width, height), []   # (offset, size) of every frame
        stream.write(bytes(self.HEAD))

    def write(self, image):
        """image: uint8 (H, W, 3) BGR."""
        ok, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        if not ok:
            raise ValueError("a frame cannot be encoded as JPEG")
        length = len(jpeg) + len(jpeg) % 2
        if self.stream.tell() + length + 16 * len(self.entries) > self.LIMIT:
            raise OSError(errno.EFBIG, "more than an AVI file can hold (4 GB)")
        self.entries.append((self.stream.tell() - self.HEAD + 4, len(jpeg)))
        self.stream.write(struct.pack("<4sI", b"00dc", len(jpeg)))
        self.stream.write(jpeg.tobytes())
        self.stream.write(bytes(len(jpeg) % 2))

    def again(self, number):
        """Repeat the frame of this number, by an entry of the index."""
        self.entries.append(self.entries[number])

    def release(self):
        """Write the index and the head."""
        movi = self.stream.tell() - self.HEAD + 4
        index = [struct.pack("<4sIII", b"00dc", 0x10, *entry) for entry in self.entries]
        self.stream.write(struct.pack("<4sI", b"idx1", 16 * len(index)) + b"".join(index))
        total = self.stream.tell() - 8
        count, largest = len(self.entries), max((size for _, size in self.entries), default=0)
        (width, height), rate = self.size, self.rate
        avih = struct.pack("<14I", round(1e6 / rate), 0, 0, 0x10, count, 0, 1, largest, width, height,
                           0, 0, 0, 0)
        strh = struct.pack("<4s4s10I4H", b"vids", b"MJPG", 0, 0, 0, rate.denominator, rate.numerator,
                           0, count, largest, 0xFFFFFFFF, 0, 0, 0, width, height)
        strf = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", width * height * 3, 0, 0, 0, 0)
        strl = b"strl" + _chunk(b"strh", strh) + _chunk(b"strf", strf)
        hdrl = b"hdrl" + _chunk(b"avih", avih) + _chunk(b"LIST", strl)
        head = struct.pack("<4sI4s", b"RIFF", total, b"AVI ") + _chunk(b"LIST", hdrl)
        head += struct.pack("<4sI4s", b"LIST", movi, b"movi")
        self.stream.seek(0)
        self.stream.write(head)
        self.stream.flush()


def _chunk(name, content):
    return struct.pack("<4sI", name, len(content)) + content


def pictures(path, numbers):
    """[uint8 (H, W)] of grey frames by number of a file that Writer finished; each is decoded once.
    ValueError: there is no such frame, or the file is damaged."""
    coded = jpegs(path, numbers)
    decoded = {jpeg: cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE) for jpeg in set(coded)}
    if any(picture is None for picture in decoded.values()):
        raise ValueError("a frame cannot be decoded")
    return [decoded[jpeg] for jpeg in coded]


def jpegs(path, numbers):
    """[bytes of a JPEG file] of such frames. ValueError as above."""
    found = []
    with open(path, "rb") as f:
        start, head = Writer.HEAD - 4, f.read(Writer.HEAD)
        if len(head) < Writer.HEAD or (head[:4], head[-12:-8], head[-4:]) != (b"RIFF", b"LIST", b"movi"):
            raise ValueError("not a file of this writer, or not a whole one")
        f.seek(start + struct.unpack("<I", head[-8:-4])[0])
        name, size = struct.unpack("<4sI", f.read(8).ljust(8))
        entries = np.frombuffer(f.read(min(size, 16 * (max(numbers) + 1)) // 16 * 16), INDEX)
        if name != b"idx1" or len(entries) <= max(numbers):
            raise ValueError("too few frames")
        if (entries["size"] <= EMPTY).any():
            raise ValueError("frames are left out, so that their numbers are not those of the chunks")
        for _, _, offset, size in entries[list(numbers)].tolist():
            f.seek(start + offset)
            if f.read(8) != struct.pack("<4sI", b"00dc", size):
                raise ValueError("a frame is not where the index has it")
            found.append(f.read(size))
    return found


def frames_in(path):
    """The count of frames in a file that Writer finished; None: it is missing or cut off."""
    try:
        with open(path, "rb") as f:
            head, size = f.read(52), os.fstat(f.fileno()).st_size
    except OSError:
        return None
    if len(head) < 52 or head[:4] != b"RIFF" or struct.unpack("<I", head[4:8])[0] != size - 8:
        return None
    return struct.unpack("<I", head[48:52])[0]
