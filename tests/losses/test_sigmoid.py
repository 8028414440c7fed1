"""SigLIP's loss by hand. What it shares with the others is in test_every_contrast.py."""

import math

import pytest
import torch
import torch.nn.functional as F

from mdf.losses.sigmoid import sigmoid_loss


def by_loops(images, texts, scale, bias, positive):
    """The formula one number at a time."""
    total = 0.0
    for i, v in enumerate(images):
        for j, t in enumerate(texts):
            z = 1 if positive(i, j) else -1
            total += math.log(1 + math.exp(-z * (scale * float(v @ t) + bias)))
    return total / len(images)


def test_by_hand():
    eye = torch.eye(2)
    loss = sigmoid_loss(eye, eye, torch.tensor(2.0), torch.tensor(-1.0))
    assert float(loss) == pytest.approx(2 * math.log(1 + math.exp(-1)))  # logits 1 and -1, both right by 1


def test_equal_captions_are_positives_and_the_scale_and_bias_count():
    draw = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(4, 5, generator=draw), dim=-1) for _ in range(2))
    group = torch.tensor([3, 8, 3, 1])
    loss = sigmoid_loss(images, texts, torch.tensor(6.0), torch.tensor(-2.0), group)
    wanted = by_loops(images, texts, 6.0, -2.0, lambda i, j: bool(group[i] == group[j]))
    assert float(loss) == pytest.approx(wanted, rel=1e-5)  # float32 against Python's floats


def test_at_the_start_of_the_paper_the_negatives_cost_nothing():
    eye = torch.eye(64)
    loss = sigmoid_loss(eye, eye, torch.tensor(10.0), torch.tensor(-10.0))
    assert float(loss) == pytest.approx(math.log(2), abs=0.01)  # each photograph's own text is still undecided
