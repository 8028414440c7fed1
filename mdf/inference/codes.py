"""Codes of the clinical systems, from one table: `mdf/data/codes.csv`. A code is data that a person confirmed, never
text that a model wrote.

Columns: concept (a name of the vocabulary, or one of FORM), system (of SYSTEMS), code, display, laterality (where the
code carries one), needs (what the user must say before the code may be given, such as the type of diabetes, which no
photograph shows), status and source (where code and name were read). Only `confirmed` rows are given, and `conditional`
ones where all that they need is known; `recalled` (from memory, or a number without its name) and `left-out` (says more
than a photograph shows) stand in the table so that nobody adds them again without looking.

LOINC: © Regenstrief Institute, free under loinc.org/license. SNOMED CT: © SNOMED International; its use needs a licence
outside the member countries.
"""

import csv
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from mdf.errors import UserError
from mdf.resources import DATA
from mdf.vocabulary import entries

TABLE = DATA / "codes.csv"
SYSTEMS = {
    "ICD-10-CM": "http://hl7.org/fhir/sid/icd-10-cm",
    "ICD-10": "http://hl7.org/fhir/sid/icd-10",
    "SNOMED CT": "http://snomed.info/sct",
    "LOINC": "http://loinc.org",
}
STATUSES = ("confirmed", "conditional", "recalled", "left-out")
# laterality -> words that a name may have; a name with the word of another side is a wrong row
SIDES = {"right": ("right",), "left": ("left",), "both": ("both", "bilateral", "right and left"), "unspecified": ()}
# concepts that are no diagnosis and no finding: what is asked, the levels of a scale, places and ways of looking
FORM = {
    "fundus_photography", "ophthalmology", "eye", "side", "retina", "fovea", "optic_disc", "choroid", "dr_severity",
    "icdr_0", "icdr_1", "icdr_2", "icdr_3", "icdr_4", "cup_disc_ratio", "macular_oedema_presence",
    "optic_nerve_findings", "chorioretina_findings", "retina_findings",
}  # fmt: skip
# For software that is cleared to read photographs on its own, which mdf is not: question and answers.
AUTONOMOUS = {"105914-6", "LA34398-0", "LA34399-8", "LA34400-4"}
FORMS = {
    "ICD-10-CM": re.compile(r"[A-Z]\d[0-9A-Z](\.[0-9A-Z]{1,4})?"),
    "ICD-10": re.compile(r"[A-Z]\d\d(\.\d)?"),
    "SNOMED CT": re.compile(r"[1-9]\d{5,17}"),
    "LOINC": re.compile(r"(LA)?\d{1,7}-\d"),
}
# Verhoeff's dihedral group: product of two elements, and the permutation that is applied once more at each place
PRODUCT = ("0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
           "5987604321", "6598710432", "7659821043", "8765932104", "9876543210")  # fmt: skip
PERMUTATION = "1576283094"
# of what the user may say, pairs that cannot both be true
PATIENTS = {"type 1 diabetes", "type 2 diabetes"}  # all else is of an eye
CONTRARY = (("type 1 diabetes", "type 2 diabetes"), ("macular oedema", "no macular oedema"))


@dataclass(frozen=True)
class Code:
    """One row of the table."""

    concept: str
    system: str
    code: str
    display: str
    laterality: str  # "" where the code carries none
    needs: tuple[str, ...]
    status: str
    source: str

    @property
    def coding(self) -> dict[str, str]:
        """As FHIR writes it."""
        return {"system": SYSTEMS[self.system], "code": self.code, "display": self.display}


def codes_for(concept: str, eye: str | None = None, known: Collection[str] = ()) -> list[Code]:
    """The codes that may be given for `concept` of an eye ("left", "right", "both"; None: side unknown).

    `known` is what the user said and no photograph shows ("type 2 diabetes", "right: macular oedema"; see `facts`).
    [] where none is confirmed. Raises UserError for a concept or a fact that the table cannot know.
    """
    if concept not in FORM and concept not in entries():
        raise UserError(f"{concept!r} has no codes: neither of the vocabulary nor one of {', '.join(sorted(FORM))}")
    if strange := sorted({fact for _, fact in map(of_side, known)} - facts()):
        raise UserError(f"{strange[0]!r} is nothing that a code asks for; known: {', '.join(sorted(facts()))}")
    for pair in CONTRARY:
        if any(set(pair) <= holding(known, one) for one in ("right", "left")):
            raise UserError(f"{' and '.join(pair)} cannot both be given; leave out the one that is wrong")
    side, own = eye or "unspecified", holding(known, eye)
    return [
        row
        for row in table()
        if row.concept == concept and row.laterality in ("", side) and allowed(row) and set(row.needs) <= own
    ]


def of_side(fact: str) -> tuple[str, str]:
    """What the user said, apart from the eye that it was said of: "right", "left", "both", or "" for none."""
    side, colon, rest = fact.partition(":")
    told = side.strip().lower()
    return (told, rest.strip()) if colon and told in ("right", "left", "both") else ("", fact)


def holding(known: Collection[str], eye: str | None) -> set[str]:
    """The facts that hold for an eye; None: of which nobody knows the side."""
    return {fact for side, fact in map(of_side, known) if side in ("", "both", eye)}


def check_eyes(known: Collection[str], eyes: Sequence[str | None]) -> None:
    """Raise UserError where the user did not say of which of two eyes a fact is, or named an eye that is not there."""
    for side, fact in map(of_side, known):
        if side and fact in PATIENTS:
            raise UserError(f"{fact!r} is of the patient and of no single eye; leave out {side!r}")
        if not side and len(eyes) > 1 and fact not in PATIENTS:
            raise UserError(f"{fact!r}: of which eye? Say 'right: {fact}', 'left: {fact}' or 'both: {fact}'")
        if side in ("right", "left") and side not in eyes:
            raise UserError(f"'{side}: {fact}': the report has no {side} eye")


def allowed(row: Code) -> bool:
    """Whether the row may be given at all, its needs being met."""
    return row.status in ("confirmed", "conditional")


def facts() -> set[str]:
    """All that some code asks the user for."""
    return {need for row in table() for need in row.needs}


@cache
def table() -> tuple[Code, ...]:
    """The rows that come with mdf."""
    return read_codes(TABLE)


def read_codes(path: Path) -> tuple[Code, ...]:
    """The rows of a table, checked whole. Raises UserError that lists every line that is wrong, and why."""
    columns = [f.name for f in fields(Code)]
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines(), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the table of codes {path} cannot be read: {error}") from None
    if not lines or lines[0] != columns:
        raise UserError(f"{path.name}, line 1: must be {','.join(columns)}")
    rows: list[Code] = []
    wrong: list[str] = []
    seen: dict[tuple[object, ...], int] = {}
    for number, cells in enumerate(lines[1:], start=2):
        if len(cells) != len(columns):
            wrong.append(f"line {number}: {len(cells)} cells instead of {len(columns)}; put quotes around commas")
            continue
        concept, system, code, name, side, needs, status, source = cells
        facts_needed = tuple(need.strip() for need in needs.split(";") if need.strip())
        row = Code(concept, system, code, name, side, facts_needed, status, source)
        if problem := row_problem(row):
            wrong.append(f"line {number} ({row.concept}, {row.code}): {problem}")
        key = (row.concept, row.system, row.code, row.laterality, row.needs)
        if key in seen:
            wrong.append(f"line {number} ({row.concept}, {row.code}): stands in line {seen[key]} already")
        seen.setdefault(key, number)
        rows.append(row)
    if wrong:
        raise UserError(f"{path.name} cannot be used; correct or take out:\n" + "\n".join(f"  {w}" for w in wrong))
    return tuple(rows)


def row_problem(row: Code) -> str | None:
    """What is wrong with a row, or None."""
    if row.code in AUTONOMOUS:
        return "is for software that is cleared to read photographs on its own; mdf is not, so the row must go"
    if row.concept not in FORM and row.concept not in entries():
        return "the concept is neither in the vocabulary nor one of " + ", ".join(sorted(FORM))
    if row.system not in SYSTEMS:
        return f"system must be one of {', '.join(SYSTEMS)}"
    if row.status not in STATUSES:
        return f"status must be one of {', '.join(STATUSES)}"
    if not row.source.strip() or not row.display.strip():
        return "display and source must be filled: where were code and name read?"
    if (row.status == "conditional") != bool(row.needs):
        return "a conditional row, and no other, says what it needs"
    if problem := code_problem(row.system, row.code):
        return problem
    return side_problem(row)


def code_problem(system: str, code: str) -> str | None:
    """Whether a code is written as its system writes codes: form and check digit."""
    if not FORMS[system].fullmatch(code):
        return f"is not written as {system} writes codes"
    if system == "SNOMED CT" and code[-3:-1] not in ("00", "10"):
        return "is no concept of SNOMED CT: the two digits before the last must be 00 or 10"
    if system == "SNOMED CT" and not verhoeff(code):
        return "the check digit (the last) is wrong: a mistyped SNOMED CT code"
    if system == "LOINC" and not mod10(code):
        return "the check digit (after the hyphen) is wrong: a mistyped LOINC code"
    return None


def side_problem(row: Code) -> str | None:
    """Whether laterality and name agree."""
    if row.laterality not in ("", *SIDES):
        return f"laterality must be empty or one of {', '.join(SIDES)}"
    name = row.display.lower()
    named = [side for side, words in SIDES.items() if any(re.search(rf"\b{w}\b", name) for w in words)]
    if "both" in named:
        named = ["both"]
    if named and row.laterality != named[0]:
        return f"the name says {named[0]}, the laterality {row.laterality or 'nothing'}"
    if row.laterality in ("right", "left", "both") and not named:
        return f"the laterality is {row.laterality}, and the name says nothing of it"
    return None


def verhoeff(digits: str) -> bool:
    """Whether the last digit is the check digit of the others, by Verhoeff's method (SNOMED CT)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = int(PERMUTATION[value])
        total = int(PRODUCT[total][value])
    return total == 0


def mod10(code: str) -> bool:
    """Whether the digit after the hyphen is the check digit of what stands before it, modulo 10 (LOINC).

    The letters of an answer (LA18643-9) count as their place in ASCII after "0", which fits all answers of the table.
    """
    body, _, check = code.partition("-")
    values = [ord(c) - ord("0") for c in reversed(body)]
    total = sum(2 * v - 9 * (v // 5) for v in values[::2]) + sum(values[1::2])
    return (total + int(check)) % 10 == 0
