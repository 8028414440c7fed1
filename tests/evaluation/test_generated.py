"""All figures of generated texts, and what is done with texts and answers that cannot be read."""

import json

import numpy as np
import pytest

from mdf.errors import UserError
from mdf.evaluation.generated import answer_metrics, reference_fact_metrics, text_metrics
from mdf.imaging.phantom import draw
from mdf.records import FundusRecord

CANDIDATES = ("normal", "diabetic_retinopathy", "amd", "glaucoma")


@pytest.fixture(scope="module")
def records() -> list[FundusRecord]:
    phantoms = [draw(seed, size=96) for seed in range(12)]
    return [
        FundusRecord(
            str(i),
            "x.png",
            f"patient {i // 2}",
            eye=p.eye,
            diagnosis=p.diagnosis,
            findings=p.findings,
            grade=p.grade,
            texts=p.texts,
        )
        for i, p in enumerate(phantoms)
    ]


def groups(records: list[FundusRecord]) -> list[str]:
    return [str(r.patient) for r in records]


def test_the_references_themselves_are_perfect_and_every_figure_has_an_interval(records):
    metrics = text_metrics([r.texts["report"] for r in records], records, groups(records), resamples=100)
    assert metrics["n"] == 12 and metrics["empty"] == metrics["repeating"] == 0 and metrics["distinct"] == 1
    assert metrics["overlap"]["bleu_4"] == metrics["overlap"]["rouge_l"] == 1
    assert metrics["overlap"]["cider_d"] == pytest.approx(10)
    assert metrics["reference_facts"]["f1"] == 1 and metrics["reference_facts"]["cup_disc_mae"] == 0
    assert metrics["consistency"]["clinical_consistency"] == metrics["consistency"]["positive_recall"] == 1
    assert "severity" not in metrics
    for part in (metrics, metrics["overlap"], metrics["reference_facts"], metrics["consistency"]):
        numbers = {k for k, v in part.items() if isinstance(v, float)} - {"distinct"}
        assert {f"{name}_ci" for name in numbers} <= set(part)
    assert json.loads(json.dumps(metrics)) == metrics, "plain scalars"


def test_the_same_text_for_everyone_is_told(records):
    text = "Right eye: the disc is clear. Impression: normal fundus."
    metrics = text_metrics([text] * 12, records, groups(records), resamples=100)
    assert metrics["distinct"] == pytest.approx(1 / 12)
    assert metrics["consistency"]["contradiction"] > 0.4 and metrics["consistency"]["positive_recall"] < 0.4


def test_nothing_generated(records):
    metrics = text_metrics(["", " "] * 6, records, groups(records), resamples=20)
    assert metrics["empty"] == 1 and metrics["overlap"]["bleu_1"] == metrics["overlap"]["rouge_l"] == 0
    assert metrics["consistency"]["positive_recall"] == metrics["reference_facts"]["recall"] == 0


def test_without_any_reference_the_overlap_is_left_out_aloud(records, capsys):
    bare = [FundusRecord(r.id, r.image, diagnosis=r.diagnosis) for r in records]
    metrics = text_metrics(["Glaucoma."] * 12, bare, groups(records), resamples=20)
    assert metrics["overlap"] == {"n": 0} and "reference_facts" not in metrics
    assert "none of the 12 photographs has a text (report, caption" in capsys.readouterr().out
    assert "positive_recall" in metrics["consistency"]
    text_metrics(["Glaucoma."] * 12, records, groups(records), kinds=["zh"], resamples=20)
    assert "has a text (zh)" in capsys.readouterr().out


def test_facts_are_compared_with_those_of_the_references():
    metrics = reference_fact_metrics(
        ["Drusen. No haemorrhages. Cup-disc ratio 0.5.", "Glaucoma."],
        [["Drusen.", "No exudates. Cup-disc ratio 0.3."], []],
        ["a", "b"],
        resamples=20,
    )
    assert metrics["precision"] == metrics["recall"] == metrics["f1"] == 0.5
    assert metrics["cup_disc_mae"] == pytest.approx(0.2) and metrics["cup_disc_said"] == 1
    assert reference_fact_metrics(["Drusen."], [["提示轻度白内障。"]], ["a"], resamples=20) == {}


def test_an_answer_that_names_no_diagnosis_or_two_becomes_no_class():
    answers = ["Glaucoma.", "Glaucoma and amd.", "I cannot tell.", "", "No glaucoma.", "Mild NPDR."]
    truth = [("glaucoma",), ("glaucoma",), ("glaucoma",), ("glaucoma",), ("normal",), ("diabetic_retinopathy",)]
    metrics = answer_metrics(answers, truth, CANDIDATES, list("abcdef"), resamples=200)
    shares = {name: metrics[name] * 6 for name in ("accuracy", "parsed_one", "parsed_none", "parsed_several", "empty")}
    assert shares == pytest.approx({"accuracy": 2, "parsed_one": 2, "parsed_none": 3, "parsed_several": 1, "empty": 1})
    assert metrics["n"] == 6 and all(len(metrics[f"{name}_ci"]) == 2 for name in shares)
    two = answer_metrics(["Glaucoma and amd."], [("amd", "glaucoma")], CANDIDATES, ["a"], resamples=20)
    assert two["accuracy"] == 1 and two["parsed_several"] == 1, "both are true"


def test_nothing_to_judge():
    with pytest.raises(UserError, match="no photograph"):
        text_metrics([], [], [])
    with pytest.raises(UserError, match="no answer"):
        answer_metrics([], [], CANDIDATES, [])
    with pytest.raises(ValueError, match="do not belong together"):
        text_metrics(["a"], [], [])


def test_a_photograph_counts_as_often_as_its_patient_is_drawn(records):
    texts = [r.texts["report"] if i < 6 else "" for i, r in enumerate(records)]
    patients = text_metrics(texts, records, groups(records), resamples=300)["empty_ci"]
    alone = text_metrics(texts, records, [r.id for r in records], resamples=300)["empty_ci"]
    assert np.diff(patients) > np.diff(alone)
