"""Sigmoid loss of SigLIP (Zhai et al. 2023, section 3.2): every photograph and text is a question of yes or no.

Shapes: B pairs of this process, N of all, E embedding width.
"""

import torch.nn.functional as F
from torch import Tensor

from mdf.losses.contrastive import gather_pairs, nothing, similarities, wide
from mdf.losses.gather import sum_over_processes


def sigmoid_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    positives: Tensor | None = None,
    *,
    local: bool = False,
) -> Tensor:
    """L = -1/N Σ_i Σ_j log σ(z_ij · (s·v_i·t_j + b)), with z_ij = 1 where i and j are positives, -1 elsewhere.

    Args:
        image_embeds, text_embeds: unit vectors [B,E] of this process; those of the others are gathered with gradient.
        logit_scale: the multiplier s; the paper starts at 10.
        logit_bias: b, learnt too; the paper starts at -10, so that the many negatives are right from the beginning.
        positives: int64 [B]; rows with equal ids are positives of each other, rows with a negative id take no part.
            None = each row its own.
        local: compute the logits of this process's photographs only.
    """
    images, texts, positive, rows, columns = gather_pairs(image_embeds, text_embeds, positives, local)
    if not len(columns):
        return nothing(images, texts, logit_scale, logit_bias)
    logits = similarities(images[rows], texts[columns], logit_scale) + wide(logit_bias)
    signs = positive.to(logits.dtype) * 2 - 1
    mean = -F.logsigmoid(signs * logits).sum() / len(columns)
    return sum_over_processes(mean) if local else mean
