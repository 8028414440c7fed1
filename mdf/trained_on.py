"""Whom a checkpoint was trained on: enough to recognise a photograph or a patient again, not enough to name one.

A checkpoint is passed on without its data; 16 hex digits of a hash over source and name of each photograph and patient
go with it, so that an evaluation can refuse them. A short patient number can be guessed back from its hash by trying
all numbers: keep the file private where the numbers are.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mdf.errors import UserError
from mdf.records import FundusRecord, group_of

FILE = "trained_on.json"


def mark(*words: str) -> str:
    """16 hex digits that stand for a name."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def marks_of(record: FundusRecord) -> tuple[str, str]:
    """That of the photograph, and that of its patient (of itself where none is known)."""
    return mark(record.source or "", "photograph", record.id), mark(*group_of(record))


@dataclass(frozen=True)
class TrainedOn:
    """Marks of the photographs and patients of all stages: those that trained, and those that steps were chosen by."""

    train: frozenset[str] = frozenset()
    val: frozenset[str] = frozenset()

    @classmethod
    def of(cls, records: Iterable[FundusRecord]) -> "TrainedOn":
        """The train and val splits of some records."""
        found: dict[str, set[str]] = {"train": set(), "val": set()}
        for record in records:
            if record.split in found:
                found[record.split].update(marks_of(record))
        return cls(frozenset(found["train"]), frozenset(found["val"]))

    def __or__(self, other: "TrainedOn") -> "TrainedOn":
        return TrainedOn(self.train | other.train, self.val | other.val)

    def write(self, folder: Path) -> None:
        """Write trained_on.json, where there is anything to write."""
        if self.train or self.val:
            (folder / FILE).write_text(json.dumps({"train": sorted(self.train), "val": sorted(self.val)}) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "TrainedOn":
        """That of a checkpoint; empty where it has none. Raises UserError for a damaged file."""
        path = folder / FILE
        if not path.is_file():
            return cls()
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(frozenset(values["train"]), frozenset(values["val"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}); take the checkpoint again from its run") from None
