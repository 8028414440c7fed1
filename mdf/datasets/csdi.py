"""CSDI: `CSDI_annotations.csv` with one photograph a row, `original_images/`.

The score from 0 to 10 is the label: `grade.csdi`, since the vocabulary's scale `cataract` has 0 to 3. The release names
no class: the diagnosis is cataract where the English description says the word, else it is not known. Boxes are written
in pixels of the original photograph, whose size the table gives; here they are scaled to the file. Names such as HAY1
and HAY2 are taken for one patient: the release does not say so, but if they are, they must not be torn apart. OD, OS,
left and right in a name are the eye.
"""

import re
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from mdf.datasets.common import read_rows, require_files
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord

GUIDE = Guide(
    "csdi",
    "a description in English and Chinese, severity of cataract from 0 to 10, boxes of fundus and disc",
    "187",
    "CC BY-NC 4.0 (README; its licence file says CC BY 4.0)",
    "A fine-grained fundus image dataset for cataract severity assessment and diagnosis, Scientific Data, 2026, "
    "doi 10.1038/s41597-026-06684-8",
    "Hugging Face, 'CSDI'",
    "DIR/CSDI_annotations.csv, DIR/original_images/cataract_001.png, …",
)

REGIONS = {"fundus": "fundus_region", "disc": "optic_disc"}
SIDES = ("x1", "y1", "x2", "y2")
BOXES = tuple(f"{region}_{side}" for region in REGIONS.values() for side in SIDES)
SIZE = ("original_image_width", "original_image_height")
COLUMNS = ("id", "score", "English_diagnosis", "Chinese_diagnosis", *SIZE, "optic_disc_clear", *BOXES)
INITIALS = re.compile(r"([A-Z]{2,3})(?:\d|-O[DS])")
EYES = {"OD": "right", "OS": "left", "left": "left", "right": "right"}


def read(root: Path) -> list[FundusRecord]:
    """A record for each row. Raises UserError for another table, missing photographs or boxes outside of them."""
    rows = read_rows(root / "CSDI_annotations.csv", "CSDI", COLUMNS)
    require_files(root, [f"original_images/{row['id']}" for row in rows])
    return [to_record(row, root, line) for line, row in enumerate(rows, 2)]


def to_record(row: dict[str, str], root: Path, line: int) -> FundusRecord:
    image = f"original_images/{row['id']}"
    stem = Path(row["id"]).stem
    try:
        score = float(row["score"])
        width, height = (int(row[side]) for side in SIZE)
        boxes = {
            ours: [int(row[f"{theirs}_{side}"]) for side in SIDES]
            for ours, theirs in REGIONS.items()
            if ours != "disc" or row["optic_disc_clear"] == "visible"
        }
    except ValueError:
        raise UserError(f"CSDI_annotations.csv line {line}: score, sizes and boxes must be numbers") from None
    for name, (left, top, right, bottom) in boxes.items():
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise UserError(
                f"CSDI_annotations.csv line {line}: the box of the {name} leaves the photograph of {width}x{height}"
            )
    if not 0 <= score <= 10:
        raise UserError(f"CSDI_annotations.csv line {line}: score {score:g} must be from 0 to 10")
    wide, high = file_size(root / image)
    scale = (wide / width, high / height) * 2
    initials = INITIALS.match(stem)
    side = next((word for word in re.split(r"[-_]", stem) if word in EYES), None)
    return FundusRecord(
        id=stem,
        image=image,
        patient=initials[1] if initials else None,
        eye=EYES[side] if side else None,
        diagnosis=("cataract",) if "cataract" in row["English_diagnosis"].lower() else None,
        texts={"en": row["English_diagnosis"], "zh": row["Chinese_diagnosis"]},
        boxes={name: [round(x * s, 2) for x, s in zip(box, scale, strict=True)] for name, box in boxes.items()},
        grade={"csdi": score},
        source="csdi",
        license="CC BY-NC 4.0",
        extra={"optic_disc_clear": row["optic_disc_clear"], "original_width": width, "original_height": height},
    )


def file_size(path: Path) -> tuple[int, int]:
    """Width and height from the file's header."""
    try:
        with Image.open(path) as image:
            return image.size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: the photograph cannot be read ({type(error).__name__}); download it again") from None
