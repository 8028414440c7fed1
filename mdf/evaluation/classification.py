"""How well the diagnosis is named: accuracy, balanced accuracy, F1, kappa, AUROC, AUPRC and sensitivity at a
specificity, each with a patient-clustered interval, and by class.

Shapes: N photographs, C candidate diagnoses, R resamples.

A photograph may have several true diagnoses. A prediction is right when it is one of them; it is then counted under the
predicted one, otherwise under the first of the true ones. For what ranks scores (AUROC, AUPRC, sensitivity at a
specificity) every true diagnosis is a positive of its class. A class without a photograph (in the data, or in a
resample) has no recall: macro means run over the classes that are there. Several answers to one photograph are judged
by `multi_label`.
"""

from collections.abc import Callable, Sequence

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, Metric, known_mean, put, ratio, resample
from mdf.evaluation.ranking import SINGLE, macro
from mdf.prototypes import single_truth, truth_table

ROBUST = ("balanced_accuracy", "macro_auroc")  # do not change with how frequent a class is
COMPARED = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc")  # between two models
COUNTED = ("accuracy", "balanced_accuracy", "macro_f1", "kappa")  # read from the confusion matrix
NAMES = (*COUNTED, *(f"macro_{name}" for name in SINGLE))
SHOWN = 3  # photographs named in a message
BROKEN = (
    "The checkpoint's weights or its precision are broken: run it in float32, or take another checkpoint of its run"
)


def refuse_too_few(truth: Sequence[Sequence[str]], classes: Sequence[str], groups: Sequence[str]) -> None:
    """Raise UserError where these photographs cannot be judged: fewer than two classes, one patient only, or a true
    diagnosis that is none of `classes`. Needs no model: ask it before the photographs are looked at.
    """
    table = truth_table(truth, classes)
    strange = sorted({name for names in truth for name in names} - set(classes))
    if strange:
        raise UserError(
            f"{', '.join(strange[:SHOWN])}{' …' if len(strange) > SHOWN else ''}: true diagnoses that are none of the "
            f"classes judged ({', '.join(classes)}); map them to these, or judge them as well"
        )
    if lonely := np.flatnonzero(~table.any(axis=1)).tolist():
        raise UserError(f"{len(lonely)} of {len(truth)} photographs have no true diagnosis ({shown(groups, lonely)})")
    there = [name for c, name in enumerate(classes) if table[:, c].any()]
    if len(there) < 2:
        raise UserError(
            f"all {len(truth)} photographs are of the class {there[0] if there else '(none)'}: telling classes apart "
            "needs two or more; evaluate photographs of other classes as well, or leave these tasks out"
        )
    if len(set(groups)) < 2:
        raise UserError(
            f"all {len(truth)} photographs are of one patient: what is true of one says nothing of others, and there "
            "is no interval; evaluate photographs of several patients"
        )


def refuse_unusable(probabilities: np.ndarray, classes: Sequence[str], groups: Sequence[str]) -> None:
    """Raise UserError where scores [N,C] are not numbers, or not one a photograph and class."""
    if probabilities.shape != (len(groups), len(classes)):
        raise UserError(
            f"scores are {list(probabilities.shape)} for {len(groups)} photographs and {len(classes)} classes"
        )
    wrong = np.flatnonzero(~np.isfinite(probabilities).all(axis=1)).tolist()
    if wrong:
        raise UserError(
            f"the scores of {len(wrong)} of {len(groups)} photographs are not numbers ({shown(groups, wrong)}); "
            f"nothing was judged. {BROKEN}"
        )


def shown(groups: Sequence[str], rows: Sequence[int]) -> str:
    """The first of the photographs, for a message."""
    return ", ".join(groups[i] for i in rows[:SHOWN]) + (" …" if len(rows) > SHOWN else "")


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
    return ratio(np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(axis=2))


def precisions(matrix: np.ndarray) -> np.ndarray:
    """float [R, C], NaN for a class that was never named."""
    return ratio(np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(axis=1))


def f1s(matrix: np.ndarray) -> np.ndarray:
    """float [R, C], NaN for a class that is neither there nor named."""
    return ratio(2 * np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(axis=2) + matrix.sum(axis=1))


def accuracy(truth: np.ndarray, predicted: np.ndarray, count: int) -> Metric:
    """The metric "share that is right"."""
    return lambda weights: ratio(weights @ (truth == predicted), weights.sum(axis=1))


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray, count: int) -> Metric:
    """The metric "mean recall of the classes that are there"."""
    return lambda weights: known_mean(recalls(confusion(truth, predicted, count, weights)))


def macro_f1(truth: np.ndarray, predicted: np.ndarray, count: int) -> Metric:
    """The metric "mean F1 of the classes that are there"."""

    def metric(weights: np.ndarray) -> np.ndarray:
        matrix = confusion(truth, predicted, count, weights)
        return known_mean(np.where(matrix.sum(axis=2) > 0, f1s(matrix), np.nan))

    return metric


def kappa(truth: np.ndarray, predicted: np.ndarray, count: int, *, quadratic: bool = False) -> Metric:
    """The metric "agreement beyond chance" (Cohen 1960), from class numbers int [N]; with `quadratic`, a disagreement
    weighs the square of its distance (Cohen 1968), for classes in an order such as grades.

    NaN where truth and prediction are one and the same class throughout.
    """
    number = np.arange(count)
    penalty = (number[:, None] - number) ** 2 if quadratic else (number[:, None] != number)

    def metric(weights: np.ndarray) -> np.ndarray:
        matrix = confusion(truth, predicted, count, weights)
        chance = matrix.sum(axis=2)[:, :, None] * matrix.sum(axis=1)[:, None, :]
        total = matrix.sum(axis=(1, 2))
        return 1 - ratio((penalty * matrix).sum(axis=(1, 2)) * total, (penalty * chance).sum(axis=(1, 2)))

    return metric


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
    """Metrics of N photographs by name, each with `NAME_ci`; `recall` holds that of every class that is there, and
    `confusion` the matrix (truth in rows, in the order of `classes`).

    `truth` names at least one of `classes` a photograph; `probabilities` float [N, C]; `groups` is the patient of each;
    `only` some of NAMES. Raises UserError, see `refuse_too_few` and `refuse_unusable`.
    """
    classes = list(classes)
    refuse_too_few(truth, classes, groups)
    refuse_unusable(probabilities, classes, groups)
    weights = resample(groups, resamples=resamples, seed=seed)
    metrics: dict = {}
    for name in only:
        put(metrics, name, named_metric(name, truth, probabilities, classes), weights)
    predicted = probabilities.argmax(axis=1)
    single = single_truth(truth, predicted, classes)
    matrix = confusion(single, predicted, len(classes), np.ones((1, len(truth))))
    metrics["recall"] = {n: float(r) for n, r in zip(classes, recalls(matrix)[0], strict=True) if not np.isnan(r)}
    metrics["confusion"] = {"classes": classes, "counts": matrix[0].astype(int).tolist()}
    metrics["n"] = len(truth)
    return metrics


def named_metric(
    name: str, truth: Sequence[Sequence[str]], probabilities: np.ndarray, classes: Sequence[str]
) -> Metric:
    """One of NAMES as a function of weights [R, N]; arguments as in `classification_metrics`."""
    if name not in COUNTED:
        return macro(SINGLE[name.removeprefix("macro_")], truth_table(truth, classes), probabilities)
    predicted = probabilities.argmax(axis=1)
    made = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1, "kappa": kappa}[name]
    return made(single_truth(truth, predicted, list(classes)), predicted, len(classes))


def class_table(
    truth: Sequence[Sequence[str]],
    probabilities: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict]:
    """By class that is there: `n` (photographs it is true of), `precision`, `recall` and `f1` of the likeliest class,
    `auroc`, `auprc` and the sensitivities at a specificity of the class against the rest, each with `NAME_ci`.
    Arguments as in `classification_metrics`.
    """
    classes = list(classes)
    refuse_too_few(truth, classes, groups)
    refuse_unusable(probabilities, classes, groups)
    weights, table = resample(groups, resamples=resamples, seed=seed), truth_table(truth, classes)
    predicted = probabilities.argmax(axis=1)
    single = single_truth(truth, predicted, classes)

    def counted(of: Callable[[np.ndarray], np.ndarray], c: int) -> Metric:
        return lambda w: of(confusion(single, predicted, len(classes), w))[:, c]

    found: dict[str, dict] = {}
    for c in np.flatnonzero(table.any(axis=0)).tolist():
        row = found[classes[c]] = {"n": int(table[:, c].sum())}
        for name, of in (("precision", precisions), ("recall", recalls), ("f1", f1s)):
            put(row, name, counted(of, c), weights)
        for name, ranked in SINGLE.items():
            put(row, name, ranked(table[:, c], probabilities[:, c]), weights)
    return found
