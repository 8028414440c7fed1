"""Patch projection: a modulated skip map becomes G² memory vectors that know what is there and where.

Shapes: B photographs, F̃ [B,C,H,W], G patches a side, p = H/G pixels a patch side, m memory width, R readings.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# C·p² above this is reduced first: a wider projection costs memory and adds nothing that survives to width m.
MAX_PATCH = 4096


def sincos(grid: int, width: int) -> Tensor:
    """Fixed 2-D sine-cosine table [G², m], the starting value of the learnt position embedding.

    Quadrants have to be told apart within a few hundred steps; a small random table takes longer to be noticed.
    """
    quarter = width // 4
    frequency = 1.0 / 100 ** (torch.arange(quarter) / max(1, quarter - 1))
    angle = torch.arange(grid)[:, None] * frequency[None]
    line = torch.cat([angle.sin(), angle.cos()], 1)  # [G, m/2]
    table = torch.cat([line[:, None].expand(-1, grid, -1), line[None].expand(grid, -1, -1)], 2)
    return F.pad(table.reshape(grid * grid, -1), (0, width - 4 * quarter))


class PatchProjection(nn.Module):
    """One depth's map cut into G×G patches, each projected to width m, with position and depth, then a small MLP.

    The projection starts as the patch's mean, the same weights for every pixel of it: a lesion of two pixels can lie
    anywhere in a patch. The MLP joins content and place ("a haemorrhage, up here"): without it a value is a sum of the
    two, and attention that is still even tells nothing of where.
    """

    def __init__(self, channels: int, side: int, grid: int, width: int, readings: int = 0):
        """`readings` R: how many numbers the U-Net's masks give for a patch (mdf/models/readings.py)."""
        super().__init__()
        if side % grid:
            raise ValueError(f"a skip map of side {side} cannot be cut into {grid}x{grid} patches")
        p = side // grid
        self.reduce: nn.Module = nn.Identity()
        self.pool = 1
        self.channels = channels
        if channels * p * p > MAX_PATCH:
            self.channels = min(channels, max(8, MAX_PATCH // (p * p)))
            if self.channels < channels:
                self.reduce = nn.Conv2d(channels, self.channels, 1)
            while self.channels * (p // self.pool) ** 2 > MAX_PATCH:
                self.pool *= 2
        self.patch = p // self.pool
        self.project = nn.Linear(self.channels * self.patch**2, width)
        with torch.no_grad():  # columns in the order of pixel_unshuffle: channel, then place in the patch
            shared = torch.randn(width, self.channels, 1) / self.channels**0.5
            self.project.weight.copy_((shared / self.patch**2).expand(-1, -1, self.patch**2).flatten(1))
        self.position = nn.Parameter(sincos(grid, width))
        self.reading = nn.Linear(readings, width, bias=False) if readings else None
        if self.reading is not None:
            nn.init.normal_(self.reading.weight, std=0.3)
        self.depth = nn.Parameter(torch.randn(width) * 0.02)
        self.mix = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)

    def describe(self) -> str:
        """What happens to the map before it is projected, for the table printed at start."""
        steps = [f"1x1 conv to {self.channels} channels"] if not isinstance(self.reduce, nn.Identity) else []
        steps += [f"average pool {self.pool}x{self.pool}"] if self.pool > 1 else []
        return ", ".join([*steps, f"patches {self.patch}x{self.patch}x{self.channels}"])

    def forward(self, x: Tensor, readings: Tensor | None = None) -> Tensor:
        """[B,C,H,W] and, where they are read, [B,G²,R] -> [B,G²,m]."""
        x = self.reduce(x)
        if self.pool > 1:
            x = F.avg_pool2d(x, self.pool)
        x = F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)
        x = self.project(x) + self.position + self.depth
        if self.reading is not None:
            x = x + self.reading(readings)
        return self.norm(x + self.mix(x))
