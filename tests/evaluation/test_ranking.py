import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from mdf.evaluation.ranking import auroc, average_precision, macro, sensitivity_at

N = 150
DATA = {
    "random": lambda rng: (rng.random(N) < 0.3, rng.random(N)),
    "ties": lambda rng: (rng.random(N) < 0.3, rng.random(N).round(1)),
    "all alike": lambda rng: (rng.random(N) < 0.3, np.full(N, 0.5)),
    "apart": lambda rng: (np.arange(N) > 99, np.arange(N) / N),
    "the wrong way round": lambda rng: (np.arange(N) > 99, -np.arange(N) / N),
    "one positive": lambda rng: (np.arange(N) == 3, rng.random(N)),
}


def sensitivity(positive, score, weights, specificity):
    """By scikit-learn's curve, as torchmetrics does it: the best sensitivity among the specificities that will do."""
    wrong, right, _ = roc_curve(positive, score, sample_weight=weights, drop_intermediate=False)
    return right[wrong <= 1 - specificity + 1e-9].max()


@pytest.mark.parametrize("weighting", ["once", "drawn", "parts"])
@pytest.mark.parametrize("data", DATA)
def test_equals_scikit_learn_with_weights(data, weighting):
    rng = np.random.default_rng(0)
    positive, score = DATA[data](rng)
    weights = {"once": np.ones(N), "drawn": rng.integers(4, size=N).astype(float), "parts": rng.random(N)}[weighting]
    weights[3] = max(weights[3], 1)
    options = {"sample_weight": weights}
    assert auroc(positive, score)(weights[None])[0] == pytest.approx(roc_auc_score(positive, score, **options))
    assert average_precision(positive, score)(weights[None])[0] == pytest.approx(
        average_precision_score(positive, score, **options)
    )
    for specificity in (0.8, 0.95):
        assert sensitivity_at(specificity)(positive, score)(weights[None])[0] == pytest.approx(
            sensitivity(positive, score, weights, specificity)
        )


def test_the_order_of_the_photographs_changes_nothing():
    rng = np.random.default_rng(1)
    positive, score, turn = rng.random(N) < 0.5, rng.random(N).round(1), rng.permutation(N)
    for metric in (auroc, average_precision, sensitivity_at(0.8)):
        one, other = metric(positive, score), metric(positive[turn], score[turn])
        assert one(np.ones((1, N))) == pytest.approx(other(np.ones((1, N))))


def test_without_a_positive_or_a_negative_there_is_nothing_to_rank():
    score, once = np.array([0.2, 0.7]), np.ones((1, 2))
    for none in (np.array([False, False]), np.array([True, True])):
        assert np.isnan(auroc(none, score)(once)[0]) and np.isnan(sensitivity_at(0.8)(none, score)(once)[0])
    assert np.isnan(average_precision(np.array([False, False]), score)(once)[0])
    assert average_precision(np.array([True, True]), score)(once)[0] == 1  # as in scikit-learn
    assert np.isnan(auroc(np.array([True]), score[:1])(np.ones((1, 1)))[0])  # one photograph
    # drawn away: the second resample holds no positive
    values = auroc(np.array([True, False]), score)(np.array([[1.0, 1.0], [0.0, 2.0]]))
    assert values[0] == 0 and np.isnan(values[1])


def test_macro_is_the_mean_over_the_classes_that_are_there():
    rng = np.random.default_rng(2)
    table, scores = np.eye(4, dtype=bool)[rng.integers(3, size=N)], rng.random((N, 4))
    for single, theirs in ((auroc, roc_auc_score), (average_precision, average_precision_score)):
        expected = np.mean([theirs(table[:, c], scores[:, c]) for c in range(3)])
        assert macro(single, table, scores)(np.ones((1, N)))[0] == pytest.approx(expected)
