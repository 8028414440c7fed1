"""From a decoded photograph to the model's two inputs: one function for training and inference."""

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tv

from mdf.errors import UserError
from mdf.imaging.augment import Transform, recolour, warp
from mdf.imaging.field import field_square, find_field
from mdf.imaging.recipe import Recipe

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# A pixel of a scaled-down mask is foreground when this share of it is covered. Measured on HRF at 256 pixels: one half
# keeps 36 % of the vessels' midlines and 70 % of their area, 0.35 keeps 52 % and 108 %, 0.2 keeps 76 % and 172 %.
MASK_COVERAGE = 0.35
# Before augmentation coverage is kept in steps of 1/200, rounded up: MASK_COVERAGE and one half are then whole steps,
# so that exactly the same pixels lie above them.
STEPS = 200
# field: cut to the field of view, centred in a square, black outside; squash: the whole photograph, each side scaled to
# S by itself (open_clip's word); pad: the whole photograph, its longer side scaled to S, black on the right or below
RESIZES = ("field", "squash", "pad")
CROP_MAGIC = b"mdf crop 1\n"


@dataclass(frozen=True)
class Prepared:
    pixel_values: torch.Tensor  # float32 [3, S, S], normalised for the encoder; [1, S, S] where its recipe is grey
    unet_pixels: torch.Tensor  # float32 [3, U, U], normalised for the U-Net
    field: torch.Tensor  # bool [1, U, U], inside the field of view
    masks: torch.Tensor  # float32 {0, 1} [K, U, U], zeros where not known
    mask_known: torch.Tensor  # bool [K]
    picture: torch.Tensor | None = None  # uint8 [3, T, T] for the language model's own image processor


@dataclass(frozen=True)
class Crop:
    """What of a photograph is the same in every epoch: cut to its field and scaled, not yet augmented or normalised.

    M = max(S, U, T). A photograph that is to be augmented has one picture [M, M, 3] and `covers` [1+N, M, M] with the
    share of each pixel that the field and the N masks cover, in 200ths. One that is not has two, [S, S, 3] and
    [U, U, 3], and `covers` {0, 1} [1+N, U, U]. Where the encoder is not shown the field (`Preprocessing.resize`), there
    are always two, [S, S, 3] its own, and M = max(U, T). Where T > 0, what is not to be augmented has [T, T, 3], too.
    With a recipe of the encoder's its own is what `Recipe.scaled` gives.
    """

    pictures: tuple[torch.Tensor, ...]  # uint8; the encoder's own may be float32
    covers: torch.Tensor  # uint8; the field, then the masks
    names: tuple[str, ...]  # of the N masks
    augmented: bool  # made to be augmented

    def to_bytes(self) -> bytes:
        """For a file: a header with shapes, names and a checksum, then the bytes of the tensors."""
        tensors = (*self.pictures, self.covers)
        payload = b"".join(t.numpy().tobytes() for t in tensors)
        header: dict[str, Any] = {
            "shapes": [list(t.shape) for t in tensors],
            "names": self.names,
            "augmented": self.augmented,
            "crc32": zlib.crc32(payload),
        }
        if floats := [number for number, t in enumerate(tensors) if t.is_floating_point()]:
            header["float32"] = floats
        text = json.dumps(header).encode()
        return CROP_MAGIC + len(text).to_bytes(4, "big") + text + payload

    @classmethod
    def from_bytes(cls, data: bytes | bytearray) -> "Crop":
        """The reverse of `to_bytes`. Raises ValueError for anything else, damaged bytes included."""
        buffer = bytearray(data) if isinstance(data, bytes) else data  # tensors want memory that may be written to
        start = len(CROP_MAGIC) + 4
        if buffer[: len(CROP_MAGIC)] != CROP_MAGIC or len(buffer) < start:
            raise ValueError("no prepared photograph of this version of mdf")
        end = start + int.from_bytes(buffer[len(CROP_MAGIC) : start], "big")
        try:
            header = json.loads(bytes(buffer[start:end]))
            shapes, crc32 = [tuple(s) for s in header["shapes"]], header["crc32"]
            floats = set(header.get("float32", ()))  # numbers of the tensors that are not uint8
            sizes = [math.prod(shape) * (4 if number in floats else 1) for number, shape in enumerate(shapes)]
        except (ValueError, KeyError, TypeError):
            raise ValueError("its header is damaged") from None
        if len(buffer) - end != sum(sizes) or zlib.crc32(memoryview(buffer)[end:]) != crc32:
            raise ValueError("its bytes are damaged or cut short")
        tensors = []
        for number, (shape, size) in enumerate(zip(shapes, sizes, strict=True)):
            part = torch.frombuffer(buffer, dtype=torch.uint8, count=size, offset=end)
            if number in floats:
                part = part.clone().view(torch.float32)  # a clone, since floats have to be aligned in memory
            tensors.append(part.view(shape))
            end += size
        # a file of mdf 0.1 does not say; there, one picture was for augmenting
        augmented = header.get("augmented", len(tensors) == 2)
        return cls(tuple(tensors[:-1]), tensors[-1], tuple(header["names"]), augmented)


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
    resize: str = "field"  # of RESIZES, what the encoder is shown; the others are always shown the field
    language_size: int = 0  # T, pixels; 0 = the language model has no vision tower of its own
    recipe: Recipe | None = None  # of a released encoder, for what that is shown instead of `resize` (`with_recipe`)
    version: int = 2  # of the algorithm below; raised when its pixels change

    def with_recipe(self, recipe: Recipe) -> "Preprocessing":
        """The same for the U-Net, masks and language model, and for the encoder what its own code shows it."""
        mean, std = recipe.mean or (0.0,) * recipe.channels, recipe.std or (1.0,) * recipe.channels
        return replace(self, encoder_size=recipe.side, encoder_mean=mean, encoder_std=std, recipe=recipe)

    @property
    def shown(self) -> str:
        """By which rule the encoder is shown the photograph: of RESIZES, or of a recipe's RULES."""
        return self.recipe.rule if self.recipe is not None else self.resize

    @property
    def channels(self) -> int:
        """Of the encoder's input: 3, or 1 where its recipe is grey."""
        return self.recipe.channels if self.recipe is not None else 3

    def to_dict(self) -> dict:
        """Plain values, as written to preprocessing.json."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return values | {"recipe": self.recipe and self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping) -> "Preprocessing":
        """The reverse of `to_dict`. Raises UserError on unknown settings or another version of the algorithm."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise UserError(
                f"preprocessing: unknown setting {', '.join(unknown)}. Was it written by another version of mdf?"
            )
        read: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        if read.get("recipe") is not None:
            read["recipe"] = Recipe.from_dict(read["recipe"])
        settings = cls(**read)
        if settings.version != cls.version:
            raise UserError(f"preprocessing: version {settings.version} is not this mdf's version {cls.version}.")
        if settings.resize not in RESIZES:
            raise UserError(f"preprocessing: resize {settings.resize!r} is none of {', '.join(RESIZES)}")
        if settings.recipe is not None and settings != settings.with_recipe(settings.recipe):
            raise UserError("preprocessing: encoder_size, encoder_mean and encoder_std are not those of its recipe")
        return settings

    def hash(self) -> str:
        """12 hexadecimal digits that change with any setting."""
        values = self.to_dict()
        if self.resize == "field":
            del values["resize"]  # checkpoints from before there was a choice keep their hash
        if not self.language_size:
            del values["language_size"]  # likewise
        if self.recipe is None:
            del values["recipe"]  # likewise
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]

    def prepare(
        self,
        image: np.ndarray,
        masks: Mapping[str, np.ndarray] | None = None,
        mask_names: tuple[str, ...] = (),
        transform: Transform | None = None,
    ) -> Prepared:
        """Crop to the field of view, pad to a centred square (no distortion), scale with antialiasing, normalise.

        With another `resize` than `field` that is what the U-Net sees; the encoder sees the whole photograph. With a
        recipe the encoder sees, without `transform`, what `Recipe.apply` gives to the last bit.
        `image` uint8 [H, W, 3]; `masks` name -> bool [H, W] of the same size; `mask_names` are the K output masks in
        order. Pixels outside the field are 0 before normalising. The geometric part of `transform` acts on image, field
        and masks alike, the photometric part on the image alone. Raises UserError for wrong shapes.
        """
        given = {name: mask for name, mask in (masks or {}).items() if name in mask_names}
        return self.finish(self.crop(image, given, augmented=transform is not None), mask_names, transform)

    def crop(self, image: np.ndarray, masks: Mapping[str, np.ndarray] | None = None, *, augmented: bool) -> Crop:
        """The part of `prepare` that is the same in every epoch; arguments as there. Raises UserError likewise."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise UserError(f"photograph must be uint8 [height, width, 3], got {image.dtype} {list(image.shape)}")
        given = dict(masks or {})
        for name, mask in given.items():
            if mask.shape != image.shape[:2]:
                (h, w), (ih, iw) = mask.shape, image.shape[:2]
                raise UserError(
                    f"mask {name} is {w}x{h} pixels, its photograph {iw}x{ih}: scale the mask to the photograph's size"
                )
        found = find_field(image)
        box = found.box if self.crop_field else (0, 0, image.shape[1], image.shape[0])
        cut = field_square(image, found.mask, box)
        square = torch.from_numpy(cut).permute(2, 0, 1)
        covers = torch.cat(
            [
                _square(torch.from_numpy(np.ascontiguousarray(mask, dtype=bool))[None], box)
                for mask in (found.mask, *given.values())
            ]
        ).to(torch.float32)
        whole: tuple[torch.Tensor, ...] = ()
        if self.recipe is not None:
            whole = (self.recipe.scaled(image, cut if self.crop_field else None),)
        elif self.resize != "field":
            whole = (_last(_whole(image, self.encoder_size, self.resize)),)
        if augmented:
            side = max(self.unet_size, self.language_size, 0 if whole else self.encoder_size)
            covers = _resize(covers, side).mul_(STEPS).ceil_().clamp_(0, STEPS).to(torch.uint8)
            picture = _last(_resize(square, side) * (covers[:1] > STEPS // 2))
            return Crop((*whole, picture), covers, tuple(given), True)
        covers = _resize(covers, self.unet_size)
        inside = covers[:1] > 0.5
        covers = torch.cat([inside, covers[1:] > MASK_COVERAGE]).to(torch.uint8)
        unet = _resize(square, self.unet_size) * inside
        encoder = whole or (_last(_resize(square, self.encoder_size)),)
        own = (_last(_resize(square, self.language_size)),) if self.language_size else ()
        return Crop((*encoder, _last(unet), *own), covers, tuple(given), False)

    def finish(self, crop: Crop, mask_names: tuple[str, ...] = (), transform: Transform | None = None) -> Prepared:
        """The rest of `prepare`: `transform` on a crop made with `augmented`, and normalising.

        Masks of the crop that are not in `mask_names` are left out. Raises ValueError for a crop of the other kind.
        """
        if crop.augmented != (transform is not None):
            raise ValueError("a crop is augmented where it was made for that, and only there")
        lookup = None
        if transform is None:
            encoder, unet, *own = (picture.permute(2, 0, 1) for picture in crop.pictures)
            inside, covers = crop.covers[:1].bool(), crop.covers[1:]
        else:
            picture, field = crop.pictures[-1].numpy(), crop.covers[0].numpy() > STEPS // 2
            lookup = transform.lookup(picture, field)
            coloured = torch.from_numpy(recolour(picture, lookup) * field[:, :, None]).permute(2, 0, 1)
            shares = crop.covers.to(torch.float32).sub_(0.5).clamp_(min=0).div_(STEPS)  # the middle of each step
            both = warp(torch.cat([coloured.to(torch.float32), shares]), transform)
            square = _pixels(both[:3])
            covers = _resize(both[3:], self.unet_size)
            inside, covers = covers[:1] > 0.5, covers[1:] > MASK_COVERAGE
            unet = _resize(square, self.unet_size) * inside
            own = [_resize(square, self.language_size)] if self.language_size else []
            if self.recipe is None and self.resize == "field":
                encoder = _resize(square, self.encoder_size)
            elif self.recipe is None:
                whole = crop.pictures[0].numpy()
                whole = recolour(whole, lookup) * whole.any(2, keepdims=True)  # black stays black, as beside the field
                encoder = _pixels(warp(torch.from_numpy(whole).permute(2, 0, 1).to(torch.float32), transform))
        masks = torch.zeros(len(mask_names), self.unet_size, self.unet_size)
        for row, name in enumerate(crop.names):
            if name in mask_names:
                masks[mask_names.index(name)] = covers[row]
        if self.recipe is not None:
            pixel_values = self.recipe.finish(crop.pictures[0], transform, lookup)
        else:
            pixel_values = _normalise(encoder, self.encoder_mean, self.encoder_std)
        return Prepared(
            pixel_values=pixel_values,
            unet_pixels=_normalise(unet, self.unet_mean, self.unet_std),
            field=inside,
            masks=masks,
            mask_known=torch.tensor([name in crop.names for name in mask_names], dtype=torch.bool),
            picture=own[0].contiguous() if own else None,
        )


def _last(pixels: torch.Tensor) -> torch.Tensor:
    """[C, H, W] as contiguous [H, W, C]."""
    return pixels.permute(1, 2, 0).contiguous()


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


def _whole(image: np.ndarray, side: int, resize: str) -> torch.Tensor:
    """uint8 [3, side, side] of the whole photograph uint8 [H, W, 3], by the rule `squash` or `pad` of RESIZES."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    height, width = image.shape[:2]
    if resize == "pad":
        longer = max(height, width)
        height, width = (max(1, round(side * length / longer)) for length in (height, width))
    else:
        height = width = side
    scaled = tv.resize(pixels, [height, width], interpolation=tv.InterpolationMode.BICUBIC, antialias=True)
    return torch.nn.functional.pad(scaled, (0, side - width, 0, side - height))


def _pixels(values: torch.Tensor) -> torch.Tensor:
    """uint8, rounded, from float32 that may lie beside 0 and 255."""
    return values.round_().clamp_(0, 255).to(torch.uint8)


def _normalise(pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    centre, spread = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
    # contiguous first: on channels-last memory the three steps take three times as long
    return pixels.contiguous().to(torch.float32).div_(255).sub_(centre).div_(spread)
