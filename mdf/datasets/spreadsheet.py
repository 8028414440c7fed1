"""Excel workbooks (.xlsx) as tables of text: a zip archive of XML, read with the standard library alone."""

import re
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Sequence
from pathlib import Path

from mdf.datasets.common import to_rows
from mdf.errors import UserError

MAX_BYTES = 200_000_000  # of one part of the workbook after it is unpacked
MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
LINK = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def read_sheet(
    workbook: Path, name: str, columns: Sequence[str] = (), sheet: str | None = None
) -> list[dict[str, str]]:
    """Rows of a sheet (the first one, or the one named `sheet` in any case) as {column: stripped text}.

    Whole numbers are written without a point: 80, not 80.0. Raises UserError for a missing or damaged file, a sheet
    that is not there, and everything that `to_rows` refuses.
    """
    cells = read_cells(workbook, name)
    wanted = next((s for s in cells if sheet is None or s.strip().lower() == sheet.lower()), None)
    if wanted is None:
        raise UserError(f"{workbook}: no sheet is named {sheet}; it has {', '.join(cells)}")
    return to_rows(cells[wanted], workbook, columns)


def read_cells(workbook: Path, name: str) -> dict[str, list[list[str]]]:
    """Rows of text cells of every sheet, by its name; without empty rows, and all of a sheet equally long."""
    if not workbook.is_file():
        raise UserError(f"{name}: there is no table {workbook}; `prepare.py list` shows the layout that is expected")
    try:
        with zipfile.ZipFile(workbook) as archive:
            return unpack(archive)
    except (zipfile.BadZipFile, ET.ParseError, KeyError, IndexError, ValueError, OSError, EOFError) as error:
        raise UserError(
            f"{workbook} cannot be read as an .xlsx workbook ({error}); download it again, or save it as .xlsx"
        ) from None


def unpack(archive: zipfile.ZipFile) -> dict[str, list[list[str]]]:
    shared: list[str] = []
    if "xl/sharedStrings.xml" in archive.namelist():
        shared = [text_of(item) for item in part(archive, "xl/sharedStrings.xml").iter(f"{MAIN}si")]
    links = part(archive, "xl/_rels/workbook.xml.rels")
    targets = {link.attrib["Id"]: link.attrib["Target"] for link in links}
    sheets = {}
    for sheet in part(archive, "xl/workbook.xml").iter(f"{MAIN}sheet"):
        target = targets[sheet.attrib[LINK]]
        path = target[1:] if target.startswith("/") else f"xl/{target}"
        rows = [row_of(row, shared) for row in part(archive, path).iter(f"{MAIN}row")]
        width = max((len(row) for row in rows), default=0)
        sheets[sheet.attrib["name"]] = [row + [""] * (width - len(row)) for row in rows if any(row)]
    return sheets


def part(archive: zipfile.ZipFile, path: str) -> ET.Element:
    """A part of the workbook. Raises ValueError where it is too large, or declares entities that could be unpacked."""
    if archive.getinfo(path).file_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES:,} bytes")
    content = archive.read(path)
    if b"<!DOCTYPE" in content:
        raise ValueError(f"{path} declares a document type")
    return ET.fromstring(content)


def row_of(row: ET.Element, shared: list[str]) -> list[str]:
    """Stripped cells of a row from column A on; cells that the file leaves out are empty."""
    cells: list[str] = []
    for cell in row.iter(f"{MAIN}c"):
        column = column_of(cell.attrib.get("r", ""), default=len(cells))
        cells += [""] * (column - len(cells))
        cells.append(value_of(cell, shared).strip())
    return cells


def column_of(reference: str, default: int) -> int:
    """Number of the column of a reference such as B7, counted from 0; `default` where the cell has none."""
    letters = re.match(r"[A-Z]{1,3}", reference)
    if letters is None:
        return default
    number = 0
    for letter in letters[0]:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1


def value_of(cell: ET.Element, shared: list[str]) -> str:
    kind = cell.attrib.get("t", "n")
    if kind == "inlineStr":
        return text_of(cell)
    value = cell.findtext(f"{MAIN}v") or ""
    if kind == "s" and value:
        return shared[int(value)]
    if kind == "n" and value:
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    return value  # a formula's text, a truth value or an error as it stands


def text_of(element: ET.Element) -> str:
    """Text of all runs, without the phonetic guides that East Asian workbooks hold beside it."""
    guides = {t for guide in element.iter(f"{MAIN}rPh") for t in guide.iter(f"{MAIN}t")}
    return "".join(t.text or "" for t in element.iter(f"{MAIN}t") if t not in guides)
