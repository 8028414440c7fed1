"""A lesion's mask taken apart into single lesions: neighbours whose outlines run into each other are counted apart."""

import numpy as np
from scipy import ndimage

SMALLEST = 3  # pixels of the U-Net's input; fewer are taken for noise
PROMINENCE = 1.0  # by how much the logit rises again between two lesions of one region, at least
STEP = 0.25  # between the levels of the logit that are looked at
AROUND = np.ones((3, 3))  # pixels that share a corner are one region


def logit(probabilities: np.ndarray) -> np.ndarray:
    """float32 of probabilities, within +-16."""
    p = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(p / (1 - p)).astype(np.float32)


def take_apart(height: np.ndarray) -> tuple[np.ndarray, int]:
    """Logits [U,U] -> labels int [U,U] of the single lesions where they are above 0, from 1, and their number.

    A region is cut where it has two peaks or more with a saddle between them that lies PROMINENCE below each; every
    pixel goes to the nearest. A loss that weighs the few pixels of lesions more draws them too large, so that the
    regions of neighbours meet; their peaks stay apart.
    """
    labels, count = ndimage.label(height > 0, structure=AROUND)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    renamed = np.zeros(count + 1, dtype=labels.dtype)
    kept = np.flatnonzero(sizes >= SMALLEST)
    renamed[kept] = np.arange(1, len(kept) + 1)
    labels, count = renamed[labels], len(kept)
    for level in np.arange(STEP, float(height.max(initial=0)) - PROMINENCE, STEP):
        parts, number = ndimage.label((height > level) & (labels > 0), structure=AROUND)
        peaks = ndimage.maximum_position(height, parts, range(1, number + 1))
        by_parent: dict[int, list[int]] = {}
        for part, (y, x) in enumerate(peaks, 1):
            if height[y, x] >= level + PROMINENCE:
                by_parent.setdefault(int(labels[y, x]), []).append(part)
        for parent, own in by_parent.items():
            if len(own) > 1:
                share_out(labels, parent, parts, own, count)
                count += len(own) - 1
    return labels, count


def share_out(labels: np.ndarray, parent: int, parts: np.ndarray, own: list[int], count: int) -> None:
    """Give each pixel of the region `parent` to the nearest of its parts `own`; the first keeps the region's label."""
    place = ndimage.find_objects((labels == parent).astype(np.uint8))[0]
    inside, here = labels[place] == parent, parts[place]
    seeds = np.where(inside & np.isin(here, own), here, 0)
    rows, columns = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    nearest = seeds[rows, columns]
    for number, part in enumerate(own):
        labels[place][inside & (nearest == part)] = parent if number == 0 else count + number
