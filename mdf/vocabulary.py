"""Names of diagnoses and findings: one canonical name for each, whatever a data set calls it.

The tables are `mdf/data/vocabulary.yaml` (diagnoses), `findings.yaml` and `grades.yaml`; users add strings of their own
with a YAML file of {string: canonical name}.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from mdf.errors import UserError
from mdf.resources import DATA

NORMAL = "normal"
OTHER = "other"
TABLES = (DATA / "vocabulary.yaml", DATA / "findings.yaml")
GRADES = DATA / "grades.yaml"
# section of a table -> kind: a disease, a sign, what is said not to be there, what the photograph is worth
KINDS = {"diagnoses": "diagnosis", "findings": "finding", "absences": "absence", "quality": "quality"}
SHOWN = 40  # unknown strings listed in one message
KEYS = ("display", "describe", "phrases", "parents", "synonyms", "denies")
# One spelling of the words that are written in several ways: British and American English, one word or two.
FOLDS = tuple(
    (re.compile(pattern), to)
    for pattern, to in (
        (r"oedema", "edema"),
        (r"haem", "hem"),
        (r"isch?aem", "ischem"),
        (r"ana?em", "anem"),
        (r"leukaem", "leukem"),
        (r"naev", "nev"),
        (r"tumour", "tumor"),
        (r"colour", "color"),
        (r"fibre", "fiber"),
        (r"centre", "center"),
        (r"grey", "gray"),
        (r"artefact", "artifact"),
        (r"foetal", "fetal"),
        (r"isation", "ization"),
        (r"\bdisk", "disc"),
        (r"\bnon(?=[a-z]{4})", "non "),
        (r"(?<=[a-z]{2}[^sui])s\b", ""),  # the plural, not the end of "fundus" or "sclerosis"
    )
)
FastLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast, but not everywhere
BRACKET = re.compile(r"\(([^()]*)\)")
DENIED = re.compile(r"[?？]|[-−–—]\s*[)\]）］]?\s*$")  # glaucoma?, DR-, DR (-)
TAKEN_BACK = re.compile(
    r"\b(no|not|none|nil|without|absent|neg(ative)?|excluded|ruled out|suspect(ed)?|possible|probable|doubtful|treated|"
    r"resolved|history)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Entry:
    """One diagnosis, finding, absence or judgement of the photograph's quality."""

    name: str
    kind: str  # diagnosis | finding | absence | quality
    display: str
    describe: str
    parents: tuple[str, ...]
    synonyms: tuple[str, ...]
    denies: str | None = None  # of an absence: what is not there
    phrases: tuple[str, ...] = ()  # single facts of the description


@dataclass(frozen=True)
class Scale:
    """What the values of a grading scale, or the codes of a release, mean."""

    name: str
    about: str
    values: Mapping[str, str]  # value as `written` gives it -> canonical name


def squash(text: str) -> str:
    """`text` in lower case, with one blank for everything that is neither letter nor digit."""
    return " ".join(re.findall(r"[^\W_]+", text.lower().replace("'", "").replace("’", "")))


@lru_cache(maxsize=1 << 16)  # texts are searched phrase by phrase
def fold(text: str) -> str:
    """`text` squashed, in the singular and one spelling: fold("Retinal Haemorrhages") == fold("retinal hemorrhage")."""
    folded = squash(text)
    for pattern, to in FOLDS:
        folded = pattern.sub(to, folded)
    return folded


@cache
def entries() -> dict[str, Entry]:
    """Every entry by its canonical name."""
    return read_tables(TABLES)


@cache
def spellings() -> dict[str, str]:
    """Folded spelling -> canonical name."""
    return {fold(text): e.name for e in entries().values() for text in (e.name, e.display, *e.synonyms)}


@cache
def scales() -> dict[str, Scale]:
    """Every grading scale and code list by its name."""
    return read_scales(GRADES, entries())


def lookup(name: str, aliases: Mapping[str, str] | None = None) -> str | None:
    """The canonical name, or None where the vocabulary does not know it; `aliases` (see read_aliases) go first.

    An abbreviation or explanation in brackets may stand beside the name ("macular telangiectasia (mactel)"), but no
    other name of the vocabulary and nothing that takes it back. "DR-", "glaucoma?" and "glaucoma (ruled out)" are no
    names: what they mean is for `aliases` to say.
    """
    found = (aliases or {}).get(alias_key(name))
    if found is not None or DENIED.search(name):
        return found
    found, bracket = spellings().get(fold(name)), BRACKET.search(name)
    if found is None and bracket:
        outside, inside = lookup(BRACKET.sub(" ", name, count=1), aliases), lookup(bracket[1], aliases)
        taken_back = inside is None and TAKEN_BACK.search(bracket[1])
        found = outside if inside in (None, outside) and not taken_back else None
    return found


def alias_key(text: str) -> str:
    """`text` squashed; what denies or doubts it makes another string: "DR-" is not "DR"."""
    return squash(text) + ("?" if "?" in text or "？" in text else "-" if DENIED.search(text) else "")


def canonical(name: str, aliases: Mapping[str, str] | None = None) -> str:
    """The canonical name (lower case, underscores) of a diagnosis or finding however it is written.

    Raises UserError that lists the nearest names where it is not known.
    """
    found = lookup(name, aliases)
    if found is None:
        raise UserError(f"{name!r} is neither a diagnosis nor a finding of the vocabulary" + near(name))
    return found


def from_grade(scale: str, value: object) -> str:
    """The canonical name that a value of a grading scale, or a code of a release, means.

    from_grade("icdr", 2) is "moderate_npdr"; 2, 2.0, "2" and "grade 2" are the same, as are "R1" and "r1".
    Raises UserError for an unknown scale or value, with those that there are.
    """
    if scale not in scales():
        close = get_close_matches(scale, list(scales()), n=1)
        way_out = f"did you mean {close[0]}?" if close else f"known: {', '.join(scales())}"
        raise UserError(f"{scale!r} is no grading scale; {way_out}")
    values = scales()[scale].values
    found = values.get(written(value))
    if found is None:
        raise UserError(f"{value!r} is no value of {scale} ({scales()[scale].about}); it has {', '.join(values)}")
    return found


def written(value: object) -> str:
    """A value of a table as it stands in `Scale.values`: written(2.0) == written("Grade 2") == "2"."""
    text = squash(str(int(value) if isinstance(value, float) and value.is_integer() else value))
    text = re.sub(r"^(?:grade|level|stage) (?=\w+$)", "", text)
    return text.removesuffix(" 0") if re.fullmatch(r"\d 0", text) else text


def nearest(name: str, n: int = 3) -> list[str]:
    """Canonical names whose spelling is like `name`, the closest first; none of a name that is denied or doubted."""
    if DENIED.search(name) or any(TAKEN_BACK.search(inside) for inside in BRACKET.findall(name)):
        return []
    close = get_close_matches(fold(name), list(spellings()), n=3 * n, cutoff=0.55)
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


def phrases(name: str) -> tuple[str, ...]:
    """What an expert looks for, fact by fact; () where the description is one fact."""
    return entries()[canonical(name)].phrases


def parents(name: str) -> tuple[str, ...]:
    """Broader entries that it is counted with, one step up: parents("pdr") is ("diabetic_retinopathy",)."""
    return entries()[canonical(name)].parents


def ancestors(name: str) -> tuple[str, ...]:
    """Everything that it is a kind of, the nearest first: ancestors("moderate_npdr") begins with "npdr"."""
    found: dict[str, None] = {}
    queue = list(parents(name))
    while queue:
        found |= dict.fromkeys(queue)
        queue = [p for n in queue for p in parents(n) if p not in found]
    return tuple(found)


def is_a(name: str, broader: str) -> bool:
    """Whether `name` is `broader` or a kind of it: is_a("moderate_npdr", "diabetic_retinopathy")."""
    return canonical(broader) in (canonical(name), *ancestors(name))


def kind(name: str) -> str:
    """ "diagnosis", "finding", "absence" (no glaucoma) or "quality" (dust on the lens): only the first is a disease."""
    return entries()[canonical(name)].kind


def names(kind: str) -> tuple[str, ...]:
    """Canonical names of every "diagnosis", "finding", "absence" or "quality"."""
    return tuple(e.name for e in entries().values() if e.kind == kind)


def read_aliases(path: str | Path) -> dict[str, str]:
    """The user's own {string: canonical name}, keys as `alias_key` gives them, from a YAML file.

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
    return {alias_key(str(k)): canonical(v) for k, v in raw.items()}


def near(name: object) -> str:
    """ "; nearest: a, b" or nothing."""
    close = nearest(str(name))
    return f"; nearest: {', '.join(close)}" if close else ""


def map_all(strings: Mapping[str, int], where: str, aliases: Mapping[str, str] | None = None) -> dict[str, str]:
    """The canonical name of each string; `strings` counts how many photographs carry it. Says aloud how many it knows.

    Raises UserError that lists the unknown strings, the most frequent first, with their nearest names and a way out.
    """
    unknown = [s for s in strings if lookup(s, aliases) is None]
    print(share_known(strings, unknown, where))
    if unknown:
        unknown.sort(key=lambda s: -strings[s])
        lines = [f"  {s!r} ({strings[s]} photographs){near(s)}" for s in unknown[:SHOWN]]
        if len(unknown) > SHOWN:
            lines.append(f"  … and {len(unknown) - SHOWN} rarer ones")
        example = "\n".join(f'  "{s}": {(nearest(s) or [OTHER])[0]}' for s in unknown[:2])
        raise UserError(
            f"{where}: {len(unknown)} diagnosis strings are not in the vocabulary:\n" + "\n".join(lines) + "\n"
            "Map them in a YAML file and name it, data.vocabulary=FILE (prepare.py: --vocabulary FILE), for example\n"
            f"{example}\n"
            f"Diagnoses: {', '.join(names('diagnosis'))}"
        )
    return {s: canonical(s, aliases) for s in strings}


def share_known(strings: Mapping[str, int], unknown: Iterable[str], where: str) -> str:
    """ "labels.csv: 2 of 3 strings known (66.7 %), on 12 of 13 labels"."""
    left = list(unknown)
    known_strings, labels = len(strings) - len(left), sum(strings.values())
    return (
        f"{where}: {known_strings:,} of {len(strings):,} strings known "
        f"({100 * known_strings / max(1, len(strings)):.1f} %), "
        f"on {labels - sum(strings[s] for s in left):,} of {labels:,} labels"
    )


def read_tables(paths: Iterable[Path]) -> dict[str, Entry]:
    """The entries of YAML tables with the sections of KINDS, checked whole: a clinician edits them.

    Raises UserError that lists everything that is wrong: shape, unknown keys, missing words, a name or spelling that
    stands for two entries, parents that are not there or go round in a circle.
    """
    found: dict[str, Entry] = {}
    wrong: list[str] = []
    for path in paths:
        for section, rows in read_yaml(path).items():
            if section not in KINDS or not isinstance(rows, dict):
                wrong.append(f"{path.name}: {section}: must be one of {', '.join(KINDS)}, followed by names")
                continue
            for name, row in rows.items():
                problem = row_problem(str(name), row, KINDS[section])
                if problem or name in found:
                    wrong.append(f"{path.name}: {name}: {problem or 'stands twice'}")
                    continue
                found[name] = Entry(
                    name,
                    KINDS[section],
                    row["display"],
                    row["describe"],
                    tuple(row.get("parents", ())),
                    tuple(row.get("synonyms", ())),
                    row.get("denies"),
                    tuple(row.get("phrases", ())),
                )
    wrong += spelling_problems(found) + parent_problems(found)
    if wrong:
        raise UserError("the vocabulary cannot be used:\n" + "\n".join(f"  {w}" for w in wrong))
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file, in which no key stands twice. Raises UserError."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold `name:` lines with what belongs to the name below them")
    return raw


class UniqueKeys(FastLoader):  # type: ignore[misc, valid-type]
    """YAML that refuses a key that stands twice, of which it would keep the last silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if seen.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
        return super().construct_mapping(node, deep)


def row_problem(name: str, row: Any, kind: str) -> str | None:
    """What is wrong with the lines of one entry, or None."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        return "a name is lower case letters, digits and underscores"
    if not isinstance(row, dict):
        return "must be followed by display and describe"
    strange = [str(k) for k in row if k not in KEYS]
    if strange:
        return f"unknown key {strange[0]}; known: {', '.join(KEYS)}"
    for key in ("display", "describe", *(["denies"] if kind == "absence" else [])):
        if not isinstance(row.get(key), str) or not row[key].strip():
            return f"{key} is missing or no text"
    for key in ("parents", "synonyms", "phrases"):
        if not isinstance(row.get(key, []), list) or not all(isinstance(v, str) for v in row.get(key, [])):
            return f"{key} must be a list of words such as [glaucoma]; put quotes around no, yes, on, off and numbers"
    return "denies belongs to absences only" if kind != "absence" and "denies" in row else None


def spelling_problems(found: Mapping[str, Entry]) -> list[str]:
    """Spellings that two entries share."""
    table: dict[str, str] = {}
    wrong = []
    for entry in found.values():
        for text in (entry.name, entry.display, *entry.synonyms):
            other = table.setdefault(fold(text), entry.name)
            if other != entry.name:
                wrong.append(f"{entry.name}: {text!r} already means {other}")
    return wrong


def parent_problems(found: Mapping[str, Entry]) -> list[str]:
    """Parents and denied entries that are not there, and circles of parents."""
    wrong = []
    for entry in found.values():
        for key, names in (("parents", entry.parents), ("denies", (entry.denies,) if entry.denies else ())):
            for name in names:
                if name not in found:
                    close = get_close_matches(name, list(found), n=1)
                    wrong.append(
                        f"{entry.name}: {key}: no entry {name}" + (f"; did you mean {close[0]}?" if close else "")
                    )
        above, queue = set(), list(entry.parents)
        while queue:
            name = queue.pop()
            if name not in above and name in found:
                above.add(name)
                queue += found[name].parents
        if entry.name in above:
            wrong.append(f"{entry.name}: parents: it is above itself")
    return wrong


def read_scales(path: Path, names: Mapping[str, Entry]) -> dict[str, Scale]:
    """The scales of a YAML file {scale: {about, values: {value: canonical name}}}.

    Raises UserError that lists everything that is wrong.
    """
    found, wrong = {}, []
    for scale, row in read_yaml(path).items():
        if not isinstance(row, dict) or set(row) != {"about", "values"} or not isinstance(row["values"], dict):
            wrong.append(f"{scale}: must be followed by about and values")
            continue
        values: dict[str, str] = {}
        for value, name in row["values"].items():
            if name not in names:
                wrong.append(f"{scale}: {value}: no entry {name}")
            elif written(value) in values:
                wrong.append(f"{scale}: {value} stands twice")
            values[written(value)] = name
        found[scale] = Scale(scale, str(row["about"]), values)
    if wrong:
        raise UserError(f"{path} cannot be used:\n" + "\n".join(f"  {w}" for w in wrong))
    return found
