"""Splits: patients and copies of a photograph stay together, the seed alone decides, and the shares hold."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mdf.datasets import summary
from mdf.datasets.splits import (
    assignment_sha256,
    few_shot,
    fold_of,
    group_photographs,
    hold_out,
    split_by_patient,
    split_into_folds,
    split_of,
    torn,
)
from mdf.errors import UserError
from mdf.records import FundusRecord, group_of

CLASSES = ("normal", "glaucoma", "amd", "cataract")


def people(count: int) -> list[FundusRecord]:
    """`count` patients with both eyes; one in ten has glaucoma."""
    return [
        FundusRecord(f"{p}_{eye}", f"{p}_{eye}.png", patient=str(p), diagnosis=("normal" if p % 10 else "glaucoma",))
        for p in range(count)
        for eye in ("left", "right")
    ]


def test_no_patient_is_in_two_splits_and_the_shares_hold():
    records = split_by_patient(people(200), val=0.1, test=0.2, seed=0)
    splits = {group_of(r): r.split for r in records}
    assert all(splits[group_of(r)] == r.split for r in records)
    assert Counter(splits.values()) == {"train": 140, "val": 20, "test": 40}
    assert [r.id for r in records] == [r.id for r in people(200)]


def test_each_diagnosis_is_spread_over_the_splits():
    records = split_by_patient(people(200), val=0.1, test=0.2, seed=0)
    assert Counter(r.split for r in records if r.diagnosis == ("glaucoma",)) == {"train": 28, "val": 4, "test": 8}


def test_the_same_seed_gives_the_same_split_whatever_the_order():
    def tested(records: list[FundusRecord], seed: int) -> set[str]:
        return {r.id for r in split_by_patient(records, val=0.1, test=0.2, seed=seed) if r.split == "test"}

    assert tested(people(50), 1) == tested(people(50)[::-1], 1) != tested(people(50), 2)


def test_photographs_without_a_patient_are_groups_of_their_own():
    records = split_by_patient([replace(r, patient=None) for r in people(10)], val=0.25, test=0.25, seed=0)
    assert Counter(r.split for r in records) == {"train": 10, "val": 5, "test": 5}


def test_records_of_one_photograph_stay_together():
    records = [
        FundusRecord(f"{table}/{i}", f"images/{'./' if table else ''}{i}.png", diagnosis=("normal",))
        for i in range(40)
        for table in range(2)
    ]
    groups = group_photographs(records)
    folds = [split_into_folds(records, folds=4, fold=f, val=0.2, seed=0) for f in range(4)]
    for made in (split_by_patient(records, val=0.2, test=0.3, seed=0), *folds):
        assert torn(made, groups) == []
        assert all(a.split == b.split for a, b in zip(made[::2], made[1::2], strict=True))
    halves = [replace(r, split="train" if i % 2 else "test") for i, r in enumerate(records)]
    assert "WARNING: 40 patients (or single photographs) are in more than one split" in summary(halves)


def test_three_patients_are_enough_for_three_splits():
    assert Counter(r.split for r in split_by_patient(people(3), val=0.1, test=0.1, seed=0)) == dict.fromkeys(
        ("train", "val", "test"), 2
    )


def test_the_splits_of_a_release_stay():
    given = [replace(r, split=("train", "val", "test")[i % 3]) for i, r in enumerate(people(30))]
    assert split_by_patient(given, val=0.5, test=0.4, seed=0) == given


def test_a_release_without_validation_keeps_its_test_and_gives_some_training_patients():
    given = [replace(r, split="test" if int(r.patient or 0) < 10 else "train") for r in people(40)]
    records = split_by_patient(given, val=0.2, test=0.2, seed=0)
    assert [r.split == "test" for r in records] == [r.split == "test" for r in given]
    assert Counter(r.split for r in records) == {"test": 20, "train": 48, "val": 12}


def test_a_half_split_release_is_refused():
    with pytest.raises(UserError, match="1 of 6 photographs have a split"):
        split_by_patient([replace(people(1)[0], split="train"), *people(3)[1:]], val=0.1, test=0.1, seed=0)


def random_records(seed: int) -> tuple[list[FundusRecord], list[list[str]]]:
    """Photographs of random patients, classes and sources, some of no patient, and random groups of copies."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(30, 120))
    records = []
    for i in range(count):
        patient = str(rng.integers(count // 2)) if rng.uniform() < 0.8 else None
        labels = tuple(rng.choice(CLASSES, size=rng.integers(1, 3), replace=False, p=(0.6, 0.2, 0.15, 0.05)))
        records.append(
            FundusRecord(f"{i}", f"{i}.png", patient=patient, diagnosis=labels, source=str(rng.choice(["a", "b", "c"])))
        )
    copies = [[str(i) for i in rng.choice(count, size=rng.integers(2, 4))] for _ in range(int(rng.integers(0, 12)))]
    return records, copies


def shuffled(records: list[FundusRecord], seed: int) -> list[FundusRecord]:
    return [records[i] for i in np.random.default_rng(seed).permutation(len(records))]


def by_id(records: list[FundusRecord]) -> dict[str, str | None]:
    return {r.id: r.split for r in records}


@pytest.mark.parametrize("seed", range(40))
def test_no_patient_and_no_copy_is_ever_in_two_splits_whatever_the_order(seed: int):
    records, copies = random_records(seed)
    groups = group_photographs(records, copies)
    other = shuffled(records, seed)
    again = group_photographs(other, [c[::-1] for c in copies[::-1]])
    assert groups == again
    ways = (
        lambda r, g: split_by_patient(r, val=0.1, test=0.2, seed=seed, groups=g),
        lambda r, g: split_into_folds(r, folds=4, fold=seed % 4, val=0.1, seed=seed, groups=g),
        lambda r, g: hold_out(r, ["a"], val=0.1, seed=seed, groups=g),
    )
    for split in ways:
        made = split(records, groups)
        assert all(r.split for r in made)
        assert torn(made, groups) == [] and torn(made, {r.id: group_of(r) for r in made}) == []
        where = by_id(made)
        assert all(len({where[i] for i in ids if i in where}) <= 1 for ids in copies)
        assert by_id(split(other, again)) == where


def test_patients_that_share_a_photograph_are_one_group():
    records = people(5)
    groups = group_photographs(records, [["0_left", "3_right"], ["3_left", "4_left"]])
    assert len({groups[i] for i in ("0_right", "3_left", "4_right")}) == 1 and len(set(groups.values())) == 3


@pytest.mark.parametrize("seed", range(5))
def test_folds_partition_the_photographs_and_keep_the_shares_of_the_labels(seed: int):
    records = people(200)
    folds = fold_of(records, 5, seed)
    tests = [
        {r.id for r in split_into_folds(records, folds=5, fold=k, val=0.1, seed=seed) if r.split == "test"}
        for k in range(5)
    ]
    assert sum(map(len, tests)) == len(set.union(*tests)) == len(records)
    assert all(tests[fold] >= {i} for i, fold in folds.items())
    ill = {r.id for r in records if r.diagnosis == ("glaucoma",)}
    assert [len(t) for t in tests] == [80] * 5 and [len(t & ill) for t in tests] == [8] * 5


def test_every_fold_has_a_share_of_every_label_on_random_records():
    for seed in range(10):
        records, copies = random_records(seed)
        folds = fold_of(records, 3, seed, group_photographs(records, copies))
        sizes = Counter(folds.values())
        normal = Counter(folds[r.id] for r in records if r.diagnosis and "normal" in r.diagnosis)
        for k in range(3):
            assert abs(normal[k] / sizes[k] - sum(normal.values()) / len(records)) < 0.2


def test_more_folds_than_patients_and_folds_that_are_not_there_are_refused():
    with pytest.raises(UserError, match="must be from 2 to 3"):
        fold_of(people(3), 4, 0)
    with pytest.raises(UserError, match="--fold: 5 must be from 0 to 4"):
        split_into_folds(people(9), folds=5, fold=5, val=0.1, seed=0)


def test_held_out_sources_are_the_test_and_their_copies_elsewhere_are_left_out():
    records = [replace(r, source="b" if int(r.patient or 0) < 4 else "a") for r in people(20)]
    groups = group_photographs(records, [["0_left", "19_left"]])
    made = hold_out(records, ["b"], val=0.1, seed=0, groups=groups)
    assert {r.source for r in made if r.split == "test"} == {"b"} and {r.split for r in made if r.source == "a"} == {
        "train",
        "val",
    }
    assert {r.id for r in records} - {r.id for r in made} == {"19_left", "19_right"}


def test_a_source_that_is_not_there_or_is_everything_is_refused():
    records = [replace(r, source="a") for r in people(5)]
    with pytest.raises(UserError, match="no photograph has the source c; the sources are a"):
        hold_out(records, ["c"], val=0.1, seed=0)
    with pytest.raises(UserError, match="nothing is left to train on"):
        hold_out(records, ["a"], val=0.1, seed=0)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_few_shot_has_exactly_k_photographs_a_class_and_leaves_the_test_alone(k: int):
    records = split_by_patient(people(200), val=0.1, test=0.2, seed=0)
    subset, short = few_shot(records, k, seed=1)
    assert Counter(d for r in subset if r.split == "train" for d in r.diagnosis or ()) == {"normal": k, "glaucoma": k}
    assert short == {} and [r for r in subset if r.split != "train"] == [r for r in records if r.split != "train"]
    assert len({r.patient for r in subset if r.split == "train"}) == 2 * k  # of different patients
    assert few_shot(records[::-1], k, seed=1)[0] == subset[::-1]
    assert few_shot(records, k, seed=2)[0] != subset


def test_few_shot_says_which_class_has_fewer():
    records = split_by_patient(people(30), val=0.1, test=0.1, seed=0)
    have = sum(r.split == "train" and r.diagnosis == ("glaucoma",) for r in records)
    subset, short = few_shot(records, 10, seed=0)
    assert short == {"glaucoma": have} and 0 < have < 10
    assert sum(r.split == "train" and r.diagnosis == ("normal",) for r in subset) == 10


@pytest.mark.parametrize("seed", range(10))
def test_few_shot_of_photographs_with_several_labels_never_exceeds_k(seed: int):
    records, _ = random_records(seed)
    records = split_by_patient(records, val=0.1, test=0.2, seed=seed)
    subset, short = few_shot(records, 2, seed)
    have = Counter(d for r in subset if r.split == "train" for d in r.diagnosis or ())
    there = Counter(d for r in records if r.split == "train" for d in r.diagnosis or ())
    assert all(have[d] == short.get(d, 2) for d in there)


def test_the_hash_tells_who_went_where_and_nothing_else():
    records = split_by_patient(people(20), val=0.1, test=0.2, seed=0)
    assert assignment_sha256(records) == assignment_sha256(records[::-1])
    assert assignment_sha256(records) == assignment_sha256([replace(r, age=50) for r in records])
    moved = [replace(records[0], split="test" if records[0].split != "test" else "val"), *records[1:]]
    assert assignment_sha256(moved) != assignment_sha256(records)
    assert split_of(records, "patient", seed=0, val=None) == {
        "kind": "patient",
        "seed": 0,
        "sha256": assignment_sha256(records),
    }
