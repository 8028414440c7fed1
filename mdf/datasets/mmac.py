"""MMAC 2023: grades of myopic maculopathy, masks of three lesions, spherical equivalent: three tasks, three sets.

`1. Classification of Myopic Maculopathy/{1. Images,2. Groundtruths}/…`, likewise `2. Segmentation …/1. Lacquer Cracks/`
and `3. Prediction of Spherical Equivalent/`. What is there is read. A mask is of its own lesion only: the others are
not known. The release says no patient, and the same eye may be in more than one task.
"""

from pathlib import Path
from typing import Any

from mdf.datasets.common import read_rows, require_files, to_grade
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord
from mdf.vocabulary import from_grade

GUIDE = Guide(
    "mmac",
    "grades of myopic maculopathy (META-PM 0-4); masks of lacquer cracks, choroidal neovascularisation and Fuchs "
    "spots; spherical equivalent; age, sex, height, weight where known; its own split into training and validation",
    "see the release; the three tasks have sets of their own",
    "for research, see the release",
    "Qian et al., A Competition for the Diagnosis of Myopic Maculopathy by Artificial Intelligence Algorithms, "
    "JAMA Ophthalmology, 2024",
    "the challenge MMAC 2023 (Myopic Maculopathy Analysis Challenge)",
    "DIR/1. Classification of Myopic Maculopathy/1. Images/1. Training Set/….png, DIR/1. …/2. Groundtruths/….csv, "
    "DIR/2. Segmentation of Myopic Maculopathy Plus Lesions/1. Lacquer Cracks/…, "
    "DIR/3. Prediction of Spherical Equivalent/…",
)

LESIONS = {"1": "lacquer_crack", "2": "myopic_neovascularisation", "3": "fuchs_spot"}  # by the folder's number
SPLITS = {"training": "train", "validation": "val"}
SEXES = {"female": "female", "f": "female", "male": "male", "m": "male"}
GRADE, EQUIVALENT = "myopic_maculopathy_grade", "spherical_equivalent"


def read(root: Path) -> list[FundusRecord]:
    """Records of the tasks whose folders are there. Raises UserError where none is, or files are missing."""
    tasks: list[tuple[Path, str | None]] = [(f, None) for n in ("1", "3") for f in numbered(root, n)]
    tasks += [(f, LESIONS[n]) for task in numbered(root, "2") for n in LESIONS for f in numbered(task, n)]
    tables = [(task, lesion, t) for task, lesion in tasks for t in sorted(task.glob("2*Groundtruths/*.csv"))]
    if not tables:
        raise UserError(f"MMAC: {root} holds no `1. Classification …/2. Groundtruths/….csv`, nor one of tasks 2 and 3")
    records = []
    for task, lesion, table in tables:
        split = next((s for word, s in SPLITS.items() if word in table.name.lower()), None)
        if split is None:
            raise UserError(f"{table}: the name says neither Training nor Validation")
        folder = only(task, "1", "1" if split == "train" else "2")
        rows = read_rows(table, "MMAC", ("image",))
        masks = only(task, "2", folder.name[0]) if lesion else None
        for line, row in enumerate(rows, 2):
            records.append(to_record(root, folder, masks, lesion, split, row, f"{table.name} line {line}"))
    require_files(root, [path for r in records for path in (r.image, *r.masks.values())])
    return records


def to_record(
    root: Path, folder: Path, masks: Path | None, lesion: str | None, split: str, row: dict[str, str], where: str
) -> FundusRecord:
    image = (folder / row["image"]).relative_to(root).as_posix()
    grade = to_grade(row.get(GRADE, ""), 4, where)
    try:
        age = float(row["age"]) if row.get("age") else None
        extra: dict[str, Any] = {k: float(row[k]) for k in (EQUIVALENT, "height", "weight") if row.get(k)}
    except ValueError:
        raise UserError(f"{where}: age, height, weight and spherical equivalent must be numbers") from None
    if row.get("data_center"):
        extra["data_center"] = row["data_center"]
    return FundusRecord(
        id=Path(row["image"]).stem if lesion is None else f"{Path(row['image']).stem}/{lesion}",
        image=image,
        diagnosis=None if grade is None else (from_grade("mmac", grade),),
        masks={} if masks is None or lesion is None else {lesion: (masks / row["image"]).relative_to(root).as_posix()},
        grade={} if grade is None else {"mmac": grade},
        age=age,
        sex=SEXES.get(row.get("sex", "").lower()),
        source="mmac",
        split=split,
        extra=extra,
    )


def numbered(folder: Path, number: str) -> list[Path]:
    """Sub-folders whose name starts with `number.`"""
    return [f for f in sorted(folder.glob(f"{number}.*")) if f.is_dir()]


def only(task: Path, *numbers: str) -> Path:
    """The folder that numbers lead to: `1. Images/2. Validation Set` for "1", "2". Raises UserError where none does."""
    folder = task
    for number in numbers:
        inside = numbered(folder, number)
        if not inside:
            raise UserError(f"MMAC: {folder} holds no folder named {number}. …")
        folder = inside[0]
    return folder
