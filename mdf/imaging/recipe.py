"""How a released encoder's own code prepares a photograph for it, to the last bit.

Shapes: H x W the photograph, h x w the scaled one, S the encoder's side, C channels, 3 or for grey towers 1.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from mdf.errors import UserError
from mdf.imaging.augment import Transform, recolour, warp
from mdf.imaging.field import field_square, find_field

# squash: each side scaled to S by itself; crop: the shorter side scaled to `shorter`, then the middle S x S cut out;
# pad: the longer side scaled to S, zeros on the right or below; field: the field of view, in a centred square, to S
RULES = ("squash", "crop", "pad", "field")
# what scales: PIL; torchvision on uint8 tensors, or on float tensors of 0..1 (not rounded to 256 steps again); or
# scipy.ndimage.zoom, whose corner pixels keep their places
BACKENDS = ("pil", "tensor", "float", "scipy")
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# visionunite: contrast times 1.3, each channel shifted to begin at 1, then hue, saturation and value
COLOURS = {"rgb": 3, "grey": 1, "visionunite": 3}
CONTRAST = 1.3  # HUANGLIZI/VisionUnite, demo.py
NARROW = 32  # longer side over shorter one; no photograph is so narrow, and scaling its shorter side up takes gigabytes


@dataclass(frozen=True)
class Recipe:
    """What an encoder is shown of a photograph. Raises UserError for settings that do not go together."""

    side: int  # S, pixels
    rule: str = "squash"  # of RULES
    shorter: int | None = None  # pixels; of the rule `crop`, None = S
    interpolation: str = "bicubic"  # of INTERPOLATIONS
    antialias: bool = True  # PIL always does, scipy never
    backend: str = "pil"  # of BACKENDS
    colour: str = "rgb"  # of COLOURS
    scale: float = 255.0  # grey levels are divided by it
    mean: tuple[float, ...] = ()  # of what comes out of that, a number a channel or one for all; () = as it is
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, known in (
            ("rule", RULES), ("backend", BACKENDS), ("interpolation", INTERPOLATIONS), ("colour", COLOURS),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise UserError(f"recipe: {name} {getattr(self, name)!r} is none of {', '.join(known)}")
        for name in ("mean", "std"):
            values = tuple(map(float, getattr(self, name)))
            if len(values) not in (0, 1, self.channels):
                raise UserError(f"recipe: {name} has {len(values)} numbers, the encoder reads {self.channels} channels")
            object.__setattr__(self, name, values * self.channels if len(values) == 1 else values)
        object.__setattr__(self, "scale", float(self.scale))  # 255 and 255.0 are one setting, with one hash
        wrong = None
        if self.side < 1 or self.scale <= 0 or any(value <= 0 for value in self.std):
            wrong = "side, scale and std have to be above 0"
        elif len(self.mean) != len(self.std):
            wrong = "mean and std belong together: give both or neither"
        elif self.shorter is not None and (self.rule != "crop" or self.shorter < self.side):
            wrong = f"shorter goes with the rule crop and is at least side, {self.side}"
        elif self.backend == "pil" and not self.antialias:
            wrong = "PIL always scales with antialiasing: set backend to tensor or float, or antialias to true"
        elif self.backend == "scipy" and (self.antialias or self.interpolation != "bilinear"):
            wrong = "scipy scales bilinearly without antialiasing: set interpolation to bilinear, antialias to false"
        if wrong:
            raise UserError(f"recipe: {wrong}")

    @property
    def channels(self) -> int:
        """C, of what the encoder reads."""
        return COLOURS[self.colour]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to preprocessing.json."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """The reverse of `to_dict`. Raises UserError for settings that there are not, or that lack."""
        names = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - names):
            raise UserError(f"recipe: unknown setting {', '.join(unknown)}; there are {', '.join(sorted(names))}")
        if "side" not in values:
            raise UserError("recipe: side is missing: the pixels of a side that the encoder reads")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise UserError(f"recipe: a setting is of another kind than it has to be ({error})") from None

    def apply(self, image: np.ndarray) -> Tensor:
        """float32 [C,S,S] of a photograph uint8 [H,W,3], as the encoder's own code hands it over."""
        return self.finish(self.scaled(image))

    def scaled(self, image: np.ndarray, square: np.ndarray | None = None) -> Tensor:
        """What is the same in every epoch: [h,w,C] in its colours and scaled, neither cut nor padded.

        uint8, or with the backend `float` float32 that is divided by `scale` already. `square` uint8 [N,N,3] is what
        the rule `field` would cut out of `image`, where that is known.
        """
        if self.rule == "field":
            image = square if square is not None else cut_field(image)
        pixels = coloured(image, self.colour)
        return self._resized(pixels, *self.size(*pixels.shape[:2]))

    def finish(self, picture: Tensor, transform: Transform | None = None, lookup: np.ndarray | None = None) -> Tensor:
        """float32 [C,S,S] of what `scaled` gave; `transform` with its `lookup` table changes it at random before.

        A transform that changes nothing gives what none gives. Where colours were turned into grey, or hue, saturation
        and value, brightness, contrast and gamma act on the grey or the value alone. Nothing comes from beyond the
        photograph, but what the rule `crop` cuts away is there to be moved in.
        """
        if transform is not None and lookup is not None and transform.recolours:
            picture = self._recoloured(picture, lookup)
        pixels = picture.permute(2, 0, 1)
        row, column = self.corner(*pixels.shape[1:])
        if transform is not None and transform.moves:
            moved = warp(pixels.to(torch.float32), transform, self.side, (row, column))
            pixels = moved if picture.is_floating_point() else moved.round_().clamp_(0, 255).to(torch.uint8)
        else:
            pixels = pixels[:, row : row + self.side, column : column + self.side]
            pixels = F.pad(pixels, (0, self.side - pixels.shape[2], 0, self.side - pixels.shape[1]))
        return self._normalised(pixels)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """h and w that a photograph is scaled to; of the rule `field`, its square. Raises UserError for strips."""
        if self.rule == "crop":
            shorter, small, large = self.shorter or self.side, min(height, width), max(height, width)
            if large > NARROW * small:
                raise UserError(f"the picture is a strip of {width}x{height} pixels, too narrow for a photograph")
            longer = int(shorter * large / small)
            return (longer, shorter) if width <= height else (shorter, longer)
        if self.rule == "pad":
            factor = max(height, width) / self.side
            return max(1, int(height / factor)), max(1, int(width / factor))
        return self.side, self.side

    def corner(self, height: int, width: int) -> tuple[int, int]:
        """Row and column of the encoder's upper left pixel in the scaled photograph of h x w."""
        if self.rule != "crop":
            return 0, 0
        return round((height - self.side) / 2), round((width - self.side) / 2)

    def _resized(self, pixels: np.ndarray, height: int, width: int) -> Tensor:
        """[h,w,C] from uint8 [H,W,C]."""
        if self.backend == "pil":
            picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
            made = np.array(picture.resize((width, height), INTERPOLATIONS[self.interpolation]))
            return torch.from_numpy(made.reshape(height, width, -1))
        if self.backend == "scipy":
            factors = (height / pixels.shape[0], width / pixels.shape[1], 1)
            return torch.from_numpy(ndimage.zoom(pixels, factors, order=1))
        given = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).contiguous()
        if self.backend == "float":
            given = given.to(torch.float32).div_(self.scale)
        how = tv.InterpolationMode(self.interpolation)
        return (
            tv.resize(given, [height, width], interpolation=how, antialias=self.antialias).permute(1, 2, 0).contiguous()
        )

    def _recoloured(self, picture: Tensor, lookup: np.ndarray) -> Tensor:
        """[h,w,C] through the table uint8 [256,3] of `Transform.lookup`; what is black stays black."""
        given = picture.numpy()
        if self.colour != "rgb":
            lookup = np.repeat((lookup.mean(1, keepdims=True) + 0.5).astype(np.uint8), self.channels, axis=1)
        if self.colour == "visionunite":
            lookup[:, :2] = np.arange(256, dtype=np.uint8)[:, None]  # hue and saturation as they are
        if picture.is_floating_point():
            levels = np.arange(256) / self.scale
            made = np.stack(
                [np.interp(given[..., c], levels, lookup[:, c] / self.scale) for c in range(self.channels)], 2
            )
            made = made.astype(np.float32)
        else:
            made = recolour(given, lookup)
        dark = given[:, :, 2:] <= 1 if self.colour == "visionunite" else ~given.any(2, keepdims=True)
        return torch.from_numpy(np.where(dark, given, made))

    def _normalised(self, pixels: Tensor) -> Tensor:
        """float32 [C,S,S] of [C,S,S], in the order of steps that gives torchvision's bits."""
        values = pixels.contiguous().to(torch.float32, copy=True)
        if self.backend == "tensor":
            values = values.mul_(1 / self.scale)  # as torchvision's ToDtype, which ToTensor does not
        elif not pixels.is_floating_point():
            values = values.div_(self.scale)
        if not self.mean:
            return values
        mean, std = (torch.tensor(given)[:, None, None] for given in (self.mean, self.std))
        return values.sub_(mean).div_(std)


def cut_field(image: np.ndarray) -> np.ndarray:
    """uint8 [N,N,3]: the photograph uint8 [H,W,3] cut to its field of view, in a centred square, black outside."""
    found = find_field(image)
    return field_square(image, found.mask, found.box)


def coloured(image: np.ndarray, colour: str) -> np.ndarray:
    """uint8 [H,W,C] of a photograph uint8 [H,W,3]: `colour` is one of COLOURS."""
    if colour == "rgb":
        return image
    if colour == "grey":
        return np.array(Image.fromarray(image).convert("L"))[:, :, None]
    strong = np.array(ImageEnhance.Contrast(Image.fromarray(image)).enhance(CONTRAST))
    # in eight bits, as theirs: where a channel holds both 0 and 255, its brightest pixels become 0
    shifted = strong - strong.min((0, 1)) + np.uint8(1)
    return np.array(Image.fromarray(shifted).convert("HSV"))
