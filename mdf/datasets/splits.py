"""Splits: nobody is in two of them, neither a patient nor two copies of a photograph, and the seed alone decides.

The same records and seed give the same split whatever their order. `split_of` describes one in a manifest's meta file,
with a SHA-256 of which photograph went where.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mdf.errors import UserError
from mdf.records import FundusRecord, group_of

Group = tuple[str, str, str]
Groups = Mapping[str, Group]  # photograph's id -> what may not be torn apart


def group_photographs(records: Sequence[FundusRecord], duplicates: Iterable[Sequence[str]] = ()) -> dict[str, Group]:
    """What may not be torn apart, by photograph's id: the patient, and all patients that share a photograph.

    Records of one file share it, and so do `duplicates`, groups of ids that show the same. A joined group goes by the
    smallest of its names.
    """
    own = {r.id: group_of(r) for r in records}
    files: dict[str, list[str]] = defaultdict(list)
    for r in records:
        files[os.path.normpath(r.image)].append(r.id)
    joined: dict[Group, Group] = {}

    def head(group: Group) -> Group:
        while group in joined:
            group = joined[group]
        return group

    for ids in (*files.values(), *duplicates):
        heads = {head(own[i]) for i in ids if i in own}
        for group in heads - ({first := min(heads)} if heads else set()):
            joined[group] = first
    return {i: head(group) for i, group in own.items()}


def split_by_patient(
    records: Sequence[FundusRecord], *, val: float, test: float, seed: int, groups: Groups | None = None
) -> list[FundusRecord]:
    """Every record with a split, all photographs of a patient (or of `groups`) in the same one; order is kept.

    The release's splits stay where every record has one; where they lack `val`, it is taken out of `train`. `val` and
    `test` are shares of the patients, spread evenly over the diagnoses, at least one patient each of three or more.
    Raises UserError where only some records have a split.
    """
    groups = groups or group_photographs(records)
    have = sum(r.split is not None for r in records)
    if 0 < have < len(records):
        raise UserError(f"{have} of {len(records)} photographs have a split; give one to all of them or to none")
    if have:
        if val == 0 or any(r.split == "val" for r in records):
            return list(records)
        train = [r for r in records if r.split == "train"]
        taken = draw_groups(train, val, seed, groups)
        return [replace(r, split="val") if r.split == "train" and groups[r.id] in taken else r for r in records]
    return take_out(records, draw_groups(records, test, seed, groups), val, seed, groups)


def take_out(
    records: Sequence[FundusRecord], tested: set[Group], val: float, seed: int, groups: Groups
) -> list[FundusRecord]:
    """The groups `tested` are the test; a share `val` of all groups is drawn from the others, which train."""
    rest = [r for r in records if groups[r.id] not in tested]
    patients = len({groups[r.id] for r in records})
    left = max(1, patients - len(tested))
    validated = draw_groups(rest, val * patients / left, seed + 1, groups)
    names = dict.fromkeys(tested, "test") | dict.fromkeys(validated, "val")
    return [replace(r, split=names.get(groups[r.id], "train")) for r in records]


def draw_groups(records: Sequence[FundusRecord], share: float, seed: int, groups: Groups) -> set[Group]:
    """A share of the groups, drawn evenly along a list that is ordered by each group's rarest diagnosis."""
    ordered = by_rarest_diagnosis(records, seed, groups)
    # at least one where there are two, and always one that is left for the training
    count = min(max(round(share * len(ordered)), int(share > 0)), len(ordered) - 1)
    return {ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)}


def by_rarest_diagnosis(records: Sequence[FundusRecord], seed: int, groups: Groups) -> list[Group]:
    """The groups ordered by each one's rarest diagnosis, shuffled by the seed where that is the same."""
    frequency = Counter(d for r in records for d in r.diagnosis or ("",))
    rarest: dict[Group, tuple[int, str]] = {}
    for r in records:
        key = min((frequency[d], d) for d in r.diagnosis or ("",))
        rarest[groups[r.id]] = min(key, rarest.get(groups[r.id], key))
    names = sorted(rarest)
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    return sorted(shuffled, key=lambda g: rarest[g])  # stable: shuffled within a diagnosis


def fold_of(records: Sequence[FundusRecord], folds: int, seed: int, groups: Groups | None = None) -> dict[str, int]:
    """The fold, 0 to `folds` - 1, of each photograph by its id. Raises UserError where there are too few groups."""
    groups = groups or group_photographs(records)
    ordered = by_rarest_diagnosis(records, seed, groups)
    if not 2 <= folds <= len(ordered):
        raise UserError(
            f"--folds: {folds} must be from 2 to {len(ordered)}, the patients (with their duplicates) that there are"
        )
    fold = {group: position % folds for position, group in enumerate(ordered)}
    return {r.id: fold[groups[r.id]] for r in records}


def split_into_folds(
    records: Sequence[FundusRecord], *, folds: int, fold: int, val: float, seed: int, groups: Groups | None = None
) -> list[FundusRecord]:
    """Fold number `fold` is the test; a share `val` of all groups, drawn from the other folds, validates."""
    groups = groups or group_photographs(records)
    if not 0 <= fold < folds:
        raise UserError(f"--fold: {fold} must be from 0 to {folds - 1}, since --folds is {folds}")
    folded = fold_of(records, folds, seed, groups)
    return take_out(records, {groups[i] for i, f in folded.items() if f == fold}, val, seed, groups)


def hold_out(
    records: Sequence[FundusRecord], sources: Sequence[str], *, val: float, seed: int, groups: Groups | None = None
) -> list[FundusRecord]:
    """The photographs of `sources` are the test; those of other sources that are copies of them are left out.

    Raises UserError for sources that are not there, or where nothing would be left to train on.
    """
    groups = groups or group_photographs(records)
    known = sorted({r.source or "" for r in records})
    wrong = [s for s in sources if s not in known]
    if wrong or len(set(sources)) == len(known):
        what = f"no photograph has the source {', '.join(wrong)}" if wrong else "nothing is left to train on"
        raise UserError(f"--hold-out: {what}; the sources are {', '.join(s or '(none)' for s in known)}")
    tested = {groups[r.id] for r in records if r.source in sources}
    kept = [r for r in records if r.source in sources or groups[r.id] not in tested]
    if len({groups[r.id] for r in kept}) == len(tested):
        raise UserError("--hold-out: every other photograph is a copy of one that is held out; nothing is left")
    return take_out(kept, tested, val, seed, groups)


def few_shot(
    records: Sequence[FundusRecord], k: int, seed: int, groups: Groups | None = None
) -> tuple[list[FundusRecord], dict[str, int]]:
    """`k` photographs a diagnosis for the training; validation and test stay as they are. Order is kept.

    Drawn from as many patients as possible. Photographs without a diagnosis are left out of the training. The second
    value counts the diagnoses of which there are fewer than `k` (or of which no more could be taken, because the others
    come with another diagnosis that has its `k` already).
    """
    groups = groups or group_photographs(records)
    train = sorted((r for r in records if r.split == "train" and r.diagnosis), key=lambda r: r.id)
    shuffled = [train[i] for i in np.random.default_rng(seed).permutation(len(train))]
    frequency = Counter(d for r in train for d in r.diagnosis or ())
    have: Counter[str] = Counter()
    chosen: set[str] = set()
    for name in sorted(frequency, key=lambda d: (frequency[d], d)):
        turns: dict[Group, int] = defaultdict(int)
        candidates: list[tuple[int, int, FundusRecord]] = []
        for r in shuffled:
            if name in (r.diagnosis or ()):
                candidates.append((turns[groups[r.id]], len(candidates), r))
                turns[groups[r.id]] += 1
        for _, _, r in sorted(candidates, key=lambda c: c[:2]):  # one photograph of each patient, then the second ones
            if r.id not in chosen and all(have[d] < k for d in r.diagnosis or ()):
                chosen.add(r.id)
                have.update(r.diagnosis or ())
    kept = [r for r in records if r.split != "train" or r.id in chosen]
    return kept, {d: have[d] for d in sorted(frequency) if have[d] < k}


def torn(records: Iterable[FundusRecord], groups: Groups) -> list[Group]:
    """Groups whose photographs lie in more than one split."""
    found: dict[Group, set[str | None]] = defaultdict(set)
    for r in records:
        found[groups[r.id]].add(r.split)
    return [group for group, splits in found.items() if len(splits) > 1]


def assignment_sha256(records: Iterable[FundusRecord]) -> str:
    """Of which photograph is in which split, whatever the order of the records."""
    lines = sorted(f"{r.id}\t{r.split or ''}\n" for r in records)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def split_of(records: Sequence[FundusRecord], kind: str, **how: Any) -> dict[str, Any]:
    """What a manifest's meta file says of its split: `kind`, how it was drawn, and the hash of who went where."""
    return {"kind": kind, **{k: v for k, v in how.items() if v is not None}, "sha256": assignment_sha256(records)}
