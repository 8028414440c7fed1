"""What the U-Net's masks tell of a patch: what is in it, and where it lies in the eye."""

import pytest
import torch

from mdf.models.patches import PatchProjection
from mdf.models.readings import cup_disc_ratio, readings, width

MASKS = ("vessel", "haemorrhage", "disc")
TEMPORAL, DOWN = 2 * len(MASKS), 2 * len(MASKS) + 1  # their places among the readings


def eye(disc_column: int) -> torch.Tensor:
    """Probabilities [1,3,32,32] with a small haemorrhage above and to the left, and a disc in the given column."""
    p = torch.zeros(1, 3, 32, 32)
    p[0, 1, 5, 6] = 0.9
    p[0, 2, 14:18, disc_column : disc_column + 4] = 1.0
    return p


def test_a_lesion_is_read_in_its_own_patch_only():
    found = readings(eye(24), MASKS, 4)[0]
    assert found.shape == (16, width(MASKS)) == (16, 12)
    assert found[:, 1].nonzero().flatten().tolist() == [0] == found[:, len(MASKS) + 1].nonzero().flatten().tolist()
    assert found[0, len(MASKS) + 1] == pytest.approx(0.9), "the highest probability"
    assert found[0, 1] == pytest.approx((0.9 / 64) ** 0.5), "the root of the share"


def test_temporal_is_the_side_away_from_the_disc_in_either_eye():
    right, left = (readings(eye(column), MASKS, 4)[0].view(4, 4, -1) for column in (24, 4))
    assert (right[:, :2, TEMPORAL] > 0).all() and (right[:, 2:, TEMPORAL] < 0).all()
    assert (left[:, 2:, TEMPORAL] > 0).all() and (left[:, :2, TEMPORAL] < 0).all()
    assert (right[2:, :, DOWN] > 0).all() and torch.equal(right[..., DOWN], left[..., DOWN])


def test_a_mirrored_photograph_reads_the_same_mirrored():
    p = eye(24)
    here, there = (readings(x, MASKS, 4)[0].view(4, 4, -1) for x in (p, p.flip(-1)))
    torch.testing.assert_close(there, here.flip(1))


def test_no_disc_leaves_the_side_open():
    p = eye(24)
    p[:, 2] = 0
    found = readings(p, MASKS, 4)
    assert found.isfinite().all() and (found[..., TEMPORAL] == 0).all()
    assert width(("vessel",)) == readings(p[:, :1], ("vessel",), 4).shape[-1] == 2


def test_every_patch_knows_the_cup_disc_ratio():
    masks = ("disc", "cup")
    p = torch.zeros(2, 2, 32, 32)
    p[:, 0, 4:24, 4:24], p[0, 1, 8:18, 8:18] = 1.0, 1.0
    assert cup_disc_ratio(p[:, 1], p[:, 0]).tolist() == pytest.approx([0.5, 0.0])
    assert readings(p, masks, 4)[0, :, -1].tolist() == pytest.approx([0.5] * 16)
    assert readings(p, masks, 4).shape[-1] == width(masks) == 11
    p[:, 0] = 0
    assert cup_disc_ratio(p[:, 1], p[:, 0]).tolist() == [0.0, 0.0], "without a disc there is none"


def test_readings_change_the_memory_and_teach_the_unet_nothing():
    projection = PatchProjection(3, 16, 4, 64, width(MASKS))
    p = eye(24).requires_grad_()
    map_ = torch.randn(1, 3, 16, 16)
    memory = projection(map_, readings(p, MASKS, 4))
    other = projection(map_, readings(eye(4), MASKS, 4))
    assert not torch.allclose(memory, other)
    memory.sum().backward()
    assert p.grad is None and projection.reading.weight.grad.abs().sum() > 0
