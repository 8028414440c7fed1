"""Grounding asks for attention on the lesion that is spoken of, or on nothing where there is none."""

import torch

from mdf.losses.grounding import grounding_loss


def test_attention_on_every_patch_of_the_lesion_counts_and_where_exactly_does_not():
    target = torch.tensor([[True, True, False, False]])
    one = torch.tensor([[[0.8, 0.0, 0.2, 0.0]]])
    both = torch.tensor([[[0.4, 0.4, 0.2, 0.0]]])
    torch.testing.assert_close(grounding_loss(one, target), -torch.tensor(0.8).log())
    torch.testing.assert_close(grounding_loss(both, target), -torch.tensor(0.8).log())


def test_where_the_lesion_is_absent_the_right_place_is_nothing():
    absent = torch.zeros(1, 4, dtype=torch.bool)
    assert grounding_loss(torch.zeros(1, 1, 4), absent) == 0
    torch.testing.assert_close(grounding_loss(torch.full((1, 1, 4), 0.2), absent), -torch.tensor(0.2).log())


def test_it_is_a_sum_over_positions_and_a_mean_over_adapters():
    attention = torch.rand(3, 2, 4) / 4
    target = torch.tensor([[True, False, False, True], [False] * 4, [False, True, False, False]])
    rows = sum(grounding_loss(attention[i : i + 1], target[i : i + 1]) for i in range(3))
    torch.testing.assert_close(grounding_loss(attention, target), rows)
    adapters = [grounding_loss(attention[:, a : a + 1], target) for a in range(2)]
    torch.testing.assert_close(grounding_loss(attention, target), sum(adapters) / 2)


def test_no_grounded_position_is_no_loss():
    assert grounding_loss(torch.zeros(0, 2, 4), torch.zeros(0, 4, dtype=torch.bool)) == 0


def test_attention_that_misses_everything_still_has_a_finite_gradient_towards_the_lesion():
    logits = torch.tensor([[[9.0, -9.0, -9.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[False, True, False]])
    grounding_loss(logits.softmax(-1)[..., :-1], target).backward()
    assert torch.isfinite(logits.grad).all()
    near = torch.tensor([[[2.0, 1.0, 0.5, 0.0]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: grounding_loss(x.softmax(-1)[..., :-1], target), near)
