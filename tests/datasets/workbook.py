"""A small .xlsx workbook as the releases have them: strings and numbers in one sheet."""

import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def write_workbook(path: Path, rows: list[list[str | int | float | None]]) -> Path:
    """One sheet; None leaves the cell out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(
        f"<row>{''.join(cell(v, f'{chr(65 + c)}{r}') for c, v in enumerate(row) if v is not None)}</row>"
        for r, row in enumerate(rows, 1)
    )
    with zipfile.ZipFile(path, "w") as archive:
        sheet = f'<sheet name="a" sheetId="1" r:id="r1" xmlns:r="{LINKS}"/>'
        archive.writestr("xl/workbook.xml", f"<workbook {MAIN}><sheets>{sheet}</sheets></workbook>")
        link = '<Relationship Id="r1" Target="worksheets/sheet1.xml"/>'
        archive.writestr("xl/_rels/workbook.xml.rels", f"<Relationships>{link}</Relationships>")
        archive.writestr("xl/worksheets/sheet1.xml", f"<worksheet {MAIN}><sheetData>{lines}</sheetData></worksheet>")
    return path


def cell(value: str | int | float, place: str) -> str:
    if isinstance(value, str):
        return f'<c r="{place}" t="inlineStr"><is><t>{escape(value)}</t></is></c>'
    return f'<c r="{place}"><v>{value}</v></c>'
