"""What a stranger's file has to be before the model sees it: one still photograph of a sensible size, and no more.

The bytes decide, not the file's name; the size is read from the header before a pixel is decoded; what passes is
written anew, so that nothing of the file but its pixels is kept.
"""

import re
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image

from mdf.errors import UserError
from mdf.imaging.decode import FORMATS, load_image, reason

MAX_BYTES = 25_000_000  # of a file
MAX_PIXELS = 50_000_000  # of a photograph; cameras give up to about 25 million
SMALLEST = 64  # pixels a side
ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".jp2", ".dcm")
STARTS = (  # magic bytes and where they stand
    (0, b"\xff\xd8\xff"), (0, b"\x89PNG\r\n\x1a\n"), (0, b"II*\0"), (0, b"MM\0*"), (8, b"WEBP"), (0, b"BM"),
    (0, b"\0\0\0\x0cjP  "), (0, b"\xff\x4f\xff\x51"), (128, b"DICM"),
)  # fmt: skip
LONGEST_NAME = 60


def admit(file: str | Path, folder: Path, name: str | None = None) -> Path:
    """A PNG of the photograph in `folder`, made anew from the file's pixels, under a harmless form of its name.

    Raises UserError for what is too large, no photograph, several pictures, or smaller than an eye can be.
    """
    file = Path(file)
    name = harmless(name or file.name)
    if (size := file.stat().st_size) > MAX_BYTES:
        raise UserError(f"{name}: {size / 1e6:.0f} MB, more than {MAX_BYTES / 1e6:.0f} MB; make it smaller")
    with file.open("rb") as stream:
        head = stream.read(160)
    if not any(head[at:].startswith(mark) for at, mark in STARTS):
        raise UserError(
            f"{name}: not a photograph (JPEG, PNG, TIFF, WebP, BMP, JPEG 2000, DICOM), whatever it is called"
        )
    if not head[128:].startswith(b"DICM"):
        refuse_several(file, name)
    try:
        pixels = load_image(file, max_pixels=MAX_PIXELS)
    except UserError as error:
        said = str(error).replace(str(file), name).removeprefix("photograph ")
        raise UserError(said.replace(" or remove it from the manifest", "")) from None
    if min(pixels.shape[:2]) < SMALLEST:
        raise UserError(f"{name}: {pixels.shape[1]}x{pixels.shape[0]} pixels are too few for a photograph of an eye")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return written(pixels, folder, Path(name).stem)


def refuse_several(file: Path, name: str) -> None:
    """Raise UserError for a file of several pictures, of which it is not clear which one is meant."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            several = getattr(image, "n_frames", 1)
            if image.format == "MPO":  # a camera's JPEG with a preview behind it
                several = 1
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: too large: {reason(error)}") from None
    except Exception as error:
        raise UserError(f"{name}: damaged or cut short ({reason(error)})") from None
    if several > 1:
        raise UserError(f"{name}: holds {several} pictures (animated, or pages); save the one that is meant by itself")


def written(pixels: np.ndarray, folder: Path, stem: str) -> Path:
    """The pixels as a PNG without any metadata, in a file of its own."""
    place = Path(tempfile.mkdtemp(dir=folder)) / f"{stem}.png"
    Image.fromarray(pixels).save(place, compress_level=1)
    return place


def harmless(name: str) -> str:
    """A file name without folders, control characters, marks that turn text around, or great length."""
    name = re.split(r"[\\/]", name)[-1]
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C" and c not in '<>:"|?*`$')
    stem, ending = Path(name).stem.strip(". "), Path(name).suffix
    return f"{stem[:LONGEST_NAME] or 'photograph'}{ending[:8]}"
