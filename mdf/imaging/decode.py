"""Image files to arrays: upright, eight bits, three channels, and one clear error for every bad file.

What a file is and how large its picture is stand in its header, which is read and checked before any pixel is decoded.
The file's ending counts for nothing. Memory stays below 40 bytes for each pixel of the picture plus the file's size
(25 in most formats); `tests/imaging/fuzz.py` measures it. Colour profiles (ICC) are not applied.
"""

import ctypes
import gzip
import logging
import os
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from mdf.errors import UserError
from mdf.imaging.mask_files import in_ranges, read_label_map, read_outline, split_part

MAX_PIXELS = 100_000_000  # no fundus camera gives more; a montage of many photographs may
MAX_BYTES = 1 << 30  # of a file
MAX_SCANS = 50  # of a progressive JPEG, which has about ten; each scan of a bomb costs as much time as a whole picture
# Others are not tried: Pillow also knows formats that start other programs (EPS) or that no camera writes.
FORMATS = ("JPEG", "PNG", "TIFF", "GIF", "BMP", "PPM", "WEBP", "JPEG2000")  # MPO is opened as JPEG
LOSSLESS = ("PNG", "TIFF", "GIF", "BMP", "PPM")  # in a mask of other formats 0 may be 3
CLASSES = 32  # a grey level below it is no edge of a mask in black and white, but the number of a class
READABLE = "JPEG, PNG, TIFF, GIF, BMP, PPM, WebP, JPEG 2000, DICOM"
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")  # also I… and F
ORIENTATION = 0x0112  # EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LIBRARIES = r"(PIL|pydicom|mdf\.imaging\.dicom)(\.|$)"
# Complaints about damaged files that would go to stderr: Pillow's log, and libtiff's, which is told so in its own C.
logging.getLogger("PIL").addHandler(logging.NullHandler())
with suppress(AttributeError, OSError):  # a build of Pillow without libtiff, or with it hidden
    libtiff = ctypes.CDLL(Image.core.__file__)
    libtiff.TIFFSetErrorHandler(None)
    libtiff.TIFFSetWarningHandler(None)


def load_image(
    path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None, data: bytes | None = None
) -> np.ndarray:
    """Read a photograph as uint8 [H, W, 3], RGB, turned upright by its EXIF orientation.

    16-bit files are scaled to 8 bits (by 4095 where no value is above it, else by 65535), grey becomes three equal
    channels, transparent pixels become black, of several frames the first is taken; a gzipped file is unpacked. DICOM
    files are read by `mdf.imaging.dicom`. The size is read from the header and refused above `max_pixels`.

    With `at_least`, a JPEG whose shorter side is 4 * `at_least` pixels or more is decoded at a half, a quarter or an
    eighth of its size, the shorter side staying 2 * `at_least` or more: several times faster, and after an antialiased
    resize to `at_least` hardly to be told apart. Masks, boxes and points of the file then have another size.
    With `data`, the bytes of the file, `path` is only its name in messages, and DICOM is refused.
    Raises UserError for every file that cannot be read.
    """
    return _decode(path, "photograph", _to_rgb, max_pixels, at_least, data)


def load_mask(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS, data: bytes | None = None) -> np.ndarray:
    """Read a mask as bool [H, W], in the same orientation as `load_image` gives.

    With at most two levels, one of them 0, the other is foreground; with more (grey edges, JPEG) everything above half
    of the largest value that the format can hold. Small numbers alone, those of classes, are refused: they would make
    an empty mask, which says that there is nothing. `path` may name one class of a file or an outline, see mask_files.
    Raises UserError as `load_image` does.
    """
    file, part = split_part(path)
    if part is None:
        return _decode(file, "mask", lambda image: _to_bool(image, file), max_pixels, None, data)
    if "x" in part:
        return read_outline(file, part, max_pixels, data)
    if file.name.endswith(".map.gz"):
        return in_ranges(read_label_map(file, max_pixels, data), part)
    return _decode(file, "mask", lambda image: in_ranges(_to_levels(image), part), max_pixels, None, data)


def _decode(
    path: str | os.PathLike,
    noun: str,
    convert: Callable[[Image.Image], np.ndarray],
    max_pixels: int,
    at_least: int | None,
    data: bytes | None,
) -> np.ndarray:
    file = Path(path)
    quiet()
    try:
        with _opened(file, noun, max_pixels, data) as stream:
            if is_dicom(stream):
                if noun == "mask" or data is not None:
                    raise UserError(f"{noun} {file}: is a DICOM file. Convert it to PNG first.")
                from mdf.imaging.dicom import load_dicom

                return load_dicom(file, max_pixels=max_pixels)
            with Image.open(stream, formats=FORMATS) as image:
                _check_header(image, stream, noun, file, max_pixels)
                if at_least is not None and image.format in ("JPEG", "MPO"):
                    image.draft(None, (2 * at_least, 2 * at_least))
                image.load()
                # not ImageOps.exif_transpose: it copies the pixels where there is nothing to turn, and rewrites the
                # EXIF data, which may be damaged
                turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
                turned = image if turn is None else image.transpose(turn)
                turned.format = image.format
                return convert(turned)
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{noun} {file}: not an image that can be read ({READABLE}). Convert it first.") from None
    except Image.DecompressionBombError as error:
        raise _too_large(noun, file, reason(error)) from None
    except FileNotFoundError:
        raise UserError(f"{noun} {file}: no such file. Check the path, or the manifest's root (--data-root).") from None
    except IsADirectoryError:
        raise UserError(f"{noun} {file}: is a folder, an image file is needed.") from None
    except PermissionError:
        raise UserError(f"{noun} {file}: may not be read. Change its permissions.") from None
    except MemoryError:
        raise _too_large(noun, file, "decoding it takes more memory than there is") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ValueError, … for damaged bytes
        raise UserError(
            f"{noun} {file}: damaged or cut short ({reason(error)}). Copy it again or remove it from the manifest."
        ) from None


def _opened(file: Path, noun: str, max_pixels: int, data: bytes | None) -> BinaryIO:
    """The file's bytes, those inside where it is gzipped. Raises UserError for an empty or much too large file."""
    # Pillow gets the stream, not the path: it would map the file, which may shrink meanwhile
    stream: BinaryIO = file.open("rb") if data is None else BytesIO(data)
    try:
        size = os.fstat(stream.fileno()).st_size if data is None else len(data)
        if size == 0:
            raise UserError(f"{noun} {file}: the file is empty. Copy it again or remove it from the manifest.")
        if size > MAX_BYTES:
            raise _too_large(noun, file, f"{size:,} bytes, more than {MAX_BYTES:,}")
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if not packed:
            return stream
        limit = unpacked_limit(max_pixels)
        with gzip.GzipFile(fileobj=stream) as inside:
            unpacked = inside.read(limit + 1)
        if len(unpacked) > limit:
            raise _too_large(noun, file, f"it unpacks to more than {limit:,} bytes")
    except BaseException:
        stream.close()
        raise
    stream.close()
    return BytesIO(unpacked)


def unpacked_limit(max_pixels: int) -> int:
    """Bytes that a compressed file may unpack to: what that many pixels take at most, and a header."""
    return 8 * max_pixels + (1 << 20)


def is_dicom(stream: BinaryIO) -> bool:
    """Whether the bytes are those of a DICOM file; the stream is then at its start again."""
    stream.seek(128)
    mark = stream.read(4)
    stream.seek(0)
    return mark == b"DICM"


def _check_header(image: Image.Image, stream: BinaryIO, noun: str, file: Path, max_pixels: int) -> None:
    """Raises UserError for a picture that is not to be decoded."""
    width, height = image.size
    if width < 1 or height < 1:
        raise UserError(f"{noun} {file}: its size is {width}x{height} pixels. Remove it from the manifest.")
    if width * height > max_pixels:
        raise _too_large(noun, file, f"its header claims {width}x{height} pixels, more than {max_pixels:,}")
    if image.mode not in MODES and not image.mode.startswith(("I", "F")):
        raise UserError(f"{noun} {file}: its colours are stored as {image.mode}. Convert it to RGB first.")
    if image.info.get("progressive"):
        place = stream.tell()
        stream.seek(0)
        scans = stream.read().count(b"\xff\xda")
        stream.seek(place)
        if scans > MAX_SCANS:
            raise _too_large(noun, file, f"a progressive JPEG of {scans} scans, more than {MAX_SCANS}")


def _too_large(noun: str, file: Path, why: str) -> UserError:
    return UserError(f"{noun} {file}: too large: {why}. Scale it down first.")


def reason(error: BaseException) -> str:
    """What a library says of a file, in one short line."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split()).rstrip(".")
    return text[:160] or type(error).__name__


def quiet() -> None:
    """Ignore the libraries' warnings about damaged files: what cannot be read is an error of ours.

    A filter of the process: `warnings.catch_warnings` would change it for all threads that decode at the same time.
    Asked for at each file, as others reset the filters.
    """
    ours = ("ignore", None, Warning, re.compile(LIBRARIES), 0)
    if ours not in warnings.filters:
        warnings.filterwarnings("ignore", module=LIBRARIES)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    if image.mode.startswith(("I", "F")):
        grey = to_8bit(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    # np.array copies: writable, and independent of the closed file
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def to_8bit(grey: np.ndarray) -> np.ndarray:
    """Values of any depth as uint8 of the same shape."""
    values = np.nan_to_num(grey.astype(np.float32), copy=False)
    top = float(values.max())
    if grey.dtype.kind == "f":
        full = 1.0 if top <= 1.0 else 255.0 if top <= 255.0 else 65535.0
    else:
        full = 4095.0 if 255 < top <= 4095 else 255.0 if top <= 255 and grey.dtype.itemsize > 2 else 65535.0
    values *= 255.0 / full
    values += 0.5
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _to_levels(image: Image.Image) -> np.ndarray:
    """Grey levels as they are stored, 16-bit ones unscaled; a palette's colours become grey."""
    return np.asarray(image if image.mode.startswith(("I", "F")) else image.convert("L"))


def _to_bool(image: Image.Image, file: Path) -> np.ndarray:
    if image.mode == "1":
        return np.array(image)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        full = 65535 if values.max() > 255 else 255
    else:
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")), 2, 0)
        values = np.maximum(np.maximum(red, green), blue)  # .max(axis=2) takes fifty times as long
        full = 255
    low, high = values.min(), values.max()
    two_levels = bool(((values == low) | (values == high)).all())
    if two_levels and low == 0:
        return values > 0
    if high < CLASSES and image.format in LOSSLESS:
        raise UserError(
            f"mask {file}: its grey levels are {low} to {high}, which look like the numbers of classes. Name those "
            f"that are meant behind its path: #{high} for one, #{max(low, 1)}-{high} for several."
        )
    return values > full / 2
