"""Rows of all processes, with gradient to each one's own: contrastive losses compare the whole batch.

Shapes: B rows of this process, which may differ from one to the next and be 0; N of all together; W processes.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sizes_of(x: Tensor) -> list[int]:
    """Rows that each process holds, in rank order; waits for all of them."""
    if processes() == 1:
        return [len(x)]
    own = torch.tensor([len(x)], device=x.device)
    sizes = [torch.empty_like(own) for _ in range(processes())]
    dist.all_gather(sizes, own)
    return torch.cat(sizes).tolist()


def own_rows(sizes: list[int]) -> range:
    """The places of this process's rows among all."""
    rank = dist.get_rank() if len(sizes) > 1 else 0
    start = sum(sizes[:rank])
    return range(start, start + sizes[rank])


def padded(x: Tensor, sizes: list[int]) -> Tensor:
    """x with rows of 0 up to the largest of `sizes`: processes exchange equal shapes. Raises ValueError."""
    if len(x) != len(own_rows(sizes)):
        raise ValueError(f"{len(x)} rows, but {len(own_rows(sizes))} embeddings of photographs; they belong together")
    return F.pad(x, (0, 0) * (x.ndim - 1) + (0, max(sizes) - len(x))).contiguous()


def cut(parts: list[Tensor] | tuple[Tensor, ...], sizes: list[int]) -> Tensor:
    """The parts of all processes together, without the padding."""
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def gather_with_grad(x: Tensor, sizes: list[int]) -> Tensor:
    """[B,E] of each process -> [N,E] in rank order, differentiable; x itself on one process.

    There is no form without gradient: its direction is right only up to a factor of the number of processes, or wrong.
    """
    padded_x = padded(x, sizes)
    if len(sizes) == 1:
        return padded_x
    from torch.distributed.nn.functional import all_gather

    return cut(all_gather(padded_x), sizes)


def gather(x: Tensor, sizes: list[int]) -> Tensor:
    """Integer tensor [B,...] of each process -> [N,...], without gradient."""
    padded_x = padded(x, sizes)
    if len(sizes) == 1:
        return padded_x
    parts = [torch.empty_like(padded_x) for _ in sizes]
    dist.all_gather(parts, padded_x)
    return cut(parts, sizes)


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of every process's x, the same on each, differentiable."""
    if processes() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x)
