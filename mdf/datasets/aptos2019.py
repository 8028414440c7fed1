"""APTOS 2019: `train.csv` (id_code, diagnosis), `train_images/`; the grade is ICDR, 0 to 4, of the photograph.

The grades of `test_images/` were never published: these photographs are left out, and how many is said. No patient
is known, though several photographs are of the same eye: look at what `validate` says of duplicates.
"""

from pathlib import Path

from mdf.datasets.common import image_files, read_rows, require_files, to_grade
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord
from mdf.vocabulary import from_grade

GUIDE = Guide(
    "aptos2019",
    "grades of diabetic retinopathy (ICDR 0-4)",
    "3,662 with grades, 1,928 without",
    "the competition's rules, see the release",
    "Asia Pacific Tele-Ophthalmology Society, APTOS 2019 Blindness Detection, Kaggle, 2019",
    "the Kaggle competition 'APTOS 2019 Blindness Detection'",
    "DIR/train.csv, DIR/train_images/000c1434d8d7.png, …",
)


def read(root: Path) -> list[FundusRecord]:
    """A record for each row. Raises UserError for another table, missing photographs or other grades."""
    rows = read_rows(root / "train.csv", "APTOS 2019", ("id_code", "diagnosis"))
    require_files(root, [f"train_images/{row['id_code']}.png" for row in rows])
    if (root / "test_images").is_dir():
        left_out = len(image_files(root / "test_images", "APTOS 2019"))
        print(f"note: APTOS 2019: {left_out} test photographs have no grade and are left out")
    return [to_record(row, f"train.csv line {line}") for line, row in enumerate(rows, 2)]


def to_record(row: dict[str, str], where: str) -> FundusRecord:
    grade = to_grade(row["diagnosis"], 4, where)
    if grade is None:
        raise UserError(f"{where}: the grade is missing")
    return FundusRecord(
        id=row["id_code"],
        image=f"train_images/{row['id_code']}.png",
        diagnosis=(from_grade("icdr", grade),),
        grade={"icdr": grade},
        source="aptos2019",
    )
