import numpy as np

from mdf.evaluation.bootstrap import patient_groups, put, resample, weighted_mean, with_interval


def test_whole_patients_are_drawn():
    weights = resample(["a", "a", "b", "c", "c", "c"], resamples=50, seed=3)
    assert weights.shape == (50, 6)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert np.array_equal(weights, resample(["a", "a", "b", "c", "c", "c"], resamples=50, seed=3))


def test_a_photograph_without_patient_is_its_own_group():
    assert len(set(patient_groups([None, None, "7", "7"], ["1", "2", "3", "4"]))) == 3
    assert patient_groups([None, "x"], ["x", "y"])[0] != patient_groups([None, "x"], ["x", "y"])[1]


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
