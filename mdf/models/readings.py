"""What the U-Net itself reads in each patch: how much of each mask is there, and where the patch lies in the eye.

Shapes: B photographs, K masks, U the U-Net's input side, G patches a side, R = 2K readings, 6 more with a disc, and one
more with a disc and a cup.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

DISC, CUP = "disc", "cup"  # the disc tells the nasal side
PLACE = 6  # numbers that say where a patch lies in the eye


def width(masks: tuple[str, ...]) -> int:
    """R, the readings of a patch."""
    return 2 * len(masks) + (PLACE if DISC in masks else 0) + ({DISC, CUP} <= set(masks))


def readings(probabilities: Tensor, masks: tuple[str, ...], grid: int, *, follow: bool = False) -> Tensor:
    """Mask probabilities [B,K,U,U] -> [B,G²,R] in float32, without gradient unless `follow`.

    Of each mask the root of its share of the patch (a microaneurysm is a hundredth of it) and its highest probability.
    With a disc mask the patch's place in the eye's own frame: temporal is positive in both eyes. The language model
    names quadrants in this frame, and would otherwise have to learn that left and right change places with the eye.
    With a cup mask too, every patch knows the cup-disc ratio.
    """
    p = (probabilities if follow else probabilities.detach()).float()
    found = [F.adaptive_avg_pool2d(p, grid).sqrt(), F.adaptive_max_pool2d(p, grid)]
    if DISC in masks:
        disc = p[:, masks.index(DISC)]
        found.append(place(disc, grid))
        if CUP in masks:
            ratio = cup_disc_ratio(p[:, masks.index(CUP)], disc)
            found.append(ratio[:, None, None, None].expand(-1, 1, grid, grid))
    return torch.cat(found, 1).flatten(2).transpose(1, 2)


def cup_disc_ratio(cup: Tensor, disc: Tensor) -> Tensor:
    """Probabilities [B,U,U] of both -> [B], root of the cup's area over the disc's, 0 to 1; 0 where no disc is seen."""
    there = disc.sum((1, 2))
    ratio = (cup.sum((1, 2)) / there.clamp(min=1)).clamp(max=1).sqrt()
    return ratio * (disc.amax((1, 2)) > 0.5)


def place(disc: Tensor, grid: int) -> Tensor:
    """Disc probabilities [B,U,U] -> [B,6,G,G]: temporal and downward from the field's centre, as they are and as signs,
    and from the disc. All are between -2 and 2; temporal is 0 where no disc is seen or it lies in the middle.
    """
    line = torch.linspace(-1, 1, disc.shape[-1], device=disc.device)
    weight = disc.square()
    total = weight.sum((1, 2)).clamp(min=1e-6)
    x, y = (weight.sum(1) @ line) / total, (weight.sum(2) @ line) / total  # [B]
    temporal = -(4 * x).tanh() * disc.amax((1, 2))  # +1 where temporal is to the right: the disc lies to the left
    centres = (torch.arange(grid, device=disc.device) * 2 + 1) / grid - 1
    down, right = torch.meshgrid(centres, centres, indexing="ij")  # [G,G]
    side, x, y = (v[:, None, None] for v in (temporal, x, y))
    parts = [side * right, down.expand(len(disc), -1, -1), side * (4 * right).tanh()]
    parts += [(4 * down).tanh().expand(len(disc), -1, -1), side * (right - x), down - y]
    return torch.stack(parts, 1)
