"""Is text burnt into the dark surround of a photograph? Cameras write names, numbers and dates there."""

import numpy as np
from scipy import ndimage

from mdf.imaging.field import find_field

ABOVE = 45  # grey levels above the surround's own; less is noise or stray light
MARGIN = 0.015  # of the shorter side; so near to the field of view nothing is looked at
LETTER = (5, 0.08)  # height: pixels at least, share of the picture's height at most
AREA = 8  # pixels of a letter, at least
PIECES, LETTERS = 3, 4  # of like height in a line, at least; marks and notches are single, letters may touch
SLIM = 0.7  # width of a letter over its height


def text_outside_field(image: np.ndarray) -> bool | None:
    """Whether a photograph uint8 [H, W, 3] seems to have text in its surround; None where it has no dark surround.

    A line of bright pieces of like height, as wide together as four letters. Text inside the field is not found.
    """
    field = find_field(image)
    if field.share == 1:
        return None
    grey = image.max(axis=2)
    reach = max(1, round(MARGIN * min(grey.shape)))
    near = ndimage.uniform_filter(field.mask.astype(np.float32), 2 * reach + 1) > 1e-4
    if near.all():
        return None
    lit = (grey > float(np.median(grey[~near])) + ABOVE) & ~near
    pieces, count = ndimage.label(lit)
    areas = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    found = []
    for (rows, columns), area in zip(ndimage.find_objects(pieces), areas, strict=True):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if area >= AREA and LETTER[0] <= height <= LETTER[1] * len(grey) and width <= 3 * height:
            found.append(((rows.start + rows.stop) / 2, height, max(1, round(width / (SLIM * height)))))
    if not found:
        return False
    middles, heights, letters = np.array(found).T
    for middle, height in zip(middles, heights, strict=True):
        line = (np.abs(middles - middle) < 0.5 * height) & (heights > 0.5 * height) & (heights < 2 * height)
        if line.sum() >= PIECES and letters[line].sum() >= LETTERS:
            return True
    return False
