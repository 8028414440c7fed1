"""The real scripts on a tiny checkpoint that learnt nothing: what they write, say and refuse."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.evaluation.classification import softmax
from mdf.evaluation.compare import flatten
from mdf.evaluation.diagnosis import Diagnosis, candidate_probabilities
from mdf.evaluation.evaluate import evaluate
from mdf.evaluation.photographs import load_inputs
from mdf.evaluation.task import Material
from mdf.records import read_manifest, write_manifest
from tests.scripts import SCRIPTS, environment, run, start
from tests.tiny_checkpoint import DIAGNOSES


def test_batches_equal_single_photographs(checkpoint):
    model, manifest = checkpoint.model, checkpoint.manifest
    records = manifest.split("all")[:3]
    inputs, _ = load_inputs(model, records, manifest)
    answers = ["Diabetic retinopathy.", "Normal fundus.", "Glaucoma."]
    together = candidate_probabilities(model, inputs, "What is the diagnosis?", answers)
    single = [
        candidate_probabilities(model, inputs.select([i]), "What is the diagnosis?", answers)[0] for i in range(3)
    ]
    assert np.allclose(together, single, atol=1e-5)
    assert np.allclose(together.sum(axis=1), 1)
    assert not np.allclose(together[0], together[1], atol=1e-6)  # the photographs are not the same
    conversation = [model.system_turn(), Turn("user", "What is the diagnosis?")]
    texts = model.generate_answers(inputs, [conversation] * 3, max_new_tokens=8)
    assert texts == [model.generate_answers(inputs.select([i]), [conversation], max_new_tokens=8)[0] for i in range(3)]


def test_probabilities_are_written_as_they_are(checkpoint):
    """Those of a sure model lie closer to 0 and to 1 than six decimals tell, and rank all the same."""
    records = checkpoint.manifest.records[:1]
    task = Diagnosis(Material.of(checkpoint.model, records, checkpoint.manifest, 1, 10, 0))
    task.found[0] = softmax(np.array([[0.0, 20.0, 40.0, 41.0]]))[0]
    line = json.loads(json.dumps(task.line(0)))
    assert list(line["probabilities"].values()) == task.found[0].tolist() and line["predicted"] == DIAGNOSES[3]


def alike(a, b) -> bool:
    """The same lists and dictionaries, their numbers to four digits."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == pytest.approx(b, abs=1e-4, nan_ok=True) if isinstance(a, float) else a == b


def test_same_numbers_whatever_the_batch(checkpoint, tmp_path):
    records = checkpoint.manifest.split("all")[:7]
    tasks = ("diagnosis", "masks", "retrieval", "zero_shot", "spatial", "controls")
    both = [
        flatten(
            evaluate(
                checkpoint.model,
                records,
                checkpoint.manifest,
                tmp_path / str(b),
                tasks=tasks,
                batch_size=b,
                resamples=20,
            )
        )
        for b in (2, 7)
    ]
    assert both[0].keys() == both[1].keys()
    for name, value in both[0].items():
        assert alike(value, both[1][name]), name


def test_the_script_writes_metrics_and_predictions(checkpoint, tmp_path):
    out = tmp_path / "evaluation"
    done = start(
        "evaluate.py",
        "--checkpoint",
        checkpoint.run,
        "--data",
        checkpoint.data,
        "--split",
        "all",
        "--limit",
        10,
        "--out",
        out,
    )
    assert done.returncode == 0, done.stderr
    assert "taking" in done.stdout and "best" in done.stdout  # a run folder was given
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["n"] == 10
    assert metrics["data_sha256"] == read_manifest(checkpoint.data).sha256
    names = flatten(metrics)
    for name in (
        "classification.accuracy", "classification.balanced_accuracy", "classification.macro_f1",
        "classification.macro_auroc",
        "segmentation.vessel.dice", "retrieval.image_to_text_r1", "retrieval.text_to_image_r5",
        "retrieval.image_to_image_map", "zero_shot.names.balanced_accuracy", "zero_shot.described.macro_auroc",
        "controls.blank.balanced_accuracy", "controls.shuffled.balanced_accuracy",
        "controls.majority.balanced_accuracy",
        "spatial.small_lesions.balanced_accuracy", "spatial.presence.balanced_accuracy", "generation.accuracy",
    ):  # fmt: skip
        assert 0 <= names[name] <= 1 and f"{name}_ci" in names, name
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 10
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1, abs=1e-12)  # nothing is rounded away
    assert lines[0]["predicted"] == max(lines[0]["probabilities"], key=lines[0]["probabilities"].get)
    assert {"id", "patient", "source", "truth", "generated", "parsed", "report"} <= lines[0].keys()
    compared = start("evaluate.py", "compare", out, out / "metrics.json")
    assert compared.returncode == 0 and "classification.accuracy" in compared.stdout
    assert "+0.000" in compared.stdout and "NOT THE SAME" not in compared.stdout


def test_controls_alone_answer_whether_the_picture_is_used(checkpoint, tmp_path, capsys):
    args = ("--checkpoint", checkpoint.run / "best", "--data", checkpoint.data, "--split", "all", "--limit", 8)
    assert run("evaluate.py", *args, "--tasks", "controls", "--out", tmp_path) == 0
    assert "uses the picture" in capsys.readouterr().out.replace("USES", "uses")
    assert "classification" not in json.loads((tmp_path / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--checkpoint": "nowhere"}, "nowhere"),
        ({"--tasks": "diagnoses"}, "choose from diagnosis"),
        ({"--tasks": "zero_shot", "--classes": "glaucomma"}, "glaucoma"),
        ({"--folds": "3"}, "--tasks probe"),
        ({"--tasks": "probe", "--folds": "99"}, "--folds"),
        ({"--weights": "openai"}, "--encoder"),
        ({"--data": "missing.jsonl"}, "missing.jsonl"),
        ({"--limit": "-1"}, "--limit"),
        ({"--device": "toaster"}, "toaster"),
    ],
)
def test_wrong_input_gets_one_message_and_code_2(checkpoint, tmp_path, capsys, change, said):
    args = {"--checkpoint": checkpoint.run, "--data": checkpoint.data, "--out": tmp_path, "--split": "all"} | change
    assert run("evaluate.py", *[word for pair in args.items() for word in pair]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("error:") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["evaluate.py", "chat.py", "report.py", "embed.py"])
def test_help_teaches_without_loading_torch(name):
    code = "import runpy, sys; sys.argv = sys.argv[1:]\n"
    code += "try: runpy.run_path(sys.argv[0], run_name='__main__')\nfinally: print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, SCRIPTS / name, "--help"], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0 and "example" in done.stdout
    assert done.stdout.strip().endswith("False")


def test_photographs_that_are_hardly_gradable_are_a_subgroup(checkpoint, tmp_path):
    manifest = checkpoint.manifest
    records = []
    for i, record in enumerate(manifest.split("all")[:6]):
        image = np.asarray(Image.open(manifest.path(record.image)))
        Image.fromarray(image // 12 if i < 3 else image).save(tmp_path / f"{i}.png")
        records.append(replace(record, image=f"{i}.png", masks={}))
    write_manifest(tmp_path / "m.jsonl", records, root=tmp_path, dataset="some")
    some = read_manifest(tmp_path / "m.jsonl")
    found = evaluate(checkpoint.model, some.records, some, tmp_path / "out", tasks=("diagnosis",), resamples=20)
    rows = found["subgroups"]["quality"]["groups"]
    assert sum(row["n"] for row in rows.values()) == 6 and rows["not"]["n"] >= 3


def test_an_operating_point_is_fitted_on_validation_and_reported(checkpoint, tmp_path, capsys):
    shutil.copytree(checkpoint.run / "best", tmp_path / "best")
    args = ("--checkpoint", tmp_path / "best", "--data", checkpoint.data)
    assert run("evaluate.py", "calibrate", *args) == 0
    shown = capsys.readouterr().out
    assert "of the val split" in shown and "every photograph is answered" in shown
    point = json.loads((tmp_path / "best" / "operating_point.json").read_text())
    assert point["n"] == len(checkpoint.manifest.split("val")) and point["split"] == "val"
    assert run("evaluate.py", *args, "--split", "all", "--tasks", "diagnosis", "--out", tmp_path / "a") == 0
    found = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert {"calibrated", "decided", "abstention", "calibration", "selective", "subgroups"} <= found.keys()
    assert found["abstention"]["coverage"] == 1  # no risk was named: everything is answered
    assert run("evaluate.py", "calibrate", *args, "--risk", "2") == 2


def test_one_class_or_one_patient_is_told_apart_from_nothing(checkpoint, tmp_path, capsys):
    records = checkpoint.manifest.split("all")
    alike = [r for r in records if r.diagnosis == records[0].diagnosis]
    tasks = ["diagnosis", "masks", "zero_shot", "retrieval"]
    metrics = evaluate(checkpoint.model, alike, checkpoint.manifest, tmp_path, tasks=tasks, resamples=10)
    assert metrics.keys() >= {"segmentation", "retrieval"}
    said = capsys.readouterr().out
    assert "task diagnosis left out: all" in said and "task zero_shot left out: all" in said
    one = [replace(r, patient="P1") for r in records]
    with pytest.raises(UserError, match="none of the tasks"):
        evaluate(checkpoint.model, one, checkpoint.manifest, tmp_path, tasks=["diagnosis"], resamples=10)
    assert "one patient" in capsys.readouterr().out


def test_maps_and_counterfactual_pairs_are_asked_for_by_name(checkpoint, tmp_path, monkeypatch):
    from mdf.evaluation import counterfactual

    few = counterfactual.Counterfactuals
    monkeypatch.setattr(counterfactual, "Counterfactuals", lambda *a, **k: few(*a, **k | {"pairs": 4, "size": 96}))
    records = checkpoint.manifest.split("all")[:6]
    tasks = ("maps", "counterfactual")
    found = evaluate(checkpoint.model, records, checkpoint.manifest, tmp_path, tasks=tasks, resamples=10)
    assert found.keys() >= {"maps", "counterfactual"} and found["counterfactual"]["pairs"] == 4
    pairs = [json.loads(line) for line in (tmp_path / "counterfactuals.jsonl").read_text().splitlines()]
    assert {"pair", "change", "question", "truth", "answer"} <= pairs[0].keys()
    assert any("maps" in json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines())
