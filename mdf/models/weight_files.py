"""Files of weights as others publish them: .pth, .pt, .bin, .safetensors, those in a .zip, and sharded ones.

Nothing in a file is ever run: pickles are read with weights_only=True, and beside tensors and plain values only classes
that do no more than hold values (DATA) are made. A file that is no file of weights is told for what it is.
"""

import argparse
import json
import pathlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdf.errors import UserError

DATA: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
]  # settings that training scripts save alongside
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
INDEX = ".index.json"  # of a sharded checkpoint
LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Content:
    """What a file of weights holds."""

    path: Path
    entries: Mapping[str, Any]  # tensors, and dictionaries of them, by name; other values as they are
    metadata: Mapping[str, str] = field(default_factory=dict)  # of a .safetensors

    def inside(self, wrapper: str) -> dict[str, Tensor] | None:
        """The tensors below the entry `wrapper` ("" = the file itself), or None where it is no dictionary of tensors.

        Beside tensors there may be single numbers and texts, which are left out.
        """
        found: Any = self.entries
        for name in wrapper.split(".") if wrapper else ():
            found = found.get(name) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping) or any(isinstance(v, Mapping | list | tuple) for v in found.values()):
            return None
        return {str(k): v for k, v in found.items() if isinstance(v, Tensor)} or None

    def wrappers(self) -> list[str]:
        """The entries that hold tensors, "" for the file itself."""
        return [w for w in ("", *map(str, self.entries)) if self.inside(w)]

    def __str__(self) -> str:
        """The entries of the file in words."""
        if self.inside("") is not None:
            return f"{len(self.inside('') or {})} tensors and nothing around them"
        return "the entries " + ", ".join(
            f"{name} ({len(tensors)} tensors)" if (tensors := self.inside(str(name))) else str(name)
            for name in self.entries
        )


def read(path: str | Path) -> Content:
    """The content of a file, of the one file in a .zip or folder, or of the shards that an index lists.

    Large files are mapped into memory, not read. Raises UserError for what is no file of weights, is damaged, or holds
    more than data.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return read(one_of(path))
    if path.name.endswith(INDEX):
        return read_shards(path)
    refuse_others(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if zipfile.is_zipfile(path) and not is_torch(path):
        return read_zip(path)
    content = unpickle(path)
    if not isinstance(content, Mapping):
        raise UserError(
            f"weights {path}: expected a state dict of tensors, found {type(content).__name__}. Save the model's "
            "state_dict() alone"
        )
    return Content(path, content)


def refuse_others(path: Path) -> None:
    """Raise UserError where the first bytes are those of something else than weights."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UserError(f"weights {path}: cannot be read ({error.strerror})") from None
    text = start.lstrip().lower()
    if not start:
        raise UserError(f"weights {path}: the file is empty. Fetch it again.")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise UserError(
            f"weights {path}: this is a web page, not weights; the server answered the download with a page (a login, "
            "a warning or an error). Open it in a browser, then fetch the file itself."
        )
    if start.startswith(LFS):
        size = re.search(rb"size (\d+)", start)
        megabytes = f", a file of {int(size[1]) / 1e6:.0f} MB," if size else ""
        raise UserError(
            f"weights {path}: this is a Git LFS pointer{megabytes} not the weights; fetch them with `git lfs pull`"
        )
    if text.startswith((b'{"error', b'{"message')):
        raise UserError(f"weights {path}: this is a server's error message, not weights. Fetch the file again.")
    if start.startswith(b"\x1f\x8b"):
        raise UserError(f"weights {path}: this is a gzip archive; unpack it and name the file inside")


def read_safetensors(path: Path) -> Content:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            return Content(path, tensors, dict(file.metadata() or {}))
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights {path}: the file cannot be read ({first(error)}). Fetch it again.") from error


def metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a .safetensors file; {} for every other file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path).expanduser()
    if path.suffix != ".safetensors" or not path.is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def is_torch(path: Path) -> bool:
    """Whether a zip archive is one that torch.save (or TorchScript) wrote."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(("data.pkl", "constants.pkl")) for name in archive.namelist())


def is_program(path: Path) -> bool:
    """Whether a zip archive that torch wrote holds a TorchScript program."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def unpickle(path: Any, name: Path | None = None) -> Any:
    """What torch.save wrote to `path`, a file or a stream, as data."""
    shown = name or path
    mapped = isinstance(path, Path) and zipfile.is_zipfile(path)
    if mapped and is_program(path):
        raise UserError(
            f"weights {shown}: refused, the file is a TorchScript program, which holds code. Save the tensors "
            "alone (torch.save(model.state_dict(), ...)) or as .safetensors."
        )
    try:
        with torch.serialization.safe_globals(DATA):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found:
            raise UserError(
                f"weights {shown}: refused, the file holds Python objects ({found[1]}) that could run code. Save the "
                "tensors alone where it comes from (torch.save(model.state_dict(), ...)) or as .safetensors."
            ) from error
        raise UserError(
            f"weights {shown}: refused, the file is damaged or holds Python objects that could run code. "
            "Fetch it again, or save the tensors alone (torch.save(model.state_dict(), ...)) or as .safetensors."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, AssertionError) as error:
        raise UserError(f"weights {shown}: the file cannot be read ({first(error)}). Fetch it again.") from error


def read_zip(path: Path) -> Content:
    """The one file of weights in a .zip that somebody packed."""
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.endswith(SUFFIXES) and not n.startswith("__MACOSX/")]
        if len(names) != 1:
            raise UserError(
                f"weights {path}: the archive holds {len(names)} files of weights"
                f"{' (' + ', '.join(names[:6]) + ')' if names else ''}; unpack it and name one"
            )
        inner = path / names[0]
        try:
            with archive.open(names[0]) as file:
                if inner.suffix == ".safetensors":
                    from safetensors.torch import load

                    return Content(inner, load(file.read()))
                content = unpickle(file, inner)
        except (zipfile.BadZipFile, EOFError) as error:
            raise UserError(f"weights {inner}: the file cannot be read ({first(error)}). Fetch it again.") from error
    if not isinstance(content, Mapping):
        raise UserError(f"weights {inner}: expected a dictionary of tensors, found {type(content).__name__}")
    return Content(inner, content)


def one_of(folder: Path) -> Path:
    """The file of weights in a folder, or its index."""
    indices = sorted(folder.glob(f"*{INDEX}"))
    found = indices or sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES)
    safe = [p for p in found if ".safetensors" in p.name]  # where both are there, the one that cannot hold code
    if len(found) == 1 or len(safe) == 1:
        return (safe or found)[0]
    names = ", ".join(p.name for p in found[:6])
    listed = f"{len(found)} files of weights ({names})" if found else "no file of weights"
    raise UserError(f"weights {folder}: the folder holds {listed}; name one file")


def read_shards(index: Path) -> Content:
    """The tensors of all shards of an index. Raises UserError where a shard, or a tensor of one, is missing."""
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(listed.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"weights {index}: the index cannot be read ({first(error)}). Fetch it again.") from error
    missing = [name for name in shards if not (index.parent / name).is_file()]
    if missing:
        raise UserError(
            f"weights {index}: {len(missing)} of {len(shards)} shards {'is' if len(missing) == 1 else 'are'} missing "
            f"({', '.join(missing[:4])}); put them beside the index"
        )
    tensors: dict[str, Any] = {}
    for name in shards:
        tensors |= read(index.parent / name).entries
    if lacking := sorted(set(listed) - set(tensors)):
        raise UserError(
            f"weights {index}: the shards lack {len(lacking)} tensors that the index lists ({', '.join(lacking[:4])}); "
            "fetch them again"
        )
    return Content(index, tensors)


def load(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file that holds one model: its state_dict, or that below `state_dict` or `model`."""
    content = read(path)
    for wrapper in ("state_dict", "model", ""):
        if (tensors := content.inside(wrapper)) is not None:
            return tensors
    raise UserError(f"weights {path}: expected a state dict of tensors, found {content}.")


def first(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
