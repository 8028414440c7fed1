"""Names of diagnoses and findings: one canonical name for each, whatever a data set calls it.

The table is `mdf/data/vocabulary.yaml`; users add strings of their own with a YAML file of {string: canonical name}.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import yaml

from mdf.errors import UserError
from mdf.resources import DATA

NORMAL = "normal"
OTHER = "other"


@dataclass(frozen=True)
class Entry:
    """One diagnosis or finding."""

    name: str
    kind: str  # diagnosis | finding
    display: str
    describe: str
    parents: tuple[str, ...]
    synonyms: tuple[str, ...]


def squash(text: str) -> str:
    """`text` in lower case, with one blank for everything that is neither letter nor digit."""
    return " ".join(re.findall(r"[^\W_]+", text.lower().replace("'", "").replace("’", "")))


@cache
def entries() -> dict[str, Entry]:
    """Every entry by its canonical name."""
    raw = yaml.safe_load((DATA / "vocabulary.yaml").read_text(encoding="utf-8"))
    found = {}
    for kind, section in (("diagnosis", raw["diagnoses"]), ("finding", raw["findings"])):
        for name, e in section.items():
            parents, synonyms = tuple(e.get("parents", ())), tuple(e.get("synonyms", ()))
            found[name] = Entry(name, kind, e["display"], e["describe"], parents, synonyms)
    return found


@cache
def spellings() -> dict[str, str]:
    """Squashed spelling -> canonical name."""
    table: dict[str, str] = {}
    for entry in entries().values():
        for text in (entry.name, entry.display, *entry.synonyms):
            other = table.setdefault(squash(text), entry.name)
            assert other == entry.name, f"vocabulary.yaml: {text!r} is both {other} and {entry.name}"
    return table


def lookup(name: str, aliases: Mapping[str, str] | None = None) -> str | None:
    """The canonical name, or None where the vocabulary does not know it; `aliases` (see read_aliases) go first."""
    key = squash(name)
    return (aliases or {}).get(key) or spellings().get(key)


def canonical(name: str, aliases: Mapping[str, str] | None = None) -> str:
    """The canonical name (lower case, underscores) of a diagnosis or finding however it is written.

    Raises UserError that lists the nearest names where it is not known.
    """
    found = lookup(name, aliases)
    if found is None:
        raise UserError(f"{name!r} is neither a diagnosis nor a finding of the vocabulary" + near(name))
    return found


def nearest(name: str, n: int = 3) -> list[str]:
    """Canonical names whose spelling is like `name`, the closest first."""
    close = get_close_matches(squash(name), list(spellings()), n=3 * n, cutoff=0.55)
    return list(dict.fromkeys(spellings()[c] for c in close))[:n]


def known(name: str) -> bool:
    """Whether `canonical(name)` finds it."""
    return lookup(name) is not None


def display(name: str) -> str:
    """How it is said: "microaneurysms", "age-related macular degeneration"."""
    return entries()[canonical(name)].display


def describe(name: str) -> str:
    """What an expert looks for in the photograph, one sentence."""
    return entries()[canonical(name)].describe


def parents(name: str) -> tuple[str, ...]:
    """Broader entries that it is counted with: parents("pdr") is ("diabetic_retinopathy",)."""
    return entries()[canonical(name)].parents


def names(kind: str) -> tuple[str, ...]:
    """Canonical names of every "diagnosis" or "finding"."""
    return tuple(e.name for e in entries().values() if e.kind == kind)


def read_aliases(path: str | Path) -> dict[str, str]:
    """The user's own {string: canonical name}, keys squashed, from a YAML file.

    Raises UserError for a missing file, another shape, or values that are not in the vocabulary.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"vocabulary {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"vocabulary {path}: must hold lines such as `glaucomatous disc: glaucoma`")
    wrong = [f"  {k}: {v}{near(v)}" for k, v in raw.items() if not isinstance(v, str) or lookup(v) is None]
    if wrong:
        raise UserError(f"vocabulary {path}: right of the colon must stand a name that mdf knows:\n" + "\n".join(wrong))
    return {squash(str(k)): canonical(v) for k, v in raw.items()}


def near(name: object) -> str:
    """ "; nearest: a, b" or nothing."""
    close = nearest(str(name))
    return f"; nearest: {', '.join(close)}" if close else ""


def map_all(strings: Mapping[str, int], where: str, aliases: Mapping[str, str] | None = None) -> dict[str, str]:
    """The canonical name of each string; `strings` counts how many photographs carry it.

    Raises UserError that lists every unknown string with its nearest names and says how to map them.
    """
    unknown = [s for s in strings if lookup(s, aliases) is None]
    if unknown:
        lines = [f"  {s!r} ({strings[s]} photographs){near(s)}" for s in unknown]
        example = "\n".join(f'  "{s}": {(nearest(s) or [OTHER])[0]}' for s in unknown[:2])
        raise UserError(
            f"{where}: {len(unknown)} diagnosis strings are not in the vocabulary:\n" + "\n".join(lines) + "\n"
            "Map them in a YAML file and name it, data.vocabulary=FILE (prepare.py: --vocabulary FILE), for example\n"
            f"{example}\n"
            f"Diagnoses: {', '.join(names('diagnosis'))}"
        )
    return {s: canonical(s, aliases) for s in strings}
