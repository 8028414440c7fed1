"""Soft Dice and balanced cross-entropy on masks, per photograph and mask, so that a batch's cut changes nothing.

Shapes: B photographs, K masks, U side.
"""

import torch.nn.functional as F
from torch import Tensor

FOREGROUND = 0.5  # weight of the foreground's mean cross-entropy
SMOOTH = 1.0  # pixels; an empty mask that is predicted empty has Dice 1


def mask_loss(mask_logits: Tensor, masks: Tensor, known: Tensor, field: Tensor) -> Tensor:
    """Sum over known (photograph, mask) pairs of balanced cross-entropy + (1 - soft Dice), inside the field of view.

    The cross-entropy of the background is averaged over the field, that of the foreground over the foreground and
    weighted by `FOREGROUND`: a microaneurysm is ten pixels of forty thousand, and in a common mean it is never found.
    Dice (Milletari et al. 2016) is 2·Σpq / (Σp + Σq) with probabilities p and truth q.

    Args:
        mask_logits: [B,K,U,U].
        masks: {0,1} [B,K,U,U].
        known: bool [B,K]; pairs that nobody has drawn take no part.
        field: bool [B,1,U,U], inside the field of view.
    """
    inside, logits, truth = field.float(), mask_logits.float(), masks.float()
    p, q = logits.sigmoid() * inside, truth * inside
    foreground = q.sum((2, 3))
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * inside
    background = (bce * (1 - q)).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)
    hit = (bce * q).sum((2, 3)) / (foreground + SMOOTH)
    dice = (2 * (p * q).sum((2, 3)) + SMOOTH) / (p.sum((2, 3)) + foreground + SMOOTH)
    return ((background + FOREGROUND * hit + 1 - dice) * known.float()).sum()
