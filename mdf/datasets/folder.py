"""A folder of photographs: sub-folders are diagnoses, a flat folder has none; `train/`, `test/` above are splits."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from mdf.datasets.common import image_files, unique_ids
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord
from mdf.vocabulary import map_all

GUIDE = Guide(
    "folder",
    "your photographs, sorted into sub-folders by diagnosis, or all in one folder without diagnoses",
    "any",
    "yours",
    "yours",
    "your own",
    "DIR/glaucoma/a.jpg, DIR/normal/b.jpg, … or DIR/train/glaucoma/a.jpg, DIR/test/… or DIR/a.jpg, …",
)

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def read(root: Path, aliases: Mapping[str, str] | None = None) -> list[FundusRecord]:
    """A record for every photograph below `root`; its id is its path without ending.

    Raises UserError that lists sub-folders whose names are no diagnoses, or where only some photographs lie in one.
    """
    names = [f.relative_to(root).as_posix() for f in image_files(root, "folder")]
    folders = [name.split("/")[:-1] for name in names]
    splits: list[str | None] = [None] * len(names)
    if all(parts and parts[0].lower() in SPLIT_NAMES for parts in folders):
        splits = [SPLIT_NAMES[parts[0].lower()] for parts in folders]
        folders = [parts[1:] for parts in folders]
    classes = Counter(parts[0] for parts in folders if parts)
    flat = sum(not parts for parts in folders)
    if classes and flat:
        raise UserError(
            f"{root}: {len(names) - flat} photographs lie in sub-folders and {flat} do not; "
            "move all of them into a sub-folder named by the diagnosis, or none"
        )
    mapped = map_all(classes, f"sub-folders of {root}", aliases)
    return [
        FundusRecord(
            id=id_,
            image=name,
            diagnosis=(mapped[parts[0]],) if parts else None,
            source=root.resolve().name,
            split=split,
        )
        for id_, name, parts, split in zip(unique_ids(names), names, folders, splits, strict=True)
    ]
