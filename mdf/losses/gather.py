"""Embeddings of all processes, with gradient to each one's own rows: contrastive losses compare the whole batch."""

import torch
import torch.distributed as dist
from torch import Tensor


def gather_with_grad(x: Tensor) -> Tensor:
    """[B,E] of each process -> [W·B,E] in rank order, differentiable; x itself on one process.

    There is no form without gradient: its direction is right only up to a factor of the number of processes, or wrong.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x))


def gather(x: Tensor) -> Tensor:
    """Integer tensor [B] of each process -> [W·B], without gradient."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
