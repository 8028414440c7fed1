"""DeepEyeNet: `DeepEyeNet_train.json`, `…_valid.json`, `…_test.json`: [{path: {keywords, clinical-description}}, …].

The keywords and the description are two texts: the release's task is to write the second with the first at hand, so a
description that is to be told from the photograph alone must not be given the keywords. Both may be the report here.
The set mixes colour photographs with angiographies and other pictures and does not say which is which, so that
`modality` is "unknown". No patient is known: the release's split cannot be checked against it.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mdf.datasets.common import decode, require_files, some, unique_ids
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord, leaves_root

GUIDE = Guide(
    "deepeyenet",
    "keywords and a description for each picture; its own split; colour photographs and fluorescein angiographies, "
    "not told apart",
    "15,709 (13,898 colour photographs, 1,811 angiographies)",
    "for research, see the release",
    "Huang et al., DeepOpht: Medical Report Generation for Retinal Images via Deep Models and Visual Explanation, "
    "WACV, 2021",
    "the repository DeepOpht of Jhhuangkay on GitHub, which names the place of the data",
    "DIR/DeepEyeNet_train.json, DIR/DeepEyeNet_valid.json, DIR/DeepEyeNet_test.json, DIR/eyenet0420/train_set/….jpg, …",
)

SPLITS = {"train": "train", "valid": "val", "test": "test"}


def read(root: Path) -> list[FundusRecord]:
    """A record for each picture of the three files. Raises UserError for another layout or missing pictures."""
    records = [record for name, split in SPLITS.items() for record in read_split(root, name, split)]
    require_files(root, [r.image for r in records])
    first = {r.image: r for r in reversed(records)}
    torn = [r.image for r in records if r.split != first[r.image].split]
    if torn:
        raise UserError(f"DeepEyeNet: {len(torn)} pictures are in two of the files; take them out of one: {some(torn)}")
    if len(first) < len(records):
        print(f"note: DeepEyeNet: {len(records) - len(first)} pictures stand twice in a file; the first entry counts")
    kept = [r for r in records if r is first[r.image]]
    return [replace(r, id=id_) for r, id_ in zip(kept, unique_ids([r.image for r in kept]), strict=True)]


def read_split(root: Path, name: str, split: str) -> list[FundusRecord]:
    file = root / f"DeepEyeNet_{name}.json"
    if not file.is_file():
        raise UserError(f"DeepEyeNet: there is no file {file}; `prepare.py list` shows the layout that is expected")
    try:
        raw: Any = json.loads(decode(file))
        entries = [(path, entry) for item in raw for path, entry in item.items()]
        records = [to_record(path, entry, split) for path, entry in entries]
    except (ValueError, TypeError, AttributeError, KeyError):
        raise UserError(f'{file}: expected [{{"path": {{"keywords": "…", "clinical-description": "…"}}}}, …]') from None
    outside = [r.image for r in records if leaves_root(r.image)]
    if outside:
        raise UserError(f"{file}: {len(outside)} paths leave the root {root}: {some(outside)}")
    return records


def to_record(path: str, entry: dict[str, str], split: str) -> FundusRecord:
    texts = {"caption": entry["clinical-description"], "keywords": entry["keywords"]}
    return FundusRecord(
        id=path,  # until all paths are known
        image=path,
        modality="unknown",
        texts={kind: " ".join(text.split()) for kind, text in texts.items() if text.strip()},
        source="deepeyenet",
        split=split,
    )
