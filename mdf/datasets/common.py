"""What the readers share: finding photographs, reading tables, and refusing what is not there."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mdf.errors import UserError
from mdf.imaging.mask_files import mask_file

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".ppm.gz")
SHOWN = 5  # paths listed in one message


def image_files(folder: Path, name: str) -> list[Path]:
    """Photographs anywhere below `folder`, sorted; hidden files are left out, other files are counted aloud."""
    require_folder(folder, name)
    inside = (f for f in sorted(folder.rglob("*")) if f.is_file())
    files = [f for f in inside if not any(part.startswith(".") for part in f.relative_to(folder).parts)]
    images = [f for f in files if f.name.lower().endswith(IMAGE_ENDINGS)]
    if not images:
        raise UserError(f"{name}: {folder} holds no photograph ({', '.join(IMAGE_ENDINGS)})")
    if len(images) < len(files):
        endings = sorted({f.suffix or f.name for f in set(files) - set(images)})
        count = len(files) - len(images)
        print(f"note: {count} files below {folder} are no photographs ({', '.join(endings[:SHOWN])})")
    return images


def require_folder(folder: Path, name: str) -> None:
    if not folder.is_dir():
        raise UserError(f"{name}: there is no folder {folder}; `prepare.py list` shows the layout that is expected")


def require_files(root: Path, relative: Iterable[str]) -> None:
    """Raises UserError that counts the missing files and names the first paths tried."""
    paths = list(relative)
    missing = [root / p for p in paths if not mask_file(root / p).is_file()]
    if missing:
        shown = "\n".join(f"  {p}" for p in missing[:SHOWN]) + ("\n  …" if len(missing) > SHOWN else "")
        raise UserError(f"{len(missing)} of {len(paths)} files are missing below {root}; tried\n{shown}")


def read_rows(table: Path, name: str, columns: Sequence[str] = (), encoding: str = "utf-8") -> list[dict[str, str]]:
    """Rows of a CSV or TSV file as {column: stripped text}; `columns` have to be there.

    Columns are separated by a comma, semicolon, tab or full-width comma, whichever the first line holds most of.
    Raises UserError for a missing or empty file, another encoding, ragged rows, or columns that are not there.
    """
    if not table.is_file():
        raise UserError(f"{name}: there is no table {table}; `prepare.py list` shows the layout that is expected")
    text = decode(table, encoding)
    head = re.sub('"[^"]*"', "", text.partition("\n")[0])
    delimiter = max("\t;,，", key=head.count)
    try:
        rows = [r for r in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(c.strip() for c in r)]
    except csv.Error as error:
        raise UserError(f"{table} cannot be read as a table: {error}") from None
    return to_rows(rows, table, columns)


def to_rows(rows: list[list[str]], table: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Rows of cells below a row of column names as {column: stripped text}; `columns` have to be there.

    Columns with neither a name nor a cell are left out; some releases end their lines with a row of commas.
    Raises UserError for no row, ragged rows, names that stand twice, or columns that are not there.
    """
    if len(rows) < 2:
        raise UserError(f"{table} holds no photograph: a line of column names and one line a photograph are needed")
    filled = max(i for row in rows for i, cell in enumerate(row, 1) if cell.strip())
    rows = [row[:filled] if len(row) > filled else row for row in rows]
    header = [h.strip() for h in rows[0]]
    twice = sorted({h for h in header if header.count(h) > 1})
    if twice:
        raise UserError(f"{table}: column names stand twice: {', '.join(map(repr, twice))}")
    ragged = [i for i, r in enumerate(rows[1:], 2) if len(r) != len(header)]
    if ragged:
        raise UserError(
            f"{table}: {len(ragged)} rows do not have {len(header)} cells as the first has: {some(ragged)}; "
            "put text that holds the separator in quotes"
        )
    require_columns(table, header, columns)
    return [{h: cell.strip() for h, cell in zip(header, row, strict=True)} for row in rows[1:]]


def require_columns(table: Path, header: Iterable[str], columns: Sequence[str]) -> None:
    header = list(header)
    absent = [c for c in columns if c not in header]
    if absent:
        raise UserError(f"{table}: columns {', '.join(absent)} are missing; it has {', '.join(header)}")


def decode(table: Path, encoding: str = "utf-8") -> str:
    """The text of a file without its byte order mark. Raises UserError that names the encoding that it likely has."""
    raw = table.read_bytes()
    try:
        return raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        likely = likely_encoding(raw)
        raise UserError(
            f"{table} is not {encoding} text (line {line}), likely it is {likely}; save it as CSV with UTF-8 encoding, "
            f"or name its encoding: data.encoding={likely} (prepare.py table: --encoding {likely})"
        ) from None


def likely_encoding(raw: bytes) -> str:
    """A guess where it is not UTF-8: UTF-16 by its byte order mark, Chinese by its pairs of bytes, else Western."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    runs = re.findall(rb"[\x81-\xfe][\x40-\xfe]", raw)  # a character of two bytes in GB 18030
    paired = sum(pair[1] >= 0x81 for pair in runs)
    try:
        raw.decode("gb18030")
    except UnicodeDecodeError:
        return "cp1252"
    return "gb18030" if 2 * paired > len(runs) else "cp1252"


def some(items: Iterable[object]) -> str:
    """The first few of many things, for a message."""
    found = list(items)
    return ", ".join(map(str, found[:SHOWN])) + (f", … ({len(found)} in all)" if len(found) > SHOWN else "")


def to_grade(cell: str, top: int, where: str) -> int | None:
    """The grade from 0 to `top` that a cell holds, None where it is empty. Raises UserError for anything else."""
    if not cell:
        return None
    try:
        grade = float(cell)
    except ValueError:
        grade = -1
    if grade not in range(top + 1):
        raise UserError(f"{where}: {cell!r} must be a grade from 0 to {top}")
    return int(grade)


def unpacked(root: Path, name: str) -> Path:
    """The folder `name` below `root`; archives often unpack into a folder of their own name inside it."""
    return root / name / name if (root / name / name).is_dir() else root / name


def unique_ids(names: Sequence[str]) -> list[str]:
    """File names without ending where that tells them apart, else with it."""
    stems = [Path(n).with_suffix("").as_posix() for n in names]
    counts: dict[str, int] = {}
    for stem in stems:
        counts[stem] = counts.get(stem, 0) + 1
    return [stem if counts[stem] == 1 else name for stem, name in zip(stems, names, strict=True)]
