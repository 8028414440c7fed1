"""A cataract's score and degree, read from texts and compared."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from mdf.errors import UserError
from mdf.evaluation.bootstrap import resample
from mdf.evaluation.severity import quadratic_kappa, read_degree, read_score, severity_metrics
from mdf.records import FundusRecord


def graded(*scores: float | None) -> list[FundusRecord]:
    return [FundusRecord(str(i), "x.png", grade={} if s is None else {"csdi": s}) for i, s in enumerate(scores)]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Severity of the cataract: 6.5 of 10.", 6.5),
        ("The cataract score is 7.", 7),
        ("Score: 4,5", 4.5),
        ("I would grade it 3/10.", 3),
        ("A score of 0 out of 10.", 0),
        ("Severity 10 of 10.", 10),
        ("Score 55.", None),
        ("Score 3 or 4: 3/10, perhaps 4/10.", None),
        ("Moderate cataract.", None),
        ("Vessels up to branches of level 2, in 10 photographs.", None),
        ("", None),
    ],
)
def test_scores(text, score):
    assert read_score(text) == score


@pytest.mark.parametrize(
    ("text", "degree"),
    [
        ("suggesting mild cataracts", 1),
        ("indicating mild to moderate cataracts.", 1.5),
        ("moderate-to-severe cataract", 2.5),
        ("The presence of severe cataracts is suspected.", 3),
        ("the absence of significant cataracts, suggesting mild cataracts", 1),
        ("ruling out severe cataracts, indicating a mild cataract", 1),
        ("The haze is mild.", None),
        ("", None),
    ],
)
def test_degrees(text, degree):
    assert read_degree(text) == degree


@pytest.mark.parametrize("seed", range(5))
def test_kappa_of_every_resample_equals_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 21, 30) / 2
    said = np.clip(truth + rng.integers(-4, 5, 30) / 2, 0, 10)
    said[3] = np.nan
    weights = resample([str(i // 2) for i in range(30)], resamples=5, seed=seed)
    for row, value in zip(weights, quadratic_kappa(truth, said)(weights.astype(float)), strict=True):
        rows = [i for i in np.repeat(np.arange(30), row.astype(int)) if i != 3]
        a, b = (2 * truth[rows]).astype(int), (2 * said[rows]).astype(int)
        assert value == pytest.approx(cohen_kappa_score(a, b, labels=list(range(21)), weights="quadratic"))


def test_error_of_stated_scores():
    records = graded(4, 8, 2.5, None)
    metrics = severity_metrics(
        ["Score 5.", "Severity 5 of 10.", "mild cataract", "Score 9."], records, list("abcd"), resamples=200
    )
    assert metrics["score_mae"] == 2 and metrics["score_within_1"] == 0.5
    assert metrics["score_said"] == pytest.approx(2 / 3), "only photographs with a score count"
    assert metrics["score_mae_ci"][0] < 2 < metrics["score_mae_ci"][1]


def test_one_score_for_all_has_no_agreement_beyond_chance():
    metrics = severity_metrics(["Score 5."] * 6, graded(2, 3, 4, 6, 7, 8), list("abcdef"), resamples=50)
    assert metrics["score_kappa"] == pytest.approx(0) and metrics["score_mae"] == 2


def test_degrees_are_compared_with_the_references():
    wanted = [["mild cataract"], ["severe cataract"], ["moderate cataracts"], []]
    said = ["mild cataracts", "severe cataracts", "a haze", "severe cataract"]
    metrics = severity_metrics(said, graded(None, None, None, None), list("abcd"), degrees_of=wanted, resamples=50)
    assert metrics["degree_kappa"] == 1 and metrics["degree_said"] == pytest.approx(2 / 3)
    assert "score_said" not in metrics


def test_nothing_known_and_nothing_said():
    assert severity_metrics(["Score 5."], graded(None), ["a"]) == {}
    silent = severity_metrics(["", "haze"], graded(3, 4), list("ab"), resamples=20)
    assert silent["score_said"] == 0 and "score_mae" not in silent
    alone = severity_metrics(["Score 3."], graded(3), ["a"], resamples=20)
    assert alone["score_mae"] == 0 and np.isnan(alone["score_kappa"]) and alone["score_kappa_ci"] is None


@pytest.mark.parametrize("value", [11, -1, "severe", True, float("nan")])
def test_a_record_with_an_impossible_score_is_named(value):
    with pytest.raises(UserError, match=r"record 0: grade\.csdi"):
        severity_metrics(["Score 5."], graded(value), ["a"])
