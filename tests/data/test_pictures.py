"""Pictures in class folders: read as they are shown, refused by name, trained on as clips of one frame."""
import numpy as np
import pytest
from commands import call
from PIL import Image
from runs import TINY, last_line, read_json, refused, report_of, table
from videos import write_video

from lrcn.base.cli import UserError
from lrcn.data.sampler import read_picture
from lrcn.data.sources import find_sources
from lrcn.video.reader import read_frames


def corner(wide=60, high=40):
    """Red in the upper left corner, blue in the lower right one."""
    frame = np.full((high, wide, 3), 128, np.uint8)
    frame[:high // 2, :wide // 2], frame[high // 2:, wide // 2:] = (230, 20, 20), (20, 20, 230)
    return frame


def is_upright(frame):
    high, wide = frame.shape[:2]
    return (abs(frame[high // 4, wide // 4].astype(int) - (230, 20, 20)).max() < 30
            and abs(frame[-high // 4, -wide // 4].astype(int) - (20, 20, 230)).max() < 30)


# What has to be done to a picture for a viewer that obeys each value to show it upright (EXIF 2.3, 4.6.4)
STORED = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
          5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a),
          7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, 3)}


@pytest.mark.parametrize("value", STORED)
def test_a_picture_is_turned_as_its_exif_data_say(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value    # the orientation
    stored = np.ascontiguousarray(STORED[value](corner()))
    Image.fromarray(stored).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    frame = read_picture(tmp_path / "phone.jpg")
    assert frame.shape == (40, 60, 3) and is_upright(frame)


@pytest.mark.parametrize("name, mode", [
    ("a.png", "RGBA"), ("a.png", "P"), ("a.jpg", "CMYK"), ("a.webp", "RGB"), ("a.bmp", "RGB"),
    ("a.JPEG", "RGB"), ("a.png", "L"), ("a.png", "I;16"), ("a.png", "1")])
def test_pictures_of_all_kinds_come_as_rgb(tmp_path, name, mode):
    picture = Image.fromarray(corner())
    grey = np.array(picture.convert("L"))
    picture = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
    picture.save(tmp_path / name)
    frame = read_picture(tmp_path / name)
    assert frame.shape == (40, 60, 3) and frame.dtype == np.uint8
    assert mode in ("L", "I;16", "1") or is_upright(frame)
    assert mode != "I;16" or np.array_equal(frame[:, :, 0], grey)


def test_transparent_parts_are_white_and_large_pictures_become_small(tmp_path):
    clear = np.dstack([corner(), np.zeros((40, 60), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert (read_picture(tmp_path / "clear.png") == 255).all()
    Image.fromarray(corner(3000, 1500)).save(tmp_path / "large.jpg")
    frame = read_picture(tmp_path / "large.jpg")
    assert frame.shape == (1080, 2160, 3) and is_upright(frame)


def bad_pictures(folder):
    """{file name: words of the reason} of pictures that cannot be read, made in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for name in ("cut.jpg", "cut.png", "cut.webp"):
        Image.fromarray(noise).save(folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:900])
    (folder / "words.jpg").write_text("no picture at all")
    (folder / "empty.png").touch()
    Image.new("1", (20_000, 10_000)).save(folder / "bomb.png")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    return {"bomb.png": "89 megapixels", "gone.jpg": "No such file",
            **dict.fromkeys(("cut.jpg", "cut.png", "cut.webp", "words.jpg", "empty.png"), "broken picture")}


def test_which_pictures_count(tmp_path):
    for path in ("A/1.jpg", "A/1.png", "A/deep/two.jpg", "B/3.webp", "top.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(corner()).save(tmp_path / path)
    found = find_sources(tmp_path)
    assert [(j.cls, j.video) for j in found.jobs] == [("A", "1.jpg"), ("A", "1.png"), ("B", "3")]
    assert dict(found.left_out) == {"A/deep/two.jpg": "a picture that lies deeper than its class folder",
                                    "top.jpg": "in no class folder"}
    write_video(tmp_path / "B" / "film.avi", 30)
    found = find_sources(tmp_path)
    assert [j.video for j in found.jobs] == ["film"]
    assert "3 pictures beside 1 videos are left out" in found.notes[0]
    assert dict(found.left_out)["B/3.webp"] == "a picture beside videos"
    (tmp_path / "A/deep/deeper").mkdir()
    with pytest.raises(UserError, match="no class folder with videos or pictures"):
        find_sources(tmp_path / "A" / "deep" / "deeper")


def test_pictures_are_sampled_trained_and_tested(tmp_path):
    random, raw = np.random.default_rng(1), tmp_path / "pictures"
    for part, count in (("train", 8), ("val", 3), ("test", 4)):
        for cls, color in (("Red", (220, 40, 40)), ("Blue", (40, 40, 220))):
            (raw / part / cls).mkdir(parents=True)
            for i in range(count):
                noise = random.integers(-30, 30, (48, 64, 3))
                ending = ("jpg", "png", "webp", "bmp")[i % 4]
                Image.fromarray((noise + color).astype(np.uint8)).save(raw / part / cls / f"{i}.{ending}")
    bad = bad_pictures(raw / "train" / "Red")
    out = tmp_path / "sampled"
    said = call("preprocessing_data.py", "--row_data_dir", raw, "--sampled_data_dir", out, ok=False)
    assert said.code == 1 and "parts by folder: 23 train, 6 val, 8 test" in said.out    # 7 of 37 are bad
    failed = {row["source"].rsplit("/", 1)[1]: row["reason"] for row in table(out / "failed.csv")}
    assert failed.keys() == bad.keys() and all(words in failed[name] for name, words in bad.items())
    rows = table(out / "manifest.csv")
    assert len(rows) == 30 and {row["frames"] for row in rows} == {"1"}
    frame = read_frames(next((out / "Red").glob("*.avi")), [0])[0]
    assert abs(frame.mean((0, 1)) - (220, 40, 40)).max() < 8
    assert "frozen" not in (out / "data_report" / "report.txt").read_text()
    for script in ("train.py", "tune.py"):
        refused(script, "--sampled_data_path", out, *TINY, says=("one frame", "--allow_pictures"))
    folder = last_line(call("train.py", "--sampled_data_path", out, *TINY, "--num_frames_video", 1,
                            "--readout", "none", "--epochs", 6, "--lr", 0.02, "--local_dir", tmp_path))
    metrics = read_json(report_of(folder) / "metrics.json")
    assert metrics["videos"] == 8 and metrics["top1"] == 1
    assert "frame_step" not in read_json(folder / "settings.json")
