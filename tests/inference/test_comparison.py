"""Two eyes side by side, and one eye since an earlier report."""

import pytest

from mdf.errors import UserError
from mdf.inference.comparison import check_earlier, compare_eyes, since
from mdf.inference.report import (
    Disc,
    EyeReport,
    Gradability,
    Grade,
    Impression,
    Laterality,
    Lesion,
    Origin,
    Photograph,
    Report,
    Software,
)


def eye(
    side: str | None, ratio: float | None = 0.4, icdr: str | None = "1", sha: str = "a", value="good", **parts
) -> EyeReport:
    good = value == "good"
    given = {"name": parts.pop("diagnosis", "diabetic_retinopathy")}
    lesions = [
        Lesion(kind=kind, present=present, band=band, origin=Origin.SEGMENTATION)
        for kind, present, band in parts.pop(
            "lesions", [("microaneurysm", True, "one to five"), ("haemorrhage", False, None)]
        )
    ]
    return EyeReport(
        laterality=Laterality(origin=Origin.USER, eye=side),
        photograph=Photograph(name="a.png", sha256=sha, width=9, height=9),
        gradability=Gradability(value=value, is_retina=True, score=0.9 if good else 0.1),
        disc=Disc(found=True, cup_disc_ratio=ratio) if good else Disc(),
        lesions=lesions if good else None,
        grades=[Grade(origin=Origin.RULE, scale="ICDR", version="2003", value=icdr)] if good else [],
        impression=Impression(origin=Origin.SCORING, text="t", diagnosis=given["name"]) if good else None,
    )


def texts(statements) -> list[str]:
    return [s.text for s in statements]


def test_one_eye_is_not_compared():
    assert compare_eyes([eye("left")]) == []


def test_an_asymmetry_of_the_cups_is_remarked_from_two_tenths_on():
    assert texts(compare_eyes([eye("left", 0.4), eye("right", 0.6)])) == [
        "Cup-disc ratios 0.40 (left eye) and 0.60 (right eye): a difference of 0.20, an asymmetry of 0.2 or more."
    ]
    assert "0.19, no asymmetry" in texts(compare_eyes([eye("left", 0.4), eye("right", 0.59)]))[0]


def test_what_is_in_one_eye_only_is_named_and_unsure_findings_are_not():
    one = eye("left", None, lesions=[("haemorrhage", True, "one to five"), ("drusen", None, None)])
    two = eye("right", None, lesions=[("haemorrhage", False, None), ("drusen", True, "one to five")])
    (said,) = compare_eyes([one, two])
    assert said.text == "Haemorrhages in the left eye only." and said.evidence[0].mask == "haemorrhage"


def test_differing_grades_and_impressions_are_named():
    said = texts(compare_eyes([eye("left", None, "1"), eye("right", None, "3", diagnosis="glaucoma")]))
    assert "ICDR: 1 in the left eye, 3 in the right eye." in said
    assert "The impressions differ: diabetic retinopathy (left eye), glaucoma (right eye)." in said


def test_equal_eyes_and_ungradable_ones_are_said_so():
    assert texts(compare_eyes([eye("left", None), eye("right", None)])) == [
        "No difference between the eyes in what was assessed."
    ]
    bare = [eye(side, None) for side in ("left", "right")]
    bare[1].lesions = None
    assert texts(compare_eyes(bare))[-1] == "Findings are not compared: they were not assessed in both eyes."
    assert (
        "not compared: the right eye cannot be graded"
        in texts(compare_eyes([eye("left"), eye("right", value="not")]))[0]
    )


def report(*eyes: EyeReport, patient: str | None = None) -> Report:
    software = Software(version="0.1.0", checkpoint="c", fingerprint="f", preprocessing="p")
    return Report(software=software, eyes=list(eyes), patient=patient)


def test_changes_since_the_earlier_report():
    old = report(eye("left", 0.4, "1"))
    new = eye(
        "left", 0.55, "2", "b", lesions=[("microaneurysm", True, "six to twenty"), ("haemorrhage", True, "one to five")]
    )
    before, said = since([new], old)
    assert (before.id, before.created, before.reviewed) == (old.id, old.created, False)
    assert texts(said) == [
        "Left eye: microaneurysms: one to five, now six to twenty.",
        "Left eye: haemorrhages: new.",
        "Left eye: ICDR: 1, now 2.",
        "Left eye: cup-disc ratio: 0.40, now 0.55.",
    ]


def test_no_change_and_what_cannot_be_compared():
    old = report(eye("left"))
    assert texts(since([eye("left", sha="b")], old)[1]) == ["Left eye: no change in what both reports assessed."]
    assert "very same photograph" in texts(since([eye("left")], old)[1])[0]
    assert "not in the earlier report" in texts(since([eye("right", sha="b")], old)[1])[0]
    assert "eye side is not known" in texts(since([eye(None, sha="b")], old)[1])[0]
    assert "cannot be graded" in texts(since([eye("left", sha="b", value="not")], old)[1])[0]


def test_an_earlier_report_of_another_patient_is_refused():
    check_earlier(report(eye("left"), patient="A"), None)
    check_earlier(report(eye("left"), patient="A"), "A")
    with pytest.raises(UserError, match="is of the patient A, this one of B"):
        check_earlier(report(eye("left"), patient="A"), "B")
