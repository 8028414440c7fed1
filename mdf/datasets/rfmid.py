"""RFMiD: 45 conditions a photograph, 0 or 1 each, and `Disease_Risk`; three tables with a folder of photographs each.

Every condition that is marked is a diagnosis here, signs such as drusen too: the release lists them side by side.
`findings` are not known, since no other sign was looked for. `Disease_Risk` 0 is a normal eye. Two layouts are
published, both are read.
"""

from pathlib import Path

from mdf.datasets.common import read_rows, require_files, unpacked
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord
from mdf.vocabulary import NORMAL, OTHER, from_grade, scales, written

GUIDE = Guide(
    "rfmid",
    "45 conditions, several a photograph, and whether any is there at all",
    "3,200 (1,920 training, 640 validation, 640 test)",
    "CC BY 4.0",
    "Pachade et al., Retinal Fundus Multi-Disease Image Dataset (RFMiD), Data, 2021",
    "IEEE DataPort, 'Retinal Fundus Multi-disease Image Dataset (RFMiD)'",
    "DIR/Training_Set/RFMiD_Training_Labels.csv, DIR/Training_Set/Training/1.png, …, DIR/Evaluation_Set/…, "
    "DIR/Test_Set/…; or DIR/1. Original Images/a. Training Set/1.png, …, DIR/2. Groundtruths/"
    "a. RFMiD_Training_Labels.csv, …",
)

# split -> archive, its folder of photographs, the table's word, the other layout's folder
SETS = {
    "train": ("Training_Set", "Training", "Training", "a. Training Set"),
    "val": ("Evaluation_Set", "Validation", "Validation", "b. Validation Set"),
    "test": ("Test_Set", "Test", "Testing", "c. Testing Set"),
}


def read(root: Path) -> list[FundusRecord]:
    """A record for each row of the three tables. Raises UserError for other tables or missing photographs."""
    records = []
    for split in SETS:
        table, folder = find(root, split)
        rows = read_rows(table, "RFMiD", ("ID", "Disease_Risk"))
        columns = scales()["rfmid"].values
        unknown = [c for c in rows[0] if c != "ID" and written(c) not in columns]
        if unknown:
            raise UserError(f"{table}: unknown columns {', '.join(unknown)}; known: {', '.join(columns)}")
        below = folder.relative_to(root).as_posix()
        records += [to_record(row, split, below, f"{table.name} line {i}") for i, row in enumerate(rows, 2)]
    require_files(root, [r.image for r in records])
    odd = sum(r.diagnosis == (OTHER,) for r in records)
    if odd:
        print(f"note: RFMiD: {odd} photographs are `other`: Disease_Risk is 1 and no condition is marked by name")
    against = sum(r.extra["disease_risk"] == 0 and r.diagnosis != (NORMAL,) for r in records)
    if against:
        print(f"note: RFMiD: {against} photographs have Disease_Risk 0 and a condition marked; the condition is taken")
    return records


def find(root: Path, split: str) -> tuple[Path, Path]:
    """Table and folder of photographs of whichever layout is there."""
    archive, photographs, word, other = SETS[split]
    if (root / "1. Original Images").is_dir():
        table = root / "2. Groundtruths" / f"{other[:2]} RFMiD_{word}_Labels.csv"
        return table, root / "1. Original Images" / other
    return unpacked(root, archive) / f"RFMiD_{word}_Labels.csv", unpacked(root, archive) / photographs


def to_record(row: dict[str, str], split: str, below: str, where: str) -> FundusRecord:
    flags = {column: value for column, value in row.items() if column != "ID"}
    if not set(flags.values()) <= {"0", "1"}:
        raise UserError(f"{where}: every mark must be 0 or 1")
    marked = dict.fromkeys(from_grade("rfmid", c) for c, flag in flags.items() if flag == "1" and c != "Disease_Risk")
    risk = flags["Disease_Risk"] == "1"
    return FundusRecord(
        id=f"{split}/{row['ID']}",
        image=f"{below}/{row['ID']}.png",
        diagnosis=tuple(marked) or ((OTHER,) if risk else (NORMAL,)),
        source="rfmid",
        split=split,
        license="CC BY 4.0",
        extra={"disease_risk": int(risk)},
    )
