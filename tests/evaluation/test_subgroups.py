import numpy as np
import pytest

from mdf.evaluation.bootstrap import weighted_mean
from mdf.evaluation.classification import named_metric
from mdf.evaluation.subgroups import columns_of, subgroup_metrics
from mdf.records import FundusRecord


def record(number: int, **known) -> FundusRecord:
    return FundusRecord(str(number), f"{number}.png", patient=str(number // 2), **known)


def test_the_columns_of_records():
    records = [
        record(0, source="odir5k", eye="left", sex="female", age=39.5),
        record(1, source="odir5k", eye="right", sex="female", age=40),
        record(2, source="hrf", age=74),
        record(3, source="hrf", age=75),
    ]
    columns = columns_of(records, ["good", "barely", None, "not"])
    assert list(columns) == ["source", "eye", "sex", "age", "quality"]  # of cameras nothing is known
    assert columns["eye"] == ["left", "right", "unknown", "unknown"]
    assert columns["age"] == ["under 40", "40 to 59", "60 to 74", "75 and over"]
    assert columns["quality"] == ["good", "barely", "unknown", "not"]
    assert "quality" not in columns_of(records)
    assert list(columns_of(records, ["good"] * 4)) == [
        "source",
        "eye",
        "sex",
        "age",
    ]  # all alike tell nothing


def test_a_subgroup_has_the_value_of_its_photographs_alone():
    rng = np.random.default_rng(0)
    truth = [(("normal", "amd")[n],) for n in rng.integers(2, size=200)]
    probabilities, classes = rng.dirichlet(np.ones(2), size=200), ("normal", "amd")
    eyes = ["left" if i % 2 else "right" for i in range(200)]
    metrics = {n: named_metric(n, truth, probabilities, classes) for n in ("balanced_accuracy", "macro_auroc")}
    found = subgroup_metrics(metrics, {"eye": eyes}, [str(i // 2) for i in range(200)], resamples=200)["eye"]
    for eye in ("left", "right"):
        rows = [i for i in range(200) if eyes[i] == eye]
        row = found["groups"][eye]
        assert (row["n"], row["patients"]) == (100, 100)
        for name in metrics:
            alone = named_metric(name, [truth[i] for i in rows], probabilities[rows], classes)(np.ones((1, 100)))[0]
            assert row[name] == pytest.approx(alone)
            assert row[f"{name}_ci"][0] < row[name] < row[f"{name}_ci"][1]


def test_the_gap_is_the_greatest_less_the_least_and_its_interval_tells_chance_from_more():
    rng = np.random.default_rng(1)
    sex = ["female" if i % 4 < 2 else "male" for i in range(800)]
    groups = [str(i // 2) for i in range(800)]
    worse = (rng.random(800) < np.where(np.array(sex) == "male", 0.5, 0.9)).astype(float)
    alike = (rng.random(800) < 0.7).astype(float)
    metrics = {"worse": weighted_mean(worse), "alike": weighted_mean(alike)}
    gaps = subgroup_metrics(metrics, {"sex": sex}, groups, resamples=500)["sex"]["gaps"]
    assert gaps["worse_between"] == ["female", "male"]
    assert gaps["worse_ci"][0] > 0.25 and gaps["worse_ci"][0] < gaps["worse"] < gaps["worse_ci"][1]
    assert gaps["alike"] >= 0 > gaps["alike_ci"][0]


def test_small_and_unknown_subgroups_are_listed_and_give_no_gap():
    camera = ["Canon"] * 30 + ["Zeiss"] * 30 + ["rare"] * 18 + ["unknown"] * 30
    values = np.array([0.9] * 30 + [0.7] * 30 + [0.1] * 18 + [0.0] * 30)
    groups = [str(i // 2) for i in range(108)]  # nine patients with the rare one
    found = subgroup_metrics({"x": weighted_mean(values)}, {"camera": camera}, groups, resamples=100)["camera"]
    assert list(found["groups"]) == ["Canon", "Zeiss", "rare", "unknown"]
    assert found["groups"]["rare"]["x"] == pytest.approx(0.1) and found["groups"]["rare"]["patients"] == 9
    assert found["groups"]["unknown"]["n"] == 30
    assert found["gaps"]["x"] == pytest.approx(0.2) and found["gaps"]["x_between"] == ["Canon", "Zeiss"]


def test_where_a_metric_is_not_defined_there_is_no_gap():
    """AUROC of a camera that has only seen one class."""
    truth = [("normal",)] * 40 + [("amd",), ("normal",)] * 20
    probabilities = np.random.default_rng(2).dirichlet(np.ones(2), size=80)
    metrics = {"macro_auroc": named_metric("macro_auroc", truth, probabilities, ("normal", "amd"))}
    found = subgroup_metrics(
        metrics, {"camera": ["one"] * 40 + ["other"] * 40}, [str(i) for i in range(80)], resamples=50
    )["camera"]
    assert np.isnan(found["groups"]["one"]["macro_auroc"]) and found["groups"]["one"]["macro_auroc_ci"] is None
    assert not np.isnan(found["groups"]["other"]["macro_auroc"]) and found["gaps"] == {}
