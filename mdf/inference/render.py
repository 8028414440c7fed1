"""A report in the forms that people and machines read: Markdown, HTML, PDF, JSON, FHIR, all made of the one structure.

Everything is made before anything is written, and each file is whole or not there.
"""

import io
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mdf.errors import UserError
from mdf.files import numbered, sha256, write_bytes
from mdf.inference.report import Report, read_report

if TYPE_CHECKING:
    from mdf.inference.pictures import Pictures

FORMATS = {"md": ".md", "html": ".html", "pdf": ".pdf", "json": ".json", "fhir": ".fhir.json"}


def write(
    report: Report,
    pictures: Sequence["Pictures"],
    out: str | Path,
    formats: Sequence[str],
    name: str,
    *,
    form: Path | None = None,
    known: Collection[str] = (),
) -> list[Path]:
    """Write OUT/NAME.md, .html, .pdf, .json, .fhir.json and return their paths in the order of `formats`.

    Args:
        pictures: of each eye, in the order of `report.eyes`; an empty list leaves photographs and overlays out.
        form: of the Markdown; None takes the one that comes with mdf.
        known: what the user knows and no photograph shows, for the codes in FHIR; see `codes.facts`.

    Raises UserError for an unknown format, a name that is no file name, and where one of the forms cannot be made;
    nothing is written then.
    """
    wanted = check_formats(formats)
    if name != Path(name).name or name in ("", ".", "..") or "\0" in name:
        raise UserError(f"{name!r} is no name for a file; give one without a folder")
    if pictures and len(pictures) != len(report.eyes):
        raise UserError(f"a report of {len(report.eyes)} eyes needs pictures of each, got {len(pictures)}")
    out = Path(out)
    files: dict[Path, bytes] = {}
    for kind in wanted:
        files |= {out / file: content for file, content in made(kind, report, pictures, name, form, known).items()}
    out.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        write_bytes(path, content)
    return [out / f"{name}{FORMATS[kind]}" for kind in wanted]


def check_formats(formats: Sequence[str]) -> list[str]:
    """The formats without repetition. Raises UserError for an unknown one."""
    if unknown := [kind for kind in formats if kind not in FORMATS]:
        raise UserError(f"{unknown[0]!r} is no format of a report; must be of {', '.join(FORMATS)}")
    if not formats:
        raise UserError(f"name at least one format of {', '.join(FORMATS)}")
    return list(dict.fromkeys(formats))


def check_out(out: str | Path) -> None:
    """Raise UserError where nothing can be written into the folder for results, which need not be there yet: it is
    asked before a model is loaded and works for nothing.
    """
    out = Path(out)
    place = next(p for p in (out, *out.absolute().parents) if os.path.lexists(p))
    if not place.is_dir():
        raise UserError(f"--out {out}: {place} is no folder; name another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"--out {out}: {place} may not be written into; name another folder")


def own_name(out: str | Path, images: Sequence[str | Path], used: set[str]) -> str:
    """The name of the files of a report on `images`: theirs, with a number where it is that of other photographs, in
    this command (`used`, to which it is added) or in the folder `out`. A draft of the same ones is written anew.

    Raises UserError where that was reviewed: a signed review rests on its draft.
    """
    out, whole = Path(out), "_".join(dict.fromkeys(Path(image).stem for image in images))
    for name in numbered(whole):
        if name not in used and drafts(out, name, images):
            break
    used.add(name)
    return name


def drafts(out: Path, name: str, images: Sequence[str | Path]) -> bool:
    """Whether the files OUT/NAME.* are drafts on `images`, or not there. Raises UserError where one was reviewed."""
    from mdf.inference.review import reviews_of

    path = out / f"{name}.json"
    reviews = reviews_of(path)
    if not reviews and not any((out / f"{name}{ending}").exists() for ending in FORMATS.values()):
        return True
    try:
        report = read_report(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError, UserError):  # without its JSON nobody can tell whose it is
        return False
    known = sorted(eye.photograph.sha256 for eye in report.eyes)
    if report.reviews or known != sorted(sha256(Path(image)) for image in images):
        return False
    if reviews:
        raise UserError(f"{path} has been reviewed ({reviews[-1].name}) and stays as it is; choose another --out")
    return True


def made(
    kind: str,
    report: Report,
    pictures: Sequence["Pictures"],
    name: str,
    form: Path | None,
    known: Collection[str],
) -> dict[str, bytes]:
    """File names and contents of one form."""
    file = f"{name}{FORMATS[kind]}"
    if kind == "json":
        return {file: report.to_json().encode()}
    if kind == "html":
        from mdf.inference.html import page

        return {file: page(report, pictures, name).encode()}
    if kind == "pdf":
        from mdf.inference.pdf import pages

        return {file: pages(report, pictures)}
    if kind == "fhir":
        from mdf.inference.fhir import fhir_json

        return {file: fhir_json(report, known=known).encode()}
    from mdf.inference.markdown import filled, picture_names

    layers = [list(shown.layers) for shown in pictures] or None
    files = {file: filled(report, name, pictured=bool(pictures), layers=layers, form=form).encode()}
    for shown, own in zip(pictures, picture_names(report, name), strict=False):
        files[own.photograph] = encoded(Image.fromarray(shown.photograph), "jpeg", quality=95)
        if shown.layers:
            files[own.overlay] = encoded(shown.overlay(), "png")
    return files


def encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    """The file of a picture, without the metadata of the file that it came from."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
