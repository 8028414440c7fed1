import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from mdf.errors import UserError
from mdf.evaluation.bootstrap import resample
from mdf.evaluation.calibration import (
    SMALLEST,
    brier,
    calibration_error,
    calibration_metrics,
    classwise_error,
    fit_temperature,
    log_loss,
    reliability,
    scaled,
)
from mdf.evaluation.classification import softmax

CLASSES = ("normal", "amd", "glaucoma")


def answers(count: int, seed: int, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers [N] drawn from the probabilities [N,3] of logits, and those of the logits times `sharpness`."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(count, 3))
    numbers = (rng.random(count)[:, None] > softmax(logits).cumsum(axis=1)).sum(axis=1)
    return numbers, softmax(sharpness * logits)


def by_percentiles(score, true, bins):
    """The error with scikit-learn's quantile bins, where each bin holds as many."""
    right, said = calibration_curve(true, score, n_bins=bins, strategy="quantile")
    return np.abs(right - said).mean()


def test_the_error_is_that_of_scikit_learns_quantile_bins():
    rng = np.random.default_rng(0)
    score = rng.random(300)
    true = rng.random(300) < score**2
    for bins in (1, 5, 10, 15):
        assert calibration_error(score, true, bins)(np.ones((1, 300)))[0] == pytest.approx(
            by_percentiles(score, true, bins)
        )


def test_a_resample_equals_the_same_photographs_written_out():
    rng = np.random.default_rng(1)
    score = rng.random(60).round(1)  # ties
    true = rng.random(60) < score
    weights = resample([str(i // 2) for i in range(60)], resamples=8, seed=1).astype(float)
    values = calibration_error(score, true, 5)(weights)
    for row, value in zip(weights, values, strict=True):
        drawn = np.repeat(np.arange(60), row.astype(int))
        drawn = rng.permutation(drawn)  # the order of equals changes nothing
        assert value == pytest.approx(calibration_error(score[drawn], true[drawn], 5)(np.ones((1, len(drawn))))[0])


def test_brier_and_log_loss_equal_scikit_learn_with_weights():
    numbers, probabilities = answers(80, 2)
    weights, table = np.random.default_rng(2).random(80), np.eye(3, dtype=bool)[numbers]
    assert brier(numbers, probabilities)(weights[None])[0] == pytest.approx(
        brier_score_loss(numbers, probabilities, sample_weight=weights, labels=range(3), scale_by_half=False)
    )
    assert log_loss(table, probabilities)(weights[None])[0] == pytest.approx(
        sklearn_log_loss(numbers, probabilities, sample_weight=weights, labels=range(3))
    )


@pytest.mark.parametrize("count", [1, 2])
def test_one_photograph_has_the_error_of_its_own_score(count):
    score, true = np.full(count, 0.8), np.full(count, 1.0)
    assert calibration_error(score, true)(np.ones((1, count)))[0] == pytest.approx(0.2)
    assert np.isnan(calibration_error(score, true)(np.zeros((1, count)))[0])


def test_an_honest_model_has_little_error_and_a_boaster_much():
    numbers, honest = answers(4000, 3)
    _, boasting = answers(4000, 3, sharpness=4)
    truth, groups = [(CLASSES[n],) for n in numbers], [str(i // 2) for i in range(4000)]
    good = calibration_metrics(truth, honest, CLASSES, groups, resamples=100)
    bad = calibration_metrics(truth, boasting, CLASSES, groups, resamples=100)
    assert good["ece"] < 0.02 < 0.1 < bad["ece"] and good["classwise_ece"] < bad["classwise_ece"]
    assert good["brier"] < bad["brier"] and good["log_loss"] < bad["log_loss"]
    assert bad["confidence"] - 0.1 > good["confidence"]
    for name in ("brier", "log_loss", "confidence"):
        assert good[f"{name}_ci"][0] < good[name] < good[f"{name}_ci"][1]
    points = bad["reliability"]
    assert len(points) == 15 and sum(p["n"] for p in points) == 4000
    assert all(p["accuracy"] < p["confidence"] for p in points[3:10])
    assert np.mean([p["accuracy_ci"][0] <= p["confidence"] <= p["accuracy_ci"][1] for p in good["reliability"]]) > 0.7


def test_the_calibration_error_is_lifted_by_chance_and_has_no_interval():
    errors = []
    for seed in range(20):
        numbers, honest = answers(200, seed)
        given = [(CLASSES[n],) for n in numbers], honest, CLASSES, [str(i) for i in range(200)]
        metrics = calibration_metrics(*given, resamples=100)
        assert "ece_ci" not in metrics and "classwise_ece_ci" not in metrics
        errors.append(metrics["ece"])
    assert np.mean(errors) > 0.05  # the truth is 0


def test_the_points_of_the_diagram_are_the_bins_of_the_error():
    rng = np.random.default_rng(4)
    score = rng.random(200).round(2)
    true = (rng.random(200) < score).astype(float)
    points = reliability(score, true, resample([str(i) for i in range(200)], resamples=50), bins=10)
    error = sum(p["n"] * abs(p["confidence"] - p["accuracy"]) for p in points) / 200
    assert error == pytest.approx(calibration_error(score, true, 10)(np.ones((1, 200)))[0])
    assert [p["confidence"] for p in points] == sorted(p["confidence"] for p in points)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_how_much_the_model_boasts(sharpness):
    numbers, probabilities = answers(3000, 5, sharpness)
    temperature = fit_temperature(np.eye(3, dtype=bool)[numbers], probabilities)
    assert temperature == pytest.approx(sharpness, rel=0.08)
    _, honest = answers(3000, 5)
    # below SMALLEST all are alike
    assert np.allclose(scaled(probabilities, sharpness), honest, atol=SMALLEST ** (1 / sharpness))
    assert (scaled(probabilities, temperature).argmax(axis=1) == probabilities.argmax(axis=1)).all()
    assert classwise_error(np.eye(3)[numbers], scaled(probabilities, temperature))(np.ones((1, 3000)))[0] < 0.02


def test_where_every_answer_is_right_the_temperature_is_left_alone(capsys):
    numbers = np.arange(30) % 3
    assert fit_temperature(np.eye(3, dtype=bool)[numbers], 0.1 + 0.7 * np.eye(3)[numbers]) == 1
    assert "left at 1" in capsys.readouterr().out
    lost = np.eye(3)[(numbers + 1) % 3] * 0.7 + 0.1  # always wrong: the best is to say nothing
    assert scaled(lost, fit_temperature(np.eye(3, dtype=bool)[numbers], lost)).max() < 0.4


def test_a_very_unsure_model_is_calibrated_and_not_taken_for_one_that_is_always_right(capsys):
    numbers = np.arange(400) % 3
    said = np.where(np.arange(400) % 10 > 0, numbers, (numbers + 1) % 3)  # nine of ten rightly
    table, unsure = np.eye(3, dtype=bool)[numbers], softmax(0.02 * np.eye(3)[said])
    temperature = fit_temperature(table, unsure)
    assert "left at 1" not in capsys.readouterr().out
    assert temperature == pytest.approx(0.02 / np.log(0.9 / 0.05), rel=0.01)
    assert scaled(unsure, temperature).max() == pytest.approx(0.9, abs=0.005)
    least = fit_temperature(table, softmax(1e-6 * np.eye(3)[said]))
    assert least == 0.001 and "the lowest tried" in capsys.readouterr().out


def test_a_probability_of_zero_stays_a_number():
    assert np.isfinite(scaled(np.array([[1.0, 0.0, 0.0]]), 0.5)).all()
    assert np.isfinite(log_loss(np.array([[False, True, False]]), np.array([[1.0, 0.0, 0.0]]))(np.ones((1, 1)))[0])


@pytest.mark.parametrize(("truth", "groups", "said"), [("aaaa", "abcd", "of the class"), ("abab", "aaaa", "patient")])
def test_what_cannot_be_judged_is_said(truth, groups, said):
    names = [({"a": "amd", "b": "normal"}[t],) for t in truth]
    with pytest.raises(UserError, match=said):
        calibration_metrics(names, np.full((4, 3), 1 / 3), CLASSES, list(groups))
    with pytest.raises(UserError, match="not numbers"):
        calibration_metrics([("amd",), ("normal",)] * 2, np.full((4, 3), np.nan), CLASSES, list("abcd"))
