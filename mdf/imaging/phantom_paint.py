"""The colours of a phantom photograph: retina, disc, vessels, lesions, then light, lens and sensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from mdf.imaging.phantom_anatomy import Anatomy, Vessels
from mdf.imaging.phantom_lesions import LOOKS, Lesion

COARSE = 64  # cells a side of the grid on which everything smooth is worked out
BLUR = (0.2, 0.65)  # standard deviation of the lens' blur, pixels of a 256-pixel photograph
TAPS = 0.4  # variance of one three-tap mean at the most


@dataclass(frozen=True)
class Scene:
    eye: Anatomy
    vessels: Vessels
    lesions: Sequence[Lesion]
    x: np.ndarray  # float32 [1, S], pixel coordinates
    y: np.ndarray  # float32 [S, 1]
    disc: np.ndarray  # float32 [S, S], distance from the middle, 1 on the outline
    cup: np.ndarray


def paint(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Paint the scene as uint8 [S, S, 3]."""
    # Colours are planes [3, S, S] up to the end: numpy broadcasts far faster over them than over a last axis of three.
    image = _retina(rng, scene)
    _disc(rng, scene, image)
    _vessels(rng, scene, image)
    for lesion in scene.lesions:
        patch = image[:, *lesion.area]
        _blend(patch, _colour(*LOOKS[lesion.kind].colour) * (0.75 + 0.35 * patch.mean()), lesion.cover)
    return _photograph(rng, scene, image)


def disc_area(eye: Anatomy) -> tuple[slice, slice]:
    """Rows and columns that disc and cup are painted in."""
    reach = int(1.6 * eye.disc[2] * eye.oval)
    rows, columns = (slice(max(int(c) - reach, 0), int(c) + reach) for c in (eye.disc[1], eye.disc[0]))
    return rows, columns


def blur_reach(size: int) -> int:
    """Pixels that the blur of a photograph of `size` pixels carries a change at the most."""
    return max(1, math.ceil((BLUR[1] * size / 256) ** 2 / TAPS))


def _retina(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Pigment and its mottling, macula, nerve fibres round the disc, in some eyes choroidal vessels shining through.

    All that is smooth is worked out on a coarse grid and enlarged: that is most of the drawing time saved.
    """
    eye, size = scene.eye, scene.eye.size
    red = rng.uniform(0.58, 0.9)
    green = red * rng.uniform(0.4, 0.56)
    blue = green * rng.uniform(0.28, 0.72)
    x, y = _coarse(size)
    mottle = 0.7 * _noise(rng, COARSE, 4) + 0.4 * _noise(rng, COARSE, 12) + 0.3 * _noise(rng, COARSE, 40)
    depth = rng.uniform(0.03, 0.08)
    tone = 1 + depth * mottle
    from_fovea = (np.square(x - eye.fovea[0]) + np.square(y - eye.fovea[1])) / eye.distance**2
    from_disc = (np.square(x - eye.disc[0]) + np.square(y - eye.disc[1])) / eye.distance**2
    tone -= rng.uniform(0.14, 0.32) * np.exp(-from_fovea / rng.uniform(0.07, 0.2))
    tone -= rng.uniform(0.08, 0.2) * np.exp(-from_fovea / 0.012)
    sheen = rng.uniform(0.02, 0.22) * np.exp(-from_disc / 0.2)
    tone += sheen
    planes = (red * (0.35 + 0.65 * tone), green * (tone + 0.3 * sheen), blue * (tone + 0.4 * sheen))
    image = np.stack([_enlarge(plane, size) for plane in planes])
    image *= 1 + depth * 0.35 * _noise(rng, size, 120)
    if rng.uniform() < 0.4:
        streaks = np.maximum(1 - np.abs(_noise(rng, size, 22) + 0.6 * _noise(rng, size, 64)) * 1.6, 0)
        streaks *= _enlarge(rng.uniform(0.05, 0.2) * np.clip(from_fovea * 2 - 0.2, 0, 1), size)
        for plane, share in zip(image, (0.5 * red, 0.8 * green, -0.2 * blue), strict=True):
            plane += share * streaks
    if rng.uniform() < 0.35:
        _pigment(rng, eye, image)
    return image


def _pigment(rng: np.random.Generator, eye: Anatomy, image: np.ndarray) -> None:
    """Harmless soft brown blotches that any eye may have, larger and paler than a haemorrhage."""
    for _ in range(rng.integers(1, 4)):
        turn, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0.3, 0.8) * eye.radius
        wide, deep = rng.uniform(6, 11) * eye.unit, rng.uniform(0.12, 0.26)
        at = (eye.centre[0] + reach * math.cos(turn), eye.centre[1] + reach * math.sin(turn))
        left, top = (max(round(c - 2.5 * wide), 0) for c in at)
        right, bottom = (round(c + 2.5 * wide) for c in at)
        patch = image[:, top:bottom, left:right]
        dy, dx = np.ogrid[top : top + patch.shape[1], left : left + patch.shape[2]]
        blot = deep * np.exp(-(((dx - at[0]) / wide) ** 2 + ((dy - at[1]) / wide) ** 2))
        patch *= 1 - _colour(1, 0.9, 0.6) * blot.astype(np.float32)


def _disc(rng: np.random.Generator, scene: Scene, image: np.ndarray) -> None:
    eye, retina = scene.eye, image[:, ::8, ::8].mean(axis=(1, 2))[:, None, None]
    rows, columns = disc_area(eye)
    patch, disc, cup = image[:, rows, columns], scene.disc[rows, columns], scene.cup[rows, columns]
    shade = 1 + 0.04 * rng.standard_normal(disc.shape, dtype=np.float32)
    if rng.uniform() < 0.3:  # a paler crescent beside the disc, as in short-sighted eyes
        _blend(
            patch,
            _colour(0.95, 0.75, 0.5),
            rng.uniform(0.15, 0.4) * _soft(disc, eye.disc[2], 5 * eye.unit) * (disc > 0.9),
        )
    rim = 0.4 * retina + 0.6 * _colour(1.0, rng.uniform(0.7, 0.82), rng.uniform(0.38, 0.55))
    pale = 0.12 * retina + 0.88 * _colour(1.0, rng.uniform(0.88, 0.96), rng.uniform(0.68, 0.84))
    _blend(patch, rim * shade, 0.92 * _soft(disc, eye.disc[2], rng.uniform(0.9, 2.0) * eye.unit))
    _blend(patch, pale * shade, 0.95 * _soft(cup, eye.disc[2] * eye.cup_ratio, rng.uniform(0.8, 1.5) * eye.unit))


def _vessels(rng: np.random.Generator, scene: Scene, image: np.ndarray) -> None:
    """Blood takes away green and blue first, veins more than arteries."""
    vessels, unit = scene.vessels, scene.eye.unit
    depth = rng.uniform(0.8, 1.15)
    for plane, vein, artery in zip(image, (0.36, 0.95, 0.85), (0.17, 0.68, 0.66), strict=True):
        plane *= np.exp(-depth * np.maximum(vein * vessels.veins, artery * vessels.arteries))
    image += _colour(1.0, 0.75, 0.55) * (rng.uniform(0.02, 0.12) * vessels.reflex)
    if rng.uniform() < 0.25:  # glints of the inner membrane beside the vessels, as in young eyes
        beside = np.clip(ndimage.gaussian_filter(vessels.veins, 3 * unit, truncate=2.5) * 2.2 - 2 * vessels.veins, 0, 1)
        image += _colour(0.9, 0.9, 0.8) * (
            rng.uniform(0.1, 0.3) * beside * np.clip(_noise(rng, scene.eye.size, 10), 0, 1)
        )


def _photograph(rng: np.random.Generator, scene: Scene, image: np.ndarray) -> np.ndarray:
    """Uneven illumination, haze, camera tint, blur, tone curve, noise and the dark surround."""
    eye = scene.eye
    x, y = _coarse(eye.size)
    dx, dy = (x - eye.centre[0]) / eye.radius, (y - eye.centre[1]) / eye.radius
    turn, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.3)
    away = np.square(dx - rng.uniform(-0.25, 0.25)) + np.square(dy - rng.uniform(-0.25, 0.25))
    light = 1.04 + slope * (math.cos(turn) * dx + math.sin(turn) * dy) - rng.uniform(0.08, 0.45) * away
    image *= _enlarge(np.maximum(light * rng.uniform(0.72, 1.15), 0.08), eye.size)
    if rng.uniform() < 0.3:  # stray light along part of the rim
        toward = rng.uniform(0, 2 * math.pi)
        haze = np.exp((np.sqrt(dx * dx + dy * dy) - 1) * rng.uniform(6, 14))
        haze *= rng.uniform(0.1, 0.4) * np.clip(math.cos(toward) * dx + math.sin(toward) * dy + 0.3, 0, 1)
        image += _colour(1.0, 0.8, 0.55) * _enlarge(haze, eye.size)
    image += _colour(1.0, 0.85, 0.7) * rng.uniform(0, 0.07)
    image *= _colour(*rng.uniform(0.93, 1.07, size=3))
    edge = eye.radius - np.sqrt(np.square(scene.x - eye.centre[0]) + np.square(scene.y - eye.centre[1]))
    if eye.clip < 1:
        edge = np.minimum(edge, eye.clip * eye.radius - np.abs(scene.y - eye.centre[1]))
    image *= np.clip(edge / (1.6 * eye.unit) + 0.5, 0, 1)
    _blur(image, rng.uniform(*BLUR) * eye.unit)
    curve = np.linspace(0, 1, 1024, dtype=np.float32) ** rng.uniform(0.85, 1.2) * 255
    image *= 1023
    image = np.take(curve, np.clip(image, 0, 1023, out=image).astype(np.int16))
    grain = rng.standard_normal((eye.size, eye.size), dtype=np.float32) * rng.uniform(0.3, 1.5)
    image += grain * (edge > 0) + rng.uniform(0, 2.5)
    return np.ascontiguousarray(np.clip(image, 0, 255, out=image).astype(np.uint8).transpose(1, 2, 0))


def _colour(red: float, green: float, blue: float) -> np.ndarray:
    return np.array([red, green, blue], dtype=np.float32)[:, None, None]


def _coarse(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates float32 [1, C] and [C, 1] of the coarse grid's cells."""
    at = (np.arange(COARSE, dtype=np.float32) + 0.5) * (size / COARSE) - 0.5
    return at[None, :], at[:, None]


def _enlarge(coarse: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def _noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise float32 [S, S] with `cells` bumps a side."""
    return _enlarge(rng.standard_normal((cells, cells), dtype=np.float32), size)


def _soft(distance: np.ndarray, radius: float, edge: float) -> np.ndarray:
    return 1 / (1 + np.exp(np.clip((distance - 1) * (radius / edge * 1.8), -30, 30)))


def _blend(planes: np.ndarray, colour: np.ndarray, cover: np.ndarray) -> None:
    planes += cover * (colour - planes)


def _blur(planes: np.ndarray, sigma: float) -> None:
    """Gaussian blur of [3, S, S] in place by repeated three-tap means, each of variance at most TAPS."""
    passes = max(1, math.ceil(sigma**2 / TAPS))
    share = sigma**2 / passes / 2
    step = np.empty_like(planes)
    for _ in range(passes):
        for view, flow in ((planes, step), (planes.swapaxes(1, 2), step.swapaxes(1, 2))):
            between = np.subtract(view[:, 1:], view[:, :-1], out=flow[:, 1:])
            between *= share
            view[:, :-1] += between
            view[:, 1:] -= between
