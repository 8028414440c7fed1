"""FIVES: `train/Original/1_A.png` with `train/Ground truth/1_A.png` (vessels), the same in `test/`; letter = label.

`Quality Assessment.xlsx` has a sheet for each folder. Its marks are kept as they stand: `quality_ic` (illumination and
colour), `quality_blur`, `quality_lc` (low contrast).
"""

from pathlib import Path

from mdf.datasets.common import image_files, require_files, to_grade
from mdf.datasets.guide import Guide
from mdf.datasets.spreadsheet import read_sheet
from mdf.errors import UserError
from mdf.records import FundusRecord

GUIDE = Guide(
    "fives",
    "normal, AMD, diabetic retinopathy and glaucoma; masks of vessels; marks of image quality",
    "800 (600 train, 200 test; 200 of each class)",
    "CC BY 4.0",
    "Jin et al., FIVES: A Fundus Image Dataset for Artificial Intelligence based Vessel Segmentation, "
    "Scientific Data, 2022",
    "figshare, 'FIVES: A Fundus Image Dataset for AI-based Vessel Segmentation'",
    "DIR/train/Original/1_A.png, DIR/train/Ground truth/1_A.png, …, DIR/test/…, DIR/Quality Assessment.xlsx",
)

DIAGNOSES = {"A": "amd", "D": "diabetic_retinopathy", "G": "glaucoma", "N": "normal"}
TABLE = "Quality Assessment.xlsx"
MARKS = ("IC", "Blur", "LC")


def read(root: Path) -> list[FundusRecord]:
    """Records of both folders. Raises UserError for other file names or missing masks; says what has no marks."""
    if not (root / TABLE).is_file():
        print(f"note: FIVES: there is no {TABLE}, so nothing is known of the quality")
    records = []
    for split in ("train", "test"):
        marks = read_marks(root, split)
        files = image_files(root / split / "Original", "FIVES")
        records += [to_record(file.name, split, marks.pop(file.stem, {}), root) for file in files]
        if marks:
            print(
                f"note: FIVES: {TABLE} marks {len(marks)} photographs that {split}/Original lacks, one is {min(marks)}"
            )
    require_files(root, [path for r in records for path in r.masks.values()])
    unmarked = sum(not r.extra for r in records)
    if unmarked and (root / TABLE).is_file():
        print(f"note: FIVES: {unmarked} photographs have no marks of quality")
    return records


def read_marks(root: Path, split: str) -> dict[str, dict[str, int | None]]:
    """Name of a photograph without ending -> its marks."""
    if not (root / TABLE).is_file():
        return {}
    rows = read_sheet(root / TABLE, "FIVES", ("Disease", "Number", *MARKS), sheet=split)
    return {
        f"{row['Number']}_{row['Disease'].upper()}": {
            f"quality_{m.lower()}": to_grade(row[m], 1, TABLE) for m in MARKS if row[m]
        }
        for row in rows
    }


def to_record(name: str, split: str, marks: dict[str, int | None], root: Path) -> FundusRecord:
    stem = Path(name).stem
    letter = stem.rpartition("_")[2]
    if letter not in DIAGNOSES:
        raise UserError(
            f"{root / split}: names such as 1_A.png are expected, the letter of {', '.join(DIAGNOSES)}; got {name}"
        )
    return FundusRecord(
        id=f"{split}/{stem}",
        image=f"{split}/Original/{name}",
        diagnosis=(DIAGNOSES[letter],),
        masks={"vessel": f"{split}/Ground truth/{name}"},
        camera="Topcon TRC-NW8",
        source="fives",
        split=split,
        license="CC BY 4.0",
        extra=dict(marks),
    )
