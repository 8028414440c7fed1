"""Recommendations by rule set."""

import copy

import pytest

from mdf.errors import UserError
from mdf.inference.referral import RULES, Line, check_rules, most_urgent, problems, refer, rule_sets, table
from mdf.inference.report import (
    EyeReport,
    Gradability,
    Grade,
    Impression,
    Laterality,
    Lesion,
    Origin,
    Photograph,
    Referral,
    Urgency,
)

GOOD = Gradability(value="good", is_retina=True, score=0.9)
DARK = Gradability(value="not", is_retina=True, score=0.1, reasons=["too dark"])
TEXTS = {
    "default": "D.",
    "uncertain": "U.",
    "ungradable": "Repeat.",
    "normal": "N.",
    "amd": "A.",
    "glaucoma": "G.",
    "pdr": "P.",
    "other": "O.",
}


def grade(scale: str, value: str | None, **more) -> Grade:
    return Grade(origin=Origin.RULE, scale=scale, version="v", value=value, **more)


def impression(name: str | None) -> Impression:
    return Impression(origin=Origin.SCORING, text="t", diagnosis=name)


def advice(
    grades=(), name: str | None = "diabetic_retinopathy", rules: str = RULES, lesions=(), gradability=GOOD, **more
):
    said = impression(name) if gradability.may_grade else None
    return refer(gradability, lesions, grades, said, TEXTS, rules, **more)


@pytest.mark.parametrize(
    ("rules", "grades", "urgency", "sent"),
    [
        ("ICO 2017", {"ICDR": "0", "DME": "0"}, "none", False),
        ("ICO 2017", {"ICDR": "1", "DME": "0"}, "routine", False),
        ("ICO 2017", {"ICDR": "2", "DME": "0"}, "routine", True),
        ("ICO 2017", {"ICDR": "3", "DME": "0"}, "soon", True),
        ("ICO 2017", {"ICDR": "4", "DME": "0"}, "urgent", True),
        ("ICO 2017", {"ICDR": "1", "DME": "1"}, "routine", True),
        ("ICO 2017", {"ICDR": "2", "DME": "2"}, "soon", True),
        ("ADA", {"ICDR": "1", "DME": "0"}, "routine", False),
        ("ADA", {"ICDR": "2", "DME": "0"}, "routine", True),
        ("ADA", {"ICDR": "3", "DME": "0"}, "urgent", True),
        ("ADA", {"ICDR": "4", "DME": "0"}, "urgent", True),
        ("ADA", {"ICDR": "2", "DME": "2"}, "urgent", True),
        ("NHS", {"NHS-FBG": "R0", "NHS-FBG-M": "M0"}, "none", False),
        ("NHS", {"NHS-FBG": "R1", "NHS-FBG-M": "M0"}, "routine", False),
        ("NHS", {"NHS-FBG": "R2L", "NHS-FBG-M": "M0"}, "routine", False),
        ("NHS", {"NHS-FBG": "R2H", "NHS-FBG-M": "M0"}, "soon", True),
        ("NHS", {"NHS-FBG": "R3A", "NHS-FBG-M": "M0"}, "urgent", True),
        ("NHS", {"NHS-FBG": "R1", "NHS-FBG-M": "M1"}, "soon", True),
        ("NHS", {"NHS-FBG": "R1", "NHS-FBG-M": "M0", "ICDR": "4"}, "routine", False),  # not one of its scales
    ],
)
def test_each_rule_set_goes_by_its_own_scales(rules, grades, urgency, sent):
    found = advice([grade(scale, value) for scale, value in grades.items()], rules=rules)
    assert (found.urgency, found.refer, found.rules) == (urgency, sent, rules)
    assert found.origin == Origin.RULE and found.because and found.text


def test_the_more_urgent_line_wins_and_the_others_stand_among_the_reasons():
    found = advice([grade("ICDR", "1"), grade("DME", "2")])
    assert found.text.startswith("Refer; signs suggesting macular oedema")
    assert found.because == ["DME 2, ICO 2017", "ICDR 1, ICO 2017"]


def test_another_disease_is_referred_by_its_own_line():
    found = advice([grade("ICDR", "0"), grade("DME", "0")], name="glaucoma")
    assert (found.text, found.urgency, found.refer) == ("G.", "routine", None)
    found = advice([grade("ICDR", "0"), grade("DME", "0")], name="amd")
    assert (found.text, found.refer) == ("A.", True)
    assert advice([grade("ICDR", "0")], name="epiretinal_membrane").text == "O."
    assert advice([grade("ICDR", "0")], name="retinal_detachment").text == "Refer the same day: retinal detachment."


def test_what_is_known_stands_before_what_is_missing():
    """A suspicious disc, and no grade: what to do about the disc is the advice, that nobody graded a reason."""
    found = advice([grade("ICDR", None), grade("DME", None)], name="glaucoma")
    assert found.text == "G." and found.because == ["impression: glaucoma", "ICDR and DME not given"]
    found = advice([grade("ICDR", None), grade("DME", None)], name="normal")
    assert (found.text, found.refer) == ("A clinician should grade the photograph.", None)
    assert found.because[1] == "impression: normal fundus (mdf's own rule, of no guideline)"


def test_a_rule_from_memory_says_so():
    found = advice([grade("ICDR", "0")], name="amd")
    assert (
        found.because[0] == "impression: age-related macular degeneration (rule from memory, not checked in its source)"
    )


def test_without_a_confident_impression_nothing_is_said_on_referral_that_the_grade_does_not_say():
    assert advice([grade("ICDR", "0"), grade("DME", "0")], name=None).refer is None
    assert advice([grade("ICDR", "3"), grade("DME", "0")], name=None).refer is True


def test_an_open_grade_goes_by_the_worse_that_it_may_be_and_is_left_to_a_person():
    found = advice([grade("ICDR", None, between=["1", "3"]), grade("DME", "0")], name="normal")
    assert (found.urgency, found.refer) == ("soon", None)
    assert "if it is ICDR 3" in found.text
    found = advice([grade("ICDR", None), grade("DME", "0")], name="normal")
    assert found.text == "A clinician should grade the photograph."


@pytest.mark.parametrize("name", ["diabetic_retinopathy", "normal"])
def test_an_open_grade_all_of_whose_values_are_referred_is_referred(name):
    found = advice([grade("ICDR", None, between=["2", "3"]), grade("DME", "0")], name=name)
    assert (found.urgency, found.refer) == ("soon", True)
    assert found.text.startswith("Refer; next examination in 3 to 6 months. A clinician should grade the photograph")
    assert found.because[:2] == ["ICDR may be 3, ICO 2017", "ICDR is 2 or more, ICO 2017"]
    assert not any("may be 2" in reason for reason in found.because)
    half = advice([grade("NHS-FBG-M", None, between=["M1"])], name="normal", rules="NHS")  # M1, or not to be told
    assert half.refer is None


def test_the_impression_is_silent_only_where_the_grade_of_retinopathy_says_whether_to_refer():
    """That there is no exudate says nothing of the retinopathy."""
    mixed = advice([grade("ICDR", None, between=["1", "3"]), grade("DME", "0")])
    assert (mixed.urgency, mixed.refer) == ("soon", True) and mixed.text.startswith("D. A clinician should grade")
    assert advice([grade("ICDR", None, between=["0", "1"]), grade("DME", "0")]).refer is None
    assert advice([grade("NHS-FBG", None, between=["R1", "R3A"]), grade("NHS-FBG-M", "M0")], rules="NHS").refer is True


def test_what_may_be_more_urgent_does_not_take_back_a_referral_that_is_certain():
    found = advice([grade("ICDR", "2"), grade("DME", None, between=["0", "2"])])
    assert (found.urgency, found.refer) == ("soon", True)
    assert found.text.startswith("Refer; next examination in 3 to 6 months. A clinician should grade the photograph")


def test_what_cannot_be_graded_is_repeated():
    found = advice(gradability=DARK)
    assert (found.text, found.urgency, found.refer) == ("Repeat.", "routine", None)
    assert found.because == ["the photograph cannot be graded (too dark)"]
    hazy = Gradability(value="barely", is_retina=True, score=0.5, reasons=["hazy"])
    assert advice(gradability=hazy).because == ["the photograph can barely be graded (hazy)"]


def test_urgent_signs_override_the_quality():
    sure = advice(gradability=DARK, probabilities={"pdr": 0.85, "normal": 0.15})
    assert (sure.text, sure.urgency, sure.refer) == ("P.", "urgent", True) and "0.85" in sure.because[0]
    assert advice(gradability=DARK, probabilities={"pdr": 0.7, "normal": 0.3}).urgency == "routine"
    assert advice(gradability=DARK, probabilities={"amd": 0.99}).urgency == "routine"
    blood = Lesion(kind="preretinal_haemorrhage", present=True, origin=Origin.USER)
    assert advice(gradability=DARK, lesions=[blood]).urgency == "urgent"
    assert advice([grade("ICDR", "1")], lesions=[blood]).urgency == "urgent"


@pytest.mark.parametrize("gradability", [GOOD, DARK])
@pytest.mark.parametrize(
    ("sign", "urgency", "text"),
    [
        ("retinal_detachment", "same day", "Refer the same day: retinal detachment."),
        ("optic_disc_oedema", "same day", "Refer the same day: optic disc oedema."),
        ("branch_retinal_artery_occlusion", "same day", "Refer the same day: branch retinal artery occlusion."),
        ("wet_amd", "urgent", "A."),
        ("fibrovascular_proliferation", "urgent", "Refer urgently: fibrovascular proliferation."),
        ("retinal_traction", "urgent", "Refer urgently: traction of the retina."),
        ("central_retinal_vein_occlusion", "soon", "O."),
        ("macular_hole", "routine", "O."),  # a diagnosis without a line of its own
    ],
)
def test_what_a_person_names_is_as_urgent_as_the_table_says(gradability, sign, urgency, text):
    named = Lesion(kind=sign, present=True, origin=Origin.USER)
    found = advice([grade("ICDR", "0"), grade("DME", "0")], "normal", lesions=[named], gradability=gradability)
    assert (found.urgency, found.refer, found.text) == (urgency, True, text)
    if sign in ("retinal_detachment", "macular_hole"):
        assert "seen by a person" in found.because[0]


def test_a_sign_that_only_the_grade_speaks_of_adds_nothing_of_its_own():
    named = Lesion(kind="microaneurysm", present=True, origin=Origin.USER)
    assert advice([grade("ICDR", "1"), grade("DME", "0")], lesions=[named]).refer is False


def test_of_what_is_no_retina_nothing_urgent_is_told():
    letter = Gradability(value="not", is_retina=False, score=0.0)
    found = advice(gradability=letter, probabilities={"pdr": 0.99})
    assert found.urgency == "routine" and found.text.startswith("Take a photograph of the retina")


def eye(side: str, urgency: Urgency, sent: bool | None = False) -> EyeReport:
    said = Referral(origin=Origin.RULE, urgency=urgency, refer=sent, text=f"{urgency}.", rules=RULES, because=["b"])
    photograph = Photograph(name="a.png", sha256="0", width=9, height=9)
    laterality = Laterality(origin=Origin.USER, eye=side)
    return EyeReport(laterality=laterality, photograph=photograph, gradability=GOOD, referral=said)


def test_the_patients_recommendation_is_that_of_the_more_urgent_eye():
    found = most_urgent([eye("left", Urgency.ROUTINE), eye("right", Urgency.SOON, True)])
    assert (found.urgency, found.refer, found.text) == ("soon", True, "Right eye: soon.")
    assert found.because == ["b", "Left eye: routine."]
    assert most_urgent([eye("left", Urgency.ROUTINE), eye("right", Urgency.ROUTINE)]).text == "Both eyes: routine."
    assert most_urgent([eye("left", Urgency.ROUTINE)]).text == "routine."
    assert most_urgent([]) is None


def test_weights_rise_with_urgency_then_with_referral():
    rising = [
        (Urgency.NONE, False),
        (Urgency.ROUTINE, False),
        (Urgency.ROUTINE, None),
        (Urgency.ROUTINE, True),
        (Urgency.SOON, False),
    ]
    weights = [Line(urgency, sent, "", "").weight for urgency, sent in [*rising, (Urgency.IMMEDIATE, False)]]
    assert weights == sorted(weights)


def test_rule_sets_are_named():
    assert rule_sets() == ("ICO 2017", "ADA", "NHS")
    assert check_rules(" ico 2017") == "ICO 2017" and check_rules("nhs") == "NHS"
    with pytest.raises(UserError, match=r"--rules WHO: no such rule set; choose from ICO 2017, ADA, NHS"):
        check_rules("WHO")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw.pop("findings"), "`findings:` is missing"),
        (lambda raw: raw["findings"].update(red_spots={}), "findings.red_spots|red_spots: no name"),
        (lambda raw: raw["diagnoses"]["pdr"].update(urgency="now"), r"diagnoses\.pdr: urgency must be one of none"),
        (lambda raw: raw["diagnoses"]["pdr"].update(refer="yes"), r"diagnoses\.pdr: refer must be"),
        (lambda raw: raw["diagnoses"]["pdr"].update(status="sure"), r"diagnoses\.pdr: status must be"),
        (lambda raw: raw["sets"]["ADA"]["grades"]["ICDR"]["2"].update(text=""), "ADA: ICDR 2: text is missing"),
        (lambda raw: raw["sets"]["ADA"].pop("source"), "ADA: about and source"),
    ],
)
def test_a_table_that_somebody_changed_is_checked(change, said):
    import re

    assert problems(table()) == []
    raw = copy.deepcopy(table())
    change(raw)
    assert any(re.search(said, line) for line in problems(raw)), problems(raw)
