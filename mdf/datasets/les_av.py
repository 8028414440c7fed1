"""LES-AV: `Data.xlsx`, `images/12.png`, `vessel-segmentations/12.png`, `masks/12_mask.gif` (field of view).

The release also has `arteries-and-veins/12.png`, red arteries, blue veins, green where they cross, white where it is
unsure; where it is there, `artery` and `vein` are the grey levels of those colours in it. The systolic pressure of
photograph 42 is 412, a typing error of the release: it is kept and said aloud.
"""

from pathlib import Path

from mdf.datasets.common import require_files
from mdf.datasets.guide import Guide
from mdf.datasets.spreadsheet import read_sheet
from mdf.errors import UserError
from mdf.records import FundusRecord

GUIDE = Guide(
    "les_av",
    "healthy eyes and glaucoma of normal and of raised tension; masks of vessels, arteries, veins and field of view; "
    "age, sex, eye, blood pressure, heart rate, pressure of the eye",
    "22",
    "for science only, no commercial use",
    "Orlando et al., Towards a glaucoma risk index based on simulated hemodynamics from fundus images, MICCAI, 2018",
    "figshare, 'LES-AV dataset'",
    "DIR/Data.xlsx, DIR/images/12.png, DIR/vessel-segmentations/12.png, DIR/masks/12_mask.gif, …",
)

DIAGNOSES = {"normal": "normal", "NTG": "normal_tension_glaucoma", "POAG": "primary_open_angle_glaucoma"}
EYES = {"OD": "right", "OS": "left"}
SEXES = {"0": "female", "1": "male"}
SEX = "SEX (0=female)"
# column -> our name, the highest value that a living person has
MEASURES = {
    "SBP": ("systolic_mmhg", 300),
    "DBP": ("diastolic_mmhg", 200),
    "HR": ("heart_rate_bpm", 300),
    "IOP": ("eye_pressure_mmhg", 90),
}
COLOURED = "arteries-and-veins"
# grey levels of red 76, green 150, blue 29
PARTS = {"artery": "#76,150", "vein": "#29,150"}


def read(root: Path) -> list[FundusRecord]:
    """A record for each row of the table. Raises UserError for another table or missing files."""
    rows = read_sheet(root / "Data.xlsx", "LES-AV", ("Diagnosis5", "Identifier", SEX, "Age", "eye", *MEASURES))
    records = [to_record(row, root, line) for line, row in enumerate(rows, 2)]
    require_files(root, [path for r in records for path in (r.image, *r.masks.values())])
    return records


def to_record(row: dict[str, str], root: Path, line: int) -> FundusRecord:
    name = row["Identifier"]
    try:
        diagnosis, eye, sex = DIAGNOSES[row["Diagnosis5"]], EYES[row["eye"]], SEXES[row[SEX]]
        age = float(row["Age"])
        measures = {ours: float(row[column]) for column, (ours, _) in MEASURES.items() if row[column]}
    except (KeyError, ValueError):
        raise UserError(
            f"Data.xlsx row {line}: Diagnosis5 must be of {', '.join(DIAGNOSES)}, eye of {', '.join(EYES)}, "
            f"{SEX} of 0, 1, and everything else numbers"
        ) from None
    for column, (ours, most) in MEASURES.items():
        if measures.get(ours, 0) > most:
            print(f"note: LES-AV: photograph {name}: {column} {measures[ours]:g} cannot be right; kept as released")
    masks = {"vessel": f"vessel-segmentations/{name}.png"}
    if (root / COLOURED).is_dir():
        masks |= {mask: f"{COLOURED}/{name}.png{part}" for mask, part in PARTS.items()}
    return FundusRecord(
        id=name,
        image=f"images/{name}.png",
        patient=name,
        eye=eye,
        diagnosis=(diagnosis,),
        masks=masks | {"field": f"masks/{name}_mask.gif"},
        age=age,
        sex=sex,
        source="les_av",
        license="science only, not commercial",
        extra=dict(measures),
    )
