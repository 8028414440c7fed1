"""The geometry of a phantom eye: field of view, disc, fovea and the tree of vessels, before any colour."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

OVERSAMPLE = 3  # vessels are drawn this many times larger, for widths below one pixel
MIN_WIDTH = 0.75  # pixels at side 256; a branch thinner than this is not drawn


@dataclass(frozen=True)
class Anatomy:
    size: int  # side of the photograph, pixels
    eye: str  # left | right
    centre: tuple[float, float]  # of the field, x and y in pixels; the lines between the quadrants go through it
    radius: float  # of the field, pixels
    clip: float  # share of the radius at which the field is cut off above and below; 1 = round
    disc: tuple[float, float, float]  # x, y, radius in pixels
    oval: float  # height of disc and cup over their width
    cup_ratio: float  # vertical cup-disc ratio
    cup_centre: tuple[float, float]
    fovea: tuple[float, float]

    @property
    def unit(self) -> float:
        """Pixels a pixel of side 256 stands for."""
        return self.size / 256

    @property
    def distance(self) -> float:
        """From disc to fovea, pixels."""
        return float(np.hypot(self.fovea[0] - self.disc[0], self.fovea[1] - self.disc[1]))

    def quadrant(self, x: float, y: float) -> str:
        """Name of the quadrant that a pixel lies in; temporal is the side of the fovea."""
        temporal = (x - self.centre[0]) * (self.fovea[0] - self.disc[0]) > 0
        return ("supero" if y < self.centre[1] else "infero") + ("temporal" if temporal else "nasal")


def draw_anatomy(rng: np.random.Generator, size: int, enlarged_cup: bool, eye: str | None) -> Anatomy:
    """Draw eye side (where `eye` does not name it), field, disc, cup and fovea."""
    drawn = "right" if rng.uniform() < 0.5 else "left"
    eye = eye or drawn
    nasal = 1.0 if eye == "right" else -1.0  # the disc of a right eye is on the right of its photograph
    radius = size * rng.uniform(0.465, 0.495)
    centre = (size - 1) / 2
    clip = float(rng.uniform(0.74, 0.93)) if rng.uniform() < 0.35 else 1.0
    disc_radius = radius * rng.uniform(0.135, 0.16)
    distance = disc_radius * rng.uniform(4.5, 5.1)
    tilt = np.deg2rad(rng.uniform(-4, 16))  # the fovea lies a little below the disc; some heads are tilted
    middle = centre + nasal * radius * rng.uniform(0.08, 0.2)
    offset = np.array([nasal * np.cos(tilt), -np.sin(tilt)]) * distance / 2
    level = centre + radius * rng.uniform(-0.06, 0.06)
    disc = (middle + offset[0], level + offset[1], disc_radius)
    fovea = (middle - offset[0], level - offset[1])
    steps = (0.7, 0.8) if enlarged_cup else (0.3, 0.4, 0.5)
    ratio = float(
        rng.choice(steps) + rng.uniform(-0.03, 0.03)
    )  # never near a rounding border: the text gives one decimal
    free = (1 - ratio) * disc_radius * 0.35
    cup = (disc[0] - nasal * free * rng.uniform(0, 1), disc[1] + free * rng.uniform(-0.5, 0.5))
    return Anatomy(
        size=size,
        eye=eye,
        centre=(centre, centre),
        radius=radius,
        clip=clip,
        disc=(float(disc[0]), float(disc[1]), float(disc_radius)),
        oval=float(rng.uniform(1.0, 1.14)),
        cup_ratio=ratio,
        cup_centre=(float(cup[0]), float(cup[1])),
        fovea=(float(fovea[0]), float(fovea[1])),
    )


@dataclass(frozen=True)
class Vessels:
    arteries: np.ndarray  # float32 [S, S] share of each pixel that is covered, 0..1
    veins: np.ndarray
    reflex: np.ndarray  # the bright streak along the middle of the wider arteries
    mask: np.ndarray  # bool [S, S]


# Trunks as Bezier control points (towards the fovea, upwards) in disc-fovea distances, with the disc at (0, 0);
# mirrored for the lower half. The first is the temporal arcade, which goes round the macula; then two nasal trunks and
# a macular twig.
_TRUNKS = np.array([
    [[0.00, 0.02], [-0.04, 0.72], [0.78, 1.06], [2.15, 0.52]],
    [[0.00, 0.02], [-0.08, 0.40], [-0.34, 0.62], [-0.86, 1.10]],
    [[0.00, 0.02], [-0.20, 0.12], [-0.55, 0.12], [-1.00, 0.42]],
    [[0.00, 0.02], [0.14, 0.12], [0.40, 0.22], [0.74, 0.20]],
])  # fmt: skip
_TRUNK_WIDTH = np.array([1.0, 0.72, 0.5, 0.36])
_TRUNK_TWIGS = (5, 3, 2, 2)
_TRUNK_POINTS = 30


def draw_vessels(rng: np.random.Generator, eye: Anatomy) -> Vessels:
    """Grow an artery tree and a vein tree from the disc and draw them."""
    side = eye.size * OVERSAMPLE
    layers = {name: Image.new("L", (side, side)) for name in ("arteries", "veins", "reflex")}
    calibre = rng.uniform(0.92, 1.12) * eye.unit
    for name, width, spread in (("veins", 3.9 * calibre, 0.0), ("arteries", 2.8 * calibre, 0.09)):
        pen = ImageDraw.Draw(layers[name])
        glint = ImageDraw.Draw(layers["reflex"]) if name == "arteries" else None
        points, widths, twigs = _trunks(rng, eye, width, spread)
        _stroke(pen, points, widths, 3, eye, glint)
        for level, steps in ((1, 22), (2, 14)):
            points, widths = _branch(rng, eye, points, widths, twigs, steps, level)
            twigs = rng.integers(1, 4, size=len(points))
            _stroke(pen, points, widths, 5, eye, glint)
    cover = {name: np.asarray(layer.reduce(OVERSAMPLE), dtype=np.float32) / 255 for name, layer in layers.items()}
    return Vessels(**cover, mask=np.maximum(cover["arteries"], cover["veins"]) > 0.4)


def _trunks(
    rng: np.random.Generator, eye: Anatomy, width: float, spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points [n, P, 2] in pixels, widths [n, P] in pixels and the number of branches [n] of each trunk."""
    control = np.concatenate([_TRUNKS, _TRUNKS * [1, -1]])
    control = control + rng.normal(0, 1, control.shape) * np.array([0.012, 0.06, 0.11, 0.13])[:, None]
    control = control * (1 + spread * rng.choice([-1, 1])) + [0, 0.02 * rng.normal()]
    t = np.linspace(0, 1, _TRUNK_POINTS)[:, None]
    weights = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)
    curve = np.einsum("pk,nkc->npc", weights, control)
    waves = rng.uniform(1.5, 3.5, (len(control), 1, 2)) * np.pi
    sway = 0.022 * np.sin(waves * t + rng.uniform(0, 6.28, (len(control), 1, 2))) * np.sin(np.pi * t)
    sway = sway + np.cumsum(rng.normal(0, 1, curve.shape), axis=1) * np.sin(np.pi * t) * 0.006
    curve = curve + sway
    towards = np.subtract(eye.fovea, eye.disc[:2])  # one disc-fovea distance
    up = np.array([-towards[1], towards[0]]) * (1 if towards[0] < 0 else -1)
    points = np.array(eye.disc[:2]) + curve[..., :1] * towards + curve[..., 1:] * up
    share = np.tile(_TRUNK_WIDTH, 2) * rng.uniform(0.9, 1.1, size=len(control))
    widths = width * share[:, None] * (1 - 0.62 * t[:, 0])
    return points, widths, np.tile(_TRUNK_TWIGS, 2) + rng.integers(0, 2, size=len(control))


def _branch(
    rng: np.random.Generator,
    eye: Anatomy,
    points: np.ndarray,
    widths: np.ndarray,
    twigs: np.ndarray,
    steps: int,
    level: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Grow `twigs[n]` branches a parent: points [m, steps, 2], NaN beyond a branch's end, and widths [m, steps]."""
    parent = np.repeat(np.arange(len(points)), twigs)
    order = np.concatenate([np.arange(count) for count in twigs])
    last = points.shape[1] - 2
    at = 0.16 + 0.8 * (order + rng.uniform(0.2, 0.8, len(parent))) / twigs[parent]
    at = np.clip((at * last).astype(int), 1, last)
    start = points[parent, at]
    heading = points[parent, at + 1] - points[parent, at - 1]
    direction = np.arctan2(heading[:, 1], heading[:, 0])
    side = np.where((order + rng.integers(0, 2, len(points))[parent]) % 2 == 0, 1.0, -1.0)
    far = (0.55, 1.1) if level == 1 else (0.25, 0.6)
    reach = eye.distance * rng.uniform(*far, len(parent)) * (1 - 0.3 * at / last)
    s = np.linspace(0, 1, steps)
    opening = rng.uniform(0.45, 0.95, len(parent))  # radians off the parent, given back in part along the way
    bend = side * opening * rng.uniform(-0.1, 0.9, len(parent))
    sway = rng.uniform(0.1, 0.3, len(parent))[:, None] * np.sin(
        rng.uniform(3, 8, len(parent))[:, None] * s + rng.uniform(0, 6.28, len(parent))[:, None]
    )
    wander = np.cumsum(rng.normal(0, 0.07, (len(parent), steps)), axis=1)
    angle = (direction + side * opening)[:, None] - bend[:, None] * s + sway + wander
    stride = (reach / (steps - 1))[:, None]
    path = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], axis=2) * stride[..., None], axis=1)
    grown = start[:, None] + np.concatenate([np.zeros((len(parent), 1, 2)), path[:, :-1]], axis=1)
    root = widths[parent, at] * rng.uniform(0.5, 0.8, len(parent))
    thickness = root[:, None] * (1 - 0.45 * s)
    near = np.hypot(*(grown - eye.fovea).transpose(2, 0, 1)) < 0.26 * eye.distance  # no vessels at the fovea
    over = near | (thickness < MIN_WIDTH * eye.unit) | np.isnan(grown[..., 0])
    grown[np.logical_or.accumulate(over, axis=1)] = np.nan
    keep = ~np.isnan(grown[:, 2, 0]) & (root >= MIN_WIDTH * eye.unit)
    return grown[keep], thickness[keep]


def _stroke(
    pen: ImageDraw.ImageDraw,
    points: np.ndarray,
    widths: np.ndarray,
    run: int,
    eye: Anatomy,
    glint: ImageDraw.ImageDraw | None,
) -> None:
    """Draw each path in runs of `run` steps of one width."""
    points = (points + 0.5) * OVERSAMPLE
    lengths = np.isfinite(points[..., 0]).sum(axis=1).tolist()
    thick = np.maximum(np.rint(widths * OVERSAMPLE), 1).astype(int).tolist()
    flat = np.nan_to_num(points).reshape(len(points), 2 * points.shape[1]).tolist()
    for path, width, length in zip(flat, thick, lengths, strict=True):
        for first in range(0, length - 1, run):
            end = min(first + run + 1, length)
            pen.line(path[2 * first : 2 * end], fill=255, width=width[first])
            if glint and width[first] > 5 * eye.unit:
                glint.line(path[2 * first : 2 * end], fill=255, width=max(1, width[first] // 3))
