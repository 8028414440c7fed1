"""REFUGE: glaucoma labels, fovea, and one mask file for cup and disc (0 cup, 128 rim, 255 outside).

Two layouts are about. The challenge's archives have `Training400/Glaucoma/g0001.jpg` with masks and tables in folders
of their own; the set that Kaggle holds has `train/Images/g0001.jpg`, `train/gts/g0001.bmp` and `train/index.json`. In
both a file's name says what it is: g and n are the training's glaucoma and the rest, V is validation, T is test.
"""

import json
import re
from pathlib import Path
from typing import Any

from mdf.datasets.common import decode, image_files, some
from mdf.datasets.guide import Guide
from mdf.datasets.spreadsheet import read_sheet
from mdf.errors import UserError
from mdf.records import FundusRecord
from mdf.vocabulary import from_grade

GUIDE = Guide(
    "refuge",
    "glaucoma or not; masks of disc and cup; the fovea's place; its own split",
    "1,200 (400 for training, validation and test each; one in ten has glaucoma)",
    "challenge data, for research, see the release",
    "Orlando et al., REFUGE Challenge: A unified framework for evaluating automated methods for glaucoma assessment "
    "from fundus photographs, Medical Image Analysis 59, 2020",
    "the REFUGE challenge's page, or the Kaggle set 'Glaucoma Datasets'",
    "the unpacked archives in DIR (Training400, Annotation-Training400, REFUGE-Validation400, REFUGE-Validation400-GT, "
    "Test400, REFUGE-Test-GT), or DIR/train/index.json, DIR/train/Images/g0001.jpg, DIR/train/gts/g0001.bmp, DIR/val/…",
)

NAME = re.compile(r"[gnVT]\d{4}")
SPLITS = {"g": "train", "n": "train", "V": "val", "T": "test"}
# the challenge used one camera for training and another for the rest
CAMERAS = {"train": "Zeiss Visucam 500", "val": "Canon CR-2", "test": "Canon CR-2"}
# copies of the same photographs, cut out, squared or drawn upon
COPIES = ("images_cropped", "images_square", "masks", "masks_cropped", "masks_square", "illustrations")
LABELS = ("Label", "Glaucoma Label", "Label(Glaucoma=1)")
PARTS = {"disc": "#0-128", "cup": "#0"}


def read(root: Path) -> list[FundusRecord]:
    """A record for each photograph, with what the tables and masks that are there say of it.

    Raises UserError where no photograph or no mask is named as the release names them, or a name stands twice.
    """
    images = named(root, [f for f in image_files(root, "REFUGE") if f.suffix.lower() == ".jpg"])
    if not images:
        raise UserError(f"REFUGE: {root} holds no photograph named like g0001.jpg, V0001.jpg or T0001.jpg")
    masks = named(root, sorted(root.rglob("*.bmp")))
    if not masks:
        raise UserError(f"REFUGE: {root} holds no mask such as g0001.bmp; unpack the archives with the annotations too")
    table = read_tables(root)
    without = [stem for stem in images if stem not in masks]
    if without:
        print(f"note: REFUGE: {len(without)} photographs have no mask: {some(without)}")
    return [to_record(stem, image, masks.get(stem), table.get(stem, {})) for stem, image in sorted(images.items())]


def to_record(stem: str, image: str, mask: str | None, row: dict[str, str]) -> FundusRecord:
    label = {"g": "1", "n": "0"}.get(stem[0]) or next((row[c] for c in LABELS if row.get(c)), None)
    split = SPLITS[stem[0]]
    try:
        fovea = [float(row[c]) for c in ("Fovea_X", "Fovea_Y") if row.get(c)]
    except ValueError:
        raise UserError(f"REFUGE: {stem}: Fovea_X and Fovea_Y must be numbers") from None
    return FundusRecord(
        id=stem,
        image=image,
        diagnosis=None if label is None else (from_grade("glaucoma", label),),
        masks={} if mask is None else {name: mask + part for name, part in PARTS.items()},
        points={"fovea": fovea} if len(fovea) == 2 else {},
        camera=CAMERAS[split],
        source="refuge",
        split=split,
    )


def named(root: Path, files: list[Path]) -> dict[str, str]:
    """Path below `root` by stem, of the files that are named as the release names them and are no copies."""
    found: dict[str, str] = {}
    for file in files:
        path = file.relative_to(root)
        if not NAME.fullmatch(file.stem) or any(part.lower() in COPIES for part in path.parts):
            continue
        if file.stem in found:
            raise UserError(f"REFUGE: {found[file.stem]} and {path.as_posix()} have the same name; keep one of them")
        found[file.stem] = path.as_posix()
    return found


def read_tables(root: Path) -> dict[str, dict[str, str]]:
    """What index.json files and workbooks say, by the photograph's stem."""
    rows: list[dict[str, str]] = []
    for file in sorted(root.rglob("index.json")):
        rows += read_index(file)
    for file in sorted(root.rglob("*ovea*.xlsx")):
        rows += read_sheet(file, "REFUGE", ("ImgName", "Fovea_X", "Fovea_Y"))
    return {Path(row["ImgName"]).stem: row for row in rows}


def read_index(file: Path) -> list[dict[str, str]]:
    """Rows of an object {number: row} or a list of rows."""
    try:
        raw: Any = json.loads(decode(file))
        rows = list(raw.values()) if isinstance(raw, dict) else list(raw)
        return [{str(k): str(v) for k, v in row.items()} | {"ImgName": str(row["ImgName"])} for row in rows]
    except (ValueError, TypeError, AttributeError, KeyError):
        raise UserError(f'{file}: expected {{"0": {{"ImgName": "g0001.jpg", …}}, …}}') from None
