import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from mdf.errors import UserError
from mdf.evaluation.classification import kappa
from mdf.evaluation.grades import grade_metrics

GRADES = ("none", "mild", "moderate", "severe", "proliferative")


@pytest.mark.parametrize("data", ["random", "two grades", "one answer", "all one"])
@pytest.mark.parametrize("weighted", [False, True])
def test_quadratic_kappa_equals_scikit_learn(data, weighted):
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(5, size=(2, 200))
    if data == "two grades":
        truth, predicted = truth % 2, predicted % 2
    if data in ("one answer", "all one"):
        predicted[:] = 3
    if data == "all one":
        truth[:] = 3
    weights = rng.random(200) if weighted else np.ones(200)
    ours = kappa(truth, predicted, 5, quadratic=True)(weights[None])[0]
    expected = cohen_kappa_score(truth, predicted, labels=range(5), weights="quadratic", sample_weight=weights)
    assert ours == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_one_step_beside_is_better_than_three():
    truth = np.arange(40) % 5
    groups = [str(i // 2) for i in range(40)]
    near = grade_metrics(truth, np.where(truth == 4, 3, truth + 1), GRADES, groups)
    far = grade_metrics(truth, (truth + 3) % 5, GRADES, groups)
    assert near["quadratic_kappa"] > 0.6 > 0 > far["quadratic_kappa"]
    assert near["accuracy"] == far["accuracy"] == 0 and near["within_one"] == 1 and near["error"] == 1
    exact = grade_metrics(truth, truth, GRADES, groups)
    assert exact["quadratic_kappa"] == 1 and exact["quadratic_kappa_ci"] == [1, 1] and exact["n"] == 40


@pytest.mark.parametrize(
    ("truth", "predicted", "groups", "said"),
    [
        ([0, 1, 2], [0, 1, 5], "abc", "1 predicted grades are none of none, mild"),
        ([0, 1, 2], [0, 1, np.nan], "abc", "1 predicted grades are none of"),
        ([0, 1, -1], [0, 1, 1], "abc", "1 true grades are none of"),
        ([2, 2, 2], [0, 1, 1], "abc", "one true grade"),
        ([0, 1, 2], [0, 1, 1], "aaa", "of one patient"),
    ],
)
def test_what_is_no_grade_is_refused(truth, predicted, groups, said):
    with pytest.raises(UserError, match=said):
        grade_metrics(truth, predicted, GRADES, list(groups))
