import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score

from mdf.evaluation.bootstrap import resample
from mdf.evaluation.classification import auroc, balanced_accuracy, classification_metrics
from mdf.prototypes import mean_recall, single_truth

CLASSES = ["normal", "amd", "glaucoma"]


def test_by_hand():
    truth = [("normal",), ("normal",), ("amd",), ("glaucoma",)]
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    metrics = classification_metrics(truth, probabilities, CLASSES, list("abcd"))
    assert metrics["accuracy"] == 0.75
    assert metrics["balanced_accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    # normal: positives 0.8, 0.2 against 0.1, 0.3 -> 3 of 4 pairs; amd: 0.8 above all; glaucoma: 0.4 above all
    assert metrics["macro_auroc"] == pytest.approx((0.75 + 1 + 1) / 3)
    assert metrics["recall"] == {"normal": 0.5, "amd": 1.0, "glaucoma": 1.0}


@pytest.mark.parametrize("present", [4, 3])
def test_equals_scikit_learn_also_with_a_class_that_is_not_there(present):
    rng = np.random.default_rng(1)
    classes = ["normal", "amd", "glaucoma", "cataract"]
    numbers = rng.integers(present, size=300)
    probabilities = rng.dirichlet(np.ones(4), size=300).round(2)  # rounded: ties
    probabilities[np.arange(300), numbers] += 0.2
    metrics = classification_metrics(
        [(classes[n],) for n in numbers], probabilities, classes, [str(i // 2) for i in range(300)]
    )
    predicted, there = probabilities.argmax(axis=1), list(range(present))
    recall = balanced_accuracy_score(numbers, predicted) if present == 4 else None
    assert metrics["accuracy"] == pytest.approx(accuracy_score(numbers, predicted))
    assert recall is None or metrics["balanced_accuracy"] == pytest.approx(recall)
    assert metrics["macro_f1"] == pytest.approx(f1_score(numbers, predicted, labels=there, average="macro"))
    areas = [roc_auc_score(numbers == c, probabilities[:, c]) for c in there]
    assert metrics["macro_auroc"] == pytest.approx(np.mean(areas))
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc"):
        low, high = metrics[f"{name}_ci"]
        assert low < metrics[name] < high
    # what training chooses the best checkpoint by
    assert mean_recall([(classes[n],) for n in numbers], predicted, classes) == pytest.approx(
        metrics["balanced_accuracy"]
    )


def test_a_resample_equals_the_same_photographs_written_out():
    rng = np.random.default_rng(2)
    truth, predicted, score = rng.integers(3, size=40), rng.integers(3, size=40), rng.random(40).round(1)
    weights = resample([str(i // 3) for i in range(40)], resamples=5, seed=1).astype(float)
    for row in weights:
        drawn = np.repeat(np.arange(40), row.astype(int))
        once = np.ones((1, len(drawn)))
        assert balanced_accuracy(truth, predicted, 3)(row[None])[0] == pytest.approx(
            balanced_accuracy(truth[drawn], predicted[drawn], 3)(once)[0]
        )
        assert auroc(truth == 1, score)(row[None])[0] == pytest.approx(roc_auc_score(truth[drawn] == 1, score[drawn]))


def test_several_true_diagnoses():
    truth = [("amd", "glaucoma"), ("glaucoma", "amd")]
    assert single_truth(truth, np.array([2, 0]), CLASSES).tolist() == [2, 2]  # right, then counted under the first
    with pytest.raises(ValueError, match="no true diagnosis"):
        single_truth([("cataract",)], np.array([0]), CLASSES)
