"""The table of a grid: means and spreads over seeds, intervals over patients, differences on the same photographs."""

import json

import numpy as np
import pytest

from mdf.dialogue import Question
from mdf.evaluation.bootstrap import line_groups
from mdf.evaluation.classification import classification_metrics
from mdf.evaluation.grid_table import judge, summarise, write_table
from mdf.evaluation.probe import paired_difference
from mdf.evaluation.spatial import SpatialQuestion, spatial_metrics

CLASSES = ("normal", "glaucoma", "amd")
BALANCED = "classification.balanced_accuracy"
SMALL = "spatial.small_lesions.balanced_accuracy"


def world(seed, count=60, quality=1.0):
    """Truth, probabilities and patients (two photographs each) of made-up predictions."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(len(CLASSES), size=count)
    table = rng.random((count, len(CLASSES)))
    table[np.arange(count), truth] += quality * rng.random(count)
    return [(CLASSES[t],) for t in truth], table / table.sum(1, keepdims=True), [f"p{i // 2}" for i in range(count)]


def groups_of(patients):
    return line_groups([{"id": f"i{k}", "patient": p} for k, p in enumerate(patients)])


def write(folder, truth, table, patients, sha="same", dataset="odir5k", spatial=None):
    """An evaluation as scripts/evaluate.py writes it."""
    folder.mkdir(parents=True)
    ids = [f"i{k}" for k in range(len(truth))]
    found = classification_metrics(truth, table, CLASSES, groups_of(patients))
    metrics = {"n": len(truth), "data_sha256": sha, "dataset": dataset, "classification": found}
    lines = [
        {"id": i, "patient": p, "truth": list(t), "probabilities": dict(zip(CLASSES, map(float, row), strict=True))}
        for i, p, t, row in zip(ids, patients, truth, table, strict=True)
    ]
    if spatial is not None:
        metrics["spatial"] = spatial[0]
        for k, asked in spatial[1].items():
            lines[k]["spatial"] = asked
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_one_seed_has_the_interval_and_the_paired_difference_of_the_evaluation_itself(tmp_path):
    truth, weak, patients = world(0)
    _, strong, _ = world(0, quality=3.0)
    folders = {
        "a": {0: write(tmp_path / "a", truth, weak, patients)},
        "b": {0: write(tmp_path / "b", truth, strong, patients)},
    }
    table = summarise(folders, [BALANCED])
    groups = groups_of(patients)
    own = classification_metrics(truth, strong, CLASSES, groups)
    assert table["b"][BALANCED]["mean"] == pytest.approx(own["balanced_accuracy"])
    assert table["b"][BALANCED]["ci"] == pytest.approx(own["balanced_accuracy_ci"])
    assert table["b"][BALANCED]["sd"] is None and "difference" not in table["a"][BALANCED]
    gap = paired_difference(truth, weak, strong, CLASSES, groups)
    assert table["b"][BALANCED]["difference"] == pytest.approx(gap["balanced_accuracy"])
    assert table["b"][BALANCED]["difference_ci"] == pytest.approx(gap["balanced_accuracy_ci"])


def test_seeds_are_averaged_and_patients_of_all_seeds_are_drawn_together(tmp_path):
    folders = {"a": {}, "b": {}}
    for seed in range(3):
        truth, _, patients = world(0)
        for row, quality in (("a", 0.5), ("b", 2.0)):
            rng = np.random.default_rng([seed, row == "b"])
            table = rng.random((60, 3))
            table[np.arange(60), [CLASSES.index(t[0]) for t in truth]] += quality * rng.random(60)
            folders[row][seed] = write(tmp_path / f"{row}{seed}", truth, table / table.sum(1, keepdims=True), patients)
    table = summarise(folders, [BALANCED])
    values = list(table["a"][BALANCED]["seeds"].values())
    assert table["a"][BALANCED]["mean"] == pytest.approx(np.mean(values))
    assert table["a"][BALANCED]["sd"] == pytest.approx(np.std(values, ddof=1))
    low, high = table["a"][BALANCED]["ci"]
    assert low < table["a"][BALANCED]["mean"] < high
    single = judge(folders["a"][0], BALANCED)
    assert single.metric(np.ones((1, 60)))[0] == pytest.approx(values[0])
    assert table["b"][BALANCED]["pairs"] == 3 and table["b"][BALANCED]["difference_ci"][0] > 0


def test_phantoms_of_two_seeds_are_other_patients_though_they_have_the_same_names(tmp_path):
    truth, table, patients = world(0)
    first = judge(write(tmp_path / "a", truth, table, patients, sha="one", dataset="phantom"), BALANCED)
    second = judge(write(tmp_path / "b", truth, table, patients, sha="two", dataset="phantom"), BALANCED)
    real = judge(write(tmp_path / "c", truth, table, patients, sha="two"), BALANCED)
    assert not set(first.groups) & set(second.groups)
    assert set(real.groups) == set(groups_of(patients))


def test_questions_about_lesions_have_the_interval_of_the_evaluation_itself(tmp_path):
    rng = np.random.default_rng(0)
    truth, table, patients = world(0)
    options = {"presence": ("Yes.", "No."), "count": ("One.", "Few.", "Many."), "quadrant": ("Up.", "Down.")}
    options |= {"size": ("Small.", "Large."), "distance": ("Near.", "Far.")}  # which `small_lesions` leaves out
    questions, answers, asked = [], [], {}
    for row in range(60):
        for kind, candidates in options.items():
            right = str(rng.choice(candidates))
            said = (
                right if rng.random() < (0.95 if kind in ("size", "distance") else 0.6) else str(rng.choice(candidates))
            )
            question = Question(kind=kind, text=f"{kind}?", answer=right, candidates=candidates)
            questions.append(SpatialQuestion(row, question))
            answers.append(candidates.index(said))
            asked.setdefault(row, []).append({"kind": kind, "question": f"{kind}?", "truth": right, "answer": said})
    groups = groups_of(patients)
    own = spatial_metrics(questions, answers, groups)
    folders = {"a": {0: write(tmp_path / "a", truth, table, patients, spatial=(own, asked))}}
    names = [SMALL, "spatial.presence.balanced_accuracy", "spatial.count.balanced_accuracy"]
    found = summarise(folders, names)["a"]
    for name, part in zip(names, ("small_lesions", "presence", "count"), strict=True):
        assert found[name]["mean"] == pytest.approx(own[part]["balanced_accuracy"])
        assert np.abs(np.subtract(found[name]["ci"], own[part]["balanced_accuracy_ci"])).max() < 0.02
        judged = judge(folders["a"][0], name)
        assert judged.metric(np.ones((1, len(judged.groups))))[0] == pytest.approx(own[part]["balanced_accuracy"])


def test_other_photographs_have_a_difference_but_no_interval_of_it(tmp_path):
    truth, table, patients = world(0)
    folders = {
        "a": {0: write(tmp_path / "a", truth, table, patients)},
        "b": {0: write(tmp_path / "b", truth[:40], table[:40], patients[:40])},
    }
    part = summarise(folders, [BALANCED])["b"][BALANCED]
    assert "difference" in part and part["difference_ci"] is None


def test_predictions_that_are_cut_short_are_listed_and_the_other_runs_stand(tmp_path):
    truth, table, patients = world(0)
    folders = {row: {0: write(tmp_path / row, truth, table, patients)} for row in ("a", "b")}
    path = folders["b"][0] / "predictions.jsonl"
    path.write_text(path.read_text()[:-20])
    text = write_table(folders, [BALANCED], {}, tmp_path / "out")
    assert "| b | 0 | - | - |" in text and f"- b-s0: {path} cannot be read" in text and "| a | 1 | 0." in text


def test_what_is_missing_is_a_dash_and_what_failed_is_listed_with_its_reason(tmp_path):
    truth, table, patients = world(0)
    folders = {"a": {0: write(tmp_path / "a", truth, table, patients)}, "b": {0: tmp_path / "nothing"}}
    text = write_table(folders, [BALANCED, "retrieval.r1"], {"b-s0": "exit code 2: no such file"}, tmp_path / "out")
    assert "| b | 0 | - | - | - | - |" in text and "- b-s0: exit code 2: no such file" in text
    facts = json.loads((tmp_path / "out" / "table.json").read_text())
    assert (
        facts["first"] == "a" and facts["rows"]["b"] == {} and facts["failed"] == {"b-s0": "exit code 2: no such file"}
    )
