"""The words of `mdf/data/facts.yaml` and the names of the vocabulary, as phrases to be looked for in folded texts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mdf.errors import UserError
from mdf.resources import DATA
from mdf.vocabulary import entries, fold, read_yaml, scales, spellings

FACTS = DATA / "facts.yaml"
LESION = "lesion"  # a name that the vocabulary lacks: any lesion at all
STATUSES = ("denied", "uncertain", "aside")
SIDES = ("before", "after", "near")  # of what a cue speaks of
LISTS = ("void", "ends", "starts", "verbs", "degrees", "spared", "within", "lesions", "ambiguous")
TABLES = ("counts", "places", "structures", "generic", "also", "scales")


@dataclass(frozen=True)
class Name:
    """What a phrase names; `denied_only`: it says something only in a denial ("no retinopathy"), `absent`: is one."""

    name: str
    denied_only: bool = False
    absent: bool = False


@dataclass(frozen=True)
class Wording:
    """Folded phrases by what they mean."""

    names: Mapping[str, Name]
    cues: Mapping[str, Mapping[str, str]]  # phrase -> before | after | near -> denied | uncertain | aside; {} = void
    sentences: tuple[str, ...]  # beginnings of sentences that say nothing of the photograph
    ends: tuple[str, ...]  # as they are written, for a regular expression
    starts: tuple[str, ...]
    verbs: frozenset[str]
    degrees: frozenset[str]
    counts: Mapping[str, tuple[int, int | None]]
    places: Mapping[str, str]
    spared: tuple[str, ...]
    within: frozenset[str]
    structures: Mapping[str, str | None]
    lesions: tuple[str, ...]
    scales: Mapping[str, str]


@cache
def wording() -> Wording:
    """The words that come with mdf."""
    return read_wording(FACTS)


def read_wording(path: Path) -> Wording:
    """The words of a YAML file. Raises UserError that lists everything that is wrong with it."""
    raw = read_yaml(path)
    if wrong := problems(raw):
        raise UserError(f"{path} cannot be used:\n" + "\n".join(f"  {line}" for line in wrong))
    cues: dict[str, dict[str, str]] = {phrase: {} for phrase in folded(raw["void"])}
    for status in STATUSES:
        for side in SIDES:
            for phrase in folded(raw[status].get(side, ())):
                cues.setdefault(phrase, {})[side] = status
    return Wording(
        names=name_table(raw),
        cues=cues,
        sentences=folded(raw["aside"]["sentence"]),
        ends=tuple(raw["ends"]),
        starts=folded(raw["starts"]),
        verbs=frozenset(folded(raw["verbs"])),
        degrees=frozenset(folded(raw["degrees"])),
        counts={fold(word): (low, high) for word, (low, high) in raw["counts"].items()},
        places=inverted(raw["places"]),
        spared=folded(raw["spared"]),
        within=frozenset(folded(raw["within"])),
        structures=inverted(raw["structures"]),
        lesions=tuple(raw["lesions"]),
        scales=inverted(raw["scales"]),
    )


def name_table(raw: Mapping[str, Any]) -> dict[str, Name]:
    """Folded phrase -> what it names. Names that begin with a denial ("no glaucoma") are left to the cue that they
    begin with. A judgement of the photograph's quality counts only in two words or more.
    """
    known, ambiguous = entries(), set(folded(raw["ambiguous"]))
    table: dict[str, Name] = {fold(p): Name(name, True) for name, ps in raw["generic"].items() for p in ps}
    for spelling, name in spellings().items():
        phrase, entry = " ".join(spelling.split()), known[name]
        if phrase in ambiguous or (entry.kind == "quality" and " " not in phrase):
            continue
        if entry.kind != "absence":
            table[phrase] = Name(name)
            continue
        assert entry.denies is not None
        first, _, rest = phrase.partition(" ")
        if first in ("no", "non", "without", "not"):
            if rest and rest not in spellings():
                table[rest] = Name(entry.denies, denied_only=True)
        else:
            table[phrase] = Name(entry.denies, absent=True)
    return table | {fold(phrase): Name(name) for name, phrases in raw["also"].items() for phrase in phrases}


def problems(raw: Mapping[str, Any]) -> list[str]:
    """What is wrong with facts.yaml, a line each: a clinician edits it."""
    wrong = [f"the section `{key}:` is missing" for key in (*STATUSES, *LISTS, *TABLES) if key not in raw]
    if wrong:
        return wrong
    for status in STATUSES:
        for side in ("before", "after"):
            if not isinstance(raw[status], dict) or not words(raw[status].get(side)):
                wrong.append(f"{status}.{side}: must be a list of words")
    wrong += [f"{key}: must be a list of words" for key in LISTS if not words(raw[key])]
    wrong += [f"{key}: must hold lines `name: [words]`" for key in TABLES if not isinstance(raw[key], dict)]
    if wrong:
        return wrong
    wrong += [f"{key}.{n}: must be a list of words" for key in TABLES[1:] for n, v in raw[key].items() if not words(v)]
    wrong += [f"counts.{word}: must be [fewest, most]" for word, v in raw["counts"].items() if not is_range(v)]
    named = (*raw["lesions"], *raw["structures"], *raw["also"])
    wrong += [f"{n}: no entry of the vocabulary" for n in named if n and n not in entries()]
    return wrong + [f"scales.{name}: no grading scale" for name in raw["scales"] if name not in scales()]


def words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and type(value[0]) is int and type(value[1]) in (int, type(None))


def folded(phrases: Iterable[str]) -> tuple[str, ...]:
    return tuple(fold(p) for p in phrases)


def inverted(table: Mapping[Any, Sequence[str]]) -> dict[str, Any]:
    """Folded phrase -> the name that it stands under."""
    return {fold(phrase): name for name, phrases in table.items() for phrase in phrases}
