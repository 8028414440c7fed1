"""How well the diagnosis is named: accuracy, balanced accuracy, macro F1 and macro AUROC, each with a patient-clustered
interval.

Shapes: N photographs, C candidate diagnoses, R resamples.

A photograph may have several true diagnoses. A prediction is right when it is one of them; it is then counted under the
predicted one, otherwise under the first of the true ones. For the AUROC every true diagnosis is a positive of its
class. A class without a photograph (in the data, or in a resample) has no recall: macro means run over the classes that
are there.
"""

from collections.abc import Callable, Sequence

import numpy as np

from mdf.evaluation.bootstrap import RESAMPLES, known_mean, put, resample
from mdf.prototypes import single_truth, truth_table

ROBUST = ("balanced_accuracy", "macro_auroc")  # do not change with how frequent a class is
NAMES = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc")


def softmax(logits: np.ndarray) -> np.ndarray:
    """float [N,C] probabilities."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def confusion(truth: np.ndarray, predicted: np.ndarray, count: int, weights: np.ndarray) -> np.ndarray:
    """float [R, C, C] with truth in rows, from class numbers int [N]."""
    cells = np.zeros((len(truth), count * count))
    cells[np.arange(len(truth)), truth * count + predicted] = 1
    return (weights @ cells).reshape(len(weights), count, count)


def recalls(matrix: np.ndarray) -> np.ndarray:
    """float [R, C], NaN for a class without a photograph."""
    right, total = np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(axis=2)
    return np.where(total > 0, right / np.maximum(total, 1), np.nan)


def accuracy(truth: np.ndarray, predicted: np.ndarray, count: int) -> Callable[[np.ndarray], np.ndarray]:
    """The metric "share that is right"."""
    return lambda weights: (weights @ (truth == predicted)) / weights.sum(axis=1)


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray, count: int) -> Callable[[np.ndarray], np.ndarray]:
    """The metric "mean recall of the classes that are there"."""
    return lambda weights: known_mean(recalls(confusion(truth, predicted, count, weights)))


def macro_f1(truth: np.ndarray, predicted: np.ndarray, count: int) -> Callable[[np.ndarray], np.ndarray]:
    """The metric "mean F1 of the classes that are there"."""

    def metric(weights: np.ndarray) -> np.ndarray:
        matrix = confusion(truth, predicted, count, weights)
        rows, columns = matrix.sum(axis=2), matrix.sum(axis=1)
        f1 = 2 * np.diagonal(matrix, axis1=1, axis2=2) / np.maximum(rows + columns, 1)
        return known_mean(np.where(rows > 0, f1, np.nan))

    return metric


def auroc(positive: np.ndarray, score: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The metric "chance that a positive has the higher score", ties count half; `positive` and `score` [N].

    NaN where a resample holds no positive or no negative.
    """
    order = np.argsort(score, kind="stable")
    starts = np.concatenate([[0], np.flatnonzero(np.diff(score[order])) + 1])

    def metric(weights: np.ndarray) -> np.ndarray:
        drawn = weights[:, order]
        positives = np.add.reduceat(drawn * positive[order], starts, axis=1)
        negatives = np.add.reduceat(drawn * ~positive[order], starts, axis=1)
        below = np.cumsum(negatives, axis=1) - negatives
        pairs = positives.sum(axis=1) * negatives.sum(axis=1)
        return np.where(pairs > 0, (positives * (below + negatives / 2)).sum(axis=1) / np.maximum(pairs, 1), np.nan)

    return metric


def macro_auroc(table: np.ndarray, probabilities: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The metric "mean one-versus-rest AUROC of the classes that are there"; both arrays [N, C]."""
    single = [auroc(table[:, c], probabilities[:, c]) for c in range(table.shape[1])]
    return lambda weights: known_mean(np.stack([metric(weights) for metric in single], axis=1))


def classification_metrics(
    truth: Sequence[Sequence[str]],
    probabilities: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    only: Sequence[str] = NAMES,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Metrics of N photographs by name, each with `NAME_ci`; `recall` holds that of every class that is there.

    `truth` names at least one of `classes` a photograph; `probabilities` float [N, C]; `groups` is the patient of each;
    `only` some of NAMES.
    """
    classes = list(classes)
    single = single_truth(truth, probabilities.argmax(axis=1), classes)
    weights = resample(groups, resamples=resamples, seed=seed)
    metrics: dict = {}
    for name in only:
        put(metrics, name, named_metric(name, truth, probabilities, classes), weights)
    matrix = confusion(single, probabilities.argmax(axis=1), len(classes), np.ones((1, len(truth))))
    metrics["recall"] = {n: float(r) for n, r in zip(classes, recalls(matrix)[0], strict=True) if not np.isnan(r)}
    metrics["n"] = len(truth)
    return metrics


def named_metric(
    name: str, truth: Sequence[Sequence[str]], probabilities: np.ndarray, classes: Sequence[str]
) -> Callable[[np.ndarray], np.ndarray]:
    """One of NAMES as a function of weights [R, N]; arguments as in `classification_metrics`."""
    if name == "macro_auroc":
        return macro_auroc(truth_table(truth, classes), probabilities)
    predicted = probabilities.argmax(axis=1)
    made = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1}[name]
    return made(single_truth(truth, predicted, list(classes)), predicted, len(classes))
