"""FLAIR's loss by hand. What it shares with the others is in test_every_contrast.py."""

import math

import pytest
import torch
import torch.nn.functional as F

from mdf.losses.contrastive import contrastive_loss
from mdf.losses.label_aware import label_aware_contrastive_loss

SETS = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]).bool()


def pairs(count=4, width=5):
    generator = torch.Generator().manual_seed(0)
    return tuple(F.normalize(torch.randn(count, width, generator=generator), dim=-1) for _ in range(2))


def by_loops(images, texts, scale, overlap):
    """The same formula one number at a time."""
    count, total = len(images), 0.0
    for a, b in ((images, texts), (texts, images)):
        for i in range(count):
            logits = [scale * float(a[i] @ b[j]) for j in range(count)]
            log_sum = math.log(sum(math.exp(x) for x in logits))
            for j in range(count):
                total += overlap[i][j] / sum(overlap[i]) * (log_sum - logits[j])
    return total / (2 * count)


def test_label_ids_are_shared_evenly():
    images, texts = pairs()
    loss = label_aware_contrastive_loss(images, texts, torch.tensor(4.0), label_ids=torch.tensor([3, 8, 3, 3]))
    equal = [[1, 0, 1, 1], [0, 1, 0, 0], [1, 0, 1, 1], [1, 0, 1, 1]]
    assert float(loss) == pytest.approx(by_loops(images, texts, 4.0, equal), abs=1e-5)


def test_label_sets_count_by_their_overlap_and_an_empty_set_matches_only_itself():
    images, texts = pairs()
    loss = label_aware_contrastive_loss(images, texts, torch.tensor(4.0), label_sets=SETS)
    overlap = [[1, 1 / 2, 0, 0], [1 / 2, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert float(loss) == pytest.approx(by_loops(images, texts, 4.0, overlap), abs=1e-5)


def test_sets_of_one_label_are_label_ids_and_different_labels_are_clip():
    images, texts = pairs()
    scale = torch.tensor(6.0)
    ids = torch.tensor([0, 2, 0, 1])
    as_sets = label_aware_contrastive_loss(images, texts, scale, label_sets=F.one_hot(ids).bool())
    torch.testing.assert_close(as_sets, label_aware_contrastive_loss(images, texts, scale, label_ids=ids))
    different = label_aware_contrastive_loss(images, texts, scale, label_ids=torch.arange(4))
    torch.testing.assert_close(different, contrastive_loss(images, texts, scale))


def test_the_scale_is_the_multiplier():
    eye = torch.eye(2)
    loss = label_aware_contrastive_loss(eye, eye, torch.tensor(math.log(3)), label_ids=torch.tensor([0, 1]))
    assert float(loss) == pytest.approx(math.log(4 / 3))


@pytest.mark.parametrize("labels", [{}, {"label_ids": torch.arange(4), "label_sets": SETS}])
def test_exactly_one_kind_of_label_is_given(labels):
    with pytest.raises(ValueError, match="either label_ids"):
        label_aware_contrastive_loss(*pairs(), torch.tensor(1.0), **labels)
