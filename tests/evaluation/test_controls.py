import numpy as np
import pytest

from mdf.errors import UserError
from mdf.evaluation.controls import control_metrics, shuffle, verdict


@pytest.mark.parametrize("seed", range(5))
def test_everybody_gets_another_patients_photograph(seed):
    groups = [f"p{i // 2}" for i in range(11)] + ["p9"] * 4
    other = shuffle(groups, seed=seed)
    assert sorted(other) == list(range(15))
    assert all(groups[i] != groups[j] for i, j in enumerate(other))
    assert np.array_equal(other, shuffle(groups, seed=seed))


def test_exactly_half_of_one_patient_still_works_and_more_is_said():
    assert shuffle(["a", "b", "a", "c"]).tolist() in ([1, 0, 3, 2], [1, 2, 3, 0], [3, 0, 1, 2], [3, 2, 1, 0])
    with pytest.raises(UserError, match="one patient has 3 of the 4"):
        shuffle(["a", "a", "a", "b"])


def picture(right: bool) -> dict:
    rng = np.random.default_rng(0)
    numbers = rng.integers(2, size=80)
    seen = np.eye(2)[numbers] if right else np.tile([0.9, 0.1], (80, 1))
    blind = np.tile([0.9, 0.1], (80, 1))
    tables = {"real": seen, "blank": blind, "shuffled": np.eye(2)[rng.permutation(numbers)] if right else blind}
    truth = [(["normal", "amd"][n],) for n in numbers]
    return control_metrics(truth, tables, ["normal", "amd"], [str(i // 2) for i in range(80)])


def test_a_model_that_looks_and_one_that_does_not():
    looks, blind = picture(True), picture(False)
    assert looks["real"]["balanced_accuracy"] == 1 and looks["blank"]["balanced_accuracy"] == 0.5
    assert looks["majority"]["balanced_accuracy"] == 0.5 and looks["gain_ci"][0] > 0
    assert "USES the picture" in verdict(looks)
    assert blind["gain"] == 0 and "NO SIGN" in verdict(blind)
