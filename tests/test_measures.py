"""Sizes and distances in disc diameters, from the boxes and points of a record."""

import pytest

from mdf.errors import UserError
from mdf.imaging.phantom import draw
from mdf.imaging.phantom_lesions import LESIONS
from mdf.measures import boxes, diameter, from_fovea, reach
from mdf.records import FundusRecord

RECORD = FundusRecord(
    "a",
    "a.png",
    boxes={"disc": [100, 100, 118, 122], "drusen": [[40, 50, 44, 53], [10, 50, 12, 58]], "haemorrhage": [0, 0, 4, 4]},
    points={"fovea": [29.5, 52.5]},
)


def test_by_hand():
    assert diameter(RECORD) == 20
    assert reach(RECORD, "drusen") == (44 - 10) / 20
    assert from_fovea(RECORD, "drusen") == (40 - 30) / 20, "to the nearest edge, from the middle of the fovea's pixel"
    assert reach(RECORD, "haemorrhage") == 4 / 20, "one box needs no list"
    assert from_fovea(RECORD, "haemorrhage") == pytest.approx((26**2 + 49**2) ** 0.5 / 20)
    inside = FundusRecord("b", "b.png", boxes={**RECORD.boxes, "drusen": [20, 40, 40, 60]}, points=RECORD.points)
    assert from_fovea(inside, "drusen") == 0


@pytest.mark.parametrize("lacks", ["disc", "drusen", "fovea"])
def test_what_is_not_known_is_not_measured(lacks):
    known = FundusRecord(
        "a",
        "a.png",
        boxes={k: v for k, v in RECORD.boxes.items() if k != lacks},
        points={k: v for k, v in RECORD.points.items() if k != lacks},
    )
    assert from_fovea(known, "drusen") is None
    assert (reach(known, "drusen") is None) == (lacks != "fovea")


@pytest.mark.parametrize("value", ["left", [1, 2, 3], [[1, 2, 3, 4], [5]], [4, 1, 2, 3], {"left": 1}, [1, 2, 3, None]])
def test_boxes_that_are_none_are_named(value):
    with pytest.raises(UserError, match=r"record x: boxes\.drusen"):
        reach(FundusRecord("x", "x.png", boxes={"disc": [0, 0, 9, 9], "drusen": value}), "drusen")


@pytest.mark.parametrize("value", [[1], [[1, 2], [3, 4]], "middle"])
def test_a_fovea_that_is_no_point_is_named(value):
    with pytest.raises(UserError, match=r"record a: points\.fovea"):
        from_fovea(FundusRecord("a", "a.png", boxes=RECORD.boxes, points={"fovea": value}), "drusen")


def test_boxes_of_phantoms_hold_what_was_drawn():
    for seed in range(12):
        phantom = draw(seed, 160)
        record = phantom.record("p", "p.png")
        counts = {f.name: f.count for f in phantom.findings}
        for kind in LESIONS:
            found = boxes(record, kind)
            assert len(found) == counts.get(kind, 0)
            covered = sum(phantom.masks[kind][int(t) : int(b), int(x) : int(r)].sum() for x, t, r, b in found)
            assert covered == phantom.masks[kind].sum(), "no lesion's box reaches into another of its kind"
        x, top, right, bottom = boxes(record, "disc")[0]
        rows, columns = phantom.masks["disc"].any(1).nonzero()[0], phantom.masks["disc"].any(0).nonzero()[0]
        assert [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] == pytest.approx([x, top, right, bottom], abs=1.01)
