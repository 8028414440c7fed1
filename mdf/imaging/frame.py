"""Where the squares that the networks see lie in the photograph, so that maps can be put back on its own pixels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mdf.imaging.field import find_field
from mdf.imaging.preprocess import Preprocessing


@dataclass(frozen=True)
class Frame:
    """What of one photograph a network sees as its square: the box round the field of view, padded to a centred square;
    or, not `padded`, just the box, which may be stretched and may reach beyond the photograph.
    """

    height: int  # of the photograph, pixels
    width: int
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom exclusive
    padded: bool = True

    @classmethod
    def of(cls, image: np.ndarray, preprocessing: Preprocessing) -> "Frame":
        """The frame of a photograph uint8 [H,W,3] as `Preprocessing.prepare` cuts it for the U-Net."""
        height, width = image.shape[:2]
        return cls(height, width, find_field(image).box if preprocessing.crop_field else (0, 0, width, height))

    @classmethod
    def of_encoder(cls, image: np.ndarray, preprocessing: Preprocessing) -> "Frame":
        """The same for the encoder, which may be shown another part of the photograph (`Preprocessing.shown`)."""
        height, width = image.shape[:2]
        if preprocessing.shown == "field":
            return cls.of(image, preprocessing)
        box = (0, 0, width, height)
        if preprocessing.shown == "pad":
            box = (0, 0, max(height, width), max(height, width))
        elif preprocessing.recipe is not None:
            # of `crop` the middle alone; of `squash` that is all of it
            side, (rows, columns) = preprocessing.recipe.side, preprocessing.recipe.size(height, width)
            row, column = preprocessing.recipe.corner(rows, columns)
            left, right = (round(place * width / columns) for place in (column, column + side))
            top, bottom = (round(place * height / rows) for place in (row, row + side))
            box = (left, top, right, bottom)
        return cls(height, width, box, padded=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the network's square in the photograph's pixels."""
        left, top, right, bottom = self.box
        return (self.side, self.side) if self.padded else (bottom - top, right - left)

    @property
    def side(self) -> int:
        """Of the square, in the photograph's pixels; the longer one where it is stretched."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the square's upper left pixel in the photograph; they may lie outside of it."""
        left, top, right, bottom = self.box
        if not self.padded:
            return top, left
        return top - (self.side - (bottom - top)) // 2, left - (self.side - (right - left)) // 2

    def place(self, values: np.ndarray, *, smooth: bool = True) -> np.ndarray:
        """A map float [h,w] of the square -> float32 [H,W] on the photograph, 0 beside the square.

        Values run evenly from the middle of one of the map's cells to the next and are never beyond the highest and the
        lowest; with `smooth` False each cell is even in itself.
        """
        given = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None, None]
        how: dict[str, Any] = {"mode": "nearest-exact"}
        if smooth:
            how = {"mode": "bicubic", "antialias": values.shape[0] > self.side}
        rows, columns = self.shape
        large = F.interpolate(given, (rows, columns), **how)[0, 0].clamp(given.min(), given.max()).numpy()
        out = np.zeros((self.height, self.width), dtype=np.float32)
        row, column = self.corner
        top, left = max(row, 0), max(column, 0)
        bottom, right = min(row + rows, self.height), min(column + columns, self.width)
        out[top:bottom, left:right] = large[top - row : bottom - row, left - column : right - column]
        return out
