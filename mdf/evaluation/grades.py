"""How well a grade is told: classes in an order, where one step beside is better than three.

Shapes: N photographs, R resamples.
"""

from collections.abc import Sequence

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, put, resample, weighted_mean
from mdf.evaluation.classification import accuracy, balanced_accuracy, kappa


def grade_metrics(
    truth: Sequence[int],
    predicted: Sequence[int],
    grades: Sequence[str],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """`quadratic_kappa`, `kappa`, `accuracy`, `balanced_accuracy`, `within_one` (share at most one grade beside) and
    `error` (mean distance in grades), each with `NAME_ci`, and `n`.

    `truth` and `predicted` are numbers of `grades`, from the lightest on; `groups` is the patient of each photograph.
    Raises UserError for a number that is no grade, where all have one grade, and for one patient only.
    """
    sides = {"true": np.asarray(truth, dtype=float), "predicted": np.asarray(predicted, dtype=float)}
    for side, values in sides.items():
        wrong = [v for v in values.tolist() if not (0 <= v < len(grades) and v == int(v))]
        if wrong:
            raise UserError(
                f"{len(wrong)} {side} grades are none of {', '.join(grades)} (numbered from 0): {wrong[0]:g} …"
            )
    real, said = (values.astype(int) for values in sides.values())
    if len(set(real.tolist())) < 2:
        raise UserError(f"all {len(real)} photographs have one true grade: agreement beyond chance needs two or more")
    if len(set(groups)) < 2:
        raise UserError(f"all {len(real)} photographs are of one patient: there is no interval; evaluate several")
    weights = resample(groups, resamples=resamples, seed=seed)
    apart = np.abs(real - said).astype(float)
    metrics: dict = {"n": len(real)}
    put(metrics, "quadratic_kappa", kappa(real, said, len(grades), quadratic=True), weights)
    for name, metric in (("kappa", kappa), ("accuracy", accuracy), ("balanced_accuracy", balanced_accuracy)):
        put(metrics, name, metric(real, said, len(grades)), weights)
    put(metrics, "within_one", weighted_mean((apart <= 1).astype(float)), weights)
    put(metrics, "error", weighted_mean(apart), weights)
    return metrics
