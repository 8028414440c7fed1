"""Does a map lie where it should: pointing game, energy and overlap with a true mask, and curves of taking away.

Shapes: U the side of masks, G patches a side, B questions, K shares.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from mdf.dialogue import Turn
from mdf.evaluation.classification import softmax
from mdf.models.degraded import mixed
from mdf.processor import Inputs

# Zhang et al. 2016, "Top-down neural attention by excitation backprop": 15 pixels, on pictures of about 500
TOLERANCE = 0.03  # share of the square's side
SHARES = (0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of the field that is taken away; lesions are small


def enlarge(values: np.ndarray, side: int) -> np.ndarray:
    """A map [h,w] of the square as [U,U], even between the middles of its cells."""
    given = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None, None]
    return F.interpolate(given, (side, side), mode="bilinear", antialias=values.shape[0] > side)[0, 0].numpy()


def pointing(values: np.ndarray, mask: np.ndarray, field: np.ndarray, tolerance: float = TOLERANCE) -> float:
    """1 where the map's maximum inside the field lies at most `tolerance` of the side beside the mask, else 0. Of
    several equal maxima the share that does; so a map that is even everywhere counts as a random one.

    `values` float [U,U], `mask` bool [U,U] not empty, `field` bool [U,U].
    """
    inside = np.where(field, values, -np.inf)
    near = ndimage.distance_transform_edt(~mask) <= tolerance * mask.shape[0]
    return float(near[inside == inside.max()].mean())


def energy(values: np.ndarray, mask: np.ndarray, grid: int) -> float:
    """Share of the map's positive mass that lies in patches which the mask touches; NaN for a map without any.

    On the memory's patches, as the grounding loss counts: a microaneurysm is a thirtieth of one.
    """
    held = F.adaptive_max_pool2d(torch.from_numpy(mask)[None].float(), grid)[0].numpy() > 0
    mass = F.adaptive_avg_pool2d(torch.from_numpy(np.maximum(values, 0))[None].double(), grid)[0].numpy()
    return float(mass[held].sum() / mass.sum()) if mass.sum() > 0 else float("nan")


def overlap(values: np.ndarray, mask: np.ndarray, field: np.ndarray) -> float:
    """IoU of the mask with the map's highest pixels inside the field, as many as the mask has there. NaN for none.

    Of pixels with equal values those that come first are taken.
    """
    true = mask & field
    count = int(true.sum())
    if not count:
        return float("nan")
    order = np.argsort(-np.where(field, values, -np.inf), axis=None, kind="stable")[:count]
    top = np.zeros(mask.size, dtype=bool)
    top[order] = True
    both = int((top & true.ravel()).sum())
    return both / (2 * count - both)


def ranks(values: np.ndarray, field: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float [U,U]: of each pixel of the field the share of the field that the map puts before it, 0 to 1, equal ones
    in random order; 2 outside.
    """
    rows = np.flatnonzero(field)
    order = np.lexsort((rng.random(len(rows)), -values.ravel()[rows]))
    found = np.full(field.size, 2.0)
    found[rows[order]] = np.arange(len(rows)) / len(rows)
    return found.reshape(field.shape)


def curve(
    answer: Callable[[Inputs], np.ndarray],
    whole: Inputs,
    other: Inputs,
    order: Tensor,
    shares: Sequence[float] = SHARES,
    ends: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """float [B,K]: the answer's probability when shares of `whole` are replaced by `other`, the first in `order`
    [B,U,U] (`ranks`) first. With `other` blurred it is the deletion curve, with the two exchanged the insertion curve
    (Petsiuk et al. 2018, RISE).

    `answer` gives a probability [B] for the pictures; `ends` are those at share 0 and 1 where they are known.
    """
    found = []
    for share in shares:
        if ends is not None and share in (0, 1):
            found.append(ends[int(share)])
        else:
            found.append(answer(mixed(whole, other, order < share)))
    return np.stack(found, 1)


def area(curves: np.ndarray, shares: Sequence[float] = SHARES) -> np.ndarray:
    """Area [B] below curves [B,K] over shares from 0 to 1, by trapezoids."""
    return np.trapezoid(curves, np.asarray(shares, dtype=float), axis=1)


def answer_probability(
    model: Any, conversations: Sequence[list[Turn]], candidates: Sequence[Sequence[str]]
) -> Callable[[Inputs], np.ndarray]:
    """The probability [B] of each conversation's first candidate among all of its, as a function of the photographs."""

    def answer(inputs: Inputs) -> np.ndarray:
        scores = model.score(inputs, list(conversations), [list(c) for c in candidates])
        return np.array([softmax(np.asarray([row], dtype=float))[0, 0] for row in scores])

    return answer
