"""HRF: `images/01_dr.JPG`, `manual1/01_dr.tif` (vessels), `mask/01_dr_mask.tif` (field of view); suffix = label.

The release numbers photographs, not patients: the three `01` are of three people, so no patient is known.
"""

from pathlib import Path

from mdf.datasets.common import image_files, require_files
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord

GUIDE = Guide(
    "hrf",
    "healthy, diabetic retinopathy and glaucoma; masks of vessels and field of view",
    "45 (15 each)",
    "CC BY 4.0",
    "Budai et al., Robust Vessel Segmentation in Fundus Images, International Journal of Biomedical Imaging, 2013",
    "the High-Resolution Fundus image database of the pattern recognition lab in Erlangen",
    "DIR/images/01_dr.JPG, DIR/manual1/01_dr.tif, DIR/mask/01_dr_mask.tif, …",
)

DIAGNOSES = {"h": "normal", "dr": "diabetic_retinopathy", "g": "glaucoma"}


def read(root: Path) -> list[FundusRecord]:
    """Records of the release in `root`. Raises UserError for other file names or missing masks."""
    images = image_files(root / "images", "HRF")
    wrong = [f.name for f in images if f.stem.rpartition("_")[2] not in DIAGNOSES]
    if wrong:
        raise UserError(f"{root / 'images'}: {len(wrong)} names end in neither _h, _dr nor _g, the first is {wrong[0]}")
    records = [
        FundusRecord(
            id=file.stem,
            image=f"images/{file.name}",
            diagnosis=(DIAGNOSES[file.stem.rpartition("_")[2]],),
            masks={"vessel": f"manual1/{file.stem}.tif", "field": f"mask/{file.stem}_mask.tif"},
            camera="Canon CR-1",
            source="hrf",
            license="CC BY 4.0",
        )
        for file in images
    ]
    require_files(root, [path for r in records for path in r.masks.values()])
    return records
