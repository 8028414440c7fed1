import numpy as np
import pytest
from scipy.stats import norm

from mdf.errors import UserError
from mdf.evaluation.bootstrap import line_groups, patient_groups, put, resample, weighted_mean, with_interval
from mdf.evaluation.classification import class_table
from mdf.evaluation.ranking import auroc
from mdf.records import FundusRecord


def test_whole_patients_are_drawn():
    weights = resample(["a", "a", "b", "c", "c", "c"], resamples=50, seed=3)
    assert weights.shape == (50, 6)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert np.array_equal(weights, resample(["a", "a", "b", "c", "c", "c"], resamples=50, seed=3))


def test_nothing_to_judge_is_said():
    with pytest.raises(UserError, match="nothing to judge"):
        resample([])


def test_a_photograph_without_patient_is_its_own_group():
    patients = {"1": None, "2": None, "3": "7", "4": "7", "7": None}
    assert len(set(patient_groups([FundusRecord(i, "x.png", p) for i, p in patients.items()]))) == 4


def test_patients_of_one_number_in_two_sources_are_two():
    records = [FundusRecord(f"{s}{i}", "x.png", str(i), source=s) for s in ("hrf", "stare") for i in range(40)]
    groups = patient_groups(records)
    assert len(set(groups)) == 80
    assert line_groups([{"id": r.id, "patient": r.patient, "source": r.source} for r in records]) == groups
    metrics: dict = {}
    put(metrics, "accuracy", weighted_mean(np.array([1.0] * 40 + [0.0] * 40)), resample(groups))
    low, high = metrics["accuracy_ci"]
    assert high - low > 0.15


def test_interval_holds_the_point_and_is_wider_for_clustered_patients():
    rng = np.random.default_rng(0)
    by_patient = np.repeat(rng.random(30) < 0.6, 8).astype(
        float
    )  # eight photographs of a patient, all right or all wrong
    clustered, alone = {}, {}
    put(clustered, "x", weighted_mean(by_patient), resample([str(i // 8) for i in range(240)]))
    put(alone, "x", weighted_mean(by_patient), resample([str(i) for i in range(240)]))
    for metrics in (clustered, alone):
        assert metrics["x"] == by_patient.mean()
        assert metrics["x_ci"][0] < metrics["x"] < metrics["x_ci"][1]
    assert np.diff(clustered["x_ci"]) > 2 * np.diff(alone["x_ci"])


def test_unknown_values_are_left_out_and_too_few_give_no_interval():
    values = np.array([1.0, np.nan, 0.0, np.nan])
    assert with_interval(weighted_mean(values), resample(list("abcd")))[0] == 0.5
    point, interval, _ = with_interval(lambda w: np.full(len(w), np.nan), resample(list("abcd")))
    assert np.isnan(point) and interval is None


def test_one_patient_alone_has_no_interval():
    metrics: dict = {}
    put(metrics, "x", weighted_mean(np.array([1.0, 0.0, 1.0])), resample(["a", "a", "a"]))
    assert metrics == {"x": 2 / 3, "x_ci": None}


def test_a_figure_that_hangs_on_one_patient_has_no_interval():
    values = np.full(60, np.nan)
    values[[3, 4]] = 1.0, 0.5  # two photographs of one patient
    groups = [str(i // 2) if i > 4 else "x" for i in range(60)]
    metrics: dict = {}
    put(metrics, "dice", weighted_mean(values), resample(groups))
    assert metrics == {"dice": 0.75, "dice_ci": None}
    values[10:] = 0.75  # many patients alike are no such case
    assert with_interval(weighted_mean(values), resample(groups))[1] == [0.75, 0.75]
    table = class_table(
        [("rare",)] + [("common",)] * 59, np.eye(2)[[0] + [1] * 59], ("rare", "common"), [str(i) for i in range(60)]
    )
    assert table["rare"]["recall"] == 1 and table["rare"]["recall_ci"] is None
    assert table["common"]["recall_ci"] == [1, 1]


def test_shares_are_those_of_weights_below_one():
    assert weighted_mean(np.array([1.0, 0.0]))(np.array([[0.1, 0.3]]))[0] == 0.25


def covered(simulate, true: float, *, sets: int, clustered: bool) -> float:
    """Share of `sets` simulated data sets whose 95 % interval holds the true value."""
    held = 0
    for seed in range(sets):
        metric, groups = simulate(np.random.default_rng(seed))
        who = groups if clustered else [str(i) for i in range(len(groups))]
        metrics: dict = {}
        put(metrics, "x", metric, resample(who, resamples=400, seed=seed))
        held += metrics["x_ci"][0] <= true <= metrics["x_ci"][1]
    return held / sets


PATIENTS, EACH = 80, 4  # patients of a simulated data set and photographs of each


def an_accuracy(rng: np.random.Generator):
    """Some patients are easy and some hard; 7 of 10 photographs are answered rightly in the long run."""
    easy = np.repeat(rng.beta(1.4, 0.6, PATIENTS), EACH)
    right = (rng.random(PATIENTS * EACH) < easy).astype(float)
    return weighted_mean(right), [str(i // EACH) for i in range(PATIENTS * EACH)]


def an_auroc(rng: np.random.Generator):
    """All photographs of a patient have the disease or none; the score has a part of the patient and one of its own."""
    ill = np.repeat(np.arange(PATIENTS) % 2 == 0, EACH)
    score = 1.0 * ill + np.repeat(rng.normal(size=PATIENTS), EACH) + rng.normal(size=PATIENTS * EACH)
    return auroc(ill, score), [str(i // EACH) for i in range(PATIENTS * EACH)]


@pytest.mark.parametrize(
    ("simulate", "true"),
    [(an_accuracy, 0.7), (an_auroc, norm.cdf(1 / 2))],  # a positive less a negative: mean 1, variance 4
)
def test_the_interval_holds_the_truth_as_often_as_it_says_and_only_by_patient(simulate, true):
    by_patient = covered(simulate, true, sets=300, clustered=True)
    by_photograph = covered(simulate, true, sets=300, clustered=False)
    assert 0.92 <= by_patient <= 0.98
    assert by_photograph < 0.88  # photographs of a patient taken for independent: too narrow
