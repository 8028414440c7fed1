"""Does the checkpoint use the picture? The diagnosis again with a blank picture and with another patient's picture."""

from collections.abc import Sequence

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, put, resample
from mdf.evaluation.classification import accuracy, balanced_accuracy
from mdf.prototypes import single_truth


def shuffle(groups: Sequence[str], *, seed: int = 0) -> np.ndarray:
    """int [N]: for each photograph the row of another one, each used once and never one of the same patient.

    Raises UserError where one patient has more than half of the photographs, since then there is no such order.
    """
    rng = np.random.default_rng(seed)
    names, index, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    largest = int(sizes.max())
    if 2 * largest > len(index):
        raise UserError(
            f"one patient has {largest} of the {len(index)} photographs: they cannot all get another patient's; "
            "evaluate more patients, or leave `controls` out of --tasks"
        )
    # Patients in random order, each in one piece: a step as long as the longest piece always leaves it.
    order = np.lexsort((rng.random(len(index)), rng.permutation(len(names))[index]))
    other = np.empty(len(index), dtype=int)
    other[order] = np.roll(order, -largest)
    return other


def control_metrics(
    truth: Sequence[Sequence[str]],
    probabilities: dict[str, np.ndarray],
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """`real`, `blank` and `shuffled` (the keys of `probabilities`, float [N, C] each) with accuracy and balanced
    accuracy, `majority` (always the most frequent diagnosis of these photographs, no picture and no model), and `gain`:
    balanced accuracy of `real` less the better of `blank` and `shuffled`, drawn on the same resamples.
    """
    classes = list(classes)
    weights = resample(groups, resamples=resamples, seed=seed)
    tables = {
        name: (single_truth(truth, p.argmax(axis=1), classes), p.argmax(axis=1)) for name, p in probabilities.items()
    }
    frequent = np.array([[name in names for name in classes] for names in truth]).sum(axis=0).argmax()
    always = np.full(len(truth), frequent)
    tables["majority"] = (single_truth(truth, always, classes), always)
    metrics: dict = {}
    for name, (single, predicted) in tables.items():
        metrics[name] = {}
        put(metrics[name], "accuracy", accuracy(single, predicted, len(classes)), weights)
        put(metrics[name], "balanced_accuracy", balanced_accuracy(single, predicted, len(classes)), weights)
    real, *others = (balanced_accuracy(*tables[name], len(classes)) for name in ("real", "blank", "shuffled"))
    put(metrics, "gain", lambda w: real(w) - np.maximum(*(other(w) for other in others)), weights)
    return metrics


def verdict(metrics: dict) -> str:
    """One plain paragraph: what `control_metrics` says about the use of the picture."""

    def said(name: str) -> str:
        value, interval = metrics[name]["balanced_accuracy"], metrics[name]["balanced_accuracy_ci"]
        return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")

    interval = metrics["gain_ci"]
    if interval is None:
        answer = "Too few photographs to say whether this checkpoint uses the picture."
    elif interval[0] > 0:
        answer = "This checkpoint USES the picture: it does worse without it, beyond chance."
    else:
        answer = "NO SIGN that this checkpoint uses the picture: without it, it does as well within the interval."
    return (
        f"{answer}\nbalanced accuracy: {said('real')} with the photograph, {said('blank')} with a blank one, "
        f"{said('shuffled')} with another patient's, {said('majority')} always saying the most frequent diagnosis"
    )
