"""EyePACS (Kaggle 2015): `trainLabels.csv` (image, level), `train/10_left.jpeg`; the grade is ICDR, 0 to 4, of the eye.

The grades of `test/` were published after the competition as `retinopathy_solution.csv` (image, level, Usage): with
that file the release's split is kept, without it the test photographs are left out. The number is the patient.
"""

import re
from pathlib import Path

from mdf.datasets.common import read_rows, require_files, to_grade
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord
from mdf.vocabulary import from_grade

GUIDE = Guide(
    "eyepacs",
    "both eyes of a person, grades of diabetic retinopathy (ICDR 0-4)",
    "88,702 (35,126 train, 53,576 test)",
    "the competition's rules, see the release",
    "EyePACS and California Healthcare Foundation, Diabetic Retinopathy Detection, Kaggle, 2015",
    "the Kaggle competition 'Diabetic Retinopathy Detection'",
    "DIR/trainLabels.csv, DIR/train/10_left.jpeg, …, DIR/retinopathy_solution.csv, DIR/test/1_left.jpeg, …",
)

TABLES = {"train": "trainLabels.csv", "test": "retinopathy_solution.csv"}
NAME = re.compile(r"(\d+)_(left|right)")


def read(root: Path) -> list[FundusRecord]:
    """A record for each row. Raises UserError for other tables or names, missing photographs or other grades."""
    splits = ["train"]
    if (root / TABLES["test"]).is_file():
        splits.append("test")
    else:
        print(f"note: EyePACS: there is no {TABLES['test']}; without grades the photographs in test/ are left out")
    records = []
    for split in splits:
        rows = read_rows(root / TABLES[split], "EyePACS", ("image", "level"))
        require_files(root, [f"{split}/{row['image']}.jpeg" for row in rows])
        records += [
            to_record(row, split, split if len(splits) > 1 else None, f"{TABLES[split]} line {line}")
            for line, row in enumerate(rows, 2)
        ]
    return records


def to_record(row: dict[str, str], folder: str, split: str | None, where: str) -> FundusRecord:
    match = NAME.fullmatch(row["image"])
    grade = to_grade(row["level"], 4, where)
    if match is None or grade is None:
        raise UserError(f"{where}: expected a name such as 10_left and a grade, got {row['image']!r}, {row['level']!r}")
    return FundusRecord(
        id=row["image"],
        image=f"{folder}/{row['image']}.jpeg",
        patient=match[1],
        eye=match[2],
        diagnosis=(from_grade("icdr", grade),),
        grade={"icdr": grade},
        source="eyepacs",
        split=split,
        extra={"usage": row["Usage"]} if row.get("Usage") else {},
    )
