"""A folder of DICOM files of an eye camera. The extra `dicom` reads them: pip install 'mdf-mllm[dicom]'.

De-identified on the way in: patient and visit are pseudonyms (`mdf/pseudonyms.py`), dates become an age, and nothing
else that names a person is read. What mdf cannot take away it says: text burnt into pictures, names in file paths.
"""

import sys
from collections import Counter
from pathlib import Path

from mdf.datasets.common import SHOWN, require_folder
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.imaging.burned_in import text_outside_field
from mdf.imaging.decode import is_dicom, load_image
from mdf.imaging.dicom_header import DicomHeader, read_header
from mdf.pseudonyms import read_salt
from mdf.records import FundusRecord

GUIDE = Guide(
    "dicom",
    "photographs of an eye camera or picture archive: pseudonyms of patient and visit, eye, age, sex, camera",
    "any",
    "yours",
    "none needed",
    "an export of your picture archive; needs pip install 'mdf-mllm[dicom]'",
    "DIR/**/*, whatever the names; ophthalmic photography, photographs, secondary captures, one frame a file",
)

EVERY = 200  # files between two lines of progress


def read(root: Path) -> list[FundusRecord]:
    """A record for every photograph among the DICOM files below `root`; other files are counted aloud.

    Raises UserError that lists files which cannot be read, hold several frames, or are the same photograph twice.
    """
    require_folder(root, "DICOM")
    salt = read_salt()
    files = dicom_files(root)
    records: list[FundusRecord] = []
    headers: list[DicomHeader] = []
    problems: list[str] = []
    left_out: Counter[str] = Counter()
    seen: dict[str, str] = {}
    for number, file in enumerate(files, 1):
        relative = file.relative_to(root).as_posix()
        try:
            header = read_header(file, salt, relative)
            if header.kind is None:
                left_out[header.modality or "no modality"] += 1
                continue
            if header.id in seen:
                raise UserError(f"{relative} is the photograph of {seen[header.id]} again; remove one of them")
            seen[header.id] = relative
            records.append(to_record(header, relative, text_outside_field(load_image(file))))
            headers.append(header)
        except UserError as error:
            problems.append(str(error))
        if number % EVERY == 0:
            print(f"read {number}/{len(files)} DICOM files", file=sys.stderr)
    if left_out:
        kinds = ", ".join(f"{kind} {count}" for kind, count in left_out.most_common())
        print(f"note: {left_out.total()} DICOM files below {root} are no photographs (modality: {kinds})")
    if problems:
        more = [f"  … and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        lines = "\n".join([f"  {problem}" for problem in problems[:SHOWN]] + more)
        raise UserError(f"DICOM: {len(problems)} of {len(files)} files cannot be taken:\n{lines}")
    if not records:
        raise UserError(f"DICOM: {root} holds no photograph")
    for note in notes(headers, records):
        print(f"note: {note}")
    return records


def dicom_files(root: Path) -> list[Path]:
    """DICOM files below `root` by their content, sorted; hidden ones are left out, other files are counted aloud."""
    found, others = [], 0
    for file in sorted(f for f in root.rglob("*") if f.is_file()):
        if any(part.startswith(".") for part in file.relative_to(root).parts):
            continue
        try:
            with file.open("rb") as stream:
                dicom = is_dicom(stream)
        except OSError as error:
            raise UserError(f"DICOM: {file} cannot be read ({error.strerror})") from None
        if dicom:
            found.append(file)
        else:
            others += 1
    if others:
        print(f"note: {others} files below {root} are no DICOM files")
    return found


def to_record(header: DicomHeader, relative: str, text: bool | None) -> FundusRecord:
    return FundusRecord(
        id=header.id,
        image=relative,
        patient=header.patient,
        study=header.study,
        eye=header.eye,
        modality="cfp" if header.colour else "monochrome",
        age=header.age,
        sex=header.sex,
        camera=header.camera,
        source="dicom",
        extra={
            "kind": header.kind,
            "burned_in_annotation": header.burned_in or "not said",
            "text_outside_field": {True: "seen", False: "not seen", None: "no dark surround"}[text],
        },
    )


def notes(headers: list[DicomHeader], records: list[FundusRecord]) -> list[str]:
    """What the user has to know about privacy and about what is missing."""
    total = len(records)

    def ids(chosen: list[FundusRecord]) -> str:
        return ", ".join(r.id for r in chosen[:SHOWN]) + (", …" if len(chosen) > SHOWN else "")

    said = ["file paths are kept as they are; a name or number in one reaches the manifest and messages"]
    if named := sum(h.in_path for h in headers):
        said.append(
            f"WARNING: {named} of {total} paths hold a patient's name, number, date of birth or a UID of the header; "
            "rename the files before the manifest leaves your hands"
        )
    if tagged := [r for r, h in zip(records, headers, strict=True) if h.burned_in == "yes"]:
        said.append(f"WARNING: {len(tagged)} of {total} are marked as having burnt-in annotation: {ids(tagged)}")
    if seen := [r for r in records if r.extra["text_outside_field"] == "seen"]:
        said.append(f"WARNING: {len(seen)} of {total} seem to have text beside the field of view: {ids(seen)}")
    if captures := sum(h.kind == "secondary capture" for h in headers):
        said.append(f"{captures} of {total} are secondary captures: look whether they are photographs or screen shots")
    if grey := sum(not h.colour for h in headers):
        said.append(f"{grey} of {total} are monochrome (modality: monochrome): red-free, infrared or angiography")
    if conflict := sum(h.eye_conflict for h in headers):
        said.append(f"{conflict} of {total} name both eyes or contradict themselves; their eye is not known")
    return said
