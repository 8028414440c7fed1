"""What rules about a retina look at: its vessels and its bright and dark spots, on a copy of one size."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage, signal

from mdf.imaging.field import Field

SIDE = 160  # pixels; the longer side of the field's box, so that a vessel or a disc has about the same size in all
VESSEL_SIGMAS = (1.5, 2.5)  # pixels; about half the width of a small and of a large vessel
STRONGEST = 0.12  # a line darker than this counts no more, so that a shadow's edge does not outweigh vessels
RIM = 3  # pixels along the field's rim in which no vessels are looked for
SPOT_SIGMA, ROUND_SPOT_SIGMA = 5, 14  # pixels; half a disc, and what is compared with it
EVEN_SIGMA = 20  # pixels; over this distance light is made even


@dataclass(frozen=True)
class RetinaMaps:
    """float32 [SIDE, SIDE] unless said, with the field's box in the middle."""

    field: np.ndarray  # bool
    x: np.ndarray  # -1 at the left to 1 at the right
    y: np.ndarray  # -1 at the top to 1 at the bottom
    even_green: np.ndarray  # green over its mean in the neighbourhood
    even_light: np.ndarray  # the same of red and green together, in which discs are bright
    line: np.ndarray  # how much a pixel looks like part of a vessel, >= 0
    turn: tuple[np.ndarray, np.ndarray]  # cosine and sine of twice the vessel's angle: 1, 0 for one that lies
    spot: np.ndarray  # how much brighter an area as large as a disc is than its neighbourhood
    pit: np.ndarray  # how much darker such an area is in green, as a fovea is, >= 0


def field_copy(image: np.ndarray, found: Field) -> tuple[np.ndarray, np.ndarray]:
    """The field's box in the middle of uint8 [SIDE, SIDE, 3], and its mask bool [SIDE, SIDE]."""
    left, top, right, bottom = found.box
    scale = SIDE / max(right - left, bottom - top)
    width, height = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    way = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    pixels, mask = np.zeros((SIDE, SIDE, 3), dtype=np.uint8), np.zeros((SIDE, SIDE), dtype=bool)
    y, x = (SIDE - height) // 2, (SIDE - width) // 2
    inside = found.mask[top:bottom, left:right].astype(np.uint8) * 255
    cut = Image.fromarray(image[top:bottom, left:right]).resize((width, height), way)
    pixels[y : y + height, x : x + width] = np.asarray(cut)
    mask[y : y + height, x : x + width] = np.asarray(Image.fromarray(inside).resize((width, height), way)) > 127
    return pixels, mask


def blur(values: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean of `values` [h, w] over the pixels inside `mask` alone."""
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    return ndimage.gaussian_filter(values * mask, sigma) / np.maximum(weight, 1e-3)


def draw_maps(pixels: np.ndarray, field: np.ndarray) -> RetinaMaps:
    """The maps of what `field_copy` gives."""
    values = pixels.astype(np.float32)
    green, light = values[:, :, 1], (values[:, :, 1] + 0.5 * values[:, :, 0]) / 1.5
    even_green, even_light = even_out(green, field), even_out(light, field)
    inside = ndimage.binary_erosion(field, iterations=RIM)
    line, turn = dark_lines(even_green, inside)
    spot = _spot(even_light, field) * inside
    pit = np.clip(-_spot(even_green, field), 0, None) * inside
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    middle = (SIDE - 1) / 2
    x, y = (x - middle) / (SIDE / 2), (y - middle) / (SIDE / 2)
    return RetinaMaps(field, x, y, even_green, even_light, line, turn, spot, pit)


def dark_lines(even: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """`line` and `turn` of RetinaMaps, from the `even` light of a channel, in the pixels `inside`."""
    line, turn = np.zeros_like(even), (np.zeros_like(even), np.zeros_like(even))
    for sigma in VESSEL_SIGMAS:
        xx, yy, xy = (
            ndimage.gaussian_filter(even, sigma, order=order) * sigma**2 for order in ((0, 2), (2, 0), (1, 1))
        )
        # Second derivatives across and along: a dark line has a large one across and none along, a blob has both.
        middle, half = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
        strength = np.clip(middle + half - np.abs(middle - half), 0, STRONGEST) * inside
        along = (yy - xx) / 2 / np.maximum(half, 1e-6), -xy / np.maximum(half, 1e-6)
        turn = np.where(strength > line, along[0], turn[0]), np.where(strength > line, along[1], turn[1])
        line = np.maximum(line, strength)
    return line, turn


def running_to(line: np.ndarray, turn: tuple[np.ndarray, np.ndarray], field: np.ndarray) -> np.ndarray:
    """[SIDE, SIDE]: how much of the area round each pixel, 10 to 50 pixels away, is vessels that run straight to it.

    `line` and `turn` as in RetinaMaps. With a the angle of a vessel and b that of the way to it, the sum of
    line * cos(2a - 2b), which is two convolutions.
    """
    reach = round(0.35 * SIDE)
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    away, way = np.hypot(dx, dy), np.arctan2(dy, dx)
    weight = np.clip((away - 8) / 6, 0, 1) * np.exp(-((away / 28) ** 2)) * (away <= reach)
    parts = zip(turn, (np.cos, np.sin), strict=True)
    towards = sum(
        signal.fftconvolve(line * of_vessel, weight * part(2 * way), mode="same") for of_vessel, part in parts
    )
    area = signal.fftconvolve(field.astype(np.float32), weight, mode="same")
    return np.clip(towards / np.maximum(area, 50), 0, None)


def even_out(channel: np.ndarray, field: np.ndarray) -> np.ndarray:
    """A channel [h, w] over its mean in the neighbourhood; 1 outside the field."""
    mean = blur(channel, field, EVEN_SIGMA)
    return np.where(field, channel, mean) / np.maximum(mean, 8)


def _spot(even: np.ndarray, field: np.ndarray) -> np.ndarray:
    around = blur(np.where(field, even, 1), field, ROUND_SPOT_SIGMA)
    return ndimage.gaussian_filter(np.where(field, even, 1), SPOT_SIGMA) - around
