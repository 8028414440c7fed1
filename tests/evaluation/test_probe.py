import numpy as np
import pytest

from mdf.errors import UserError
from mdf.evaluation.probe import (
    STRENGTHS,
    cross_validate,
    fit_probe,
    fold_spread,
    paired_difference,
    rows_of_folds,
    score,
)
from mdf.records import FundusRecord

CLASSES = ("normal", "glaucoma", "amd")


def clusters(count: int, seed: int, noise: float = 0.2) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """Unit vectors [N,8] round three directions, and their classes; the first class is ten times as frequent."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(count) < 10 / 12, 0, rng.integers(1, 3, count))
    vectors = np.eye(8)[labels] + noise * rng.normal(size=(count, 8))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), [(CLASSES[i],) for i in labels]


def test_separable_classes_are_read_whatever_their_frequency():
    probe = fit_probe(*clusters(300, 0), *clusters(150, 1), CLASSES)
    features, truth = clusters(300, 2)
    assert score("balanced_accuracy", truth, probe.probabilities(features), CLASSES) > 0.95
    assert np.allclose(probe.probabilities(features).sum(axis=1), 1)


def test_the_strength_is_chosen_on_validation_and_the_strongest_of_equals():
    features, truth = clusters(200, 0, noise=0.02)
    assert fit_probe(features, truth, *clusters(100, 1, noise=0.02), CLASSES).strength == STRENGTHS[0]


def test_no_strength_does_better_on_validation(monkeypatch):
    (train, truth), (val, val_truth) = clusters(60, 0, noise=0.5), clusters(60, 1, noise=0.5)

    def reached() -> float:
        return score(
            "balanced_accuracy", val_truth, fit_probe(train, truth, val, val_truth, CLASSES).probabilities(val), CLASSES
        )

    chosen, each = reached(), []
    for strength in STRENGTHS:
        monkeypatch.setattr("mdf.evaluation.probe.STRENGTHS", (strength,))
        each.append(reached())
    # a warm start and a cold one end at the same optimum but for the solver's tolerance: one photograph in a class of 5
    assert chosen >= max(each) - 1 / 15 and max(each) > min(each)


def test_scale_and_centre_of_the_features_do_not_matter():
    (train, truth), (val, val_truth) = clusters(200, 0), clusters(100, 1)
    one = fit_probe(train, truth, val, val_truth, CLASSES)
    other = fit_probe(5 + 7 * train, truth, 5 + 7 * val, val_truth, CLASSES)
    assert one.strength == other.strength
    # the solver stops at a gradient of 1e-4
    assert np.allclose(one.probabilities(val), other.probabilities(5 + 7 * val), atol=1e-3)


def test_a_class_without_training_photographs_is_never_named():
    features, truth = clusters(200, 0)
    known = [i for i, names in enumerate(truth) if names != ("amd",)]
    probe = fit_probe(features[known], [truth[i] for i in known], features, truth, CLASSES)
    assert (probe.probabilities(features)[:, 2] == 0).all()


def test_one_class_or_no_validation_is_said():
    features, truth = clusters(20, 0)
    with pytest.raises(UserError, match="validation"):
        fit_probe(features, truth, features[:0], [], CLASSES)
    with pytest.raises(UserError, match=r"those of 1: normal"):
        fit_probe(features[:3], [("normal",)] * 3, features, truth, CLASSES)


def people(count: int, truth: list[tuple[str, ...]]) -> list[FundusRecord]:
    """Two photographs a person."""
    return [FundusRecord(str(i), f"{i}.png", patient=str(i // 2), diagnosis=truth[i]) for i in range(count)]


def test_nobody_is_judged_by_a_probe_that_saw_them():
    rng = np.random.default_rng(0)
    own = np.repeat(np.eye(60), 2, axis=0)  # a direction for each person and nothing else: only a leak could be learnt
    truth = [(CLASSES[c],) for c in np.repeat(rng.integers(0, 2, 60), 2)]
    records = people(120, truth)
    folds = rows_of_folds(records, truth, CLASSES[:2], folds=4)
    found = cross_validate(own, truth, CLASSES[:2], folds)
    assert sorted(set(found.fold)) == [0, 1, 2, 3]
    assert all(found.fold[2 * p] == found.fold[2 * p + 1] for p in range(60))
    assert score("balanced_accuracy", truth, found.probabilities, CLASSES[:2]) < 0.7
    again = cross_validate(own, truth, CLASSES[:2], rows_of_folds(records, truth, CLASSES[:2], folds=4))
    assert np.array_equal(found.probabilities, again.probabilities)


def test_folds_find_what_is_there():
    features, truth = clusters(240, 0)
    folds = rows_of_folds(people(240, truth), truth, CLASSES, folds=3)
    found = cross_validate(features, truth, CLASSES, folds)
    assert score("balanced_accuracy", truth, found.probabilities, CLASSES) > 0.9
    assert len(found.strengths) == 3 and fold_spread(found, truth, CLASSES)["balanced_accuracy_sd"] < 0.15


def test_a_paired_difference_is_narrower_than_two_apart():
    rng = np.random.default_rng(0)
    truth = [(CLASSES[i],) for i in rng.integers(0, 2, 400)]
    right = np.array([[names[0] == c for c in CLASSES[:2]] for names in truth], dtype=float)
    wrong = np.flatnonzero(rng.random(400) < 0.3)
    first = right.copy()
    first[wrong] = 1 - right[wrong]
    second = first.copy()
    second[wrong[:30]] = right[wrong[:30]]
    groups = [str(i // 2) for i in range(400)]
    difference = paired_difference(truth, first, second, CLASSES[:2], groups)
    low, high = difference["balanced_accuracy_ci"]
    assert 0 < low < difference["balanced_accuracy"] < high
    assert difference["balanced_accuracy"] == pytest.approx(
        score("balanced_accuracy", truth, second, CLASSES[:2]) - score("balanced_accuracy", truth, first, CLASSES[:2])
    )
    same = paired_difference(truth, first, first, CLASSES[:2], groups)
    assert same["balanced_accuracy"] == 0 and same["balanced_accuracy_ci"] == [0, 0]
