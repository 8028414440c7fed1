"""What is laid over a photograph: masks as pale areas with an edge, so that what lies under them can be seen, and maps.

Shapes: H, W of the photograph; a picture longer than `side` pixels is made smaller.
"""

import numpy as np
from PIL import Image

SIDE = 1600  # pixels
PALE = 0.35  # of a layer's colour within its edge
# dark to bright, told apart by brightness alone; after matplotlib's "viridis" (CC0)
HEAT = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=float)
COVER = 0.7  # of the photograph below the highest value of a map
COVERED = 96  # of 255: how much of a smaller pixel a mask has to cover


def outlined(mask: np.ndarray, colour: tuple[int, int, int], side: int = SIDE) -> Image.Image:
    """A mask bool [H,W] in its colour, pale within a full edge, transparent elsewhere."""
    small = np.asarray(fitted(Image.fromarray(mask.astype(np.uint8) * 255), side)) > COVERED
    inner = small.copy()
    inner[1:] &= small[:-1]
    inner[:-1] &= small[1:]
    inner[:, 1:] &= small[:, :-1]
    inner[:, :-1] &= small[:, 1:]
    picture = np.zeros((*small.shape, 4), dtype=np.uint8)
    picture[small] = (*colour, 255)
    picture[inner] = (*colour, round(255 * PALE))
    return Image.fromarray(picture)


def heat(values: np.ndarray) -> Image.Image:
    """A map float [H,W] of 0 to 1 in colours from dark to bright, the more to be seen through the lower it is."""
    small = np.asarray(fitted(Image.fromarray(np.clip(np.asarray(values, dtype=np.float32), 0, 1)), SIDE // 4))
    colour = np.stack([np.interp(small * (len(HEAT) - 1), np.arange(len(HEAT)), HEAT[:, c]) for c in range(3)], -1)
    return Image.fromarray(np.dstack([colour, 255 * COVER * np.sqrt(small)]).round().astype(np.uint8))


def laid(photograph: Image.Image, values: np.ndarray) -> Image.Image:
    """A photograph in grey with a map float [H,W] of 0 to 1 over it."""
    grey = Image.eval(photograph.convert("L"), lambda value: round(0.8 * value)).convert("RGBA")
    grey.alpha_composite(heat(values).resize(photograph.size, Image.Resampling.BICUBIC))
    return grey.convert("RGB")


def fitted(image: Image.Image, side: int = SIDE) -> Image.Image:
    """At most `side` pixels long."""
    if max(image.size) <= side:
        return image
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX if image.mode == "L" else Image.Resampling.LANCZOS)
