"""Confidence intervals: photographs of one patient are not independent, so whole patients are drawn, not photographs.

Shapes: N photographs, R resamples. Every metric here is a function of weights [R, N] (how often each photograph was
drawn), so that the point value (one row of ones) and its interval come from the same code.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mdf.errors import UserError
from mdf.records import FundusRecord, group_of

Metric = Callable[[np.ndarray], np.ndarray]  # weights [R, N] -> values [R], NaN where it is not defined
RESAMPLES = 1000
CHUNK = 100  # resamples worked on at once, which bounds the memory


def patient_groups(records: Sequence[FundusRecord]) -> list[str]:
    """The group of each photograph, see `group_of`: its patient, or itself where no patient is known. Patients of one
    number in two sources are two.
    """
    return ["\t".join(group_of(record)) for record in records]


def line_groups(lines: Sequence[Mapping]) -> list[str]:
    """The same from lines of predictions.jsonl; those of earlier versions name no source."""
    return patient_groups([FundusRecord(x["id"], "", x.get("patient"), source=x.get("source")) for x in lines])


def resample(groups: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """float32 [R, N]: how often each photograph is in each resample, when as many groups as there are are drawn with
    replacement. The same groups and seed give the same weights. Raises UserError where there is no photograph.
    """
    if not len(groups):
        raise UserError("there is nothing to judge: no photograph, or no question about one, is left for this task")
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return counts[:, index].astype(np.float32)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part` / `whole`, NaN where `whole` is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def percentiles(values: np.ndarray) -> list[float] | None:
    """The 95 % interval of the R values of a metric. Resamples without a value (NaN) are left out; where fewer than
    half have one there is no interval (None).

    Neither is there where some have none and all others the same: so few patients carry the figure, often one, that
    other patients were never seen, and an interval of no width would claim certainty.
    """
    known = values[~np.isnan(values)]
    if len(known) * 2 < len(values) or (len(known) < len(values) and np.ptp(known) < 1e-12):
        return None
    return [float(v) for v in np.percentile(known, [2.5, 97.5])]


def with_interval(metric: Metric, weights: np.ndarray) -> tuple[float, list[float] | None, np.ndarray]:
    """Point value, its 95 % interval and the R values behind it, see `percentiles`.

    Where every resample is the same, which is so where there is one patient only, there is no interval either.
    """
    point = float(metric(np.ones((1, weights.shape[1])))[0])
    values = np.concatenate([metric(weights[i : i + CHUNK].astype(np.float64)) for i in range(0, len(weights), CHUNK)])
    return point, None if (weights == 1).all() else percentiles(values), values


def known_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis, leaving NaN out; NaN where nothing is known."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))


def weighted_mean(values: np.ndarray) -> Metric:
    """The metric "mean of one value a photograph"; `values` float [N], NaN = not assessed."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    return lambda weights: ratio(weights @ filled, weights @ known)


def put(metrics: dict, name: str, metric: Metric, weights: np.ndarray) -> np.ndarray:
    """Write `name` and `name`_ci into `metrics`; returns the R values for differences between metrics."""
    metrics[name], metrics[f"{name}_ci"], values = with_interval(metric, weights)
    return values
