"""The impression at the operating point, and against the findings."""

import pytest

from mdf.evaluation.operating_point import OperatingPoint
from mdf.inference.impression import calibrated, give_impression
from mdf.inference.report import Disc, Evidence, Gradability, Lesion, Origin, Statement

GOOD = Gradability(value="good", is_retina=True, score=0.9)
CLASSES = ("normal", "glaucoma", "diabetic_retinopathy", "amd")
BASIC = ("microaneurysm", "haemorrhage", "hard_exudate", "cotton_wool_spot")


def probabilities(**given: float) -> dict[str, float]:
    left = (1 - sum(given.values())) / (len(CLASSES) - len(given))
    return {name: given.get(name, left) for name in CLASSES}


def lesions(*present: str, unsure: tuple[str, ...] = ()) -> list[Lesion]:
    states = {name: True if name in present else None if name in unsure else False for name in (*BASIC, "drusen")}
    seen = [Evidence(text="regions", mask="m")]
    return [Lesion(kind=k, present=p, origin=Origin.SEGMENTATION, evidence=seen) for k, p in states.items()]


def impression(table, found=None, point=None, disc=None, gradability=GOOD):
    return give_impression(table, point, gradability, lesions() if found is None else found, disc or Disc())


def test_the_likeliest_is_given_with_its_probability_and_evidence():
    said = impression(probabilities(diabetic_retinopathy=0.9), lesions("haemorrhage"))
    assert said.diagnosis == "diabetic_retinopathy" and said.text == "Diabetic retinopathy (probability 0.90)."
    assert said.seen and not said.calibrated and said.threshold == 0.5
    assert said.diagnoses[0].name == "diabetic_retinopathy" and len(said.diagnoses) == 4


def test_below_the_threshold_there_is_none():
    said = impression(probabilities(glaucoma=0.49))
    assert said.diagnosis is None and said.text.startswith("No confident impression: the most likely, glaucoma")


def test_the_operating_point_is_applied():
    point = OperatingPoint(CLASSES, 2.0, {"glaucoma": 0.6, "normal": 0.1}, 0.0, "sha", 9)
    table = probabilities(glaucoma=0.8)
    softer = calibrated(table, point)["glaucoma"]
    assert softer < 0.6 and sum(calibrated(table, point).values()) == pytest.approx(1)
    said = impression(table, point=point)
    assert said.calibrated and said.threshold == 0.6 and said.diagnosis is None
    assert impression(probabilities(normal=0.9), point=point).diagnosis == "normal"
    cautious = OperatingPoint(CLASSES, 1.0, {"normal": 0.1}, 0.95, "sha", 9)
    said = impression(probabilities(normal=0.9), point=cautious)
    assert said.diagnosis is None and said.threshold == 0.95


def test_an_impression_that_the_findings_contradict_is_not_given():
    said = impression(probabilities(normal=0.9), lesions("haemorrhage"))
    assert said.diagnosis is None and said.text.endswith("the findings disagree: haemorrhages in the picture.")
    said = impression(probabilities(diabetic_retinopathy=0.9), lesions("drusen"))
    assert said.diagnosis is None and "none of its lesions is seen" in said.text
    unsure = impression(probabilities(diabetic_retinopathy=0.9), lesions(unsure=("haemorrhage",)))
    assert unsure.diagnosis == "diabetic_retinopathy" and not unsure.seen


def test_what_bears_it_out():
    assert impression(probabilities(normal=0.9)).seen
    assert impression(probabilities(amd=0.9), lesions("drusen")).seen
    assert impression(probabilities(amd=0.9)).diagnosis == "amd" and not impression(probabilities(amd=0.9)).seen
    cup = Statement(origin=Origin.MEASUREMENT, text="t", evidence=[Evidence(text="heights")])
    for ratio, seen in ((0.7, True), (0.4, False)):
        disc = Disc(found=True, cup_disc_ratio=ratio, statements=[cup])
        assert impression(probabilities(glaucoma=0.9), disc=disc).seen is seen


def test_what_cannot_be_graded_has_no_impression():
    dark = Gradability(value="barely", is_retina=True, score=0.5)
    assert impression(probabilities(glaucoma=0.99), gradability=dark) is None
