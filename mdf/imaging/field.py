"""The field of view: the round, lit part of a fundus photograph inside its dark surround."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

WORKING_SIDE = 192  # pixels; the outline is found on a copy of at most this side
DARK = 0.11  # share of the photograph's bright level; below it a pixel belongs to the surround
MIN_SURROUND = 0.015  # share of the pixels; less dark surround than this counts as none
MIN_FIELD = 0.08  # share of the pixels; a lit part smaller than this is no field
FAINTEST = 6  # grey levels; a photograph whose bright level is below is all black
DIM, FINER = 60, 4  # grey levels; below that bright level light is kept in quarters of a grey level
SHARP = 1.5  # logarithm of light inside over outside the rim; an outline this sharp is taken at once
UNSHARP = 0.3  # the same; an outline less sharp than this replaces no other
FAINT = 0.15  # the same, where the outline that it replaces is hardly an edge
SHARPER = 1.15  # times as sharp as another outline, to be taken instead of it
LEVELS = 14  # brightnesses that are tried where the first outline is not sharp
NOISE = 2.0  # grey levels added before logarithms are taken, so that noise in the dark makes no steps


@dataclass(frozen=True)
class Field:
    mask: np.ndarray  # bool [H, W], true inside the field
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom exclusive
    share: float  # of the pixels that lie inside the field, 0..1


def find_field(image: np.ndarray) -> Field:
    """Find the field of view of a photograph uint8 [H, W, 3].

    The largest lit region and its convex hull, relative to the photograph's own brightness, so that a dim photograph
    keeps its dim rim. Where that outline is not sharp (a shadow, a very dark photograph, a glow in the surround), the
    brightness is taken that gives the sharpest. A photograph without a dark surround (or all black) gives the whole
    picture.
    """
    height, width = image.shape[:2]
    factor = max(1, -(-max(height, width) // WORKING_SIDE))
    brightest = Image.fromarray(_brightest(image))
    small = brightest.reduce(factor) if factor > 1 else brightest
    gain = 1
    if factor > 1 and np.percentile(np.asarray(small), 95) < DIM:
        gain = FINER  # the mean of many pixels knows fractions of a grey level, and in the dark the rim may be no more
        small = brightest.point([min(255, value * gain) for value in range(256)]).reduce(factor)
    mask = _outline(Image.fromarray(_median(np.asarray(small))), gain)
    if mask is None:
        return _whole(height, width)
    if factor > 1:
        # reduce() rounds the size up, so the copy covers slightly more than the picture: enlarge, then cut.
        large = Image.fromarray(mask.astype(np.uint8) * 255).resize(
            (mask.shape[1] * factor, mask.shape[0] * factor), Image.Resampling.BILINEAR
        )
        mask = np.asarray(large)[:height, :width] > 127
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Field(mask, box, np.count_nonzero(mask) / mask.size)


def field_square(image: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """`image` uint8 [H, W, 3] cut to `box`, 0 outside `mask` bool [H, W], padded to a centred square [N, N, 3]."""
    left, top, right, bottom = box
    image, mask = image[top:bottom, left:right], mask[top:bottom, left:right]
    height, width = mask.shape
    side = max(height, width)
    inside = int(np.count_nonzero(mask))
    if inside == side * side:
        return image
    out = np.zeros((side, side, 3), dtype=np.uint8)
    y, x = (side - height) // 2, (side - width) // 2
    target = out[y : y + height, x : x + width]
    first, last = mask.argmax(axis=1), width - mask[:, ::-1].argmax(axis=1)
    last = np.where(mask[np.arange(height), first], last, first)  # rows without any
    if int((last - first).sum()) == inside:  # a row of the field is one run, and copying runs is fast
        for row, (start, stop) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
            target[row, start:stop] = image[row, start:stop]
    else:
        np.copyto(target, image, where=mask[:, :, None])
    return out


def _brightest(image: np.ndarray) -> np.ndarray:
    """The largest of the three channels, uint8 [H, W]: along the bytes as they lie, 4 times faster than by channel."""
    flat = np.ascontiguousarray(image).reshape(-1)
    largest = np.maximum(np.maximum(flat[:-2], flat[1:-1]), flat[2:])
    return np.ascontiguousarray(largest[::3]).reshape(image.shape[:2])


def _median(grey: np.ndarray) -> np.ndarray:
    """Median of the 3x3 pixels round each, uint8 [h, w], edges repeated: PIL's, 30 times faster.

    With the columns of three sorted, it is the median of the largest least, the median median and the least largest.
    """
    around = np.pad(grey, 1, mode="edge")
    a, b, c = around[:-2], around[1:-1], around[2:]
    least, most = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
    middle = _middle(a, b, c)
    return _middle(
        np.maximum(np.maximum(least[:, :-2], least[:, 1:-1]), least[:, 2:]),
        _middle(middle[:, :-2], middle[:, 1:-1], middle[:, 2:]),
        np.minimum(np.minimum(most[:, :-2], most[:, 1:-1]), most[:, 2:]),
    )


def _middle(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The median of three, element by element."""
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))


def _opened(mask: np.ndarray, times: int) -> np.ndarray:
    """Binary opening of bool [h, w] with a cross, `times` over: scipy's, 4 times faster."""
    for combine in (np.logical_and, np.logical_or):
        for _ in range(times):
            mask = _with_neighbours(combine, mask)
    return mask


def _with_neighbours(combine: np.ufunc, mask: np.ndarray) -> np.ndarray:
    """Each pixel of bool [h, w] combined with the four beside it; outside the picture is false."""
    p = np.pad(mask, 1)
    column = combine(combine(p[:-2, 1:-1], p[1:-1, 1:-1]), p[2:, 1:-1])
    return combine(combine(column, p[1:-1, :-2]), p[1:-1, 2:])


def _outline(small: Image.Image, gain: int) -> np.ndarray | None:
    """The field bool [h, w] on a small grey copy, `gain` times as bright; None where the whole picture is field."""
    light = np.asarray(small, dtype=np.float32) / gain
    bright = float(np.percentile(light, 95))
    if bright < FAINTEST:
        return None
    mask = _region(light, float(np.clip(DARK * bright, 6, 28)))
    smooth = np.asarray(small.filter(ImageFilter.BoxBlur(1)), dtype=np.float32) / gain
    sharpness = _sharpness(smooth, mask)
    if sharpness >= SHARP:
        return mask
    # From bright to dark, so that of outlines that are about as sharp the innermost is taken.
    for level in np.geomspace(max(4.0, 0.5 * bright), 2, LEVELS):
        other = _region(light, float(level))
        if (found := _sharpness(smooth, other)) > max(SHARPER * sharpness, UNSHARP if mask is None else FAINT):
            mask, sharpness = other, found
    return mask


def _region(light: np.ndarray, level: float) -> np.ndarray | None:
    """Hull of the largest part of [h, w] brighter than `level`; None where that is nearly all or nearly nothing."""
    lit = light > level
    if lit.mean() > 1 - MIN_SURROUND:
        return None
    labels, count = ndimage.label(lit)
    if count > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        lit = labels == sizes.argmax()
    if lit.mean() < MIN_FIELD:
        return None
    # Opening cuts off labels, tabs and reflections that touch the field before the hull is drawn round it.
    radius = max(1, round(0.02 * min(lit.shape)))
    opened = _opened(np.pad(lit, radius, mode="edge"), radius)[radius:-radius, radius:-radius]
    mask = _hull(opened if opened.any() else lit)
    return None if mask.mean() > 1 - MIN_SURROUND else mask


def _sharpness(smooth: np.ndarray, mask: np.ndarray | None) -> float:
    """How sharp an outline is: the step in light across it that nine tenths of its length exceed.

    A step is the logarithm of the brightest over the darkest of the 5x5 pixels round a pixel of the rim. `smooth` is
    the light in grey levels [h, w]. 0 where no outline lies inside the picture.
    """
    if mask is None:
        return 0.0
    inner = mask[2:-2, 2:-2]  # at the very edge of the picture nothing is seen of the outside
    rows, columns = np.nonzero(inner & ~_with_neighbours(np.logical_and, mask)[2:-2, 2:-2])
    if not rows.size:
        return 0.0
    around = sliding_window_view(smooth, (5, 5))[rows, columns].reshape(len(rows), 25)
    steps = np.log((around.max(axis=1) + NOISE) / (around.min(axis=1) + NOISE))
    return float(np.percentile(steps, 10))


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
