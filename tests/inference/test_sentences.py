"""The model's sentences held against the findings."""

import pytest

from mdf.inference.report import (
    Diagnosis,
    Disc,
    Evidence,
    EyeReport,
    Gradability,
    Grade,
    Impression,
    Laterality,
    Lesion,
    Origin,
    Photograph,
)
from mdf.inference.sentences import hold

SEEN = [Evidence(text="regions", mask="m")]


def lesion(kind: str, present: bool | None, **more) -> Lesion:
    return Lesion(kind=kind, present=present, origin=Origin.SEGMENTATION, **{"evidence": SEEN, **more})


@pytest.fixture
def eye() -> EyeReport:
    return EyeReport(
        laterality=Laterality(origin=Origin.USER, eye="left"),
        photograph=Photograph(name="a.png", sha256="0", width=9, height=9),
        gradability=Gradability(value="good", is_retina=True, score=1.0),
        disc=Disc(found=True, cup_disc_ratio=0.4),
        lesions=[
            lesion("microaneurysm", True, count=9, zones=["superonasal", "macula"]),
            lesion("haemorrhage", False),
            lesion("hard_exudate", None),
            lesion("drusen", True, evidence=[]),
        ],
        grades=[Grade(origin=Origin.RULE, scale="ICDR", version="2003", value="1")],
        impression=Impression(origin=Origin.SCORING, text="t", diagnosis="diabetic_retinopathy", evidence=SEEN),
    )


@pytest.mark.parametrize(
    ("sentence", "verdict"),
    [
        ("There are microaneurysms.", "supported"),
        ("There are 9 microaneurysms in the superonasal quadrant.", "supported"),
        ("There are 8 microaneurysms.", "supported"),  # as near as two observers
        ("There are 25 microaneurysms.", "contradicted"),
        ("Numerous microaneurysms are seen.", "supported"),
        ("There are microaneurysms in the inferotemporal quadrant.", "contradicted"),
        ("No microaneurysms are seen.", "contradicted"),
        ("No haemorrhages are seen.", "supported"),
        ("There are 3 haemorrhages.", "contradicted"),
        ("Flame haemorrhages are seen.", "contradicted"),
        ("There are hard exudates.", "no image evidence"),
        ("There are drusen.", "no image evidence"),  # the language model alone says so
        ("There are microaneurysms and 3 haemorrhages.", "contradicted"),
        ("There are microaneurysms and hard exudates.", "no image evidence"),
        ("The retina is normal.", "contradicted"),
        ("No lesions are seen.", "contradicted"),
        ("The cup-disc ratio is 0.45.", "supported"),
        ("The cup-disc ratio is 0.8.", "contradicted"),
        ("The cup is enlarged.", "contradicted"),
        ("Impression: diabetic retinopathy.", "supported"),
        ("Impression: mild non-proliferative diabetic retinopathy (ICDR grade 1).", "supported"),
        ("Impression: severe non-proliferative diabetic retinopathy (ICDR grade 3).", "contradicted"),
        ("No diabetic retinopathy.", "contradicted"),
        ("Left eye: there are microaneurysms.", "supported"),
        ("Right eye: there are microaneurysms.", "contradicted"),
        ("The vitreous is clear.", "no image evidence"),
        ("Refer if there are haemorrhages.", "no image evidence"),
    ],
)
def test_each_sentence_has_a_verdict(eye, sentence, verdict):
    (words,) = hold(sentence, eye)
    assert (words.text, words.verdict) == (sentence, verdict)


def test_sentences_are_judged_one_by_one_and_say_what_they_speak_of(eye):
    words = hold("There are microaneurysms. There are haemorrhages.\nNothing else.", eye)
    assert [w.verdict for w in words] == ["supported", "contradicted", "no image evidence"]
    assert words[0].about == ["microaneurysm"]
    assert hold("", eye) == []


def test_a_normal_eye_bears_out_that_nothing_is_there(eye):
    eye.lesions = [lesion("microaneurysm", False), lesion("haemorrhage", False)]
    eye.impression = Impression(origin=Origin.SCORING, text="t", diagnosis="normal", evidence=SEEN)
    text = "There are no retinal lesions. No haemorrhages are seen. Impression: normal fundus. Impression: glaucoma."
    assert [w.verdict for w in hold(text, eye)] == ["supported"] * 3 + ["contradicted"]


def test_two_answers_of_one_model_do_not_bear_each_other_out(eye):
    """The diagnosis was scored and the words were written by the same model; no picture speaks for it."""
    eye.lesions, eye.grades = None, []
    eye.impression = Impression(origin=Origin.SCORING, text="t", diagnosis="glaucoma")
    assert [w.verdict for w in hold("Glaucoma. Cataract. No glaucoma.", eye)] == [
        "no image evidence", "no image evidence", "contradicted",
    ]  # fmt: skip


def test_normal_is_not_borne_out_where_a_disease_is_likelier(eye):
    """Masks and answers show no lesion, and the diagnosis is another: the report gives no impression."""
    eye.lesions = [lesion("microaneurysm", False), lesion("haemorrhage", False)]
    likely = [Diagnosis(name="diabetic_retinopathy", probability=0.7), Diagnosis(name="normal", probability=0.3)]
    eye.impression = Impression(origin=Origin.SCORING, text="t", diagnoses=likely)
    said = hold("There are no retinal lesions. Impression: normal fundus.", eye)
    assert [w.verdict for w in said] == ["supported", "no image evidence"]


def test_where_nothing_was_assessed_nothing_is_borne_out(eye):
    eye.lesions, eye.grades, eye.impression, eye.disc = None, [], None, Disc()
    text = "There are microaneurysms. The cup-disc ratio is 0.4. Impression: diabetic retinopathy, ICDR grade 1."
    assert {w.verdict for w in hold(text, eye)} == {"no image evidence"}
