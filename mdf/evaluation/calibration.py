"""Does a probability mean what it says? Calibration error, Brier score, reliability diagram and temperature scaling.

Shapes: N photographs, C classes, R resamples, B bins.

`probabilities` [N,C] are those of the candidate diagnoses; the confidence of a photograph is its greatest one. A
prediction is right when it is one of the true diagnoses, as in `classification`.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from mdf.evaluation.bootstrap import RESAMPLES, Metric, put, ratio, resample, weighted_mean
from mdf.evaluation.classification import refuse_too_few, refuse_unusable, softmax
from mdf.evaluation.ranking import ties
from mdf.prototypes import single_truth, truth_table

BINS = 15
SMALLEST = 1e-12  # a probability of 0 has no logarithm
TEMPERATURES = (0.001, 20.0)  # where the best one is looked for


def binned(score: np.ndarray, weights: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bins of equal mass: the photographs int [N] in the order of their score, where in them each different score
    begins int [T], and the bin of each different score int [R,T].

    Photographs of one score are in one bin, that in which the middle of their mass lies, whatever their order.
    """
    order, starts = ties(-score)
    mass = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(mass, axis=1) - mass / 2
    share = np.nan_to_num(ratio(middle, mass.sum(axis=1, keepdims=True)))
    return order, starts, np.minimum((share * bins + 1e-9).astype(int), bins - 1)


def calibration_error(score: np.ndarray, true: np.ndarray, bins: int = BINS) -> Metric:
    """The metric "expected calibration error with adaptive bins": over bins of equal mass, the mean distance of the
    mean score from the share that is true (Naeini et al. 2015, bins as Nixon et al. 2019). `score` 0..1 and `true` [N].
    """
    gap = score - true

    def metric(weights: np.ndarray) -> np.ndarray:
        order, starts, number = binned(score, weights, bins)
        drawn = np.add.reduceat((weights * gap)[:, order], starts, axis=1)
        cell = number + bins * np.arange(len(weights))[:, None]
        sums = np.bincount(cell.ravel(), weights=drawn.ravel(), minlength=bins * len(weights))
        return ratio(np.abs(sums).reshape(len(weights), bins).sum(axis=1), weights.sum(axis=1))

    return metric


def top_label(table: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The confidence of each photograph, float [N], and whether the prediction is one of the true ones, bool [N]."""
    predicted = probabilities.argmax(axis=1)
    rows = np.arange(len(predicted))
    return probabilities[rows, predicted], table[rows, predicted]


def classwise_error(table: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> Metric:
    """The metric "mean over the classes of their calibration error" (Kull et al. 2019); both arrays [N,C]."""
    each = [calibration_error(probabilities[:, c], table[:, c], bins) for c in range(table.shape[1])]
    return lambda weights: np.mean([metric(weights) for metric in each], axis=0)


def brier(single: np.ndarray, probabilities: np.ndarray) -> Metric:
    """The metric "squared distance of the probabilities from the truth", summed over the classes, 0..2 (Brier 1950);
    `single` int [N] the class of each photograph.
    """
    return weighted_mean(((probabilities - np.eye(probabilities.shape[1])[single]) ** 2).sum(axis=1))


def log_loss(table: np.ndarray, probabilities: np.ndarray) -> Metric:
    """The metric "mean negative logarithm of the probability that the answer is a true one"; both arrays [N,C]."""
    return weighted_mean(-np.log(np.maximum((probabilities * table).sum(axis=1), SMALLEST)))


def reliability(score: np.ndarray, true: np.ndarray, weights: np.ndarray, bins: int = BINS) -> list[dict]:
    """The points of a reliability diagram, a bin of equal mass each: `confidence` (mean score), `accuracy` (share that
    is true) with `accuracy_ci`, and `n`; `weights` [R,N] are the resamples, the bins are the same in all.
    """
    order, starts, number = binned(score, np.ones((1, len(score))), bins)
    of = np.empty(len(score), dtype=int)
    of[order] = np.repeat(number[0], np.diff(starts, append=len(score)))
    points = []
    for b in np.unique(of):
        inside = of == b
        point: dict = {"confidence": float(score[inside].mean()), "n": int(inside.sum())}
        put(point, "accuracy", weighted_mean(np.where(inside, true, np.nan)), weights)
        points.append(point)
    return points


def calibration_metrics(
    truth: Sequence[Sequence[str]],
    probabilities: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    bins: int = BINS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """`brier` and `log_loss` with `NAME_ci`, `confidence` (its mean, to be held against the accuracy) likewise, `ece`
    and `classwise_ece` without, and `reliability`: the points of the diagram. Arguments and errors as in
    `classification_metrics`.

    The two calibration errors are absolute values, which chance lifts in each bin: of 200 photographs a perfectly
    calibrated model has an `ece` of about 0.09, of 1,000 one of 0.04. A resample has that chance twice. So percentiles
    of resamples lie above the truth (where the model is calibrated, always), and mirrored at the point they hold it in
    33 to 60 of 100 such cases. A false interval would be worse than none; `brier` and `log_loss` have theirs.
    """
    classes = list(classes)
    refuse_too_few(truth, classes, groups)
    refuse_unusable(probabilities, classes, groups)
    weights, table = resample(groups, resamples=resamples, seed=seed), truth_table(truth, classes)
    confidence, right = top_label(table, probabilities)
    single = single_truth(truth, probabilities.argmax(axis=1), classes)
    metrics: dict = {"n": len(truth), "bins": bins}
    once = np.ones((1, len(truth)))
    metrics["ece"] = float(calibration_error(confidence, right, bins)(once)[0])
    metrics["classwise_ece"] = float(classwise_error(table, probabilities, bins)(once)[0])
    put(metrics, "brier", brier(single, probabilities), weights)
    put(metrics, "log_loss", log_loss(table, probabilities), weights)
    put(metrics, "confidence", weighted_mean(confidence), weights)
    metrics["reliability"] = reliability(confidence, right.astype(float), weights, bins)
    return metrics


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """float [N,C]: the probabilities of the logits divided by `temperature` (Guo et al. 2017). Above 1 they come closer
    to each other; which one is the greatest does not change.
    """
    return softmax(np.log(np.maximum(probabilities, SMALLEST)) / temperature)


def fit_temperature(table: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature within TEMPERATURES of the least `log_loss`; both arrays [N,C].

    Where every photograph is answered rightly the loss falls without end as the temperature does: nothing can be
    fitted then, the temperature is 1, and that is said. Answers that say nothing get the highest one, near a guess;
    answers that are right far more often than their nearly equal probabilities say may get the lowest, which is said.
    """
    if top_label(table, probabilities)[1].all():
        print("temperature: left at 1, since every validation photograph is answered rightly, and surely")
        return 1.0
    once = np.ones((1, len(table)))

    def loss(logarithm: float) -> float:
        return float(log_loss(table, scaled(probabilities, math.exp(logarithm)))(once)[0])

    # a coarse grid first: the loss has one minimum where each photograph has one diagnosis, otherwise it may have more
    low, high = map(math.log, TEMPERATURES)
    grid = np.linspace(low, high, 41)
    best = int(np.argmin([loss(t) for t in grid]))
    if best == 0:
        print(f"temperature: {TEMPERATURES[0]:g}, the lowest tried; the probabilities hardly differ from each other")
        return TEMPERATURES[0]
    ends = float(grid[best - 1]), float(grid[min(best + 1, len(grid) - 1)])
    return math.exp(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-4}).x)
