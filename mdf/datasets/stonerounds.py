"""StoneRounds: cases with photographs and clinical text on a web page; no bulk release exists.

You write the cases that you may use into `stonerounds.csv`, a row a photograph: image, diagnosis, text and, where it is
known, patient. More columns are read as in any table (see `table`).
"""

from collections.abc import Mapping
from pathlib import Path

from mdf.datasets.common import read_rows
from mdf.datasets.guide import Guide
from mdf.datasets.table import to_records
from mdf.records import FundusRecord

GUIDE = Guide(
    "stonerounds",
    "inherited diseases of the retina, clinical text of each case",
    "as many as you export",
    "see the page's terms",
    "StoneRounds, University of Iowa; see the page",
    "the StoneRounds page; write what you may use into a table",
    "DIR/stonerounds.csv (image,diagnosis,text[,patient]), the photographs as the column image says, relative to DIR",
)

COLUMNS = ("image", "diagnosis", "text")


def read(root: Path, aliases: Mapping[str, str] | None = None) -> list[FundusRecord]:
    """A record for each row. Raises UserError for missing columns and everything that `table` refuses."""
    file = root / "stonerounds.csv"
    rows = read_rows(file, "StoneRounds", COLUMNS)
    return to_records(rows, root, file, {name: name for name in COLUMNS}, aliases, source="stonerounds")
