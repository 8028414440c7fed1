"""Image files to arrays: upright, eight bits, three channels, and one clear error for every bad file."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mdf.errors import UserError
from mdf.imaging.mask_files import in_ranges, read_label_map, read_outline, split_part

MAX_PIXELS = 200_000_000


def load_image(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a photograph as uint8 [H, W, 3], RGB, turned upright by its EXIF orientation.

    16-bit files are scaled to 8 bits (by 4095 where no value is above it, else by 65535), grey becomes three equal
    channels, transparent pixels become black, of several frames the first is taken. The size is read from the header
    and refused above `max_pixels` before anything is decoded. A name that ends in .gz is unpacked on the way, no
    further than the header's size asks for. Raises UserError for every file that cannot be read.
    """
    return _decode(path, max_pixels, "photograph", _to_rgb)


def load_mask(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a mask as bool [H, W], in the same orientation as `load_image` gives.

    With at most two levels, one of them 0, the other is foreground; with more (grey edges, JPEG) everything above half
    of the largest value that the format can hold. `path` may name one class of a file or an outline, see mask_files.
    Raises UserError as `load_image` does.
    """
    file, part = split_part(path)
    if part is None:
        return _decode(file, max_pixels, "mask", _to_bool)
    if "x" in part:
        return read_outline(file, part, max_pixels)
    if file.name.endswith(".map.gz"):
        return in_ranges(read_label_map(file, max_pixels), part)
    return _decode(file, max_pixels, "mask", lambda image: in_ranges(_to_levels(image), part))


def _decode(
    path: str | os.PathLike, max_pixels: int, noun: str, convert: Callable[[Image.Image], np.ndarray]
) -> np.ndarray:
    file = Path(path)
    if not file.exists():
        raise UserError(f"{noun} {file}: no such file. Check the path, or the manifest's root (--data-root).")
    if file.is_dir():
        raise UserError(f"{noun} {file}: is a folder, an image file is needed.")
    try:
        if file.stat().st_size == 0:
            raise UserError(f"{noun} {file}: the file is empty. Copy it again or remove it from the manifest.")
        with _stream(file) as stream, Image.open(stream) as image:
            width, height = image.size
            if width < 1 or height < 1:
                raise UserError(f"{noun} {file}: its size is {width}x{height} pixels. Remove it from the manifest.")
            if width * height > max_pixels:
                raise _too_large(noun, file, f"its header claims {width}x{height} pixels, more than {max_pixels:,}")
            image.load()
            array = convert(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(
            f"{noun} {file}: not an image that can be read (JPEG, PNG, TIFF, GIF, BMP, …). Convert it first."
        ) from None
    except Image.DecompressionBombError as error:
        raise _too_large(noun, file, str(error).rstrip(".")) from None
    except PermissionError:
        raise UserError(f"{noun} {file}: may not be read. Change its permissions.") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ValueError, … for damaged bytes
        raise UserError(
            f"{noun} {file}: damaged or cut short ({error}). Copy it again or remove it from the manifest."
        ) from None
    return array


def _stream(file: Path) -> IO[bytes]:
    """The bytes of a file, unpacked where its name ends in .gz."""
    return cast(IO[bytes], gzip.open(file)) if file.suffix == ".gz" else file.open("rb")


def _too_large(noun: str, file: Path, reason: str) -> UserError:
    return UserError(f"{noun} {file}: too large: {reason}. Scale it down first.")


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    if image.mode.startswith(("I", "F")):
        grey = _to_8bit(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))  # np.array copies: writable, and independent of the closed file


def _to_8bit(grey: np.ndarray) -> np.ndarray:
    values = np.nan_to_num(grey.astype(np.float32))
    top = float(values.max())
    if grey.dtype.kind == "f":
        full = 1.0 if top <= 1.0 else 255.0 if top <= 255.0 else 65535.0
    else:
        full = 4095.0 if 255 < top <= 4095 else 255.0 if top <= 255 and grey.dtype.itemsize > 2 else 65535.0
    return np.clip(values * (255.0 / full) + 0.5, 0, 255).astype(np.uint8)


def _to_levels(image: Image.Image) -> np.ndarray:
    """Grey levels as they are stored, 16-bit ones unscaled; a palette's colours become grey."""
    return np.asarray(image if image.mode.startswith(("I", "F")) else image.convert("L"))


def _to_bool(image: Image.Image) -> np.ndarray:
    if image.mode == "1":
        return np.array(image)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        full = 65535 if values.max() > 255 else 255
    else:
        values = np.asarray(image.convert("RGB")).max(axis=2)
        full = 255
    low, high = values.min(), values.max()
    two_levels = bool(((values == low) | (values == high)).all())
    if two_levels and low == 0:
        return values > 0
    return values > full / 2
