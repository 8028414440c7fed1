"""ODIR-5K: `full_df.csv` with one photograph a row, `preprocessed_images/`.

The eight flag columns N D G C A H M O are for the patient, `labels` is for the photograph's eye: the diagnosis comes
from `labels`. That label was derived from the specialists' keywords, so these are a target, never input. What
is said of the other eye is kept in `extra`; its photograph is not always there.
"""

import ast
from pathlib import Path

from mdf.datasets.common import read_rows, require_files
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord

GUIDE = Guide(
    "odir5k",
    "both eyes of a person in eight classes, specialists' keywords, age, sex, patient",
    "about 7,000 of 3,500 people",
    "challenge data, for research",
    "Peking University International Competition on Ocular Disease Intelligent Recognition (ODIR), 2019",
    "the challenge's page, or the Kaggle set 'Ocular Disease Recognition' with the table by eye",
    "DIR/full_df.csv, DIR/preprocessed_images/0_left.jpg, …",
)

CLASSES = {
    "N": "normal",
    "D": "diabetic_retinopathy",
    "G": "glaucoma",
    "C": "cataract",
    "A": "amd",
    "H": "hypertensive_retinopathy",
    "M": "pathologic_myopia",
    "O": "other",
}
COLUMNS = (
    "ID",
    "Patient Age",
    "Patient Sex",
    "Left-Diagnostic Keywords",
    "Right-Diagnostic Keywords",
    "labels",
    "filename",
    *CLASSES,
)
SEXES = {"female": "female", "male": "male"}
FELLOWS = {"left": "Right", "right": "Left"}


def read(root: Path) -> list[FundusRecord]:
    """A record for each row of the table. Raises UserError for another layout or missing photographs."""
    rows = read_rows(root / "full_df.csv", "ODIR-5K", COLUMNS)
    require_files(root, [f"preprocessed_images/{row['filename']}" for row in rows])
    return [to_record(row, line) for line, row in enumerate(rows, 2)]


def to_record(row: dict[str, str], line: int) -> FundusRecord:
    stem = Path(row["filename"]).stem
    side = stem.rpartition("_")[2]
    if side not in ("left", "right"):
        raise UserError(f"full_df.csv line {line}: the file name {row['filename']!r} ends in neither _left nor _right")
    try:
        labels = [CLASSES[label] for label in ast.literal_eval(row["labels"])]
        age = float(row["Patient Age"]) if row["Patient Age"] else None
        sex = SEXES[row["Patient Sex"].lower()] if row["Patient Sex"] else None
    except (KeyError, TypeError, ValueError, SyntaxError):
        raise UserError(
            f"full_df.csv line {line}: labels must be a list of {', '.join(CLASSES)}, such as ['N'], Patient Age "
            f"years, and Patient Sex of {', '.join(SEXES)}"
        ) from None
    return FundusRecord(
        id=stem,
        image=f"preprocessed_images/{row['filename']}",
        patient=row["ID"],
        eye=side,
        diagnosis=tuple(labels),
        texts={"keywords": keywords(row[f"{side.capitalize()}-Diagnostic Keywords"])},
        age=age,
        sex=sex,
        source="odir5k",
        extra={
            "patient_flags": ",".join(c for c in CLASSES if row[c] == "1"),
            "fellow_keywords": keywords(row[f"{FELLOWS[side]}-Diagnostic Keywords"]),
        },
    )


def keywords(text: str) -> str:
    """The specialists' words with ordinary commas; the release separates them by full-width ones."""
    parts = (" ".join(part.split()) for part in text.replace("，", ",").split(","))
    return ", ".join(part for part in parts if part)
