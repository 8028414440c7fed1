"""Training records of reviews: what a clinician confirmed or changed, with where it comes from, and nothing else."""

import hashlib
import json

import pytest

from mdf.errors import UserError
from mdf.inference import wording
from mdf.inference.corrections import export_reviews
from mdf.inference.edits import Edits
from mdf.inference.report import Change, Origin
from mdf.inference.review import fingerprint, review, state_of
from mdf.inference.review_verb import main
from mdf.records import Finding, read_manifest
from tests.inference.reports import full_report

LESIONS = [f"eyes.1.lesions.{k}" for k in range(5)]


def reviewed(folder, *changes: tuple, confirmed=(), name: str = "case", report=None):
    """A draft in `folder` and one review of it: changes are path, before, after."""
    report = report or full_report()
    draft = folder / f"{name}.json"
    draft.write_text(report.to_json(), encoding="utf-8")
    listed = [Change(path=path, before=before, after=after) for path, before, after in changes]
    return review(draft, Edits(report.id, fingerprint(state_of(report)), listed, confirmed, "Dr Müller"))


def exported(folder, **more):
    return export_reviews(folder, folder / "out.jsonl", **more)


def test_what_was_confirmed_is_exported_with_its_provenance(tmp_path):
    reviewed(tmp_path, confirmed=["eyes.1.impression", "eyes.1.grades.0", "eyes.1.referral", *LESIONS])
    (record,) = exported(tmp_path)
    assert record.diagnosis == ("mild_npdr",) and record.grade == {"icdr": "1"}
    assert record.findings == (Finding("microaneurysm", "superotemporal", count=2),)
    assert record.texts["recommendation"] == "No referral; photograph again in 6 to 12 months."
    assert record.image == "P-0017_OS.jpg" and record.patient == "P-0017"
    report = full_report()
    expected = {"reviewer": "Dr Müller", "report": report.id, "checkpoint_fingerprint": report.software.fingerprint}
    assert expected.items() <= record.extra.items() and record.extra["photograph_sha256"] == "7e" * 32
    assert read_manifest(tmp_path / "out.jsonl").records == (record,)


def test_what_nobody_confirmed_or_changed_is_not_exported(tmp_path):
    reviewed(tmp_path, confirmed=["eyes.1.grades.0"])
    (record,) = exported(tmp_path)
    assert record.diagnosis is None and record.findings is None and not record.texts
    assert record.eye is None  # told by the machine, confirmed by nobody
    assert record.grade == {"icdr": "1"}


def test_a_side_by_the_files_name_is_nobodys_statement_until_it_is_confirmed(tmp_path):
    report = full_report()
    report.eyes[1].laterality.origin = Origin.RULE
    assert wording.eye_side(report.eyes[1]) == "left, by the file's name"
    reviewed(tmp_path, confirmed=["eyes.1.grades.0"], report=report)
    assert exported(tmp_path)[0].eye is None
    (tmp_path / "case.review-1.json").unlink()
    reviewed(tmp_path, confirmed=["eyes.1.grades.0", "eyes.1.laterality"], report=report)
    assert exported(tmp_path)[0].eye == "left"


def test_findings_are_exported_only_where_each_of_them_was_looked_at(tmp_path):
    reviewed(tmp_path, confirmed=["eyes.1.grades.0", *LESIONS[:-1]])
    assert exported(tmp_path)[0].findings is None


def test_a_changed_finding_counts_as_looked_at_and_its_new_value_is_the_truth(tmp_path):
    change = ("eyes.1.lesions.0.present", True, False)
    reviewed(tmp_path, change, confirmed=LESIONS[1:])
    assert exported(tmp_path)[0].findings == ()


def test_a_finding_that_nobody_can_tell_keeps_the_list_open(tmp_path):
    reviewed(tmp_path, ("eyes.1.lesions.0.present", True, None), confirmed=[*LESIONS[1:], "eyes.1.grades.0"])
    assert exported(tmp_path)[0].findings is None


def test_what_a_change_brought_with_it_is_nobodys_statement(tmp_path):
    reviewed(tmp_path, ("eyes.0.gradability.value", "good", "not"))
    (record,) = exported(tmp_path)
    assert record.extra["gradable"] == "not"
    assert record.diagnosis is None and not record.grade and not record.texts


def test_a_sentence_of_the_reviewers_own_names_no_diagnosis(tmp_path):
    reviewed(tmp_path, ("eyes.1.impression.text", full_report().eyes[1].impression.text, "Nothing to treat."))
    (record,) = exported(tmp_path)
    assert record.diagnosis is None and record.texts == {"impression": "Nothing to treat."}


def test_a_changed_diagnosis_is_the_truth(tmp_path):
    reviewed(tmp_path, ("eyes.1.impression.diagnosis", "mild_npdr", "normal"))
    assert exported(tmp_path)[0].diagnosis == ("normal",)


def test_drafts_without_a_review_are_left_out_and_nothing_reviewed_is_an_error(tmp_path):
    (tmp_path / "draft.json").write_text(full_report().to_json(), encoding="utf-8")
    with pytest.raises(UserError, match="no review in it confirms or changes anything"):
        exported(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        export_reviews(tmp_path / "none", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_review_that_was_altered_stops_the_export(tmp_path):
    path = reviewed(tmp_path, confirmed=["eyes.1.grades.0"])
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["eyes"][1]["grades"][0]["value"] = "4"
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match="was altered"):
        exported(tmp_path)


def test_a_review_whose_draft_is_gone_is_named(tmp_path):
    reviewed(tmp_path, confirmed=["eyes.1.grades.0"])
    (tmp_path / "case.json").unlink()
    with pytest.raises(UserError, match=r"case\.json: the draft of a review is missing"):
        exported(tmp_path)


def test_photographs_are_checked_to_be_the_ones_that_were_reviewed(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    report = full_report()
    report.eyes[1].photograph.sha256 = hashlib.sha256(b"photograph").hexdigest()
    reviewed(tmp_path, confirmed=["eyes.1.grades.0"], report=report)
    with pytest.raises(UserError, match=r"P-0017_OS\.jpg: the photograph .* is missing"):
        exported(tmp_path, photographs=folder)
    (folder / "P-0017_OS.jpg").write_bytes(b"another")
    with pytest.raises(UserError, match="is another photograph"):
        exported(tmp_path, photographs=folder)
    (folder / "P-0017_OS.jpg").write_bytes(b"photograph")
    exported(tmp_path, photographs=folder)
    assert read_manifest(tmp_path / "out.jsonl").root == folder


def test_reports_and_photographs_are_found_in_folders_below(tmp_path):
    """A batch writes its reports into folders; two photographs of one name are told apart by their bytes."""
    drafts, folder = tmp_path / "reports" / "ab", tmp_path / "photographs"
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        (folder / name / "P-0017_OS.jpg").write_bytes(name.encode())
    drafts.mkdir(parents=True)
    report = full_report()
    report.eyes[1].photograph.sha256 = hashlib.sha256(b"two").hexdigest()
    reviewed(drafts, confirmed=["eyes.1.grades.0"], report=report)
    (record,) = export_reviews(tmp_path / "reports", tmp_path / "out.jsonl", folder)
    assert record.image == "two/P-0017_OS.jpg"
    manifest = read_manifest(tmp_path / "out.jsonl")
    assert manifest.path(manifest.records[0].image).read_bytes() == b"two"


def test_findings_entered_where_none_were_assessed_are_a_whole_list_once_each_was_ticked(tmp_path):
    report = full_report()
    report.eyes[0].lesions = None
    entered = {"kind": "haemorrhage", "present": True, "count": 3}
    path = reviewed(tmp_path, ("eyes.0.lesions.0", None, entered), report=report)
    with pytest.raises(UserError, match=r"nothing that makes a training record.*ticked in a further review"):
        exported(tmp_path)
    state = json.loads(path.read_text(encoding="utf-8"))
    review(tmp_path / "case.json", Edits(report.id, fingerprint(state), [], ["eyes.0.lesions.0"], "Dr Müller"))
    assert exported(tmp_path)[0].findings == (Finding("haemorrhage", count=3),)


def test_a_photograph_whose_name_leads_elsewhere_is_refused(tmp_path):
    report = full_report()
    report.eyes[1].photograph.name = "../../secret.png"
    reviewed(tmp_path, confirmed=["eyes.1.grades.0"], report=report)
    with pytest.raises(UserError, match="is no file name"):
        exported(tmp_path)


def test_the_verb_exports_a_folder_and_says_how_many(tmp_path, capsys):
    reviewed(tmp_path, confirmed=["eyes.0.grades.0", "eyes.1.grades.0"])
    main(["export", str(tmp_path), "--out", str(tmp_path / "reviews.jsonl")])
    assert capsys.readouterr().out.strip().endswith("reviews.jsonl: 2 reviewed eyes")
