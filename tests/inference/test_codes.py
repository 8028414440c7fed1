"""The table of codes: each row has a source, right check digits and the side that its name says."""

import re
from pathlib import Path

import pytest

from mdf.errors import UserError
from mdf.inference.codes import AUTONOMOUS, TABLE, Code, codes_for, facts, mod10, read_codes, table, verhoeff

HEADER = "concept,system,code,display,laterality,needs,status,source"
GOOD = "microaneurysm,SNOMED CT,34037000,Retinal microaneurysm,,,recalled,from memory"


def given(concept: str, eye: str | None = None, known: tuple[str, ...] = ()) -> set[str]:
    return {row.code for row in codes_for(concept, eye, known)}


def refused(folder: Path, *lines: str, header: str = HEADER) -> str:
    (folder / "codes.csv").write_text("\n".join([header, *lines]), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_codes(folder / "codes.csv")
    return str(caught.value)


def test_every_row_has_a_source_and_only_confirmed_ones_are_given():
    assert all(len(row.source) > 8 for row in table())
    for concept in {row.concept for row in table()}:
        for eye in ("right", "left", "both", None):
            rows = codes_for(concept, eye)
            assert {row.status for row in rows} <= {"confirmed"}
            assert {row.laterality for row in rows} <= {"", eye or "unspecified"}


def test_check_digits_by_examples_of_the_systems():
    assert verhoeff("312904009") and verhoeff("1290032005") and not verhoeff("312904008")
    assert not verhoeff("24713008")  # stands in a published value set
    assert not verhoeff("321904009")  # two digits changed places
    assert mod10("71490-7") and mod10("100223-7") and not mod10("71490-6")
    assert mod10("LA18643-9") and mod10("LA137-2") and not mod10("LA18643-8")


def test_a_code_is_that_of_its_eye():
    assert given("dr_severity", "right") == {"71491-5"} and given("dr_severity", "left") == {"71490-7"}
    assert given("dr_severity") == set()  # the question is asked of a right or a left eye
    assert given("eye", "right") == {"1290032005"} and given("eye", "left") == {"1290031003"}
    assert given("eye") == {"81745001"}
    assert {"H35.371", "367649002"} == given("epiretinal_membrane", "right")
    assert {"H35.379", "367649002"} == given("epiretinal_membrane")


def test_each_level_of_icdr_is_its_answer_of_loinc():
    answers = ["LA18643-9", "LA18644-7", "LA18645-4", "LA18646-2", "LA18648-8"]
    assert [given(f"icdr_{level}") for level in range(5)] == [{a} for a in answers]
    assert [codes_for(f"icdr_{level}")[0].display.split()[0] for level in range(5)] == [
        "No", "Mild", "Moderate", "Severe", "Proliferative",
    ]  # fmt: skip


def test_the_type_of_diabetes_is_never_guessed():
    for concept in ("diabetic_retinopathy", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr"):
        for eye in ("right", "left", None):
            assert not any(re.match("E1|H36", code) for code in given(concept, eye))
    second = given("moderate_npdr", "right", ("type 2 diabetes", "no macular oedema"))
    assert second == {"312904009", "E11.3391", "E11.3", "H36.0"}
    assert "E10.3412" in given("severe_npdr", "left", ("type 1 diabetes", "macular oedema"))
    assert given("moderate_npdr", "right", ("type 2 diabetes",)) == {"312904009", "E11.3", "H36.0"}


def test_a_fact_that_no_code_asks_for_is_refused_and_so_are_two_that_exclude_each_other():
    with pytest.raises(UserError, match=r"'type 3 diabetes' is nothing .* known: .*type 1 diabetes"):
        codes_for("pdr", "right", ["type 3 diabetes"])
    with pytest.raises(UserError, match="macular oedema and no macular oedema cannot both be given"):
        codes_for("pdr", "right", ["macular oedema", "no macular oedema"])
    assert "type 2 diabetes" in facts()


def test_what_a_photograph_cannot_show_has_no_code():
    assert not any(row.system == "SNOMED CT" and row.concept == "suspected_glaucoma" for row in table())
    assert given("optic_disc_oedema", "right") == {"423341008"}  # not papilloedema, which is raised pressure
    assert not any("E11.9" in given(name, "right", tuple({"type 2 diabetes"})) for name in ("normal", "pdr"))
    assert given("hard_exudate") == set()  # the number is published, its name was not read


def test_a_concept_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="'retinopathie' has no codes"):
        codes_for("retinopathie")


def test_codes_of_autonomous_software_are_refused_by_the_reader(tmp_path):
    for code in sorted(AUTONOMOUS):
        assert mod10(code)  # well written, and still not ours
        said = refused(tmp_path, f"dr_severity,LOINC,{code},Screening,,,left-out,somewhere")
        assert "line 2" in said and "cleared" in said
    assert not AUTONOMOUS & {row.code for row in table()}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "microaneurysm,SNOMED CT,34037001,Retinal microaneurysm,,,recalled,memory",
            "two digits before the last|check",
        ),
        ("microaneurysm,SNOMED CT,34037003,Retinal microaneurysm,,,recalled,memory", "check digit"),
        ("dr_severity,LOINC,71491-4,Right eye severity,right,,confirmed,loinc.org", "check digit"),
        ("pdr,ICD-10-CM,E113591,PDR of the right eye,right,,confirmed,x", "not written as ICD-10-CM"),
        ("glaucoma,ICD-10,H40.12,Glaucoma,,,confirmed,x", "not written as ICD-10"),
        ("glaucoma,ICD-11,9C60,Glaucoma,,,confirmed,x", "system must be one of ICD-10-CM"),
        ("glaucoma,ICD-10,H40.9,Glaucoma,,,sure,x", "status must be one of confirmed"),
        ("glaucoma,ICD-10,H40.9,Glaucoma,,,confirmed,", "source must be filled"),
        ("glaukoma,ICD-10,H40.9,Glaucoma,,,confirmed,x", "neither in the vocabulary"),
        ("pdr,ICD-10,E11.3,Diabetes,,type 2 diabetes,confirmed,x", "conditional row, and no other"),
        ("pdr,ICD-10,E11.3,Diabetes,,,conditional,x", "conditional row, and no other"),
        (
            "eye,SNOMED CT,1290032005,Structure of right eye,left,,confirmed,x",
            "the name says right, the laterality left",
        ),
        (
            "eye,SNOMED CT,1290032005,Structure of right eye,,,confirmed,x",
            "the name says right, the laterality nothing",
        ),
        ("eye,SNOMED CT,1290032005,Structure of an eye,right,,confirmed,x", "the name says nothing"),
        ("eye,SNOMED CT,1290032005,Structure of an eye,upper,,confirmed,x", "laterality must be empty or one of"),
        ("glaucoma,ICD-10,H40.9", "3 cells instead of 8"),
        (GOOD, "stands in line 2 already"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(tmp_path, line, problem):
    said = refused(tmp_path, GOOD, line)
    assert said.startswith("codes.csv cannot be used") and "line 3" in said and re.search(problem, said)
    assert said.count("\n") == 1  # the good row is not named


def test_a_table_that_is_none_is_refused(tmp_path):
    assert "line 1: must be concept,system" in refused(tmp_path, GOOD, header="code,name")
    with pytest.raises(UserError, match="cannot be read"):
        read_codes(tmp_path / "none.csv")


def test_the_table_is_written_as_a_spreadsheet_reads_it():
    text = TABLE.read_text(encoding="utf-8")
    assert text.startswith(HEADER + "\n") and "\r" not in text
    assert all(isinstance(row, Code) for row in read_codes(TABLE))


def test_every_icd_code_is_billable_and_named_as_its_release_names_it():
    american = pytest.importorskip("simple_icd_10_cm", reason="the release of ICD-10-CM: pip install simple-icd-10-cm")
    for row in table():
        if row.system == "ICD-10-CM":
            assert american.is_leaf(row.code), row
            assert american.get_description(row.code).startswith(row.display), row
