"""The pictures of one eye that go with its report: the photograph, its masks as layers that can be switched, maps.

Shapes: H, W of the photograph as it was given; U the U-Net's input side.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from mdf.imaging.frame import Frame

COLOURS = (  # of the masks in their order; told apart with red-green blindness too
    (0, 190, 255),
    (255, 220, 0),
    (255, 90, 200),
    (120, 255, 160),
    (255, 140, 0),
    (170, 120, 255),
    (255, 255, 255),
    (40, 80, 255),
)
COVER = 0.75  # of the photograph, by the colour of a mask


@dataclass(frozen=True)
class Pictures:
    """Of one eye. Those of a report are a list in the order of `report.eyes`."""

    photograph: np.ndarray  # uint8 [H,W,3], without the metadata of its file
    layers: dict[str, np.ndarray] = field(default_factory=dict)  # name of a mask -> bool [H,W]; may be empty
    maps: dict[str, np.ndarray] = field(default_factory=dict)  # name -> float [H,W] in 0..1, e.g. an evidence map

    def colour(self, name: str) -> tuple[int, int, int]:
        """RGB of a layer, the same wherever it is shown."""
        return COLOURS[list(self.layers).index(name) % len(COLOURS)]

    def layer(self, name: str) -> np.ndarray:
        """uint8 [H,W,4]: one mask in its colour, transparent elsewhere, to be laid over the photograph."""
        picture = np.zeros((*self.photograph.shape[:2], 4), dtype=np.uint8)
        picture[self.layers[name] > 0] = (*self.colour(name), round(255 * COVER))
        return picture

    def overlay(self) -> Image.Image:
        """The photograph with all layers over it, RGB [H,W]."""
        picture = Image.fromarray(self.photograph).convert("RGBA")
        for name in self.layers:
            picture.alpha_composite(Image.fromarray(self.layer(name)))
        return picture.convert("RGB")


def place_masks(frame: "Frame", masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Masks, bool or probabilities [U,U] on the U-Net's square -> bool [H,W] on the photograph's own pixels."""
    return {name: frame.place(np.asarray(mask, dtype=np.float32)) >= 0.5 for name, mask in masks.items()}
