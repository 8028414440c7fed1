import numpy as np

from mdf.evaluation.segmentation import dice, segmentation_metrics


def test_dice_inside_the_field_by_hand():
    masks, probabilities = np.zeros((3, 1, 4, 4)), np.zeros((3, 1, 4, 4))
    field = np.ones((3, 1, 4, 4), dtype=bool)
    field[:, :, 3] = False
    masks[0, 0, 0, :4] = 1  # four pixels, two found, and one marked too many
    probabilities[0, 0, 0, :2] = 0.5
    probabilities[0, 0, 1, 0] = 0.9
    probabilities[0, 0, 3] = 1  # outside the field: does not count
    probabilities[1, 0, 0, :3] = 0.7  # nothing is there: 3 of 12 pixels marked wrongly
    known = np.array([[True], [True], [False]])
    overlap, wrong = dice(probabilities, masks, known, field)
    assert overlap[0, 0] == 2 * 2 / (3 + 4) and np.isnan(overlap[1:]).all()
    assert wrong[1, 0] == 0.25 and np.isnan(wrong[[0, 2]]).all()
    metrics = segmentation_metrics(overlap, wrong, ["vessel"], list("abc"))
    assert metrics["vessel"]["dice"] == 4 / 7
    assert (metrics["vessel"]["n"], metrics["vessel"]["n_drawn"]) == (2, 1)
    assert metrics["vessel"]["marked_where_none"] == 0.25


def test_a_mask_that_nobody_drew_is_left_out():
    nothing = np.full((2, 2), np.nan)
    nothing[:, 0] = 0.5
    assert list(segmentation_metrics(nothing, np.full((2, 2), np.nan), ["vessel", "disc"], ["a", "b"])) == ["vessel"]
