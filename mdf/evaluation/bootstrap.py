"""Confidence intervals: photographs of one patient are not independent, so whole patients are drawn, not photographs.

Shapes: N photographs, R resamples. Every metric here is a function of weights [R, N] (how often each photograph was
drawn), so that the point value (one row of ones) and its interval come from the same code.
"""

from collections.abc import Callable, Sequence

import numpy as np

RESAMPLES = 1000
CHUNK = 100  # resamples worked on at once, which bounds the memory


def patient_groups(patients: Sequence[str | None], ids: Sequence[str]) -> list[str]:
    """The group of each photograph: its patient, or itself where no patient is known."""
    return [f"patient {p}" if p is not None else f"photograph {i}" for p, i in zip(patients, ids, strict=True)]


def resample(groups: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """float32 [R, N]: how often each photograph is in each resample, when as many groups as there are are drawn with
    replacement. The same groups and seed give the same weights.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return counts[:, index].astype(np.float32)


def with_interval(
    metric: Callable[[np.ndarray], np.ndarray], weights: np.ndarray
) -> tuple[float, list[float] | None, np.ndarray]:
    """Point value, its 95 % interval and the R values behind it.

    `metric` maps weights [r, N] to values [r], NaN where it is not defined. Resamples without a value are left out of
    the interval; where fewer than half have one there is no interval (None).
    """
    point = float(metric(np.ones((1, weights.shape[1])))[0])
    values = np.concatenate([metric(weights[i : i + CHUNK].astype(np.float64)) for i in range(0, len(weights), CHUNK)])
    known = values[~np.isnan(values)]
    if len(known) * 2 < len(values):
        return point, None, values
    return point, [float(v) for v in np.percentile(known, [2.5, 97.5])], values


def known_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis, leaving NaN out; NaN where nothing is known."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    return np.where(count > 0, np.where(known, values, 0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def weighted_mean(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The metric "mean of one value a photograph"; `values` float [N], NaN = not assessed."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)

    def metric(weights: np.ndarray) -> np.ndarray:
        total = weights @ known
        return np.where(total > 0, (weights @ filled) / np.maximum(total, 1), np.nan)

    return metric


def put(metrics: dict, name: str, metric: Callable[[np.ndarray], np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Write `name` and `name`_ci into `metrics`; returns the R values for differences between metrics."""
    metrics[name], metrics[f"{name}_ci"], values = with_interval(metric, weights)
    return values
