"""Is text burnt into the dark surround of a photograph? Cameras write names, numbers and dates there."""

import numpy as np
from scipy import ndimage

from mdf.imaging.field import find_field

ABOVE = 45  # grey levels above the surround's own; less is noise or stray light
MARGIN = 0.015  # of the shorter side; so near to the field of view nothing is looked at
LETTER = (5, 0.08)  # height: pixels at least, share of the picture's height at most
AREA = 8  # pixels of a letter, at least
IN_A_LINE = 4  # letters of like height beside each other; marks and notches are single


def text_outside_field(image: np.ndarray) -> bool | None:
    """Whether a photograph uint8 [H, W, 3] seems to have text in its surround; None where it has no dark surround.

    A line of at least four bright pieces of like height. Text inside the field of view is not found.
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
    middles, heights = [], []
    for (rows, columns), area in zip(ndimage.find_objects(pieces), areas, strict=True):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if area >= AREA and LETTER[0] <= height <= LETTER[1] * len(grey) and width <= 3 * height:
            middles.append((rows.start + rows.stop) / 2)
            heights.append(height)
    y, h = np.array(middles), np.array(heights, dtype=float)
    return any(
        int(((np.abs(y - middle) < 0.5 * height) & (h > 0.5 * height) & (h < 2 * height)).sum()) >= IN_A_LINE
        for middle, height in zip(middles, heights, strict=True)
    )
