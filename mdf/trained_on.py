"""Whom a checkpoint was trained on: enough to recognise a photograph or a patient again, not enough to name one. And
of which data sets its masks were learnt: those of drawn phantoms alone do not hold for a person's eye.

A checkpoint is passed on without its data; 16 hex digits of a hash over source and name of each photograph and patient
go with it, so that an evaluation can refuse them. A short patient number can be guessed back from its hash by trying
all numbers: keep the file private where the numbers are.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mdf.errors import UserError
from mdf.records import FundusRecord, group_of

FILE = "trained_on.json"
PHANTOM = "phantom"  # the source of drawn photographs
UNNAMED = "unnamed"  # of photographs whose manifest names no source


def mark(*words: str) -> str:
    """16 hex digits that stand for a name."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def marks_of(record: FundusRecord) -> tuple[str, str]:
    """That of the photograph, and that of its patient (of itself where none is known)."""
    return mark(record.source or "", "photograph", record.id), mark(*group_of(record))


@dataclass(frozen=True)
class TrainedOn:
    """Marks of the photographs and patients of all stages: those that trained, and those that steps were chosen by.

    `masks` are the data sets that each mask of the U-Net was learnt from; {} where that is not known.
    """

    train: frozenset[str] = frozenset()
    val: frozenset[str] = frozenset()
    masks: Mapping[str, frozenset[str]] = field(default_factory=dict)  # name of a mask -> sources

    @classmethod
    def of(cls, records: Iterable[FundusRecord], masks: Collection[str] = ()) -> "TrainedOn":
        """The train and val splits of some records, of which the U-Net learns `masks`."""
        found: dict[str, set[str]] = {"train": set(), "val": set()}
        sources: dict[str, set[str]] = defaultdict(set)
        for record in records:
            if record.split in found:
                found[record.split].update(marks_of(record))
            if record.split == "train":
                for name in set(masks) & set(record.masks):
                    sources[name].add(record.source or UNNAMED)
        return cls(
            frozenset(found["train"]), frozenset(found["val"]), {n: frozenset(some) for n, some in sources.items()}
        )

    def __or__(self, other: "TrainedOn") -> "TrainedOn":
        names = self.masks.keys() | other.masks.keys()
        none: frozenset[str] = frozenset()
        masks = {n: self.masks.get(n, none) | other.masks.get(n, none) for n in names}
        return TrainedOn(self.train | other.train, self.val | other.val, masks)

    def drawn(self) -> tuple[str, ...]:
        """The masks that were learnt from drawn phantoms alone."""
        return tuple(sorted(name for name, sources in self.masks.items() if sources == {PHANTOM}))

    def write(self, folder: Path) -> None:
        """Write trained_on.json, where there is anything to write."""
        if self.train or self.val:
            masks = {name: sorted(sources) for name, sources in sorted(self.masks.items())}
            values = {"train": sorted(self.train), "val": sorted(self.val), "masks": masks}
            (folder / FILE).write_text(json.dumps(values) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "TrainedOn":
        """That of a checkpoint; empty where it has none. Raises UserError for a damaged file."""
        path = folder / FILE
        if not path.is_file():
            return cls()
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            masks = {name: frozenset(sources) for name, sources in values.get("masks", {}).items()}
            return cls(frozenset(values["train"]), frozenset(values["val"]), masks)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}); take the checkpoint again from its run") from None
