"""DRIVE: `training/` and `test/` with `images/`, `1st_manual/` (vessels) and `mask/` (field of view).

The release says that 7 of the 40 photographs show signs of diabetic retinopathy but not which, so nothing is known
of the diagnosis. The copies of the challenge's page come without `1st_manual/` of the test photographs.
"""

from pathlib import Path

from mdf.datasets.common import image_files, require_files
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord

GUIDE = Guide(
    "drive",
    "masks of vessels (a second observer's for the test photographs) and field of view; no diagnosis",
    "40 (20 training, 20 test)",
    "for research, see the release",
    "Staal et al., Ridge-based vessel segmentation in color images of the retina, IEEE Trans. Medical Imaging, 2004",
    "the challenge DRIVE on grand-challenge.org",
    "DIR/training/images/21_training.tif, DIR/training/1st_manual/21_manual1.gif, DIR/training/mask/"
    "21_training_mask.gif, …, DIR/test/…",
)

SPLITS = {"training": "train", "test": "test"}
OBSERVERS = {"vessel": ("1st_manual", "manual1"), "vessel_expert2": ("2nd_manual", "manual2")}


def read(root: Path) -> list[FundusRecord]:
    """Records of both folders. Raises UserError for other file names or missing masks."""
    records = [to_record(root, folder, file.name) for folder in SPLITS for file in photographs(root, folder)]
    require_files(root, [path for r in records for path in r.masks.values()])
    without = sum("vessel" not in r.masks for r in records)
    if without:
        print(f"note: DRIVE: {without} photographs have no vessel mask in this copy")
    return records


def photographs(root: Path, folder: str) -> list[Path]:
    files = image_files(root / folder / "images", "DRIVE")
    wrong = [f.name for f in files if not f.stem.removesuffix(f"_{folder}").isdigit()]
    if wrong:
        raise UserError(f"{root / folder / 'images'}: names such as 21_{folder}.tif are expected, got {wrong[0]}")
    return files


def to_record(root: Path, folder: str, name: str) -> FundusRecord:
    stem = Path(name).stem
    number = stem.partition("_")[0]
    masks = {
        mask: f"{folder}/{observer}/{number}_{ending}.gif"
        for mask, (observer, ending) in OBSERVERS.items()
        if (root / folder / observer).is_dir()
    }
    return FundusRecord(
        id=stem,
        image=f"{folder}/images/{name}",
        masks=masks | {"field": f"{folder}/mask/{stem}_mask.gif"},
        camera="Canon CR5",
        source="drive",
        split=SPLITS[folder],
    )
