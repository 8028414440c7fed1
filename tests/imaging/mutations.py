"""Hostile image files from a seed: the same seed gives the same bytes.

`mutate(seed)` returns what was done and the file. Seeds go through all kinds of mutation in turn.
"""

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageFilter

Rng = np.random.Generator
SIDE = (96, 64)
HUGE = (0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 60_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def picture() -> Image.Image:
    pixels = np.random.default_rng(7).integers(0, 256, (SIDE[1], SIDE[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.copy().save(out, kind, **options)  # an encoder leaves its settings on the image
    return out.getvalue()


@cache
def bases() -> dict[str, bytes]:
    """Whole files of every format and colour mode that is read."""
    rgb = picture()
    deep = Image.fromarray(np.asarray(rgb)[..., 0].astype(np.uint16) * 257)
    clear = rgb.copy()
    clear.putalpha(rgb.convert("L"))
    files = {
        "jpeg": saved(rgb, "JPEG"),
        "jpeg progressive": saved(rgb, "JPEG", progressive=True),
        "jpeg cmyk": saved(rgb.convert("CMYK"), "JPEG"),
        "jpeg grey": saved(rgb.convert("L"), "JPEG"),
        "jpeg exif icc": saved(rgb, "JPEG", exif=exif(b"\x06\x00\x00\x00"), icc_profile=bytes(range(256)) * 8),
        "mpo": saved(rgb, "MPO", **frames(rgb)),
        "png": saved(rgb, "PNG"),
        "png exif": saved(rgb, "PNG", exif=exif(b"\x03\x00\x00\x00")),
        "png alpha": saved(clear, "PNG"),
        "png palette": saved(rgb.quantize(16), "PNG", transparency=3),
        "png deep": saved(deep, "PNG"),
        "png grey alpha": saved(clear.convert("LA"), "PNG"),
        "png bit": saved(rgb.convert("1"), "PNG"),
        "png animated": saved(rgb, "PNG", **frames(rgb)),
        "gif animated": saved(rgb, "GIF", **frames(rgb)),
        "webp": saved(rgb, "WEBP"),
        "webp lossless": saved(clear, "WEBP", lossless=True),
        "webp animated": saved(rgb, "WEBP", **frames(rgb)),
        "bmp": saved(rgb, "BMP"),
        "bmp palette": saved(rgb.quantize(16), "BMP"),
        "ppm": saved(rgb, "PPM"),
        "pgm deep": saved(deep, "PPM"),
        "ppm plain": b"P3 4 3 255\n" + b" ".join(str(i * 7).encode() for i in range(36)),
        "jpeg2000": saved(rgb, "JPEG2000"),
        "tiff float": saved(Image.fromarray(np.asarray(deep).astype(np.float32)), "TIFF"),
        "tiff deep": saved(deep, "TIFF", compression="tiff_lzw"),
        "tiff cmyk": saved(rgb.convert("CMYK"), "TIFF"),
        "tiff pages": saved(rgb, "TIFF", **frames(rgb)),
    }
    for packing in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files[f"tiff {packing}"] = saved(rgb, "TIFF", compression=packing)
    files["tiff group4"] = saved(rgb.convert("1"), "TIFF", compression="group4")
    files["ppm.gz"] = gzip.compress(files["ppm"], mtime=0)
    return files


def frames(image: Image.Image) -> dict:
    """Options of a file of four pictures."""
    return {"save_all": True, "append_images": [image.rotate(90 * i) for i in range(1, 4)]}


def exif(orientation: bytes, kind: int = 3, count: int = 1, tag: int = 0x0112, entries: int = 1) -> bytes:
    """EXIF data of one entry; `entries` is what it claims to have."""
    body = struct.pack("<HHHI", entries, tag, kind, count) + orientation[:4].ljust(4, b"\0") + struct.pack("<I", 0)
    return b"Exif\0\0II*\0\x08\0\0\0" + body


def png(width: int, height: int, data: bytes, *, depth: int = 8, colour: int = 0, before: bytes = b"") -> bytes:
    """A PNG of any claimed size; `data` is compressed as it is."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    packed = zlib.compress(data, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def pick(rng: Rng, names: str = "") -> tuple[str, bytearray]:
    """A whole file whose name begins with `names`."""
    known = sorted(name for name in bases() if name.startswith(names))
    name = known[rng.integers(len(known))]
    return name, bytearray(bases()[name])


def flip(rng: Rng) -> tuple[str, bytes]:
    """Up to 40 bits turned over, anywhere or near the start."""
    name, data = pick(rng)
    reach = len(data) if rng.random() < 0.5 else min(len(data), 200)
    for at in rng.integers(0, reach, rng.integers(1, 41)):
        data[at] ^= 1 << rng.integers(8)
    return name, bytes(data)


def cut(rng: Rng) -> tuple[str, bytes]:
    """Cut off, a piece taken out, repeated, or random bytes put in."""
    name, data = pick(rng)
    start, end = sorted(int(n) for n in rng.integers(1, len(data), 2))
    shape = rng.integers(4)
    if shape == 0:
        return f"{name} cut off", bytes(data[:start])
    if shape == 1:
        return f"{name} without a piece", bytes(data[:start] + data[end:])
    if shape == 2:
        return f"{name} with a piece repeated", bytes(data[:end] + data[start:])
    return f"{name} with noise", bytes(data[:start]) + rng.bytes(int(rng.integers(1, 300))) + bytes(data[start:])


def header(rng: Rng) -> tuple[str, bytes]:
    """Noise written over some of the first bytes, or the start of one format before another's data."""
    name, data = pick(rng)
    if rng.random() < 0.5:
        start = int(rng.integers(0, 60))
        noise = rng.bytes(int(rng.integers(1, 12)))
        data[start : start + len(noise)] = noise
        return f"{name} header noise", bytes(data)
    other, body = pick(rng)
    keep = int(rng.integers(2, 200))
    return f"{name} before {other}", bytes(data[:keep] + body[keep:])


def number(rng: Rng) -> tuple[str, bytes]:
    """Huge or impossible numbers written over two or four bytes at a time: sizes, counts, offsets."""
    name, data = pick(rng)
    for at in rng.integers(0, min(len(data) - 4, 400), rng.integers(1, 4)):
        value = HUGE[rng.integers(len(HUGE))]
        order = "<>"[rng.integers(2)]
        field = struct.pack(order + "H", value & 0xFFFF) if rng.random() < 0.5 else struct.pack(order + "I", value)
        data[at : at + len(field)] = field
    return f"{name} numbers", bytes(data)


def claim(rng: Rng) -> tuple[str, bytes]:
    """A size that the file does not have, written where the format keeps it."""
    wide, high = (int(rng.choice([0, 1, 1900, 5_000, 16_383, 60_000, 65_535])) for _ in range(2))
    shape = rng.integers(7)
    if shape == 0:
        return "png claim", png(wide * 30_000, high, b"\0" * 64, depth=int(rng.choice([1, 8, 16])))
    if shape == 1:
        name, data = pick(rng, "jpeg")
        for marker in (b"\xff\xc0", b"\xff\xc2"):
            if (at := data.find(marker)) > 0:
                data[at + 5 : at + 9] = struct.pack(">HH", high, wide)
    elif shape == 2:
        name, data = pick(rng, "gif")
        at = 6 if rng.random() < 0.5 else data.find(b"\x2c") + 5
        data[at : at + 4] = struct.pack("<HH", wide, high)
    elif shape == 3:
        name, data = pick(rng, "bmp")
        data[18:26] = struct.pack("<II", wide * 1000, high)
    elif shape == 4:
        name = "ppm"
        data = bytearray(f"P6 {wide * 100} {high} {rng.choice([1, 255, 65535])}\n".encode() + b"\1" * 300)
    elif shape == 5:
        name, data = pick(rng, "webp animated")
        data[24:30] = struct.pack("<I", wide)[:3] + struct.pack("<I", high)[:3]
    else:
        name, data = pick(rng, "jpeg2000")
        for mark, skip in ((b"ihdr", 4), (b"\xff\x51", 6)):
            at = data.find(mark) + skip
            data[at : at + 8] = struct.pack(">II", high, wide)
    return f"{name} claims {wide}x{high}", bytes(data)


def bomb(rng: Rng) -> tuple[str, bytes]:
    """Small files that unpack to much: pixels, text, profiles, scans, gzip."""
    side = int(rng.choice([1_500, 1_999, 2_001, 4_000]))
    zeros = b"\0" * (side * (side + 1))
    shape = rng.integers(9)
    if shape == 0:
        return "png of zeros", png(side, side, zeros)
    if shape == 1:
        return "png of 16-bit zeros", png(side, side // 2, b"\0" * (side // 2 * (8 * side + 1)), depth=16, colour=6)
    if shape == 2:
        text = b"comment\0\0" + zlib.compress(b"\0" * 30_000_000, 9)
        kind = [b"zTXt", b"iCCP"][rng.integers(2)]
        return "png with a text bomb", png(96, 64, b"\0" * 97 * 64, before=chunk(kind, text) * int(rng.integers(1, 4)))
    if shape == 3:
        return "gzip of zeros", gzip.compress(
            b"P5 2 2 255\n" + b"\0" * int(rng.choice([10_000_000, 80_000_000])), mtime=0
        )
    grey = Image.new("L", (side, side))
    if shape == 4:
        return "gif of zeros", saved(grey, "GIF")
    if shape == 5:
        return "tiff of zeros", saved(grey, "TIFF", compression="tiff_adobe_deflate")
    if shape == 6:
        return "jpeg2000 of zeros", saved(Image.new("RGBA", (side // 2, side)), "JPEG2000")
    if shape == 7:
        return "webp of zeros", saved(Image.new("RGBA", (side // 2, side)), "WEBP", lossless=True, method=0)
    data = bytearray(bases()["jpeg progressive"])
    at = data.rfind(b"\xff\xda")
    return "jpeg of many scans", bytes(data[:at] + data[at:-2] * int(rng.choice([3, 30, 3000])) + data[-2:])


def metadata(rng: Rng) -> tuple[str, bytes]:
    """EXIF with wrong types, counts, offsets and orientations; ICC profiles of noise, in pieces that do not add up."""
    rgb = picture()
    value = rng.bytes(4) if rng.random() < 0.5 else struct.pack("<I", int(rng.integers(0, 12)))
    made = exif(
        value,
        kind=int(rng.integers(0, 14)),
        count=int(rng.choice([0, 1, 2, 5, 1000, 0xFFFFFFFF])),
        tag=int(rng.choice([0x0112, 0x0112, 0x8769, 0x8825, 0x02BC, 0x0144])),
        entries=int(rng.choice([0, 1, 2, 500, 65535])),
    )
    made = made if rng.random() < 0.7 else made[:6] + rng.bytes(int(rng.integers(0, 40)))
    profile = rng.bytes(int(rng.integers(0, 3000)))
    kind = ("JPEG", "PNG", "WEBP", "TIFF")[rng.integers(4)]
    if kind == "TIFF":
        return "tiff icc", saved(rgb, kind, icc_profile=profile)
    if kind == "JPEG":
        pieces = b"".join(
            segment(0xE2, b"ICC_PROFILE\0" + rng.bytes(2) + profile) for _ in range(int(rng.integers(0, 4)))
        )
        plain = saved(rgb, kind)
        return "jpeg metadata", plain[:2] + segment(0xE1, made) + pieces + plain[2:]
    return f"{kind.lower()} metadata", saved(rgb, kind, exif=made, icc_profile=profile)


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def other(rng: Rng) -> tuple[str, bytes]:
    """What is no photograph, or another format than the file's name says."""
    noise = rng.bytes(int(rng.integers(1, 2000)))
    starts = {
        "text": b"Dear colleague, thank you for referring\n",
        "html": b"<!doctype html><html><body>404</body></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><rect/></svg>',
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n",
        "pdf": b"%PDF-1.7\n1 0 obj\n",
        "zip": b"PK\x03\x04",
        "mp4": b"\0\0\0\x20ftypisom",
        "psd": b"8BPS\0\1" + b"\0" * 6 + struct.pack(">HIIHH", 3, 64, 96, 8, 3),
        "dicom": b"\0" * 128 + b"DICM",
        "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\3",
        "noise": b"",
        "zeros": b"\0" * 500,
    }
    kinds = [*starts, "whole", "gzipped", "twice gzipped"]
    kind = kinds[rng.integers(len(kinds))]
    if kind in starts:
        return kind, starts[kind] + noise
    name, data = pick(rng)
    packed = bytes(data)
    for _ in range(("whole", "gzipped", "twice gzipped").index(kind)):
        packed = gzip.compress(packed, mtime=0)
    return f"{kind} {name}", packed


MUTATIONS: tuple[Callable[[Rng], tuple[str, bytes]], ...] = (
    flip, cut, header, number, claim, bomb, metadata, other, flip, cut,
)  # fmt: skip


def mutate(seed: int) -> tuple[str, bytes]:
    """What was done to which file, and the bytes."""
    change = MUTATIONS[seed % len(MUTATIONS)]
    what, data = change(np.random.default_rng(seed))
    return f"{change.__name__}: {what}", data
