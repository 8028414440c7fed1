import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import jaccard_score, roc_auc_score

from mdf.errors import UserError
from mdf.evaluation.segmentation import cldice, dice, further, segmentation_metrics, thin


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


def vessels(seed: int, shift: int = 0, width: int = 2) -> np.ndarray:
    """bool [96,96]: a few wavy vessels."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:96, :96]
    mask = np.zeros((96, 96), dtype=bool)
    for _ in range(4):
        start, slope, wave = rng.uniform(10, 86), rng.uniform(-0.5, 0.5), rng.uniform(3, 9)
        line = start + shift + slope * (across - 48) + wave * np.sin(across / rng.uniform(8, 15))
        mask |= np.abs(down - line) <= width
    return mask


def one(probabilities: np.ndarray, mask: np.ndarray, field: np.ndarray | None = None, name: str = "vessel") -> dict:
    field = np.ones(mask.shape, dtype=bool) if field is None else field
    known = np.array([[True]])
    return further(probabilities[None, None], mask[None, None].astype(float), known, field[None, None], [name])


def test_overlap_and_ranking_equal_scikit_learn_inside_the_field():
    rng = np.random.default_rng(0)
    mask, field = vessels(0), np.ones((96, 96), dtype=bool)
    field[:, 70:] = False
    probabilities = np.clip(0.4 * mask + rng.random((96, 96)).round(1) * 0.6, 0, 1)
    found = one(probabilities, mask, field)
    inside, score = mask[field], probabilities[field]
    assert found["iou"][0, 0] == pytest.approx(jaccard_score(inside, score >= 0.5))
    assert found["auroc"][0, 0] == pytest.approx(roc_auc_score(inside, score))
    changed = probabilities.copy()
    changed[:, 70:] = 1  # outside the field: does not count
    again = one(changed, mask, field)
    assert all(again[name] == pytest.approx(values) for name, values in found.items())


@pytest.mark.parametrize("seed", range(3))
def test_centre_lines_are_thin_connected_and_in_the_middle(seed):
    mask = vessels(seed, width=3)
    line = thin(mask)
    around = np.ones((3, 3))
    assert not (line & ~mask).any() and line.sum() < 0.3 * mask.sum()
    assert ndimage.label(line, around)[1] == ndimage.label(mask, around)[1]
    solid = ndimage.binary_erosion(line, np.ones((2, 2)))  # a square of four is nowhere, but where lines meet
    assert solid.sum() < 0.05 * line.sum()
    assert np.array_equal(thin(line), line)
    assert not thin(np.zeros((5, 5), dtype=bool)).any()


def test_thin_diagonal_vessels_and_small_squares_keep_their_centre_lines():
    square, diagonal = np.zeros((64, 64), dtype=bool), np.zeros((64, 64), dtype=bool)
    square[5:7, 5:7] = True
    steps = np.arange(5, 55)
    diagonal[steps, steps] = diagonal[steps, steps + 1] = True  # two pixels wide
    assert thin(square).sum() == 1 and cldice(square, square) == 1
    assert thin(diagonal).sum() >= 50
    across = np.zeros((64, 64), dtype=bool)
    across[60, 5:55] = True
    assert cldice(across, across | diagonal) < 0.7  # one of two vessels was found


@pytest.mark.parametrize("density", [0.2, 0.5, 0.8])
def test_no_piece_of_any_mask_vanishes_or_falls_apart(density):
    mask, around = np.random.default_rng(0).random((128, 128)) < density, np.ones((3, 3))
    pieces, count = ndimage.label(mask, around)
    line = thin(mask)
    assert ndimage.label(line, around)[1] == count == len(np.unique(pieces[line]))


@pytest.mark.parametrize("seed", range(3))
def test_centre_lines_are_those_of_scikit_image(seed):
    morphology = pytest.importorskip("skimage.morphology", reason="the extra `images`")
    mask, marked = vessels(seed, width=3), vessels(seed, shift=2)
    line, marked_line = morphology.thin(mask), morphology.thin(marked)
    assert np.array_equal(thin(mask), line) and np.array_equal(thin(marked), marked_line)
    precision, recall = (marked_line & mask).sum() / marked_line.sum(), (line & marked).sum() / line.sum()
    assert cldice(marked, mask) == pytest.approx(2 * precision * recall / (precision + recall))
    # its other way of thinning differs in corners and at ends
    near, theirs = np.ones((3, 3)), morphology.skeletonize(mask)
    assert (ndimage.binary_dilation(theirs, near) & line).sum() >= 0.95 * line.sum()
    assert (ndimage.binary_dilation(line, near) & theirs).sum() >= 0.95 * theirs.sum()


def test_cldice_asks_for_connection_and_not_for_width():
    mask = vessels(1)
    wider = one(vessels(1, width=3).astype(float), mask)
    assert wider["cldice"][0, 0] > 0.95 and wider["iou"][0, 0] < 0.8
    torn = mask.copy()
    torn[:, ::3] = False
    torn[:, 1::3] = False
    assert one(torn.astype(float), mask)["cldice"][0, 0] < 0.8
    assert one(mask.astype(float), mask)["cldice"][0, 0] == 1
    assert one(np.zeros((96, 96)), mask)["cldice"][0, 0] == 0


def test_only_vessels_have_it_and_empty_or_unknown_masks_have_nothing():
    mask = vessels(2)
    assert np.isnan(one(mask.astype(float), mask, name="hard_exudate")["cldice"][0, 0])
    empty = one(mask.astype(float), np.zeros_like(mask))
    assert all(np.isnan(values).all() for values in empty.values())
    unknown = further(
        mask[None, None].astype(float), mask[None, None], np.array([[False]]), np.ones((1, 1, 96, 96), bool), ["vessel"]
    )
    assert all(np.isnan(values).all() for values in unknown.values())


def test_they_stand_beside_dice_with_their_intervals():
    masks = np.stack([vessels(i) for i in range(6)])[:, None]
    rng = np.random.default_rng(1)
    probabilities = np.clip(masks * 0.5 + rng.random(masks.shape) * 0.6, 0, 1)
    arguments = probabilities, masks.astype(float), np.ones((6, 1), dtype=bool), np.ones((6, 1, 96, 96), dtype=bool)
    metrics = segmentation_metrics(
        *dice(*arguments), ["vessel"], list("aabbcd"), further(*arguments, ["vessel"]), resamples=100
    )["vessel"]
    for name in ("dice", "iou", "cldice", "auroc"):
        low, high = metrics[f"{name}_ci"]
        assert low <= metrics[name] <= high
    assert metrics["iou"] < metrics["dice"]


def test_probabilities_that_are_not_numbers_are_said():
    with pytest.raises(UserError, match="not all numbers"):
        one(np.full((96, 96), np.nan), vessels(0))
