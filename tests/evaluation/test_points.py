import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score, roc_auc_score

from mdf.evaluation import points
from mdf.evaluation.selective import risk_coverage


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    positive = rng.random(200) < 0.3
    return positive, np.round(rng.random(200) * 0.5 + positive * 0.3, 2)  # rounded: there are ties


def test_areas_are_those_of_scikit_learn(answers):
    positive, score = answers
    assert points.area(*points.roc(positive, score)) == pytest.approx(roc_auc_score(positive, score))
    curve = points.precision_recall(positive, score)
    assert points.average_precision(*curve) == pytest.approx(average_precision_score(positive, score))


def test_a_class_that_is_everywhere_or_nowhere_has_no_curve():
    score = np.linspace(0, 1, 5)
    assert points.roc(np.zeros(5, bool), score) is None and points.roc(np.ones(5, bool), score) is None
    assert points.precision_recall(np.zeros(5, bool), score) is None


def test_a_thinned_curve_looks_the_same(answers):
    x, y = points.roc(*answers)
    fewer = points.thin(x, y)
    assert len(fewer[0]) < len(x) and points.area(*fewer) == pytest.approx(points.area(x, y))
    capped = points.thin(x, y, most=10)
    assert len(capped[0]) == 10 and capped[0][-1] == 1 and capped[1][0] == 0


def test_a_precision_recall_curve_is_drawn_in_steps(answers):
    curve = points.precision_recall(*answers)
    assert points.area(*points.steps(*curve)) == pytest.approx(points.average_precision(*curve))


def test_reliability_counts_every_answer_and_keeps_equal_confidences_together():
    confidence = np.array([0.9] * 30 + [0.6] * 8 + [0.7] * 2)
    right = np.array([True] * 27 + [False] * 3 + [True] * 4 + [False] * 4 + [True] * 2)
    bins = points.reliability(confidence, right)
    assert sum(b.n for b in bins) == 40
    last = bins[-1]
    assert last.n == 30 and last.confidence == pytest.approx(0.9) and last.right == pytest.approx(0.9)
    assert all(b.low <= b.right <= b.high for b in bins)
    single = points.reliability(np.array([0.5]), np.array([True]))
    assert [b.n for b in single] == [1]


def test_wilson_interval():
    assert points.wilson(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert points.wilson(0, 10)[0] == 0 and points.wilson(10, 10)[1] == 1


def test_risk_falls_where_the_sure_answers_are_right():
    confidence, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, True, False, False])
    _, coverage, risk = risk_coverage(confidence, right)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 0, 1 / 3, 0.5])


def test_principal_components_are_those_of_scikit_learn():
    values = np.random.default_rng(1).normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1]
    places, share = points.principal(values)
    reference = PCA(2, svd_solver="full").fit(values)
    assert np.abs(places) == pytest.approx(np.abs(reference.transform(values)), abs=1e-9)
    assert share == pytest.approx(reference.explained_variance_ratio_)


def test_rare_names_are_counted_together():
    names = ["a"] * 5 + ["b"] * 3 + ["c", "d"]
    assert points.counted(names, 3) == {"a": 5, "b": 3, "others": 2}
    assert points.counted(names, 4) == {"a": 5, "b": 3, "c": 1, "d": 1}


def test_umap_gives_every_photograph_a_place_and_the_same_one_each_time():
    pytest.importorskip("umap", reason="umap-learn is not installed: pip install 'mdf-mllm[umap]'")
    values = np.random.default_rng(0).normal(size=(40, 6))
    places = points.umap(values)
    assert places.shape == (40, 2) and np.isfinite(places).all()
    assert np.array_equal(places, points.umap(values))


def test_too_few_photographs_have_no_umap():
    assert points.umap(np.ones((5, 3))) is None
