"""ODIR-5K's challenge: its score equals scikit-learn's, its file is read and written, and what it hides is shown."""

import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score, roc_auc_score

from mdf.datasets.odir5k import CLASSES
from mdf.errors import UserError
from mdf.evaluation.odir_score import by_patient, odir_metrics, read_csv, to_csv
from tests.scripts import run


def made(patients: int = 60, seed: int = 0):
    rng = np.random.default_rng(seed)
    truth = np.zeros((patients, 8), dtype=bool)
    truth[np.arange(patients), rng.integers(8, size=patients)] = True
    scores = np.clip(truth * 0.5 + rng.random((patients, 8)) * 0.6, 0, 1)
    return [f"p{i}" for i in range(patients)], truth, scores


def test_the_official_score_is_the_mean_of_three_flattened_figures():
    patients, truth, scores = made()
    found = odir_metrics(patients, truth, scores, resamples=20)["official"]
    y, p = truth.ravel(), scores.ravel()
    wanted = {
        "kappa": cohen_kappa_score(y, p >= 0.5),
        "f1": f1_score(y, p >= 0.5, average="binary"),
        "auc": roc_auc_score(y, p),
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert found["score"] == pytest.approx(np.mean(list(wanted.values())))
    assert found["score_ci"][0] <= found["score"] <= found["score_ci"][1]


def test_who_knows_how_frequent_diseases_are_and_nothing_else_has_a_high_auc_but_no_class_right():
    patients, truth, _ = made(200)
    truth[:, 1] |= np.arange(200) % 2 == 0
    frequent = np.tile(truth.mean(axis=0), (200, 1))
    found = odir_metrics(patients, truth, frequent, resamples=20)
    assert found["official"]["auc"] > 0.6 and found["macro_auroc"] == pytest.approx(0.5)


def line(patient: str, eye: str, labels: list[str], **probabilities: float) -> dict:
    every = dict.fromkeys(CLASSES.values(), 0.01) | probabilities
    return {"id": f"{patient}_{eye}", "patient": patient, "truth": labels, "probabilities": every}


def test_a_disease_of_one_eye_is_the_patients_and_normal_is_who_is_normal_in_both():
    lines = [
        line("1", "left", ["normal"], normal=0.9),
        line("1", "right", ["glaucoma"], normal=0.2, glaucoma=0.7),
        line("2", "left", ["normal"], normal=0.8),
    ]
    patients, truth, scores = by_patient(lines, "probabilities", "truth")
    assert patients == ["1", "2"]
    assert truth[0].nonzero()[0].tolist() == [2] and truth[1].nonzero()[0].tolist() == [0]
    assert scores[0, [0, 2]].tolist() == [0.2, 0.7] and scores[1, 0] == 0.8
    with pytest.raises(UserError, match="has no patient"):
        by_patient([{**lines[0], "patient": None}], "probabilities", "truth")
    with pytest.raises(UserError, match="not drusen"):
        by_patient([line("1", "left", ["drusen"])], "probabilities", "truth")
    with pytest.raises(UserError, match="no patient has any of the classes"):
        odir_metrics(patients, np.zeros_like(truth), scores)
    with pytest.raises(UserError, match=r"patient 1 stands in two sources \(odir5k, hrf\)"):
        by_patient([lines[0] | {"source": "odir5k"}, lines[1] | {"source": "hrf"}], "probabilities", "truth")


def test_the_file_of_the_challenge_round_trips_and_bad_ones_are_refused(tmp_path):
    patients, _, scores = made(5)
    file = tmp_path / "scores.csv"
    file.write_text(to_csv(patients, scores))
    assert file.read_text().startswith("ID,N,D,G,C,A,H,M,O\n")
    assert np.allclose(read_csv(file, patients), scores, atol=1e-6)
    for text, said in (
        ("ID,N\n1,0\n", "columns must be"),
        (to_csv(patients[:4], scores[:4]), "no row of 1 patients"),
        (to_csv([*patients, "p0"], np.vstack([scores, scores[:1]])), "twice"),
        (to_csv(patients, scores * 3), "from 0 to 1"),
        (to_csv(patients, scores).replace("0.", "x.", 1), "no number"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=said):
            read_csv(file, patients)


def test_the_verb_scores_an_evaluation(tmp_path):
    rng = np.random.default_rng(0)
    names = list(CLASSES.values())
    lines = []
    for i in range(20):
        label = names[int(rng.integers(8))]
        p = dict(zip(names, rng.dirichlet(np.ones(8)), strict=True))
        lines.append({"id": f"{i}", "patient": f"{i // 2}", "truth": [label], "probabilities": p})
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert run("evaluate.py", "benchmark", "odir", tmp_path, "--out", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["n"] == 10 and len((tmp_path / "out" / "odir.csv").read_text().splitlines()) == 11
    again = ("--csv", tmp_path / "out" / "odir.csv", "--out", tmp_path / "again")
    assert run("evaluate.py", "benchmark", "odir", tmp_path, *again) == 0
    scored = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert scored["official"]["score"] == pytest.approx(found["official"]["score"], abs=1e-5)
