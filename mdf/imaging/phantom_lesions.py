"""Lesions of a phantom eye: where they lie, their outlines and how they colour the retina."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mdf.imaging.phantom_anatomy import Anatomy

QUADRANTS = ("superotemporal", "inferotemporal", "superonasal", "inferonasal")
GAP = 2.5  # pixels between two lesions, at least: touching ones could not be counted


@dataclass(frozen=True)
class Look:
    """How one kind of lesion is drawn; lengths in pixels of a 256-pixel photograph."""

    radius: tuple[float, float]
    edge: float  # softness of the outline
    colour: tuple[float, float, float]  # RGB 0..1 that the retina is blended towards
    strength: tuple[float, float]  # of the blend, 0..1
    ragged: float  # relative swing of the outline


LOOKS = {
    "microaneurysm": Look((1.15, 1.6), 0.35, (0.34, 0.03, 0.03), (0.8, 0.95), 0.0),
    "haemorrhage": Look((3.0, 4.8), 0.7, (0.30, 0.02, 0.02), (0.75, 0.92), 0.18),
    "hard_exudate": Look((1.4, 2.4), 0.3, (1.0, 0.92, 0.45), (0.85, 1.0), 0.14),
    "cotton_wool_spot": Look((5.0, 7.5), 2.2, (1.0, 0.97, 0.88), (0.75, 0.95), 0.12),
    "drusen": Look((1.9, 3.4), 0.9, (0.98, 0.83, 0.42), (0.6, 0.85), 0.06),
}
LESIONS = tuple(LOOKS)
CLUSTERED = ("hard_exudate",)  # lie close together


@dataclass(frozen=True)
class Lesion:
    """One lesion where it was placed; lengths in pixels."""

    kind: str
    where: str  # quadrant, or macula
    x: float
    y: float
    outer: float  # radius that holds it
    area: tuple[slice, slice]  # rows and columns of the photograph that it colours, h x w of them
    inside: np.ndarray  # bool [h, w], its mask
    cover: np.ndarray  # float32 [h, w], how much of the retina's colour it takes away, 0..1

    @property
    def box(self) -> list[int]:
        """Left, top, right and bottom edge of its mask in the photograph; a pixel is from its number to the next."""
        rows, columns = np.flatnonzero(self.inside.any(axis=1)), np.flatnonzero(self.inside.any(axis=0))
        left, top = self.area[1].start, self.area[0].start
        return [int(v) for v in (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)]


class Canvas:
    """Places lesions one after the other, so that none touches another, a vessel's middle or a forbidden region."""

    def __init__(
        self,
        rng: np.random.Generator,
        eye: Anatomy,
        field: np.ndarray,
        vessels: np.ndarray,
        lesions: Sequence[Lesion] = (),
    ):
        """`field` and `vessels` bool [S, S]; `lesions` are there already."""
        self.rng, self.eye, self.vessels = rng, eye, vessels
        self.field = field
        self.lesions = list(lesions)

    def place(self, kind: str, where: str, count: int, clustered: bool = False) -> int:
        """Draw up to `count` lesions in quadrant `where` (or "macula"); returns how many found room."""
        placed, heart = 0, None
        for tries in range(60 * count):
            if placed == count:
                break
            flame = kind == "haemorrhage" and self.rng.uniform() < 0.35
            shape = self._shape(kind, flame)
            outer = shape[0] * shape[1] * (1 + LOOKS[kind].ragged)
            spread = None if heart is None or tries > 40 * count else heart
            x, y = self._guess(where, spread)
            if not self._free(kind, where, x, y, outer):
                continue
            if flame:  # flames follow the nerve fibres, which run from the disc
                shape = (
                    *shape[:2],
                    float(np.arctan2(y - self.eye.disc[1], x - self.eye.disc[0]) + self.rng.normal(0, 0.25)),
                    shape[3],
                )
            self._draw(kind, where, x, y, outer, shape)
            placed += 1
            if clustered and heart is None:
                heart = (x, y)
        return placed

    def _shape(self, kind: str, flame: bool) -> tuple[float, float, float, np.ndarray]:
        look, unit = LOOKS[kind], self.eye.unit
        radius = max(self.rng.uniform(*look.radius) * unit, 1.0)
        length = 1.0
        if flame:
            radius, length = max(self.rng.uniform(1.7, 2.2) * unit, 1.2), self.rng.uniform(2.4, 3.2)
        elif kind != "microaneurysm":
            length = self.rng.uniform(1.0, 1.25)
        return radius, length, float(self.rng.uniform(0, np.pi)), self.rng.normal(0, 0.5, size=6)

    def _guess(self, where: str, heart: tuple[float, float] | None) -> tuple[float, float]:
        eye, rng = self.eye, self.rng
        if heart is not None:
            x, y = rng.normal(heart, 11 * eye.unit)
        elif where == "macula":
            reach, turn = 0.5 * eye.distance * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
            x, y = eye.fovea[0] + reach * np.cos(turn), eye.fovea[1] + reach * np.sin(turn)
        else:
            x = eye.centre[0] + (1 if self._rightwards(where) else -1) * eye.radius * rng.uniform(0, 0.95)
            y = eye.centre[1] + (-1 if where.startswith("supero") else 1) * eye.radius * rng.uniform(0, 0.95)
        return float(x), float(y)

    def _rightwards(self, quadrant: str) -> bool:
        return (self.eye.fovea[0] > self.eye.disc[0]) == quadrant.endswith("temporal")

    def _free(self, kind: str, where: str, x: float, y: float, outer: float) -> bool:
        eye = self.eye
        margin = outer + 6 * eye.unit
        if np.hypot(x - eye.centre[0], y - eye.centre[1]) > 0.93 * eye.radius - outer:
            return False
        if abs(y - eye.centre[1]) > eye.clip * eye.radius - margin:
            return False
        if np.hypot(x - eye.disc[0], y - eye.disc[1]) < 1.25 * eye.disc[2] * eye.oval + outer:
            return False
        if where == "macula":
            if np.hypot(x - eye.fovea[0], y - eye.fovea[1]) > 0.5 * eye.distance:
                return False
        else:
            if eye.quadrant(x, y) != where or min(abs(x - eye.centre[0]), abs(y - eye.centre[1])) < margin:
                return False
            if np.hypot(x - eye.fovea[0], y - eye.fovea[1]) < 0.3 * eye.distance + outer:
                return False
        if any((x - o.x) ** 2 + (y - o.y) ** 2 < (outer + o.outer + GAP) ** 2 for o in self.lesions):
            return False
        reach = 0.6 * outer if kind in ("cotton_wool_spot", "haemorrhage") else outer + 0.6
        top, left = max(int(y - reach), 0), max(int(x - reach), 0)
        around = self.vessels[top : int(y + reach) + 2, left : int(x + reach) + 2]
        return not around.any() if kind != "cotton_wool_spot" else around.mean() < 0.1

    def _draw(
        self, kind: str, where: str, x: float, y: float, outer: float, shape: tuple[float, float, float, np.ndarray]
    ) -> None:
        look, unit, (radius, length, turn, waves) = LOOKS[kind], self.eye.unit, shape
        edge = look.edge * unit
        reach = int(radius * length * (1 + look.ragged) + 3 * edge) + 2
        left, top = max(round(x) - reach, 0), max(round(y) - reach, 0)
        area = np.s_[top : round(y) + reach + 1, left : round(x) + reach + 1]
        rows, columns = self.field[area].shape
        dx = (np.arange(columns) + left - x)[None, :]
        dy = (np.arange(rows) + top - y)[:, None]
        along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        distance = np.hypot(along / length, across)
        if look.ragged:
            angle = np.arctan2(across, along)
            swing = sum(waves[k] / (k + 1) * np.cos((k + 2) * angle + waves[k + 3] * 6) for k in range(3))
            distance = distance / (1 + look.ragged * np.clip(swing, -1, 1))
        cover = 1 / (1 + np.exp(np.clip((distance - radius) / max(edge, 0.15) * 2.2, -30, 30)))
        inside = distance < radius
        inside[round(y) - top, round(x) - left] = True
        strength = self.rng.uniform(*look.strength)
        if kind == "haemorrhage":
            cover = cover * (0.85 + 0.15 * np.clip(distance / radius, 0, 1))
        self.lesions.append(Lesion(kind, where, x, y, outer, area, inside, (strength * cover).astype(np.float32)))
