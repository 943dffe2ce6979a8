"""Contact sheets: the clips of a class side by side, to be looked at before they are learned.

    contact_sheet("Jump.png", "Jump: 25 clips", [(frame, "kitchen_1", ""), (frame, "yard_2", "black")])
"""
import numpy as np

from lrcn.drawing import style
from lrcn.drawing.labels import fit_frame, put_text

WIDE, HIGH, GAP, COLUMNS = 160, 120, 8, 5
TEXT, TITLE = 11, 16        # pixels
INK, PAPER = (24, 24, 24), 255


def contact_sheet(path, title, tiles):
    """tiles: [(frame uint8 (H, W, 3) RGB or None, caption, mark)]; a marked tile has a red border, and the
    mark in the place of its caption's second line.

    Returns uint8 (H, W, 3) RGB; path None writes nothing.
    """
    columns, row = min(COLUMNS, max(3, len(tiles))), HIGH + 2 * TEXT + 12
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * row + TITLE + 3 * GAP, columns * (WIDE + GAP) + GAP, 3), PAPER, np.uint8)
    put_text(sheet, title, GAP, GAP // 2, sheet.shape[1] - 2 * GAP, TITLE, INK)
    for i, (frame, caption, mark) in enumerate(tiles):
        x, y = GAP + i % columns * (WIDE + GAP), TITLE + 2 * GAP + i // columns * row
        if mark:
            sheet[y - 3:y + HIGH + 3, x - 3:x + WIDE + 3] = style.WRONG
        sheet[y:y + HIGH, x:x + WIDE] = 0 if frame is None else fit_frame(frame, WIDE, HIGH)
        caption, _, second = caption.partition("\n")
        put_text(sheet, caption, x, y + HIGH + 3, WIDE, TEXT, INK)
        put_text(sheet, mark or second, x, y + HIGH + 5 + TEXT, WIDE, TEXT, style.WRONG if mark else INK)
    style.write_picture(path, sheet)
    return sheet
