"""Pictures that are no retinas, natural and drawn, many of them round, on black and as red as a retina."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from mdf.imaging.decode import load_image

SIDE = 256
RETINA_COLOURS = np.array([[0.75, 0.38, 0.18], [0.6, 0.22, 0.08], [0.85, 0.5, 0.3], [0.5, 0.3, 0.12]])  # RGB, 0..1
# scikit-image's pictures; retina.jpg and microaneurysms.png are left out, because they show retinas.
PICTURES = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "chessboard_RGB.png", "clock_motion.png",
    "coffee.png", "coins.png", "color.png", "grass.png", "gravel.png", "horse.png", "hubble_deep_field.jpg", "ihc.png",
    "logo.png", "moon.png", "motorcycle_left.png", "page.png", "phantom.png", "rocket.jpg", "text.png",
)  # fmt: skip
CASTS = ("own", "red", "grey-red", "matched")


def round_on_black(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The middle of a picture in a circle on black; the circle is sometimes cut off above and below."""
    height, width = image.shape[:2]
    y, x = np.ogrid[:height, :width]
    radius = min(height, width) * rng.uniform(0.44, 0.52)
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < radius**2
    if rng.uniform() < 0.2:
        inside = inside & (np.abs(y - height / 2) < 0.85 * radius)
    return image * inside[..., None].astype(np.uint8)


def recoloured(image: np.ndarray, cast: str, rng: np.random.Generator) -> np.ndarray:
    """A picture as it is, with a red cast, in shades of one red, or with a retina's mean and spread a channel."""
    colour = RETINA_COLOURS[rng.integers(len(RETINA_COLOURS))]
    values = image.astype(np.float32)
    if cast == "red":
        values = values * (colour / colour.max())
    elif cast == "grey-red":
        values = values.mean(axis=2, keepdims=True) * (colour / colour.mean()) ** 0.9
    elif cast == "matched":
        mean, spread = values.mean(axis=(0, 1)), values.std(axis=(0, 1)) + 1
        values = (values - mean) / spread * 255 * colour * rng.uniform(0.12, 0.25) + 255 * colour
    return np.clip(values, 0, 255).astype(np.uint8)


def photographs(pictures: tuple[str, ...] = PICTURES, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Name and picture: each of scikit-image's in four colour casts, whole, cropped, blurred and in a circle."""
    spec = find_spec("skimage")
    assert spec is not None and spec.origin is not None, "needs scikit-image"
    for name in pictures:
        # Its own seed, so that a picture is the same whichever others are asked for.
        rng = np.random.default_rng([seed, *name.encode()])
        whole = Image.fromarray(load_image(Path(spec.origin).parent / "data" / name))
        for cast in CASTS:
            for kind in ("whole", "crop", "round", "round crop", "round crop blurred", "round dim"):
                picture = whole
                if "crop" in kind:
                    share = rng.uniform(0.4, 0.9)
                    width, height = round(whole.width * share), round(whole.height * share)
                    left, top = rng.integers(whole.width - width + 1), rng.integers(whole.height - height + 1)
                    picture = whole.crop((int(left), int(top), int(left) + width, int(top) + height))
                picture = picture.resize(
                    (round(SIDE * rng.uniform(1, 1.4)), SIDE), Image.Resampling.LANCZOS, reducing_gap=2
                )
                pixels = recoloured(np.asarray(picture)[:, :: 1 if rng.uniform() < 0.5 else -1], cast, rng)
                if "blurred" in kind:
                    pixels = ndimage.gaussian_filter(pixels, (s := rng.uniform(1, 5), s, 0))
                if "dim" in kind:
                    pixels = (pixels * rng.uniform(0.2, 0.6)).astype(np.uint8)
                yield f"{name} {kind} {cast}", round_on_black(pixels, rng) if "round" in kind else pixels


def drawings(count: int, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Name and picture: noise, marble, gradients, plain and shaded discs, pages, sunsets, bare trees, planets."""
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        name, draw = _DRAWINGS[i % len(_DRAWINGS)]
        pixels = np.clip(draw(rng) * 255, 0, 255).astype(np.uint8)
        yield f"{name} {i}", round_on_black(pixels, rng) if rng.uniform() < 0.7 else pixels


def _colour(rng: np.random.Generator) -> np.ndarray:
    return RETINA_COLOURS[rng.integers(len(RETINA_COLOURS))] * rng.uniform(0.8, 1.15)


def _coordinates() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    return x, y


def _clouds(rng: np.random.Generator, octaves: tuple[float, ...]) -> np.ndarray:
    layers = [ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) * s for s in octaves]
    return sum(layers) / np.std(sum(layers))


def _noise(rng: np.random.Generator) -> np.ndarray:
    grains = rng.normal(size=(SIDE, SIDE, 3 if rng.uniform() < 0.5 else 1))
    return _colour(rng) * (1 + rng.uniform(0.1, 0.4) * ndimage.gaussian_filter(grains, (s := rng.uniform(0, 2), s, 0)))


def _marble(rng: np.random.Generator) -> np.ndarray:
    return _colour(rng) * (1 + rng.uniform(0.1, 0.35) * _clouds(rng, (1.5, 4, 10, 25)))[..., None]


def _gradient(rng: np.random.Generator) -> np.ndarray:
    x, y = _coordinates()
    t = (x * np.cos(a := rng.uniform(0, 6.3)) + y * np.sin(a) + 1.4) / 2.8
    return t[..., None] * _colour(rng) * 1.3 + (1 - t[..., None]) * rng.uniform(0, 1, 3) * 0.6


def _disc(rng: np.random.Generator) -> np.ndarray:
    x, y = _coordinates()
    ball = (np.hypot(x, y) < rng.uniform(0.6, 0.98)) * np.sqrt(np.clip(1.2 - x**2 - y**2, 0.05, 1))
    flat = rng.uniform() < 0.4
    shine = 0 if flat else 0.5 * np.exp(-((x - rng.uniform(-0.5, 0.5)) ** 2 + (y + 0.3) ** 2) / rng.uniform(0.01, 0.1))
    return ((ball > 0) if flat else ball)[..., None] * _colour(rng) + np.asarray(shine * (ball > 0))[..., None]


def _page(rng: np.random.Generator) -> np.ndarray:
    sheet = Image.new("L", (SIDE, SIDE), 235)
    pen = ImageDraw.Draw(sheet)
    step = int(rng.integers(9, 22))
    for row in range(8, SIDE, step):
        pen.text((10, row), "".join(chr(c) for c in rng.integers(97, 123, 60)), fill=int(rng.integers(0, 90)))
    return (np.asarray(sheet) / 255)[..., None] * (_colour(rng) * 1.2 if rng.uniform() < 0.6 else np.ones(3))


def _sunset(rng: np.random.Generator) -> np.ndarray:
    x, y = _coordinates()
    sky = np.clip(0.5 - y * 0.5, 0, 1)[..., None]
    picture = (1 - sky) * np.array([0.95, 0.5, 0.15]) + sky * np.array([0.45, 0.12, 0.2]) * rng.uniform(0.6, 1.6)
    sun = np.exp(-((np.hypot(x - rng.uniform(-0.5, 0.5), y - rng.uniform(-0.2, 0.3)) / rng.uniform(0.1, 0.25)) ** 4))
    picture = picture + sun[..., None] * np.array([0.5, 0.5, 0.4])
    picture = picture * (1 + 0.1 * ndimage.gaussian_filter(_clouds(rng, (3, 9)), (1, 6)))[..., None]
    land = y > rng.uniform(0.35, 0.7) + 0.06 * _clouds(rng, (20,))[0]
    return np.where(land[..., None], 0.12 * np.array([1, 0.6, 0.5]), picture)


def _tree(rng: np.random.Generator) -> np.ndarray:
    """Dark branches before a red sky: thin, dark and branching as vessels are."""
    scale = 3
    sheet = Image.new("L", (SIDE * scale, SIDE * scale), 0)
    pen = ImageDraw.Draw(sheet)

    def grow(x: float, y: float, angle: float, length: float, width: float) -> None:
        end = x + length * np.cos(angle), y - length * np.sin(angle)
        pen.line([(x, y), end], fill=255, width=max(1, round(width)))
        if width > 2:
            for turn in (rng.uniform(0.2, 0.7), -rng.uniform(0.2, 0.7)):
                grow(*end, angle + turn, length * rng.uniform(0.65, 0.85), width * 0.68)

    grow(
        SIDE * scale * rng.uniform(0.4, 0.6), SIDE * scale, np.pi / 2 + rng.uniform(-0.2, 0.2), 0.24 * SIDE * scale, 30
    )
    branches = np.asarray(sheet.reduce(scale))[..., None] / 255
    return _sunset_sky(rng) * (1 - branches * rng.uniform(0.6, 1))


def _sunset_sky(rng: np.random.Generator) -> np.ndarray:
    _, y = _coordinates()
    return _colour(rng) * (1.2 + 0.3 * y[..., None]) * (1 + 0.05 * _clouds(rng, (8, 30)))[..., None]


def _planet(rng: np.random.Generator) -> np.ndarray:
    x, y = _coordinates()
    bands = (
        np.sin(y * rng.uniform(6, 20) + 0.5 * _clouds(rng, (6, 18)))
        if rng.uniform() < 0.5
        else _clouds(rng, (2, 5, 12))
    )
    ball = (np.hypot(x, y) < 0.92) * np.clip(0.75 + 0.35 * x * rng.choice([-1, 1]), 0.1, 1.2)
    return (ball * (1 + rng.uniform(0.08, 0.25) * bands))[..., None] * _colour(rng)


_DRAWINGS = (
    ("noise", _noise), ("marble", _marble), ("gradient", _gradient), ("disc", _disc), ("page", _page),
    ("sunset", _sunset), ("tree", _tree), ("planet", _planet),
)  # fmt: skip
