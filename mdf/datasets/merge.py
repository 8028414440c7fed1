"""Several manifests become one, whose records say by `source` where they are from: `data.weights` mixes them."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mdf.errors import UserError
from mdf.records import FundusRecord, Manifest, read_manifest


def merge(paths: Sequence[str | Path]) -> Manifest:
    """The records of all manifests, with the folder that all their photographs share as root.

    A record without a source gets its manifest's name; an id that several manifests use gets its source before it.
    Raises UserError where a photograph or an id stands twice, where only some manifests have a split, or where the
    photographs have no folder in common.
    """
    manifests = {Path(path): read_manifest(path) for path in paths}
    if len(manifests) < 2:
        raise UserError("merge takes two or more different manifests")
    bare = [path.name for path, m in manifests.items() if any(r.split is None for r in m.records)]
    if bare and len(bare) < len(manifests):
        raise UserError(f"{', '.join(bare)}: records without a split, which the others have; give one to all or none")
    unnamed = Counter(path.stem for path, m in manifests.items() if any(r.source is None for r in m.records))
    if alike := [name for name, count in unnamed.items() if count > 1]:  # their patients would be taken for the same
        raise UserError(f"several manifests are named {alike[0]}.jsonl, and their records have no source; rename one")
    root = common_root([m.root for m in manifests.values()])
    uses = Counter(r.id for m in manifests.values() for r in m.records)
    records = [
        moved(record, path.stem, m.root.relative_to(root).as_posix(), uses[record.id] > 1)
        for path, m in manifests.items()
        for record in m.records
    ]
    for what, values in (("photograph", [r.image for r in records]), ("id", [r.id for r in records])):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise UserError(f"{len(twice)} times the same {what} stands in two manifests; the first is {twice[0]}")
    return Manifest(tuple(records), root, {"dataset": "+".join(path.stem for path in manifests)})


def common_root(roots: Sequence[Path]) -> Path:
    """The deepest folder that holds all roots. Raises UserError where that is the whole disk."""
    root = Path(os.path.commonpath(roots))
    if root == Path(root.anchor):
        raise UserError(
            f"the photographs lie in {' and '.join(map(str, roots))}, which share no folder; "
            "move or link them below one, and make the manifests again"
        )
    return root


def moved(record: FundusRecord, name: str, folder: str, ambiguous: bool) -> FundusRecord:
    """The record with paths below `folder`, and with a source."""
    source = record.source or name
    return replace(
        record,
        id=f"{source}/{record.id}" if ambiguous else record.id,
        source=source,
        image=os.path.normpath(f"{folder}/{record.image}"),
        masks={kind: os.path.normpath(f"{folder}/{path}") for kind, path in record.masks.items()},
    )
