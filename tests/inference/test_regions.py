"""A lesion's mask taken apart into single lesions."""

import numpy as np

from mdf.inference.regions import SMALLEST, logit, take_apart


def hills(*places: tuple[float, float], width: float = 2.0, high: float = 5.0, side: int = 64) -> np.ndarray:
    """Logits with a hill at each x, y, above 0 for about one and a half widths."""
    rows, columns = np.mgrid[:side, :side]
    each = [high * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * width**2)) - 1.5 for x, y in places]
    return np.max(each, axis=0).astype(np.float32)


def test_lesions_whose_outlines_meet_are_counted_apart():
    height = hills((20, 20), (26, 20), (50, 50))
    labels, count = take_apart(height)
    assert count == 3 and set(np.unique(labels)) == {0, 1, 2, 3}
    assert labels[20, 20] != labels[20, 26] and (labels > 0).sum() == (height > 0).sum()


def test_one_lesion_with_an_uneven_top_stays_one():
    height = hills((30, 30), width=5)
    height[30, 30:34] -= 0.4  # a saddle, less deep than noise is
    assert take_apart(height)[1] == 1


def test_what_is_smaller_than_noise_is_left_out():
    height = np.full((32, 32), -4.0, dtype=np.float32)
    height[5, 5 : 5 + SMALLEST - 1] = 3
    height[20, 20 : 20 + SMALLEST] = 3
    labels, count = take_apart(height)
    assert count == 1 and labels[20, 20] == 1 and not labels[5].any()


def test_an_empty_mask_has_none():
    labels, count = take_apart(logit(np.zeros((16, 16))))
    assert count == 0 and not labels.any()


def test_many_in_a_chain_are_all_counted():
    assert take_apart(hills(*((8 + 6 * i, 30) for i in range(9))))[1] == 9
