"""LoRA (Hu et al. 2022) on the towers of the encoder: W + scale · B A for each matrix in their blocks.

The sum is the weight that a layer reads, whichever way it reads it: nn.MultiheadAttention and some layers of timm hand
their weight to a function, past a wrapper around their forward.

Shapes: r rank, o x i a weight with its kernel flattened.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """Adds scale · B A to a frozen weight; B starts at zero, so the first step is that of the weight alone."""

    def __init__(self, weight: Tensor, rank: int, alpha: float):
        super().__init__()
        rows = weight.shape[0]
        self.scale = alpha / rank
        self.lora_A = nn.Parameter(weight.new_empty(rank, weight.numel() // rows))  # [r,i]
        self.lora_B = nn.Parameter(weight.new_zeros(rows, rank))  # [o,r]
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """[o,i,...] -> [o,i,...]."""
        device = "cpu" if weight.is_meta else weight.device.type  # there is no autocast where there are no values
        with torch.autocast(device, enabled=False):  # the sum is no place to round in
            return weight + (self.scale * self.lora_B @ self.lora_A).view_as(weight)


def matrices(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters of a layer, its children not counted, that LoRA can act on."""
    pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    plain = ("weight",) if isinstance(module, nn.Linear) or pointwise else ()
    return plain + (("in_proj_weight",) if getattr(module, "in_proj_weight", None) is not None else ())


def attach(modules: Iterable[nn.Module], rank: int, alpha: float) -> int:
    """Put LoRA on the linear layers, pointwise convolutions and attentions among `modules`; returns how many."""
    count = 0
    for module in list(modules):
        for name in matrices(module):
            weight = getattr(module, name)
            parametrize.register_parametrization(module, name, LowRank(weight, rank, alpha))
            count += 1
    return count


def merge(module: nn.Module) -> None:
    """Make plain weights of every LoRA below `module`, in place; what it computes stays the same to the bit."""
    for child in list(module.modules()):
        for name in list(getattr(child, "parametrizations", ())):
            parametrize.remove_parametrizations(child, name, leave_parametrized=True)
