"""Generated texts against what is known of their photographs, fact by fact."""

from dataclasses import replace

import numpy as np
import pytest

from mdf.errors import UserError
from mdf.evaluation.consistency import consistency_metrics, judge
from mdf.imaging.phantom import draw
from mdf.records import Finding, FundusRecord

DIABETIC = FundusRecord(
    id="1",
    image="1.png",
    eye="right",
    diagnosis=("diabetic_retinopathy",),
    findings=(
        Finding("microaneurysm", "inferotemporal", count=3),
        Finding("haemorrhage", "superonasal, superotemporal", count=12),
    ),
    grade={"icdr": 2},
)
NORMAL = FundusRecord(id="2", image="2.png", eye="left", diagnosis=("normal",), findings=())
PERFECT = (
    "Right eye: there are 3 microaneurysms in the inferotemporal quadrant and 12 haemorrhages in the superonasal and "
    "superotemporal quadrants. No drusen. Impression: moderate non-proliferative diabetic retinopathy (ICDR grade 2)."
)


def of(text: str, record: FundusRecord = DIABETIC, **options) -> dict:
    return consistency_metrics([text], [record], ["1"], resamples=20, **options)


def test_a_perfect_report_has_every_figure_at_its_best():
    metrics = consistency_metrics([PERFECT] * 2, [DIABETIC] * 2, ["1", "2"], resamples=20)
    ones = ("positive_recall", "negative_confirmed", "clinical_consistency", "finding_f1", "diagnosis_f1", "eye_said")
    ones += ("eye_right", "grade_said", "grade_right", "place_right", "count_right")
    noughts = ("unsupported_claim", "invented_lesions", "contradiction", "self_contradiction", "eye_wrong")
    best = dict.fromkeys(ones, 1) | dict.fromkeys(noughts, 0)
    assert {name: metrics[name] for name in best} == best
    assert all(metrics[f"{name}_ci"] == [value, value] for name, value in best.items())


def test_listing_negatives_raises_the_consistency_and_not_the_recall():
    """Why the ratio never stands without positive recall."""
    empty = of("The photograph is clear.")
    listed = of("No drusen. No cotton wool spots. No new vessels. No glaucoma. No retinal detachment. No macular hole.")
    assert empty["clinical_consistency"] == 0 and listed["clinical_consistency"] == pytest.approx(6 / 9)
    assert empty["positive_recall"] == listed["positive_recall"] == 0


def test_a_lesion_that_is_not_there_is_invented():
    metrics = of(PERFECT + " There are cotton wool spots and drusen in the macula.")
    assert metrics["invented_lesions"] == 2 and metrics["finding_precision"] == 0.5 and metrics["finding_recall"] == 1
    assert metrics["unsupported_claim"] == pytest.approx(2 / 5)
    assert metrics["self_contradiction"] == 1, "drusen are denied before"


def test_denying_what_is_there_is_a_contradiction():
    assert of("No haemorrhages.")["contradiction"] == 1
    assert of("No haemorrhages.")["negative_confirmed"] == 0
    assert of("Normal fundus.")["contradiction"] == 1
    assert of("There are no retinal lesions.")["contradiction"] == 1
    assert of("No proliferative diabetic retinopathy.")["contradiction"] == 0, "the narrower is not what is there"


def test_a_denial_for_one_place_is_judged_by_that_place():
    assert of("No haemorrhages in the macula.")["negative_confirmed"] == 1
    assert of("No haemorrhages superiorly.")["contradiction"] == 1
    somewhere = replace(DIABETIC, findings=(Finding("haemorrhage"),))
    assert "negative_confirmed" not in of("No haemorrhages in the macula.", somewhere), "where they are is not known"


def test_a_normal_macula_is_wrong_where_a_lesion_lies_in_it():
    macular = replace(DIABETIC, findings=(Finding("drusen", "macula"),))
    assert of("The macula is normal.", macular)["contradiction"] == 1
    assert of("The macula is normal.")["contradiction"] == 0


def test_not_assessed_is_not_none():
    """A claim on findings that nobody looked for is neither right nor wrong; where they were looked for it is wrong."""
    text = "There are drusen. No haemorrhages. Diabetic retinopathy."
    unknown, none = of(text, replace(DIABETIC, findings=None)), of(text, replace(DIABETIC, findings=()))
    assert unknown["unsupported_claim"] == 0 and unknown["unjudged"] == 1
    assert "invented_lesions" not in unknown and "negative_confirmed" not in unknown
    assert none["unsupported_claim"] == 0.5 and none["invented_lesions"] == 1
    assert none["negative_confirmed"] == 1 and none["unjudged"] == 0
    assert "positive_recall" not in of(text, FundusRecord(id="3", image="3.png"))


def test_no_glaucoma_alone_says_nothing_of_other_diseases():
    record = FundusRecord(id="3", image="3.png", diagnosis=("no_glaucoma",))
    assert of("Glaucoma.", record)["unsupported_claim"] == 1
    assert of("No glaucoma.", record)["negative_confirmed"] == 1
    assert of("Cataract. Drusen.", record)["unjudged"] == 2


def test_a_label_that_may_be_many_diseases_judges_none_of_them():
    other = FundusRecord(id="3", image="3.png", diagnosis=("other",))
    assert of("Macular hole. No retinal detachment.", other)["unjudged"] == 1
    assert "negative_confirmed" not in of("No retinal detachment.", other)
    assert of("Glaucoma.", other)["unsupported_claim"] == 1, "which is a disease with a name of its own"
    assert of("Normal fundus.", other)["contradiction"] == 1
    blurred = FundusRecord(id="3", image="3.png", diagnosis=("blurred",))
    assert of("Glaucoma.", blurred)["unjudged"] == 1


def test_the_broader_name_is_no_error_and_no_recall_of_the_stage():
    staged = replace(DIABETIC, diagnosis=("moderate_npdr",), findings=None)
    metrics = of("Diabetic retinopathy.", staged)
    assert metrics["unsupported_claim"] == 0 and metrics["diagnosis_recall"] == 0
    assert of("Severe NPDR.", replace(DIABETIC, findings=None))["diagnosis_recall"] == 1


def test_a_name_said_twice_in_two_breadths_is_one_claim():
    assert judge("Diabetic retinopathy. Mild NPDR.", DIABETIC)["diagnosis_claimed"] == 1


def test_of_two_denials_the_broader_counts():
    staged = replace(DIABETIC, diagnosis=("moderate_npdr",))
    for text in ("No diabetic retinopathy. No mild NPDR.", "No mild NPDR. No diabetic retinopathy."):
        found = judge(text, staged)
        assert (found["contradictions"], found["negatives"], found["confirmed"]) == (1, 1, 0)
    for text in ("No haemorrhages. No haemorrhages in the macula.", "No haemorrhages in the macula. No haemorrhages."):
        found = judge(text, DIABETIC)
        assert (found["contradictions"], found["negatives"], found["confirmed"]) == (1, 1, 0)
    here_and_there = judge("No haemorrhages in the macula. No haemorrhages inferonasally.", DIABETIC)
    assert here_and_there["confirmed"] == 1 and here_and_there["contradictions"] == 0
    assert judge("No haemorrhages superonasally. No haemorrhages in the macula.", DIABETIC)["contradictions"] == 1


def test_doubt_is_neither_recall_nor_error():
    metrics = of("Possible diabetic retinopathy. Suspected drusen.")
    assert metrics["hedged"] == 2 and metrics["positive_recall"] == 0 and "unsupported_claim" not in metrics
    suspected = replace(DIABETIC, diagnosis=("suspected_glaucoma",), findings=None)
    assert of("Suspected glaucoma.", suspected)["positive_recall"] == 1


def test_the_wrong_eye():
    wrong = of(PERFECT.replace("Right", "Left"))
    assert wrong["eye_wrong"] == 1 and wrong["eye_right"] == 0 and wrong["finding_recall"] == 1
    assert of("Both eyes show haemorrhages.")["eye_wrong"] == 1, "one eye was photographed"
    assert of("Haemorrhages.")["eye_said"] == 0 and "eye_right" not in of("Haemorrhages.")
    assert "eye_said" not in of(PERFECT, replace(DIABETIC, eye=None))


def test_of_a_text_on_both_eyes_the_other_eye_is_left_out():
    metrics = of("OD: microaneurysms and haemorrhages. OS: drusen.")
    assert metrics["finding_recall"] == 1 and metrics["invented_lesions"] == 0 and metrics["eye_wrong"] == 1


@pytest.mark.parametrize(
    ("text", "said", "right"),
    [
        ("ICDR grade 2.", 1, 1),
        ("Moderate NPDR.", 1, 1),
        ("Diabetic retinopathy grade 3.", 1, 0),
        ("Mild NPDR (ICDR grade 2).", 1, 0),
        ("Diabetic retinopathy.", 0, None),
        ("Keith-Wagener-Barker grade 4.", 0, None),
    ],
)
def test_grades(text, said, right):
    metrics = of(text)
    assert metrics["grade_said"] == said and metrics.get("grade_right") == right


@pytest.mark.parametrize(
    ("text", "place", "count"),
    [
        ("Haemorrhages superiorly.", 1, None),
        ("Haemorrhages in all quadrants.", 0, None),
        ("12 haemorrhages superonasally.", 0, 1),
        ("Numerous haemorrhages.", None, 1),
        ("More than twenty haemorrhages.", None, 0),
        ("A few microaneurysms inferotemporally.", 1, 1),
        ("Drusen in the macula.", None, None),
        ("Haemorrhages superonasally. Haemorrhages superotemporally.", 1, None),
        ("7 haemorrhages superonasally. 5 haemorrhages superotemporally.", 1, 1),
        ("7 haemorrhages superonasally. More than 6 haemorrhages superotemporally.", 1, 0),
        ("12 haemorrhages superiorly. The haemorrhages are small.", 1, 1),
        ("12 haemorrhages superiorly. 7 haemorrhages superonasally.", 1, 1),
        ("Haemorrhages superiorly. Haemorrhages in the macula.", 0, None),
    ],
)
def test_places_and_counts_of_what_is_recalled(text, place, count):
    metrics = of(text)
    assert metrics.get("place_right") == place and metrics.get("count_right") == count


def test_phantom_reports_agree_with_their_phantoms_and_contradict_others():
    phantoms = [draw(seed, size=96) for seed in range(16)]
    records = [
        FundusRecord(str(i), "x.png", eye=p.eye, diagnosis=p.diagnosis, findings=p.findings, grade=p.grade)
        for i, p in enumerate(phantoms)
    ]
    texts, groups = [p.texts["report"] for p in phantoms], [str(i) for i in range(16)]
    own = consistency_metrics(texts, records, groups, resamples=100)
    assert all(
        own[n] == 1 for n in ("positive_recall", "negative_confirmed", "place_right", "count_right", "eye_right")
    )
    assert all(own[n] == 0 for n in ("unsupported_claim", "contradiction", "self_contradiction", "eye_wrong"))
    assert own["clinical_consistency"] == 1 and own["grade_right"] == 1
    others = consistency_metrics(texts[1:] + texts[:1], records, groups, resamples=100)
    assert others["positive_recall"] < 0.6 and others["unsupported_claim"] > 0.4 and others["contradiction"] > 0
    low, high = others["positive_recall_ci"]
    assert low < others["positive_recall"] < high


def test_intervals_are_those_of_whole_patients():
    texts, records = ["Diabetic retinopathy."] * 10 + [""] * 10, [replace(DIABETIC, findings=None)] * 20
    alone = consistency_metrics(texts, records, [str(i) for i in range(20)])["positive_recall_ci"]
    paired = consistency_metrics(texts, records, [str(i // 5) for i in range(20)])["positive_recall_ci"]
    assert np.diff(paired) > 1.5 * np.diff(alone)


def test_an_empty_text_claims_nothing():
    metrics = of("")
    assert metrics["positive_recall"] == 0 and metrics["clinical_consistency"] == 0 and metrics["finding_f1"] == 0
    assert "unsupported_claim" not in metrics and "negative_confirmed" not in metrics


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(UserError, match="no photograph"):
        consistency_metrics([], [], [])
    with pytest.raises(ValueError, match="do not belong together"):
        consistency_metrics(["a"], [], [])
