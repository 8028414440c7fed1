"""RET-CLIP's three levels by hand. What it shares with the others is in test_every_contrast.py."""

import math

import pytest
import torch
import torch.nn.functional as F

from mdf.losses.contrastive import contrastive_loss
from mdf.losses.patient import both_eyes, patient_contrastive_loss

SCALE = torch.tensor(4.0)
BOTH = torch.ones(5, 2, dtype=torch.bool)


def patients(count=5, width=3):
    draw = torch.Generator().manual_seed(0)
    return tuple(F.normalize(torch.randn(count, 2, width, generator=draw), dim=-1) for _ in range(2))


def test_it_is_the_sum_of_left_right_and_patient_level():
    v, t = patients()
    levels = [(v[:, 0], t[:, 0]), (v[:, 1], t[:, 1]), (v.flatten(1) / math.sqrt(2), t.flatten(1) / math.sqrt(2))]
    wanted = sum(contrastive_loss(a, b, SCALE) for a, b in levels)
    torch.testing.assert_close(patient_contrastive_loss(v, t, SCALE, BOTH), wanted)


def test_each_level_may_have_its_own_scale_and_the_patient_level_its_own_vectors():
    v, t = patients()
    head = torch.randn(6, 7, generator=torch.Generator().manual_seed(2))
    whole = [F.normalize(x.flatten(1) @ head, dim=-1) for x in (v, t)]
    scales = torch.tensor([1.0, 2.0, 3.0])
    wanted = sum(
        contrastive_loss(a, b, s)
        for a, b, s in zip((v[:, 0], v[:, 1], whole[0]), (t[:, 0], t[:, 1], whole[1]), scales, strict=True)
    )
    torch.testing.assert_close(patient_contrastive_loss(v, t, scales, BOTH, *whole), wanted)
    with pytest.raises(ValueError, match="or neither"):
        patient_contrastive_loss(v, t, scales, BOTH, whole[0])


def test_a_missing_eye_leaves_its_level_and_the_patient_is_known_by_the_other():
    v, t = patients()
    eyes = BOTH.clone()
    eyes[1, 0] = False
    left, one = eyes[:, 0], both_eyes(v, eyes)
    torch.testing.assert_close(one[1], torch.cat([torch.zeros(3), v[1, 1]]))
    wanted = contrastive_loss(v[left, 0], t[left, 0], SCALE) + contrastive_loss(v[:, 1], t[:, 1], SCALE)
    wanted += contrastive_loss(one, both_eyes(t, eyes), SCALE)
    torch.testing.assert_close(patient_contrastive_loss(v, t, SCALE, eyes), wanted)
    v[1, 0] = torch.nan  # nothing is read there
    torch.testing.assert_close(patient_contrastive_loss(v, t, SCALE, eyes), wanted)


def test_a_level_without_anybody_adds_nothing():
    v, t = patients()
    eyes = BOTH.clone()
    eyes[:, 0] = False
    right = contrastive_loss(v[:, 1], t[:, 1], SCALE)
    torch.testing.assert_close(patient_contrastive_loss(v, t, SCALE, eyes), 2 * right)  # as right eyes and as patients


def test_equal_reports_are_positives_on_the_level_where_they_are_equal():
    v, t = patients()
    ids = torch.arange(5)[:, None].repeat(1, 3)
    ids[4, 1] = 0  # equal text for the right eyes of the first and the last
    wanted = patient_contrastive_loss(v, t, SCALE, BOTH) - contrastive_loss(v[:, 1], t[:, 1], SCALE)
    wanted += contrastive_loss(v[:, 1], t[:, 1], SCALE, torch.tensor([0, 1, 2, 3, 0]))
    torch.testing.assert_close(patient_contrastive_loss(v, t, SCALE, BOTH, positives=ids), wanted)
