"""Linear probe: how much of the diagnosis a straight line through frozen features separates.

Logistic regression on unit vectors, classes weighted by the inverse of their frequency, the strength of its
regularisation chosen on validation photographs alone. Cross-validated by patient, and two encoders compared on the
same photographs.

Shapes: N photographs, D width of the features, C classes.
"""

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from mdf.datasets.splits import group_photographs, split_into_folds
from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, put, resample
from mdf.evaluation.classification import ROBUST, named_metric
from mdf.records import SPLITS, FundusRecord

Metric = Callable[[np.ndarray], np.ndarray]  # weights [R,N] -> values [R], see bootstrap
STRENGTHS = tuple(10.0**power for power in range(-5, 2))  # scikit-learn's C, from the strongest regularisation
ITERATIONS = 1000
VALIDATION = 0.15  # share of the patients of all folds that chooses the strength


@dataclass(frozen=True)
class Probe:
    """A fitted probe. Features are centred and divided by one number: STRENGTHS mean the same for all encoders."""

    centre: np.ndarray  # [D]
    scale: float
    regression: Any  # scikit-learn's
    columns: tuple[int, ...]  # the class of each of its outputs
    classes: int  # C
    strength: float

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """float [N,C]; 0 for a class that was not trained on."""
        table = np.zeros((len(features), self.classes))
        table[:, self.columns] = self.regression.predict_proba((features - self.centre) / self.scale)
        return table


def first_class(truth: Sequence[Sequence[str]], classes: Sequence[str]) -> np.ndarray:
    """int [N]: the first true class of each photograph."""
    return np.array([list(classes).index(names[0]) for names in truth], dtype=int)


def score(name: str, truth: Sequence[Sequence[str]], table: np.ndarray, classes: Sequence[str]) -> float:
    """The point value of a metric."""
    return float(named_metric(name, truth, table, classes)(np.ones((1, len(truth))))[0])


def refuse_unfit(truth: Sequence[Sequence[str]], val_truth: Sequence[Sequence[str]], classes: Sequence[str]) -> None:
    """Raise UserError where training or validation is empty or training knows one class only."""
    if not len(val_truth):
        raise UserError("a probe's regularisation is chosen on validation photographs with a diagnosis; there are none")
    present = np.unique(first_class(truth, classes))
    if len(present) < 2:
        raise UserError(
            f"a probe needs training photographs of two classes, there are those of {len(present)}: "
            f"{', '.join(classes[i] for i in present) or 'none'}"
        )


def fit_probe(
    features: np.ndarray,
    truth: Sequence[Sequence[str]],
    val_features: np.ndarray,
    val_truth: Sequence[Sequence[str]],
    classes: Sequence[str],
) -> Probe:
    """The probe of the strength with the best balanced accuracy on validation, the strongest regularisation of several.

    `truth` names at least one of `classes` a photograph, the first is trained on. Raises UserError where training or
    validation is empty or training knows one class only.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    refuse_unfit(truth, val_truth, classes)
    labels = first_class(truth, classes)
    present = np.unique(labels)
    features = features.astype(float)
    centre = features.mean(axis=0)
    scale = float(np.sqrt(((features - centre) ** 2).mean())) or 1.0
    best: tuple[float, Probe] | None = None
    regression = LogisticRegression(class_weight="balanced", max_iter=ITERATIONS, warm_start=True)
    for strength in STRENGTHS:
        regression.set_params(C=strength)
        with warnings.catch_warnings():  # a nearly separable set has no finite optimum where C is large
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.fit((features - centre) / scale, labels)
        kept = deepcopy(regression)  # the next fit starts from this one and changes it
        probe = Probe(centre, scale, kept, tuple(map(int, present)), len(classes), strength)
        right = score("balanced_accuracy", val_truth, probe.probabilities(val_features), classes)
        if best is None or right > best[0]:
            best = right, probe
    assert best is not None
    return best[1]


@dataclass(frozen=True)
class Folds:
    """Predictions of K probes, each for the photographs of its fold."""

    probabilities: np.ndarray  # [N,C]
    fold: np.ndarray  # int [N]
    strengths: tuple[float, ...]  # chosen in each fold


def rows_of_folds(
    records: Sequence[FundusRecord],
    truth: Sequence[Sequence[str]],
    classes: Sequence[str],
    *,
    folds: int,
    seed: int = 0,
) -> list[tuple[np.ndarray, ...]]:
    """Rows that train, validate and are judged, int [n] each, of each fold; the records and the seed alone decide.

    Raises UserError for too many folds, and for one that no probe could be trained for.
    """
    groups = group_photographs(records)
    found: list[tuple[np.ndarray, ...]] = []
    for fold in range(folds):
        parts = split_into_folds(records, folds=folds, fold=fold, val=VALIDATION, seed=seed, groups=groups)
        train, val, test = (np.array([i for i, r in enumerate(parts) if r.split == s], dtype=int) for s in SPLITS)
        try:
            refuse_unfit([truth[i] for i in train], [truth[i] for i in val], classes)
        except UserError as error:
            raise UserError(f"--folds {folds}: fold {fold}: {error}") from None
        found.append((train, val, test))
    return found


def cross_validate(
    features: np.ndarray,
    truth: Sequence[Sequence[str]],
    classes: Sequence[str],
    folds: Sequence[tuple[np.ndarray, ...]],
) -> Folds:
    """Each photograph judged by a probe that saw nobody of its fold; `folds` are those of `rows_of_folds`.

    `features` [N,D] and `truth` are in the order of the records that were folded.
    """
    table, fold_number = np.zeros((len(truth), len(classes))), np.zeros(len(truth), dtype=int)
    strengths = []
    for fold, (train, val, test) in enumerate(folds):
        probe = fit_probe(features[train], [truth[i] for i in train], features[val], [truth[i] for i in val], classes)
        table[test], fold_number[test] = probe.probabilities(features[test]), fold
        strengths.append(probe.strength)
    return Folds(table, fold_number, tuple(strengths))


def fold_spread(found: Folds, truth: Sequence[Sequence[str]], classes: Sequence[str]) -> dict[str, float]:
    """`NAME_sd`: the standard deviation over the folds of each of ROBUST."""
    spread = {}
    for name in ROBUST:
        values = []
        for fold in np.unique(found.fold):
            rows = np.flatnonzero(found.fold == fold)
            values.append(score(name, [truth[i] for i in rows.tolist()], found.probabilities[rows], classes))
        spread[f"{name}_sd"] = float(np.nanstd(values, ddof=1))
    return spread


def difference(first: Metric, second: Metric) -> Metric:
    """The metric "`second` minus `first`", both on the same resamples."""
    return lambda weights: second(weights) - first(weights)


def paired_difference(
    truth: Sequence[Sequence[str]],
    first: np.ndarray,
    second: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    only: Sequence[str] = ROBUST,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """`second` minus `first` in each of `only`, with `NAME_ci`: both tables [N,C] are of the same photographs, and each
    resample of patients is drawn once for both. An interval above 0 says that the second is better.
    """
    weights = resample(groups, resamples=resamples, seed=seed)
    metrics: dict = {"n": len(truth)}
    for name in only:
        a, b = (named_metric(name, truth, table, classes) for table in (first, second))
        put(metrics, name, difference(a, b), weights)
    return metrics
