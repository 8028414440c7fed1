import numpy as np
import pytest

from mdf.errors import UserError
from mdf.evaluation.bootstrap import resample
from mdf.evaluation.selective import (
    abstention_metrics,
    aurc,
    coverage_at,
    fit_abstention,
    risk_coverage,
    selective_metrics,
)

CLASSES = ("normal", "amd")


def test_by_hand():
    confidence, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True])
    thresholds, coverage, risk = risk_coverage(confidence, right)
    assert thresholds.tolist() == [0.9, 0.8, 0.7, 0.6] and coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])
    once = np.ones((1, 4))
    assert aurc(confidence, right)(once)[0] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert coverage_at(0.1, confidence, right)(once)[0] == 0.25
    assert coverage_at(0.3, confidence, right)(once)[0] == 1
    assert coverage_at(0.1, confidence, ~right)(once)[0] == 0
    # the surest first, then all that are as sure as each other
    assert aurc(np.full(4, 0.5), right)(once)[0] == 0.25


def test_a_resample_equals_the_same_photographs_written_out_in_any_order():
    rng = np.random.default_rng(0)
    confidence, right = rng.random(50).round(1), rng.random(50) < 0.7
    weights = resample([str(i // 2) for i in range(50)], resamples=6).astype(float)
    for metric in (aurc, lambda c, r: coverage_at(0.2, c, r)):
        values = metric(confidence, right)(weights)
        for row, value in zip(weights, values, strict=True):
            drawn = rng.permutation(np.repeat(np.arange(50), row.astype(int)))
            assert value == pytest.approx(metric(confidence[drawn], right[drawn])(np.ones((1, len(drawn))))[0])


def model(count: int, seed: int, knows: bool) -> tuple[list[tuple[str, ...]], np.ndarray, list[str]]:
    """Right in 75 of 100; where it `knows`, surer of what is right."""
    rng = np.random.default_rng(seed)
    numbers, right = rng.integers(2, size=count), rng.random(count) < 0.75
    sure = 0.55 + 0.4 * np.where(right & knows, rng.random(count), rng.random(count) ** (3 if knows else 1))
    said = np.where(right, numbers, 1 - numbers)
    probabilities = np.where(np.eye(2, dtype=bool)[said], sure[:, None], 1 - sure[:, None])
    return [(CLASSES[n],) for n in numbers], probabilities, [str(i // 2) for i in range(count)]


def test_a_model_that_knows_what_it_knows_gets_better_by_answering_less():
    knows, boasts = (selective_metrics(*_with_classes(model(1000, 1, k))) for k in (True, False))
    assert knows["aurc"] < knows["risk"] - 0.05 and knows["coverage_at_risk_20"] > 0.5
    assert abs(boasts["aurc"] - boasts["risk"]) < 0.03
    assert knows["aurc_ci"][0] < knows["aurc"] < knows["aurc_ci"][1]
    assert knows["curve"][-1] == pytest.approx([1, knows["risk"]]) and len(knows["curve"]) <= 200


def _with_classes(data):
    truth, probabilities, groups = data
    return truth, probabilities, CLASSES, groups


def test_the_confidence_fitted_on_validation_holds_on_test():
    (truth, probabilities, _), (val_truth, val, _) = model(2000, 2, True), model(2000, 3, True)
    right = np.array([CLASSES[i] in names for i, names in zip(val.argmax(axis=1), val_truth, strict=True)])
    below = fit_abstention(val.max(axis=1), right, 0.15)
    metrics = abstention_metrics(truth, probabilities, CLASSES, [str(i // 2) for i in range(2000)], below)
    assert 1 - metrics["accuracy"] == pytest.approx(0.15, abs=0.03)
    assert 0.2 < metrics["coverage"] < 0.9 and metrics["answered"] == round(2000 * metrics["coverage"])
    assert metrics["accuracy_ci"][0] < metrics["accuracy"] < metrics["accuracy_ci"][1]
    assert metrics["balanced_accuracy"] == pytest.approx(metrics["accuracy"], abs=0.03)


def test_all_or_nothing():
    confidence, right = np.array([0.9, 0.8, 0.7]), np.array([True, True, True])
    assert fit_abstention(confidence, right, 0.0) == 0  # nobody is turned away
    assert fit_abstention(confidence, np.array([True, True, False]), 0.0) == pytest.approx(0.75)
    for level in (0.9, np.nextafter(0.9, 1)):  # halfway between neighbours is rounded to one of them
        close = np.array([level, np.nextafter(level, 0)])
        assert (close >= fit_abstention(close, np.array([True, False]), 0.0)).tolist() == [True, False]
    with pytest.raises(UserError, match=r"no confidence reaches a risk of 0\.1 on validation: the least is 0\.333"):
        fit_abstention(confidence, np.array([False, True, True]), 0.1)
    truth, probabilities, groups = model(20, 4, True)
    nobody = abstention_metrics(truth, probabilities, CLASSES, groups, 1.1)
    assert nobody["coverage"] == 0 and np.isnan(nobody["accuracy"]) and nobody["accuracy_ci"] is None


def test_what_cannot_be_judged_is_said():
    truth, probabilities, groups = model(20, 5, True)
    for judge in (selective_metrics, lambda *a: abstention_metrics(*a, 0.6)):
        with pytest.raises(UserError, match="of one patient"):
            judge(truth, probabilities, CLASSES, ["a"] * 20)
        with pytest.raises(UserError, match="of the class amd"):
            judge([("amd",)] * 20, probabilities, CLASSES, groups)
        with pytest.raises(UserError, match="not numbers"):
            judge(truth, np.full_like(probabilities, np.nan), CLASSES, groups)
