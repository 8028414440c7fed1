"""FLAIR's own tables: `image, atributes, categories` (sic), the last two Python lists written as text.

The lists are parsed as literals and never run. Their strings are classes in most of the 38 sets and free text in some
(DeepEyeNet, STARE, ODIR): what the vocabulary knows becomes the diagnosis, "no X" becomes `extra.absent`, and all of
them stay in `texts.categories`. A table names one class or a few, so that nothing else was looked for: no findings.
"""

import ast
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdf.datasets.common import read_rows, require_files, some
from mdf.datasets.guide import Guide
from mdf.errors import UserError
from mdf.records import FundusRecord, leaves_root
from mdf.vocabulary import lookup

GUIDE = Guide(
    "flair",
    "the assembly of 38 public sets that FLAIR was trained and tested on, by FLAIR's own tables",
    "288,307 in the paper; the tables say how many are used",
    "that of each set",
    "Silva-Rodriguez et al., A Foundation Language-Image Model of the Retina (FLAIR), Medical Image Analysis 99, 2025",
    "the sets from their own places; the tables from FLAIR's repository (local_data/dataframes; those for pre-training "
    "are made by its local_data/prepare_partitions.py)",
    "--root DIR --table FILE.csv|FOLDER, DIR/01_EYEPACS/…, DIR/02_MESSIDOR/…; every CSV below the folder is read",
)

COLUMNS = ("image", "atributes", "categories")
Lists = tuple[list[str], list[str]]  # categories, attributes
NOTHING = ("a disease", "no disease")  # of RFMiD: said beside the names of the diseases, or instead of "normal"


def read(root: Path, table: Path, aliases: Mapping[str, str] | None = None) -> list[FundusRecord]:
    """Records of one table, or of every CSV below a folder; a photograph in several tables has a record of each.

    Says how many strings the vocabulary knows and which it does not know most often.
    Raises UserError for missing tables, columns, photographs and for lists that are no lists of text.
    """
    tables = [table] if table.is_file() else sorted(table.rglob("*.csv"))
    if not tables:
        raise UserError(f"flair: {table} is neither a table nor a folder with CSV files")
    records: list[FundusRecord] = []
    strings: Counter[str] = Counter()
    for file in tables:
        rows = read_rows(file, "flair", COLUMNS)
        outside = [row["image"] for row in rows if leaves_root(row["image"])]
        if outside:
            raise UserError(f"{file}: {len(outside)} paths leave the root {root}: {some(outside)}")
        photographs = merge(rows, read_lists(rows, file), file)
        strings.update(string for categories, _ in photographs.values() for string in categories)
        name = file.relative_to(table).with_suffix("").as_posix() if table.is_dir() else file.stem
        records += [
            to_record(name, image, categories, attributes, aliases)
            for image, (categories, attributes) in photographs.items()
        ]
    require_files(root, [r.image for r in records])
    say_mapped(strings, aliases)
    return records


def to_record(
    table: str, image: str, categories: list[str], attributes: list[str], aliases: Mapping[str, str] | None
) -> FundusRecord:
    known = [lookup(string, aliases) for string in categories]
    diagnosis = tuple(dict.fromkeys(name for name in known if name is not None))
    absent = [string[3:] for string, name in zip(categories, known, strict=True) if name is None and negative(string)]
    extra: dict[str, Any] = {"table": table}
    if absent:
        extra["absent"] = "; ".join(absent)
    if attributes:
        extra["attributes"] = "; ".join(attributes)
    return FundusRecord(
        id=f"{table}/{image}",
        image=image,
        diagnosis=diagnosis or None,
        texts={"categories": "; ".join(categories)} if categories else {},
        source=f"flair/{image.split('/')[0]}",
        extra=extra,
    )


def negative(string: str) -> bool:
    """Whether it says that something was looked for and not found."""
    return string.lower().startswith("no ") and string.lower() not in NOTHING


def read_lists(rows: list[dict[str, str]], file: Path) -> list[Lists]:
    """Categories and attributes of each row. Raises UserError that counts the rows whose cells are no lists."""
    found, wrong = [], []
    for number, row in enumerate(rows, 2):
        categories, attributes = parse(row["categories"]), parse(row["atributes"])
        if categories is None or attributes is None:
            wrong.append(number)
        else:
            found.append((categories, attributes))
    if wrong:
        raise UserError(f"{file}: {len(wrong)} rows hold no lists such as ['glaucoma'] or []: rows {some(wrong)}")
    return found


def parse(cell: str) -> list[str] | None:
    """A list of texts, each without blanks around it and none empty; None where the cell holds anything else."""
    try:
        value = ast.literal_eval(cell) if cell else []
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        return None
    return [" ".join(v.split()) for v in value if v.strip()]


def merge(rows: list[dict[str, str]], lists: list[Lists], file: Path) -> dict[str, Lists]:
    """One entry a photograph: ODIR's table has some twice; their strings are put together, which is said."""
    found: dict[str, Lists] = {}
    for row, (categories, attributes) in zip(rows, lists, strict=True):
        before = found.get(row["image"], ([], []))
        found[row["image"]] = (unique(before[0] + categories), unique(before[1] + attributes))
    if len(found) < len(rows):
        print(f"note: {len(rows) - len(found)} rows of {file.name} name a photograph again; their strings are joined")
    return found


def unique(strings: list[str]) -> list[str]:
    return list(dict.fromkeys(strings))


def say_mapped(strings: Counter[str], aliases: Mapping[str, str] | None) -> None:
    unknown = Counter({s: n for s, n in strings.items() if lookup(s, aliases) is None and not negative(s)})
    mapped, total = strings.total() - unknown.total(), strings.total()
    print(f"flair: {mapped} of {total} category strings are in the vocabulary or say that something is absent")
    if unknown:
        frequent = ", ".join(f"{s!r} ({n})" for s, n in unknown.most_common(10))
        print(f"flair: {len(unknown)} different strings stay text only; the most frequent: {frequent}")
