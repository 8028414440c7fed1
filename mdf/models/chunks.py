"""GradCache (Gao et al. 2021): a contrastive batch far above what memory holds, with the gradient of the whole.

Only the embeddings of the batch are kept. Backward comes to one chunk after the other, computes it once more with the
random numbers that it had, and lets it go. That is checkpointing of a chunk (Chen et al. 2016), so that autograd itself
carries the gradient from the loss to the embeddings and on, also over processes, which wait for one forward only.

Shapes: B rows, c of them in a chunk.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(encode: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """encode(x) for x [B,...], `size` rows at once; 0 = all at once.

    `encode` must treat each row by itself: no statistics of a batch.
    """
    if not 0 < size < len(x):
        return encode(x)
    return torch.cat([checkpoint(encode, chunk, use_reentrant=False) for chunk in x.split(size)])
