"""Rows of a table whatever its format: CSV, TSV, JSON lines or Parquet become {column: text}."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mdf.datasets.common import decode, read_rows, some
from mdf.errors import UserError
from mdf.files import from_json

Rows = list[dict[str, str]]
HEADLESS = (".jsonl", ".ndjson", ".parquet")  # formats whose first row is a photograph and no line of column names


def read_table(table: Path, name: str, encoding: str = "utf-8") -> Rows:
    """Rows of `table`; its ending says what it is: .jsonl, .parquet, anything else is CSV or TSV.

    A list becomes text with `; ` between its parts, what is missing an empty text. Raises UserError for a missing,
    empty or damaged file, and for cells that hold an object or an image.
    """
    ending = table.suffix.lower()
    if ending not in HEADLESS:
        return read_rows(table, name, encoding=encoding)
    if not table.is_file():
        raise UserError(f"{name}: there is no table {table}; `prepare.py list` shows the layout that is expected")
    found = read_parquet(table) if ending == ".parquet" else read_jsonl(table, encoding)
    if not found:
        raise UserError(f"{table} holds no photograph: one row a photograph is needed")
    return to_text(found, str(table))


def read_jsonl(table: Path, encoding: str) -> list[dict[str, Any]]:
    found, wrong = [], []
    for number, line in enumerate(decode(table, encoding).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = from_json(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            found.append(row)
        else:
            wrong.append(number)
    if wrong:
        raise UserError(f'{table}: {len(wrong)} lines are no JSON object such as {{"image": "1.png"}}: {some(wrong)}')
    return found


def read_parquet(table: Path) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(table).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{table} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from None


def to_text(found: Iterable[Mapping[str, Any]], where: str) -> Rows:
    """Every row with the same columns, in the order in which they appear, and text in every cell."""
    found = list(found)
    columns = list(dict.fromkeys(column for row in found for column in row))
    wrong = {c for row in found for c, value in row.items() if isinstance(value, dict | bytes | bytearray)}
    if wrong:
        raise UserError(
            f"{where}: the columns {', '.join(sorted(wrong))} hold objects or bytes, not text; "
            "photographs inside a table are read by `huggingface`, other objects have to be written as columns"
        )
    return [{column: cell(row.get(column)) for column in columns} for row in found]


def cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list | tuple):
        return "; ".join(text for text in map(cell, value) if text)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with gaps comes as floats
    return str(value).strip()
