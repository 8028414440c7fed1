"""Writes small .xlsx workbooks as Excel does: shared strings, numbers as numbers, empty cells left out."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
LINK = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"

Cell = str | float | None


def write_workbook(path: Path, sheets: Mapping[str, Sequence[Sequence[Cell]]]) -> Path:
    shared: list[str] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        names, links = "", ""
        for number, (name, rows) in enumerate(sheets.items(), 1):
            names += f'<sheet name="{escape(name)}" sheetId="{number}" r:id="r{number}"/>'
            links += f'<Relationship Id="r{number}" Target="worksheets/sheet{number}.xml"/>'
            body = "".join(f'<row r="{r}">{row_text(row, r, shared)}</row>' for r, row in enumerate(rows, 1))
            text = f'<worksheet xmlns="{MAIN}"><sheetData>{body}</sheetData></worksheet>'
            archive.writestr(f"xl/worksheets/sheet{number}.xml", text)
        archive.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{MAIN}" xmlns:r="{LINK}"><sheets>{names}</sheets></workbook>'
        )
        archive.writestr("xl/_rels/workbook.xml.rels", f"<Relationships>{links}</Relationships>")
        items = "".join(f"<si><t>{escape(text)}</t></si>" for text in shared)
        archive.writestr("xl/sharedStrings.xml", f'<sst xmlns="{MAIN}">{items}</sst>')
    return path


def row_text(row: Sequence[Cell], number: int, shared: list[str]) -> str:
    out = ""
    for i, cell in enumerate(row):
        reference = f"{chr(ord('A') + i)}{number}"
        if isinstance(cell, str):
            if cell not in shared:
                shared.append(cell)
            out += f'<c r="{reference}" t="s"><v>{shared.index(cell)}</v></c>'
        elif cell is not None:
            out += f'<c r="{reference}"><v>{cell}</v></c>'
    return out
