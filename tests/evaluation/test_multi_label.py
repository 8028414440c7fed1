import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, multilabel_confusion_matrix, recall_score

from mdf.errors import UserError
from mdf.evaluation.multi_label import counts, macro_f1, micro_f1, multi_label_metrics, subset_accuracy

CLASSES = ("amd", "cataract", "glaucoma", "myopia")
DATA = {
    "random": lambda rng: (rng.random((90, 4)) < 0.3, rng.random((90, 4)) < 0.4),
    "a class that nobody has": lambda rng: (
        (rng.random((90, 4)) < 0.3) & [True, True, True, False],
        rng.random((90, 4)) < 0.4,
    ),
    "never yes": lambda rng: (rng.random((90, 4)) < 0.3, np.zeros((90, 4), dtype=bool)),
    "always yes": lambda rng: (rng.random((90, 4)) < 0.3, np.ones((90, 4), dtype=bool)),
    "one photograph": lambda rng: (np.array([[True, False, True, False]]), np.array([[True, True, False, False]])),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("data", DATA)
def test_equals_scikit_learn_with_weights(data, weighted):
    rng = np.random.default_rng(0)
    table, yes = DATA[data](rng)
    weights = rng.random(len(table)) if weighted else np.ones(len(table))
    there, options = np.flatnonzero(table.any(axis=0)), {"sample_weight": weights, "zero_division": 0}
    theirs = multilabel_confusion_matrix(table, yes, sample_weight=weights)
    expected = [theirs[:, 1, 1], theirs[:, 0, 1], theirs[:, 1, 0], theirs[:, 0, 0]]
    for ours, each in zip(counts(table, yes, weights[None]), expected, strict=True):
        assert ours[0] == pytest.approx(each)
    assert macro_f1(table, yes)(weights[None])[0] == pytest.approx(
        f1_score(table, yes, labels=there, average="macro", **options)
    )
    assert micro_f1(table, yes)(weights[None])[0] == pytest.approx(f1_score(table, yes, average="micro", **options))
    assert subset_accuracy(table, yes)(weights[None])[0] == pytest.approx(
        accuracy_score(table, yes, sample_weight=weights)
    )


def test_every_diagnosis_of_a_photograph_counts():
    rng = np.random.default_rng(1)
    table, yes = rng.random((80, 4)) < 0.3, rng.random((80, 4)) < 0.4
    truth = [[name for name, true in zip(CLASSES, row, strict=True) if true] for row in table]
    metrics = multi_label_metrics(truth, yes, CLASSES, [str(i // 2) for i in range(80)], resamples=200)
    assert metrics["macro_sensitivity"] == pytest.approx(recall_score(table, yes, average="macro"))
    assert metrics["macro_specificity"] == pytest.approx(recall_score(~table, ~yes, average="macro"))
    assert metrics["n"] == 80 and metrics["per_class"]["amd"]["n"] == table[:, 0].sum()
    for name in ("macro_f1", "micro_f1", "subset_accuracy"):
        assert metrics[f"{name}_ci"][0] < metrics[name] < metrics[f"{name}_ci"][1]
    # what the classes do not name does not count
    more = [[*names, "hypertension"] for names in truth]
    assert multi_label_metrics(more, yes, CLASSES, [str(i // 2) for i in range(80)], resamples=200) == metrics


def test_where_there_is_nothing_to_tell_apart_it_is_said():
    yes = np.zeros((3, 4), dtype=bool)
    for truth in ([["amd"]] * 3, [[]] * 3):
        with pytest.raises(UserError, match="nothing to tell apart"):
            multi_label_metrics(truth, yes, CLASSES, list("abc"))
    with pytest.raises(UserError, match="one patient"):
        multi_label_metrics([["amd"], ["myopia"], ["amd"]], yes, CLASSES, list("aaa"))
    # one disease that some have is enough
    assert list(multi_label_metrics([["amd"], [], ["amd"]], yes, CLASSES, list("abc"))["per_class"]) == ["amd"]
