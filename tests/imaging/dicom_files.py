"""DICOM files of an invented patient, made with pydicom, and hostile ones from a seed."""

import io
import struct
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, generate_uid

from mdf.imaging.dicom import UID as DICOM
from tests.imaging.mutations import segment

OPHTHALMIC_8 = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
OPHTHALMIC_16 = "1.2.840.10008.5.1.4.1.1.77.1.5.2"
PLAIN_PHOTOGRAPH = "1.2.840.10008.5.1.4.1.1.77.1.4"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
TOMOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
IMPLICIT, EXPLICIT, BIG, DEFLATED = DICOM, f"{DICOM}.1", f"{DICOM}.2", f"{DICOM}.1.99"
JPEG, RLE = f"{DICOM}.4.50", f"{DICOM}.5"
LOSSLESS_JPEG = (f"{DICOM}.4.57", f"{DICOM}.4.70")
JPEG_LS, JPEG_LS_NEAR = f"{DICOM}.4.80", f"{DICOM}.4.81"
JPEG_2000 = f"{DICOM}.4.90"

# Every value here names the invented patient, and must be found nowhere after reading.
SECRETS = {
    "PatientName": "Zwetschgenbaum^Kunigunde^^Dr",
    "PatientID": "HOSP-7734021",
    "PatientBirthDate": "19580317",
    "PatientAddress": "Quittenweg 77",
    "PatientTelephoneNumbers": "+49 555 0917733",
    "OtherPatientNames": "Mirabellenhain^Kunigunde",
    "AccessionNumber": "ACC99120934",
    "InstitutionName": "Klinikum Brombeerstadt",
    "ReferringPhysicianName": "Holunderstrauch^Ottokar",
    "OperatorsName": "Sanddorn^Hagen",
    "StationName": "FUNDUSRAUM3B",
    "DeviceSerialNumber": "SN-448812-X",
    "StudyDate": "20240229",
    "AcquisitionDateTime": "20240229114317",
    "StudyID": "VISIT5520771",
    "ImageComments": "Schwester von Frau Zwetschgenbaum",
    "StudyDescription": "Kontrolle bei Zwetschgenbaum",
}


def colours(side: tuple[int, int] = (64, 48), seed: int = 3) -> np.ndarray:
    """A smooth colour picture uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize(side, Image.Resampling.BICUBIC))


def make(
    pixels: np.ndarray,
    *,
    sop_class: str = OPHTHALMIC_8,
    photometric: str = "",
    bits: int = 0,
    frames: int = 1,
    secrets: bool = True,
    **tags: object,
) -> FileDataset:
    """A data set with `pixels` [H, W] or [H, W, 3], uncompressed; `tags` by keyword."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), generate_uid()
    meta.TransferSyntaxUID = UID(EXPLICIT)
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.Modality = "OP"
    ds.Manufacturer, ds.ManufacturerModelName = "Lumen Optics", "RetiCam 45"
    ds.PatientSex = "F"
    for name, value in (SECRETS if secrets else {}).items():
        setattr(ds, name, value)
    put(ds, pixels, photometric, bits, frames)
    for name, value in tags.items():
        setattr(ds, name, value)
    return ds


def put(ds: Dataset, pixels: np.ndarray, photometric: str = "", bits: int = 0, frames: int = 1) -> None:
    """Set the pixels and the tags that describe them."""
    size = pixels.dtype.itemsize
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    ds.PhotometricInterpretation = photometric or ("RGB" if pixels.ndim == 3 else "MONOCHROME2")
    ds.BitsAllocated, ds.BitsStored = 8 * size, bits or 8 * size
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    ds.NumberOfFrames = frames
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.PixelData = pixels.tobytes() * frames
    ds["PixelData"].VR = "OB" if size == 1 else "OW"


def packed(ds: FileDataset, syntax: str) -> FileDataset:
    """The same data set in another transfer syntax."""
    if syntax == JPEG:
        array = stored(ds)
        out = io.BytesIO()
        Image.fromarray(array).save(out, "JPEG", quality=95)
        encapsulated(ds, out.getvalue(), syntax)
        if ds.SamplesPerPixel == 3:
            ds.PhotometricInterpretation = "YBR_FULL_422"
    elif syntax in LOSSLESS_JPEG:
        encapsulated(ds, lossless_jpeg(stored(ds), ds.BitsStored), syntax)
    elif syntax in (RLE, JPEG_LS, JPEG_LS_NEAR, JPEG_2000):
        plugin = {RLE: "pydicom", JPEG_2000: "pylibjpeg"}.get(syntax, "pyjpegls")
        ds.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = UID(syntax)
    return ds


def stored(ds: FileDataset) -> np.ndarray:
    """The uncompressed pixels."""
    shape = (ds.Rows, ds.Columns, 3) if ds.SamplesPerPixel == 3 else (ds.Rows, ds.Columns)
    return np.frombuffer(ds.PixelData, f"u{ds.BitsAllocated // 8}").reshape(shape)


def encapsulated(ds: FileDataset, stream: bytes, syntax: str) -> None:
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = UID(syntax)


def lossless_jpeg(array: np.ndarray, precision: int) -> bytes:
    """A lossless JPEG stream: every sample as its difference to its left neighbour, with one Huffman table."""
    height, width = array.shape[:2]
    samples = array.reshape(height, width, -1).astype(np.int64)
    count = samples.shape[2]
    before = np.empty_like(samples)
    before[:, 1:], before[1:, 0], before[0, 0] = samples[:, :-1], samples[:-1, 0], 1 << (precision - 1)
    difference = (samples - before).ravel()
    bits = []
    for d in difference.tolist():
        size = abs(d).bit_length()
        bits.append(f"{size:05b}" + (format(d if d > 0 else d + (1 << size) - 1, f"0{size}b") if size else ""))
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    body = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\0")
    components = b"".join(bytes([i + 1, 0x11, 0]) for i in range(count))
    frame = segment(0xC3, struct.pack(">BHHB", precision, height, width, count) + components)
    table = segment(0xC4, b"\0" + bytes([0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17)))  # 17 codes of five bits
    scan = segment(0xDA, bytes([count]) + b"".join(bytes([i + 1, 0]) for i in range(count)) + bytes([1, 0, 0]))
    return b"\xff\xd8" + frame + table + scan + body + b"\xff\xd9"


def save(ds: FileDataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path


@cache
def whole() -> dict[str, bytes]:
    """Files of every transfer syntax."""
    grey = np.asarray(colours()[..., 0]).astype(np.uint16) * 16
    files = {}
    for syntax in (IMPLICIT, EXPLICIT, DEFLATED, JPEG, *LOSSLESS_JPEG, JPEG_LS, JPEG_2000, RLE):
        for name, pixels in (("colour", colours()), ("grey", grey)):
            if name == "grey" and syntax in (JPEG, *LOSSLESS_JPEG):  # of eight bits only
                continue
            out = io.BytesIO()
            colour = name == "colour"
            ds = make(pixels, sop_class=OPHTHALMIC_8 if colour else OPHTHALMIC_16, bits=8 if colour else 12)
            pydicom.dcmwrite(out, packed(ds, syntax), enforce_file_format=True)
            files[f"{name} {syntax.removeprefix(DICOM)}"] = out.getvalue()
    return files


def mutate(seed: int) -> tuple[str, bytes]:
    """A DICOM file with bits flipped, cut, with noise, or with numbers overwritten, in its header or in its pixels."""
    rng = np.random.default_rng(seed)
    names = sorted(whole())
    name = names[seed % len(names)]
    data = bytearray(whole()[name])
    shape = int(rng.integers(5))
    pixels = data.rfind(b"\xe0\x7f\x10\x00")
    start = max(pixels, 132) if rng.random() < 0.6 else 132
    start = max(len(data) - 1500, 132) if rng.random() < 0.3 else start
    if shape == 0:
        for at in rng.integers(start, len(data), rng.integers(1, 30)):
            data[at] ^= 1 << rng.integers(8)
    elif shape == 1:
        data = data[: int(rng.integers(132, len(data)))]
    elif shape == 2:
        at = int(rng.integers(start, len(data)))
        noise = rng.bytes(int(rng.integers(1, 60)))
        data[at : at + len(noise)] = noise
    elif shape == 3:
        for at in rng.integers(start, min(start + 300, len(data) - 4), rng.integers(1, 5)):
            data[at : at + 4] = int(rng.choice([0, 1, 0xFFFF, 0xFFFF0000, 0x7FFFFFFF, 0xFFFFFFFF])).to_bytes(
                4, "little"
            )
    else:
        for tag in (b"\x28\x00\x10\x00", b"\x28\x00\x11\x00", b"\x28\x00\x00\x01", b"\x28\x00\x02\x00"):
            at = data.find(tag, 132)
            if at > 0 and rng.random() < 0.7:
                data[at + 8 : at + 10] = int(rng.choice([0, 1, 8, 1999, 2001, 65535])).to_bytes(2, "little")
    return f"{('flip', 'cut', 'noise', 'number', 'claim')[shape]}: {name}", bytes(data)
