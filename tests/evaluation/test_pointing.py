"""The figures of maps on pictures whose answer is known."""

import numpy as np
import pytest
import torch

from mdf.evaluation.pointing import SHARES, area, curve, energy, enlarge, overlap, pointing, ranks
from mdf.processor import Inputs

FIELD = np.ones((64, 64), dtype=bool)


def lesion(row=20, column=44, radius=2):
    y, x = np.indices((64, 64))
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


def peak(row, column):
    values = np.zeros((64, 64))
    values[row, column] = 1
    return values


def test_pointing_at_the_lesion_beside_it_and_elsewhere():
    assert pointing(peak(20, 44), lesion(), FIELD) == 1
    assert pointing(peak(20, 47), lesion(), FIELD) == 1  # a pixel beside it, 0.03 of 64 are 1.9
    assert pointing(peak(20, 47), lesion(), FIELD, tolerance=0) == 0
    assert pointing(peak(40, 10), lesion(), FIELD) == 0


def test_a_maximum_outside_the_field_does_not_count():
    field = FIELD.copy()
    field[:, :8] = False
    assert pointing(peak(20, 4) * 2 + peak(20, 44), lesion(), field) == 1


def test_an_even_map_points_as_a_random_one_does():
    near = pointing(np.ones((64, 64)), lesion(), FIELD)
    rng = np.random.default_rng(0)
    drawn = np.mean([pointing(rng.random((64, 64)), lesion(), FIELD) for _ in range(2000)])
    assert near == pytest.approx(drawn, abs=0.01) and 0 < near < 0.02


def test_energy_counts_the_patches_that_the_lesion_touches():
    values = np.zeros((16, 16))
    values[5, 11] = 3  # pixels 20 to 23, 44 to 47
    values[0, 0] = 1
    large = np.kron(values, np.ones((4, 4)))
    assert energy(large, lesion(radius=0), 16) == pytest.approx(0.75)
    assert energy(-large, lesion(), 16) != energy(-large, lesion(), 16)  # NaN: nothing is positive


def test_overlap_of_the_mask_itself_and_of_its_opposite():
    assert overlap(lesion().astype(float), lesion(), FIELD) == 1
    assert overlap(1 - lesion(), lesion(), FIELD) == 0
    assert np.isnan(overlap(np.ones((64, 64)), np.zeros_like(FIELD), FIELD))


def test_a_map_of_patches_keeps_its_place_when_it_is_enlarged():
    values = np.zeros((16, 16))
    values[5, 11] = 1
    large = enlarge(values, 64)
    y, x = np.unravel_index(large.argmax(), large.shape)
    assert 20 <= y < 24 and 44 <= x < 48


def test_ranks_go_from_the_highest_value_to_the_lowest_inside_the_field():
    field = FIELD.copy()
    field[0] = False
    found = ranks(lesion().astype(float), field, np.random.default_rng(0))
    share = lesion().sum() / field.sum()
    assert (found[lesion()] < share).all() and (found[field & ~lesion()] >= share).all() and (found[0] == 2).all()
    assert np.allclose(np.sort(found[field]), np.arange(field.sum()) / field.sum())


def test_curves_tell_a_true_map_from_an_untrue_one():
    """An answer that is exactly the share of the lesion that is still seen."""
    mask = torch.from_numpy(lesion())
    whole = Inputs(
        {"unet_pixels": mask[None, None].float().expand(1, 3, -1, -1), "field": torch.ones(1, 1, 64, 64) > 0}
    )
    gone = Inputs({"unet_pixels": torch.zeros(1, 3, 64, 64), "field": whole["field"]})

    def answer(inputs):
        return (inputs["unet_pixels"][:, 0] * mask).sum((1, 2)).numpy() / float(mask.sum())

    areas = {}
    for name, values in {"true": lesion(), "untrue": ~lesion()}.items():
        order = torch.from_numpy(ranks(values.astype(float), FIELD, np.random.default_rng(0)))[None]
        deleted = curve(answer, whole, gone, order)
        assert deleted.shape == (1, len(SHARES)) and deleted[0, 0] == 1 and deleted[0, -1] == 0
        inserted = curve(answer, gone, whole, order, ends=(np.zeros(1), np.ones(1)))
        areas[name] = float(area(deleted)[0]), float(area(inserted)[0])
    assert areas["true"][0] < 0.02 and areas["true"][1] > 0.98
    assert areas["untrue"][0] > 0.7 and areas["untrue"][1] < 0.3
