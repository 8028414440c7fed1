"""Image-label-text loss of FLAIR (Silva-Rodríguez et al. 2025, section 3.2): pairs with the same label are positives.

Shapes: B pairs (after gathering over processes), E embedding width, K labels.
"""

from torch import Tensor

from mdf.losses.contrastive import nothing, soft_cross_entropy
from mdf.losses.gather import gather, gather_with_grad


def label_aware_contrastive_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    label_ids: Tensor | None = None,
    label_sets: Tensor | None = None,
) -> Tensor:
    """Mean of both directions' cross-entropy with targets shared over equal labels, each row normalised to 1.

    Args:
        image_embeds, text_embeds: unit vectors [B,E] of this process.
        logit_scale: the multiplier.
        label_ids: int64 [B]; equal ids are positives, rows with a negative id take no part.
        label_sets: bool [B,K] instead; the overlap (intersection over union) of two sets is the target before
            normalising. A row with an empty set matches only itself.
    """
    if (label_ids is None) == (label_sets is None):
        raise ValueError("give either label_ids int64 [B] or label_sets bool [B,K]")
    images, texts = gather_with_grad(image_embeds.float()), gather_with_grad(text_embeds.float())
    if label_ids is not None:
        ids = gather(label_ids)
        known = ids >= 0
        images, texts, ids = images[known], texts[known], ids[known]
        if not len(ids):
            return nothing(images, texts, logit_scale)
        overlap = (ids[:, None] == ids[None]).float()
    else:
        assert label_sets is not None
        sets = gather(label_sets.to(image_embeds.device).long()).float()
        shared = sets @ sets.T
        union = sets.sum(1)[:, None] + sets.sum(1)[None] - shared
        overlap = shared / union.clamp(min=1)
        overlap = overlap.masked_fill(overlap.new_ones(len(overlap)).diag().bool(), 1.0)
    logits = logit_scale.float() * images @ texts.T
    targets = overlap / overlap.sum(1, keepdim=True)
    return (soft_cross_entropy(logits, targets) + soft_cross_entropy(logits.T, targets)) / 2
