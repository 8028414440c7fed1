"""The same photographs without their detail: everything blurred away, or in a part of the picture alone.

Blurred and not blank: a black or grey patch is an object of its own to the networks, a blurred retina is a retina.

Shapes: N photographs, U the U-Net's input side, S the encoder's, K tiles at most a photograph of h x w pixels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mdf.processor import Inputs

SIGMA = 0.08  # of the blur, share of the picture's side: the disc is gone, a shade of light from side to side stays
PICTURES = ("pixel_values", "unet_pixels", "tiles")  # the tensors of Inputs that hold pixels


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """[N,C,H,W] blurred by a Gaussian of `sigma` pixels, zeros outside."""
    radius = max(1, math.ceil(3 * sigma))
    line = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (line / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.conv2d(x, kernel, padding=(0, radius), groups=x.shape[1])
    return F.conv2d(x, kernel.transpose(2, 3), padding=(radius, 0), groups=x.shape[1])


def blurred(inputs: Inputs, sigma: float = SIGMA) -> Inputs:
    """The photographs without detail. Light does not run over the field's rim, and what lies outside it stays.

    What `MDFModel.look` saw in them is not taken along.
    """
    found = {k: inputs[k] for k in ("field", "aspect_ratio_ids", "aspect_ratio_mask") if k in inputs}
    for name in (name for name in PICTURES if name in inputs):
        x = inputs[name].float()
        flat = x.flatten(0, -4)  # tiles as so many pictures
        field = inputs["field"].to(flat.dtype)
        if name != "unet_pixels":  # what is shown of the photograph may be another part of it: by its own dark rim
            dark = flat.amin((2, 3), keepdim=True)
            field = ((flat - dark).amax(1, keepdim=True) > 1e-4).to(flat.dtype)
        width = sigma * flat.shape[-1]
        weight = gaussian(field, width).clamp(min=1e-6)
        soft = gaussian(flat * field, width) / weight
        found[name] = torch.where(field > 0, soft, flat).reshape(x.shape).to(inputs[name].dtype)
    return Inputs(found)


def mixed(whole: Inputs, other: Inputs, share: Tensor) -> Inputs:
    """Pixels of `other` where `share` [N,U,U] is 1, of `whole` where it is 0, in every picture alike.

    For photographs whose encoder is shown the field of view (`Preprocessing.shown`), as the U-Net is.
    """
    found = {k: whole[k] for k in ("field", "aspect_ratio_ids", "aspect_ratio_mask") if k in whole}
    share = share[:, None].float()
    for name in (name for name in PICTURES if name in whole):
        a, b = whole[name], other[name]
        if name == "tiles":
            s = torch.stack(
                [tiled(one, mask, a.shape) for one, mask in zip(share, whole["aspect_ratio_mask"], strict=True)]
            )
        else:
            s = (
                F.interpolate(share, a.shape[-2:], mode="bilinear", antialias=True)
                if a.shape[-1] != share.shape[-1]
                else share
            )
        found[name] = torch.lerp(a, b, s.to(a))
    return Inputs(found)


def tiled(share: Tensor, real: Tensor, shape: torch.Size) -> Tensor:
    """`share` [1,U,U] of a square picture cut as its tiles are, [1,K,1,h,w]; `real` {0,1} [1,K] are those it fills."""
    count, height, width = shape[-4], shape[-2], shape[-1]
    side = math.isqrt(int(real.sum()))
    large = F.interpolate(share[None], (side * height, side * width), mode="bilinear", antialias=True)[0, 0]
    cut = large.unflatten(0, (side, height)).unflatten(2, (side, width)).transpose(1, 2).flatten(0, 1)
    return F.pad(cut, (0, 0, 0, 0, 0, count - len(cut)))[None, :, None]
