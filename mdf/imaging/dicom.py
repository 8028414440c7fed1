"""Pixels of DICOM files; needs the extra `dicom`. What is kept of their header is in `dicom_header.py`.

Tags that are not asked for are not even kept in memory, and no message says what a tag held: pydicom's own messages do,
and are not passed on. A file is one photograph; of several frames one has to be named.
"""

import importlib
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mdf.errors import UserError
from mdf.imaging.decode import MAX_BYTES, MAX_PIXELS, MAX_SCANS, is_dicom, quiet, unpacked_limit

INSTALL = "pip install 'mdf-mllm[dicom]'"
# Transfer syntax -> what decodes it. One decoder each, so that a file gives the same pixels on every machine.
UID = "1.2.840.10008.1.2"
DEFLATED = f"{UID}.1.99"
DECODERS = {
    UID: "native",
    f"{UID}.1": "native",
    f"{UID}.2": "native",
    DEFLATED: "native",
    f"{UID}.4.50": "jpeg",
    f"{UID}.4.51": "jpeg",
    f"{UID}.4.57": "jpeg",  # lossless
    f"{UID}.4.70": "jpeg",
    f"{UID}.4.80": "pyjpegls",
    f"{UID}.4.81": "pyjpegls",
    f"{UID}.4.90": "pylibjpeg",  # JPEG 2000
    f"{UID}.4.91": "pylibjpeg",
    f"{UID}.4.201": "pylibjpeg",  # high-throughput JPEG 2000
    f"{UID}.4.202": "pylibjpeg",
    f"{UID}.4.203": "pylibjpeg",
    f"{UID}.5": "rle",
}
LOSSLESS_JPEG = (f"{UID}.4.57", f"{UID}.4.70")
MODULES = {"pyjpegls": "jpeg_ls", "pylibjpeg": "openjpeg"}
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
GREYS = ("MONOCHROME1", "MONOCHROME2")

PIXELS = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PlanarConfiguration", "PixelData", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth",
    "ModalityLUTSequence", "VOILUTSequence", "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
)  # fmt: skip
PIXEL_DATA = 0x7FE00010


def load_dicom(path: str | Path, *, frame: int | None = None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Pixels of a DICOM file as uint8 [H, W, 3], RGB.

    Grey values go through the file's rescaling and its first window, where it has them, else the whole range of its
    bits; then they become three equal channels. `frame` (from 0) has to be given where there are several.
    Raises UserError for what cannot be read.
    """
    file = Path(path)
    ds, syntax = read_tags(file, PIXELS, max_pixels)
    try:
        check_pixels(ds, syntax, file, frame, max_pixels)
        return to_rgb(decode(ds, syntax, frame or 0, file), ds)
    except UserError:
        raise
    except MemoryError:
        raise refusal(file, "too large: decoding it takes more memory than there is") from None
    except Exception as error:
        raise damaged(file, error) from None


def text(ds: Any, name: str) -> str:
    """A tag's value as text, "" where it is missing or empty."""
    value = ds.get(name)
    return "" if value is None else str(value).strip()


def frames(ds: Any) -> int:
    return int(text(ds, "NumberOfFrames") or 1)


def read_tags(file: Path, names: tuple[str, ...], max_pixels: int = MAX_PIXELS) -> tuple[Any, str]:
    """The named tags of a file and its transfer syntax. Raises UserError for a file that cannot be read."""
    quiet()
    try:
        pydicom = importlib.import_module("pydicom")
        reader = importlib.import_module("pydicom.filereader")
    except ImportError:
        raise refusal(file, f"is a DICOM file; to read it: {INSTALL}") from None
    # many cameras break rules that do not matter here
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    tags = [pydicom.datadict.tag_for_keyword(name) for name in names]
    pixels = "PixelData" in names
    try:
        with file.open("rb") as stream:
            if not is_dicom(stream):
                raise refusal(file, "is no DICOM file")
        if file.stat().st_size > MAX_BYTES:
            raise refusal(file, f"too large: {file.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
        meta = reader.read_file_meta_info(file)
        syntax = str(meta.get("TransferSyntaxUID", ""))
        if syntax == DEFLATED:
            stop = None if pixels else lambda tag, vr, length: tag >= PIXEL_DATA
            inside = BytesIO(inflated(file, max_pixels))
            ds = reader.read_dataset(inside, False, True, stop_when=stop, specific_tags=tags)
            ds.file_meta = meta
            ds.set_original_encoding(False, True, "iso8859")
        else:
            ds = pydicom.dcmread(file, stop_before_pixels=not pixels, specific_tags=tags)
    except UserError:
        raise
    except FileNotFoundError:
        raise refusal(file, "no such file. Check the path") from None
    except PermissionError:
        raise refusal(file, "may not be read. Change its permissions") from None
    except Exception as error:
        raise damaged(file, error) from None
    return ds, syntax


def inflated(file: Path, max_pixels: int) -> bytes:
    """The data set of a deflated file, which must not unpack to more than a photograph needs."""
    content = file.read_bytes()
    if content[132:140] != b"\x02\0\0\0UL\x04\0":
        raise ValueError("no group length")
    start = 144 + struct.unpack("<I", content[140:144])[0]
    limit = unpacked_limit(max_pixels)
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    inside = unpack.decompress(content[start:], limit + 1)
    if len(inside) > limit:
        raise refusal(file, f"too large: it unpacks to more than {limit:,} bytes")
    if not unpack.eof:
        raise ValueError("cut short")
    return inside


def check_pixels(ds: Any, syntax: str, file: Path, frame: int | None, max_pixels: int) -> None:
    """Raises UserError for a picture that is not to be decoded."""
    if "PixelData" not in ds:
        raise refusal(file, "holds no picture")
    if syntax not in DECODERS:
        named = syntax if syntax.replace(".", "").isdecimal() else "(damaged)"
        raise refusal(file, f"its transfer syntax {named} is not read. Convert it first")
    module = MODULES.get(DECODERS[syntax])
    try:
        if module:
            importlib.import_module(module)
    except ImportError:
        raise refusal(file, f"to decode its transfer syntax {syntax}: {INSTALL}") from None
    width, height, count = int(ds.Columns), int(ds.Rows), frames(ds)
    if width < 1 or height < 1:
        raise refusal(file, f"its size is {width}x{height} pixels")
    if width * height > max_pixels:
        raise refusal(file, f"too large: its header claims {width}x{height} pixels, more than {max_pixels:,}")
    if frame is None and count != 1:
        raise refusal(
            file,
            f"holds {count} frames, and a photograph is one; "
            "mdf.imaging.dicom.load_dicom(path, frame=0) reads the first, to be saved as a file of its own",
        )
    if frame is not None and not 0 <= frame < count:
        raise refusal(file, f"frame {frame} was asked for, but it has {count}")
    photometric, bits = text(ds, "PhotometricInterpretation"), (int(ds.BitsAllocated), int(ds.BitsStored))
    samples = int(ds.SamplesPerPixel)
    if photometric not in (*COLOURS, *GREYS) or samples != (1 if photometric in (*GREYS, "PALETTE COLOR") else 3):
        raise refusal(file, "its colours are stored in a way that is not read. Convert it to RGB or MONOCHROME2 first")
    if bits[0] not in (8, 16, 32) or not 1 <= bits[1] <= bits[0]:
        raise refusal(file, f"{bits[1]} bits stored in {bits[0]} are not read. Convert it first")
    if DECODERS[syntax] == "jpeg" and bits[0] > 8:
        raise refusal(file, "a JPEG of more than 8 bits is not read. Convert it first")
    if "ModalityLUTSequence" in ds or "VOILUTSequence" in ds:
        raise refusal(file, "its grey values go through a lookup table, which is not read. Convert it first")


def decode(ds: Any, syntax: str, frame: int, file: Path) -> np.ndarray:
    """Values of one frame, [H, W] or RGB [H, W, 3], of any depth."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import pixel_array

    decoder, count = DECODERS[syntax], frames(ds)
    shape = (int(ds.Rows), int(ds.Columns))
    if decoder == "native":
        return from_ybr(pixel_array(ds, index=frame, raw=True), ds)
    offsets = None
    if "ExtendedOffsetTable" in ds:
        offsets = (ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths)
    packed = get_frame(ds.PixelData, frame, number_of_frames=count, extended_offsets=offsets)
    if decoder == "rle":
        return from_ybr(unpack_rle(packed, shape, ds), ds)
    if codestream_shape(packed) != (*shape, int(ds.SamplesPerPixel)):
        raise refusal(file, f"its header claims {shape[1]}x{shape[0]} pixels, its picture is of another size or kind")
    if decoder == "jpeg":
        lossless = syntax in LOSSLESS_JPEG  # whose colours libjpeg never converts
        return from_ybr(read_jpeg(packed, ds, file), ds) if lossless else read_jpeg(packed, ds, file, convert=True)
    return from_ybr(pixel_array(ds, index=frame, raw=True, decoding_plugin=decoder), ds)


def from_ybr(values: np.ndarray, ds: Any) -> np.ndarray:
    """RGB where the header says YBR; JPEG 2000's own kinds of YBR are RGB already."""
    if text(ds, "PhotometricInterpretation") not in ("YBR_FULL", "YBR_FULL_422"):
        return values
    if values.dtype != np.uint8:
        raise ValueError("YBR of more than 8 bits")
    height, width = values.shape[:2]
    # by Pillow, as for any JPEG: pydicom's conversion takes 60 bytes a pixel
    return np.array(Image.frombytes("YCbCr", (width, height), values.tobytes()).convert("RGB"))


def codestream_shape(data: bytes) -> tuple[int, int, int] | None:
    """Height, width and components that a JPEG, JPEG-LS or JPEG 2000 stream itself claims; None where it is none.

    Its decoder would believe them, whatever the DICOM header says.
    """
    if data[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000
        right, bottom, left, top = struct.unpack(">4I", data[8:24])
        return bottom - top, right - left, struct.unpack(">H", data[40:42])[0]
    at = 2
    while data[:2] == b"\xff\xd8" and at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a filler
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return struct.unpack(">HHB", data[at + 5 : at + 10])
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return None


def read_jpeg(data: bytes, ds: Any, file: Path, *, convert: bool = False) -> np.ndarray:
    """The components as they are stored, or to `convert` to RGB as in any JPEG file.

    The stream's own markers say how colours are stored, the DICOM tag where they do not.
    """
    with Image.open(BytesIO(data), formats=("JPEG",)) as image:
        if data.count(b"\xff\xda") > MAX_SCANS:
            raise refusal(file, f"too large: a progressive JPEG of more than {MAX_SCANS} scans")
        if image.mode != ("RGB" if int(ds.SamplesPerPixel) == 3 else "L"):
            raise refusal(file, f"its header claims {ds.SamplesPerPixel} samples a pixel, its picture is {image.mode}")
        named = {"jfif", "adobe"} & set(image.info)
        if convert and not named and text(ds, "PhotometricInterpretation") == "RGB":
            image.draft("YCbCr", image.size)  # they are RGB already
        return np.array(image)


def unpack_rle(data: bytes, shape: tuple[int, int], ds: Any) -> np.ndarray:
    """RLE by Pillow's decoder of the same scheme, which never gives more than is asked for."""
    samples, size = int(ds.SamplesPerPixel), int(ds.BitsAllocated) // 8
    count, *offsets = struct.unpack("<16I", data[:64])
    if count != samples * size:
        raise ValueError(f"{count} segments instead of {samples * size}")
    ends = [*offsets[1:count], len(data)]
    planes = [
        # one line of all pixels: not every encoder ends its runs where a row ends
        np.asarray(Image.frombytes("L", (shape[0] * shape[1], 1), data[start:end], "packbits", "L"))
        for start, end in zip(offsets[:count], ends, strict=True)
    ]
    # the segments are the bytes of each sample, the highest first
    stacked = np.stack(planes).reshape(samples, size, *shape).transpose(2, 3, 0, 1)
    kind = "i" if int(ds.PixelRepresentation) else "u"
    values = np.ascontiguousarray(stacked).view(f">{kind}{size}")[..., 0].astype(f"={kind}{size}")
    return values[..., 0] if samples == 1 else values


def to_rgb(values: np.ndarray, ds: Any) -> np.ndarray:
    """Stored values of any kind as uint8 [H, W, 3]."""
    bits = int(ds.BitsStored)
    photometric = text(ds, "PhotometricInterpretation")
    if photometric == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        values = apply_color_lut(values, ds)[..., :3]
        bits = 8 * values.dtype.itemsize
    if values.ndim == 3:
        if values.dtype == np.uint8:
            return np.array(values)
        return scaled(values.astype(np.float32), 0, 2**bits - 1)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if int(ds.PixelRepresentation) else (0, 2**bits - 1)
    slope, intercept = float(ds.get("RescaleSlope") or 1), float(ds.get("RescaleIntercept") or 0)
    grey = values.astype(np.float32)
    grey *= slope
    grey += intercept
    low, high = low * slope + intercept, high * slope + intercept
    if ds.get("WindowCenter") is not None and ds.get("WindowWidth") is not None:
        centre, width = (float(np.atleast_1d(ds[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
        low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    shade = scaled(grey, low, high)
    if photometric == "MONOCHROME1":
        shade = 255 - shade
    return np.repeat(shade[:, :, None], 3, axis=2)


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """float32, which is used up, as uint8 so that `low` becomes 0 and `high` 255."""
    if not high > low:
        raise ValueError("an empty range of grey values")
    values -= low
    values *= 255 / (high - low)
    values += 0.5
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def refusal(file: Path, why: str) -> UserError:
    return UserError(f"photograph {file}: {why}.")


def damaged(file: Path, error: BaseException) -> UserError:
    """The kind of error alone: what pydicom says of a value may name the patient."""
    return refusal(file, f"damaged or no proper DICOM file ({type(error).__name__}). Export it again")
