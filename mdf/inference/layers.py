"""What is laid over a photograph: masks as pale areas with an edge, so that what lies under them can be seen, and maps.

Shapes: H, W of the photograph; a picture longer than `side` pixels is made smaller.
"""

import numpy as np
from PIL import Image, ImageChops

SIDE = 1600  # pixels
PALE = 0.35  # of a layer's colour within its edge
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
    """A map float [H,W] of 0 to 1 from black over red and yellow to white; black is no light when it is laid over."""
    small = np.asarray(fitted(Image.fromarray(np.clip(np.asarray(values, dtype=np.float32), 0, 1))))[..., None]
    return Image.fromarray((np.clip(small * 3 - np.arange(3), 0, 1) * 255).astype(np.uint8))


def laid(photograph: Image.Image, values: np.ndarray) -> Image.Image:
    """A photograph, made darker, with a map float [H,W] of 0 to 1 over it as light, as a page shows it."""
    dark = Image.eval(photograph.convert("RGB"), lambda value: value // 2)
    return ImageChops.screen(dark, heat(values).resize(photograph.size))


def fitted(image: Image.Image, side: int = SIDE) -> Image.Image:
    """At most `side` pixels long."""
    if max(image.size) <= side:
        return image
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX if image.mode == "L" else Image.Resampling.LANCZOS)
