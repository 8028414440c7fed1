"""Answering less, but better: what is the risk where only the surest photographs are answered?

Shapes: N photographs, C classes, R resamples, T different confidences.

Risk is the share of the answered photographs that are answered wrongly, coverage the share that is answered. A
threshold answers all photographs of one confidence or none of them, so that the order of equals changes nothing.
"""

from collections.abc import Sequence

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, Metric, put, ratio, resample, weighted_mean
from mdf.evaluation.calibration import top_label
from mdf.evaluation.classification import balanced_accuracy, refuse_too_few, refuse_unusable
from mdf.evaluation.ranking import cumulated, halfway, ties
from mdf.prototypes import single_truth, truth_table

RISKS = (0.05, 0.1, 0.2)
POINTS = 200  # at most, of a curve that is written down


def aurc(confidence: np.ndarray, right: np.ndarray) -> Metric:
    """The metric "mean risk over all coverages" (area under the risk-coverage curve, Geifman & El-Yaniv 2017): 0 where
    nothing is wrong, the share of wrong answers where the confidence says nothing. `right` bool [N].
    """
    curve = cumulated(right, confidence)

    def metric(weights: np.ndarray) -> np.ndarray:
        good, bad = curve(weights)
        answered = good + bad
        risk = np.nan_to_num(ratio(bad, answered))
        return ratio((risk * np.diff(answered, prepend=0)).sum(axis=1), answered[:, -1])

    return metric


def coverage_at(risk: float, confidence: np.ndarray, right: np.ndarray) -> Metric:
    """The metric "greatest coverage of a threshold with at most this risk", 0 where none has. The threshold is chosen
    on the same photographs; one that was fitted beforehand is judged by `abstention_metrics`.
    """
    curve = cumulated(right, confidence)

    def metric(weights: np.ndarray) -> np.ndarray:
        good, bad = curve(weights)
        answered = good + bad
        return ratio(np.where(bad <= risk * answered + 1e-9, answered, 0).max(axis=1), answered[:, -1])

    return metric


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The curve, from the highest threshold on: thresholds, coverage and risk, float [T] each."""
    order, starts = ties(confidence)
    good, bad = (part[0] for part in cumulated(right, confidence)(np.ones((1, len(right)))))
    return confidence[order[starts]], (good + bad) / len(right), bad / (good + bad)


def fit_abstention(confidence: np.ndarray, right: np.ndarray, risk: float) -> float:
    """The confidence below which a photograph is not answered: the lowest threshold whose risk on these photographs,
    which must be validation's, is at most `risk`. Raises UserError where no threshold reaches it.
    """
    thresholds, coverage, reached = risk_coverage(confidence, right)
    fits = np.flatnonzero(reached <= risk + 1e-9)
    if not len(fits):
        best = int(reached.argmin())
        raise UserError(
            f"no confidence reaches a risk of {risk:g} on validation: the least is {reached[best]:.3f}, at a coverage "
            f"of {coverage[best]:.3f}; allow a greater risk"
        )
    last = int(fits[-1])
    if last + 1 == len(thresholds):
        return 0.0  # all are answered
    return halfway(thresholds[last], thresholds[last + 1])


def selective_metrics(
    truth: Sequence[Sequence[str]],
    probabilities: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """`aurc`, `risk` (of answering all) and `coverage_at_risk_05`, `_10` and `_20` with `NAME_ci`, and `curve`: pairs
    of coverage and risk. Arguments and errors as in `classification_metrics`.
    """
    refuse_too_few(truth, classes, groups)
    refuse_unusable(probabilities, classes, groups)
    weights = resample(groups, resamples=resamples, seed=seed)
    confidence, right = top_label(truth_table(truth, classes), probabilities)
    metrics: dict = {"n": len(truth)}
    put(metrics, "aurc", aurc(confidence, right), weights)
    put(metrics, "risk", weighted_mean((~right).astype(float)), weights)
    for risk in RISKS:
        put(metrics, f"coverage_at_risk_{100 * risk:02.0f}", coverage_at(risk, confidence, right), weights)
    _, coverage, reached = risk_coverage(confidence, right)
    some = np.unique(np.linspace(0, len(coverage) - 1, min(POINTS, len(coverage))).astype(int))
    metrics["curve"] = [[float(coverage[i]), float(reached[i])] for i in some]
    return metrics


def abstention_metrics(
    truth: Sequence[Sequence[str]],
    probabilities: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    below: float,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """What is reached where photographs with a confidence under `below`, fitted on validation, are not answered:
    `coverage`, and `accuracy` and `balanced_accuracy` of the answered ones (NaN where none is) with `NAME_ci`; `n`,
    `answered` and `below`. Arguments and errors as in `classification_metrics`.
    """
    classes = list(classes)
    refuse_too_few(truth, classes, groups)
    refuse_unusable(probabilities, classes, groups)
    weights = resample(groups, resamples=resamples, seed=seed)
    confidence, right = top_label(truth_table(truth, classes), probabilities)
    answered = confidence >= below
    predicted = probabilities.argmax(axis=1)
    balanced = balanced_accuracy(single_truth(truth, predicted, classes), predicted, len(classes))
    metrics: dict = {"n": len(truth), "answered": int(answered.sum()), "below": below}
    put(metrics, "coverage", weighted_mean(answered.astype(float)), weights)
    put(metrics, "accuracy", weighted_mean(np.where(answered, right, np.nan)), weights)
    put(metrics, "balanced_accuracy", lambda w: balanced(w * answered), weights)
    return metrics
