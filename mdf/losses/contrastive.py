"""Symmetric InfoNCE of CLIP (Radford et al. 2021, figure 3), with equal captions as mutual positives.

Every contrastive loss compares the pairs of all processes and returns the same number on each. Its gradient, averaged
over processes as DDP does, is that of one process with the whole batch, also where processes hold unequally many rows.
The local form (`local`) has the same value and gradient: each process computes the logits of its own rows only, R·N
numbers instead of N·N, and their sums are added up.

Where all rows are positives of each other there is nothing to tell apart, and a softmax knows only differences. With
the target 1/N everywhere, ∂L/∂z_ij = (p_ij - 1/N + q_ij - 1/N) / 2N (p, q: softmax over row, column). Its sum is 0, so
that it draws no photographs to texts; it makes similarities equal, whatever they are. One embedding for all is a
minimum, and the scale can only fall, as ∂L/∂s = Σ ∂L/∂z_ij · v_i·t_j ≥ 0. Batches of several classes make positives
equally similar just as well, and their negatives stand against the collapse. A batch of one class has its value here,
and no gradient.

Shapes: B pairs of this process, N of all, R whose logits this process computes (N, or its own), E embedding width.
"""

import torch
from torch import Tensor

from mdf.losses.gather import gather, gather_with_grad, own_rows, sizes_of, sum_over_processes


def contrastive_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor,
    positives: Tensor | None = None,
    *,
    local: bool = False,
) -> Tensor:
    """Mean of image-to-text and text-to-image cross-entropy.

    L = -1/2N Σ_i Σ_j [t_ij log softmax_j(s·v_i·t_j) + t_ji log softmax_j(s·t_i·v_j)], with t_ij = 1/|P_i| where i and j
    are positives of each other, P_i being those of i, and 0 elsewhere.

    Args:
        image_embeds, text_embeds: unit vectors [B,E] of this process; those of the others are gathered with gradient.
        logit_scale: the multiplier s.
        positives: int64 [B]; rows with equal ids are mutual positives and share the target evenly, rows with a negative
            id take no part. None = each row its own.
        local: compute the logits of this process's rows only.
    """
    images, texts, affinity, rows, columns = gather_pairs(image_embeds, text_embeds, positives, local)
    return cross_entropy(images, texts, logit_scale, affinity, rows, columns, local)


def gather_pairs(
    image_embeds: Tensor, text_embeds: Tensor, positives: Tensor | None, local: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Embeddings [N,E] of all processes, who are positives bool [rows,columns], and both as `compared` gives them."""
    sizes = sizes_of(image_embeds)
    images, texts = gather_with_grad(wide(image_embeds), sizes), gather_with_grad(wide(text_embeds), sizes)
    ids = torch.arange(len(images), device=images.device) if positives is None else gather(positives, sizes)
    rows, columns = compared(ids >= 0, sizes, local)
    return images, texts, ids[rows, None] == ids[None, columns], rows, columns


def wide(x: Tensor) -> Tensor:
    """x in float32, or float64 as it is: losses are not computed in bf16."""
    return x if x.dtype == torch.float64 else x.float()


def compared(known: Tensor, sizes: list[int], local: bool) -> tuple[Tensor, Tensor]:
    """Of bool [N], the rows that take part: int64 [R] those whose logits this process computes, and all of them."""
    columns = known.nonzero()[:, 0]
    if not local:
        return columns, columns
    own = own_rows(sizes)
    return columns[(columns >= own.start) & (columns < own.stop)], columns


def similarities(a: Tensor, b: Tensor, logit_scale: Tensor) -> Tensor:
    """s·a·bᵀ, also under autocast in the precision of a and b."""
    with torch.autocast(a.device.type, enabled=False):
        return wide(logit_scale) * a @ b.T


def cross_entropy(
    images: Tensor, texts: Tensor, logit_scale: Tensor, affinity: Tensor, rows: Tensor, columns: Tensor, local: bool
) -> Tensor:
    """InfoNCE of both directions with the targets affinity / Σ_j affinity.

    `affinity` [R,columns] is part of a symmetric matrix: its row i, normalised to 1, is the target of photograph i and,
    as column i of the transposed one, that of text i. Without a 0 or fraction in it there is no gradient (see above).
    """
    if not len(columns):
        return nothing(images, texts, logit_scale)
    targets = affinity.to(images.dtype)
    targets = targets / targets.sum(1, keepdim=True)
    total = images.new_zeros(())
    for a, b in ((images, texts), (texts, images)):
        total = total - (targets * similarities(a[rows], b[columns], logit_scale).log_softmax(-1)).sum()
    total = torch.where((affinity == 1).all(), total.detach(), total)  # keeps its place in the graph for DDP
    mean = total / (2 * len(columns))
    return sum_over_processes(mean) if local else mean


def nothing(*tensors: Tensor) -> Tensor:
    """0 with a gradient of 0 to each, for a step in which no row takes part: processes wait for every gradient."""
    return torch.stack([wide(x).flatten()[:0].sum() for x in tensors]).sum()
