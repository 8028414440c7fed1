"""What a generated text says: the diagnoses it names, leaving out those it denies, and the side of the eye."""

import re
from collections.abc import Sequence

from mdf.vocabulary import NORMAL, ancestors, canonical, known

LONGEST = 8  # words of the longest name looked for
REACH = 6  # words back, within the clause, in which a denial counts
DENIALS = {
    "no",
    "not",
    "without",
    "absence",
    "absent",
    "exclude",
    "excluded",
    "excludes",
    "denies",
    "nor",
    "neither",
    "never",
}
AMBIGUOUS = {
    "other",
    "others",
    "ex",
    "unknown",
    "miscellaneous",
    "pic",
    "pm",
}  # names in a table, but common words in a sentence
CLAUSE_END = re.compile(r"[.;:!?\n]|\b(?:but|however|although|though)\b", re.IGNORECASE)
WORD = re.compile(r"[^\W_]+")


def to_candidate(name: str, diagnoses: Sequence[str]) -> str | None:
    """The nearest of `name` and its ancestors that is a candidate diagnosis, or None."""
    return next((n for n in (name, *ancestors(name)) if n in diagnoses), None)


def named(text: str) -> list[tuple[str, bool]]:
    """Every vocabulary name in the text, in order, with whether it is denied ("no drusen")."""
    found = []
    for clause in CLAUSE_END.split(text):
        words = [w.lower() for w in WORD.findall(clause)]
        i = 0
        while i < len(words):
            for length in range(min(LONGEST, len(words) - i), 0, -1):
                phrase = " ".join(words[i : i + length])
                if phrase not in AMBIGUOUS and known(phrase):
                    denied = any(w in DENIALS for w in words[max(0, i - REACH) : i])
                    found.append((canonical(phrase), denied))
                    break
            else:
                length = 1
            i += length
    return found


def parse_diagnoses(text: str, diagnoses: Sequence[str]) -> tuple[str, ...]:
    """The candidate diagnoses that the text affirms, in order. A name below a candidate counts as it (mild NPDR as
    diabetic retinopathy). `normal` counts only where nothing else is affirmed, since "normal disc" is no diagnosis.
    """
    affirmed = []
    for name, denied in named(text):
        candidate = to_candidate(name, diagnoses)
        if candidate is not None and not denied and candidate not in affirmed:
            affirmed.append(candidate)
    others = tuple(n for n in affirmed if n != NORMAL)
    return others or tuple(affirmed)


def parse_eye(text: str) -> str | None:
    """left or right where the text speaks of one eye only, else None."""
    sides = {m.group(1).lower() for m in re.finditer(r"\b(left|right)\s+(?:eye|fundus|retina)\b", text, re.IGNORECASE)}
    sides |= {{"OD": "right", "OS": "left"}[m.group()] for m in re.finditer(r"\bO[DS]\b", text)}
    return sides.pop() if len(sides) == 1 else None
