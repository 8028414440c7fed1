"""IDRiD: lesion masks (part A), grades (part B), centres of disc and fovea (part C), each with photographs of its own.

Parts number their photographs anew, and some photographs are in several parts: files with the same bytes become one
record with all that the parts know. A lesion for which a photograph has no mask file is not known to be absent.
Part B's `Risk of macular edema` is `grade.dme` of 0 to 2. A photograph that is for the test in any part stays so.
"""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from mdf.datasets.common import image_files, read_rows, to_grade, unpacked
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.files import sha256
from mdf.records import FundusRecord
from mdf.vocabulary import from_grade

GUIDE = Guide(
    "idrid",
    "grades of diabetic retinopathy (ICDR 0-4) and risk of macular oedema (0-2); masks of four lesions and the disc; "
    "centres of disc and fovea",
    "516 with grades and centres (413 training, 103 test), 81 with masks (54 training, 27 test)",
    "CC BY 4.0",
    "Porwal et al., Indian Diabetic Retinopathy Image Dataset (IDRiD), Data, 2018",
    "IEEE DataPort, 'Indian Diabetic Retinopathy Image Dataset (IDRiD)'",
    "DIR/A. Segmentation/1. Original Images/a. Training Set/IDRiD_01.jpg, …, DIR/B. Disease Grading/…, "
    "DIR/C. Localization/… as they unpack; one part or several",
)

PARTS = {"grading": "B. Disease Grading", "segmentation": "A. Segmentation", "localization": "C. Localization"}
SETS = {"train": ("a. Training Set", "a.", "Training"), "test": ("b. Testing Set", "b.", "Testing")}
MASKS = {
    "microaneurysm": ("1. Microaneurysms", "MA"),
    "haemorrhage": ("2. Haemorrhages", "HE"),
    "hard_exudate": ("3. Hard Exudates", "EX"),
    "cotton_wool_spot": ("4. Soft Exudates", "SE"),
    "disc": ("5. Optic Disc", "OD"),
}
POINTS = ("Image No", "X- Coordinate", "Y - Coordinate")
Labels = dict[str, FundusRecord]


def read(root: Path) -> list[FundusRecord]:
    """Records of the parts that are there. Raises UserError where none is, or for other tables or names."""
    found = {part: unpacked(root, folder) for part, folder in PARTS.items() if (root / folder).is_dir()}
    if not found:
        raise UserError(f"IDRiD: {root} holds none of {', '.join(PARTS.values())}; `prepare.py list` shows the layout")
    if len(found) < len(PARTS):
        print(f"note: IDRiD: without {', '.join(folder for part, folder in PARTS.items() if part not in found)}")
    records = [r for part, folder in found.items() for split in SETS for r in read_part(root, part, folder, split)]
    merged = [merge(twins) for twins in same_files(root, records)]
    if len(found) > 1:
        print(f"note: IDRiD: {len(records)} files of {len(found)} parts are {len(merged)} photographs")
    return merged


def read_part(root: Path, part: str, folder: Path, split: str) -> list[FundusRecord]:
    """Photographs of a part's training or test set with what that part knows of them."""
    files = image_files(folder / "1. Original Images" / SETS[split][0], "IDRiD")
    labels = {"grading": read_grades, "segmentation": read_masks, "localization": read_points}[part](
        root, folder, split
    )
    absent = labels.keys() - {f.stem for f in files}
    if absent:
        raise UserError(f"{folder}: {len(absent)} photographs of the {split} labels are missing, one is {min(absent)}")
    records = []
    for file in files:
        known = labels.get(file.stem, FundusRecord(id="", image=""))
        records.append(
            replace(
                known, id=f"{part}/{split}/{file.stem}", image=file.relative_to(root).as_posix(), split=split,
                camera="Kowa VX-10 alpha", source="idrid", license="CC BY 4.0",
            )
        )  # fmt: skip
    return records


def read_grades(root: Path, folder: Path, split: str) -> Labels:
    _, letter, word = SETS[split]
    table = folder / "2. Groundtruths" / f"{letter} IDRiD_Disease Grading_{word} Labels.csv"
    rows = read_rows(table, "IDRiD", ("Image name", "Retinopathy grade", "Risk of macular edema"))
    labels = {}
    for line, row in enumerate(rows, 2):
        where = f"{table.name} line {line}"
        grade, oedema = to_grade(row["Retinopathy grade"], 4, where), to_grade(row["Risk of macular edema"], 2, where)
        scales = {"icdr": grade, "dme": oedema}
        labels[row["Image name"]] = FundusRecord(
            id="", image="",
            diagnosis=None if grade is None else (from_grade("icdr", grade),),
            grade={scale: value for scale, value in scales.items() if value is not None},
        )  # fmt: skip
    return labels


def read_masks(root: Path, folder: Path, split: str) -> Labels:
    masks: dict[str, dict[str, str]] = defaultdict(dict)
    for mask, (below, ending) in MASKS.items():
        for file in image_files(folder / "2. All Segmentation Groundtruths" / SETS[split][0] / below, "IDRiD"):
            masks[file.stem.removesuffix(f"_{ending}")][mask] = file.relative_to(root).as_posix()
    return {stem: FundusRecord(id="", image="", masks=paths) for stem, paths in masks.items()}


def read_points(root: Path, folder: Path, split: str) -> Labels:
    _, letter, word = SETS[split]
    truths = folder / "2. Groundtruths"
    tables = {
        "disc": truths / "1. Optic Disc Center Location" / f"{letter} IDRiD_OD_Center_{word} Set_Markups.csv",
        "fovea": truths / "2. Fovea Center Location" / f"IDRiD_Fovea_Center_{word} Set_Markups.csv",
    }
    points: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for name, table in tables.items():
        for line, row in enumerate(read_rows(table, "IDRiD", POINTS), 2):
            if not row["Image No"]:  # the tables end in lines with something in another column
                continue
            try:
                points[row["Image No"]][name] = [float(row[column]) for column in POINTS[1:]]
            except ValueError:
                raise UserError(f"{table} line {line}: the centre must be two numbers") from None
    return {stem: FundusRecord(id="", image="", points=found) for stem, found in points.items()}


def same_files(root: Path, records: list[FundusRecord]) -> list[list[FundusRecord]]:
    """Records whose photographs are the same bytes, together; only files of equal size are read."""
    sizes: dict[int, list[FundusRecord]] = defaultdict(list)
    for r in records:
        sizes[(root / r.image).stat().st_size].append(r)
    groups: dict[tuple[int, str], list[FundusRecord]] = defaultdict(list)
    for size, alike in sizes.items():
        for r in alike:
            digest = sha256(root / r.image) if len(alike) > 1 else ""
            groups[size, digest].append(r)
    return sorted(groups.values(), key=lambda twins: twins[0].id)


def merge(twins: list[FundusRecord]) -> FundusRecord:
    """One record of the same photograph's; the first, of the part with grades, gives its name and path."""
    first = twins[0]
    for other in twins[1:]:
        if first.diagnosis and other.diagnosis and first.grade != other.grade:
            print(f"note: IDRiD: {first.id} and {other.id} are one photograph with two grades; the first is taken")
        first = replace(
            first,
            diagnosis=first.diagnosis or other.diagnosis,
            grade=other.grade | first.grade,
            masks=other.masks | first.masks,
            points=other.points | first.points,
            split="test" if "test" in (first.split, other.split) else "train",
        )
    return first
