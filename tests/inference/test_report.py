"""The report's structure: what it refuses, and that its JSON is the whole of it."""

import pytest
from pydantic import ValidationError

from mdf.errors import UserError
from mdf.inference.gate import BANNER
from mdf.inference.report import (
    Evidence,
    EyeReport,
    Gradability,
    Grade,
    Laterality,
    Lesion,
    Origin,
    Photograph,
    Report,
    Software,
    read_report,
)


def eye(side: str | None = "left", value: str = "good", **parts) -> EyeReport:
    return EyeReport(
        laterality=Laterality(origin=Origin.USER, eye=side),
        photograph=Photograph(name="a.png", sha256="0" * 64, width=256, height=256),
        gradability=Gradability(value=value, is_retina=True, score=0.9),
        **parts,
    )


def report(*eyes: EyeReport) -> Report:
    software = Software(version="0.1.0", checkpoint="quickstart", fingerprint="f", preprocessing="p")
    return Report(software=software, eyes=list(eyes))


def lesion(**values) -> Lesion:
    return Lesion(**{"kind": "haemorrhage", "present": True, "origin": Origin.SEGMENTATION, **values})


def test_a_report_comes_back_from_its_json_unchanged():
    seen = Evidence(text="7 regions", mask="haemorrhage")
    one = report(eye("left", lesions=[lesion(count=7, zones=["macula"], evidence=[seen])]), eye("right"))
    assert read_report(one.to_json(), "a.json") == one
    assert one.banner == BANNER and not one.signed


def test_a_report_without_the_banner_is_no_report():
    with pytest.raises(UserError, match=r"a\.json is no report of mdf: banner"):
        read_report(report(eye()).to_json().replace("DRAFT", "FINAL"), "a.json")


def test_a_field_that_does_not_exist_is_named_and_what_stood_in_it_is_not_repeated():
    with pytest.raises(UserError, match="referal") as caught:
        read_report(
            report(eye()).to_json().replace('"patient"', '"referal"').replace("null", '"Mrs Smith"', 1), "a.json"
        )
    assert "Smith" not in str(caught.value)


def test_a_report_of_another_version_is_refused():
    with pytest.raises(UserError, match=r"version 2\.0 .* reads 1\.0"):
        read_report(report(eye()).to_json().replace('"schema_version": "1.0"', '"schema_version": "2.0"'), "a.json")


def test_an_eye_that_cannot_be_graded_has_no_grade_of_the_machine_but_may_have_the_clinicians():
    grade = {"scale": "ICDR", "version": "2003", "value": "2"}
    with pytest.raises(ValidationError, match="not gradable and has a grade"):
        eye(value="barely", grades=[Grade(origin=Origin.RULE, **grade)])
    eye(value="barely", grades=[Grade(origin=Origin.USER, **grade)])


def test_an_absent_lesion_has_no_number_and_no_place():
    with pytest.raises(ValidationError, match="absent and has a number"):
        lesion(present=False, count=3)
    with pytest.raises(ValidationError, match="no zone"):
        lesion(zones=["north"])


def test_two_photographs_are_a_left_and_a_right_eye():
    for sides in (("left", "left"), ("left", None)):
        with pytest.raises(ValidationError, match="needs a left and a right eye"):
            report(*map(eye, sides))
