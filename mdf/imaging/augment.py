"""Random changes of a training photograph, and what a left-right flip does to the words that go with it."""

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mdf.config import AugmentConfig

if TYPE_CHECKING:
    from mdf.records import FundusRecord


@dataclass(frozen=True)
class Transform:
    """One sampled change; the defaults change nothing."""

    angle: float = 0.0  # degrees, anticlockwise as seen
    scale: float = 1.0  # above 1 the retina grows
    shift: tuple[float, float] = (0.0, 0.0)  # right, down; share of the side
    flip: bool = False  # left-right; the caller must flip the record too
    brightness: float = 1.0  # gain
    contrast: float = 1.0  # gain about the field's mean colour
    gamma: float = 1.0  # exponent on 0..1
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of red, green, blue

    @property
    def moves(self) -> bool:
        """Whether pixels come to lie elsewhere."""
        return self.flip or (self.angle, self.scale, *self.shift) != (0.0, 1.0, 0.0, 0.0)

    @property
    def recolours(self) -> bool:
        """Whether colours change."""
        return (self.brightness, self.contrast, self.gamma, *self.gains) != (1.0,) * 6

    def matrix(self) -> np.ndarray:
        """float64 [2, 3]: output to input coordinates, both -1..1 with y down (torch's affine_grid)."""
        turn = np.deg2rad(self.angle)
        cos, sin = np.cos(turn) / self.scale, np.sin(turn) / self.scale
        linear = np.array([[cos, -sin], [sin, cos]])
        move = -linear @ (2 * np.array(self.shift))
        if self.flip:  # the flip comes first on the way from input to output, so last on the way back
            linear, move = linear * [[-1], [1]], move * [-1, 1]
        return np.column_stack([linear, move])

    def lookup(self, image: np.ndarray, field: np.ndarray) -> np.ndarray:
        """uint8 [256, 3], what becomes of each value of red, green and blue; contrast acts about the mean colour of
        `image` uint8 [H, W, 3] in `field` bool [H, W].
        """
        table = np.arange(256, dtype=np.float64)[:, None] / 255
        count = np.count_nonzero(field)
        sums = [int(image[:, :, channel].sum(where=field, dtype=np.int64)) for channel in range(3)]
        mean = np.array(sums) / count / 255 if count else np.full(3, 0.5)
        table = np.maximum((table - mean) * self.contrast + mean, 0) * self.brightness * np.array(self.gains)
        table = np.clip(table, 0, 1) ** self.gamma
        return (table * 255 + 0.5).astype(np.uint8)


def recolour(image: np.ndarray, lookup: np.ndarray) -> np.ndarray:
    """`image` uint8 [H, W, C] through a table uint8 [256, C] as that of `Transform.lookup`."""
    out = np.empty_like(image)
    for channel in range(image.shape[2]):
        out[:, :, channel] = lookup[:, channel].take(image[:, :, channel])
    return out


def warp(pixels: Tensor, transform: Transform, side: int | None = None, corner: tuple[int, int] = (0, 0)) -> Tensor:
    """The geometric part of `transform` on float [C, H, W]: [C, S, S] of the square of `side` S pixels (None = H) whose
    upper left pixel is at row and column `corner`. What comes from outside of H x W is 0.
    """
    count, height, width = pixels.shape
    side = side or height
    matrix = transform.matrix()
    for axis, (length, first) in enumerate(((width, corner[1]), (height, corner[0]))):
        matrix[axis] *= side / length
        matrix[axis, 2] += (side + 2 * first) / length - 1
    theta = torch.from_numpy(matrix).to(torch.float32)[None]
    grid = torch.nn.functional.affine_grid(theta, [1, count, side, side], align_corners=False)
    return torch.nn.functional.grid_sample(
        pixels[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )[0]


def sample(cfg: AugmentConfig, rng: np.random.Generator) -> Transform:
    """Draw a Transform; the same generator state gives the same one."""
    angle, scale, right, down, brightness, contrast, gamma = rng.uniform(-1, 1, size=7)
    gains = 1 + cfg.colour * rng.uniform(-1, 1, size=3)
    return Transform(
        angle=float(cfg.rotate * angle),
        scale=float(1 + cfg.scale * scale),
        shift=(float(cfg.shift * right), float(cfg.shift * down)),
        flip=bool(rng.uniform() < cfg.flip),
        brightness=float(1 + cfg.brightness * brightness),
        contrast=float(1 + cfg.contrast * contrast),
        gamma=float(np.exp(cfg.gamma * gamma)),
        gains=(float(gains[0]), float(gains[1]), float(gains[2])),
    )


_SIDES = {"left": "right", "right": "left", "左": "右", "右": "左"}
_SIDE_WORD = re.compile(r"\b(?:left|right)\b|左|右", re.IGNORECASE)
_SIDE_CODE = re.compile(r"\bO\.?[DS]\b|\bo\.[ds]\b|\bo[ds](?=\s*[:：])")  # "os" alone is a word of other languages
_CODES = str.maketrans("DSds", "SDsd")


def flip_text(text: str) -> str:
    """Swap every word left and right (also OD and OS, O.D. and O.S., 左 and 右), keeping its case.

    Nasal and temporal stay: they turn with the eye. Every "left" and "right" is taken for a side.
    """

    def other(match: re.Match[str]) -> str:
        word = match.group()
        swapped = _SIDES[word.lower()]
        return swapped.upper() if word.isupper() else swapped.capitalize() if word[0].isupper() else swapped

    return _SIDE_CODE.sub(lambda match: match.group().translate(_CODES), _SIDE_WORD.sub(other, text))


def flip_record(record: "FundusRecord") -> "FundusRecord":
    """The record of the mirrored photograph: the eye and the left/right words of all texts swapped.

    Quadrants do not change (temporal stays temporal); boxes and points stay in the pixels of the unflipped file.
    """
    eye = {"left": "right", "right": "left"}.get(record.eye or "", record.eye)
    return dataclasses.replace(record, eye=eye, texts={kind: flip_text(text) for kind, text in record.texts.items()})
