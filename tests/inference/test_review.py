"""Reviews: signed states beside the draft, one built on the other; what does not fit is refused and nothing is lost."""

import errno
import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mdf.errors import UserError
from mdf.inference import wording
from mdf.inference.comparison import compare_eyes
from mdf.inference.corrections import export_reviews
from mdf.inference.edits import Edits
from mdf.inference.referral import most_urgent
from mdf.inference.report import Change, Referral, Report, read_report
from mdf.inference.review import fingerprint, read_chain, read_state, review, state_of
from mdf.inference.review_verb import main
from tests.inference.reports import full_report

COUNT = {"path": "eyes.0.lesions.1.count", "before": 9, "after": 12}


@pytest.fixture
def draft(tmp_path) -> Path:
    path = tmp_path / "case.json"
    path.write_text(full_report().to_json(), encoding="utf-8")
    return path


def saved(folder: Path, *changes: dict, of: dict | None = None, **more) -> Path:
    """Edits as the page saves them, of the newest state in the folder."""
    state = of or read_chain(folder / "case.json")[-1].values
    edits = {
        "form": "mdf edits", "report": state["id"], "of": fingerprint(state), "reviewer": "Dr Müller", "comment": "",
        "photograph_seen": True, "changes": list(changes), "confirmed": [], **more,
    }  # fmt: skip
    path = folder / "case.edits.json"
    path.write_text(json.dumps(edits), encoding="utf-8")
    return path


def by_hand(draft: Path, edit, name: str = "hand.json") -> Path:
    """The report's JSON changed with an editor."""
    raw = json.loads(draft.read_text(encoding="utf-8"))
    edit(raw)
    path = draft.with_name(name)
    path.write_text(json.dumps(raw), encoding="utf-8")
    return path


def read(path: Path) -> Report:
    return read_report(path.read_text(encoding="utf-8"), str(path))


def test_a_review_says_who_changed_what_and_when_and_the_draft_stays_as_it_was(draft):
    before = draft.read_bytes()
    path = review(draft, saved(draft.parent, COUNT, comment="counted again"))
    assert path.name == "case.review-1.json" and draft.read_bytes() == before
    report, own = read(path), read(path).reviews[0]
    assert report.eyes[0].lesions[1].count == 12 and report.signed
    assert (own.version, own.reviewer, own.comment) == (1, "Dr Müller", "counted again")
    assert own.of == fingerprint(json.loads(before)) and own.signed.tzinfo is not None
    assert Change(**COUNT) in own.changes


def test_what_a_person_changes_is_theirs_and_rests_no_longer_on_the_machines_evidence(draft):
    lesion = read(review(draft, saved(draft.parent, COUNT))).eyes[0].lesions[1]
    assert lesion.origin == "user" and not lesion.evidence and lesion.probability is None
    assert lesion.band is None  # was of another number
    assert (lesion.answered, lesion.drawn) == (0.98, 9)  # what the sources said stays


def test_a_finding_that_is_said_to_be_absent_has_no_number_and_no_place_left(draft):
    absent = {"path": "eyes.0.lesions.1.present", "before": True, "after": False}
    lesion = read(review(draft, saved(draft.parent, absent))).eyes[0].lesions[1]
    assert lesion.present is False and lesion.count is None and not lesion.boxes and not lesion.zones


def test_what_was_derived_from_findings_that_changed_is_flagged_unless_it_was_confirmed(draft):
    report = read(review(draft, saved(draft.parent, COUNT, confirmed=["eyes.0.grades.0"])))
    about = [flag.about for flag in report.eyes[0].flags if "was derived before" in flag.text]
    assert about == ["grades.NHS-FBG", "grades.NHS-FBG-M", "impression", "referral", "since"]
    assert not report.eyes[1].flags


def test_a_grade_that_is_changed_takes_its_name_along_and_loses_the_reasons_of_the_rule(draft):
    grade = read(review(draft, saved(draft.parent, {"path": "eyes.0.grades.0.value", "before": "2", "after": "3"})))
    grade = grade.eyes[0].grades[0]
    assert grade.name == "severe non-proliferative retinopathy" and not grade.because
    assert grade.stated == "3" and not grade.disagrees


def test_another_diagnosis_changes_the_sentence_that_said_it(draft):
    change = {"path": "eyes.0.impression.diagnosis", "before": "moderate_npdr", "after": "severe_npdr"}
    said = read(review(draft, saved(draft.parent, change))).eyes[0].impression
    assert said.text == "Severe non-proliferative diabetic retinopathy." and said.origin == "user"


def test_an_eye_that_is_called_not_gradable_loses_the_machines_grades(draft):
    change = {"path": "eyes.0.gradability.value", "before": "good", "after": "not"}
    eye = read(review(draft, saved(draft.parent, change))).eyes[0]
    assert all(grade.value is None and "a gradable photograph" in grade.needs for grade in eye.grades[:3])
    assert eye.impression.diagnosis is None


def test_places_that_depend_on_the_eye_side_go_with_it(draft):
    one = full_report().model_copy(update={"eyes": full_report().eyes[:1], "comparison": []})
    one.eyes[0].lesions[0].by_zone = {"superotemporal": 3, "macula": 4}
    draft.write_text(one.to_json(), encoding="utf-8")
    change = {"path": "eyes.0.laterality.eye", "before": "right", "after": "left"}
    eye = read(review(draft, saved(draft.parent, change))).eyes[0]
    assert eye.laterality.origin == "user" and not any(x.zones or x.by_zone or x.nearest_fovea for x in eye.lesions)
    assert eye.macula.centre is None and eye.macula.nearest_exudate is None and not eye.macula.statements
    assert eye.photograph.fields is None
    told = {flag.about: flag.text for flag in eye.flags}
    assert "The eye side was changed by a person" in told["laterality"]
    assert "was derived before the eye side was changed" in told["grades.NHS-FBG-M"] and "referral" in told


def test_a_side_that_fits_the_places_in_the_picture_leaves_them(draft):
    """The reader says which eye it is, where the report left it open; the disc had told where its temporal side is."""
    one = full_report().model_copy(update={"eyes": full_report().eyes[:1], "comparison": []})
    one.eyes[0].laterality.eye = None
    draft.write_text(one.to_json(), encoding="utf-8")
    change = {"path": "eyes.0.laterality.eye", "before": None, "after": "right"}
    eye = read(review(draft, saved(draft.parent, change))).eyes[0]
    assert eye.macula == one.eyes[0].macula and eye.flags == one.eyes[0].flags
    assert [x.zones for x in eye.lesions] == [x.zones for x in one.eyes[0].lesions]


def drafted(path: Path, **more) -> Report:
    """A draft whose comparison and recommendation are those that the rules make of its eyes."""
    report = full_report()
    for i, text in more.items():
        report.eyes[int(i[-1])].referral = text
    report.comparison, report.referral = compare_eyes(report.eyes), most_urgent(report.eyes)
    path.write_text(report.to_json(), encoding="utf-8")
    return report


EXCHANGED = [
    {"path": "eyes.0.laterality.eye", "before": "right", "after": "left"},
    {"path": "eyes.1.laterality.eye", "before": "left", "after": "right"},
]


def test_what_is_said_of_the_patient_names_the_right_eye_after_its_sides_are_corrected(draft):
    assert drafted(draft).referral.text.startswith("Right eye: Refer")
    new = read(review(draft, saved(draft.parent, *EXCHANGED)))
    assert new.referral.text.startswith("Left eye: Refer") and new.referral.because[-1].startswith("Right eye: No")
    said = " ".join(one.text for one in new.comparison)
    assert "Haemorrhages in the left eye only." in said and "right eye only" not in said
    assert [one.text for one in new.since] == [
        "Not compared with the earlier report: an eye side was changed by a person."
    ]
    assert len(read_chain(draft)) == 2


def test_what_a_person_says_of_both_eyes_stays_theirs(draft):
    report = drafted(draft)
    text = {"path": "comparison.0.text", "before": report.comparison[0].text, "after": "Both discs are alike."}
    advice = {"path": "referral.text", "before": report.referral.text, "after": "Left eye: to Dr X."}
    new = read(review(draft, saved(draft.parent, *EXCHANGED, text, advice, confirmed=["comparison.1"])))
    assert new.referral.text == "Left eye: to Dr X."
    assert [one.text for one in new.comparison[:2]] == ["Both discs are alike.", report.comparison[1].text]


def test_a_finding_that_is_taken_out_is_compared_no_longer(draft):
    assert any(one.text == "Haemorrhages in the right eye only." for one in drafted(draft).comparison)
    absent = {"path": "eyes.0.lesions.1.present", "before": True, "after": False}
    new = read(review(draft, saved(draft.parent, absent)))
    assert not any("Haemorrhages" in one.text for one in new.comparison) and new.comparison
    assert len(read_chain(draft)) == 2


def test_other_words_for_one_eye_do_not_take_back_the_referral_of_the_patient(draft):
    advice = {"origin": "rule", "urgency": "routine", "rules": "ICO 2017"}
    kept, sent = (Referral(refer=refer, text=text, **advice) for refer, text in ((False, "None."), (True, "Refer.")))
    assert drafted(draft, eye_0=kept, eye_1=sent).referral.text == "Left eye: Refer."
    reworded = {"path": "eyes.1.referral.text", "before": "Refer.", "after": "Refer to Dr X."}
    new = read(review(draft, saved(draft.parent, reworded))).referral
    assert (new.refer, new.text, new.because) == (True, "Left eye: Refer to Dr X.", ["Right eye: None."])


def test_a_recommendation_that_a_person_gave_for_the_patient_yields_only_to_a_more_urgent_one(draft):
    report = drafted(draft)
    changes = [("referral.urgency", "soon", "urgent"), ("referral.text", report.referral.text, "Call today.")]
    review(draft, saved(draft.parent, *({"path": p, "before": b, "after": a} for p, b, a in changes)))
    left = report.eyes[1].referral.text
    words = {"path": "eyes.1.referral.text", "before": left, "after": "No referral."}
    assert read(review(draft, saved(draft.parent, words))).referral.text == "Call today."
    worse = {"path": "eyes.1.referral.urgency", "before": "routine", "after": "same day"}
    assert read(review(draft, saved(draft.parent, worse))).referral.text == "Left eye: No referral."


def test_the_recommendation_for_both_follows_the_more_urgent_eye(draft):
    change = {"path": "eyes.1.referral.urgency", "before": "routine", "after": "urgent"}
    assert read(review(draft, saved(draft.parent, change))).referral.urgency == "urgent"


def test_a_finding_can_be_added_and_is_the_persons(draft):
    added = {"kind": "Neovascularization", "present": True, "count": 2, "zones": ["superonasal"]}
    also = {"kind": "optic_disc_pallor", "present": True}
    changes = [{"path": f"eyes.0.lesions.{5 + i}", "after": lesion} for i, lesion in enumerate((added, also))]
    lesions = read(review(draft, saved(draft.parent, *changes))).eyes[0].lesions
    assert len(lesions) == 7 and lesions[5].origin == "user"
    assert (lesions[5].kind, lesions[5].count, lesions[5].zones) == ("neovascularisation", 2, ["superonasal"])


def test_a_second_review_builds_on_the_first(draft):
    first = review(draft, saved(draft.parent, COUNT))
    held = first.read_bytes()
    second = review(draft, saved(draft.parent, {**COUNT, "before": 12, "after": 14}, reviewer="Dr Meier"))
    assert second.name == "case.review-2.json" and first.read_bytes() == held
    report = read(second)
    assert report.eyes[0].lesions[1].count == 14
    assert [r.reviewer for r in report.reviews] == ["Dr Müller", "Dr Meier"]
    assert report.reviews[1].of == fingerprint(json.loads(held))
    assert len(read_chain(draft)) == 3


def test_a_json_of_the_report_changed_by_hand_is_a_review_too(draft):
    def edit(raw):
        raw["eyes"][0]["lesions"][1]["count"] = 12
        raw["eyes"][1]["impression"]["text"] = "Mild retinopathy."
        del raw["eyes"][1]["macula"]  # left out is not changed

    report = read(review(draft, by_hand(draft, edit), "Dr Müller"))
    assert report.eyes[0].lesions[1].count == 12 and report.eyes[1].impression.text == "Mild retinopathy."
    assert report.eyes[1].macula == full_report().eyes[1].macula


def test_a_review_that_only_confirms_is_saved_too(draft):
    confirmed = ["eyes.0.lesions.0", "eyes.1.impression", "referral"]
    assert read(review(draft, saved(draft.parent, confirmed=confirmed))).reviews[0].confirmed == confirmed


def refused(draft: Path, edits, says: str, reviewer: str | None = None) -> None:
    there = {path: path.read_bytes() for path in draft.parent.iterdir()}
    with pytest.raises(UserError, match=says):
        review(draft, edits, reviewer)
    assert {path: path.read_bytes() for path in draft.parent.iterdir()} == there


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"path": "eyes.0.lesions.9.count", "after": 1}, "eyes.0.lesions.9.count: there is no such field"),
        ({"path": "eyes.0.lesions.8", "after": {"kind": "drusen", "present": True}}, "there is no such field"),
        ({"path": "eyes.0.lesions.5", "after": {"kind": "sparkles"}}, "kind is a name of the vocabulary"),
        ({"path": "eyes.0.lesions.1", "before": {}, "after": None}, "cannot be taken out"),
        ({**COUNT, "before": 8}, "starts from another value"),
        ({**COUNT, "after": "many"}, "no report of mdf: eyes.0.lesions.1.count"),
        ({**COUNT, "after": -1}, "no report of mdf: eyes.0.lesions.1.count"),
        ({"path": "eyes.0.lesions.1.zones", "before": full_report().eyes[0].lesions[1].zones, "after": ["north"]},
         "north is no zone"),
        ({"path": "eyes.0.referral.urgency", "before": "soon", "after": "later"}, "'later' is not one of none"),
        ({"path": "banner", "before": full_report().banner, "after": ""}, "banner cannot be changed by a review"),
        ({"path": "eyes.0.lesions.1.evidence", "after": []}, "cannot be changed by a review"),
        ({"path": "eyes.0.photograph.sha256", "after": "0"}, "cannot be changed by a review"),
        ({"path": "reviews.0.reviewer", "after": "me"}, "cannot be changed by a review"),
        ({"path": "__class__.x", "after": 1}, "cannot be changed by a review"),
        ({"path": "eyes.0.laterality.eye", "before": "right", "after": "left"}, "needs a left and a right eye"),
    ],
)  # fmt: skip
def test_an_edit_that_does_not_fit_is_refused_and_nothing_is_written(draft, change, says):
    refused(draft, saved(draft.parent, change), says)


def test_edits_of_another_report_or_of_an_older_state_are_refused(draft):
    refused(draft, saved(draft.parent, COUNT, report="other"), r"belong to another report \(other\)")
    old = read_chain(draft)[0].values
    review(draft, saved(draft.parent, COUNT))
    refused(draft, saved(draft.parent, COUNT, of=old), "made on another state of case.json: write its page anew")
    refused(draft, by_hand(draft, lambda raw: None), "the report has 1 reviews by now", "Dr Müller")


def test_one_person_signs(draft):
    refused(draft, saved(draft.parent, COUNT), "signed by Dr Meier and Dr Müller; name one reviewer", "Dr Meier")
    refused(draft, saved(draft.parent, COUNT, reviewer="  "), "signed by nobody")
    refused(draft, saved(draft.parent, COUNT, photograph_seen=False), "has not said that they saw the photograph")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no valid JSON"),
        ("[" * 100_000, "is no"),
        ("[]", "is no report of mdf"),
        ('{"form": "mdf edits", "more": 1}', "more does not belong into edits"),
        ('{"form": "mdf edits", "photograph_seen": true, "changes": [1]}', "`changes` must be a list"),
        ('{"form": "mdf edits", "photograph_seen": true, "reviewer": 1}', "must be text"),
    ],
)
def test_a_file_that_holds_no_edits_is_refused(draft, text, says):
    path = draft.with_name("edits.json")
    path.write_text(text)
    refused(draft, path, says, "Dr Müller")


def test_only_statements_of_the_report_can_be_confirmed(draft):
    for path in ("eyes.0.lesions.9", "eyes.0.photograph", "nothing", 7):
        refused(draft, saved(draft.parent, confirmed=[path]), f"{path!r} is confirmed and is no statement")


def test_a_file_that_was_altered_after_it_was_signed_is_found_out(draft):
    first = review(draft, saved(draft.parent, COUNT))
    whole, edits = json.loads(first.read_text(encoding="utf-8")), saved(draft.parent)
    whole["eyes"][1]["impression"]["text"] = "Nothing."
    first.write_text(json.dumps(whole))
    refused(draft, edits, r"case\.review-1\.json was altered: its list of changes does not lead to what it says")


def test_a_draft_that_was_altered_under_its_review_is_found_out(draft):
    review(draft, saved(draft.parent, COUNT))
    edits = saved(draft.parent)
    draft.write_text(draft.read_text(encoding="utf-8").replace("Mild", "Wild"), encoding="utf-8")
    refused(draft, edits, "changed another state than the one beside it")


def test_another_layout_of_the_json_is_no_alteration(draft):
    review(draft, saved(draft.parent, COUNT))
    draft.write_text(json.dumps(json.loads(draft.read_text(encoding="utf-8")), sort_keys=True))
    assert len(read_chain(draft)) == 2


def test_a_draft_that_leaves_out_what_is_not_said_can_be_reviewed(draft):
    by_hand(draft, lambda raw: [raw.pop("reviews"), raw["eyes"][0]["lesions"][1].pop("nearest_fovea")], draft.name)
    first = review(draft, saved(draft.parent, COUNT))
    assert read(first).reviews[0].of == fingerprint(json.loads(draft.read_text(encoding="utf-8")))
    assert len(read_chain(draft)) == 2


def test_a_drive_without_links_keeps_reviews_too(draft, monkeypatch):
    def no_links(*paths):
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr("mdf.inference.review.os.link", no_links)
    assert len(read(review(draft, saved(draft.parent, COUNT))).reviews) == 1


def test_a_review_of_another_report_and_a_gap_in_the_chain_are_found_out(draft):
    first = review(draft, saved(draft.parent, COUNT))
    review(draft, saved(draft.parent, {**COUNT, "before": 12, "after": 3}))
    edits = saved(draft.parent)
    os.rename(first, draft.with_name("elsewhere.json"))
    refused(draft, edits, "review 1 is missing beside it")
    other = full_report().model_copy(update={"id": "other"})
    draft.with_name("case.review-1.json").write_text(other.to_json(), encoding="utf-8")
    refused(draft, edits, r"is a review of another report \(other\)")


def test_a_review_is_no_draft(draft):
    first = review(draft, saved(draft.parent, COUNT))
    with pytest.raises(UserError, match=r"is a review; name the draft itself, case\.json"):
        review(first, Edits("a", "b", []), "Dr Müller")


def test_two_who_save_at_the_same_time_do_not_overwrite_each_other(draft, monkeypatch):
    edits = saved(draft.parent, COUNT)
    first = review(draft, edits)
    held = first.read_bytes()
    chain = [read_state(draft)]
    monkeypatch.setattr("mdf.inference.review.read_chain", lambda path: chain)  # as read before the other one saved
    refused(draft, edits, re.escape(f"{first} was written meanwhile by another review"))
    assert first.read_bytes() == held


def test_the_verb_saves_a_review_and_says_where(draft, capsys):
    main(["review", str(draft), "--edits", str(saved(draft.parent, COUNT)), "--reviewer", "Dr Müller"])
    assert capsys.readouterr().out.strip() == str(draft.with_name("case.review-1.json"))


def test_the_verb_writes_the_reviewed_report_in_other_forms_too(draft, capsys):
    words = ["review", str(draft), "--edits", str(saved(draft.parent, COUNT)), "--format"]
    with pytest.raises(UserError, match="'docx' is no format"):
        main([*words, "docx"])
    assert not draft.with_name("case.review-1.json").exists()
    main([*words, "md,html"])
    names = ["case.review-1.json", "case.review-1.md", "case.review-1.html"]
    assert capsys.readouterr().out.split() == [str(draft.with_name(name)) for name in names]
    for name in names[1:]:
        text = draft.with_name(name).read_text(encoding="utf-8")
        assert "Review 1 by Dr Müller" in text and "AI-generated DRAFT" in text


def test_a_finding_can_be_added_where_none_was_assessed_and_is_no_whole_list(draft, tmp_path):
    """A checkpoint that looked for nothing: the reviewer says what they saw, and nobody says that there is no more."""
    report = full_report()
    report.eyes[0].lesions = None
    draft.write_text(report.to_json(), encoding="utf-8")
    seen = {"kind": "drusen", "present": True, "count": 4, "zones": ["macula"]}
    added = {"path": "eyes.0.lesions.0", "before": None, "after": seen}
    new = read(review(draft, saved(draft.parent, added, confirmed=["eyes.0.impression"])))
    assert [(one.kind, one.count, one.origin) for one in new.eyes[0].lesions] == [("drusen", 4, "user")]
    assert len(read_chain(draft)) == 2
    assert ("eyes.0.lesions", "nothing", "drusen") in wording.own_changes(new.reviews[0])
    (record,) = export_reviews(draft.parent, tmp_path / "r.jsonl")
    assert record.diagnosis and record.findings is None


def test_the_verb_shows_the_photographs_where_it_is_told_where_they_are(tmp_path, capsys):
    report, folder = full_report(), tmp_path / "photographs"
    folder.mkdir()
    for number, eye in enumerate(report.eyes):
        path = folder / eye.photograph.name
        Image.fromarray(np.full((96, 128, 3), 60 + 40 * number, dtype=np.uint8)).save(path)
        eye.photograph.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    draft = tmp_path / "case.json"
    draft.write_text(report.to_json(), encoding="utf-8")
    words = ["review", str(draft), "--edits", str(saved(tmp_path, COUNT)), "--photographs", str(folder)]
    main([*words, "--format", "html,md"])
    page = (tmp_path / "case.review-1.html").read_text(encoding="utf-8")
    assert page.count('class="photograph"') == 2 and "is not part of this file" not in page
    assert "_photograph.jpg" in (tmp_path / "case.review-1.md").read_text(encoding="utf-8")
    for change, said in (
        (lambda path: path.write_bytes(b"another"), "is another photograph than the one of the report"),
        (lambda path: path.unlink(), "the photograph of the report is missing"),
    ):
        change(folder / report.eyes[1].photograph.name)
        with pytest.raises(UserError, match=said):
            main([*words, "--format", "html"])
    assert not draft.with_name("case.review-2.json").exists()


def test_the_verb_gives_codes_that_need_what_the_user_knows(draft):
    words = ["review", str(draft), "--edits", str(saved(draft.parent, COUNT)), "--format", "fhir", "--known"]
    with pytest.raises(UserError, match="is nothing that a code asks for"):
        main([*words, "gout"])
    assert not draft.with_name("case.review-1.json").exists()
    with pytest.raises(UserError, match="of which eye"):
        main([*words, "type 2 diabetes", "--known", "no macular oedema"])
    assert not draft.with_name("case.review-1.json").exists()
    main([*words, "type 2 diabetes", "--known", "right: no macular oedema"])
    bundle = draft.with_name("case.review-1.fhir.json").read_text(encoding="utf-8")
    assert '"status": "final"' in bundle and "E11.3" in bundle


def test_the_state_of_a_report_is_what_its_file_holds():
    assert state_of(full_report()) == json.loads(full_report().to_json())
