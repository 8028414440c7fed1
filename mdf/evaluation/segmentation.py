"""How well the masks are drawn: Dice at 0.5 inside the field of view, mean over photographs.

Shapes: N photographs, K masks, U the U-Net's input side.
"""

from collections.abc import Sequence

import numpy as np

from mdf.evaluation.bootstrap import RESAMPLES, put, resample, weighted_mean


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


def segmentation_metrics(
    overlap: np.ndarray,
    wrong: np.ndarray,
    names: Sequence[str],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Per mask: `dice` with `dice_ci` over photographs whose true mask has pixels, `n` (photographs whose mask is
    known), `n_drawn` (of those, with pixels) and `marked_where_none` (mean share of the field marked where the true
    mask is empty). A mask that no photograph knows is left out. Both arrays [N, K] as from `dice`.
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
        if empty.any():
            put(metrics[name], "marked_where_none", weighted_mean(wrong[:, k]), weights)
    return metrics
