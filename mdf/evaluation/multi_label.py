"""Several diagnoses of one photograph: a yes or no for each class, by a threshold of its own.

Shapes: N photographs, C classes, R resamples. The thresholds were fitted beforehand, on other photographs (see
`calibration.OperatingPoint`).
"""

from collections.abc import Callable, Sequence

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, Metric, known_mean, put, ratio, resample, weighted_mean
from mdf.prototypes import truth_table

Counts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # float [R,C] each


def counts(table: np.ndarray, yes: np.ndarray, weights: np.ndarray) -> Counts:
    """Photographs rightly named, wrongly named, missed and rightly not named, by class, from bool [N,C]."""
    return weights @ (table & yes), weights @ (~table & yes), weights @ (table & ~yes), weights @ ~(table | yes)


def f1(found: np.ndarray, wrong: np.ndarray, missed: np.ndarray) -> np.ndarray:
    """NaN where the class is neither there nor named."""
    return ratio(2 * found, 2 * found + wrong + missed)


def macro_f1(table: np.ndarray, yes: np.ndarray) -> Metric:
    """The metric "mean F1 of the classes that are there"."""

    def metric(weights: np.ndarray) -> np.ndarray:
        found, wrong, missed, _ = counts(table, yes, weights)
        return known_mean(np.where(found + missed > 0, f1(found, wrong, missed), np.nan))

    return metric


def micro_f1(table: np.ndarray, yes: np.ndarray) -> Metric:
    """The metric "F1 of all answers together, whatever their class"."""
    return lambda weights: f1(*(part.sum(axis=1) for part in counts(table, yes, weights)[:3]))


def subset_accuracy(table: np.ndarray, yes: np.ndarray) -> Metric:
    """The metric "share of the photographs with every class right"."""
    return weighted_mean((table == yes).all(axis=1).astype(float))


def multi_label_metrics(
    truth: Sequence[Sequence[str]],
    yes: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """`macro_f1`, `micro_f1`, `subset_accuracy`, `macro_sensitivity` and `macro_specificity` with `NAME_ci`, and
    `per_class` with `sensitivity`, `specificity`, `precision`, `f1` and `n` of each class that is there.

    `yes` bool [N,C] in the order of `classes`; `truth` names the true classes of each photograph, others than
    `classes` do not count. Raises UserError where no class is true of some photographs and not of others, and for one
    patient only.
    """
    table, weights = truth_table(truth, classes), resample(groups, resamples=resamples, seed=seed)
    if not (table.any(axis=0) & ~table.all(axis=0)).any():
        raise UserError(
            f"none of the classes {', '.join(classes)} is true of some of the {len(truth)} photographs and not of "
            "others: there is nothing to tell apart; evaluate others as well"
        )
    if len(set(groups)) < 2:
        raise UserError(f"all {len(truth)} photographs are of one patient: there is no interval; evaluate several")

    def share(of: Callable[..., np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda w: of(*counts(table, yes, w))

    shares = {
        "sensitivity": share(lambda found, wrong, missed, left: ratio(found, found + missed)),
        "specificity": share(lambda found, wrong, missed, left: ratio(left, left + wrong)),
        "precision": share(lambda found, wrong, missed, left: ratio(found, found + wrong)),
        "f1": share(lambda found, wrong, missed, left: f1(found, wrong, missed)),
    }

    def macro(name: str) -> Metric:
        return lambda w: known_mean(np.where(w @ table > 0, shares[name](w), np.nan))

    def single(name: str, c: int) -> Metric:
        return lambda w: shares[name](w)[:, c]

    metrics: dict = {"n": len(truth)}
    put(metrics, "macro_f1", macro_f1(table, yes), weights)
    put(metrics, "micro_f1", micro_f1(table, yes), weights)
    put(metrics, "subset_accuracy", subset_accuracy(table, yes), weights)
    for name in ("sensitivity", "specificity"):
        put(metrics, f"macro_{name}", macro(name), weights)
    metrics["per_class"] = {}
    for c in np.flatnonzero(table.any(axis=0)).tolist():
        row = metrics["per_class"][classes[c]] = {"n": int(table[:, c].sum())}
        for name in shares:
            put(row, name, single(name, c), weights)
    return metrics
