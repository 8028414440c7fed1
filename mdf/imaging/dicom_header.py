"""What is kept of a DICOM header: nothing that names a person. Numbers become pseudonyms, dates an age."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdf.imaging.dicom import GREYS, damaged, frames, read_tags, text
from mdf.pseudonyms import pseudonym

# SOP classes that hold photographs; among secondary captures are screen shots.
PHOTOGRAPHS = {
    "1.2.840.10008.5.1.4.1.1.77.1.5.1": "ophthalmic photography, 8 bit",
    "1.2.840.10008.5.1.4.1.1.77.1.5.2": "ophthalmic photography, 16 bit",
    "1.2.840.10008.5.1.4.1.1.77.1.5.5": "wide-field ophthalmic photography, stereographic projection",
    "1.2.840.10008.5.1.4.1.1.77.1.5.6": "wide-field ophthalmic photography, 3D coordinates",
    "1.2.840.10008.5.1.4.1.1.77.1.4": "photograph",
    "1.2.840.10008.5.1.4.1.1.7": "secondary capture",
    "1.2.840.10008.5.1.4.1.1.7.2": "secondary capture",
    "1.2.840.10008.5.1.4.1.1.7.3": "secondary capture",
    "1.2.840.10008.5.1.4.1.1.7.4": "secondary capture",
}
IDENTIFYING = (
    "PatientID", "PatientName", "PatientBirthDate", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID",
    "SOPInstanceUID",
)  # fmt: skip
KEPT = (
    "SOPClassUID", "Modality", "NumberOfFrames", "PhotometricInterpretation", "BurnedInAnnotation",
    "ImageLaterality", "Laterality", "AnatomicRegionSequence", "PatientAge", "PatientSex", "AcquisitionDate",
    "ContentDate", "StudyDate", "Manufacturer", "ManufacturerModelName",
)  # fmt: skip
EYES = {"R": "right", "L": "left", "24028007": "right", "7771000": "left", "G-A100": "right", "G-A101": "left"}
EYES |= {"1290032005": "right", "1290031003": "left"}  # structure of right eye, of left eye
OLDEST = 90.0  # years: older people are so few that their age names them


@dataclass(frozen=True)
class DicomHeader:
    """What is kept of a header. `patient`, `study` and `id` are pseudonyms."""

    id: str
    kind: str | None  # of PHOTOGRAPHS; None = no photograph
    modality: str  # as the device says: OP, XC, OT, …
    patient: str | None
    study: str | None
    frames: int
    colour: bool
    eye: str | None
    eye_conflict: bool  # two tags name different eyes, or one names both
    age: float | None
    sex: str | None
    camera: str | None
    burned_in: str | None  # the tag BurnedInAnnotation: yes | no
    in_path: bool  # the file's path holds something that names the patient


def read_header(path: str | Path, salt: bytes, shown: str = "") -> DicomHeader:
    """What is known of the photograph, without its pixels. `shown` is the path that a manifest would hold.

    Raises UserError for a file that cannot be read.
    """
    file = Path(path)
    ds, _ = read_tags(file, (*IDENTIFYING, *KEPT))
    try:
        return to_header(ds, salt, shown)
    except Exception as error:
        raise damaged(file, error) from None


def to_header(ds: Any, salt: bytes, shown: str) -> DicomHeader:
    def hidden(kind: str, name: str) -> str | None:
        value = text(ds, name)
        return pseudonym(salt, kind, value) if value else None

    named = eyes(ds)
    one = len(named) == 1 and "both" not in named
    return DicomHeader(
        id=hidden("photograph", "SOPInstanceUID") or pseudonym(salt, "photograph", shown),
        kind=PHOTOGRAPHS.get(text(ds, "SOPClassUID")),
        modality="".join(c for c in text(ds, "Modality") if c.isalnum())[:16],
        patient=hidden("patient", "PatientID"),
        study=hidden("study", "StudyInstanceUID"),
        frames=frames(ds),
        colour=text(ds, "PhotometricInterpretation") not in GREYS,
        eye=next(iter(named)) if one else None,
        eye_conflict=bool(named) and not one,
        age=age(ds),
        sex={"F": "female", "M": "male", "O": "other"}.get(text(ds, "PatientSex").upper()),
        camera=camera(ds),
        burned_in={"YES": "yes", "NO": "no"}.get(text(ds, "BurnedInAnnotation").upper()),
        in_path=any(part.lower() in shown.lower() for part in identifying_parts(ds)),
    )


def eyes(ds: Any) -> set[str]:
    """The eyes that the image's tag, else the series' tag, and the anatomic region name."""
    side = text(ds, "ImageLaterality").upper() or text(ds, "Laterality").upper()
    named = {"both"} if side == "B" else {EYES[side]} if side in EYES else set()
    for region in ds.get("AnatomicRegionSequence") or ():
        for item in (region, *(region.get("AnatomicRegionModifierSequence") or ())):
            if (code := text(item, "CodeValue")) in EYES:
                named.add(EYES[code])
    return named


def age(ds: Any) -> float | None:
    """Years, from PatientAge or else from the dates of birth and of the photograph; 90 for everyone older."""
    written = text(ds, "PatientAge").upper()
    if written[:-1].isdigit() and written[-1:] in tuple("DWMY"):
        years = float(int(written[:-1]) * {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1}[written[-1]])
    else:
        born = text(ds, "PatientBirthDate")
        taken = next((d for n in ("AcquisitionDate", "ContentDate", "StudyDate") if (d := text(ds, n)[:8])), "")
        if not (len(born) == len(taken) == 8 and born.isdigit() and taken.isdigit()):
            return None
        years = float((int(taken) - int(born)) // 10_000)
    return min(round(years, 1), OLDEST) if 0 <= years <= 130 else None


def camera(ds: Any) -> str | None:
    """Manufacturer and model."""
    words = " ".join(f"{text(ds, 'Manufacturer')} {text(ds, 'ManufacturerModelName')}".split())
    return "".join(c for c in words if c.isprintable())[:80] or None


def identifying_parts(ds: Any) -> Iterable[str]:
    """What must not stand in a path: numbers, dates, each part of the name, from four characters on."""
    for name in IDENTIFYING:
        value = text(ds, name)
        parts = value.replace("=", "^").replace("^", " ").split() if name == "PatientName" else [value]
        yield from (part for part in parts if len(part) > 3)
    born = text(ds, "PatientBirthDate")
    if len(born) == 8:
        yield from (f"{born[:4]}-{born[4:6]}-{born[6:]}", f"{born[6:]}.{born[4:6]}.{born[:4]}")
