"""Nothing depends on how a batch is cut up: BatchNorm keeps its pretrained statistics or becomes GroupNorm."""

from typing import TypeGuard

import torch
from torch import Tensor, nn


def is_batchnorm(module: nn.Module) -> TypeGuard[nn.modules.batchnorm._BatchNorm]:
    """Whether the module is a BatchNorm (timm's fused BatchNormAct2d counts)."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm that a processor computes plane by plane.

    torch's bfloat16 kernel for channels-last maps of few channels takes four times as long, most of it backwards.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,C,H,W]."""
        if input.device.type != "cpu" or input.dtype != torch.bfloat16:
            return super().forward(input)
        return super().forward(input.contiguous()).contiguous(memory_format=torch.channels_last)


def groupnorm(channels: int) -> nn.GroupNorm:
    """GroupNorm with groups of at least four channels, eight groups at the most."""
    return GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0 and channels // g >= min(channels, 4)), channels)


def batchnorm_to_groupnorm(module: nn.Module) -> None:
    """Replace every BatchNorm below `module`, in place; for parts that train from scratch.

    A fused norm-and-activation layer keeps its activation.
    """
    for name, child in module.named_children():
        if is_batchnorm(child):
            new: nn.Module = groupnorm(child.num_features)
            if hasattr(child, "act"):
                new = nn.Sequential(new, child.get_submodule("drop"), child.get_submodule("act"))
            setattr(module, name, new)
        else:
            batchnorm_to_groupnorm(child)


def freeze_statistics(module: nn.Module) -> None:
    """Put every BatchNorm below `module` in eval mode: stored statistics are not updated; its affine part may train."""
    for child in module.modules():
        if is_batchnorm(child):
            child.eval()
