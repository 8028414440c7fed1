"""FundusRecord: one photograph and all that is known of it. A manifest is a JSONL file of them.

None means not assessed; an empty tuple means assessed and none found.
Beside `M.jsonl` lies `M.meta.json` with the root that paths are relative to, the data set, the release, the seed of the
split and the SHA-256 of the manifest. Without it the manifest's own folder is the root.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from mdf.errors import UserError
from mdf.files import from_json, write_text
from mdf.vocabulary import ancestors, canonical

SPLITS = ("train", "val", "test")
SHOWN = 10  # wrong lines listed in one message


@dataclass(frozen=True)
class Finding:
    """A lesion or sign; `location` is a quadrant (superotemporal, …), macula or disc, several joined by ", "."""

    name: str
    location: str | None = None
    severity: str | None = None
    count: int | None = None


@dataclass(frozen=True)
class FundusRecord:
    """One photograph. `image` and `masks` are paths relative to the manifest's root; coordinates are its pixels."""

    id: str
    image: str
    patient: str | None = None  # None = a group of its own
    study: str | None = None
    eye: str | None = None  # left | right
    modality: str = "cfp"
    diagnosis: tuple[str, ...] | None = None  # canonical names; a normal eye is ("normal",)
    findings: tuple[Finding, ...] | None = None
    texts: dict[str, str] = field(default_factory=dict)  # kind or language -> text
    masks: dict[str, str] = field(default_factory=dict)  # name -> path
    boxes: dict[str, Any] = field(default_factory=dict)  # name -> [left, top, right, bottom] or a list of them
    points: dict[str, Any] = field(default_factory=dict)  # name -> [x, y] or a list of them
    grade: dict[str, Any] = field(default_factory=dict)  # scale -> value
    age: float | None = None  # years
    sex: str | None = None  # female | male | other
    camera: str | None = None
    source: str | None = None  # data set
    split: str | None = None  # train | val | test
    license: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # anything else, text or numbers

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a manifest: without what is not known."""
        out: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "findings" and value is not None:
                value = [{k: v for k, v in vars(finding).items() if v is not None} for finding in value]
            elif isinstance(value, tuple):
                value = list(value)
            if value is not None and value != {}:
                out[f.name] = value
        return out

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], aliases: Mapping[str, str] | None = None) -> "FundusRecord":
        """A record from a manifest's object; diagnosis and findings become canonical names.

        Raises UserError for an unknown key (with "did you mean"), a wrong type, or a name not in the vocabulary.
        """
        return cls(**read_fields(raw, aliases))


TEXT = ("id", "image", "patient", "study", "eye", "modality", "sex", "camera", "source", "split", "license")
TABLES = ("texts", "masks", "boxes", "points", "grade", "extra")
ALLOWED = {"eye": ("left", "right"), "split": SPLITS, "sex": ("female", "male", "other")}


def read_fields(raw: Mapping[str, Any], aliases: Mapping[str, str] | None) -> dict[str, Any]:
    """Checked arguments of FundusRecord."""
    known = [f.name for f in fields(FundusRecord)]
    require_keys(raw, known)
    values = {k: v for k, v in raw.items() if v is not None}
    for key in ("id", "image"):
        if not values.get(key):
            raise UserError(f"{key} is missing")
    for key in TEXT:
        if key in values and (not isinstance(values[key], str) or not values[key]):
            raise UserError(f"{key} must be text, got {values[key]!r}")
        if key in values and key in ALLOWED and values[key] not in ALLOWED[key]:
            raise UserError(f"{key} must be one of {', '.join(ALLOWED[key])}, got {values[key]!r}")
    for key in TABLES:
        if not isinstance(values.get(key, {}), dict):
            raise UserError(f"{key} must be an object such as {{name: value}}, got {values[key]!r}")
    for key in ("texts", "masks"):
        for name, value in values.get(key, {}).items():
            if not isinstance(value, str) or (key == "masks" and not value):
                raise UserError(f"{key}.{name} must be text, got {value!r}")
    for name, value in values.get("extra", {}).items():
        if not isinstance(value, str | int | float | bool | None):
            raise UserError(f"extra.{name} must be one text or number, got {value!r}")
    age = values.get("age")
    if age is not None and (isinstance(age, bool) or not isinstance(age, int | float) or not 0 <= age <= 130):
        raise UserError(f"age must be years from 0 to 130, got {age!r}")
    if "diagnosis" in values:
        written = texts(values["diagnosis"], "diagnosis")
        values["diagnosis"] = tuple(dict.fromkeys(canonical(d, aliases) for d in written))
    if "findings" in values:
        if not isinstance(values["findings"], list | tuple):
            raise UserError(f"findings must be a list of {{name: …}}, got {values['findings']!r}")
        values["findings"] = tuple(read_finding(f, aliases) for f in values["findings"])
    return values


def read_finding(raw: Any, aliases: Mapping[str, str] | None) -> Finding:
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise UserError(f"a finding must be an object with a name, got {raw!r}")
    require_keys(raw, [f.name for f in fields(Finding)], "findings.")
    for key in ("location", "severity"):
        if not isinstance(raw.get(key), str | None):
            raise UserError(f"findings.{key} must be text, got {raw[key]!r}")
    count = raw.get("count")
    if count is not None and (type(count) is not int or count < 0):
        raise UserError(f"findings.count must be a whole number of 0 or more, got {count!r}")
    return Finding(**{**raw, "name": canonical(raw["name"], aliases)})


def require_keys(raw: Mapping[str, Any], known: list[str], prefix: str = "") -> None:
    for key in raw:
        if key not in known:
            close = get_close_matches(str(key), known, n=1)
            way_out = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(known)}"
            raise UserError(f"unknown key {prefix}{key}; {way_out}")


def texts(value: Any, key: str) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        raise UserError(f"{key} must be a list of names such as [normal], got {value!r}")
    return list(value)


@dataclass(frozen=True)
class Manifest:
    """Records and the folder that their paths are relative to."""

    records: tuple[FundusRecord, ...]
    root: Path
    meta: dict[str, Any] = field(default_factory=dict)

    def path(self, relative: str) -> Path:
        """Absolute path of an image or mask. Raises UserError for a path that leaves the root."""
        if leaves_root(relative):
            raise UserError(f"the path {relative!r} leaves the data's root {self.root}; write it relative to that")
        return Path(os.path.abspath(self.root / relative))

    def split(self, name: str) -> list[FundusRecord]:
        """Records of "train", "val" or "test"; "all" is everything."""
        if name not in (*SPLITS, "all"):
            raise UserError(f"{name!r} is no split; must be one of {', '.join(SPLITS)}, all")
        return [r for r in self.records if name in ("all", r.split)]

    @cached_property
    def sha256(self) -> str:
        """Of the manifest file that was read; of the records as they would be written where there is none."""
        return self.meta.get("sha256") or hashlib.sha256(to_jsonl(self.records).encode()).hexdigest()


def leaves_root(relative: str) -> bool:
    if PurePosixPath(relative).is_absolute() or PureWindowsPath(relative).anchor:
        return True
    return os.path.normpath(relative).split(os.sep)[0] == os.pardir


def to_jsonl(records: Iterable[FundusRecord]) -> str:
    return "".join(json.dumps(r.to_dict(), ensure_ascii=False) + "\n" for r in records)


def meta_path(manifest: Path) -> Path:
    """M.meta.json beside M.jsonl."""
    return manifest.with_name(f"{manifest.name.removesuffix('.jsonl')}.meta.json")


def read_manifest(
    path: str | Path, data_root: str | Path | None = None, aliases: Mapping[str, str] | None = None
) -> Manifest:
    """Read `M.jsonl` and, where it is there, `M.meta.json`; `data_root` goes before the root that is written there.

    Raises UserError that lists the wrong lines with their numbers.
    """
    path = Path(path)
    meta = read_meta(path)
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise UserError(f"manifest {path} is missing; prepare.py makes one from a data set") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"manifest {path} cannot be read: {error}") from None
    sha256 = hashlib.sha256(content).hexdigest()
    if meta.get("sha256", sha256) != sha256:
        print(f"note: {path.name} was changed after {meta_path(path).name} was written beside it", file=sys.stderr)
    records: list[FundusRecord] = []
    errors: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = read_line(line, aliases)
            if record.id in seen:
                raise UserError(f"id {record.id!r} stands in line {seen[record.id]} already")
        except UserError as error:
            errors.append(f"  line {number}: {error}")
            continue
        seen[record.id] = number
        records.append(record)
    if errors:
        more = [f"  … and {len(errors) - SHOWN} more"] if len(errors) > SHOWN else []
        raise UserError(f"manifest {path}: {len(errors)} lines are wrong:\n" + "\n".join(errors[:SHOWN] + more))
    if not records:
        raise UserError(f"manifest {path} holds no photograph")
    root = Path(data_root) if data_root is not None else path.parent / meta.get("root", ".")
    if not root.is_dir():
        raise UserError(
            f"manifest {path}: the folder of its photographs, {root}, is missing; name it with --data-root or data.root"
        )
    return Manifest(tuple(records), absolute(root), {**meta, "sha256": sha256})


def read_meta(manifest: Path) -> dict[str, Any]:
    path = meta_path(manifest)
    if not path.is_file():
        return {}
    try:
        meta = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; without it the manifest's own folder is the root") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("root", "."), str):
        raise UserError(f"{path} must hold an object with a text `root`; without it the manifest's folder is the root")
    split = meta.get("split")
    if split is not None and not (isinstance(split, dict) and isinstance(split.get("kind"), str)):
        raise UserError(f"{path}: split must be an object with a text `kind`, got {split!r}; take it out if in doubt")
    return meta


def read_line(line: str, aliases: Mapping[str, str] | None) -> FundusRecord:
    try:
        raw = from_json(line)
    except ValueError as error:
        raise UserError(f"no valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise UserError('must be an object such as {"id": "1", "image": "1.png"}')
    record = FundusRecord.from_dict(raw, aliases)
    for name in (record.image, *record.masks.values()):
        if leaves_root(name):
            raise UserError(f"the path {name!r} leaves the data's root; paths must be relative and stay inside")
    return record


def write_manifest(
    path: str | Path,
    records: Sequence[FundusRecord],
    *,
    root: str | Path,
    dataset: str,
    release: str | None = None,
    split_seed: int | None = None,
    split: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write `M.jsonl` and `M.meta.json`, each whole or not at all, and return what was written.

    `split` says how the split was made, see datasets/splits.py.

    The root is written relative to the manifest's folder where it lies inside, so that both can be moved together.
    """
    path, root = Path(path), absolute(root)
    if path.suffix != ".jsonl":
        raise UserError(f"a manifest's name ends in .jsonl, got {path.name}")
    text = to_jsonl(records)
    folder = absolute(path.parent)
    meta = {
        "root": root.relative_to(folder).as_posix() if root.is_relative_to(folder) else str(root),
        "dataset": dataset,
        "release": release,
        "split_seed": split_seed,
        "split": dict(split) if split else None,
        "photographs": len(records),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    write_text(path, text)
    write_text(meta_path(path), json.dumps(meta, indent=2, ensure_ascii=False) + "\n")
    return Manifest(tuple(records), root, meta)


def absolute(path: str | Path) -> Path:
    """The path from the disk's root on, without `..`; a link stays a link, so that its folder lies where it does."""
    return Path(os.path.abspath(path))


def stated(record: FundusRecord) -> dict[str, Finding]:
    """What a record says of each finding, by its own name and by every broader one: a superficial haemorrhage is a
    haemorrhage. {} where nothing was found or nobody looked.

    Several entries of one name are one finding: in the places of all of them, as many as all of them, neither where
    one of them does not say. Narrower entries count where the name itself does not stand in the record.
    """
    entries: dict[str, list[Finding]] = {}
    for finding in record.findings or ():
        for name in (finding.name, *ancestors(finding.name)):
            entries.setdefault(name, []).append(finding)
    return {name: joined(name, [f for f in some if f.name == name] or some) for name, some in entries.items()}


def joined(name: str, some: Sequence[Finding]) -> Finding:
    """Entries of one finding as one."""
    if len(some) == 1:
        return replace(some[0], name=name)
    places, counts = [f.location for f in some], [f.count for f in some]
    severities = {f.severity for f in some}
    return Finding(
        name,
        ", ".join(dict.fromkeys(p for place in places for p in (place or "").split(", "))) if all(places) else None,
        severities.pop() if len(severities) == 1 else None,
        None if None in counts else sum(c for c in counts if c is not None),
    )


def group_of(record: FundusRecord) -> tuple[str, str, str]:
    """What may not be torn apart by a split: the patient, or the photograph itself where none is known."""
    source = record.source or ""
    return (source, "patient", record.patient) if record.patient else (source, "photograph", record.id)
