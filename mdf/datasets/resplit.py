"""A manifest split anew: by patient, in folds, with held-out sources, few photographs a class; copies stay together."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mdf.datasets.splits import (
    Groups,
    few_shot,
    group_photographs,
    hold_out,
    split_by_patient,
    split_into_folds,
    split_of,
    torn,
)
from mdf.datasets.validation.files import duplicate_ids, look_at_all
from mdf.errors import UserError
from mdf.records import FundusRecord, Manifest

RELEASE = "release"  # the kind of a split that came with the photographs


@dataclass(frozen=True)
class Request:
    """What `prepare.py split` was asked for; 0, None and empty = not asked for."""

    val: float
    test: float
    seed: int
    folds: int = 0
    fold: int | None = None  # None = all folds
    sources: tuple[str, ...] = ()  # held out
    shots: int = 0  # photographs a class
    draws: int = 1  # few-shot subsets, with the seeds seed, seed + 1, …
    redraw: bool = False  # even where the release has a split of its own
    patients_only: bool = False  # do not look for copies
    workers: int = 0


def check_request(r: Request) -> None:
    """Raises UserError for words that do not go together."""
    wrong = []
    if not 0 <= r.val < 1 or not 0 <= r.test < 1 or r.val + r.test >= 1:
        wrong.append(f"--val {r.val:g} and --test {r.test:g} leave nothing to train on; below 1 together")
    if r.fold is not None and not r.folds:
        wrong.append("--fold needs --folds, for example --folds 5 --fold 0")
    if r.folds < 0 or r.folds == 1:
        wrong.append(f"--folds {r.folds}: two or more are needed")
    if r.folds and r.sources:
        wrong.append("--folds and --hold-out are two ways to choose the test; take one")
    if r.shots < 0 or r.draws < 1 or (r.draws > 1 and not r.shots):
        wrong.append("--few-shot takes 1 or more photographs a class, --draws 1 or more subsets of it")
    if wrong:
        raise UserError("\n".join(wrong))


def resplit(manifest: Manifest, request: Request) -> Iterator[tuple[str, list[FundusRecord], dict[str, Any]]]:
    """Each new split as (addition to the file's name, records, description), with what has to be known said aloud.

    The release's own split is kept unless folds, sources or a new draw are asked for.
    """
    check_request(request)
    groups, joined = find_groups(manifest, request)
    for name, records, how in splits(manifest, request, groups):
        if how["kind"] != RELEASE or how["val"] is not None:
            how |= {"seed": request.seed, "copies_kept_together": joined}
        if not request.shots:
            yield name, records, split_of(records, **how)
            continue
        for seed in range(request.seed, request.seed + request.draws):
            subset, short = few_shot(records, request.shots, seed, groups)
            if short:
                fewer = ", ".join(f"{d} {n}" for d, n in short.items())
                print(f"note: fewer than {request.shots} photographs of: {fewer}")
            addition = f"{name}.seed{seed}" if request.draws > 1 else name
            yield addition, subset, split_of(subset, **how, shots=request.shots, shots_seed=seed)


def find_groups(manifest: Manifest, request: Request) -> tuple[Groups, int | None]:
    """What may not be torn apart, and how many groups of copies were found; None where nobody looked."""
    if request.patients_only:
        return group_photographs(manifest.records), None
    copies = duplicate_ids(manifest.records, look_at_all(manifest, request.workers))
    print(f"{len(copies)} groups of photographs that show the same are kept together")
    return group_photographs(manifest.records, copies), len(copies)


def splits(
    manifest: Manifest, request: Request, groups: Groups
) -> Iterator[tuple[str, list[FundusRecord], dict[str, Any]]]:
    """The splits without few-shot subsets: (addition to the name, records, how)."""
    records, val, seed = manifest.records, request.val, request.seed
    given = release_split(manifest)
    if request.sources:
        held = hold_out(records, request.sources, val=val, seed=seed, groups=groups)
        if left := len(records) - len(held):
            print(f"note: {left} photographs are left out: they are copies of some that are held out")
        yield "", held, {"kind": "held-out sources", "sources": list(request.sources), "val": val}
    elif request.folds:
        if given:
            print("note: the release has a split of its own, which folds do not use")
        for fold in range(request.folds) if request.fold is None else [request.fold]:
            folded = split_into_folds(records, folds=request.folds, fold=fold, val=val, seed=seed, groups=groups)
            how = {"kind": "fold", "folds": request.folds, "fold": fold, "val": val}
            yield f".fold{fold}" if request.fold is None else "", folded, how
    elif given and not request.redraw:
        kept = split_by_patient(given, val=val, test=request.test, seed=seed, groups=groups)
        if across := len(torn(kept, groups)):
            print(
                f"WARNING: the release's own split is kept, with {across} patients or groups of copies in several "
                "splits; --redraw draws another one"
            )
        yield "", kept, {"kind": RELEASE, "val": val if kept != given else None}
    else:
        bare = [replace(r, split=None) for r in records]
        drawn = split_by_patient(bare, val=val, test=request.test, seed=seed, groups=groups)
        yield "", drawn, {"kind": "patient", "val": val, "test": request.test}


def kind_of_split(manifest: Manifest) -> str:
    """How a manifest's records came to their splits, RELEASE where we did not draw them."""
    drawn = "patient" if manifest.meta.get("split_seed") is not None else RELEASE
    return str((manifest.meta.get("split") or {}).get("kind", drawn))


def release_split(manifest: Manifest) -> list[FundusRecord] | None:
    """The records, if their split came with the release; None where it was drawn by us or is not there."""
    if kind_of_split(manifest) != RELEASE or any(r.split is None for r in manifest.records):
        return None
    drawn = "val" in (
        manifest.meta.get("split") or {}
    )  # the release has no validation: ours goes back to where it was taken from
    return [replace(r, split="train") if drawn and r.split == "val" else r for r in manifest.records]
