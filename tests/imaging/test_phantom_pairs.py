"""Pairs of phantoms differ in one thing, and in nothing else to the last bit."""

import pytest

from mdf.errors import UserError
from mdf.imaging.phantom import MASKS
from mdf.imaging.phantom_lesions import LESIONS, QUADRANTS
from mdf.imaging.phantom_pairs import CHANGES, Pair, draw_pair

SEEDS = range(6)
BANDS = (5, 20)


def band(count: int) -> int:
    return sum(count > end for end in BANDS)


@pytest.fixture(scope="module")
def pairs() -> dict[str, list[Pair]]:
    return {change: [draw_pair(seed, change, 160) for seed in SEEDS] for change in CHANGES}


@pytest.mark.parametrize("change", CHANGES)
def test_outside_of_the_region_all_pixels_are_equal_and_inside_some_are_not(pairs, change):
    for pair in pairs[change]:
        before, after = (photograph.image for photograph in pair.photographs)
        differs = (before != after).any(axis=2)
        assert differs.any() and not (differs & ~pair.region).any(), (change, pair.finding)
        assert pair.region.mean() < 0.35


@pytest.mark.parametrize("change", CHANGES)
def test_every_mask_but_that_of_the_change_stays(pairs, change):
    for pair in pairs[change]:
        before, after = pair.photographs
        other = [name for name in MASKS if (before.masks[name] != after.masks[name]).any()]
        assert other == ["cup" if change == "cup" else pair.finding]


@pytest.mark.parametrize("change", CHANGES)
def test_records_say_what_changed_and_nothing_else(pairs, change):
    for pair in pairs[change]:
        before, after = pair.records
        one, other = ({f.name: f for f in record.findings} for record in pair.records)
        assert {**one, pair.finding: None} == {**other, pair.finding: None}
        assert (before.eye, before.points) == (after.eye, after.points)
        assert {k: v for k, v in before.boxes.items() if k != pair.finding} == {
            k: v for k, v in after.boxes.items() if k != pair.finding
        }
        assert before.id != after.id and before.patient == after.patient
        was, now = one.get(pair.finding), other.get(pair.finding)
        if change == "lesion":
            assert was is not None and now is None and pair.finding not in after.boxes
            assert (after.diagnosis == ("normal",)) == (not other)
        elif change == "quadrant":
            assert was.count == now.count and was.location != now.location
            assert {was.location, now.location} <= set(QUADRANTS)
        elif change == "count":
            assert was.location == now.location and band(was.count) > band(now.count) and now.count > 0
        else:
            assert (pair.finding, was, now.location) == ("enlarged_cup", None, "disc")
            assert (before.diagnosis, after.diagnosis) == (("normal",), ("glaucoma",))


def test_what_stays_of_a_thinned_out_lesion_was_there_before(pairs):
    for pair in pairs["count"]:
        before, after = (photograph.masks[pair.finding] for photograph in pair.photographs)
        assert not (after & ~before).any()


def test_the_kinds_that_change_vary(pairs):
    assert len({pair.finding for change in ("lesion", "quadrant", "count") for pair in pairs[change]}) >= 4


def test_the_same_seed_gives_the_same_bytes(pairs):
    again, other = draw_pair(0, "quadrant", 160), draw_pair(1, "quadrant", 160)
    first = pairs["quadrant"][0]
    for one, two in zip(first.photographs, again.photographs, strict=True):
        assert one.image.tobytes() == two.image.tobytes()
    assert first.records == again.records != other.records


@pytest.mark.parametrize("size", [96, 320])
def test_other_sizes_are_as_true(size):
    for change in CHANGES:
        pair = draw_pair(3, change, size)
        before, after = (photograph.image for photograph in pair.photographs)
        assert not ((before != after).any(axis=2) & ~pair.region).any()


def test_bands_are_the_callers():
    pair = draw_pair(0, "count", 96, bands=(3,))
    counts = [next(f.count for f in r.findings if f.name == pair.finding) for r in pair.records]
    assert counts[0] > 3 >= counts[1]
    assert pair.finding in LESIONS


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UserError, match="'colour' is no change"):
        draw_pair(0, "colour")
    with pytest.raises(UserError, match="96"):
        draw_pair(0, "lesion", 64)
    with pytest.raises(UserError, match=r"bands that end at \[500\]"):
        draw_pair(0, "count", 96, bands=(500,))
