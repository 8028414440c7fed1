"""Any table with one photograph a row: `columns` says which column holds what, obvious names are guessed."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from mdf.datasets.common import require_folder, some, unique_ids
from mdf.datasets.folder import SPLIT_NAMES
from mdf.datasets.guide import Guide
from mdf.datasets.rows import HEADLESS, Rows, read_table
from mdf.errors import UserError
from mdf.imaging.mask_files import mask_file
from mdf.records import FundusRecord, leaves_root
from mdf.vocabulary import lookup, map_all, squash

GUIDE = Guide(
    "table",
    "your photographs with a table (CSV, TSV, JSON lines, Parquet), a row each: diagnosis, text, patient, eye, age, "
    "sex, split, masks, grades",
    "any",
    "yours",
    "yours",
    "your own; StoneRounds too, once its cases are written into a table of image, diagnosis, text",
    "--root DIR --table T.csv, paths in the table relative to DIR; --columns image=FILE_COLUMN diagnosis=LABEL … or "
    "--columns FILE.yaml",
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
TRANSLATED = {"eye": EYES, "sex": SEXES, "split": SPLIT_NAMES}


def read(
    root: Path,
    table: Path,
    columns: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
) -> list[FundusRecord]:
    """A record for each row of `table` (CSV, TSV, JSON lines, Parquet); paths in it are relative to `root`.

    `columns` maps our fields (image, id, diagnosis, text, patient, study, eye, age, sex, camera, license, split,
    mask_NAME, text_KIND, grade_SCALE, extra_NAME) to the table's columns. Several diagnoses stand in one cell
    separated by ; or , and an empty cell is not known. `encoding` is that of a text file.
    Raises UserError for unknown fields, columns, diagnoses, values and missing files, all of them at once.
    """
    require_folder(root, "table")
    rows = read_table(table, "table", encoding)
    return to_records(rows, root, table, columns or {}, aliases, first=1 if table.suffix.lower() in HEADLESS else 2)


def to_records(
    rows: Rows,
    root: Path,
    table: Path,
    columns: Mapping[str, str],
    aliases: Mapping[str, str] | None = None,
    *,
    first: int = 2,
    source: str | None = None,
) -> list[FundusRecord]:
    """Records of rows that were read from `table`, the first of them in its row `first`; see read."""
    numbers = without_duplicates(rows, first)
    rows = [rows[n - first] for n in numbers]
    used = choose_columns(list(rows[0]), columns, table)
    cells = {f: ["" if unknown(f, row[c]) else row[c] for row in rows] for f, c in used.items()}
    problems = Problems(table, numbers)
    for field in used:
        if field == "image" or field.startswith("mask_"):
            cells[field] = problems.paths(cells[field], root, field, used[field])
        elif field in TRANSLATED:
            cells[field] = problems.translate(cells[field], TRANSLATED[field], used[field])
    ages = [problems.age(i, text) for i, text in enumerate(cells.get("age", [""] * len(rows)))]
    strings = [split_cell(text, aliases) for text in cells.get("diagnosis", [""] * len(rows))]
    counts = Counter(s for row in strings for s in row)
    where = f"{table}, column {used.get('diagnosis')!r}"
    mapped = problems.collect(lambda: map_all(counts, where, aliases)) if counts else {}
    images = cells["image"]
    ids = [i or name for i, name in zip(cells.get("id", [""] * len(rows)), unique_ids(images), strict=True)]
    problems.ids(ids, used.get("id"))
    problems.check()
    records = []
    for i, (id_, image) in enumerate(zip(ids, images, strict=True)):
        values: dict[str, Any] = {field: cells[field][i] or None for field in used if field in GUESSES}
        values.pop("text", None)
        tables: dict[str, dict[str, Any]] = {}
        for field in used:
            prefix, _, name = field.partition("_")
            if ((prefix in PREFIXES and name) or field == "text") and cells[field][i]:
                value = number(cells[field][i]) if prefix in ("grade", "extra") else cells[field][i]
                tables.setdefault(PREFIXES[prefix], {})[name or "text"] = value
        values |= {
            "id": id_,
            "image": image,
            "diagnosis": tuple(dict.fromkeys(mapped[s] for s in strings[i])) or None,
            "age": ages[i],
            "source": source or root.resolve().name,
        }
        records.append(FundusRecord(**values | tables))
    repeated = len(images) - len(set(images))
    if repeated:
        print(f"note: {repeated} rows of {table.name} name a photograph that another row names too")
    return records


def without_duplicates(rows: Rows, first: int) -> list[int]:
    """Numbers of the rows that are not the same as an earlier one; says how many are."""
    seen = {tuple(row.items()): number for number, row in reversed(list(enumerate(rows, first)))}
    numbers = sorted(seen.values())
    if len(numbers) < len(rows):
        again = sorted(set(range(first, first + len(rows))) - set(numbers))
        print(f"note: {len(again)} rows say the same as an earlier row and are read once: rows {some(again)}")
    return numbers


def unknown(field: str, text: str) -> bool:
    """Whether a cell says that nothing is known; a file or an id may have any name."""
    return field not in ("image", "id") and text.lower() in ("na", "n/a", "nan", "null")


def number(text: str) -> str | int | float:
    """A grade or other value as the number that it is written as: "2" is 2. Anything else stays text, "007" too."""
    if not re.fullmatch(r"-?(0|[1-9]\d{0,14})(\.\d+)?", text):
        return text
    return float(text) if "." in text else int(text)


class Problems:
    """What is wrong with a table, counted by kind with the first rows of each, for one message at the end."""

    def __init__(self, table: Path, numbers: list[int]):
        self.table, self.numbers = table, numbers
        self.found: dict[str, list[str]] = {}
        self.whole: list[str] = []  # messages that stand for themselves

    def add(self, kind: str, i: int, value: str = "") -> None:
        self.found.setdefault(kind, []).append(f"row {self.numbers[i]}" + (f" {value!r}" if value else ""))

    def paths(self, cells: list[str], root: Path, field: str, column: str) -> list[str]:
        """The cells relative to `root`."""
        paths = []
        for i, text in enumerate(cells):
            path = inside(root, text)
            if not text and field == "image":
                self.add(f"rows name no image in {column!r}", i)
            elif path is None:
                self.add(f"paths of {column!r} leave the root {root}; name a folder above them as root", i, text)
            elif path and not mask_file(root / path).is_file():
                self.add(f"files of {column!r} are missing; tried", i, str(root / path))
            # a wrong path only has to be told from the others until the message is written
            paths.append(path or text or (f"row {self.numbers[i]}" if field == "image" else ""))
        return paths

    def translate(self, cells: list[str], allowed: Mapping[str, str], column: str) -> list[str]:
        """The cells in our words; empty ones stay empty."""
        for i, text in enumerate(cells):
            if text and text.lower() not in allowed:
                self.add(f"cells of {column!r} are not understood; use one of {', '.join(allowed)}", i, text)
        return [allowed.get(text.lower(), "") for text in cells]

    def age(self, i: int, text: str) -> float | None:
        try:
            age = float(text.replace(",", ".")) if text else None
        except ValueError:
            age = -1.0
        if age is not None and not 0 <= age <= 130:
            self.add("ages must be years from 0 to 130", i, text)
        return age

    def ids(self, ids: list[str], column: str | None) -> None:
        counts = Counter(ids)
        way_out = f"; choose another column for them than {column!r}: columns.id" if column else ""
        for i, id_ in enumerate(ids):
            if counts[id_] > 1:
                self.add(f"ids stand in more than one row{way_out}", i, id_)

    def collect(self, action: Callable[[], dict[str, str]]) -> dict[str, str]:
        try:
            return action()
        except UserError as error:
            self.whole.append(str(error))
            return {}

    def check(self) -> None:
        """Raises UserError with everything that was found."""
        lines = [f"{len(rows)} {kind}: {some(rows)}" for kind, rows in self.found.items()]
        if lines:
            total = sum(map(len, self.found.values()))
            self.whole.insert(0, "\n  ".join([f"{self.table}: {total:,} problems:", *lines]))
        if self.whole:
            raise UserError("\n".join(self.whole))


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


def inside(root: Path, path: str) -> str | None:
    """`path` relative to `root`; None where it leaves the root."""
    if path and Path(path).is_relative_to(root.absolute()):
        path = Path(path).relative_to(root.absolute()).as_posix()
    return None if leaves_root(path) else path


def split_cell(cell: str, aliases: Mapping[str, str] | None) -> list[str]:
    """The diagnosis strings of a cell; a string that the vocabulary knows whole is not cut."""
    if not cell or lookup(cell, aliases):
        return [cell] if cell else []
    for separator in (";；", ",，、"):
        parts = [part.strip() for part in re.split(f"[{separator}]", cell) if part.strip()]
        if len(parts) > 1:
            return [string for part in parts for string in split_cell(part, aliases)]
    return parts


def read_columns(words: Sequence[str]) -> dict[str, str]:
    """Our field -> the table's column from words FIELD=COLUMN and YAML files of such lines; later words go first.

    Raises UserError for any other word or file.
    """
    columns: dict[str, str] = {}
    for word in words:
        field, _, column = word.partition("=")
        if field and column:
            columns[field] = column
        elif word.lower().endswith((".yaml", ".yml")):
            columns |= read_column_file(Path(word))
        else:
            raise UserError(
                f"--columns: {word!r} is neither FIELD=COLUMN nor a YAML file, for example "
                "--columns image=FileName diagnosis=Label"
            )
    return columns


def read_column_file(path: Path) -> dict[str, str]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--columns {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict) or not all(isinstance(v, str | int | float) for v in raw.values()):
        raise UserError(f"--columns {path}: must hold lines `field: column` such as `diagnosis: Label`")
    return {str(field): str(column) for field, column in raw.items()}
