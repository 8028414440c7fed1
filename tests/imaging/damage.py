"""What happens to photographs: light, cut and notched fields, on an image uint8 [H, W, 3] and its field bool [H, W]."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

Pair = tuple[np.ndarray, np.ndarray]


def _box(field: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _grid(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel, 0 in the middle of the field's box and 1 at its sides."""
    left, top, right, bottom = _box(field)
    y, x = np.mgrid[: field.shape[0], : field.shape[1]].astype(np.float32)
    return (x - (left + right) / 2) / ((right - left) / 2), (y - (top + bottom) / 2) / ((bottom - top) / 2)


def light(image: np.ndarray, field: np.ndarray, gain: float | np.ndarray, noise: float = 2.0) -> Pair:
    """Times `gain`, a number or an array [H, W, 1], with `noise` grey levels from the sensor."""
    grains = np.random.default_rng(0).normal(0, noise, image.shape)
    return np.clip(image * gain + grains, 0, 255).round().astype(np.uint8), field


def shadow(image: np.ndarray, field: np.ndarray, darkest: float, angle: float) -> Pair:
    """Light that falls evenly from one side of the field to the `darkest` share at the other."""
    x, y = _grid(field)
    along = np.clip((x * np.cos(angle) + y * np.sin(angle) + 1) / 2, 0, 1)
    return light(image, field, (darkest + (1 - darkest) * along)[..., None])


def vignette(image: np.ndarray, field: np.ndarray, rim: float) -> Pair:
    """Light that falls towards the rim, where the share `rim` is left."""
    x, y = _grid(field)
    return light(image, field, (rim + (1 - rim) * np.clip(1 - (x**2 + y**2) ** 2, 0, 1))[..., None])


def glow(image: np.ndarray, field: np.ndarray, level: float) -> Pair:
    """A reddish glow in the surround, `level` grey levels at the rim, as a lens scatters it."""
    x, y = _grid(field)
    halo = level * np.exp(-3 * np.clip(np.hypot(x, y) - 1, 0, None))
    return light(np.clip(image + halo[..., None] * np.array([1, 0.6, 0.4]), 0, 255), field, 1.0)


def cut(
    image: np.ndarray, field: np.ndarray, left: float = 0, top: float = 0, right: float = 0, bottom: float = 0
) -> Pair:
    """The picture ends inside the field: these shares of the field's width and height are cut away."""
    x0, y0, x1, y1 = _box(field)
    rows = slice(int(y0 + top * (y1 - y0)) if top else 0, int(y1 - bottom * (y1 - y0)) if bottom else None)
    columns = slice(int(x0 + left * (x1 - x0)) if left else 0, int(x1 - right * (x1 - x0)) if right else None)
    return np.ascontiguousarray(image[rows, columns]), np.ascontiguousarray(field[rows, columns])


def blackened(image: np.ndarray, field: np.ndarray, x: float, y: float) -> Pair:
    """Black beyond straight lines: the middle part of x and y (1 = all) stays, as in fields that are no full circle."""
    u, v = _grid(field)
    stays = field & (np.abs(u) < x) & (np.abs(v) < y)
    return np.where(
        stays[..., None], image, np.random.default_rng(0).integers(0, 4, image.shape, dtype=np.uint8)
    ), stays


def notched(image: np.ndarray, field: np.ndarray, kind: str, angle: float, size: float = 0.12) -> Pair:
    """A `bite` or a `triangle` missing from the rim, or a lit `tab` outside it, `size` of the radius large."""
    x, y = _grid(field)
    out, along = x * np.cos(angle) + y * np.sin(angle) - 1, y * np.cos(angle) - x * np.sin(angle)
    if kind == "tab":
        tab = (np.abs(along) < size / 2) & (np.abs(out) < size) & ~field
        return np.where(tab[..., None], np.median(image[field], axis=0), image).astype(np.uint8), field | tab
    shape = np.hypot(out, along) < size if kind == "bite" else np.abs(along) < 0.7 * (out + 1.5 * size)
    gone = shape & field
    return np.where(gone[..., None], 2, image).astype(np.uint8), field & ~gone


def labelled(image: np.ndarray, field: np.ndarray) -> Pair:
    """Letters in the upper left corner, outside the field."""
    x0, y0, x1, y1 = _box(field)
    rows, columns = max(1, (y1 - y0) // 125), max(1, (x1 - x0) // 125)
    dots = np.random.default_rng(0).integers(0, 2, (5, 25)).repeat(rows, axis=0).repeat(columns, axis=1) > 0
    text = np.zeros_like(field)
    text[2 : 2 + dots.shape[0], 2 : 2 + dots.shape[1]] = dots[: text.shape[0] - 2, : text.shape[1] - 2]
    return np.where((text & ~field)[..., None], 255, image).astype(np.uint8), field


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Out of focus by `sigma` pixels."""
    return ndimage.gaussian_filter(image, (sigma, sigma, 0))


def veiled(image: np.ndarray, field: np.ndarray, share: float) -> np.ndarray:
    """Contrast lost to a veil of even light: `share` of every pixel becomes the field's mean colour."""
    mean = image[field].mean(axis=0)
    mixed = image * (1 - share) + mean * share
    return np.where(field[..., None], mixed, image).round().astype(np.uint8)


# Names by what they show; each gives the damaged photograph and its true field.
FIELD_DAMAGE: dict[str, Callable[[np.ndarray, np.ndarray], Pair]] = {
    "light 0.5": lambda i, f: light(i, f, 0.5),
    "light 0.25": lambda i, f: light(i, f, 0.25),
    "light 0.12": lambda i, f: light(i, f, 0.12),
    "light 0.08": lambda i, f: light(i, f, 0.08, 1),
    "light 1.8": lambda i, f: light(i, f, 1.8),
    "light 3": lambda i, f: light(i, f, 3),
    "shadow to 0.3": lambda i, f: shadow(i, f, 0.3, 0),
    "shadow to 0.15": lambda i, f: shadow(i, f, 0.15, 1.6),
    "shadow to 0.08": lambda i, f: shadow(i, f, 0.08, 0.8),
    "vignette to 0.15": lambda i, f: vignette(i, f, 0.15),
    "vignette, dark": lambda i, f: light(*vignette(i, f, 0.25), 0.3),
    "glow 18": lambda i, f: glow(i, f, 18),
    "glow 30": lambda i, f: glow(i, f, 30),
    "cut above and below": lambda i, f: cut(i, f, top=0.12, bottom=0.12),
    "cut left": lambda i, f: cut(i, f, left=0.3),
    "cut at a corner": lambda i, f: cut(i, f, left=0.25, top=0.25),
    "cut all round": lambda i, f: cut(i, f, 0.08, 0.08, 0.08, 0.08),
    "black above and below": lambda i, f: blackened(i, f, 1, 0.8),
    "rectangular": lambda i, f: blackened(i, f, 0.72, 0.72),
    "bite": lambda i, f: notched(i, f, "bite", 0.7),
    "triangle": lambda i, f: notched(i, f, "triangle", 0.3),
    "tab": lambda i, f: notched(i, f, "tab", 0.7),
    "labelled": labelled,
    "dark and cut": lambda i, f: light(*cut(i, f, top=0.12, bottom=0.12), 0.15),
    "dark and rectangular": lambda i, f: light(*blackened(i, f, 1, 0.8), 0.15),
    "dark and notched": lambda i, f: light(*notched(i, f, "tab", 0.7), 0.15),
    "shadow and bite": lambda i, f: notched(*shadow(i, f, 0.15, 0), "bite", 2.5),
}


def overlap(found: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((found & true).sum() / (found | true).sum())


def photographed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A phantom as a camera would take it: tints, uneven light and colour, veils, stray light, blur, grain, JPEG."""
    field = image.max(axis=2) > 20
    side = image.shape[0]
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    values = image.astype(np.float32) * np.exp(rng.normal(0, [0.15, 0.3, 0.45])) * rng.uniform(0.6, 1.6)
    common = _uneven(rng, side, 0.25)
    values *= np.exp(np.stack([common + _uneven(rng, side, 0.15) for _ in range(3)], axis=2))
    if rng.uniform() < 0.4:
        turn = rng.uniform(0, 2 * np.pi)
        from_side = np.clip(0.5 + 0.5 * (x * np.cos(turn) + y * np.sin(turn)), 0, 1)[..., None]
        veil = rng.uniform(0.1, 0.75) * (from_side if rng.uniform() < 0.5 else 1)
        values = values * (1 - veil) + veil * rng.uniform([60, 60, 40], [200, 190, 170])
    if rng.uniform() < 0.3:
        turn = rng.uniform(0, 2 * np.pi)
        rim = np.exp((np.hypot(x, y) - 1) / rng.uniform(0.04, 0.15)) * np.clip(
            x * np.cos(turn) + y * np.sin(turn), 0, 1
        )
        values += np.clip(rim, 0, 1)[..., None] * rng.uniform(60, 220) * rng.uniform([0.7, 0.7, 0.4], [1, 1, 1])
    if rng.uniform() < 0.6:
        values = blurred(values, rng.uniform(0, 2.5))
    values = np.where(field[..., None], values, rng.uniform(0, 8))
    coarse = rng.uniform(0, 1.2)
    values += blurred(rng.normal(0, 1, values.shape), coarse) * rng.uniform(0, 4) * (1 + 2 * coarse)
    pixels = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    if rng.uniform() < 0.8:
        file = io.BytesIO()
        pixels.save(file, "JPEG", quality=int(rng.integers(35, 95)), subsampling=int(rng.choice([0, 2])))
        pixels = Image.open(file)
    return np.array(pixels)


def _uneven(rng: np.random.Generator, side: int, most: float) -> np.ndarray:
    coarse = rng.normal(size=(4, 4)) * rng.uniform(0, most)
    return ndimage.zoom(coarse, side / 4 + 0.5, order=3)[:side, :side]
