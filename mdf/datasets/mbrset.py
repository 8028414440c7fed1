"""mBRSET: `labels_mbrset.csv`, `images/1.1.jpg`; photographs of a handheld camera, of people with diabetes.

Diabetic retinopathy (ICDR) and macular oedema alone were assessed, so that grade 0 is not "normal". Photographs whose
quality was too low have no grade. Sex is 0 for female and 1 for male; every other column stays in `extra`.
"""

from pathlib import Path

from mdf.datasets.brset import known
from mdf.datasets.common import read_rows, some, to_grade
from mdf.datasets.guide import Guide
from mdf.datasets.table import number
from mdf.errors import UserError
from mdf.records import FundusRecord
from mdf.vocabulary import from_grade

GUIDE = Guide(
    "mbrset",
    "grades of retinopathy (ICDR) and macular oedema of people with diabetes, from a handheld camera; quality, eye, "
    "age, sex, other diseases, education, insurance",
    "5,164 of 1,291 patients",
    "PhysioNet Credentialed Health Data License, see the release",
    "Wu et al., A portable retina fundus photos dataset for clinical, demographic, and diabetic retinopathy "
    "prediction, Scientific Data, 2025",
    "PhysioNet, 'mBRSET, a Mobile Brazilian Retinal Dataset', after training and agreement",
    "DIR/labels_mbrset.csv, DIR/images/1.1.jpg, …",
)

USED = ("file", "patient", "age", "sex", "laterality", "final_icdr")
COLUMNS = (*USED, "final_edema", "final_quality", "final_artifacts")
SEXES = {"0": "female", "1": "male", "female": "female", "male": "male"}
EYES = {"left": "left", "right": "right"}
CAMERA = "Phelcom Eyer"


def read(root: Path) -> list[FundusRecord]:
    """A record for each row whose photograph is there; the release's table names one that is not, which is said.

    Raises UserError for another table, or where more than one photograph in a hundred is missing.
    """
    rows = read_rows(root / "labels_mbrset.csv", "mBRSET", COLUMNS)
    numbered = list(enumerate(rows, 2))
    missing = [row["file"] for row in rows if not (root / "images" / row["file"]).is_file()]
    if len(missing) > max(1, len(rows) // 100):
        raise UserError(f"{len(missing)} of {len(rows)} photographs are missing in {root / 'images'}: {some(missing)}")
    if missing:
        print(f"note: mBRSET: {len(missing)} photographs of the table are missing and left out: {some(missing)}")
    gone = set(missing)
    return [to_record(row, f"labels_mbrset.csv line {line}") for line, row in numbered if row["file"] not in gone]


def to_record(row: dict[str, str], where: str) -> FundusRecord:
    icdr = to_grade(known(row["final_icdr"]), 4, where)
    names = [] if icdr is None else [from_grade("icdr", icdr)]
    if row["final_edema"].lower() == "yes":
        names.append(from_grade("brset", "final_edema"))
    try:
        age = float(row["age"]) if known(row["age"]) else None
    except ValueError:
        raise UserError(f"{where}: age {row['age']!r} must be years") from None
    return FundusRecord(
        id=row["file"].removesuffix(".jpg"),
        image=f"images/{row['file']}",
        patient=known(row["patient"]) or None,
        eye=EYES.get(row["laterality"].lower()),
        diagnosis=tuple(names) or None,
        grade={} if icdr is None else {"icdr": icdr},
        age=age,
        sex=SEXES.get(row["sex"].lower()),
        camera=CAMERA,
        source="mbrset",
        extra={c: number(v) for c, v in row.items() if c and c not in USED and known(v)},
    )
