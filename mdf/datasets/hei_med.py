"""HEI-MED: `DMED/(00000003).jpg` with files of the same name: .meta, .GND, .map.gz and _vess.png.

An expert outlined the bright lesions, all called exudates, without telling hard ones from cotton wool spots or drusen:
the mask is `bright_lesion`. `.map.gz` numbers the regions and `.GND` says what each is. A photograph without these two
has no lesion by the release's own rule; no file could be its empty mask, so `extra.bright_lesions` is 0 and no mask is
recorded. The vessels were drawn by a program and are no ground truth: their path is in `extra`. The date of birth is
not taken over.
"""

import re
from pathlib import Path
from typing import Any

from mdf.datasets.common import decode, image_files, require_folder, some
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord

GUIDE = Guide(
    "hei_med",
    "masks of bright lesions (exudates, cotton wool spots, drusen together), the disc's place, sex, ethnicity, type of "
    "diabetes, a quality score; "
    "vessels drawn by a program",
    "169, one a patient",
    "for research only, no commercial use",
    "Giancardo et al., Exudate-based diabetic macular edema detection in fundus images using publicly available "
    "datasets, Medical Image Analysis 16, 2012",
    "the repository HEI-MED of lgiancaUTH on GitHub",
    "DIR/DMED/(00000003).jpg, DIR/DMED/(00000003).meta, DIR/DMED/(00000003).GND, DIR/DMED/(00000003).map.gz, …",
)

SEXES = {"F": "female", "M": "male"}
LINE = re.compile(r"~(\w+):?~(.*)")
EXTRA = {"PatientRace": "ethnicity", "DiabetesType": "diabetes_type"}


def read(root: Path) -> list[FundusRecord]:
    """A record for each photograph of `DMED`. Raises UserError for another layout or a damaged table."""
    require_folder(root / "DMED", "HEI-MED")
    images = [f for f in image_files(root / "DMED", "HEI-MED") if f.suffix.lower() == ".jpg"]
    if not images:
        raise UserError(f"HEI-MED: {root / 'DMED'} holds no photograph such as (00000003).jpg")
    unknown = [f.name for f in images if not f.with_suffix(".meta").is_file()]
    if unknown:
        print(f"note: HEI-MED: {len(unknown)} photographs have no .meta file: {some(unknown)}")
    records = [to_record(root, image) for image in images]
    maskless = [r.id for r in records if r.extra["bright_lesions"] and not r.masks]
    if maskless:
        print(f"note: HEI-MED: {len(maskless)} photographs have lesions by .GND, but no .map.gz: {some(maskless)}")
    return records


def to_record(root: Path, image: Path) -> FundusRecord:
    stem = image.name[: -len(image.suffix)]
    beside = {end: image.with_name(stem + end) for end in (".meta", ".GND", ".map.gz", "_vess.png")}
    meta = read_meta(beside[".meta"])
    regions = read_regions(beside[".GND"]) if beside[".GND"].is_file() else []
    exudates = [i for i, kind in enumerate(regions, 1) if "exudate" in kind.lower()]
    masks = {}
    if exudates and beside[".map.gz"].is_file():
        masks["bright_lesion"] = f"{beside['.map.gz'].relative_to(root).as_posix()}#{ranges(exudates)}"
    extra: dict[str, Any] = {"bright_lesions": len(exudates)}
    extra |= {ours: meta[key] for key, ours in EXTRA.items() if meta.get(key)}
    if beside["_vess.png"].is_file():
        extra["machine_vessels"] = beside["_vess.png"].relative_to(root).as_posix()
    try:
        if meta.get("QualityValue"):
            extra["quality_elvd"] = float(meta["QualityValue"])
        disc = [float(meta[key]) for key in ("ONcol", "ONrow") if meta.get(key)]
    except ValueError:
        raise UserError(f"{beside['.meta']}: QualityValue, ONrow and ONcol must be numbers") from None
    return FundusRecord(
        id=stem.strip("()"),
        image=image.relative_to(root).as_posix(),
        patient=stem.strip("()"),
        masks=masks,
        points={"disc": disc} if len(disc) == 2 else {},
        sex=SEXES.get(meta.get("PatientGender", "")),
        source="hei_med",
        extra=extra,
    )


def read_meta(file: Path) -> dict[str, str]:
    """{key: text} of lines `~key~text`; empty where the file is not there."""
    if not file.is_file():
        return {}
    matches = (LINE.match(line.strip()) for line in decode(file, "latin-1").splitlines())
    return {m[1]: m[2].strip() for m in matches if m is not None}


def read_regions(file: Path) -> list[str]:
    """What each numbered region is, in order. Raises UserError where the file does not hold as many as it says."""
    lines = decode(file, "latin-1").splitlines()
    if lines and lines[0].upper().startswith("GNDVERSION"):
        lines = lines[1:]
    count = lines[0].strip() if lines else ""
    if not count.isdigit() or len(lines) <= int(count):
        raise UserError(f"{file}: expected a number of regions and a line for each")
    return [line.strip() for line in lines[1 : int(count) + 1]]


def ranges(numbers: list[int]) -> str:
    """ "1-3,7" of 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)
