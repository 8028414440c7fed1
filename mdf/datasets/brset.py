"""BRSET: `label_brset.csv` (before 1.0.2 `labels_brset.csv`, at first `labels.csv`), `fundus_photos/img00001.jpg`.

Thirteen flags are assessed on every photograph. Those that are set become the diagnosis; all of them, and every other
column, stay in `extra`, so that what was assessed and not found can be told. A photograph with no flag, retinopathy
grade 0 and neither disc, vessels nor macula marked abnormal is normal. `hemorrhage` is the release's haemorrhage that
is not diabetic: no findings are recorded, since absent ones of diabetic eyes were not noted.
"""

from pathlib import Path

from mdf.datasets.common import read_rows, require_columns, require_files, some, to_grade
from mdf.datasets.guide import Guide
from mdf.datasets.table import number
from mdf.records import FundusRecord
from mdf.vocabulary import from_grade

GUIDE = Guide(
    "brset",
    "grades of retinopathy (ICDR, SDRG), thirteen diseases and signs, quality marks, camera, age, sex, both eyes, "
    "diabetes",
    "16,266 of 8,524 patients",
    "PhysioNet Credentialed Health Data License, see the release",
    "Nakayama et al., BRSET: A Brazilian Multilabel Ophthalmological Dataset of Retina Fundus Photos, "
    "PLOS Digital Health, 2024",
    "PhysioNet, 'A Brazilian Multilabel Ophthalmological Dataset (BRSET)', after training and agreement",
    "DIR/label_brset.csv (before 1.0.2 labels_brset.csv or labels.csv), DIR/fundus_photos/img00001.jpg, …",
)

# beside diabetic_retinopathy; what each is called here stands in mdf/data/grades.yaml
FLAGS = (
    "macular_edema", "scar", "nevus", "amd", "vascular_occlusion", "hypertensive_retinopathy", "drusens", "hemorrhage",
    "retinal_detachment", "myopic_fundus", "increased_cup_disc", "other",
)  # fmt: skip
RETINOPATHY = "diabetic_retinopathy"
ANATOMY = ("optic_disc", "vessels", "macula")
EYES = {"1": "right", "2": "left"}
SEXES = {"1": "male", "2": "female"}
USED = ("image_id", "patient_id", "camera", "patient_age", "patient_sex", "exam_eye", "DR_ICDR", "DR_SDRG")
COLUMNS = (*USED, RETINOPATHY, *FLAGS, *ANATOMY)
TABLES = ("label_brset.csv", "labels_brset.csv", "labels.csv")  # of 1.0.2 and of the releases before it
MISSING = ("", "na", "nan")


def read(root: Path) -> list[FundusRecord]:
    """A record for each row. Raises UserError for another table, missing photographs or grades that are none."""
    table = next((t for n in TABLES if (t := root / n).is_file()), root / TABLES[0])
    rows = read_rows(table, "BRSET")
    if current := "drusen" in rows[0]:  # so named since 1.0.2
        rows = [{"drusens" if c == "drusen" else c: cell for c, cell in row.items()} for row in rows]
    require_columns(table, rows[0], COLUMNS)
    if not current:
        print(
            "note: BRSET: this table is older than release 1.0.2, whose notes say that exam_eye was reviewed; take "
            "that release, or compare the eyes with what `prepare.py check` tells"
        )
    require_files(root, [image_of(row) for row in rows])
    wrong = [line for line, row in enumerate(rows, 2) if any(row[c] not in ("0", "1") for c in (RETINOPATHY, *FLAGS))]
    if wrong:
        print(f"note: BRSET: {len(wrong)} rows have flags other than 0 and 1, which are not known: rows {some(wrong)}")
    odd = [row["patient_age"] for row in rows if row["patient_age"].lower() not in MISSING and to_age(row) is None]
    if odd:
        print(f"note: BRSET: {len(odd)} ages are no years from 0 to 130 and count as unknown: {some(odd)}")
    return [to_record(row, f"{table.name} line {line}") for line, row in enumerate(rows, 2)]


def to_record(row: dict[str, str], where: str) -> FundusRecord:
    icdr, sdrg = (to_grade(known(row[c]), 4, where) for c in ("DR_ICDR", "DR_SDRG"))
    names = [from_grade("brset", flag) for flag in FLAGS if row[flag] == "1"]
    if row[RETINOPATHY] == "1" or icdr:
        names.insert(0, from_grade("icdr", icdr) if icdr else RETINOPATHY)
    nothing = icdr == 0 and all(row[c] == "0" for c in (RETINOPATHY, *FLAGS))
    normal = nothing and not any(row[c] == "2" for c in ANATOMY)
    grades = {"icdr": icdr, "sdrg": sdrg}
    return FundusRecord(
        id=row["image_id"],
        image=image_of(row),
        patient=known(row["patient_id"]) or None,
        eye=EYES.get(row["exam_eye"]),
        diagnosis=("normal",) if normal else tuple(names) or None,
        grade={scale: grade for scale, grade in grades.items() if grade is not None},
        age=to_age(row),
        sex=SEXES.get(row["patient_sex"]),
        camera=known(row["camera"]) or None,
        source="brset",
        extra={c.lower(): number(v) for c, v in row.items() if c and c not in USED and known(v)},
    )


def image_of(row: dict[str, str]) -> str:
    name = row["image_id"]
    return f"fundus_photos/{name}" if name.lower().endswith(".jpg") else f"fundus_photos/{name}.jpg"


def known(cell: str) -> str:
    """The cell, empty where it says that nothing is known."""
    return "" if cell.lower() in MISSING else cell


def to_age(row: dict[str, str]) -> float | None:
    """Years; some are written with a decimal comma."""
    try:
        age = float(row["patient_age"].replace(",", "."))
    except ValueError:
        return None
    return age if 0 <= age <= 130 else None
