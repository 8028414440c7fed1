"""Answers and drawn lesions put together: the report follows its evidence."""

import numpy as np
import pytest

from mdf.dialogue import SMALL_LESIONS, Prompts
from mdf.inference.findings import Answers, combine, fits, may_be, most, owner
from mdf.inference.measure import Measured, Piece
from mdf.inference.report import Box, Disc, Macula, Origin, Vessels
from mdf.resources import bundled

MA, BLEED, EXUDATE, SPOT, DRUSEN = SMALL_LESIONS
RED, PALE = (MA, BLEED), (EXUDATE, SPOT, DRUSEN)


@pytest.fixture(scope="module")
def prompts():
    return Prompts(bundled("prompts"))


def piece(covers, width=0.1, quadrant="superonasal", away=2.0, label=1) -> Piece:
    return Piece(label, Box(left=1, top=1, right=4, bottom=4), tuple(covers), width, quadrant, away, on_disc=False)


def measured(*pieces: Piece, kinds=SMALL_LESIONS, nasal=1) -> Measured:
    return Measured(Disc(), Vessels(), Macula(), list(pieces), np.zeros((4, 4), dtype=np.int32), tuple(kinds), nasal)


def said(found: Measured, prompts, thresholds=None, **present):
    answers = Answers({**dict.fromkeys(SMALL_LESIONS, 0.05), **present}, thresholds=thresholds or {})
    return {one.kind: one for one in combine(found, answers, prompts)}


def test_present_needs_both_the_answer_and_a_drawn_lesion(prompts):
    pieces = [piece(RED, label=i) for i in range(7)]
    both = said(measured(*pieces), prompts, microaneurysm=0.9)[MA]
    assert both.present is True and both.count == 7 and both.band == "six to twenty"
    assert both.zones == ["superonasal"] and both.by_zone == {"superonasal": 7} and both.nearest_fovea == 2.0
    assert len(both.boxes) == 7 and both.seen and both.origin == Origin.SEGMENTATION
    neither = said(measured(), prompts)[MA]
    assert neither.present is False and neither.count is None and not neither.boxes


def test_with_swapped_masks_the_report_does_not_say_what_its_evidence_contradicts(prompts):
    # the language model affirms, another photograph's masks show nothing: not said
    empty = said(measured(), prompts, microaneurysm=0.97, haemorrhage=0.9)
    assert empty[MA].present is None and empty[BLEED].present is None and empty[MA].count is None
    assert "no regions in the mask of microaneurysms" in empty[MA].evidence[0].text
    # and the other way round: drawn, and denied
    full = said(measured(*[piece(RED, label=i) for i in range(30)]), prompts)
    assert full[MA].present is None and full[EXUDATE].present is False
    assert full[MA].count is None and full[MA].drawn == 30 and len(full[MA].boxes) == 30


def test_a_lesion_under_several_masks_is_of_the_kind_that_is_affirmed(prompts):
    found = said(measured(piece(PALE), piece(PALE, label=2)), prompts, drusen=0.8)
    assert found[DRUSEN].count == 2 and found[DRUSEN].drawn == 2
    assert found[EXUDATE].present is False and found[EXUDATE].drawn == 2
    assert found[EXUDATE].evidence[0].text.endswith("none of them taken for hard exudates")


def test_of_several_affirmed_kinds_the_width_decides_and_then_the_likelier(prompts):
    small, large = piece(RED, width=0.1), piece(RED, width=0.25, label=2)
    found = said(measured(small, large, small), prompts, microaneurysm=0.9, haemorrhage=0.6)
    assert (found[MA].count, found[BLEED].count) == (2, 1)
    pale = said(measured(piece(PALE), piece(PALE, width=0.3, label=2)), prompts, hard_exudate=0.6, cotton_wool_spot=0.6)
    assert (pale[EXUDATE].count, pale[SPOT].count) == (1, 1)
    likelier = said(measured(piece(PALE)), prompts, hard_exudate=0.6, drusen=0.9)
    assert likelier[DRUSEN].present is True and likelier[EXUDATE].present is None


def test_a_lesion_that_nobody_affirms_leaves_open_all_that_it_may_be(prompts):
    found = said(measured(piece(PALE, width=0.1)), prompts)
    assert found[EXUDATE].present is None and found[DRUSEN].present is None
    assert found[SPOT].present is False  # it is too small for one


def test_an_affirmed_kind_takes_none_that_is_clearly_too_small_or_too_large_for_it(prompts):
    small, large = piece([EXUDATE, SPOT], width=0.1), piece([EXUDATE, SPOT], width=0.3, label=2)
    found = said(measured(small, large), prompts, cotton_wool_spot=0.9)
    assert found[SPOT].count == 1 and found[EXUDATE].present is None
    nearly = said(measured(piece([EXUDATE, SPOT], width=0.2)), prompts, cotton_wool_spot=0.9)
    assert nearly[SPOT].count == 1 and nearly[EXUDATE].present is False


def test_thresholds_that_were_fitted_replace_a_half(prompts):
    pieces = measured(piece(PALE))
    assert said(pieces, prompts, hard_exudate=0.3)[EXUDATE].present is None
    assert said(pieces, prompts, {EXUDATE: 0.2}, hard_exudate=0.3)[EXUDATE].present is True
    assert said(pieces, prompts, {EXUDATE: 0.4}, hard_exudate=0.45, drusen=0.45)[EXUDATE].present is True


def test_without_a_mask_the_answer_stands_alone_and_without_evidence(prompts):
    answers = Answers({MA: 0.9, BLEED: 0.1}, {MA: ("superonasal", 0.7)}, {MA: ("Six to twenty", 0.6)})
    found = {one.kind: one for one in combine(measured(kinds=()), answers, prompts)}
    assert set(found) == {MA, BLEED} and found[BLEED].present is False
    assert found[MA].present is True and not found[MA].seen and found[MA].drawn is None
    assert found[MA].origin == Origin.SCORING and found[MA].zones == ["superonasal"]
    assert found[MA].band == "six to twenty" and most(list(found.values()), prompts) == {MA: 20}


def test_a_mask_of_a_kind_that_is_not_asked_for_speaks_for_itself(prompts):
    laser = measured(piece(["laser_scar"]), kinds=("laser_scar",))
    found = said(laser, prompts)
    assert found["laser_scar"].present is True and found["laser_scar"].answered is None
    assert said(measured(kinds=("laser_scar",)), prompts)["laser_scar"].present is False


def test_without_the_side_there_is_a_number_and_no_place(prompts):
    found = said(measured(piece([DRUSEN], quadrant=None, away=None), nasal=None), prompts, drusen=0.9)[DRUSEN]
    assert found.count == 1 and found.zones is None and found.by_zone is None and found.nearest_fovea is None


def test_zones_are_in_their_order_with_the_macula_last(prompts):
    found = said(
        measured(piece([MA], quadrant="inferonasal", away=0.8), piece([MA], quadrant="superotemporal")),
        prompts,
        microaneurysm=0.9,
    )[MA]
    assert found.zones == ["superotemporal", "inferonasal", "macula"] and found.nearest_fovea == 0.8


def test_widths():
    assert fits(piece([MA], width=0.14), MA) and not fits(piece([MA], width=0.15), MA)
    assert fits(piece([MA], width=None), BLEED) and fits(piece([MA]), "laser_scar")
    assert may_be(piece([SPOT], width=0.01)) == [SPOT]  # no other kind covers it
    assert may_be(piece(PALE, width=0.1)) == [EXUDATE, DRUSEN]
    assert owner(piece([MA]), Answers({MA: 0.4})) is None
