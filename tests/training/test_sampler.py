"""Which photograph comes when."""

from collections import Counter
from itertools import islice, pairwise

import pytest

from mdf.training.sampler import Sampler, groups_of, pairs_of


def take(sampler: Sampler, batches: int) -> list[list[tuple[int, int]]]:
    return list(islice(sampler, batches))


def test_an_epoch_holds_every_photograph_once_and_the_next_is_another_order():
    keys = Sampler(10, 3, 5).keys(0, 20)
    assert sorted(keys[:10]) == [(0, i) for i in range(10)]
    assert sorted(keys[10:]) == [(1, i) for i in range(10)]
    assert [i for _, i in keys[:10]] != [i for _, i in keys[10:]]
    assert keys != Sampler(10, 4, 5).keys(0, 20)


def test_every_batch_is_of_one_size_and_the_tail_runs_on():
    batches = take(Sampler(10, 0, 4), 5)
    assert {len(b) for b in batches} == {4}
    assert [e for e, _ in batches[2]] == [0, 0, 1, 1]


def test_accumulation_cuts_the_same_step():
    whole, cut = Sampler(10, 0, 4), Sampler(10, 0, 1, accumulation=4)
    assert [k for b in take(whole, 6) for k in b] == [k for b in take(cut, 24) for k in b]
    assert whole.step_size == cut.step_size


@pytest.mark.parametrize("accumulation", [1, 3])
def test_processes_share_each_micro_batch(accumulation):
    one = take(Sampler(10, 0, 4, accumulation), 6)
    two = [take(Sampler(10, 0, 2, accumulation, rank, 2), 6) for rank in range(2)]
    assert [a + b for a, b in zip(*two, strict=True)] == one


def test_goes_on_from_its_state():
    sampler = Sampler(10, 0, 2, accumulation=2)
    later = Sampler(10, batch_size=2, accumulation=2, **sampler.after(4).state())
    assert later.state() == {"seed": 0, "epoch": 1, "consumed": 6}
    assert take(later, 4) == take(sampler, 12)[8:]


def test_balance_draws_every_diagnosis_equally_often():
    groups = groups_of([("normal",)] * 20 + [("amd",)] * 3 + [("glaucoma", "amd")] * 2 + [None])
    sampler = Sampler(26, 0, 4, groups=groups)
    keys = sampler.keys(0, 26)
    counts = Counter(groups[i] for _, i in keys)
    assert (
        set(counts) == {"normal", "amd", "amd|glaucoma", "unknown"} and max(counts.values()) - min(counts.values()) <= 1
    )
    assert len(set(keys)) == len(keys)  # one that is drawn again is augmented anew
    assert keys == Sampler(26, 0, 4, groups=groups).keys(0, 26)


SOURCES = ("big",) * 70 + ("small",) * 20 + ("tiny",) * 3
WEIGHTS = (("big", 1.0), ("small", 2.0), ("tiny", 0.5))


def test_sources_are_drawn_in_proportion_to_their_weights():
    sampler = Sampler(93, 0, 8, sources=SOURCES, weights=WEIGHTS)
    keys = sampler.keys(0, 930)
    for epoch in range(10):
        counts = Counter(SOURCES[i] for _, i in keys[93 * epoch : 93 * (epoch + 1)])
        for name, weight in WEIGHTS:
            assert abs(counts[name] - 93 * weight / 3.5) < 1, name
    assert len(set(keys)) == len(keys)  # one that is drawn again within its epoch is augmented anew
    assert len({i for _, i in keys}) > 90  # what was left out of one epoch comes in another
    some = Counter(SOURCES[i] for _, i in keys[:40])
    assert all(some[name] for name in ("big", "small", "tiny"))  # mixed, not one after the other


def test_weights_and_balance_go_together():
    groups = groups_of([("normal",)] * 60 + [("amd",)] * 10 + [("normal",)] * 15 + [("amd",)] * 5 + [("drusen",)] * 3)
    keys = Sampler(93, 0, 8, groups=groups, sources=SOURCES, weights=WEIGHTS).keys(0, 93)
    for name in ("big", "small"):
        counts = Counter(groups[i] for _, i in keys if SOURCES[i] == name)
        assert set(counts) == {"normal", "amd"} and abs(counts["normal"] - counts["amd"]) <= 1


def test_a_weighted_order_is_shared_and_resumed_like_any_other():
    one = Sampler(93, 0, 4, sources=SOURCES, weights=WEIGHTS)
    two = [Sampler(93, 0, 2, rank=r, processes=2, sources=SOURCES, weights=WEIGHTS) for r in range(2)]
    whole = take(one, 60)
    assert [a + b for a, b in zip(*(take(s, 60) for s in two), strict=True)] == whole
    assert take(one.after(25), 35) == whole[25:]


def test_two_processes_see_disjoint_samples_whose_union_is_the_epoch():
    ranks = [Sampler(40, 0, 4, rank=r, processes=2) for r in range(2)]
    seen = [{key for batch in take(s, 5) for key in batch} for s in ranks]
    assert not seen[0] & seen[1] and seen[0] | seen[1] == {(0, i) for i in range(40)}


def test_a_million_photographs_are_no_burden():
    import time

    sampler = Sampler(1_000_000, 0, 64)
    sampler.keys(0, 1)
    start = time.process_time()
    for step in range(200):
        sampler.keys(64 * step, 64)
    assert time.process_time() - start < 1
    assert sampler.orders[0].nbytes == 16_000_000


# -- both eyes of a patient -------------------------------------------------------------------------------------------

# of 13 photographs; 0, 3, 6, 9 and 12 are in no pair
PAIRS = ((2, 1), (4, 5), (7, 8), (11, 10))


def cut_pairs(batches: list[list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Pairs of which a batch holds an eye without the other, or not a right eye and then the left one."""
    found: list[tuple[int, int]] = []
    for batch in batches:
        row = [index for _, index in batch]
        neighbours = list(pairwise(row))
        found += [p for p in PAIRS if not row.count(p[0]) == row.count(p[1]) == neighbours.count(p)]
    return found


@pytest.mark.parametrize("batch_size", [2, 4, 6])
def test_both_eyes_are_side_by_side_in_a_batch_and_an_epoch_holds_every_photograph_once(batch_size):
    """Also where the number of photographs is odd, and batches run over the end of an epoch."""
    sampler = Sampler(13, 0, batch_size, pairs=PAIRS)
    assert not cut_pairs(take(sampler, 40)) and cut_pairs(take(Sampler(13, 0, batch_size), 40))
    for epoch in range(6):
        keys = sampler.keys(13 * epoch, 13)
        assert sorted(keys) == [(epoch, i) for i in range(13)]
    assert sampler.keys(0, 12) != [(0, i) for _, i in sampler.keys(26, 12)]  # another order


def test_an_order_of_pairs_is_shared_cut_and_resumed_like_any_other():
    one = Sampler(13, 0, 4, pairs=PAIRS)
    whole = take(one, 30)
    two = [take(Sampler(13, 0, 2, rank=r, processes=2, pairs=PAIRS), 30) for r in range(2)]
    assert [a + b for a, b in zip(*two, strict=True)] == whole
    cut = take(Sampler(13, 0, 2, accumulation=2, pairs=PAIRS), 60)
    assert [a + b for a, b in zip(cut[::2], cut[1::2], strict=True)] == whole
    assert not cut_pairs([*two[0], *two[1], *cut])
    for step in range(1, 12):
        later = Sampler(13, batch_size=4, pairs=PAIRS, **one.after(step).state())
        assert take(later, 10) == whole[step : step + 10]


def test_pairs_are_balanced_and_weighted_as_photographs_are():
    """amd: two pairs and a single photograph; glaucoma: one; normal: the rest."""
    names = ["normal"] * 13
    for i in (0, 1, 2, 4, 5):
        names[i] = "amd"
    names[3] = "glaucoma"
    plain = Sampler(13, 0, 4, groups=tuple(names), pairs=PAIRS)
    keys = plain.keys(0, 13 * 20)
    counts = Counter(names[i] for _, i in keys)
    assert max(counts.values()) - min(counts.values()) <= 40  # to within one block of two an epoch
    assert not cut_pairs(take(plain, 65)) and len(set(keys)) == len(keys)
    sources = tuple("few" if i in (0, 3, 6) else "many" for i in range(13))
    weights = (("few", 1.0), ("many", 1.0))
    mixed = Sampler(13, 0, 4, groups=tuple(names), sources=sources, weights=weights, pairs=PAIRS)
    counts = Counter(sources[i] for _, i in mixed.keys(0, 13 * 40))
    assert 0.45 < counts["few"] / (13 * 40) < 0.55
    assert not cut_pairs(take(mixed, 65))


def test_a_right_eye_goes_with_the_left_one_of_the_same_visit_as_far_as_they_go():
    people = [
        ("a", "2001", "left"), ("b", None, "right"), ("a", "2001", "right"), ("a", "2005", "right"),
        ("a", "2001", "right"), ("b", None, "right"), None, ("a", "2009", "left"), ("b", None, "left"),
        ("a", "2009", "left"), ("a", "2009", "left"), ("c", None, "left"),
    ]  # fmt: skip
    pairs = pairs_of(people)
    assert set(pairs) == {(2, 0), (1, 8), (4, 7), (3, 9)}  # of one visit first, then of one patient
    assert pairs_of([]) == ()


def test_a_million_photographs_in_pairs_are_no_burden():
    import time

    pairs = tuple((2 * i, 2 * i + 1) for i in range(300_000))
    sampler = Sampler(1_000_000, 0, 64, pairs=pairs)
    start = time.process_time()
    sampler.keys(0, 64)
    assert time.process_time() - start < 4


def length(key):
    """Tokens of a conversation that is another one at each visit."""
    return 100 + (key[0] * 31 + key[1] * 17) % 97


def test_draws_that_are_sorted_by_length_are_the_same_draws_with_less_padding():
    plain, sorted_ = Sampler(40, 0, 4), Sampler(40, 0, 4, bucket=16, length=length)
    for start in range(0, 96, 16):  # windows go on over the end of an epoch
        assert sorted(plain.keys(start, 16)) == sorted(sorted_.keys(start, 16))
    padding = [sum(max(map(length, b)) * 4 - sum(map(length, b)) for b in take(s, 20)) for s in (plain, sorted_)]
    assert padding[1] < padding[0] / 2
    lengths = [length(k) for k in sorted_.keys(0, 32)]
    assert lengths == sorted(lengths[:16]) + sorted(lengths[16:], reverse=True)


def test_sorted_by_length_a_run_goes_on_from_its_state_however_a_step_is_cut():
    one = Sampler(10, 0, 4, bucket=6, length=length)
    later = Sampler(10, batch_size=4, bucket=6, length=length, **one.after(3).state())
    assert take(later, 8) == take(one, 11)[3:]
    two = [take(Sampler(10, 0, 1, 2, rank, 2, bucket=6, length=length), 12) for rank in range(2)]
    assert [k for a, b in zip(*two, strict=True) for k in a + b] == [k for batch in take(one, 6) for k in batch]
