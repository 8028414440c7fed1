"""Zero-shot screening: a class is a few texts, and a photograph belongs to the class whose texts lie nearest.

Nothing is trained, so classes that training never saw can be asked for. The texts are written into metrics.json: the
figures depend on them.

Shapes: N photographs, C classes, E embedding width.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, known_mean, put, resample
from mdf.evaluation.classification import ROBUST, classification_metrics, confusion, recalls, softmax
from mdf.prototypes import single_truth, to_candidate
from mdf.records import FundusRecord
from mdf.vocabulary import canonical, kind

VARIANTS = ("names", "described")  # without and with expert descriptions


def classes_of(
    records: Sequence[FundusRecord], candidates: Sequence[str], asked: Sequence[str] = ()
) -> tuple[str, ...]:
    """The classes to tell apart: `asked`, else the checkpoint's candidates and, after them, the diagnoses of the
    records that are neither among them nor a kind of one: classes that training never saw.

    Raises UserError for an asked class that the vocabulary does not know, and where one alone is asked for.
    """
    if asked:
        names = tuple(dict.fromkeys(canonical(name) for name in asked))
        if len(names) < 2:
            raise UserError(f"--classes {names[0]}: name two or more classes to tell apart")
        return names
    found = {n for r in records for n in r.diagnosis or () if kind(n) == "diagnosis"}
    return (*candidates, *sorted(n for n in found if to_candidate(n, candidates) is None))


def zero_shot_probabilities(image_embeds: np.ndarray, class_embeds: np.ndarray, scale: float) -> np.ndarray:
    """float [N,C] from unit vectors [N,E] and [C,E]; `scale` is the model's multiplier of cosines."""
    return softmax(scale * (image_embeds.astype(float) @ class_embeds.T.astype(float)))


def recall_of(
    columns: Sequence[int], truth: Sequence[Sequence[str]], probabilities: np.ndarray, classes: Sequence[str]
) -> Callable[[np.ndarray], np.ndarray]:
    """The metric "mean recall of the classes `columns`" as a function of weights [R,N]."""
    predicted = probabilities.argmax(axis=1)
    single = single_truth(truth, predicted, list(classes))
    return lambda weights: known_mean(recalls(confusion(single, predicted, len(classes), weights))[:, columns])


def zero_shot_metrics(
    truth: Sequence[Sequence[str]],
    probabilities: Mapping[str, np.ndarray],
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    unseen: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """For each of VARIANTS what does not change with how frequent a class is: balanced accuracy and macro AUROC with
    `NAME_ci`, and the recall of each class that is there; `unseen_balanced_accuracy` is the mean recall of the `unseen`
    classes. `chance` is that of a guess among the classes.
    """
    weights = resample(groups, resamples=resamples, seed=seed)
    columns = [list(classes).index(name) for name in unseen]
    metrics: dict = {"n": len(truth), "classes": len(classes), "chance": 1 / len(classes), "unseen": list(unseen)}
    for variant, table in probabilities.items():
        part = classification_metrics(truth, table, classes, groups, only=ROBUST, resamples=resamples, seed=seed)
        if columns:
            put(part, "unseen_balanced_accuracy", recall_of(columns, truth, table, classes), weights)
        metrics[variant] = part
    return metrics
