"""The evaluation of draft reports."""

import json

import pytest

from mdf.dialogue import SMALL_LESIONS
from mdf.evaluation.evaluate import evaluate
from mdf.evaluation.reports import Reports
from mdf.evaluation.task import Material
from mdf.inference.report import Lesion, Origin
from mdf.records import Finding, FundusRecord


@pytest.fixture
def task(checkpoint):
    return Reports(Material.of(checkpoint.model, checkpoint.manifest.records, checkpoint.manifest, 4, 20, 0))


def record(*findings: Finding, eye: str | None = "left") -> FundusRecord:
    return FundusRecord(id="a", image="a.png", findings=findings, eye=eye)


def lesion(kind: str, present: bool | None = True, **more) -> Lesion:
    return Lesion(kind=kind, present=present, origin=Origin.SEGMENTATION, **more)


def test_presence_quadrant_and_band_are_scored_lesion_by_lesion(task):
    true = record(Finding("haemorrhage", "superonasal, inferonasal", count=7), Finding("drusen", "macula", count=2))
    said = [
        lesion("haemorrhage", band="one to five", zones=["superonasal", "macula"]),
        lesion("drusen", band="one to five", zones=["superotemporal", "macula"]),
        lesion("hard_exudate", band="one to five", zones=["inferonasal"]),
        lesion("microaneurysm", None),
        lesion("cotton_wool_spot", False),
    ]
    score = task.score(true, said, "left")
    assert (score.said, score.true, score.both) == (
        {"presence": 3, "quadrant": 3, "band": 3},
        {"presence": 2, "quadrant": 3, "band": 2},
        {"presence": 2, "quadrant": 2, "band": 1},
    )
    assert (score.unsaid, score.invented, score.wrong_eye, score.abstained) == (1, None, False, False)


def test_a_lesion_on_a_healthy_eye_is_invented_and_an_open_side_is_not_wrong(task):
    assert task.score(record(), [lesion("drusen")], "right").invented is True
    assert task.score(record(), [lesion("drusen", None)], "right").invented is False
    assert task.score(record(), [], "right").wrong_eye is True
    open_ = task.score(record(), [], None)
    assert open_.wrong_eye is None and open_.abstained


def test_the_task_is_asked_for_by_name(checkpoint, tmp_path):
    found = evaluate(
        checkpoint.model, checkpoint.manifest.records, checkpoint.manifest, tmp_path, tasks=("reports",), resamples=20
    )["reports"]
    assert found["n"] == 24 and 0 <= found["unsaid"]["share"] <= 1 and found["eye"]["wrong"] == 0
    for part in ("presence", "quadrant", "band"):
        assert found[part]["true"] > 0 and "f1_ci" in found[part]
    lines = [json.loads(line)["reports"] for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 24 and all(set(line["lesions"]) <= set(SMALL_LESIONS) for line in lines)
    assert "Draft reports" in (tmp_path / "index.html").read_text()
