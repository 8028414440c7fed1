"""How well a score ranks what is positive above what is negative: AUROC, average precision, sensitivity at a
specificity.

Shapes: N photographs, C classes, R resamples, T different scores.

Equal scores cannot be told apart by any threshold: they are passed all at once, so that the order of the photographs
changes nothing.
"""

from collections.abc import Callable

import numpy as np

from mdf.evaluation.bootstrap import Metric, known_mean, ratio

Single = Callable[[np.ndarray, np.ndarray], Metric]  # positive bool [N], score [N] -> its metric
ROUNDING = 1e-9  # of the negatives; sums of weights are floating-point numbers


def ties(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int [N]: the photographs from the highest score on, and int [T]: where in them each different score begins."""
    order = np.argsort(-score, kind="stable")
    return order, np.concatenate([[0], np.flatnonzero(np.diff(score[order])) + 1])


def halfway(above: float, below: float) -> float:
    """A threshold that the score `above` reaches and the lower one `below` does not: halfway between them, or `above`
    itself where no number lies between.
    """
    middle = (above + below) / 2
    return float(middle if middle > below else above)


def cumulated(positive: np.ndarray, score: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Maps weights [R,N] to the positives and the negatives with at least each of the T scores, [R,T] each, from the
    highest score on.
    """
    order, starts = ties(score)
    sides = positive[order], ~positive[order]

    def curve(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        drawn = weights[:, order]
        found, alarms = (np.cumsum(np.add.reduceat(drawn * side, starts, axis=1), axis=1) for side in sides)
        return found, alarms

    return curve


def auroc(positive: np.ndarray, score: np.ndarray) -> Metric:
    """The metric "chance that a positive has the higher score", ties count half; `positive` bool and `score` [N].

    NaN where a resample holds no positive or no negative.
    """
    curve = cumulated(positive, score)

    def metric(weights: np.ndarray) -> np.ndarray:
        found, alarms = curve(weights)
        risen, passed = np.diff(found, prepend=0), np.diff(alarms, prepend=0)
        return ratio((passed * (found - risen / 2)).sum(axis=1), found[:, -1] * alarms[:, -1])

    return metric


def average_precision(positive: np.ndarray, score: np.ndarray) -> Metric:
    """The metric "mean precision over the positives, each at its own score" (AUPRC, without interpolation).

    NaN where a resample holds no positive. Its value by chance is the share of the positives.
    """
    curve = cumulated(positive, score)

    def metric(weights: np.ndarray) -> np.ndarray:
        found, alarms = curve(weights)
        precision = np.nan_to_num(ratio(found, found + alarms))
        return ratio((np.diff(found, prepend=0) * precision).sum(axis=1), found[:, -1])

    return metric


def sensitivity_at(specificity: float) -> Single:
    """The metric "greatest sensitivity of a threshold whose specificity is at least `specificity`", 0..1.

    The threshold is chosen on the same photographs, anew in each resample: it says what the score could do, not what a
    threshold fixed beforehand does (see `calibration.OperatingPoint`). NaN without a positive or a negative.
    """

    def single(positive: np.ndarray, score: np.ndarray) -> Metric:
        curve = cumulated(positive, score)

        def metric(weights: np.ndarray) -> np.ndarray:
            found, alarms = curve(weights)
            negatives = alarms[:, -1]
            allowed = (1 - specificity + ROUNDING) * negatives
            best = np.where(alarms <= allowed[:, None], found, 0).max(axis=1)
            return np.where(negatives > 0, ratio(best, found[:, -1]), np.nan)

        return metric

    return single


SINGLE: dict[str, Single] = {
    "auroc": auroc,
    "auprc": average_precision,
    "sensitivity_at_specificity_80": sensitivity_at(0.8),
    "sensitivity_at_specificity_95": sensitivity_at(0.95),
}


def macro(single: Single, table: np.ndarray, probabilities: np.ndarray) -> Metric:
    """The metric "mean of `single`, one class against the rest, over the classes that are there"; both arrays [N,C]."""
    each = [single(table[:, c], probabilities[:, c]) for c in range(table.shape[1])]
    return lambda weights: known_mean(np.stack([metric(weights) for metric in each], axis=1))
