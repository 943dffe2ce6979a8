"""Pictures as clips of one frame: the data set of an image classifier of actions.

    frame = read_picture("Jump/holiday.jpg")        # uint8 (H, W, 3) RGB, as it is shown
    is_picture("Jump/holiday.jpg")

A picture is turned as its EXIF data say, and its short side is at most 1,080 pixels then, as that of a film
is. One that is broken, or larger than Pillow thinks safe (89 megapixels), is refused by a VideoError before
its pixels take any memory.
"""
import os
import warnings

import numpy as np

from lrcn.base.lazy import Lazy
from lrcn.video.reader import VideoError

Image = Lazy("PIL.Image")
ImageOps = Lazy("PIL.ImageOps")
cv2 = Lazy("cv2")

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")        # of the file itself, whatever its ending
SHORT_SIDE = 1080


def is_picture(path):
    return os.path.splitext(path)[1].lower() in PICTURES


def read_picture(path):
    """uint8 (H, W, 3) RGB; transparent parts are white. VideoError: the reason, one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                frame = _as_rgb(ImageOps.exif_transpose(picture))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise VideoError(f"more than {Image.MAX_IMAGE_PIXELS // 1_000_000} megapixels are not read") from None
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | PermissionError)
        raise VideoError(error.strerror if missing else "a broken picture, or none") from None
    except Exception as error:      # Pillow's decoders raise almost anything for a broken file
        raise VideoError(f"a broken picture ({' '.join(str(error).split())[:80]})") from None
    scale = SHORT_SIDE / min(frame.shape[:2])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in frame.shape[1::-1]]
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return frame


def _as_rgb(picture):
    """The pixels of a Pillow picture of any mode."""
    if picture.mode.startswith("I"):    # 16 bits a pixel, which convert() would clip at 255
        grey = np.asarray(picture).astype(np.float32)
        grey = (grey / 257 if grey.max() > 255 else grey).clip(0, 255).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, 2)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.array(picture.convert("RGB"))
