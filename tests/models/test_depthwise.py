"""Strided and large depthwise convolutions run in float32 on a processor; the model stays what it was."""

import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from mdf.models.depthwise import FloatDepthwise, FloatDepthwiseSame, depthwise_in_float32


def convolutions() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "strided": nn.Conv2d(8, 8, 3, 2, 1, groups=8),
            "large": nn.Conv2d(8, 8, 5, 1, 2, groups=8),
            "same": Conv2dSame(8, 8, 3, 2, groups=8),
            "small": nn.Conv2d(8, 8, 3, 1, 1, groups=8),
            "dense": nn.Conv2d(8, 8, 3, 2, 1),
        }
    )


def test_only_strided_or_large_depthwise_kernels_are_changed_and_weights_keep_their_names():
    plain = convolutions()
    changed = copy.deepcopy(plain)
    depthwise_in_float32(changed)
    assert [type(m) for m in changed.values()] == [
        FloatDepthwise,
        FloatDepthwise,
        FloatDepthwiseSame,
        nn.Conv2d,
        nn.Conv2d,
    ]
    assert changed.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("name", ["strided", "large", "same"])
def test_without_autocast_nothing_changes(name):
    plain = convolutions()[name]
    changed = nn.ModuleDict({name: copy.deepcopy(plain)})
    depthwise_in_float32(changed)
    x = torch.randn(2, 8, 9, 9)
    assert torch.equal(changed[name](x), plain(x))


@pytest.mark.parametrize("name", ["strided", "large", "same"])
def test_under_autocast_values_and_gradients_are_those_of_float32(name):
    plain = convolutions()[name]
    changed = nn.ModuleDict({name: copy.deepcopy(plain)})
    depthwise_in_float32(changed)
    x = torch.randn(2, 8, 9, 9, dtype=torch.bfloat16)
    expected = plain(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        got = changed[name](x)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)
    got.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(changed[name].weight.grad, plain.weight.grad)
