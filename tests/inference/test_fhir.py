"""FHIR bundles: what is coded, what never is, and a check that finds what is wrong."""

import base64
import copy
import json
import os
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mdf.errors import UserError
from mdf.inference.edits import Edits
from mdf.inference.fhir import fhir_json, to_bundle
from mdf.inference.fhir_check import BY_PERSON, check_bundle
from mdf.inference.gate import BANNER
from mdf.inference.report import (
    Change,
    Diagnosis,
    EyeReport,
    Gradability,
    Grade,
    Impression,
    Laterality,
    Origin,
    Report,
    Review,
    Statement,
    read_report,
)
from mdf.inference.review import read_state, review
from tests.inference.reports import dark_report, full_report

LEVELS = ["LA18643-9", "LA18644-7", "LA18645-4", "LA18646-2", "LA18648-8"]
LOINC = {"right": "71491-5", "left": "71490-7"}


def signed(report: Report, times: int = 1) -> Report:
    for version in range(1, times + 1):
        when = datetime(2026, 11, 24, 8, version, tzinfo=UTC)
        change = Change(path="eyes.0.lesions.0.count", before=version, after=version + 1)
        report.reviews.append(
            Review(version=version, reviewer="Dr A. Reader", signed=when, of="ab" * 32, changes=[change])
        )
    return report


def of(bundle: dict, kind: str) -> list[dict]:
    return [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == kind]


def observed(bundle: dict, text: str, side: str = "Right") -> dict:
    found = [
        o
        for o in of(bundle, "Observation")
        if o["code"]["text"].startswith(text) and o["bodySite"]["text"].startswith(side)
    ]
    assert len(found) == 1, [o["code"]["text"] for o in of(bundle, "Observation")]
    return found[0]


def codes(value: object) -> set[str]:
    """Every clinical code anywhere in a tree."""
    if isinstance(value, list):
        return set().union(*map(codes, value)) if value else set()
    if not isinstance(value, dict):
        return set()
    own = {value["code"]} if isinstance(value.get("code"), str) and "terminology" not in value["system"] else set()
    return own.union(*map(codes, value.values()))


def test_a_draft_is_preliminary_carries_the_banner_and_passes_the_check():
    for report in (full_report(), dark_report()):
        bundle = to_bundle(report)
        assert check_bundle(bundle) == []
        (top,) = of(bundle, "DiagnosticReport")
        assert {r["status"] for k in ("DiagnosticReport", "Observation") for r in of(bundle, k)} == {"preliminary"}
        assert top["conclusion"].startswith(BANNER) and BANNER in top["text"]["div"]
        assert len(top["result"]) == len(of(bundle, "Observation"))
        assert all("photograph" in o["method"]["text"] for o in of(bundle, "Observation"))


def test_the_same_report_gives_the_same_bundle_and_another_one_other_names():
    one, again, other = full_report(), full_report(), full_report()
    other.id = "another"
    assert fhir_json(one) == fhir_json(again)
    assert not {e["fullUrl"] for e in to_bundle(one)["entry"]} & {e["fullUrl"] for e in to_bundle(other)["entry"]}


def test_a_signed_report_is_final_and_says_who_signed_and_a_corrected_one_is_amended():
    for times, status in ((1, "final"), (2, "amended")):
        bundle = to_bundle(signed(full_report(), times))
        assert check_bundle(bundle) == []
        assert {r["status"] for k in ("DiagnosticReport", "Observation") for r in of(bundle, k)} == {status}
        assert [p["agent"][0]["who"].get("display") for p in of(bundle, "Provenance")] == [None] + times * [
            "Dr A. Reader"
        ]
        (top,) = of(bundle, "DiagnosticReport")
        assert top["conclusion"].startswith(BANNER) and f"Signed by Dr A. Reader on 2026-11-24 08:0{times} UTC." in (
            top["conclusion"].splitlines()
        )
        assert top["issued"] == f"2026-11-24T08:0{times}:00+00:00"  # of the signature, not of the draft
        signer = [{"type": "Practitioner", "display": "Dr A. Reader"}]
        assert all(r["performer"] == signer for k in ("DiagnosticReport", "Observation") for r in of(bundle, k))
        last = of(bundle, "Provenance")[-1]
        assert last["occurredDateTime"] == last["recorded"] == top["issued"]
        assert last["agent"][0]["type"]["coding"][0]["code"] == "verifier" and last["agent"][0]["who"] == signer[0]


def test_a_second_signature_that_changes_nothing_leaves_the_report_final():
    report = signed(full_report(), 2)
    report.reviews[1].changes = []
    bundle = to_bundle(report)
    assert check_bundle(bundle) == [] and of(bundle, "DiagnosticReport")[0]["status"] == "final"
    assert "activity" not in of(bundle, "Provenance")[-1]
    report.reviews[1].comment = "See also the left eye."
    (top,) = of(to_bundle(report), "DiagnosticReport")
    assert top["status"] == "amended" and "See also the left eye." in top["conclusion"]


def test_what_a_person_said_is_not_said_to_be_the_softwares():
    report = signed(full_report())
    lesion = report.eyes[0].lesions[0]
    lesion.origin = Origin.USER
    bundle = to_bundle(report)
    assert check_bundle(bundle) == []
    own = observed(bundle, "Microaneurysms")
    assert "device" not in own and own["method"]["text"] == BY_PERSON and own["performer"]
    assert "device" in observed(bundle, "Haemorrhages")
    assert "performer" not in observed(to_bundle(full_report()), "Haemorrhages")


@pytest.mark.parametrize("level", range(5))
def test_each_icdr_grade_is_its_answer_at_its_eye(level):
    report = full_report()
    for eye in report.eyes:
        eye.grades[0].value = str(level)
    for side in ("right", "left"):
        grade = observed(to_bundle(report), "Diabetic retinopathy severity", side.capitalize())
        assert codes(grade["code"]) == {LOINC[side]}
        assert codes(grade["valueCodeableConcept"]) == {LEVELS[level]}
        assert codes(grade["bodySite"]) == {{"right": "1290032005", "left": "1290031003"}[side]}


def test_an_eye_that_cannot_be_graded_says_why_and_has_no_grade():
    report = dark_report()
    report.eyes[0].laterality.eye = "right"
    bundle = to_bundle(report)
    grade = observed(bundle, "Diabetic retinopathy severity")
    assert grade["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert not any(name.startswith("value") for name in grade)
    assert observed(bundle, "Gradability")["valueCodeableConcept"]["text"] == "not gradable"
    assert "too dark" in observed(bundle, "Gradability")["note"][0]["text"]
    assert not codes(bundle) & set(LEVELS)
    report.eyes[0].grades = []  # nor without any grade in the report
    assert "dataAbsentReason" in observed(to_bundle(report), "Diabetic retinopathy severity")


def test_a_grade_that_needs_more_than_a_photograph_is_absent_and_says_what():
    grade = observed(to_bundle(full_report()), "ICDR-DME")
    assert grade["dataAbsentReason"]["coding"][0]["code"] == "unknown"
    assert "optical coherence tomography" in grade["dataAbsentReason"]["text"]


def test_an_unknown_eye_side_gets_no_code_of_an_eye():
    bundle = to_bundle(dark_report())
    assert not codes(bundle) & {*LOINC.values(), "1290032005", "1290031003"}
    assert "81745001" in codes(bundle)


def test_lesions_are_present_absent_or_cannot_be_told():
    bundle = to_bundle(full_report())
    seen, absent, unsure = (observed(bundle, name) for name in ("Haemorrhages", "Drusen", "Cotton"))
    assert seen["valueBoolean"] is True and absent["valueBoolean"] is False
    assert unsure["dataAbsentReason"]["coding"][0]["code"] == "unknown"
    assert {"code": {"text": "Number"}, "valueInteger": 9} in seen["component"]
    assert "from: segmentation; evidence: 9 regions" in seen["note"][0]["text"]
    assert "no image evidence" in absent["note"][0]["text"]


def test_the_cup_disc_ratio_is_that_of_its_eye():
    for side, code, value in (("Right", "71485-7", 0.38), ("Left", "71484-0", 0.34)):
        cup = observed(to_bundle(full_report()), "Vertical cup-disc ratio", side)
        assert codes(cup["code"]) == {code}
        assert cup["valueQuantity"] == {
            "value": value,
            "unit": "ratio",
            "system": "http://unitsofmeasure.org",
            "code": "1",
        }


def test_a_cup_disc_ratio_rests_on_its_measurement_or_on_the_reviewer_who_changed_it():
    cup = observed(to_bundle(full_report()), "Vertical cup-disc ratio")
    assert cup["note"][0]["text"] == "from: measurement; evidence: height of the cup 93 px, of the disc 244 px"
    report = signed(full_report())
    report.eyes[0].disc.cup_disc_ratio = 0.5
    report.reviews[0].changes = [Change(path="eyes.0.disc.cup_disc_ratio", before=0.38, after=0.5)]
    assert observed(to_bundle(report), "Vertical cup-disc ratio")["note"][0]["text"].startswith("from: user")


def test_what_the_model_wrote_never_becomes_a_code():
    report = full_report()
    right = report.eyes[0]
    assert "312904009" in codes(observed(to_bundle(report), "Impression"))
    assert right.impression
    right.impression.origin = right.grades[0].origin = right.lesions[0].origin = Origin.MODEL_TEXT
    bundle = to_bundle(report)
    assert codes(observed(bundle, "Impression")["valueCodeableConcept"]) == set()
    assert codes(observed(bundle, "Diabetic retinopathy severity")["valueCodeableConcept"]) == set()
    text = json.dumps(bundle)
    assert not any(words.text in text for eye in report.eyes for words in eye.words)


def test_the_type_of_diabetes_is_coded_only_where_the_user_gave_it():
    assert not any(code.startswith(("E1", "H36")) for code in codes(to_bundle(full_report())))
    bundle = to_bundle(full_report(), known=["type 1 diabetes", "both: no macular oedema"])
    assert check_bundle(bundle) == []
    assert {"E10.3391", "E10.3292"} <= codes(bundle)
    with pytest.raises(UserError, match="is nothing that a code asks for"):
        to_bundle(full_report(), known=["diabetes"])


def test_what_is_known_of_one_eye_is_coded_of_that_eye_alone():
    bundle = to_bundle(full_report(), known=["type 2 diabetes", "Right: macular oedema", "left: no macular oedema"])
    assert check_bundle(bundle) == []
    assert {"E11.3311", "E11.3292"} <= codes(bundle) and not {"E11.3391", "E11.3212"} & codes(bundle)
    left = to_bundle(full_report(), known=["type 2 diabetes", "left: no macular oedema"])
    assert "E11.3292" in codes(left) and not any(code.startswith("E11.33") for code in codes(left))


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (["macular oedema"], "'macular oedema': of which eye. Say 'right: macular oedema', 'left: "),
        (["right: type 2 diabetes"], "'type 2 diabetes' is of the patient and of no single eye; leave out 'right'"),
        (["both: macular oedema", "left: no macular oedema"], "cannot both be given"),
        (["left: gout"], "'gout' is nothing that a code asks for"),
    ],
)
def test_a_fact_without_its_eye_is_refused_where_there_are_two(known, said):
    with pytest.raises(UserError, match=said):
        to_bundle(full_report(), known=known)


def test_of_one_eye_a_fact_needs_no_side_and_another_side_is_refused():
    one = full_report().model_copy(update={"eyes": full_report().eyes[:1], "comparison": []})
    assert "E11.3311" in codes(to_bundle(one, known=["type 2 diabetes", "macular oedema"]))
    with pytest.raises(UserError, match="'left: macular oedema': the report has no left eye"):
        to_bundle(one, known=["left: macular oedema"])


def test_a_suspected_glaucoma_has_no_code_of_snomed():
    report = full_report()
    words = {"origin": Origin.SCORING, "text": "Suspected glaucoma.", "diagnosis": "suspected_glaucoma"}
    report.eyes[1].impression = Impression(**words, diagnoses=[Diagnosis(name="suspected_glaucoma", probability=0.7)])
    said = observed(to_bundle(report), "Impression", "Left")["valueCodeableConcept"]
    assert codes(said) == {"H40.002", "H40.0"}


def test_nothing_names_the_patient_but_the_pseudonym_that_was_given():
    with_name, without = to_bundle(full_report()), to_bundle(dark_report())
    assert of(with_name, "Patient") == [
        {
            "resourceType": "Patient",
            "identifier": [{"use": "secondary", "type": {"text": "Pseudonym"}, "value": "P-0017"}],
        }
    ]
    assert of(without, "Patient") == [] and "subject" not in json.dumps(without)
    assert "_OD.jpg" not in json.dumps(with_name) and "dark.png" not in json.dumps(without)


def test_the_pdf_goes_along_only_where_it_is_asked_for():
    assert "presentedForm" not in of(to_bundle(full_report()), "DiagnosticReport")[0]
    (top,) = of(to_bundle(full_report(), pdf=b"%PDF-1.7"), "DiagnosticReport")
    assert base64.b64decode(top["presentedForm"][0]["data"]) == b"%PDF-1.7"


def test_a_value_that_says_ungradable_is_no_grade():
    report = full_report()
    report.eyes[0].grades = [
        Grade(scale="NHS-FBG", version="2025-05", value="U", name="ungradable", origin=Origin.RULE)
    ]
    grade = observed(to_bundle(report), "NHS-FBG")
    assert grade["dataAbsentReason"]["text"] == "NHS-FBG U: ungradable" and "valueCodeableConcept" not in grade


def test_an_eye_side_that_the_model_wrote_is_not_coded():
    report = full_report()
    report.eyes[0].laterality.origin = Origin.MODEL_TEXT
    bundle = to_bundle(report)
    assert check_bundle(bundle) == []
    own = [o for o in of(bundle, "Observation") if o["bodySite"]["text"] == "Eye, side unknown"]
    assert own and not codes(own) & {"1290032005", "71491-5", "71485-7"}
    assert "eye side from: model text" in own[0]["note"][0]["text"]


def test_a_name_that_the_vocabulary_lacks_is_said_and_not_coded():
    report = full_report()
    report.eyes[0].lesions[0].kind = "blue_dot"
    report.eyes[0].impression.diagnosis = report.eyes[0].impression.diagnoses[0].name = "blue_dot_disease"
    bundle = to_bundle(report)
    assert check_bundle(bundle) == []
    assert codes(observed(bundle, "Blue dot")["code"]) == set()
    assert codes(observed(bundle, "Impression")["valueCodeableConcept"]) == set()


@pytest.mark.parametrize("value", ["good", "barely", "not"])
@pytest.mark.parametrize("is_retina", [True, False])
def test_the_barest_report_is_a_good_bundle(value, is_retina):
    report = full_report()
    bare = EyeReport(
        laterality=Laterality(origin=Origin.USER, eye=None),
        photograph=report.eyes[0].photograph,
        gradability=Gradability(value=value, is_retina=is_retina, score=0.5, forced=not is_retina),
    )
    bundle = to_bundle(Report(software=report.software, eyes=[bare]))
    assert check_bundle(bundle) == []
    assert any("dataAbsentReason" in o for o in of(bundle, "Observation")) == (value != "good" or not is_retina)


def test_markup_and_control_characters_in_a_text_stay_text():
    report = full_report()
    report.eyes[0].media = Statement(origin=Origin.USER, text="<script>alert('x')</script> & \x00\x1b")
    report.eyes[0].flags[0].text = "</div><b>final</b>"
    bundle = to_bundle(report)
    assert check_bundle(bundle) == []
    assert "<script" not in of(bundle, "DiagnosticReport")[0]["text"]["div"]
    assert "<b>final" not in of(bundle, "DiagnosticReport")[0]["text"]["div"]


def test_what_a_reviewer_emptied_is_left_out():
    report = signed(full_report())
    report.eyes[0].disc.statements[0].text = report.eyes[0].impression.text = report.comparison[0].text = ""
    report.since[0].text = " "
    assert check_bundle(to_bundle(report)) == []


def test_a_clinicians_grade_of_an_ungradable_eye_is_coded_as_theirs():
    report = signed(dark_report())
    report.eyes[0].laterality.eye = "left"
    report.eyes[0].grades = [Grade(scale="ICDR", version="2003", value="4", origin=Origin.USER)]
    grade = observed(to_bundle(report), "Diabetic retinopathy severity", "Left")
    assert codes(grade["valueCodeableConcept"]) == {"LA18648-8"} and "from: user" in grade["note"][0]["text"]


def first(bundle: dict, kind: str) -> dict:
    return of(bundle, kind)[0]


# each change makes a good bundle wrong: what is changed, and what the check says of it
WRONG = {
    "no collection": (lambda b: b.update(type="document"), "type collection"),
    "status": (lambda b: first(b, "DiagnosticReport").update(status="draft"), "'draft' is not of its value set"),
    "statuses": (lambda b: first(b, "Observation").update(status="final"), "differ in status"),
    "device": (lambda b: first(b, "Device").update(status="on"), "'on' is not of its value set"),
    "nobody's": (lambda b: first(b, "Observation").pop("device"), "not both or neither"),
    "missing": (lambda b: first(b, "Observation").pop("method"), "method is missing"),
    "category": (
        lambda b: first(b, "Observation")["category"][0]["coding"][0].update(code="picture"),
        "picture is no code that mdf may give",
    ),
    "categories": (lambda b: first(b, "Observation").update(category=[{"text": "eye"}]), "category must be of"),
    "system": (lambda b: first(b, "DiagnosticReport")["identifier"][0].update(system="mdf"), "mdf is no absolute URI"),
    "reference": (lambda b: first(b, "Observation")["device"].update(reference="urn:uuid:0"), "is not in the bundle"),
    "lost": (lambda b: b["entry"].pop(1), "is not in the bundle"),
    "twice": (lambda b: b["entry"].append(b["entry"][1]), "stands twice"),
    "url": (lambda b: b["entry"][0].update(fullUrl="DiagnosticReport/1"), "is no urn:uuid"),
    "unknown code": (
        lambda b: first(b, "DiagnosticReport")["code"]["coding"][0].update(code="20067008"),
        "20067008 is no code that mdf may give",
    ),
    "name of a code": (
        lambda b: first(b, "DiagnosticReport")["code"]["coding"][0].update(display="Photograph"),
        "20067007 is no code that mdf may give",
    ),
    "recalled code": (
        lambda b: first(b, "Observation")["code"].update(
            coding=[{"system": "http://snomed.info/sct", "code": "34037000", "display": "Retinal microaneurysm"}]
        ),
        "34037000 is no code that mdf may give",
    ),
    "autonomous": (
        lambda b: first(b, "Observation")["code"].update(
            coding=[{"system": "http://loinc.org", "code": "105914-6", "display": "Screening"}]
        ),
        "105914-6 is no code that mdf may give",
    ),
    "other eye": (
        lambda b: observed(b, "Diabetic retinopathy sev")["code"]["coding"][0].update(
            code="71490-7", display="Left eye Diabetic retinopathy severity level by Ophthalmoscopy"
        ),
        "of the right and of the left eye",
    ),
    "profile": (lambda b: first(b, "Observation").update(meta={"profile": ["http://x.org/p"]}), "claims no profile"),
    "two values": (lambda b: first(b, "Observation").update(valueString="x"), "one value or one dataAbsentReason"),
    "no value": (lambda b: first(b, "Observation").pop("valueCodeableConcept"), "one value or one dataAbsentReason"),
    "banner": (lambda b: first(b, "DiagnosticReport").update(conclusion="Normal."), "conclusion does not carry"),
    "narrative": (lambda b: first(b, "DiagnosticReport")["text"].update(div="<div>a</div>"), "div of XHTML"),
    "broken narrative": (lambda b: first(b, "DiagnosticReport")["text"].update(div="<div>"), "is no XHTML"),
    "narrative status": (lambda b: first(b, "DiagnosticReport")["text"].update(status="made"), "text.status"),
    "name": (lambda b: first(b, "Patient").update(name=[{"family": "Smith"}]), "only a pseudonym"),
    "role": (lambda b: first(b, "Provenance")["entity"][0].update(role="photo"), "entity.role"),
    "who": (lambda b: first(b, "Provenance")["agent"][0].pop("who"), "agent without who"),
    "instant": (lambda b: first(b, "DiagnosticReport").update(issued="2026-11-23"), "no instant with a time zone"),
    "empty": (lambda b: first(b, "Observation").update(note=[]), "empty, which FHIR forbids"),
    "kind": (lambda b: first(b, "Device").update(resourceType="Media"), "Media: is none of"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_the_check_finds(name):
    bundle = copy.deepcopy(to_bundle(full_report()))
    assert check_bundle(bundle) == []
    change, problem = WRONG[name]
    change(bundle)
    assert any(problem in said for said in check_bundle(bundle)), check_bundle(bundle)


def test_the_check_finds_a_signature_that_is_missing_or_not_taken_for_one():
    unsigned, preliminary = to_bundle(signed(full_report())), to_bundle(signed(full_report()))
    unsigned["entry"] = unsigned["entry"][:-1]
    assert "Bundle: is not preliminary, and no Provenance says who signed it" in check_bundle(unsigned)
    for kind in ("DiagnosticReport", "Observation"):
        for resource in of(preliminary, kind):
            resource["status"] = "preliminary"
    assert check_bundle(preliminary) == ["Bundle: is preliminary although a person signed it"]
    nobody = to_bundle(signed(full_report()))
    first(nobody, "Observation").pop("performer")
    assert any("does not say who answers for it" in said for said in check_bundle(nobody))


def bundles() -> list[str]:
    pdf = {"pdf": b"%PDF-1.7", "known": ["type 2 diabetes", "both: no macular oedema"]}
    return [fhir_json(full_report()), fhir_json(dark_report()), fhir_json(signed(full_report(), 2), **pdf), of_review()]


def of_review() -> str:
    """Of a review as it is made of what a person changed, ticked and wrote."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "case.json"
        draft.write_text(full_report().to_json(), encoding="utf-8")
        state = read_state(draft)
        changes = [
            Change(path="eyes.0.lesions.0.present", before=True, after=False),
            Change(path="eyes.0.grades.0.value", before="2", after="1"),
            Change(path="eyes.1.impression.text", before=state.values["eyes"][1]["impression"]["text"], after="Mine."),
        ]
        edits = Edits(state.values["id"], state.hash, changes, ["eyes.0.lesions.1"], "Dr Müller", "Two changes.")
        return fhir_json(read_report(review(draft, edits).read_text(encoding="utf-8"), "the review"))


def test_the_bundle_of_a_review_says_what_is_whose():
    bundle = json.loads(of_review())
    assert check_bundle(bundle) == []
    assert observed(bundle, "Microaneurysms")["valueBoolean"] is False
    assert observed(bundle, "Microaneurysms")["method"]["text"] == BY_PERSON
    grade = observed(bundle, "Diabetic retinopathy severity")
    assert codes(grade["valueCodeableConcept"]) == {"LA18644-7"} and grade["method"]["text"] == BY_PERSON
    assert observed(bundle, "Impression", "Left")["valueCodeableConcept"]["text"] == "Mine."
    (top,) = of(bundle, "DiagnosticReport")
    assert top["status"] == "final" and "Two changes." in top["conclusion"]


def test_the_bundles_are_of_the_published_schema():
    schema = pytest.importorskip("fhir.resources.R4B.bundle", reason="the schema of R4B: pip install fhir.resources")
    for text in bundles():
        assert schema.Bundle.model_validate_json(text).type == "collection"
    broken = bundles()[0].replace('"resourceType": "Observation"', '"resourceType": "Observation", "colour": "red"', 1)
    with pytest.raises(ValueError, match="colour"):
        schema.Bundle.model_validate_json(broken)


VALIDATE = """
const {Fhir} = require('fhir'); const fhir = new Fhir();
const say = b => fhir.validate(b, {errorOnUnexpected: true}).messages
  .filter(m => m.severity === 'error' || m.severity === 'fatal');
console.log(JSON.stringify(JSON.parse(require('fs').readFileSync(0, 'utf8')).map(say)));
"""


def test_the_bundles_pass_the_validator_of_npm(tmp_path):
    folder = os.environ.get("MDF_FHIR_NODE")
    if not folder or not shutil.which("node"):
        pytest.skip("needs node, and MDF_FHIR_NODE: the folder where `npm install fhir` put node_modules")
    good = [json.loads(text) for text in bundles()]
    bad = copy.deepcopy(good[0])
    first(bad, "DiagnosticReport")["status"] = "draft"
    ran = subprocess.run(
        ["node", "-e", VALIDATE],
        input=json.dumps([*good, bad]),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    *of_good, of_bad = json.loads(ran.stdout)
    assert of_good == [[], [], [], []]
    assert any("status" in message["location"] for message in of_bad)
