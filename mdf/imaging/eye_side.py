"""Left or right eye, from the photograph alone: rules about disc, vessels and fovea, no learning.

In a photograph of a right eye the disc lies to the right of the fovea. Positions are in half widths of the field, x
from -1 to 1.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from mdf.imaging.field import Field, find_field
from mdf.imaging.retina_maps import SIDE, SPOT_SIGMA, RetinaMaps, draw_maps, field_copy, running_to

HALF = SIDE / 2  # pixels; half the field's width, the unit of positions
RIM = 6  # pixels along the rim in which no disc and no fovea is looked for
BESIDE, HALF_WAY = 0.25, 0.2  # a disc less far beside and above or below the middle lies in it; its place tells no side
FOVEA_ACROSS, FOVEA_DOWN = (0.55, 1.1), (-0.1, 0.3)  # from the disc to the fovea, at least and at most
# Strength at which an evidence counts half of what it can: of a bright spot, of upright vessels, of a dark spot; and
# density of vessels at which a dark spot counts half as fovea.
SPOT, TRUNKS, PIT, FEW_VESSELS = 0.04, 0.008, 0.02, 0.004
FOVEA = 0.5  # weight of the fovea beside the disc
# A disc lies in the middle where the best spot there is at least so good as one beside, and vessels run to no place as
# much as to the middle.
AS_GOOD, RUNNING = 0.8, 0.004
ARCADES, CUP = 0.05, 0.05  # offsets that count as clear
# Strength from which on a side is given, of a disc beside and one in the middle. Chosen on ODIR-5K, see docs/data.md.
SURE_BESIDE, SURE_MIDDLE = 0.23, 0.2
SURE_LOGIT = 2.0  # logarithm of the odds at that strength


@dataclass(frozen=True)
class EyeSide:
    side: Literal["left", "right"] | None  # None where it is not sure
    confidence: float  # 0.5..1, of the likelier side; 0.5 is a guess


@dataclass(frozen=True)
class Evidence:
    """What speaks for an eye: positive for the right, negative for the left."""

    in_middle: bool  # the disc lies in the middle
    unclear: bool  # something like a disc lies in the middle, but vessels do not run to it
    beside: float  # how much better the best disc on the right, with a fovea, is than the best one on the left
    arcades: float  # how far the vessels above and below a disc in the middle lie to its left, on average
    cup: float  # how far the brightest part of a disc in the middle lies to the left of its vessels


def eye_side(image: np.ndarray, found: Field | None = None) -> EyeSide:
    """Tell the eye that a fundus photograph uint8 [H, W, 3] shows, or that it cannot be told.

    Where the disc lies beside the middle, its place decides: the brightest spot with upright vessels that has a dark
    spot where the fovea would be. Where it lies in the middle, what leaves it does: arcades bend towards the fovea, and
    the cup lies on the fovea's side of the vessels. The photograph must be upright and not mirrored.
    """
    pixels, field = field_copy(image, found or find_field(image))
    return judge(weigh(draw_maps(pixels, field)))


def judge(evidence: Evidence) -> EyeSide:
    if evidence.in_middle:
        strength = (np.tanh(evidence.arcades / ARCADES) + np.tanh(evidence.cup / CUP)) / SURE_MIDDLE
    else:
        strength = evidence.beside / SURE_BESIDE * (0.5 if evidence.unclear else 1)
    confidence = float(1 / (1 + np.exp(-abs(strength) * SURE_LOGIT)))
    if abs(strength) < 1:
        return EyeSide(None, confidence)
    return EyeSide("right" if strength > 0 else "left", confidence)


def weigh(maps: RetinaMaps) -> Evidence:
    """Find disc and fovea and collect what tells the side."""
    x, y = maps.x, maps.y
    inside = ndimage.binary_erosion(maps.field, iterations=RIM)
    likely = inside * np.exp(-(np.clip(np.abs(y) - 0.2, 0, None) ** 2) / (2 * 0.25**2))  # discs lie half-way up
    bright = np.clip(maps.spot, 0, None)
    trunks = ndimage.gaussian_filter(maps.line * (1 - maps.turn[0]) / 2, (12, 5))
    bright, trunks = bright / (bright + SPOT), trunks / (trunks + TRUNKS)
    vessels = ndimage.gaussian_filter(maps.line, SPOT_SIGMA)
    fovea = maps.pit * inside / (maps.pit + PIT) * FEW_VESSELS / (vessels + FEW_VESSELS)
    right, left, middle = x > BESIDE, x < -BESIDE, np.abs(x) <= BESIDE

    disc = (bright + trunks) * likely
    on_right, on_left = (np.where(zone, disc, 0).max() for zone in (right, left))
    with_fovea = (
        np.where(zone, disc + FOVEA * _across(fovea, side) * likely, 0).max() for zone, side in ((right, 1), (left, -1))
    )
    beside = float(np.subtract(*with_fovea)) * float(max(on_right, on_left))

    both, running = bright * trunks * likely, running_to(maps.line, maps.turn, maps.field) * likely
    at_middle = both[middle].max() / max(both[right | left].max(), 1e-6)
    runs_there = running[middle].max() > max(running[right | left].max(), RUNNING)
    place = np.where(middle, both, -1).argmax()
    arcades, cup = _around(maps, float(x.flat[place]), float(y.flat[place]))
    in_middle = bool(at_middle > AS_GOOD and runs_there and abs(y.flat[place]) <= HALF_WAY)
    return Evidence(in_middle, bool(at_middle > 1 and not in_middle), beside, arcades, cup)


def _around(maps: RetinaMaps, x: float, y: float) -> tuple[float, float]:
    """Arcades and cup of a disc at x, y, see Evidence."""
    dx, dy = maps.x - x, maps.y - y
    beyond = (np.abs(dy) > 0.35) & (np.abs(dx) < 0.6) & ndimage.binary_erosion(maps.field, iterations=3)
    near = (np.hypot(dx, dy) < 0.25) & maps.field
    fine = ndimage.gaussian_filter(maps.even_light, 2)
    cup = np.clip(fine - np.quantile(fine[near], 0.7), 0, None) * near if near.any() else near
    upright = maps.line * (1 - maps.turn[0]) / 2
    return _mean(dx, beyond) - _mean(dx, maps.line * beyond), _mean(dx, upright * near) - _mean(dx, cup)


def _across(fovea: np.ndarray, side: int) -> np.ndarray:
    """At each pixel the best fovea for a disc there: on its left in a right eye (side 1), on its right in a left."""
    (nearest, furthest), (highest, lowest) = FOVEA_ACROSS, FOVEA_DOWN
    window = (round((lowest - highest) * HALF), round((furthest - nearest) * HALF))
    middle = (round((lowest + highest) / 2 * HALF), round((nearest + furthest) / 2 * HALF))
    best = ndimage.maximum_filter(fovea, size=window, mode="constant")
    return ndimage.shift(best, (-middle[0], side * middle[1]), order=0, mode="constant")


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    total = float(weights.sum())
    return float((values * weights).sum() / total) if total > 0 else 0.0
