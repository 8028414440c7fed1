"""GroupNorm that is fast on a processor is torch's GroupNorm."""

import torch
from torch import nn

from mdf.models.normalization import GroupNorm


def test_plane_by_plane_gives_what_torch_gives_and_keeps_the_layout():
    mine, torchs = GroupNorm(2, 8), nn.GroupNorm(2, 8)
    x = torch.randn(2, 8, 16, 16).to(memory_format=torch.channels_last)
    assert torch.equal(mine(x), torchs(x))
    low = x.bfloat16()
    got = mine.bfloat16()(low)
    assert got.is_contiguous(memory_format=torch.channels_last)
    # bf16 has 8 bits: values up to 4 differ by at most a step of 1/32
    assert torch.allclose(got.float(), torchs(low.float()), atol=2**-5)
