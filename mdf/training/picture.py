"""A picture of a batch as the model sees it.

Shapes: B photographs, S encoder input side, U U-Net input side, K masks.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from mdf.batches import Batch
from mdf.imaging.preprocess import Preprocessing

TILE = 192  # pixels a photograph
COLOURS = (
    (0, 255, 0),
    (255, 0, 0),
    (255, 0, 255),
    (255, 255, 0),
    (0, 255, 255),
    (255, 128, 0),
    (255, 255, 255),
    (128, 128, 255),
)


def pixels(normalised: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """[3,H,W] (or [1,H,W], grey) as the model gets it -> uint8 [H,W,3]."""
    image = normalised.expand(3, -1, -1).permute(1, 2, 0).numpy() * np.array(std) + np.array(mean)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def batch_picture(batch: Batch, preprocessing: Preprocessing, path: Path, rows: int = 8) -> None:
    """Write a PNG, a row a photograph: the encoder's input, the U-Net's input, and that with its masks."""
    p, lines = preprocessing, []
    for i in range(min(rows, len(batch.pixel_values))):
        unet = pixels(batch.unet_pixels[i], p.unet_mean, p.unet_std)
        tiles = [pixels(batch.pixel_values[i], p.encoder_mean, p.encoder_std), unet]
        if batch.masks is not None and batch.masks.shape[1]:
            painted = unet.copy()
            for k, mask in enumerate(batch.masks[i].bool().numpy()):
                painted[mask] = painted[mask] // 3 + np.array(COLOURS[k % len(COLOURS)], dtype=np.uint8) // 3 * 2
            tiles.append(painted)
        lines.append(np.concatenate([np.asarray(Image.fromarray(t).resize((TILE, TILE))) for t in tiles], axis=1))
    Image.fromarray(np.concatenate(lines, axis=0)).save(path)
