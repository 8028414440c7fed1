"""PAPILA: both eyes of a patient, two workbooks of clinical data, and two experts' outlines of disc and cup.

`FundusImages/RET002OD.jpg`, `ClinicalData/patient_data_od.xlsx` and `…_os.xlsx` (a line a patient, #002),
`ExpertsSegmentations/Contours/RET002OD_disc_exp1.txt` (a line `x y` a point). The masks of the record are these
outlines: `disc` and `cup` are the first expert's, `disc_expert2` and `cup_expert2` the second's.
"""

import re
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from mdf.datasets.common import require_files, some
from mdf.datasets.guide import Guide
from mdf.datasets.spreadsheet import read_cells
from mdf.errors import UserError
from mdf.records import FundusRecord
from mdf.vocabulary import from_grade

GUIDE = Guide(
    "papila",
    "both eyes: glaucoma, suspected or none; two experts' disc and cup; age, sex, refraction, pressure, eye length",
    "488 of 244 patients",
    "CC BY 4.0",
    "Kovalyk et al., PAPILA: Dataset with fundus images and clinical data of both eyes of the same patient for "
    "glaucoma assessment, Scientific Data, 2022",
    "figshare, 'PAPILA'",
    "DIR/FundusImages/RET002OD.jpg, DIR/ClinicalData/patient_data_od.xlsx, DIR/ClinicalData/patient_data_os.xlsx, "
    "DIR/ExpertsSegmentations/Contours/RET002OD_disc_exp1.txt, …",
)

EYES = {"OD": "right", "OS": "left"}
SEXES = {"0": "male", "1": "female"}
MASKS = {"disc": "disc_exp1", "cup": "cup_exp1", "disc_expert2": "disc_exp2", "cup_expert2": "cup_exp2"}
NEEDED = ("age", "gender", "diagnosis")


def read(root: Path) -> list[FundusRecord]:
    """A record for each eye of the workbooks. Raises UserError for another layout or missing photographs."""
    inner = [f.parent for f in sorted(root.glob("*/FundusImages"))]
    folder = root if (root / "FundusImages").is_dir() or not inner else inner[0]
    prefix = "" if folder == root else f"{folder.name}/"
    rows = {(row["id"], eye): row for eye in EYES for row in read_eye(folder, eye)}
    images = {(id_, eye): f"{prefix}FundusImages/RET{id_}{eye}.jpg" for id_, eye in rows}
    require_files(root, images.values())
    records = [to_record(root, prefix, id_, eye, images[id_, eye], row) for (id_, eye), row in sorted(rows.items())]
    without = [r.id for r in records if len(r.masks) < len(MASKS)]
    if without:
        print(f"note: PAPILA: {len(without)} photographs lack an outline of an expert: {some(without)}")
    return records


def to_record(root: Path, prefix: str, id_: str, eye: str, image: str, row: dict[str, str]) -> FundusRecord:
    where = f"PAPILA: patient_data_{eye.lower()}.xlsx, patient #{id_}"
    if row["diagnosis"] not in ("0", "1", "2") or row["gender"] not in (*SEXES, ""):
        raise UserError(f"{where}: Diagnosis must be 0, 1 or 2, and Gender 0 or 1")
    extra: dict[str, Any] = {}
    try:
        age = float(row["age"]) if row["age"] else None
        extra = {k: float(v) for k, v in row.items() if v and k not in ("id", *NEEDED)}
    except ValueError:
        raise UserError(f"{where}: the measures must be numbers") from None
    size = size_of(root / image)
    outlines = {name: f"{prefix}ExpertsSegmentations/Contours/RET{id_}{eye}_{end}.txt" for name, end in MASKS.items()}
    return FundusRecord(
        id=f"RET{id_}{eye}",
        image=image,
        patient=id_,
        eye=EYES[eye],
        diagnosis=(from_grade("papila", row["diagnosis"]),),
        masks={name: f"{path}#{size}" for name, path in outlines.items() if (root / path).is_file()},
        age=age,
        sex=SEXES.get(row["gender"]),
        source="papila",
        license="CC BY 4.0",
        extra=extra,
    )


def read_eye(folder: Path, eye: str) -> list[dict[str, str]]:
    """Rows of an eye's workbook as {name: text}; its names stand in up to three rows, the lowest word is taken."""
    workbook = folder / "ClinicalData" / f"patient_data_{eye.lower()}.xlsx"
    cells = next(iter(read_cells(workbook, "PAPILA").values()))
    patients = [row for row in cells if re.fullmatch(r"#\d+", row[0])]
    heads = [row for row in cells if not re.fullmatch(r"#\d+", row[0])]
    names = [next((h[c] for h in reversed(heads) if h[c]), "") for c in range(len(cells[0]) if cells else 0)]
    names = [re.sub(r"\W+", "_", name.lower()).strip("_") for name in names]
    lacking = [n for n in NEEDED if n not in names]
    if lacking or not patients:
        raise UserError(
            f"{workbook}: expected columns {', '.join(NEEDED)} and a row a patient, such as #002; "
            f"it has {', '.join(n for n in names if n) or 'none'} and {len(patients)} patients"
        )
    return [
        {"id": row[0][1:], **{n: text for n, text in zip(names[1:], row[1:], strict=True) if n}} for row in patients
    ]


def size_of(image: Path) -> str:
    """ "2576x1934", from the file's header. Raises UserError where it is no image."""
    try:
        with Image.open(image) as opened:
            return f"{opened.width}x{opened.height}"
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"photograph {image}: its size cannot be read ({error})") from None
