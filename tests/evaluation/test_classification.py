import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from mdf.errors import UserError
from mdf.evaluation.bootstrap import resample
from mdf.evaluation.classification import (
    NAMES,
    accuracy,
    balanced_accuracy,
    class_table,
    classification_metrics,
    confusion,
    f1s,
    kappa,
    macro_f1,
    precisions,
    recalls,
)
from mdf.evaluation.ranking import auroc
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
    assert metrics["kappa"] == pytest.approx(cohen_kappa_score(numbers, predicted))
    assert metrics["confusion"]["counts"] == confusion_matrix(numbers, predicted, labels=range(4)).tolist()
    for name in NAMES:
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


DATA = {
    "random": lambda rng: (rng.integers(4, size=120), rng.integers(4, size=120)),
    "a class that nobody has": lambda rng: (rng.integers(3, size=120), rng.integers(4, size=120)),
    "a class that is never named": lambda rng: (rng.integers(4, size=120), rng.integers(3, size=120)),
    "always one answer": lambda rng: (rng.integers(4, size=120), np.full(120, 2)),
    "all right": lambda rng: (np.arange(120) % 4, np.arange(120) % 4),
    "all of one class": lambda rng: (np.full(120, 1), rng.integers(4, size=120)),
    "one photograph": lambda rng: (np.array([1]), np.array([3])),
}


@pytest.mark.parametrize("weighting", ["once", "drawn", "parts"])
@pytest.mark.parametrize("data", DATA)
def test_counts_equal_scikit_learn_with_weights(data, weighting):
    rng = np.random.default_rng(3)
    truth, predicted = DATA[data](rng)
    n = len(truth)
    weights = {"once": np.ones(n), "drawn": rng.integers(4, size=n) + (n == 1), "parts": rng.random(n)}[weighting]
    weights = weights.astype(float)
    there = sorted(set(truth[weights > 0].tolist()))
    options = {"sample_weight": weights, "labels": range(4)}
    matrix = confusion(truth, predicted, 4, weights[None])
    assert matrix[0] == pytest.approx(confusion_matrix(truth, predicted, **options))
    expected = precision_recall_fscore_support(truth, predicted, zero_division=np.nan, **options)[:3]
    for ours, theirs in zip((precisions(matrix), recalls(matrix), f1s(matrix)), expected, strict=True):
        assert ours[0] == pytest.approx(theirs, nan_ok=True)
    value = {
        name: metric(truth, predicted, 4)(weights[None])[0]
        for name, metric in {"a": accuracy, "b": balanced_accuracy, "f": macro_f1, "k": kappa}.items()
    }
    assert value["a"] == pytest.approx(accuracy_score(truth, predicted, sample_weight=weights))
    assert value["b"] == pytest.approx(np.mean(expected[1][there]))
    f1 = f1_score(truth, predicted, labels=there, average="macro", sample_weight=weights, zero_division=0)
    assert value["f"] == pytest.approx(f1)
    assert value["k"] == pytest.approx(cohen_kappa_score(truth, predicted, **options), nan_ok=True)


def test_the_table_by_class_holds_what_scikit_learn_says_of_each():
    rng = np.random.default_rng(4)
    numbers = rng.integers(2, size=100)  # nobody has glaucoma
    probabilities = rng.dirichlet(np.ones(3), size=100)
    table = class_table([(CLASSES[n],) for n in numbers], probabilities, CLASSES, [str(i // 2) for i in range(100)])
    assert list(table) == CLASSES[:2]
    predicted = probabilities.argmax(axis=1)
    expected = precision_recall_fscore_support(numbers, predicted, labels=[0, 1, 2])
    for c, name in enumerate(CLASSES[:2]):
        row = table[name]
        assert [row["precision"], row["recall"], row["f1"], row["n"]] == pytest.approx([part[c] for part in expected])
        assert row["auroc"] == pytest.approx(roc_auc_score(numbers == c, probabilities[:, c]))
        for key in ("precision", "recall", "f1", "auroc", "auprc", "sensitivity_at_specificity_95"):
            assert row[f"{key}_ci"][0] <= row[key] <= row[f"{key}_ci"][1]


@pytest.mark.parametrize(
    ("truth", "groups", "change", "said"),
    [
        ([("amd",)] * 4, "abcd", None, "all 4 photographs are of the class amd"),
        ([("amd",), ("normal",)] * 2, "aaaa", None, "of one patient"),
        ([("amd",), ("cataract",)] * 2, "abcd", None, "cataract: true diagnoses that are none of the classes"),
        ([("amd",), ()] * 2, "abcd", None, "2 of 4 photographs have no true diagnosis"),
        ([("amd",), ("normal",)] * 2, "abcd", np.nan, r"1 of 4 photographs are not numbers \(c\)"),
        ([("amd",), ("normal",)] * 2, "abcd", np.inf, "are not numbers"),
    ],
)
@pytest.mark.parametrize("judge", [classification_metrics, class_table])
def test_what_cannot_be_judged_is_said(judge, truth, groups, change, said):
    probabilities = np.full((4, 3), 1 / 3)
    if change is not None:
        probabilities[2, 1] = change
    with pytest.raises(UserError, match=said):
        judge(truth, probabilities, CLASSES, list(groups))


def test_scores_of_other_photographs_or_classes_are_refused():
    with pytest.raises(UserError, match=r"\[3, 3\] for 4 photographs and 3 classes"):
        classification_metrics([("amd",), ("normal",)] * 2, np.full((3, 3), 1 / 3), CLASSES, list("abcd"))
