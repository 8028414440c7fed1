"""STARE: photographs `im0001.ppm.gz`, experts' diagnoses in `all-mg-codes.txt`, vessels as two observers drew them.

`labels-ah/` (Hoover) is `vessel`, `labels-vk/` (Kouznetsova) is `vessel_expert2`; 20 photographs have them. The text
file has no column names: the photograph's name, codes separated by blanks, then the diagnosis in a later column.
A diagnosis that the expert wrote with OR or a question mark is not certain: its text and codes are kept, `diagnosis`
is not known.
"""

import re
from pathlib import Path

from mdf.datasets.common import SHOWN, image_files
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord
from mdf.vocabulary import from_grade, scales

GUIDE = Guide(
    "stare",
    "experts' diagnoses as text and codes, two observers' masks of vessels for 20 photographs",
    "about 400; 402 diagnoses, 20 photographs with masks",
    "none stated, see the release",
    "Hoover et al., Locating blood vessels in retinal images by piecewise threshold probing of a matched filter "
    "response, IEEE Trans. Medical Imaging, 2000",
    "the STARE project's page at Clemson University: all-images.zip, all-mg-codes.txt, labels-ah.tar, labels-vk.tar",
    "DIR/stare-images/im0001.ppm.gz (also DIR/all-images/im0001.ppm), …, DIR/all-mg-codes.txt, "
    "DIR/labels-ah/im0001.ah.ppm.gz, DIR/labels-vk/im0001.vk.ppm.gz",
)

IMAGES = ("stare-images", "all-images")
OBSERVERS = {"vessel": ("labels-ah", "ah"), "vessel_expert2": ("labels-vk", "vk")}
TABLE = "all-mg-codes.txt"
UNSURE = re.compile(r"\?|\bOR\b")


def read(root: Path) -> list[FundusRecord]:
    """A record for each photograph. Raises UserError for other file names or codes; says what does not match."""
    photographs = find_photographs(root)
    diagnoses = read_diagnoses(root / TABLE)
    masks: dict[str, dict[str, str]] = {}
    for mask, (folder, ending) in OBSERVERS.items():
        if (root / folder).is_dir():
            for file in image_files(root / folder, "STARE"):
                masks.setdefault(file.name.partition(".")[0], {})[mask] = f"{folder}/{file.name}"
                if f".{ending}." not in file.name:
                    raise UserError(
                        f"{root / folder}: names such as im0001.{ending}.ppm.gz are expected, got {file.name}"
                    )
    absent = sorted((diagnoses.keys() | masks.keys()) - photographs.keys())
    if absent:
        print(
            f"note: STARE: {len(absent)} names have a diagnosis or masks but no photograph: {', '.join(absent[:SHOWN])}"
        )
    records = [to_record(name, path, diagnoses.get(name), masks.get(name, {})) for name, path in photographs.items()]
    silent = sum(r.id not in diagnoses for r in records)
    unsure = sum("uncertain" in r.extra for r in records)
    print(
        f"note: STARE: {unsure} diagnoses are uncertain (OR, ?) and taken as text only; {silent} photographs have none"
    )
    return records


def find_photographs(root: Path) -> dict[str, str]:
    """im0001 -> path; a photograph that lies in both folders is taken once."""
    found: dict[str, str] = {}
    for folder in IMAGES:
        if (root / folder).is_dir():
            for file in image_files(root / folder, "STARE"):
                found.setdefault(file.name.partition(".")[0], file.relative_to(root).as_posix())
    wrong = [name for name in found if not re.fullmatch(r"im\d{4}", name)]
    if wrong or not found:
        got = f"got {wrong[0]}" if wrong else "there are none"
        raise UserError(f"STARE: {' or '.join(str(root / f) for f in IMAGES)} must hold im0001.ppm.gz, …; {got}")
    return dict(sorted(found.items()))


def read_diagnoses(table: Path) -> dict[str, tuple[str, str]]:
    """im0001 -> codes, text."""
    if not table.is_file():
        raise UserError(f"STARE: there is no table {table}; `prepare.py list` shows the layout that is expected")
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{table} is not UTF-8 text; download it again") from None
    found = {}
    for number, line in enumerate(lines, 1):
        cells = [" ".join(cell.replace('"', " ").split()) for cell in line.split("\t")]
        if not any(cells):
            continue
        codes, text = (cells[1] if len(cells) > 1 else ""), " ".join(c for c in cells[2:] if c)
        if not codes or not set(codes.split()) <= scales()["stare"].values.keys():
            raise UserError(f"{table} line {number}: expected a name, a tab and its codes of 0 to 14")
        if cells[0] in found:
            raise UserError(f"{table} line {number}: {cells[0]} stands twice")
        found[cells[0]] = (codes, text)
    return found


def to_record(name: str, path: str, diagnosis: tuple[str, str] | None, masks: dict[str, str]) -> FundusRecord:
    codes, text = diagnosis or ("", "")
    unsure = bool(UNSURE.search(text))
    names = tuple(dict.fromkeys(from_grade("stare", code) for code in codes.split()))
    extra: dict[str, str | bool] = {"codes": codes} if codes else {}
    return FundusRecord(
        id=name,
        image=path,
        diagnosis=names if names and not unsure else None,
        texts={"report": text} if text else {},
        masks=masks,
        camera="TopCon TRV-50",
        source="stare",
        extra=extra | ({"uncertain": True} if unsure else {}),
    )
