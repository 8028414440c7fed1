"""How well the masks are drawn: Dice, IoU, clDice of vessels and AUROC by pixel inside the field of view, mean over
photographs.

Shapes: N photographs, K masks, U the U-Net's input side.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, put, ratio, resample, weighted_mean
from mdf.evaluation.ranking import auroc

LINES = ("vessel", "artery", "vein")  # masks of thin branching things, for which clDice says whether they connect
# the eight neighbours of a pixel, clockwise from the one above
NEIGHBOURS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def dice(
    probabilities: np.ndarray, masks: np.ndarray, known: np.ndarray, field: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Dice [N, K] and, for photographs whose true mask is empty, the share of the field that was marked wrongly [N, K].

    `probabilities` and `masks` [N, K, U, U], `known` bool [N, K], `field` bool [N, 1, U, U]. NaN where it does not
    apply: Dice says nothing about an empty mask (it would be 0 or 1 by one pixel), so those photographs are told apart.
    """
    marked, true = (probabilities >= 0.5) & field, (masks > 0.5) & field
    both, marked_size, true_size = ((a).sum(axis=(2, 3)) for a in (marked & true, marked, true))
    overlap = np.where(known & (true_size > 0), 2 * both / np.maximum(marked_size + true_size, 1), np.nan)
    area = np.maximum(field.sum(axis=(2, 3)), 1)
    return overlap, np.where(known & (true_size == 0), marked_size / area, np.nan)


def further(
    probabilities: np.ndarray, masks: np.ndarray, known: np.ndarray, field: np.ndarray, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """`iou`, `cldice` and `auroc` by pixel, float [N, K] each, of photographs whose true mask has pixels, else NaN; the
    second of masks in LINES alone. Arguments as in `dice`; `names` are those of the K masks.

    Raises UserError for probabilities that are not numbers.
    """
    if not np.isfinite(probabilities).all():
        raise UserError(
            "the masks' probabilities are not all numbers; nothing was judged. The checkpoint's U-Net or its precision "
            "is broken: run it in float32, or take another checkpoint of its run"
        )
    marked, true = (probabilities >= 0.5) & field, (masks > 0.5) & field
    drawn = known & true.any(axis=(2, 3))
    both, either = ((a).sum(axis=(2, 3)) for a in (marked & true, marked | true))
    found = {"iou": np.where(drawn, ratio(both, either), np.nan)}
    found |= {name: np.full(drawn.shape, np.nan) for name in ("cldice", "auroc")}
    for n, k in np.argwhere(drawn).tolist():
        inside = field[n, 0]
        if names[k] in LINES:
            found["cldice"][n, k] = cldice(marked[n, k], true[n, k])
        pixels = true[n, k][inside]
        found["auroc"][n, k] = auroc(pixels, probabilities[n, k][inside])(np.ones((1, len(pixels))))[0]
    return found


def cldice(marked: np.ndarray, true: np.ndarray) -> float:
    """Harmonic mean of the share of the marked mask's centre line that lies in the true mask and of the share of the
    true mask's centre line that is marked (Shit et al. 2021); both bool [U, U], `true` not empty.
    """
    line, true_line = thin(marked), thin(true)
    right = (line & true).sum() / max(int(line.sum()), 1)
    whole = (true_line & marked).sum() / max(int(true_line.sum()), 1)
    return float(2 * right * whole / (right + whole)) if right + whole else 0.0


def thin(mask: np.ndarray) -> np.ndarray:
    """bool [H, W]: the centre lines of a mask, one pixel wide and connected as it is (Guo & Hall 1989, algorithm A1).

    Not that of Zhang & Suen (1984), which takes squares of four pixels and diagonal vessels two pixels wide away whole.
    Written out, since scikit-image would be a dependency for this alone.
    """
    padded = np.pad(mask.astype(bool), 1)
    height, width = mask.shape
    inside = padded[1:-1, 1:-1]
    while True:
        before = inside.sum()
        for removable in _removable():
            code = np.zeros(mask.shape, dtype=np.uint8)
            for bit, (down, right) in enumerate(NEIGHBOURS):
                code |= padded[1 + down : 1 + down + height, 1 + right : 1 + right + width].astype(np.uint8) << bit
            inside &= ~removable[code]
        if inside.sum() == before:
            return inside.copy()


@cache
def _removable() -> tuple[np.ndarray, np.ndarray]:
    """bool [256] for the two halves of a pass: whether a pixel with these neighbours (bit k: NEIGHBOURS[k]) may go."""
    around = (np.arange(256)[:, None] >> np.arange(8)) & 1 == 1
    side, corner = around[:, ::2], around[:, 1::2]  # above, right, below, left; each with the corner clockwise of it
    pieces = (~side & (corner | np.roll(side, -1, axis=1))).sum(axis=1)
    count = np.minimum((side | np.roll(corner, 1, axis=1)).sum(axis=1), (side | corner).sum(axis=1))
    edge = (pieces == 1) & (count >= 2) & (count <= 3)
    up, up_right, right, down_right, down, down_left, left, up_left = around.T
    return edge & ~((up | up_right | ~down_right) & right), edge & ~((down | down_left | ~up_left) & left)


def segmentation_metrics(
    overlap: np.ndarray,
    wrong: np.ndarray,
    names: Sequence[str],
    groups: Sequence[str],
    more: Mapping[str, np.ndarray] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Per mask: `dice` with `dice_ci` over photographs whose true mask has pixels, `n` (photographs whose mask is
    known), `n_drawn` (of those, with pixels) and `marked_where_none` (mean share of the field marked where the true
    mask is empty). A mask that no photograph knows is left out. Both arrays [N, K] as from `dice`; `more` are those
    of `further`, by name, each put beside `dice` where it applies.
    """
    weights = resample(groups, resamples=resamples, seed=seed)
    metrics: dict = {}
    for k, name in enumerate(names):
        drawn, empty = ~np.isnan(overlap[:, k]), ~np.isnan(wrong[:, k])
        if not (drawn.any() or empty.any()):
            continue
        metrics[name] = {"n": int(drawn.sum() + empty.sum()), "n_drawn": int(drawn.sum())}
        if drawn.any():
            put(metrics[name], "dice", weighted_mean(overlap[:, k]), weights)
            for measure, values in (more or {}).items():
                if not np.isnan(values[:, k]).all():
                    put(metrics[name], measure, weighted_mean(values[:, k]), weights)
        if empty.any():
            put(metrics[name], "marked_where_none", weighted_mean(wrong[:, k]), weights)
    return metrics
