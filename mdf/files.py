"""Files that are whole or not there."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from mdf.errors import UserError


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def numbered(name: str) -> Iterator[str]:
    """NAME, NAME-2, NAME-3 and so on, for whoever looks for one that is not taken."""
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to `path` through a temporary file beside it, synced and renamed."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` through a temporary file beside it, synced and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft_of(path, content) as draft:
        os.replace(draft, path)


@contextmanager
def draft_of(path: Path, content: bytes) -> Iterator[str]:
    """Name of a synced temporary file beside `path` that holds `content`; gone afterwards unless it was renamed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp makes files that only their owner can read
        yield name
    finally:
        Path(name).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, with null for numbers that JSON cannot hold."""
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The same with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(text: str) -> Any:
    """The value that is written there. Raises ValueError where it is none, too deep, or not to be written again."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("lists or objects stand in one another too deep") from None
    if "\\u" in text:  # half of a character can be read, but no file can hold it
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that holds one a line. Raises OSError and ValueError where it cannot be read.

    A newline alone ends a line: `str.splitlines` cuts at U+2028 and U+0085 as well, which JSON leaves in a text.
    """
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    if not all(isinstance(one, dict) for one in found):
        raise ValueError("a line is no JSON object")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file of a checkpoint holds. Raises UserError where it is not there or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); take the checkpoint again from its run") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); take the checkpoint again from its run") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged (no JSON object); take the checkpoint again from its run")
    return values
