"""Image-label-text loss of FLAIR (Silva-Rodríguez et al. 2025, section 3.2): pairs with the same label are positives.

Shapes: B pairs of this process, N of all, E embedding width, K labels.
"""

from torch import Tensor

from mdf.losses.contrastive import compared, cross_entropy, wide
from mdf.losses.gather import gather, gather_with_grad, sizes_of


def label_aware_contrastive_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    label_ids: Tensor | None = None,
    label_sets: Tensor | None = None,
    *,
    local: bool = False,
) -> Tensor:
    """Mean of both directions' cross-entropy with targets shared over equal labels, each row normalised to 1.

    L is that of `contrastive_loss` with t_ij = o_ij / Σ_k o_ik, where o_ij is 1 for equal label_ids and 0 for others,
    or |S_i ∩ S_j| / |S_i ∪ S_j| for label_sets S.

    Args:
        image_embeds, text_embeds: unit vectors [B,E] of this process.
        logit_scale: the multiplier.
        label_ids: int64 [B]; equal ids are positives, rows with a negative id take no part.
        label_sets: bool [B,K] instead; the overlap (intersection over union) of two sets is the target before
            normalising. A row with an empty set matches only itself.
        local: compute the logits of this process's rows only.
    """
    if (label_ids is None) == (label_sets is None):
        raise ValueError("give either label_ids int64 [B] or label_sets bool [B,K]")
    sizes = sizes_of(image_embeds)
    images, texts = gather_with_grad(wide(image_embeds), sizes), gather_with_grad(wide(text_embeds), sizes)
    if label_ids is not None:
        ids = gather(label_ids, sizes)
        rows, columns = compared(ids >= 0, sizes, local)
        overlap = ids[rows, None] == ids[None, columns]
    else:
        assert label_sets is not None
        sets = gather(label_sets.to(images.device).long(), sizes).to(images.dtype)
        rows, columns = compared(sets.new_ones(len(sets)).bool(), sizes, local)
        shared = sets[rows] @ sets.T
        union = sets[rows].sum(1)[:, None] + sets.sum(1)[None] - shared
        overlap = shared / union.clamp(min=1)
        overlap = overlap.masked_fill(rows[:, None] == columns[None], 1.0)
    return cross_entropy(images, texts, logit_scale, overlap, rows, columns, local)
