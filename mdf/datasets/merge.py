"""Several manifests become one, whose records say by `source` where they are from: `data.weights` mixes them."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mdf.datasets.resplit import RELEASE, kind_of_split
from mdf.datasets.splits import split_of
from mdf.errors import UserError
from mdf.records import FundusRecord, Manifest, group_of, read_manifest

ANEW = (
    "; if these are two places, make one of the manifests again under a name of its own: --source NAME of prepare.py "
    "folder, table or huggingface"
)


def merge(paths: Sequence[str | Path]) -> Manifest:
    """The records of all manifests, with the folder that all their photographs share as root.

    A record without a source gets its manifest's name; an id that several manifests use gets its source before it.
    Patients of one name and source are one, which is said where their photographs lie in several places. The split
    counts as a release's own where that of any manifest is.
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
            raise UserError(
                f"{len(twice)} times the same {what} stands in two manifests; the first is {twice[0]}"
                + ANEW * (what == "id")
            )
    tell_shared(list(manifests.values()))
    name = "+".join(path.stem for path in manifests)
    return Manifest(tuple(records), root, {"dataset": name, "split": how_split(manifests, records)})


def how_split(manifests: Mapping[Path, Manifest], records: Sequence[FundusRecord]) -> dict[str, Any] | None:
    """The entry `split` of the meta file, with how each manifest came to its own; None where there is none."""
    if any(r.split is None for r in records):
        return None
    kinds = [kind_of_split(m) for m in manifests.values()]
    parts = {path.stem: kind for path, kind in zip(manifests, kinds, strict=True)}
    return split_of(records, RELEASE if RELEASE in kinds else "merged", parts=parts)


def tell_shared(manifests: Sequence[Manifest]) -> None:
    """Say which patients are taken for one though their photographs lie in several places."""
    places: dict[tuple[str, str, str], set[Path]] = defaultdict(set)
    for m in manifests:
        for r in m.records:
            if r.patient and r.source:
                places[group_of(r)].add(m.root)
    shared = [group for group, roots in places.items() if len(roots) > 1]
    if shared:
        source, _, patient = shared[0]
        print(
            f"note: {len(shared)} patients stand in several manifests and count as one each, such as {patient!r} of "
            f"the source {source!r}{ANEW}"
        )


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
