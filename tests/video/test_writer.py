"""Films and clips are written whole or not at all, and read back at their size, rate and length."""
import numpy as np
import pytest
from videos import numbered

from lrcn.video import avi
from lrcn.video.reader import probe, read_frames
from lrcn.video.writer import Writer, write_clip


@pytest.mark.parametrize("width, height", [(64, 48), (33, 25), (1, 1), (48, 90)])
def test_a_motion_jpeg_file_reads_back_at_its_size_rate_and_length(tmp_path, width, height):
    frames = [np.full((height, width, 3), (20 * i, 90, 200), np.uint8) for i in range(5)]
    assert write_clip(tmp_path / "clip.avi", iter(frames), 29.97 / 12) == 5
    info = probe(tmp_path / "clip.avi")
    assert (info.frames, info.width, info.height) == (5, width, height)
    assert info.fps == pytest.approx(29.97 / 12, rel=1e-5)
    difference = read_frames(tmp_path / "clip.avi", range(5)).astype(int) - np.stack(frames)
    assert abs(difference).max() <= 3
    raw = (tmp_path / "clip.avi").read_bytes()
    for size, count in ((0, None), (20, None), (224, None), (len(raw) - 1, None), (len(raw), 5)):
        (tmp_path / "clip.avi").write_bytes(raw[:size])     # one that is cut off is seen
        assert avi.frames_in(tmp_path / "clip.avi") == count
    assert avi.frames_in(tmp_path / "none.avi") is None


def test_the_same_frames_give_the_same_file_on_any_machine(tmp_path):
    for name in ("one.mp4", "two.mp4"):
        with Writer(tmp_path / name, 25, 640, 480) as out:
            for i in range(15):
                out.write(numbered(i, 640, 480))
    raw = (tmp_path / "one.mp4").read_bytes()
    assert raw == (tmp_path / "two.mp4").read_bytes()
    # The encoder says what it did: mbtree is seldom seen to differ, and threads follow the cores.
    assert b" mbtree=0 " in raw and b" threads=4 " in raw


@pytest.mark.parametrize("name", ["film.mp4", "film.avi"])
def test_a_film_is_whole_or_absent(tmp_path, name):
    with pytest.raises(KeyError), Writer(tmp_path / name, 25, 64, 48) as out:
        out.write(numbered(1))
        raise KeyError
    with Writer(tmp_path / name, 25, 64, 48):
        pass    # not one frame
    assert list(tmp_path.iterdir()) == []
    out = Writer(tmp_path / name, 25, 64, 48)
    out.write(numbered(1))
    assert not (tmp_path / name).exists()
    out.close()
    out.close()
    assert [p.name for p in tmp_path.iterdir()] == [name] and probe(tmp_path / name).frames == 1


def test_a_clip_is_whole_or_absent(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_clip(tmp_path / "clip.avi", [], 2.5)
    with pytest.raises(ValueError, match="odd"):
        Writer(tmp_path / "film.mp4", 25, 63, 48)
    with pytest.raises(ValueError, match="48 x 64 x 3"), Writer(tmp_path / "film.mp4", 25, 64, 48) as out:
        out.write(numbered(0, 32, 32))
    with pytest.raises(KeyError):
        write_clip(tmp_path / "clip.avi", (numbered(i) if i < 3 else {}[i] for i in range(5)), 2.5)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="No space"), Writer(tmp_path / "film.mp4", 25, 64, 48) as out:
        out.write(numbered(0))
        # What a muxer leaves, without a word, when the disk has no room for the file's end.
        real = out._out

        class Cut:
            mux = real.mux

            def close(self):
                real.close()
                out._temporary.write_bytes(out._temporary.read_bytes()[:50])
        out._out = Cut()
    assert list(tmp_path.iterdir()) == []
