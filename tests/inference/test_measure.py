"""Measurements on the masks of phantoms, whose truth is known."""

import numpy as np
import pytest

from mdf.dialogue import SMALL_LESIONS
from mdf.imaging.frame import Frame
from mdf.imaging.phantom import Phantom, draw, finish, sketch
from mdf.imaging.preprocess import Preprocessing
from mdf.inference.measure import measure
from mdf.measures import from_fovea

SETTINGS = Preprocessing(unet_size=256, encoder_size=64)
NAMES = ("vessel", *SMALL_LESIONS, "disc", "cup")


def measured(phantom: Phantom, names=NAMES, nasal: int | None = 0, light: bool = True):
    """What the true masks of a phantom measure; `nasal` 0 takes that of its eye."""
    prepared = SETTINGS.prepare(phantom.image, {n: phantom.masks[n] for n in names}, names)
    masks = dict(zip(names, prepared.masks.numpy(), strict=True))
    green = prepared.unet_pixels[1].numpy() * SETTINGS.unet_std[1] + SETTINGS.unet_mean[1]
    side = (1 if phantom.eye == "right" else -1) if nasal == 0 else nasal
    frame = Frame.of(phantom.image, SETTINGS)
    return measure(masks, prepared.field[0].numpy(), frame, side, green if light else None)


@pytest.mark.parametrize("seed", range(6))
def test_disc_cup_and_fovea_are_those_that_were_drawn(seed):
    phantom, planned = draw(seed), sketch(seed).anatomy
    found = measured(phantom)
    x, y, radius = phantom.disc
    assert found.disc.found and found.disc.diameter == pytest.approx(2 * radius, rel=0.06)
    box = found.disc.box
    assert box.left <= x <= box.right and box.top <= y <= box.bottom
    assert found.disc.cup_disc_ratio == pytest.approx(planned.cup_ratio, abs=0.06)
    off = np.subtract(found.macula.centre, np.add(phantom.fovea, 0.5))
    assert np.hypot(*off) < 0.3 * found.disc.diameter
    assert 0.05 < found.vessels.density < 0.3


def drawn_disc(height: int, width: int, cup: int = 0):
    """The disc of a field of 200 pixels, drawn as an ellipse of that size."""
    rows, columns = np.indices((256, 256)) - 128
    inside = np.hypot(rows, columns) < 100
    masks = {"disc": np.hypot(2 * rows / height, 2 * columns / width) < 1}
    masks["cup"] = np.hypot(rows, columns) < cup / 2
    light = np.zeros((256, 256), dtype=np.uint8)
    return measure(masks, inside, Frame(256, 256, (0, 0, *light.shape)), 1)


def test_what_can_be_no_disc_is_taken_for_none_and_nothing_is_measured_by_it():
    good = drawn_disc(28, 26, cup=14)
    assert good.disc.found and good.disc.cup_disc_ratio == pytest.approx(0.5, abs=0.05) and good.macula.centre
    for height, width, why in ((12, 12, "too small"), (60, 60, "too large"), (18, 40, "too flat"), (40, 18, "narrow")):
        found = drawn_disc(height, width, cup=10)
        assert found.disc.found is False and found.disc.cup_disc_ratio is None and found.disc.diameter is None
        assert why in found.disc.statements[0].text and found.macula.centre is None


def test_a_speck_in_the_disc_is_no_cup():
    found = drawn_disc(28, 26, cup=5).disc
    assert found.found and found.cup_disc_ratio is None and "too little of a cup" in found.statements[0].text
    assert "no cup is drawn" in drawn_disc(28, 26).disc.statements[0].text


def test_without_the_picture_the_fovea_is_taken_by_rule():
    phantom = draw(1)
    by_rule, seen = measured(phantom, light=False), measured(phantom)
    off = [np.hypot(*np.subtract(m.macula.centre, np.add(phantom.fovea, 0.5))) for m in (by_rule, seen)]
    assert off[1] < off[0] < 0.8 * by_rule.disc.diameter
    assert "taken to be" in by_rule.macula.statements[0].text and "darkest spot" in seen.macula.statements[0].text


def test_lesions_are_counted_located_and_boxed():
    checked = 0
    for seed in range(60):
        phantom = draw(seed)
        lesions = [f for f in phantom.findings if f.name in SMALL_LESIONS]
        if not lesions:
            assert measured(phantom).pieces == []
            continue
        found = measured(phantom)
        record = phantom.record("a", "a.png")
        for finding in lesions:
            mine = [piece for piece in found.pieces if finding.name in piece.covers]
            assert abs(len(mine) - finding.count) <= max(1, 0.1 * finding.count)
            quadrants = {piece.quadrant for piece in mine}
            if finding.location == "macula":
                assert any("macula" in piece.zones for piece in mine)
            else:
                assert quadrants == set(finding.location.split(", "))
            assert min(p.to_fovea for p in mine) == pytest.approx(from_fovea(record, finding.name), abs=0.3)
            truth = phantom.boxes[finding.name]
            for piece in mine:
                middle = ((piece.box.left + piece.box.right) / 2, (piece.box.top + piece.box.bottom) / 2)
                assert any(a - 2 <= middle[0] <= b + 2 and t - 2 <= middle[1] <= u + 2 for a, t, b, u in truth)
            checked += 1
        if checked > 25:
            return
    raise AssertionError("too few phantoms with lesions")


def test_a_checkpoint_without_masks_measures_nothing():
    found = measured(draw(0), names=())
    assert found.disc.found is None and found.vessels.found is None and found.macula.centre is None
    assert found.kinds == () and found.pieces == []


def test_without_the_eye_side_there_are_neither_quadrants_nor_a_fovea():
    phantom = next(p for p in map(draw, range(40)) if p.diagnosis == ("diabetic_retinopathy",))
    found = measured(phantom, nasal=None)
    assert found.macula.centre is None and found.pieces
    assert all(piece.quadrant is None and piece.to_fovea is None for piece in found.pieces)


def test_a_mask_that_is_empty_has_no_disc():
    phantom = draw(3)
    prepared = SETTINGS.prepare(phantom.image)
    frame = Frame.of(phantom.image, SETTINGS)
    masks = {"disc": np.zeros((256, 256)), "cup": np.zeros((256, 256))}
    found = measure(masks, prepared.field[0].numpy(), frame, 1)
    assert found.disc.found is False and found.disc.cup_disc_ratio is None and found.macula.centre is None


def test_a_disc_without_a_cup_has_no_ratio():
    phantom = draw(3)
    phantom.masks["cup"][:] = False
    disc = measured(phantom).disc
    assert disc.found and disc.cup_disc_ratio is None and "no cup is drawn" in disc.statements[0].text


def test_boxes_are_in_the_pixels_of_a_photograph_of_any_shape():
    phantom = finish(sketch(5, 256, diagnosis="amd"))
    wide = np.zeros((512, 900, 3), dtype=np.uint8)
    wide[:, 200:712] = np.kron(phantom.image, np.ones((2, 2, 1), dtype=np.uint8))
    large = {n: np.zeros((512, 900), dtype=bool) for n in NAMES}
    for name in NAMES:
        large[name][:, 200:712] = np.kron(phantom.masks[name], np.ones((2, 2), dtype=bool))
    prepared = SETTINGS.prepare(wide, large, NAMES)
    masks = dict(zip(NAMES, prepared.masks.numpy(), strict=True))
    found = measure(masks, prepared.field[0].numpy(), Frame.of(wide, SETTINGS), 1 if phantom.eye == "right" else -1)
    left, top, right, bottom = phantom.boxes["disc"]
    box = found.disc.box
    assert (box.left, box.top) == pytest.approx((200 + 2 * left, 2 * top), abs=6)
    assert (box.right, box.bottom) == pytest.approx((200 + 2 * right, 2 * bottom), abs=6)
