"""What encoder and U-Net make of a photograph, and a memory of it for the time that both are frozen.

Shapes: B photographs, E embedding width, C encoder token width, h×w its grid, F_l [B,C_l,H_l,W_l] map at stride 2^l,
G² patches, R readings, K masks, U U-Net input side.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Features:
    """Of B photographs; what is not wanted is None or empty."""

    image_embeds: Tensor  # [B,E] unit vectors
    tokens: Tensor  # [B,C,h,w]
    maps: list[Tensor] = field(default_factory=list)  # F_0 … F_5
    read: Tensor | None = None  # float32 [B,G²,R], of the masks that the fusion reads
    mask_logits: Tensor | None = None  # [B,K,U,U]


Look = Callable[[Tensor, Tensor | None], Features]  # of pixel_values [B,3,S,S] and unet_pixels [B,3,U,U]


class Remembered:
    """Features of photographs that were seen before, found by their pixels; called in place of `MDFModel.features`.

    What it returns is what encoder and U-Net would compute, up to rounding, as long as neither of them changes; tokens
    are pooled already as the prefix pools them. A photograph that is not known is computed by itself, without gradient,
    and kept on the device and in the type that it was computed in: the last bits of a matrix product may depend on the
    rows beside, and a run that is resumed would not go on to the last bit. Where not all photographs fit, none is kept.
    """

    def __init__(
        self,
        features: Look,
        photographs: int,
        gigabytes: float,
        *,
        depths: tuple[int, ...],
        pooled: tuple[int, int],
        say: Callable[[int, bool], None],
    ):
        """Of at most so many `photographs`; `depths` of the maps, and tokens pooled to `pooled` are what the fusion
        reads. `say` is called once, with the bytes of a photograph and whether all of them fit into `gigabytes`.
        """
        self.features, self.photographs, self.limit = features, photographs, gigabytes * 1e9
        self.depths, self.pooled, self.say = depths, pooled, say
        self.kept: dict[bytes, list[Tensor]] = {}
        self.fits: bool | None = None  # not known before the first
        self.strides: list[tuple[int, ...]] = []  # of a row of each part

    @torch.no_grad()
    def __call__(self, pixel_values: Tensor, unet_pixels: Tensor | None) -> Features:
        """The features of photographs [B,3,S,S], [B,3,U,U]; maps that the fusion does not read are empty."""
        if self.fits is False:
            return self.features(pixel_values, unet_pixels)
        pixels = [pixel_values] if unet_pixels is None else [pixel_values, unet_pixels]
        keys = [key(*row) for row in zip(*(x.cpu() for x in pixels), strict=True)]
        for place, k in enumerate(keys):
            if k in self.kept:
                continue
            parts = self.parts(
                self.features(pixel_values[[place]], None if unet_pixels is None else unet_pixels[[place]])
            )
            if self.fits is None:
                size = sum(part.numel() * part.element_size() for part in parts)
                self.fits = size * self.photographs <= self.limit
                self.strides = [part.stride()[1:] for part in parts]
                self.say(size, self.fits)
                if not self.fits:
                    return self.features(pixel_values, unet_pixels)
            self.kept[k] = [part[0].clone() for part in parts]
        rows = zip(*(self.kept[k] for k in keys), strict=True)
        return self.whole([side_by_side(row, stride) for row, stride in zip(rows, self.strides, strict=True)])

    def parts(self, found: Features) -> list[Tensor]:
        """What has to be kept of features."""
        read = [] if found.read is None else [found.read]
        tokens = F.adaptive_avg_pool2d(found.tokens, self.pooled)
        return [found.image_embeds, tokens, *(found.maps[d] for d in self.depths), *read]

    def whole(self, parts: list[Tensor]) -> Features:
        """The features that `parts` came from."""
        embeds, tokens, *rest = parts
        maps = [embeds.new_empty(0)] * 6
        for depth, x in zip(self.depths, rest, strict=False):
            maps[depth] = x
        return Features(embeds, tokens, maps, rest[-1] if len(rest) > len(self.depths) else None)


def side_by_side(rows: Sequence[Tensor], stride: tuple[int, ...]) -> Tensor:
    """[B,…] of B rows in the layout that they were computed in, as the layers after expect it."""
    shape, first = (len(rows), *rows[0].shape), rows[0]
    out = torch.empty_strided(shape, (first.numel(), *stride), dtype=first.dtype, device=first.device)
    return torch.stack(list(rows), out=out)


def key(*pixels: Tensor) -> bytes:
    """A hash of a photograph's normalised pixels, so that another file, crop or colour is another photograph."""
    digest = hashlib.sha256()
    for x in pixels:
        digest.update(x.contiguous().numpy())  # type: ignore[arg-type]
    return digest.digest()
