"""The field of view: the round, lit part of a fundus photograph inside its dark surround."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

WORKING_SIDE = 192  # pixels; the outline is found on a copy of at most this side
DARK = 0.11  # share of the photograph's bright level; below it a pixel belongs to the surround
MIN_SURROUND = 0.015  # share of the pixels; less dark surround than this counts as none
MIN_FIELD = 0.08  # share of the pixels; a lit part smaller than this is no field


@dataclass(frozen=True)
class Field:
    mask: np.ndarray  # bool [H, W], true inside the field
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom exclusive
    share: float  # of the pixels that lie inside the field, 0..1


def find_field(image: np.ndarray) -> Field:
    """Find the field of view of a photograph uint8 [H, W, 3].

    The largest lit region and its convex hull, relative to the photograph's own brightness, so that a dim photograph
    keeps its dim rim. A photograph without a dark surround (or all black) gives the whole picture.
    """
    height, width = image.shape[:2]
    factor = max(1, -(-max(height, width) // WORKING_SIDE))
    light = np.maximum(np.maximum(image[:, :, 0], image[:, :, 1]), image[:, :, 2])
    small = Image.fromarray(light)
    light = np.asarray((small.reduce(factor) if factor > 1 else small).filter(ImageFilter.MedianFilter(3)))
    bright = float(np.percentile(light, 95))
    lit = light > np.clip(DARK * bright, 6, 28)
    if bright < 12 or lit.mean() > 1 - MIN_SURROUND:
        return _whole(height, width)
    labels, count = ndimage.label(lit)
    if count > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        lit = labels == sizes.argmax()
    if lit.mean() < MIN_FIELD:
        return _whole(height, width)
    # Opening cuts off labels, tabs and reflections that touch the field before the hull is drawn round it.
    radius = max(1, round(0.02 * min(lit.shape)))
    opened = ndimage.binary_opening(np.pad(lit, radius, mode="edge"), iterations=radius)[radius:-radius, radius:-radius]
    mask = _hull(opened if opened.any() else lit)
    if mask.mean() > 1 - MIN_SURROUND:
        return _whole(height, width)
    if factor > 1:
        # reduce() rounds the size up, so the copy covers slightly more than the picture: enlarge, then cut.
        large = Image.fromarray(mask.astype(np.uint8) * 255).resize(
            (mask.shape[1] * factor, mask.shape[0] * factor), Image.Resampling.BILINEAR
        )
        mask = np.asarray(large)[:height, :width] > 127
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Field(mask, box, float(mask.mean()))


def _whole(height: int, width: int) -> Field:
    return Field(np.ones((height, width), dtype=bool), (0, 0, width, height), 1.0)


def _hull(mask: np.ndarray) -> np.ndarray:
    """Convex hull of a bool [H, W], as the same."""
    rows = np.flatnonzero(mask.any(axis=1))
    left = mask[rows].argmax(axis=1)
    right = mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    outline = _chain(np.column_stack([left, rows])) + _chain(np.column_stack([right, rows])[::-1])
    canvas = Image.new("1", (mask.shape[1], mask.shape[0]))
    if len(outline) > 2:
        ImageDraw.Draw(canvas).polygon([(int(x), int(y)) for x, y in outline], fill=1, outline=1)
    return np.array(canvas) | mask


def _chain(points: np.ndarray) -> list[tuple[int, int]]:
    """The convex part of one side of an outline, points in order along it (monotone chain)."""
    chain: list[tuple[int, int]] = []
    for x, y in points.tolist():
        while len(chain) > 1:
            (ax, ay), (bx, by) = chain[-2], chain[-1]
            if (bx - ax) * (y - ay) - (by - ay) * (x - ax) < 0:
                break
            chain.pop()
        chain.append((x, y))
    return chain
