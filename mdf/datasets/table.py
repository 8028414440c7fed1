"""Any table with one photograph a row: `columns` says which column holds what, obvious names are guessed."""

from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mdf.datasets.common import read_rows, require_files, require_folder, unique_ids
from mdf.datasets.folder import SPLIT_NAMES
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord, leaves_root
from mdf.vocabulary import lookup, map_all, squash

GUIDE = Guide(
    "table",
    "your photographs with a CSV or TSV table: diagnosis, text, patient, eye, age, sex, split, masks; a row each",
    "any",
    "yours",
    "yours",
    "your own; StoneRounds too, once its cases are written into a table of image, diagnosis, text",
    "--root DIR --table T.csv, paths in the table relative to DIR; --columns image=FILE_COLUMN diagnosis=LABEL …",
)

# our field -> names of columns that are taken for it, first match first
GUESSES = {
    "image": ("image", "filename", "file name", "image path", "path", "filepath", "file", "image name", "img"),
    "id": ("id", "image id", "record id"),
    "diagnosis": ("diagnosis", "diagnoses", "label", "labels", "class", "disease"),
    "text": ("text", "report", "caption", "description", "findings text"),
    "patient": ("patient", "patient id", "subject", "subject id"),
    "study": ("study", "study id", "visit"),
    "eye": ("eye", "laterality", "side", "eye side"),
    "age": ("age", "patient age"),
    "sex": ("sex", "gender", "patient sex"),
    "camera": ("camera", "device"),
    "license": ("license", "licence"),
    "split": ("split", "partition", "subset"),
}
PREFIXES = {"mask": "masks", "text": "texts", "grade": "grade", "extra": "extra"}  # mask_vessel -> masks["vessel"]
EYES = dict.fromkeys(("left", "l", "os", "le"), "left") | dict.fromkeys(("right", "r", "od", "re"), "right")
SEXES = {"female": "female", "f": "female", "w": "female", "male": "male", "m": "male", "other": "other", "o": "other"}


def read(
    root: Path, table: Path, columns: Mapping[str, str] | None = None, aliases: Mapping[str, str] | None = None
) -> list[FundusRecord]:
    """A record for each row of `table`; paths in it are relative to `root`.

    `columns` maps our fields (image, id, diagnosis, text, patient, study, eye, age, sex, camera, license, split,
    mask_NAME, text_KIND, grade_SCALE, extra_NAME) to the table's columns. Several diagnoses stand in one cell
    separated by ; or , and an empty cell is not known.
    Raises UserError for unknown fields, columns, diagnoses, values and missing files, all of a kind at once.
    """
    require_folder(root, "table")
    rows = read_rows(table, "table")
    used = choose_columns(list(rows[0]), columns or {}, table)
    cells = {field: [row[column] for row in rows] for field, column in used.items()}
    images = cells["image"] = [inside(root, name) for name in cells["image"]]
    empty = [i for i, name in enumerate(images, 1) if not name]
    if empty:
        raise UserError(f"{table}: {len(empty)} rows name no image in {used['image']!r}; one is row {empty[0] + 1}")
    require_files(root, images)
    for field in used:
        if field.startswith("mask_"):
            cells[field] = [inside(root, path) for path in cells[field]]
            require_files(root, [path for path in cells[field] if path])
    strings = [split_cell(cell, aliases) for cell in cells.get("diagnosis", [""] * len(rows))]
    mapped = map_all(Counter(s for row in strings for s in row), f"{table}, column {used.get('diagnosis')!r}", aliases)
    for field, allowed in (("eye", EYES), ("sex", SEXES), ("split", SPLIT_NAMES)):
        if field in cells:
            cells[field] = translate(cells[field], allowed, f"{table}, column {used[field]!r}")
    ids = [i or name for i, name in zip(cells.get("id", [""] * len(rows)), unique_ids(images), strict=True)]
    twice = [i for i, n in Counter(ids).items() if n > 1]
    if twice:
        column = f"; choose another column for them than {used['id']!r}: columns.id" if "id" in used else ""
        raise UserError(f"{table}: {len(twice)} ids stand in more than one row, one is {twice[0]!r}{column}")
    records = []
    for i, (id_, image) in enumerate(zip(ids, images, strict=True)):
        values: dict[str, Any] = {field: cells[field][i] or None for field in used if field in GUESSES}
        values.pop("text", None)
        tables: dict[str, dict[str, str]] = {}
        for field in used:
            prefix, _, name = field.partition("_")
            if ((prefix in PREFIXES and name) or field == "text") and cells[field][i]:
                tables.setdefault(PREFIXES[prefix], {})[name or "text"] = cells[field][i]
        values |= {
            "id": id_,
            "image": image,
            "diagnosis": tuple(dict.fromkeys(mapped[s] for s in strings[i])) or None,
            "age": to_age(values.get("age"), table, i + 2),
            "source": root.resolve().name,
        }
        records.append(FundusRecord(**values | tables))
    return records


def choose_columns(header: list[str], wanted: Mapping[str, str], table: Path) -> dict[str, str]:
    """Our field -> the table's column: what the user says, else what is guessed, which is said aloud."""
    errors = []
    for field, column in wanted.items():
        prefix, _, name = field.partition("_")
        if field not in GUESSES and not (prefix in PREFIXES and name):
            close = get_close_matches(field, list(GUESSES), n=1)
            known = f"{', '.join(GUESSES)}, mask_NAME, text_KIND, grade_SCALE, extra_NAME"
            way_out = f"did you mean {close[0]}?" if close else f"known: {known}"
            errors.append(f"columns.{field}: no such field; {way_out}")
        elif column not in header:
            close = get_close_matches(column, header, n=1)
            errors.append(f"columns.{field}: no column {column!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    if errors:
        raise UserError(f"{table} has the columns {', '.join(header)}:\n" + "\n".join(f"  {e}" for e in errors))
    squashed = {squash(h): h for h in reversed(header)}
    used = dict(wanted)
    for field, names in GUESSES.items():
        guess = next((squashed[n] for n in names if n in squashed and squashed[n] not in used.values()), None)
        if field not in used and guess is not None:
            used[field] = guess
    for h in header:
        prefix, _, name = h.partition("_")
        if prefix in ("mask", "text", "grade") and name and h not in used.values():
            used.setdefault(h, h)
    if "image" not in used:
        raise UserError(
            f"{table}: no column looks like the photograph's path; it has {', '.join(header)}. "
            "Name it with data.columns.image=COLUMN (prepare.py: --columns image=COLUMN)"
        )
    unused = [h for h in header if h not in used.values()]
    print(f"columns of {table.name}: {', '.join(f'{f}={c}' for f, c in used.items())}")
    if unused:
        print(f"not used: {', '.join(unused)}")
    return used


def inside(root: Path, path: str) -> str:
    """`path` relative to `root`. Raises UserError where it leaves the root."""
    if path and Path(path).is_relative_to(root.absolute()):
        path = Path(path).relative_to(root.absolute()).as_posix()
    if leaves_root(path):
        raise UserError(f"the table's path {path!r} leaves the root {root}; name a folder above them as root")
    return path


def split_cell(cell: str, aliases: Mapping[str, str] | None) -> list[str]:
    """The diagnosis strings of a cell; a string that the vocabulary knows whole is not cut."""
    if not cell or lookup(cell, aliases):
        return [cell] if cell else []
    parts = cell.replace("，", ",").replace(";", ",").split(",")
    return [part.strip() for part in parts if part.strip()]


def translate(cells: list[str], allowed: Mapping[str, str], where: str) -> list[str]:
    """Cells in our words; empty ones stay empty. Raises UserError that lists every other value."""
    wrong = sorted({c for c in cells if c and c.lower() not in allowed})
    if wrong:
        raise UserError(f"{where}: {', '.join(map(repr, wrong[:10]))} not understood; use one of {', '.join(allowed)}")
    return [allowed[c.lower()] if c else c for c in cells]


def to_age(cell: str | None, table: Path, row: int) -> float | None:
    try:
        age = None if cell is None else float(cell)
    except ValueError:
        age = -1.0
    if age is not None and not 0 <= age <= 130:
        raise UserError(f"{table} row {row}: age {cell!r} must be years from 0 to 130")
    return age
