"""DeepDRiD: two photographs of either eye of a person (`regular_fundus_images/`), and ultra-widefield ones beside them.

The grade of the photograph's eye is `grade.icdr`, that of the person `extra.patient_icdr`; a grade of 5 says that the
photograph cannot be graded. Quality is kept as released: overall 0 or 1, clarity, field and artifact on their scales
of 0 to 10. Ultra-widefield photographs have the modality `uwf`; their patients are other people, numbered anew.
Where the name says one eye and the table the other (56_r3, 56_l3), the eye is not known.
"""

from pathlib import Path
from typing import Any

from mdf.datasets.common import read_rows, require_files, require_folder, to_grade
from mdf.datasets.guide import Guide
from mdf.datasets.spreadsheet import read_sheet
from mdf.errors import UserError
from mdf.records import FundusRecord
from mdf.vocabulary import from_grade

GUIDE = Guide(
    "deepdrid",
    "grades of diabetic retinopathy (ICDR 0-4) of eye and person, marks of image quality, patient, eye",
    "2,000 of 500 people (1,200 training, 400 validation, 400 test), and 256 ultra-widefield ones of 128 people",
    "see the release",
    "Liu et al., DeepDRiD: Diabetic Retinopathy Grading and Image Quality Estimation Challenge, Patterns, 2022",
    "GitHub, deepdrdoc/DeepDRiD",
    "DIR/regular_fundus_images/regular-fundus-training/Images/1/1_l1.jpg, …/regular-fundus-training.csv, …, "
    "DIR/ultra-widefield_images/…",
)

REGULAR, WIDE = "regular_fundus_images", "ultra-widefield_images"
FOLDERS = {"training": "train", "validation": "val"}
QUALITY = {
    "Overall quality": "quality_overall",
    "Clarity": "quality_clarity",
    "Field definition": "quality_field",
    "Artifact": "quality_artifact",
}
EYES = {"l": "left", "r": "right"}
Row = dict[str, str]


def read(root: Path) -> list[FundusRecord]:
    """A record for each row of the tables. Raises UserError for other tables, missing photographs or other grades."""
    require_folder(root / REGULAR, "DeepDRiD")
    records = read_regular(root)
    if (root / WIDE).is_dir():
        wide = read_wide(root)
        print(f"note: DeepDRiD: {len(wide)} of the photographs are ultra-widefield ones (modality uwf)")
        records += wide
    require_files(root, [r.image for r in records])
    return records


def read_regular(root: Path) -> list[FundusRecord]:
    records = []
    for name, split in FOLDERS.items():
        folder = f"{REGULAR}/regular-fundus-{name}"
        rows = read_rows(
            root / folder / f"regular-fundus-{name}.csv", "DeepDRiD",
            ("patient_id", "image_id", "left_eye_DR_Level", "right_eye_DR_Level", "patient_DR_Level", *QUALITY),
        )  # fmt: skip
        sources = root / folder / f"regular-fundus-source-{name}.csv"
        projects = {}
        if sources.is_file():
            projects = {r["image_id"]: r["Source"] for r in read_rows(sources, "DeepDRiD", ("image_id", "Source"))}
        for row in rows:
            filled = [side for side in EYES.values() if row[f"{side}_eye_DR_Level"]]
            if len(filled) != 1:
                raise UserError(f"{folder}: {row['image_id']} must have the grade of one eye, it has {len(filled)}")
            marks = {
                "patient_icdr": whole(row["patient_DR_Level"], folder),
                "project": projects.get(row["image_id"]),
                **{ours: whole(row[theirs], folder) for theirs, ours in QUALITY.items()},
            }
            records.append(
                to_record(folder, row["image_id"], row[f"{filled[0]}_eye_DR_Level"], split, marks, filled[0])
            )
    return records + read_evaluation(root)


def read_evaluation(root: Path) -> list[FundusRecord]:
    """The test photographs of the first two challenges: grades and quality are in two workbooks."""
    folder = f"{REGULAR}/Online-Challenge1&2-Evaluation"
    if not (root / folder).is_dir():
        print(f"note: DeepDRiD: there is no {folder}, so no test photographs")
        return []
    grades = read_sheet(root / folder / "Challenge1_labels.xlsx", "DeepDRiD", ("image_id", "DR_Levels"))
    quality = read_sheet(root / folder / "Challenge2_labels.xlsx", "DeepDRiD", ("image_id", *QUALITY))
    marks = {r["image_id"]: {ours: whole(r[theirs], folder) for theirs, ours in QUALITY.items()} for r in quality}
    return [to_record(folder, r["image_id"], r["DR_Levels"], "test", marks.get(r["image_id"], {})) for r in grades]


def read_wide(root: Path) -> list[FundusRecord]:
    records = []
    for name, split in FOLDERS.items():
        folder = f"{WIDE}/ultra-widefield-{name}"
        rows = read_rows(
            root / folder / f"ultra-widefield-{name}.csv",
            "DeepDRiD",
            ("patient_id", "image_id", "DR_level", "position"),
        )
        records += [
            to_record(folder, r["image_id"], r["DR_level"], split, {}, r["position"].removesuffix("_eye")) for r in rows
        ]
    folder = f"{WIDE}/Online-Challenge3-Evaluation"
    if (root / folder).is_dir():
        rows = read_sheet(root / folder / "Challenge3_labels.xlsx", "DeepDRiD", ("image_id", "UWF_DR_Levels"))
        records += [to_record(folder, r["image_id"], r["UWF_DR_Levels"], "test", {}) for r in rows]
    return records


def to_record(
    folder: str, name: str, cell: str, split: str, marks: dict[str, Any], side: str | None = None
) -> FundusRecord:
    """`side` is the eye that the table says, None where it says none."""
    patient, _, view = name.partition("_")
    eye = EYES.get(view[:1])
    if eye is None or not patient.isdigit():
        raise UserError(f"{folder}: names such as 1_l1 are expected, got {name}")
    wide = folder.startswith(WIDE)
    grade = to_grade(cell, 5, f"{folder}: {name}")
    graded = grade is not None and grade < 5
    extra = {key: value for key, value in marks.items() if value is not None}
    return FundusRecord(
        id=f"uwf/{name}" if wide else name,
        image=f"{folder}/Images/{patient}/{name}.jpg",
        patient=f"uwf/{patient}" if wide else patient,
        eye=eye if side in (None, eye) else None,
        modality="uwf" if wide else "cfp",
        diagnosis=(from_grade("icdr", grade),) if grade is not None and graded else None,
        grade={"icdr": grade} if graded else {},
        source="deepdrid",
        split=split,
        extra=extra | ({"gradable": 0} if grade == 5 else {}),
    )


def whole(cell: str, where: str) -> int | None:
    return to_grade(cell, 10, where)
