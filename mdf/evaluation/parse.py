"""What a generated text says: the diagnoses it names, leaving out those it denies, and the side of the eye."""

import re
from collections.abc import Sequence

from mdf.mentions import named
from mdf.prototypes import to_candidate
from mdf.vocabulary import NORMAL


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
