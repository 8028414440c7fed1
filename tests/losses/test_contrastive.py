"""CLIP's loss: values by hand. What it shares with the others is in test_every_contrast.py."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mdf.losses.contrastive import contrastive_loss


def pairs(count: int = 6, width: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(F.normalize(torch.randn(count, width, generator=generator), dim=-1) for _ in range(2))


ONE = torch.tensor(1.0)


def test_by_hand():
    eye = torch.eye(2)
    assert float(contrastive_loss(eye, eye, ONE)) == pytest.approx(math.log(1 + math.exp(-1)))


def test_both_directions_count_alike():
    images, texts = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # both texts are like the first photograph
    # photograph 0 sees logits (1, 1), photograph 1 (0, 0): ln 2 each. Both texts see (1, 0): right once, wrong once
    by_text = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert float(contrastive_loss(images, texts, ONE)) == pytest.approx((math.log(2) + by_text) / 2)
    assert float(contrastive_loss(texts, images, ONE)) == pytest.approx((math.log(2) + by_text) / 2)


def test_the_scale_is_the_multiplier_and_no_logarithm():
    eye = torch.eye(2)
    assert float(contrastive_loss(eye, eye, torch.tensor(math.log(3)))) == pytest.approx(math.log(4 / 3))
    scale = torch.tensor(5.0, requires_grad=True)
    contrastive_loss(*pairs(), scale).backward()
    assert scale.grad.abs() > 0


def test_equal_captions_are_mutual_positives():
    eye = torch.eye(2)
    same = contrastive_loss(eye, eye, ONE, torch.tensor([9, 9]))
    assert float(same) == pytest.approx(math.log(1 + math.e) - 0.5)  # targets one half each
    images, texts = pairs()
    assert torch.equal(contrastive_loss(images, texts, ONE, torch.arange(6)), contrastive_loss(images, texts, ONE))
    # at the optimum of equal captions, equal embeddings cost only the entropy of a target of one half each
    group = torch.tensor([0, 0, 1, 1])
    ideal = torch.eye(2)[group]
    assert float(contrastive_loss(ideal, ideal, torch.tensor(100.0), group)) == pytest.approx(math.log(2), abs=1e-4)
    ideal.requires_grad_()
    contrastive_loss(ideal, ideal, torch.tensor(100.0), group).backward()
    assert ideal.grad.abs().max() < 1e-4


def test_equal_captions_with_equal_embeddings_have_one_gradient_with_and_without_positives():
    images, captions = pairs()
    group = torch.tensor([0, 1, 0, 2, 1, 0])
    captions.requires_grad_()
    plain, shared = (
        torch.autograd.grad(contrastive_loss(images, captions[group], torch.tensor(5.0), ids), captions)[0]
        for ids in (None, group)
    )
    torch.testing.assert_close(plain, shared)


def test_it_is_computed_in_float32():
    images, texts = pairs()
    assert contrastive_loss(images.bfloat16(), texts.bfloat16(), ONE.bfloat16()).dtype == torch.float32


def test_autocast_does_not_reach_it():
    images, texts = pairs()
    with torch.autocast("cpu", torch.bfloat16):
        inside = contrastive_loss(images, texts, torch.tensor(30.0))
    assert torch.equal(inside, contrastive_loss(images, texts, torch.tensor(30.0)))


def test_as_many_texts_as_photographs():
    images, texts = pairs()
    with pytest.raises(ValueError, match="5 rows, but 6"):
        contrastive_loss(images, texts[:5], ONE)
