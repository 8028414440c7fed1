"""CHASE_DB1: `Image_01L.jpg` with the vessels as two observers drew them, `Image_01L_1stHO.png` and `_2ndHO.png`.

The number is a child, L or R the eye. The first observer's mask is `vessel`, the second's `vessel_expert2`.
"""

import re
from pathlib import Path

from mdf.datasets.common import image_files, require_files
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord

GUIDE = Guide(
    "chase_db1",
    "both eyes of children, two observers' masks of vessels; no diagnosis",
    "28 of 14 children",
    "CC BY 4.0",
    "Fraz et al., An ensemble classification-based approach applied to retinal blood vessel segmentation, "
    "IEEE Trans. Biomedical Engineering, 2012",
    "the research data repository of Kingston University London",
    "DIR/Image_01L.jpg, DIR/Image_01L_1stHO.png, DIR/Image_01L_2ndHO.png, …",
)

NAME = re.compile(r"Image_(\d+)([LR])")
EYES = {"L": "left", "R": "right"}


def read(root: Path) -> list[FundusRecord]:
    """A record for each photograph. Raises UserError for other file names or missing masks."""
    files = [f for f in image_files(root, "CHASE_DB1") if not f.stem.endswith("HO")]
    records = [to_record(file, root) for file in files]
    require_files(root, [path for r in records for path in r.masks.values()])
    return records


def to_record(file: Path, root: Path) -> FundusRecord:
    match = NAME.fullmatch(file.stem)
    if match is None or file.parent != root:
        raise UserError(f"{root}: names such as Image_01L.jpg are expected, got {file.relative_to(root)}")
    child, side = match.groups()
    return FundusRecord(
        id=file.stem,
        image=file.name,
        patient=child,
        eye=EYES[side],
        masks={"vessel": f"{file.stem}_1stHO.png", "vessel_expert2": f"{file.stem}_2ndHO.png"},
        camera="Nidek NM-200-D",
        source="chase_db1",
        license="CC BY 4.0",
    )
