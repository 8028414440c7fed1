import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from mdf.dialogue import SMALL_LESIONS
from mdf.errors import UserError
from mdf.evaluation.classification import softmax
from mdf.evaluation.operating_point import (
    FILE,
    OperatingPoint,
    fit_findings,
    fit_operating_point,
    fit_threshold,
    read_operating_point,
)

CLASSES = ("normal", "amd", "glaucoma")


def answers(count: int = 300, seed: int = 0) -> tuple[list[tuple[str, ...]], np.ndarray, list[str]]:
    """Truth, probabilities [N,3] that are right more often than not and boast, and patients."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(3, size=count)
    probabilities = softmax(4 * (np.eye(3)[numbers] + rng.normal(size=(count, 3))))
    return [(CLASSES[n],) for n in numbers], probabilities, [str(i // 2) for i in range(count)]


def test_nothing_of_the_test_split_is_used():
    truth, probabilities, groups = answers()
    splits = ["val" if i < 120 else "test" if i < 240 else "train" for i in range(300)]
    fitted = fit_operating_point(truth, probabilities, CLASSES, groups, splits, "sha", risk=0.2)
    assert fitted.n == 120 and fitted.split == "val"
    # whatever else stands in the other splits, wrong answers, other truths, no numbers at all: the same is fitted
    others, garbage = truth[:120] + [("amd",)] * 180, probabilities.copy()
    garbage[120:] = np.nan
    assert fit_operating_point(others, garbage, CLASSES, groups, splits, "sha", risk=0.2) == fitted
    # and val alone says the same
    alone = fit_operating_point(truth[:120], probabilities[:120], CLASSES, groups[:120], ["val"] * 120, "sha", risk=0.2)
    assert alone == fitted
    # while another validation photograph is seen
    changed = probabilities.copy()
    changed[:60] = changed[:60][:, [1, 2, 0]]
    assert fit_operating_point(truth, changed, CLASSES, groups, splits, "sha").temperature != fitted.temperature


@pytest.mark.parametrize("split", ["test", "train", None])
def test_without_validation_photographs_nothing_is_fitted(split):
    truth, probabilities, groups = answers(40)
    with pytest.raises(UserError, match="val split"):
        fit_operating_point(truth, probabilities, CLASSES, groups, [split] * 40, "sha")


def test_a_threshold_has_the_best_balanced_accuracy_there_is():
    rng = np.random.default_rng(1)
    for _ in range(20):
        positive, score = rng.random(50) < 0.3, rng.random(50).round(1)
        positive[:2] = [True, False]
        reached = balanced_accuracy_score(positive, score >= fit_threshold(positive, score))
        tried = [balanced_accuracy_score(positive, score >= t) for t in np.linspace(-0.05, 1.05, 111)]
        assert reached == pytest.approx(max(tried))
    assert fit_threshold(np.array([True, False]), np.array([0.9, 0.1])) == 0.5  # halfway
    for level in (0.9, np.nextafter(0.9, 1)):  # halfway between neighbours is rounded to one of them
        score = np.array([level, np.nextafter(level, 0)])
        assert (score >= fit_threshold(np.array([True, False]), score)).tolist() == [True, False]


def test_thresholds_find_rare_classes_that_the_likeliest_answer_misses():
    rng = np.random.default_rng(2)
    numbers = (rng.random(600) < 0.05).astype(int)
    logits = np.stack([np.full(600, 2.0), numbers + rng.normal(size=600) * 0.5], axis=1)
    probabilities, truth = softmax(logits), [(CLASSES[n],) for n in numbers]
    groups = [str(i) for i in range(600)]
    point = fit_operating_point(truth, probabilities, CLASSES[:2], groups, ["val"] * 300 + ["test"] * 300, "sha")
    test = slice(300, 600)
    likeliest = balanced_accuracy_score(numbers[test], probabilities[test].argmax(axis=1))
    decided = balanced_accuracy_score(numbers[test], point.decide(probabilities[test])[:, 1])
    assert decided > likeliest + 0.2


def test_calibrated_probabilities_are_less_sure_and_the_unsure_are_not_answered():
    truth, probabilities, groups = answers(600)
    splits = ["val"] * 300 + ["test"] * 300
    point = fit_operating_point(truth, probabilities, CLASSES, groups, splits, "sha", risk=0.1)
    test = probabilities[300:]
    calibrated = point.calibrate(test)
    assert point.temperature > 1.5 and np.allclose(calibrated.sum(axis=1), 1)
    assert (calibrated.argmax(axis=1) == test.argmax(axis=1)).all()
    right = np.array([CLASSES[i] in names for i, names in zip(test.argmax(axis=1), truth[300:], strict=True)])
    sure = point.answers(test)
    assert 0.1 < sure.mean() < 0.9 and right[sure].mean() > right.mean() + 0.05
    always = fit_operating_point(truth, probabilities, CLASSES, groups, splits, "sha")
    assert always.abstain_below == 0 and always.answers(test).all()
    with pytest.raises(UserError, match=r"no confidence reaches a risk of -1"):
        fit_operating_point(truth, probabilities, CLASSES, groups, splits, "sha", risk=-1)


def test_a_class_that_validation_does_not_know_is_not_decided():
    truth, probabilities, groups = answers(200)
    some = [i for i, names in enumerate(truth) if names != ("amd",)]
    point = fit_operating_point(
        [truth[i] for i in some], probabilities[some], CLASSES, [groups[i] for i in some], ["val"] * len(some), "sha"
    )
    assert point.decided == ("normal", "glaucoma") and point.decide(probabilities).shape == (200, 2)


@pytest.fixture
def point():
    found = {"haemorrhage": 0.3}
    return OperatingPoint(CLASSES, 1.7, {"normal": 0.4, "glaucoma": 0.2}, 0.35, "sha", 120, findings=found)


def test_what_is_written_is_read_again(point, tmp_path):
    assert read_operating_point(tmp_path, CLASSES) is None
    point.write(tmp_path)
    assert read_operating_point(tmp_path, CLASSES) == point
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_a_file_from_before_there_were_thresholds_of_findings_is_read(point, tmp_path):
    point.write(tmp_path)
    values = json.loads((tmp_path / FILE).read_text())
    del values["findings"]
    (tmp_path / FILE).write_text(json.dumps(values))
    assert read_operating_point(tmp_path, CLASSES) == replace(point, findings={})


def test_findings_have_a_threshold_where_enough_photographs_have_them_and_lack_them():
    there = np.arange(40) < 20
    p = np.where(there, 0.3, 0.1)
    found = fit_findings({"haemorrhage": there, "drusen": np.arange(40) < 4}, {"haemorrhage": p, "drusen": p})
    assert found == {"haemorrhage": pytest.approx(0.2)}


def test_calibrating_fits_findings_too(checkpoint):
    from mdf.evaluation.diagnosis import fit

    manifest = checkpoint.manifest
    everything = [replace(record, split="val") for record in manifest.records]
    point = fit(checkpoint.model, replace(manifest, records=everything))
    assert set(point.findings) <= set(SMALL_LESIONS) and all(0 <= v <= 1 for v in point.findings.values())


@pytest.mark.parametrize("classes", [("normal", "amd"), ("amd", "normal", "glaucoma"), (*CLASSES, "myopia")])
def test_another_models_classes_are_refused(point, tmp_path, classes):
    point.write(tmp_path)
    with pytest.raises(UserError, match="was fitted for the classes normal, amd, glaucoma"):
        read_operating_point(tmp_path, classes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"thresholds": {"normal": 2}}, r"thresholds\.normal is 2"),
        ({"thresholds": {"myopia": 0.5}}, "thresholds must be of classes"),
        ({"classes": "normal"}, "list of names"),
        ({"split": "test"}, "fitted on the split 'test'"),
        ({"findings": {"haemorrhage": 2}}, r"findings\.haemorrhage is 2"),
        ({"findings": ["haemorrhage"]}, "findings must be thresholds by name"),
        ({"n": 0}, "n is 0"),
        ({"colour": "red"}, "missing nothing, not known colour"),
    ],
)
def test_a_file_that_somebody_changed_is_refused(point, tmp_path, change, said):
    point.write(tmp_path)
    path = tmp_path / FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=said):
        read_operating_point(tmp_path, CLASSES)
    path.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        read_operating_point(tmp_path, CLASSES)


def test_a_checkpoint_loads_with_the_file_beside_it(checkpoint, tmp_path):
    import shutil

    from mdf.models.fusion import MDFModel

    folder = shutil.copytree(checkpoint.run / "best", tmp_path / "copy")
    classes = tuple(checkpoint.model.processor.diagnoses)
    point = OperatingPoint(classes, 1.3, dict.fromkeys(classes, 0.5), 0.0, "sha", 9)
    point.write(folder)
    model = MDFModel.from_pretrained(folder)
    assert read_operating_point(folder, model.processor.diagnoses) == point
