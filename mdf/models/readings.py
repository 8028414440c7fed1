"""What the U-Net itself reads in each patch: how much of each mask is there, where the patch lies in the eye, and of
the lesions how many regions there are, how far they reach and how near the fovea they come.

Shapes: B photographs, K masks, N of them lesions', U the U-Net's input side, G patches a side, R = 2K readings, 6 more
with a disc, one more with a disc and a cup, and N + 10 more where regions are counted, as many again for large ones,
for how far they reach and for how near the fovea they come.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

DISC, CUP = "disc", "cup"  # the disc tells the nasal side
PLACE = 6  # numbers that say where a patch lies in the eye
ANATOMY = ("vessel", "artery", "vein", "macula", "fovea", DISC, CUP)  # masks whose regions are not counted
STEPS = 10  # of a number on its scale: half octaves of 1 + number, the last ends at 44; of a length half disc diameters
FAR = STEPS / 2  # disc diameters; no length is told beyond
FOVEA = (2.5, 0.25)  # where the fovea lies, disc diameters to the temporal side of the disc's centre and below it


def lesions(masks: tuple[str, ...]) -> list[int]:
    """The numbers of the masks whose regions are counted."""
    return [k for k, name in enumerate(masks) if name not in ANATOMY]


def width(masks: tuple[str, ...], counts: int = 0, extents: bool = False) -> int:
    """R, the readings of a patch."""
    counted = len(lesions(masks))
    whole = 2 * len(masks) + (PLACE if DISC in masks else 0) + ({DISC, CUP} <= set(masks))
    told = counts + (2 if extents and DISC in masks else 0)
    return whole + (told * (counted + STEPS) if counted else 0)


def readings(
    probabilities: Tensor,
    masks: tuple[str, ...],
    grid: int,
    counts: int = 0,
    extents: bool = False,
    *,
    follow: bool = False,
) -> Tensor:
    """Mask probabilities [B,K,U,U] -> [B,G²,R] in float32, without gradient unless `follow`; counts and lengths never
    have one.

    Of each mask the root of its share of the patch (a microaneurysm is a hundredth of it) and its highest probability.
    With a disc mask the patch's place in the eye's own frame: temporal is positive in both eyes. The language model
    names quadrants in this frame, and would otherwise have to learn that left and right change places with the eye.
    With a cup mask too, every patch knows the cup-disc ratio.

    With `counts` 1 every patch knows how many regions each lesion's mask has, and on a scale how many has the lesion
    that lies in it: attention averages patches and cannot count them. With 2 likewise of the large regions: a U-Net
    that takes haemorrhages for microaneurysms, too, draws them larger. With `extents` and a disc mask likewise how far
    the regions of each lesion reach and how near the fovea they come, in disc diameters.
    """
    p = (probabilities if follow else probabilities.detach()).float()
    found = [F.adaptive_avg_pool2d(p, grid).sqrt(), F.adaptive_max_pool2d(p, grid)]
    if DISC in masks:
        disc = p[:, masks.index(DISC)]
        found.append(place(disc, grid))
        if CUP in masks:
            ratio = cup_disc_ratio(p[:, masks.index(CUP)], disc)
            found.append(ratio[:, None, None, None].expand(-1, 1, grid, grid))
    if counted := lesions(masks):
        shown, drawn = found[1][:, counted, None], p[:, counted]
        told = []  # of each lesion [B,N] as one number, and [B,N,STEPS] on its scale
        for number in [regions(drawn), regions(cores(drawn))][:counts] if counts else []:
            told.append((number.log1p() / 3, scale(number)))
        if extents and DISC in masks:
            told += [(length / FAR, ruler(length)) for length in lengths(drawn, p[:, masks.index(DISC)])]
        for value, steps in told:
            found.append(value[..., None, None].expand(-1, -1, grid, grid))
            found.append((shown * steps[..., None, None]).amax(1))
    return torch.cat(found, 1).flatten(2).transpose(1, 2)


def cores(probabilities: Tensor) -> Tensor:
    """Probabilities [...,U,U] -> bool, what is left where a square of a fiftieth of the side fits into a region."""
    on = probabilities > 0.5
    for _ in range(max(1, 5 * on.shape[-1] // 512)):  # each takes off a pixel all around: a square of 5 of 256 pixels
        on = F.pad(on, (1, 1, 1, 1), value=True)
        on = on[..., 2:] & on[..., 1:-1] & on[..., :-2]
        on = on[..., 2:, :] & on[..., 1:-1, :] & on[..., :-2, :]
    return on


def regions(probabilities: Tensor) -> Tensor:
    """Probabilities or bool [...,U,U] -> float32 [...], how many regions above a half there are, less their holes.

    That is the Euler number (pixels - edges + corners; pixels that share a corner are one region): no labels, no loop.
    Below 0 it is 0, as in a net with more meshes than threads.
    """
    on = F.pad(probabilities > 0.5, (1, 1, 1, 1))
    across, down = on[..., 1:] | on[..., :-1], on[..., 1:, :] | on[..., :-1, :]
    corners = across[..., 1:, :] | across[..., :-1, :]
    pixels, edges, corners = on.sum((-2, -1)), across.sum((-2, -1)) + down.sum((-2, -1)), corners.sum((-2, -1))
    return (pixels - edges + corners).clamp(min=0).float()


def scale(number: Tensor) -> Tensor:
    """Numbers [...] -> [...,STEPS] of 0 to 1: how far each half octave of 1 + number is filled, as in a thermometer."""
    return (2 * (number[..., None] + 1).log2() - torch.arange(STEPS, device=number.device)).clamp(0, 1)


def ruler(length: Tensor) -> Tensor:
    """Disc diameters [...] -> [...,STEPS] of 0 to 1: how far each half of one is filled."""
    return (2 * length[..., None] - torch.arange(STEPS, device=length.device)).clamp(0, 1)


def lengths(lesions: Tensor, disc: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities [B,N,U,U] of lesions and [B,U,U] of the disc -> two [B,N] in disc diameters, 0 to FAR: the longer
    side of the box that holds all of a lesion above a half, and from the fovea to the nearest of it.

    Specks of fewer than 3 pixels are left out. What is not there reaches 0 and is FAR; without a disc all is. The fovea
    is where it lies in most eyes (`FOVEA`), on the side of the field away from the disc.
    """
    side = disc.shape[-1]
    line = torch.arange(side, device=disc.device, dtype=torch.float32)
    on = lesions > 0.5
    on &= F.avg_pool2d(on.float(), 3, 1, 1) > 2.5 / 9
    there = disc > 0.5
    area = there.sum((1, 2)).float()  # [B]
    diameter = 2 * (area / torch.pi).sqrt()
    x, y = ((there.sum(d) * line).sum(1) / area.clamp(min=1) for d in (1, 2))
    temporal = torch.where(x > (side - 1) / 2, -1.0, 1.0)
    x, y = x + temporal * FOVEA[0] * diameter, y + FOVEA[1] * diameter
    away = torch.hypot(line - x[:, None, None], line[:, None] - y[:, None, None])[:, None]  # [B,1,U,U]
    nearest = torch.where(on, away, torch.inf).amin((2, 3))
    spans = []
    for d in (2, 3):
        some = on.any(d) * 1.0  # [B,N,U]
        spans.append(((some * (line + 1)).amax(2) - side + (some * (side - line)).amax(2)).clamp(min=0))
    unit = diameter.clamp(min=1)[:, None]
    seen = (area > 0)[:, None]
    reach = torch.where(seen, torch.maximum(*spans) / unit, 0.0)
    return reach.clamp(max=FAR), torch.where(seen, nearest / unit, FAR).clamp(max=FAR)


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
