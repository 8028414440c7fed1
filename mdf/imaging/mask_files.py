"""Masks that are part of a file: what stands behind `#` in a record's mask path.

  vessels/1.png                       the foreground of a mask, see load_mask
  gts/n0001.bmp#0-128                 pixels whose grey level is 0 to 128; `#255` is one level, `#1-3,7` several ranges
  contours/RET002OD.txt#2576x1934     the inside of an outline, a line `x y` a point, on 2576 x 1934 pixels
  DMED/(00000003).map.gz#1-298        numbered regions 1 to 298 of a HEI-MED map: gzip, int32, width and height in front

So a release whose file holds several classes, or an outline instead of pixels, is used as it is and nothing is copied.
"""

import gzip
import io
import os
import re
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mdf.errors import UserError

PART = re.compile(r"#(\d+x\d+|\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)$")


def split_part(path: str | os.PathLike) -> tuple[Path, str | None]:
    """The file and what stands behind its `#`; None where that is part of the file's name or there is none."""
    text = os.fspath(path)
    found = PART.search(text)
    return (Path(text), None) if found is None else (Path(text[: found.start()]), found.group(1))


def mask_file(path: str | os.PathLike) -> Path:
    """The file of a mask path, to look whether it is there."""
    return split_part(path)[0]


def in_ranges(values: np.ndarray, part: str) -> np.ndarray:
    """bool array of the shape of `values`: inside one of the ranges of `part`, such as "1-3,7"."""
    inside = np.zeros(values.shape, dtype=bool)
    for piece in part.split(","):
        low, _, high = piece.partition("-")
        inside |= (values >= int(low)) & (values <= int(high or low))
    return inside


def read_outline(file: Path, part: str, max_pixels: int, data: bytes | None = None) -> np.ndarray:
    """The inside of an outline as bool [H, W] for the part "WxH". Raises UserError for anything but lines of x y."""
    width, height = map(int, part.split("x"))
    if not 0 < width * height <= max_pixels:
        raise UserError(f"mask {file}#{part}: {width}x{height} pixels is outside 1 to {max_pixels:,}")
    lines = read_lines(file, data)
    try:
        points = [tuple(map(float, line.replace(",", " ").split())) for line in lines]
    except ValueError:
        points = []
    if len(points) < 3 or any(len(p) != 2 or not np.isfinite(p).all() for p in points):
        raise UserError(f"mask {file}: an outline needs three or more lines of two numbers, x and y")
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon(points, fill=1, outline=1)
    return np.array(canvas)


def read_lines(file: Path, data: bytes | None = None) -> list[str]:
    try:
        text = (file.read_bytes() if data is None else data).decode("utf-8-sig")
        return [line for line in text.splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(f"mask {file}: no such file. Check the path, or the manifest's root (--data-root).") from None
    except OSError as error:
        raise UserError(f"mask {file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"mask {file}: is no text file, so it is no outline") from None


def read_label_map(file: Path, max_pixels: int, data: bytes | None = None) -> np.ndarray:
    """The numbered regions of a HEI-MED map as int32 [H, W]; 0 is no region. Raises UserError for a damaged file."""
    try:
        with gzip.open(file if data is None else io.BytesIO(data)) as packed:
            # the first number is the map's number of regions or unused; never more bytes are unpacked than it promises
            start = packed.read(12)
            head = np.frombuffer(start[: len(start) // 4 * 4], dtype="<i4")
            if len(head) < 3 or min(head[1:]) < 1 or int(head[1]) * int(head[2]) > max_pixels:
                raise UserError(f"mask {file}: its header is that of no map of at most {max_pixels:,} pixels")
            width, height = int(head[1]), int(head[2])
            body = packed.read(4 * width * height)
    except FileNotFoundError:
        raise UserError(f"mask {file}: no such file. Check the path, or the manifest's root (--data-root).") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"mask {file}: damaged or cut short ({error}). Copy it again.") from None
    if len(body) < 4 * width * height:
        raise UserError(f"mask {file}: cut short, {width}x{height} pixels were promised. Copy it again.")
    return np.frombuffer(body, dtype="<i4").reshape(height, width)
