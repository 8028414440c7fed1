import math

import pytest
import torch

from mdf.losses.masks import mask_loss


def example(photographs=3, masks=2, side=8):
    generator = torch.Generator().manual_seed(0)
    shape = (photographs, masks, side, side)
    logits = torch.randn(shape, generator=generator, requires_grad=True)
    truth = (torch.rand(shape, generator=generator) > 0.7).float()
    known = torch.ones(photographs, masks, dtype=torch.bool)
    field = torch.ones(photographs, 1, side, side, dtype=torch.bool)
    return logits, truth, known, field


def test_by_hand():
    logits, truth = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    known, field = torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    # p = 1/2 and cross-entropy ln 2 everywhere. background: 3 of 4 pixels; foreground: 1/(1+1), weight 1/2;
    # Dice (2 * 1/2 + 1) / (4 * 1/2 + 1 + 1)
    wanted = 3 / 4 * math.log(2) + 0.5 * math.log(2) / 2 + 1 - 2 / 4
    assert float(mask_loss(logits, truth, known, field)) == pytest.approx(wanted)
    # only the left column is inside the field: background 1 of 2 pixels, Dice (1 + 1) / (1 + 1 + 1)
    field[..., 1] = False
    wanted = 1 / 2 * math.log(2) + 0.5 * math.log(2) / 2 + 1 - 2 / 3
    assert float(mask_loss(logits, truth, known, field)) == pytest.approx(wanted)


def test_right_answers_cost_nothing_also_on_an_empty_mask():
    _, truth, known, field = example()
    truth[0] = 0
    assert float(mask_loss((truth * 2 - 1) * 40, truth, known, field)) == pytest.approx(0, abs=1e-5)
    assert float(mask_loss((1 - truth * 2) * 40, truth, known, field)) > 40


def test_what_nobody_drew_takes_no_part():
    logits, truth, known, field = example()
    known[0, 1] = known[2, 0] = False
    loss = mask_loss(logits, truth, known, field)
    loss.backward()
    assert not logits.grad[~known].any()
    assert all(logits.grad[i, k].any() for i, k in known.nonzero().tolist())
    changed = logits.detach().clone()
    changed[~known] = 9.0
    truth[~known] = 1 - truth[~known]
    assert torch.equal(mask_loss(changed, truth, known, field), loss.detach())
    assert float(mask_loss(logits, truth, torch.zeros_like(known), field).detach()) == 0


def test_what_lies_outside_the_field_takes_no_part():
    logits, truth, known, field = example()
    field[:, :, :, 5:] = False
    loss = mask_loss(logits, truth, known, field)
    loss.backward()
    assert not logits.grad[..., 5:].any()
    assert logits.grad[..., :5].all()
    changed, other = logits.detach().clone(), truth.clone()
    changed[..., 5:], other[..., 5:] = -7.0, 1 - other[..., 5:]
    assert torch.equal(mask_loss(changed, other, known, field), loss.detach())


def test_a_photograph_without_any_field_is_no_division_by_zero():
    logits, truth, known, field = example(photographs=1)
    loss = mask_loss(logits, truth, known, torch.zeros_like(field))
    loss.backward()
    assert float(loss.detach()) == 0 and not logits.grad.any()


def test_micro_batches_add_up_to_the_whole_batch():
    logits, truth, known, field = example()
    known[1, 0] = False
    parts = sum(mask_loss(logits[i : i + 1], truth[i : i + 1], known[i : i + 1], field[i : i + 1]) for i in range(3))
    torch.testing.assert_close(parts, mask_loss(logits, truth, known, field))


def test_bfloat16_logits_are_taken_in_float32():
    logits, truth, known, field = example()
    assert mask_loss(logits.bfloat16(), truth, known, field).dtype == torch.float32
