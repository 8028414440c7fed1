"""Symmetric InfoNCE of CLIP (Radford et al. 2021, figure 3), with equal captions as mutual positives.

Shapes: B pairs (after gathering over processes), E embedding width.
"""

from torch import Tensor

from mdf.losses.gather import gather, gather_with_grad


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of -Σ_j t_ij log softmax(logits_i)_j; logits and targets [B,B]."""
    return -(targets * logits.log_softmax(-1)).sum(-1).mean()


def nothing(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """0 with a gradient of 0, for a step in which no row takes part: several processes wait for every gradient."""
    return 0.0 * (images.sum() + texts.sum() + logit_scale.float().sum())


def contrastive_loss(
    image_embeds: Tensor, text_embeds: Tensor, logit_scale: Tensor, positives: Tensor | None = None
) -> Tensor:
    """Mean of image-to-text and text-to-image cross-entropy of s·v·tᵀ.

    Args:
        image_embeds, text_embeds: unit vectors [B,E] of this process; those of the others are gathered with gradient.
        logit_scale: the multiplier s.
        positives: int64 [B]; rows with equal ids are mutual positives and share the target evenly, rows with a negative
            id take no part. None = each row its own.
    """
    images, texts = gather_with_grad(image_embeds.float()), gather_with_grad(text_embeds.float())
    if positives is None:
        equal = images.new_ones(len(images)).diag()
    else:
        ids = gather(positives)
        known = ids >= 0
        images, texts, ids = images[known], texts[known], ids[known]
        if not len(ids):
            return nothing(images, texts, logit_scale)
        equal = (ids[:, None] == ids[None]).float()
    logits = logit_scale.float() * images @ texts.T
    targets = equal / equal.sum(1, keepdim=True)
    return (soft_cross_entropy(logits, targets) + soft_cross_entropy(logits.T, targets)) / 2
