"""MESSIDOR-2: photographs in `IMAGES/`, pairs in `messidor-2.csv`, adjudicated grades in `messidor_data.csv`.

The release itself has photographs and pairs; the grades are a table of Google's (Krause et al. 2018): ICDR 0 to 4, and
`dme_referable`, 1 where hard exudates lie within a disc diameter of the fovea. A pair is both eyes of one examination.
Endings are written in another case in the tables than in the files, so names are compared without it.
"""

import re
from pathlib import Path

from mdf.datasets.common import SHOWN, decode, image_files, read_rows, to_grade
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord
from mdf.vocabulary import from_grade

GUIDE = Guide(
    "messidor2",
    "both eyes of an examination, adjudicated grades of diabetic retinopathy (ICDR 0-4) and referable macular oedema",
    "1,748 of 874 examinations, 4 of them ungradable",
    "for research on request, see the release; the table of grades has its own terms",
    "Decenciere et al., Feedback on a publicly distributed image database: the Messidor database, Image Analysis & "
    "Stereology, 2014; Abramoff et al., JAMA Ophthalmology, 2013; grades: Krause et al., Ophthalmology, 2018",
    "ADCIS (photographs and pairs), the Kaggle set 'messidor2-dr-grades' (grades)",
    "DIR/IMAGES/20051020_43808_0100_PP.png, …, DIR/messidor_data.csv, DIR/messidor-2.csv",
)

GRADES = ("image_id", "adjudicated_dr_grade", "adjudicated_dme", "adjudicated_gradable")
PAIRS = "messidor-2.csv"


def read(root: Path) -> list[FundusRecord]:
    """A record for each photograph. Raises UserError for other tables, or rows that name no photograph."""
    files = image_files(root / "IMAGES", "MESSIDOR-2")
    images = {f.name.lower(): f.relative_to(root).as_posix() for f in files}
    if len(images) < len(files):
        raise UserError(f"{root / 'IMAGES'}: names of photographs stand twice where capital letters do not count")
    rows = read_rows(root / "messidor_data.csv", "MESSIDOR-2", GRADES)
    grades = {row["image_id"].lower(): (row, f"messidor_data.csv line {line}") for line, row in enumerate(rows, 2)}
    absent = sorted(grades.keys() - images.keys())
    if absent:
        shown = ", ".join(absent[:SHOWN])
        raise UserError(
            f"{root / 'IMAGES'}: {len(absent)} of {len(rows)} photographs of messidor_data.csv are missing: {shown}"
        )
    if images.keys() - grades.keys():
        ungraded = len(images.keys() - grades.keys())
        print(f"note: MESSIDOR-2: {ungraded} photographs have no row in messidor_data.csv, so no grade")
    eyes = read_pairs(root / PAIRS, images)
    return [
        to_record(name, path, *grades.get(name, ({}, "")), *eyes.get(name, (None, None)))
        for name, path in images.items()
    ]


def read_pairs(table: Path, images: dict[str, str]) -> dict[str, tuple[str, str | None]]:
    """Photograph -> patient, eye. The eye is known where the table's first line says which column is left.

    Raises UserError where no line names two photographs.
    """
    if not table.is_file():
        print(f"note: MESSIDOR-2: there is no {table.name}; which two photographs are of one person is not known")
        return {}
    found: dict[str, tuple[str, str | None]] = {}
    sides: tuple[str | None, str | None] = (None, None)
    unknown = 0
    for line in decode(table).splitlines():
        cells = [cell.strip().strip('"').lower() for cell in re.split("[;,\t]", line)]
        if len(cells) < 2 or not all(cells[:2]):
            continue
        if "left" in cells[0] and "right" in cells[1]:
            sides = ("left", "right")
        elif "right" in cells[0] and "left" in cells[1]:
            sides = ("right", "left")
        elif all(cell in images for cell in cells[:2]):
            patient = Path(cells[0]).stem
            found.update({cell: (patient, side) for cell, side in zip(cells, sides, strict=False)})
        else:
            unknown += 1
    if not found:  # the eyes of a person would go to different splits
        raise UserError(
            f"{table}: none of its lines names two photographs of IMAGES, such as a.png;b.png; mend it, or take it out "
            "where pairs are not to be known"
        )
    if unknown or len(found) < len(images):
        alone = len(images) - len(found)
        print(f"note: MESSIDOR-2: {alone} photographs are in no pair; {unknown} lines name no two photographs")
    return found


def to_record(
    name: str, path: str, row: dict[str, str], where: str, patient: str | None, eye: str | None
) -> FundusRecord:
    grade = to_grade(row.get("adjudicated_dr_grade", ""), 4, where)
    oedema = to_grade(row.get("adjudicated_dme", ""), 1, where)
    gradable = to_grade(row.get("adjudicated_gradable", ""), 1, where)
    scales = {"icdr": grade, "dme_referable": oedema}
    return FundusRecord(
        id=Path(path).stem,
        image=path,
        patient=patient,
        eye=eye,
        diagnosis=None if grade is None else (from_grade("icdr", grade),),
        grade={scale: value for scale, value in scales.items() if value is not None},
        source="messidor2",
        extra={} if gradable is None else {"gradable": gradable},
    )
