"""Grades by rule, each line of the scales once and more."""

import pytest

from mdf.dialogue import QUADRANTS
from mdf.inference.grading import DME, ICDR, NHS, NHS_M, grade_lesions
from mdf.inference.report import Box, Evidence, EyeReport, Gradability, Laterality, Lesion, Macula, Origin, Photograph

GOOD = Gradability(value="good", is_retina=True, score=0.9)
MACULA = Macula(centre=(100.0, 100.0))
BASIC = ("microaneurysm", "haemorrhage", "hard_exudate", "cotton_wool_spot")
SEEN = [Evidence(text="regions in the mask")]


def there(kind: str, *quadrants: int, away: float | None = 3.0, **more) -> Lesion:
    """A lesion with so many in each of the four quadrants."""
    numbers = dict(zip(QUADRANTS, quadrants or (1,), strict=False))
    by_zone = {zone: n for zone, n in numbers.items() if n}
    place = {"count": sum(numbers.values()), "by_zone": by_zone, "zones": list(by_zone)}
    given = {"present": True, "origin": Origin.SEGMENTATION, "evidence": SEEN, "nearest_fovea": away, **place, **more}
    return Lesion(kind=kind, **given)


def lesions(*given: Lesion, missing: tuple[str, ...] = ()) -> list[Lesion]:
    """The given ones, and every other of the basic kinds as absent."""
    kinds = {one.kind for one in given}
    rest = [
        Lesion(kind=kind, present=False, origin=Origin.SEGMENTATION, evidence=SEEN)
        for kind in BASIC
        if kind not in kinds and kind not in missing
    ]
    return [*given, *rest]


def graded(found: list[Lesion] | None, macula: Macula = MACULA, gradability: Gradability = GOOD, **more):
    return {grade.scale: grade for grade in grade_lesions(found, macula, gradability, **more)}


MA, BLEED = "microaneurysm", "haemorrhage"
EXUDATE, SPOT = "hard_exudate", "cotton_wool_spot"
BEADING, IRMA, NEW = "venous_beading", "intraretinal_microvascular_abnormality", "neovascularisation"


@pytest.mark.parametrize(
    ("given", "icdr", "nhs"),
    [
        ((), "0", "R0"),
        ((there("drusen", 9),), "0", "R0"),
        ((there(MA, 1),), "1", "R1"),
        ((there(MA, 20, 0, 0, 0),), "1", "R1"),
        ((there(MA, 21),), "1", "R2L"),
        ((there(MA, 21, 21, 21, 21),), "1", "R2H"),
        ((there(BLEED, 1),), "2", "R1"),
        ((there(BLEED, 7),), "2", "R1"),
        ((there(BLEED, 8),), "2", "R2L"),
        ((there(BLEED, 2, 2, 2, 2),), "2", "R2L"),
        ((there(BLEED, 4), there(MA, 17)), "2", "R2L"),  # more than 20 together in one quadrant
        ((there(BLEED, 4), there(MA, 0, 17)), "2", "R1"),  # in no quadrant more than 20
        ((there(BLEED, 21, 21, 21),), "2", "R2L"),
        ((there(BLEED, 21, 21, 21, 20),), "2", "R2L"),
        ((there(BLEED, 21, 21, 21, 21),), "3", "R2H"),
        ((there(BLEED, 11, 11, 11, 11), there(MA, 10, 10, 10, 10)), "2", "R2H"),
        ((there(EXUDATE, 3),), "2", "R0"),
        ((there(SPOT, 3),), "2", "R0"),
        ((there(SPOT, 3), there(EXUDATE, 3)), "2", "R0"),
        ((there(SPOT, 3), there(MA, 1)), "2", "R1"),
        ((there("venous_loop", 1),), "2", "R1"),
        ((there(BEADING, 1),), "2", "R2L"),
        ((there(BEADING, 1, 1),), "3", "R2H"),
        ((there(IRMA, 1),), "3", "R2H"),
        ((there(NEW, 1),), "4", "R3A"),
        ((there("disc_neovascularisation", 1),), "4", "R3A"),
        ((there("preretinal_haemorrhage", 1),), "4", "R3A"),
        ((there("vitreous_haemorrhage", 1),), "4", "R3A"),
        ((there("fibrovascular_proliferation", 1),), "4", "R3A"),
        ((there("superficial_haemorrhage", 2),), "2", "R1"),
        ((there("subretinal_haemorrhage", 2),), "0", "R0"),  # none of the retina's own
        ((there(NEW, 1), there(BLEED, 21, 21, 21, 21), there(MA, 9)), "4", "R3A"),
    ],
)
def test_retinopathy_follows_from_the_lesions(given, icdr, nhs):
    found = graded(lesions(*given))
    assert (found[ICDR].value, found[NHS].value) == (icdr, nhs)
    assert found[ICDR].because and found[NHS].because
    assert found[ICDR].version == "2003" and found[NHS].version == "2025-05"


@pytest.mark.parametrize(
    ("given", "macula", "dme"),
    [
        ((), "M0", "0"),
        ((there(EXUDATE, 1, away=0.0),), "M1", "2"),
        ((there(EXUDATE, 1, away=1.0),), "M1", "2"),
        ((there(EXUDATE, 1, away=1.1),), None, "1"),  # a group within the macula would be M1
        ((there(EXUDATE, 1, away=2.1),), "M0", "1"),
        ((there(MA, 1, away=0.9),), None, "0"),  # hangs on the visual acuity
        ((there(MA, 1, away=1.1),), "M0", "0"),
        ((there(BLEED, 1, away=0.5), there(EXUDATE, 1, away=0.5)), "M1", "2"),
        ((there(SPOT, 1, away=0.5),), "M0", "0"),
        ((there(EXUDATE, 1, away=None),), None, None),
    ],
)
def test_maculopathy_follows_from_the_distance_to_the_fovea(given, macula, dme):
    found = graded(lesions(*given))
    assert (found[NHS_M].value, found[DME].value) == (macula, dme)
    assert any("visual acuity" in need for need in found[NHS_M].needs)
    assert any("OCT" in need for need in found[DME].needs)


def test_without_the_fovea_there_is_no_maculopathy_grade_unless_nothing_is_there():
    found = graded(lesions(there(EXUDATE, 1)), Macula())
    assert found[NHS_M].value is None and found[DME].value is None
    assert graded(lesions(), Macula())[NHS_M].value == "M0"


def unsure(kind: str, **more) -> Lesion:
    return Lesion(kind=kind, present=None, origin=Origin.SEGMENTATION, evidence=SEEN, **more)


def test_an_unsure_finding_leaves_the_grade_open_only_where_it_would_change_it():
    open_ = graded(lesions(there(MA, 3), unsure(BLEED, drawn=4)))
    assert open_[ICDR].value is None and open_[ICDR].between == ["1", "2"]
    assert "haemorrhages unsure" in open_[ICDR].because[0] and "a look at haemorrhages" in open_[ICDR].needs
    assert open_[NHS].value == "R1"
    assert graded(lesions(there(BLEED, 3), unsure(EXUDATE)))[ICDR].value == "2"
    assert graded(lesions(unsure("drusen")))[ICDR].value == "0"
    assert graded(lesions(unsure(EXUDATE, nearest_fovea=0.5)))[NHS_M].value is None


def test_a_kind_that_nobody_looked_for_counts_as_unsure():
    found = graded(lesions(missing=(BLEED,)))
    assert found[ICDR].value is None and found[ICDR].between == ["0", "3"]


@pytest.mark.parametrize(
    ("count", "most", "icdr", "nhs"),
    [
        (20, {}, "2", "R2L"),
        (84, {}, None, None),
        (83, {}, "2", "R2L"),
        (None, {BLEED: 5}, "2", "R1"),
        (None, {}, None, None),
    ],
)
def test_where_quadrants_are_unknown_the_whole_number_decides_if_it_can(count, most, icdr, nhs):
    lesion = Lesion(kind=BLEED, present=True, origin=Origin.SCORING, count=count)
    found = graded(lesions(lesion), most=most)
    assert (found[ICDR].value, found[NHS].value) == (icdr, nhs)


def test_beading_of_which_nobody_said_where_leaves_open_in_how_many_quadrants_it_is():
    named = graded(lesions(Lesion(kind=BEADING, present=True, origin=Origin.USER)))
    assert (named[ICDR].value, named[ICDR].between) == (None, ["2", "3"])
    assert (named[NHS].value, named[NHS].between) == (None, ["R2L", "R2H"])
    assert "in each quadrant is not known" in named[ICDR].because[0] and named[ICDR].needs[0] == "numbers by quadrant"


def test_what_was_not_looked_for_is_named():
    needs = " ".join(graded(lesions())[ICDR].needs)
    assert all(word in needs for word in ("venous beading", "new vessels", "a look for", "known diabetes"))
    looked = [Lesion(kind=k, present=False, origin=Origin.USER) for k in (BEADING, IRMA, NEW, "preretinal_haemorrhage")]
    assert "a look for" not in " ".join(graded(lesions(*looked))[ICDR].needs)


@pytest.mark.parametrize("value", ["barely", "not"])
def test_what_cannot_be_graded_is_u_and_nothing_else(value):
    dark = Gradability(value=value, is_retina=True, score=0.2, reasons=["too dark"])
    found = grade_lesions(None, Macula(), dark)
    assert [(g.scale, g.value, g.because) for g in found] == [(NHS, "U", ["too dark"])]
    eye = {"laterality": Laterality(origin=Origin.USER, eye="left"), "gradability": dark, "grades": found}
    EyeReport(photograph=Photograph(name="a", sha256="0", width=9, height=9), **eye)


def test_other_scales_are_named_where_they_matter_and_never_given():
    drusen = graded(lesions(there("drusen", 4)), diagnosis="amd")
    assert drusen["AREDS"].value is None and "micrometres" in " ".join(drusen["AREDS"].needs)
    assert graded(lesions(), diagnosis="pathologic_myopia")["META-PM"].value is None
    assert graded(lesions(), diagnosis="hypertensive_retinopathy")["KWB"].value is None
    assert set(graded(lesions(), diagnosis="normal")) == {ICDR, NHS, NHS_M, DME}


def test_a_grade_rests_on_the_evidence_of_its_lesions():
    lesion = there(BLEED, 2, boxes=[Box(left=0, top=0, right=2, bottom=2)])
    found = graded(lesions(lesion))
    assert found[ICDR].origin == Origin.RULE and [e.text for e in found[ICDR].evidence] == ["regions in the mask"]
    assert not graded(lesions())[ICDR].evidence


def test_a_name_that_the_vocabulary_lacks_changes_no_grade():
    strange = Lesion(kind="made_up_spot", present=True, origin=Origin.USER)
    assert graded(lesions(strange))[ICDR].value == "0"
