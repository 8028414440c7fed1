"""A Hugging Face data set: an ImageFolder with metadata, one saved with save_to_disk, or a name on the hub.

An ImageFolder's photographs are files and stay where they are. The other two keep them inside Arrow tables, which no
record can point into: each is written once, its bytes unchanged, into a folder that is said aloud, and read from there.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from mdf.datasets import folder as folder_reader
from mdf.datasets.folder import SPLIT_NAMES
from mdf.datasets.guide import Guide
from mdf.datasets.rows import Rows, read_table, to_text
from mdf.datasets.table import to_records
from mdf.errors import UserError
from mdf.records import FundusRecord

GUIDE = Guide(
    "huggingface",
    "any data set of photographs for the library `datasets`: labels, texts and other columns as in `table`",
    "any",
    "that of the data set",
    "that of the data set",
    "your own, or the hub",
    "--root DIR with metadata.jsonl or metadata.csv (column file_name), there or in train/, test/, …; DIR as "
    "save_to_disk writes it; OWNER/NAME or OWNER/NAME:CONFIG on the hub; --columns FIELD=COLUMN",
)

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SAVED = ("dataset_dict.json", "state.json")


def read(
    source: str, written: Path, columns: Mapping[str, str] | None = None, aliases: Mapping[str, str] | None = None
) -> tuple[list[FundusRecord], Path]:
    """Records and the folder that their paths are relative to.

    Photographs that lie inside Arrow tables are written below `written`. `columns` maps our fields to the data set's
    columns as `table` does; the column of photographs is found by its type. Raises UserError for a data set that cannot
    be loaded or has no photographs, and for everything that `table` refuses.
    """
    root = Path(source).expanduser()
    if not root.is_dir():
        return read_arrow(load_hub(source), source, written, columns or {}, aliases)
    if any((root / name).is_file() for name in SAVED):
        return read_arrow(load_saved(root), root.resolve().name, written, columns or {}, aliases)
    tables = [file for name in METADATA for file in (*root.glob(name), *root.glob(f"*/{name}"))]
    if not tables:
        return folder_reader.read(root, aliases), root
    rows: list[dict[str, Any]] = []
    for table in sorted(tables):
        rows += beside(root, table)
    where = tables[0] if len(tables) == 1 else root / "metadata"
    chosen = {"image": "file_name"} | dict(columns or {})
    return to_records(to_text(rows, str(where)), root, where, chosen, aliases), root


def beside(root: Path, table: Path) -> Rows:
    """Rows of a metadata file with paths below `root`, and the split that the file's folder is named after."""
    rows = read_table(table, "huggingface")
    if "file_name" not in rows[0]:
        raise UserError(f"{table}: column file_name is missing; it has {', '.join(rows[0])}")
    inside = table.parent.relative_to(root)
    split = SPLIT_NAMES.get(inside.as_posix().lower())
    for row in rows:
        row["file_name"] = (inside / row["file_name"]).as_posix()
        if split:
            row.setdefault("split", split)
    return rows


def load_saved(root: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(str(root))
    except Exception as error:  # the library raises what its readers of JSON and Arrow raise
        raise UserError(f"huggingface: {root} cannot be loaded: {one_line(error)}") from None


def load_hub(source: str) -> Any:
    """Download a data set by its name. Raises UserError where it is no name or the hub does not answer."""
    name, _, config = source.partition(":")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise UserError(f"data.root: there is no folder {source}, and it is no name on the hub such as OWNER/NAME")
    import datasets

    print(f"huggingface: there is no folder {source}; loading the data set of that name from the hub")
    try:
        return datasets.load_dataset(name, config or None)
    except Exception as error:  # connection, authorisation, unknown name, broken files
        raise UserError(
            f"huggingface: the data set {source} cannot be loaded from the hub: {one_line(error)}. Check the name and "
            "the connection, or give the folder of a copy as root"
        ) from None


def one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def read_arrow(
    data: Any, name: str, written: Path, columns: Mapping[str, str], aliases: Mapping[str, str] | None
) -> tuple[list[FundusRecord], Path]:
    """Records of a Dataset or a DatasetDict whose photographs lie in a column of the type Image."""
    parts = dict(data) if isinstance(data, dict) else {"": data}
    features = next(iter(parts.values())).features
    image, masks = image_columns(features, columns)
    fingerprint = "-".join(part._fingerprint[:8] for part in parts.values())
    root = written / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}-{fingerprint}"
    rows = [row for split, part in parts.items() for row in part_rows(part, split, [image, *masks], root)]
    if not rows:
        raise UserError(f"huggingface: {name} holds no photograph")
    said = {"image": image} | dict(columns)
    size = sum(f.stat().st_size for f in root.rglob("*") if f.is_file())
    print(f"huggingface: the photographs of {name} lie in {root} ({size / 1e6:.1f} MB), written from its Arrow tables")
    return to_records(to_text(rows, name), root, Path(name), said, aliases, first=1, source=name), root


def image_columns(features: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[str, list[str]]:
    """The column of the photographs and those of masks. Raises UserError where it is not clear which one it is."""
    from datasets import Image as ImageFeature

    found = [column for column, feature in features.items() if isinstance(feature, ImageFeature)]
    masks = [column for field, column in columns.items() if field.startswith("mask_") and column in found]
    rest = [column for column in found if column not in masks]
    image = columns.get("image") or ("image" if "image" in rest else rest[0] if len(rest) == 1 else None)
    if image not in found:
        raise UserError(
            f"huggingface: {len(rest)} columns are of the type Image ({', '.join(rest) or 'none'}) among "
            f"{', '.join(features)}; name the one of the photographs with --columns image=COLUMN"
        )
    return str(image), masks


def part_rows(part: Any, split: str, images: list[str], root: Path) -> Iterator[dict[str, Any]]:
    """Rows of one split, photographs as paths below `root`, class numbers as their names."""
    from datasets import Image as ImageFeature

    kinds = part.features
    unused = [c for c, kind in kinds.items() if isinstance(kind, ImageFeature) and c not in images]
    for column in images:
        part = part.cast_column(column, ImageFeature(decode=False))
    part = part.remove_columns(unused)
    ours = SPLIT_NAMES.get(split.lower())
    for i, raw in enumerate(part):
        row = {c: label(kinds[c], value) for c, value in raw.items() if c not in images}
        for column in images:
            stem = f"{split or 'all'}/{i:07d}" + ("" if column == images[0] else f"_{column}")
            row[column] = None if raw[column] is None else write_once(raw[column], root, stem)
        yield row | ({"split": ours} if ours and "split" not in row else {})


def label(kind: Any, value: Any) -> Any:
    """A class number as its name, lists of them likewise; -1 is no class. Everything else as it is."""
    inner = getattr(kind, "feature", kind[0] if isinstance(kind, list) and kind else None)
    if isinstance(value, list) and inner is not None:
        return [label(inner, v) for v in value]
    if hasattr(kind, "int2str") and isinstance(value, int):
        return kind.int2str(value) if value >= 0 else None
    return value


def write_once(value: Mapping[str, Any], root: Path, stem: str) -> str:
    """Path below `root` of the photograph with these bytes; a file that is there with as many bytes is kept."""
    content = value.get("bytes")
    if content is None:
        try:
            content = Path(value["path"]).read_bytes()
        except (OSError, TypeError):
            raise UserError(f"huggingface: a photograph is neither in the table nor at {value.get('path')}") from None
    path = root / (stem + ending(content, stem))
    if not path.is_file() or path.stat().st_size != len(content):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    return path.relative_to(root).as_posix()


def ending(content: bytes, stem: str) -> str:
    """.jpg, .png, … by what the bytes are. Raises UserError where they are no image."""
    try:
        with Image.open(BytesIO(content)) as image:
            kind = str(image.format).lower()
    except (OSError, Image.DecompressionBombError) as error:
        raise UserError(f"huggingface: photograph {stem} is no image: {error}") from None
    return {"jpeg": ".jpg", "tiff": ".tif", "mpo": ".jpg"}.get(kind, f".{kind}")
