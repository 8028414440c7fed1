"""The photographs to work on: of a folder, a manifest or a list of paths; and which of them go into one report.

Ids and file names depend on a photograph's own path or id alone, not on which others there are, nor on the process.
"""

import hashlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mdf.datasets.common import IMAGE_ENDINGS, unique_ids
from mdf.errors import UserError
from mdf.imaging.decode import READABLE
from mdf.records import FundusRecord, Manifest, read_manifest

ENDINGS = (*IMAGE_ENDINGS, ".tif.gz", ".png.gz", ".pgm", ".pbm", ".jp2", ".j2k", ".jpe", ".dcm", ".dicom", ".mpo")
STARTS = (  # of files with another ending or none; BMP's and PPM's two letters are those of too many other files
    b"\xff\xd8\xff", b"\x89PNG\r\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF8", b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51",
)  # fmt: skip
SIGNS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
NAME = 60  # characters of a file's name that stand in that of its report
SHOWN = 5
PAIRED = " + "  # between the ids of a pair in its own


def read_photographs(
    data: str | Path, data_root: str | Path | None = None, *, whole: bool = False, leave_out: str | Path | None = None
) -> Manifest:
    """The photographs of a manifest, of a list (LIST.txt, a path a line), or all below a folder.

    Ids of the last two are paths without ending where that tells them apart, with `whole` always with it. Paths of a
    list are relative to its folder. Files below the folder `leave_out`, such as results, are none.
    """
    path = Path(data)
    if path.is_dir():
        names, root = below(path, Path(leave_out) if leave_out else None), path.resolve()
    elif path.suffix.lower() == ".txt":
        names, root = listed(path)
    else:
        return read_manifest(path, data_root=data_root)
    if data_root is not None:
        raise UserError("--data-root belongs to a manifest")
    pairs = zip(names if whole else unique_ids(names), names, strict=True)
    return Manifest(tuple(FundusRecord(id=printable(id_), image=name) for id_, name in pairs), root)


def printable(name: str) -> str:
    """A file's name as text that can be shown and written: signs that are none, or that turn others round, escaped."""
    return SIGNS.sub(lambda sign: sign[0].encode("unicode_escape", "surrogatepass").decode(), name)


def check_name(path: str | Path) -> None:
    """Raise UserError for a name that could not be written into a report or an index."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"photograph {printable(str(path))}: its name is not UTF-8. Rename it.") from None


def below(folder: Path, leave_out: Path | None = None) -> list[str]:
    """Relative paths of all photographs below a folder, sorted: by their endings, else by their first bytes.

    Hidden files are left out; other files, and folders that cannot be read, are counted aloud.
    """
    apart = leave_out.resolve() if leave_out is not None else None
    if apart == folder.resolve():
        raise UserError(f"--out {leave_out} is the folder of the photographs; choose another one for the results")
    names: list[str] = []
    others: list[str] = []
    closed: list[str] = []

    def cannot_read(error: OSError) -> None:
        closed.append(str(error.filename))

    for here, folders, files in os.walk(folder, onerror=cannot_read):
        folders[:] = [f for f in folders if not f.startswith(".") and (not apart or Path(here, f).resolve() != apart)]
        closed += [str(Path(here, f)) for f in folders if Path(here, f).is_symlink()]
        for file in files:
            if file.startswith("."):
                continue
            name = Path(here, file).relative_to(folder).as_posix()
            (names if file.lower().endswith(ENDINGS) or is_photograph(Path(here, file)) else others).append(name)
    if closed:
        tell(f"{len(closed)} folders below {folder} are links or may not be read, and left out ({shown(closed)})")
    if not names:
        raise UserError(f"--data: {folder} holds no photograph ({READABLE})")
    if others:
        tell(f"{len(others)} files below {folder} are no photographs ({shown(others)})")
    return sorted(names)


def is_photograph(path: Path) -> bool:
    """Whether a file begins as one of READABLE, whatever its name; what cannot be read is for the decoder to tell."""
    try:
        with path.open("rb") as stream:
            head = stream.read(132)
    except OSError:
        return False
    return head.startswith(STARTS) or head[128:] == b"DICM" or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def listed(path: Path) -> tuple[list[str], Path]:
    """Paths of a list and the folder that they are relative to: the list's own, or where some lie elsewhere the one
    that all have in common.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--data {path} cannot be read: {error}; a list has one path a line, in UTF-8") from None
    folder = Path(os.path.abspath(path.parent))
    files = [Path(os.path.abspath(folder / line.strip())) for line in lines if line.strip()]
    if not files:
        raise UserError(f"--data {path} names no photograph; a list has one path a line")
    if len(set(files)) < len(files):
        tell(f"{len(files) - len(set(files))} lines of {path} name a photograph that stands there already")
    inside = all(file.is_relative_to(folder) for file in files)
    root = folder if inside else Path(os.path.commonpath([file.parent for file in files]))
    return list(dict.fromkeys(f.relative_to(root).as_posix() for f in files)), root


@dataclass(frozen=True)
class Visit:
    """The photographs of one report: one, or the left and the right eye of a patient."""

    id: str
    records: tuple[FundusRecord, ...]

    @property
    def name(self) -> str:
        """Of its report's files, with the folder: photographs of one name in two folders have different ones."""
        digest = hashlib.sha256(self.id.encode()).hexdigest()[:12]
        stems = [re.sub(r"\W+", "-", Path(r.id).stem, flags=re.ASCII).strip("-") for r in self.records]
        words = "_".join(dict.fromkeys(stem for stem in stems if stem))[:NAME].strip("-")
        return f"{digest[:2]}/{words or 'photograph'}-{digest}"


def visits(records: Sequence[FundusRecord]) -> dict[str, Visit]:
    """By id, in the records' order: a left and a right eye of one patient and study together, any other alone.

    Of a patient with several photographs of an eye none can be chosen for a person: each has its own, said aloud.
    """
    groups: dict[tuple, list[FundusRecord]] = {}
    for record in records:
        key = (record.source, record.patient, record.study) if record.patient else (record.id,)
        groups.setdefault(key, []).append(record)
    found: list[Visit] = []
    several = 0
    for group in groups.values():
        sides = {record.eye: record for record in group}
        if len(group) == 2 and sides.keys() == {"left", "right"}:
            pair = (sides["left"], sides["right"])
            found.append(Visit(PAIRED.join(record.id for record in pair), pair))
        else:
            several += len(group) > 1
            found += [Visit(record.id, (record,)) for record in group]
    if several:
        tell(f"{several} patients have other photographs than one left and one right eye: a report of each photograph")
    return {visit.id: visit for visit in found}


def tell(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def shown(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)[:SHOWN]) + (", …" if len(names) > SHOWN else "")
