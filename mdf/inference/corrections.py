"""Reviews as training records: only what a clinician confirmed or changed, with who did so, when, and on which draft.

What nobody confirmed stays out. Findings are a whole: a record that lists some says that there are no others, so they
are exported only where each of them was confirmed, changed or added.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mdf.errors import UserError
from mdf.files import sha256
from mdf.inference.edits import EDITABLE, get, pattern
from mdf.inference.report import EyeReport, Origin, Report, read_report
from mdf.inference.review import REVIEW, State, read_chain
from mdf.inference.wording import scale_of
from mdf.records import Finding, FundusRecord, leaves_root, write_manifest
from mdf.vocabulary import canonical, known, scales, written


def export_reviews(folder: str | Path, out: str | Path, photographs: str | Path | None = None) -> list[FundusRecord]:
    """Write the reviewed eyes of every draft in `folder` and below it as a manifest and return its records.

    Args:
        out: the manifest, ending in .jsonl.
        photographs: folder of the photographs; each must be there or below, with the bytes that the draft was made of.
            None: the manifest's root is `folder` and nothing is looked up.

    Raises UserError for a chain that was altered and where nothing was reviewed; nothing is written then.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the one that the drafts were written to")
    drafts = drafts_of(folder)
    records = [record for draft in drafts for record in records_of(read_chain(draft))]
    if not drafts:
        raise UserError(f"{folder}: no review in it confirms or changes anything; nothing was exported")
    if not records:
        raise UserError(
            f"{folder}: its reviews confirm or change nothing that makes a training record; nothing was exported. "
            "Findings make one where each that is listed was ticked or changed; those that were entered where none "
            "were assessed have to be ticked in a further review, since a list says that there are no others"
        )
    if photographs is not None:
        records = with_photographs(records, Path(photographs))
    write_manifest(out, records, root=photographs or folder, dataset="reviews")
    return records


def drafts_of(folder: Path) -> list[Path]:
    """The drafts in a folder and below it that have a review beside them."""
    reviews = ((path, REVIEW.fullmatch(path.name)) for path in folder.rglob("*.review-*.json"))
    drafts = sorted({path.with_name(f"{match['draft']}.json") for path, match in reviews if match})
    if missing := [draft for draft in drafts if not draft.is_file()]:
        raise UserError(f"{missing[0]}: the draft of a review is missing; put it back")
    return drafts


def records_of(states: Sequence[State]) -> list[FundusRecord]:
    """A record for each eye of which something was confirmed or changed, from a chain of states."""
    report = read_report(json.dumps(states[-1].values), "the review")
    return [record for i, eye in enumerate(report.eyes) if (record := record_of(report, eye, checked(report, i)))]


def checked(report: Report, number: int) -> set[str]:
    """The statements of an eye that a person confirmed, or made their own by a change.

    What a change brought with it elsewhere is in the list of changes too, and is nobody's statement.
    """
    here = f"eyes.{number}."
    state = report.model_dump(mode="json")
    found = set()
    for review in report.reviews:
        found |= {path for path in review.confirmed if path.startswith(here)}
        for path in (change.path for change in review.changes if change.path.startswith(here)):
            statement = path if pattern(path) in EDITABLE else path.rpartition(".")[0]
            if pattern(statement) in EDITABLE and get(state, statement).get("origin", "user") == Origin.USER:
                found |= {path, statement}
    return {path.removeprefix(here) for path in found}


def record_of(report: Report, eye: EyeReport, seen: set[str]) -> FundusRecord | None:
    """What is known of one eye by its reviewers; None where they said nothing of it."""
    side = eye.laterality.eye if eye.laterality.origin == Origin.USER or "laterality" in seen else None
    said = eye.impression
    # a text of the reviewer's own names no diagnosis
    sure = said and ("impression.diagnosis" in seen or ("impression" in seen and "impression.text" not in seen))
    diagnosis = (said.diagnosis,) if said and sure and said.diagnosis and known(said.diagnosis) else None
    findings, grade, texts = findings_of(eye, seen), grades_of(eye, seen), texts_of(eye, seen)
    gradable = {"gradable": eye.gradability.value} if "gradability" in seen else {}
    if diagnosis is None and findings is None and not grade and not texts and not gradable:
        return None
    last, name = report.reviews[-1], eye.photograph.name
    if leaves_root(name):
        raise UserError(f"report {report.id}: the name of its photograph, {name!r}, is no file name")
    return FundusRecord(
        id=f"{report.id}-{eye.laterality.eye or 'eye'}",
        image=name,
        patient=report.patient,
        eye=side,
        diagnosis=diagnosis,
        findings=findings,
        texts=texts,
        grade=grade,
        source="reviews",
        extra={
            "reviewer": "; ".join(dict.fromkeys(review.reviewer for review in report.reviews)),
            "signed": last.signed.isoformat(),
            "review": last.version,
            "report": report.id,
            "checkpoint": report.software.checkpoint,
            "checkpoint_fingerprint": report.software.fingerprint,
            "photograph_sha256": eye.photograph.sha256,
            **gradable,
        },
    )


def findings_of(eye: EyeReport, seen: set[str]) -> tuple[Finding, ...] | None:
    lesions = eye.lesions
    if not lesions or not all(f"lesions.{i}" in seen for i in range(len(lesions))):
        return None
    if any(lesion.present is None or not known(lesion.kind) for lesion in lesions):
        return None
    return tuple(
        Finding(canonical(lesion.kind), location=", ".join(lesion.zones or ()) or None, count=lesion.count)
        for lesion in lesions
        if lesion.present
    )


def grades_of(eye: EyeReport, seen: set[str]) -> dict[str, str]:
    """Grades by the records' names of their scales; a value that the scale does not have stays out."""
    grades = {}
    for i, grade in enumerate(eye.grades):
        scale = scale_of(grade.scale)
        if grade.value is None or f"grades.{i}" not in seen:
            continue
        if scale not in scales() or written(grade.value) in scales()[scale].values:
            grades[scale] = grade.value
    return grades


def texts_of(eye: EyeReport, seen: set[str]) -> dict[str, str]:
    """The texts of impression and recommendation that were confirmed or written by the reviewer."""
    parts = {"impression": eye.impression, "recommendation": eye.referral}
    places = {"impression": "impression", "recommendation": "referral"}
    return {name: part.text for name, part in parts.items() if part and part.text and places[name] in seen}


def with_photographs(records: Sequence[FundusRecord], folder: Path) -> list[FundusRecord]:
    """The records with their photographs' paths in `folder`; a report keeps the file's name and its SHA-256 alone.

    Raises UserError where a photograph is missing or is another than the one that was reviewed.
    """
    named = defaultdict(list)
    wanted = {record.image for record in records}
    for path in sorted(folder.rglob("*")):
        if path.name in wanted and path.is_file():
            named[path.name].append(path)
    found = []
    for record in records:
        path, report = folder / record.image, record.extra["report"]
        if not named[record.image]:
            raise UserError(f"{path}: the photograph of report {report} is missing, there and in every folder below")
        own = [p for p in named[record.image] if sha256(p) == record.extra["photograph_sha256"]]
        if not own:
            raise UserError(f"{named[record.image][0]} is another photograph than the one of report {report}")
        found.append(replace(record, image=own[0].relative_to(folder).as_posix()))
    return found
