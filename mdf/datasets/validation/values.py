"""Values that are hard to believe: ages, measurements, dates, coordinates that are none or outside the photograph."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

from mdf.datasets.validation.files import Look
from mdf.datasets.validation.report import Case
from mdf.errors import UserError
from mdf.measures import boxes, numbers
from mdf.records import FundusRecord

AGES = (2, 105)  # years; outside is rare, and often a stand-in for "not known"
RARE = 0.02  # of a source's ages: where more are so young, it is a collection of children
# name of a value in `extra` -> what it is, lowest and highest value that a living person has
MEASURES = {
    r"systolic|^sbp": ("systolic pressure in mmHg", 60, 300),
    r"diastolic|^dbp": ("diastolic pressure in mmHg", 30, 200),
    r"heart_?rate|pulse|^hr$": ("heart rate a minute", 25, 250),
    r"\biop|eye_?pressure|intraocular": ("pressure of the eye in mmHg", 1, 90),
    r"\bbmi": ("body mass index", 8, 100),
    r"cup.?(to.?)?disc|^v?cdr": ("cup-disc ratio", 0, 1),
    r"hba1c": ("HbA1c in per cent or mmol/mol", 3, 200),
}
DATE = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})(?:[T ].*)?")
FIRST_YEAR = 1960  # no colour photograph of a fundus in a data set is older


def implausible_values(records: Sequence[FundusRecord], today: date | None = None) -> list[Case]:
    """Ages, measurements, dates, boxes and points; `today` (default: today) is the last day that a date may name."""
    cases = list(ages(records))
    for r in records:
        cases += [Case(f"{r.id}: {what}", (r.id,)) for what in measures(r)]
        cases += [Case(f"{r.id}: {what}", (r.id,)) for what in dates(r, today or date.today())]
        cases += [Case(f"{r.id}: {what}", (r.id,)) for what in coordinates(r)]
    return cases


def ages(records: Sequence[FundusRecord]) -> Iterator[Case]:
    known: dict[str | None, list[tuple[FundusRecord, float]]] = defaultdict(list)
    for r in records:
        if r.age is not None:
            known[r.source].append((r, r.age))
    for aged in known.values():
        strange = [(r, age) for r, age in aged if not AGES[0] <= age <= AGES[1]]
        if len(strange) <= max(1, RARE * len(aged)):
            yield from (Case(f"{r.id}: age {age:g}, unlike the rest of its source", (r.id,)) for r, age in strange)


def measures(record: FundusRecord) -> Iterator[str]:
    values: dict[str, float] = {}
    for name, raw in record.extra.items():
        match = next((m for pattern, m in MEASURES.items() if re.search(pattern, name.lower())), None)
        if match is None or isinstance(raw, bool):
            continue
        what, low, high = match
        try:
            value = float(raw)
        except (TypeError, ValueError):
            continue  # a word such as "not measured"
        values[what] = value
        if not low <= value <= high:
            yield f"extra.{name} is {raw}, a {what} from {low} to {high} is possible"
    systolic, diastolic = (values.get(f"{kind} pressure in mmHg") for kind in ("systolic", "diastolic"))
    if systolic is not None and diastolic is not None and systolic <= diastolic:
        yield f"the systolic pressure {systolic:g} is not above the diastolic {diastolic:g}"


def dates(record: FundusRecord, today: date) -> Iterator[str]:
    """Of `extra` entries called a date, and of a study that is named by one."""
    named = {f"extra.{k}": v for k, v in record.extra.items() if "date" in k.lower() and "birth" not in k.lower()}
    for name, raw in {**named, "study": record.study}.items():
        match = DATE.fullmatch(str(raw))
        if match is None or (name == "study" and "-" not in str(raw)):
            continue  # no date in a form that cannot be mistaken
        try:
            day = date(*map(int, match.groups()))
        except ValueError:
            yield f"{name} {raw} is no day of the calendar"
            continue
        if not day.year >= FIRST_YEAR or day > today:
            yield f"{name} {raw} is {'in the future' if day > today else 'too long ago'}"


def coordinates(record: FundusRecord) -> Iterator[str]:
    """What training would stop at where it asks for sizes and distances."""
    for kind, table in (("boxes", record.boxes), ("points", record.points)):
        for name, value in table.items():
            try:
                if kind == "boxes":
                    boxes(record, name)
                elif value is not None:
                    numbers(record, f"points.{name}", value, 2)
            except UserError as error:
                yield str(error).removeprefix(f"record {record.id}: ")


def outside_picture(records: Sequence[FundusRecord], looks: Sequence[Look]) -> list[Case]:
    """Boxes and points whose coordinates leave the photograph."""
    cases = []
    for r, look in zip(records, looks, strict=True):
        if look.size is None:
            continue
        width, height = look.size
        for kind, table in (("box", r.boxes), ("point", r.points)):
            for name, value in table.items():
                numbers = [float(x) for x in flat(value)]
                if any(not 0 <= x <= side for x, side in zip(numbers, (width, height) * len(numbers), strict=False)):
                    cases.append(Case(f"{r.id}: the {kind} {name} leaves the photograph of {width}x{height}", (r.id,)))
    return cases


def flat(value: object) -> Iterator[Any]:
    """The numbers of [x, y, …] or of a list of such lists."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from flat(part)
    elif isinstance(value, int | float):
        yield value
