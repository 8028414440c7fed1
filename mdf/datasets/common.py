"""What the readers share: finding photographs, reading tables, and refusing what is not there."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from mdf.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".ppm.gz")
# grade 0 to 4 of the International Clinical Diabetic Retinopathy scale; 0 says nothing of other diseases
ICDR = ("no_diabetic_retinopathy", "mild_npdr", "moderate_npdr", "severe_npdr", "pdr")
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
    missing = [root / p for p in paths if not (root / p).is_file()]
    if missing:
        shown = "\n".join(f"  {p}" for p in missing[:SHOWN]) + ("\n  …" if len(missing) > SHOWN else "")
        raise UserError(f"{len(missing)} of {len(paths)} files are missing below {root}; tried\n{shown}")


def read_rows(table: Path, name: str, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """Rows of a CSV or TSV file (comma, semicolon or tab) as {column: stripped text}; `columns` have to be there.

    Raises UserError for a missing or empty file, an unknown encoding, ragged rows, or columns that are not there.
    """
    if not table.is_file():
        raise UserError(f"{name}: there is no table {table}; `prepare.py list` shows the layout that is expected")
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max("\t;,", key=head.count)
            rows = [r for r in csv.reader(file, delimiter=delimiter) if any(cell.strip() for cell in r)]
    except UnicodeDecodeError:
        raise UserError(f"{table} is not UTF-8 text; save it as CSV with UTF-8 encoding") from None
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
            f"{table}: {len(ragged)} rows do not have {len(header)} cells as the first has; one is row {ragged[0]}; "
            "put text that holds the separator in quotes"
        )
    absent = [c for c in columns if c not in header]
    if absent:
        raise UserError(f"{table}: columns {', '.join(absent)} are missing; it has {', '.join(header)}")
    return [{h: cell.strip() for h, cell in zip(header, row, strict=True)} for row in rows[1:]]


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
