"""Excel workbooks are read with the standard library: what a cell shows is what a row holds."""

import zipfile
from pathlib import Path

import pytest

from mdf.datasets.spreadsheet import column_of, read_cells, read_sheet
from mdf.errors import UserError
from tests.datasets.workbook import MAIN, write_workbook


def test_rows_are_text_by_column(tmp_path: Path):
    rows = [["Number", "Note", "Score"], [1, "a & b", 0.5], [2.0, None, 3], [None, None, None]]
    file = write_workbook(tmp_path / "t.xlsx", {"Train": rows, "Test": [["x"], ["y"]]})
    assert read_sheet(file, "set") == [
        {"Number": "1", "Note": "a & b", "Score": "0.5"},
        {"Number": "2", "Note": "", "Score": "3"},
    ]
    assert read_sheet(file, "set", sheet="test") == [{"x": "y"}]


def test_a_missing_sheet_or_column_is_named(tmp_path: Path):
    file = write_workbook(tmp_path / "t.xlsx", {"Train": [["a"], [1]]})
    with pytest.raises(UserError, match="no sheet is named val; it has Train"):
        read_sheet(file, "set", sheet="val")
    with pytest.raises(UserError, match="columns b are missing; it has a"):
        read_sheet(file, "set", ("a", "b"))


@pytest.mark.parametrize(("reference", "number"), [("A1", 0), ("Z9", 25), ("AA1", 26), ("XFD1", 16383), ("", 7)])
def test_letters_are_column_numbers(reference: str, number: int):
    assert column_of(reference, default=7) == number


def test_runs_of_a_string_are_joined_without_phonetic_guides(tmp_path: Path):
    file = write_workbook(tmp_path / "t.xlsx", {"s": [["a"], ["x"]]})
    runs = "<r><t>眼</t></r><r><t>底</t></r><rPh sb='0' eb='1'><t>gantei</t></rPh>"
    guided = f'<sst xmlns="{MAIN}"><si><t>a</t></si><si>{runs}</si></sst>'
    with zipfile.ZipFile(file) as old:
        parts = {n: old.read(n) for n in old.namelist()} | {"xl/sharedStrings.xml": guided.encode()}
    with zipfile.ZipFile(file, "w") as new:
        for name, content in parts.items():
            new.writestr(name, content)
    assert read_cells(file, "set") == {"s": [["a"], ["眼底"]]}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no workbook"])
def test_a_damaged_workbook_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "t.xlsx").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read as an \.xlsx workbook"):
        read_cells(tmp_path / "t.xlsx", "set")


def test_a_workbook_that_declares_entities_is_refused(tmp_path: Path):
    file = write_workbook(tmp_path / "t.xlsx", {"s": [["a"], ["x"]]})
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("xl/workbook.xml", '<!DOCTYPE w [<!ENTITY a "aaaa">]><w>&a;</w>')
    with pytest.raises(UserError, match="declares a document type"):
        read_cells(file, "set")


def test_the_table_of_les_av_is_read(shared_data: Path):
    rows = read_sheet(shared_data / "les_av" / "Data.xlsx", "LES-AV")
    assert len(rows) == 22 and rows[5]["Identifier"] == "42" and rows[5]["SBP"] == "412"
