"""Depthwise convolutions that a processor computes faster in float32 than in bfloat16."""

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn


class InFloat32:
    """Mixin of a convolution with float32 weights: on a processor it stays in float32 under autocast."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,C,H/stride,W/stride]."""
        plain = super().forward  # type: ignore[misc]
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or self.weight.dtype != torch.float32:
            return plain(x)
        with torch.autocast("cpu", enabled=False):
            return plain(x.float())


class FloatDepthwise(InFloat32, nn.Conv2d):
    """A depthwise convolution in float32."""


class FloatDepthwiseSame(InFloat32, Conv2dSame):
    """The same with TensorFlow's padding, as the `tf_` models of timm have it."""


VARIANTS: dict[type, type] = {nn.Conv2d: FloatDepthwise, Conv2dSame: FloatDepthwiseSame}


def depthwise_in_float32(module: nn.Module) -> None:
    """Let every strided or large depthwise convolution below `module` run in float32, in place; names stay.

    oneDNN has no fast bfloat16 gradient for strided depthwise kernels nor for those larger than 3x3: some layers of
    EfficientNet-Lite0 took 10 to 80 times as long as in float32 (docs/decisions.md).
    """
    for child in module.modules():
        if type(child) in VARIANTS and isinstance(child, nn.Conv2d) and slow_in_bf16(child):
            child.__class__ = VARIANTS[type(child)]


def slow_in_bf16(conv: nn.Conv2d) -> bool:
    """Whether a convolution is depthwise and has a stride or a kernel larger than 3."""
    return conv.groups == conv.in_channels > 1 and max(*conv.stride, conv.kernel_size[0] - 2) > 1
