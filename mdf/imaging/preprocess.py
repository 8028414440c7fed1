"""From a decoded photograph to the model's two inputs: one function for training and inference."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tv

from mdf.errors import UserError
from mdf.imaging.augment import Transform
from mdf.imaging.field import find_field

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# A pixel of a scaled-down mask is foreground when this share of it is covered. Measured on HRF at 256 pixels: one half
# keeps 36 % of the vessels' midlines and 70 % of their area, 0.35 keeps 52 % and 108 %, 0.2 keeps 76 % and 172 %.
MASK_COVERAGE = 0.35


@dataclass(frozen=True)
class Prepared:
    pixel_values: torch.Tensor  # float32 [3, S, S], normalised for the encoder
    unet_pixels: torch.Tensor  # float32 [3, U, U], normalised for the U-Net
    field: torch.Tensor  # bool [1, U, U], inside the field of view
    masks: torch.Tensor  # float32 {0, 1} [K, U, U], zeros where not known
    mask_known: torch.Tensor  # bool [K]


@dataclass(frozen=True)
class Preprocessing:
    """Settings of `prepare`; a checkpoint carries them, so that inference sees what training saw."""

    encoder_size: int = 224  # S, pixels
    unet_size: int = 256  # U, pixels
    encoder_mean: tuple[float, ...] = CLIP_MEAN  # of RGB in 0..1
    encoder_std: tuple[float, ...] = CLIP_STD
    unet_mean: tuple[float, ...] = IMAGENET_MEAN
    unet_std: tuple[float, ...] = IMAGENET_STD
    crop_field: bool = True  # cut to the box round the field of view
    version: int = 1  # of the algorithm below; raised when its pixels change

    def to_dict(self) -> dict:
        """Plain values, as written to preprocessing.json."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping) -> "Preprocessing":
        """The reverse of `to_dict`. Raises UserError on unknown settings or another version of the algorithm."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise UserError(
                f"preprocessing: unknown setting {', '.join(unknown)}. Was it written by another version of mdf?"
            )
        read: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        settings = cls(**read)
        if settings.version != cls.version:
            raise UserError(f"preprocessing: version {settings.version} is not this mdf's version {cls.version}.")
        return settings

    def hash(self) -> str:
        """12 hexadecimal digits that change with any setting."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def prepare(
        self,
        image: np.ndarray,
        masks: Mapping[str, np.ndarray] | None = None,
        mask_names: tuple[str, ...] = (),
        transform: Transform | None = None,
    ) -> Prepared:
        """Crop to the field of view, pad to a centred square (no distortion), scale with antialiasing, normalise.

        `image` uint8 [H, W, 3]; `masks` name -> bool [H, W] of the same size; `mask_names` are the K output masks in
        order. Pixels outside the field are 0 before normalising. The geometric part of `transform` acts on image, field
        and masks alike, the photometric part on the image alone. Raises UserError for wrong shapes.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise UserError(f"photograph must be uint8 [height, width, 3], got {image.dtype} {list(image.shape)}")
        given = dict(masks or {})
        known = [name for name in mask_names if name in given]
        for name in known:
            if given[name].shape != image.shape[:2]:
                (h, w), (ih, iw) = given[name].shape, image.shape[:2]
                raise UserError(
                    f"mask {name} is {w}x{h} pixels, its photograph {iw}x{ih}: scale the mask to the photograph's size"
                )
        found = find_field(image)
        box = found.box if self.crop_field else (0, 0, image.shape[1], image.shape[0])
        field = _square(torch.from_numpy(found.mask)[None], box)
        square = _square(torch.from_numpy(image).permute(2, 0, 1), box) * field
        covers = [field] + [
            _square(torch.from_numpy(np.ascontiguousarray(given[name], dtype=bool))[None], box) for name in known
        ]
        cover = torch.cat(covers).to(torch.float32)

        if transform is None:
            encoder, unet = _resize(square, self.encoder_size), _resize(square, self.unet_size)
            cover = _resize(cover, self.unet_size)
        else:
            side = max(self.encoder_size, self.unet_size)
            square, cover = _resize(square, side), _resize(cover, side)
            square = torch.from_numpy(
                transform.colours(square.permute(1, 2, 0).numpy(), cover[0].numpy() > 0.5)
            ).permute(2, 0, 1)
            both = _warp(torch.cat([square.to(torch.float32) * (cover[:1] > 0.5), cover]), transform)
            square, cover = both[:3].round_().clamp_(0, 255).to(torch.uint8), both[3:]
            encoder, unet = _resize(square, self.encoder_size), _resize(square, self.unet_size)
            cover = _resize(cover, self.unet_size)
        inside = cover[:1] > 0.5
        out = torch.zeros(len(mask_names), self.unet_size, self.unet_size)
        for row, name in enumerate(known, start=1):
            out[mask_names.index(name)] = (cover[row] > MASK_COVERAGE).to(torch.float32)
        return Prepared(
            pixel_values=_normalise(encoder, self.encoder_mean, self.encoder_std),
            unet_pixels=_normalise(unet * inside, self.unet_mean, self.unet_std),
            field=inside,
            masks=out,
            mask_known=torch.tensor([name in given for name in mask_names], dtype=torch.bool),
        )


def _square(pixels: torch.Tensor, box: tuple[int, int, int, int]) -> torch.Tensor:
    """Cut [C, H, W] to `box` and pad it with zeros to a centred square."""
    left, top, right, bottom = box
    pixels = pixels[:, top:bottom, left:right]
    height, width = bottom - top, right - left
    if height == width:
        return pixels
    side = max(height, width)
    # channels last in memory: the resize is faster so
    out = pixels.new_zeros((side, side, pixels.shape[0])).permute(2, 0, 1)
    y, x = (side - height) // 2, (side - width) // 2
    out[:, y : y + height, x : x + width] = pixels
    return out


def _resize(pixels: torch.Tensor, side: int) -> torch.Tensor:
    if pixels.shape[-1] == side:
        return pixels
    mode = tv.InterpolationMode.BICUBIC if pixels.dtype == torch.uint8 else tv.InterpolationMode.BILINEAR
    return tv.resize(pixels, [side, side], interpolation=mode, antialias=True)


def _warp(pixels: torch.Tensor, transform: Transform) -> torch.Tensor:
    """The geometric part of `transform` on float [C, S, S]; what comes from outside is 0."""
    theta = torch.from_numpy(transform.matrix()).to(torch.float32)[None]
    grid = torch.nn.functional.affine_grid(theta, [1, *pixels.shape], align_corners=False)
    return torch.nn.functional.grid_sample(
        pixels[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )[0]


def _normalise(pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    centre, spread = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
    return (pixels.to(torch.float32).div_(255).sub_(centre).div_(spread)).contiguous()
