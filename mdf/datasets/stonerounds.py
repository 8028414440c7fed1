"""StoneRounds: cases with photographs and clinical text on a web page; no bulk release exists.

You write the cases that you may use into `stonerounds.csv`, a row a photograph: image, diagnosis, text and, where it is
known, patient. More columns are read as in any table (see `table`).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mdf.datasets import table
from mdf.datasets.common import read_rows
from mdf.datasets.guide import Guide
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


def read(root: Path, aliases: Mapping[str, str] | None = None) -> list[FundusRecord]:
    """A record for each row. Raises UserError for missing columns and everything that `table.read` refuses."""
    file = root / "stonerounds.csv"
    columns = ("image", "diagnosis", "text")
    header = list(read_rows(file, "StoneRounds", columns)[0])
    used = {name: name for name in (*columns, "patient") if name in header}
    return [replace(r, source="stonerounds") for r in table.read(root, file, used, aliases)]
