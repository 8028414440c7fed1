import math

import pytest
import torch

from mdf.losses.text import shift, text_loss


def test_the_logit_before_a_label_predicts_it():
    labels = torch.tensor([[-100, -100, 7, 2], [-100, 5, -100, -100]])
    keep, targets = shift(labels)
    assert keep.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert targets.tolist() == [7, 2, 5]


def test_a_label_on_the_first_token_has_no_logit_before_it():
    keep, targets = shift(torch.tensor([[4, -100, 6]]))
    assert keep.tolist() == [[False, True, False]]
    assert targets.tolist() == [6]


def test_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    assert float(text_loss(logits, torch.tensor([1, 0]))) == pytest.approx(math.log(4 / 3) + math.log(2))


def test_it_is_computed_in_float32_whatever_the_logits_are():
    logits = torch.randn(5, 11).bfloat16()
    loss = text_loss(logits, torch.arange(5))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, text_loss(logits.float(), torch.arange(5)))


def test_micro_batches_add_up_to_the_whole_batch():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 6, 13), torch.randint(0, 13, (4, 6))
    labels[0, :5] = labels[1, 3:] = -100  # rows of unequal many supervised tokens

    def loss(rows):
        keep, targets = shift(labels[rows])
        return text_loss(logits[rows][keep], targets)

    torch.testing.assert_close(sum(loss([i]) for i in range(4)), loss([0, 1, 2, 3]))
