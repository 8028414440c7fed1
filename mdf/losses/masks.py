"""Soft Dice and binary cross-entropy on masks, per photograph and mask, so that a batch's cut changes nothing.

Shapes: B photographs, K masks, U side.
"""

import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1.0  # pixels; an empty mask that is predicted empty has Dice 1


def mask_loss(mask_logits: Tensor, masks: Tensor, known: Tensor, field: Tensor, dice_weight: float = 1.0) -> Tensor:
    """Sum over known (photograph, mask) pairs of BCE + (1 - soft Dice), inside the field of view only.

    BCE is averaged over the field's pixels and multiplied by ten: most of a lesion mask is background, and its mean is small.
    Dice (Milletari et al. 2016) is 2·Σpq / (Σp + Σq) with probabilities p and truth q.

    Args:
        mask_logits: [B,K,U,U].
        masks: {0,1} [B,K,U,U].
        known: bool [B,K]; pairs that nobody has drawn take no part.
        field: bool [B,1,U,U], inside the field of view.
    """
    inside = field.to(mask_logits.dtype).float()
    logits, truth = mask_logits.float(), masks.float()
    pixels = inside.sum((2, 3)).clamp(min=1)
    bce = (F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * inside).sum((2, 3)) / pixels
    p, q = logits.sigmoid() * inside, truth * inside
    dice = (2 * (p * q).sum((2, 3)) + SMOOTH) / (p.sum((2, 3)) + q.sum((2, 3)) + SMOOTH)
    return ((10 * bce + dice_weight * (1 - dice)) * known.float()).sum()
