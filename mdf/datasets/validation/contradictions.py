"""Labels that cannot all be true, and patients or copies of a photograph in two splits."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import combinations

from mdf.datasets.odir5k import CLASSES
from mdf.datasets.validation.report import Case
from mdf.errors import UserError
from mdf.records import FundusRecord, group_of
from mdf.vocabulary import NORMAL, OTHER, display, entries, from_grade, is_a, kind, lookup, scales

SHOWN = 12  # photographs of a case that are named one by one


def diseases(names: Iterable[str]) -> set[str]:
    """Names of diagnoses without `normal`."""
    return {n for n in names if n != NORMAL and kind(n) == "diagnosis"}


def denied(names: Iterable[str]) -> set[str]:
    """What the absences among the names deny."""
    return {d for n in names if (d := entries()[n].denies)}


def exclude_each_other(a: Iterable[str], b: Iterable[str]) -> bool:
    """Whether no photograph can be both: normal and a disease, a disease and its absence, or different diseases.

    A narrower name does not exclude a broader one (moderate NPDR and diabetic retinopathy), nor does one more disease.
    """
    a, b = set(a), set(b)
    if (NORMAL in a) != (NORMAL in b) and (diseases(a) or diseases(b)):
        return True
    if any(is_a(x, no) for x in a for no in denied(b)) or any(is_a(x, no) for x in b for no in denied(a)):
        return True
    first, second = diseases(a), diseases(b)
    return bool(first and second) and not any(is_a(x, y) or is_a(y, x) for x in first for y in second)


def contradictory_labels(records: Sequence[FundusRecord]) -> list[Case]:
    cases = []
    for r in records:
        names = r.diagnosis or ()
        if (NORMAL in names and diseases(names)) or any(is_a(x, no) for x in names for no in denied(names)):
            cases.append(Case(f"{r.id}: {say(names)}", (r.id,)))
    return cases


def normal_with_finding(records: Sequence[FundusRecord]) -> list[Case]:
    return [
        Case(f"{r.id}: normal, with {say(f.name for f in r.findings)}", (r.id,))
        for r in records
        if r.diagnosis == (NORMAL,) and r.findings
    ]


def patients_across_splits(records: Sequence[FundusRecord]) -> list[Case]:
    return [
        Case("one patient: " + with_splits(photographs), ids(photographs))
        for photographs in gather(records, group_of)
        if len({r.split for r in photographs}) > 1
    ]


def duplicates(groups: Iterable[Sequence[FundusRecord]], same_file: Sequence[bool]) -> dict[str, list[Case]]:
    """Findings about groups of photographs that show the same, by name."""
    found: dict[str, list[Case]] = defaultdict(list)
    for group, exact in zip(groups, same_file, strict=True):
        what = "the same file" if exact else "the same photograph or eye"
        across = len({r.split for r in group}) > 1
        line = f"{what}: {with_splits(group)}"
        found["duplicate-across-splits" if across else "duplicate"].append(Case(line, ids(group)))
        known = [r for r in group if r.diagnosis is not None]
        if disagree(known):
            found["duplicate-labels"].append(Case(f"{what}: {with_labels(known)}", ids(known)))
        patients = {group_of(r) for r in group if r.patient}
        eyes = {r.eye for r in group if r.eye}
        if len(patients) > 1 or len(eyes) > 1:
            many = [f"{len(patients)} patients"] * (len(patients) > 1) + ["left and right"] * (len(eyes) > 1)
            found["duplicate-patients"].append(Case(f"{what}, {' and '.join(many)}: {names_of(group)}", ids(group)))
    return found


def eye_labels(records: Sequence[FundusRecord]) -> list[Case]:
    """Photographs of one eye at one visit whose labels exclude one another."""
    labelled = [r for r in records if r.patient and r.eye and r.diagnosis is not None]
    groups = gather(labelled, lambda r: (group_of(r), r.study, r.eye))
    return [Case(with_labels(photographs), ids(photographs)) for photographs in groups if disagree(photographs)]


def disagree(records: Iterable[FundusRecord]) -> bool:
    """Whether the labels of any two of the records exclude each other."""
    return any(exclude_each_other(a, b) for a, b in combinations({r.diagnosis or () for r in records}, 2))


def patient_flags(records: Sequence[FundusRecord]) -> list[Case]:
    """Labels of photographs against `extra.patient_flags`: canonical names, or ODIR's letters, joined by commas.

    A label that the patient does not have is a case; so is a disease of the patient that neither eye has, where both
    eyes are there.
    """
    cases = []
    flagged = [r for r in records if r.patient and r.diagnosis is not None and r.extra.get("patient_flags")]
    for photographs in gather(flagged, group_of, least=1):
        words = [w.strip() for r in photographs for w in str(r.extra["patient_flags"]).split(",")]
        flags = {name for w in words if (name := CLASSES.get(w) or lookup(w))}
        labels = {d for r in photographs for d in r.diagnosis or ()}
        extra = sorted(d for d in labels - {NORMAL} if not any(is_a(d, f) or is_a(f, d) for f in flags))
        missing = []
        if len({r.eye for r in photographs if r.eye}) == 2:
            missing = sorted(f for f in flags if not any(is_a(d, f) or is_a(f, d) for d in labels))
        parts = [f"the eyes have {say(extra)}, the patient has not"] * bool(extra)
        parts += [f"the patient has {say(missing)}, neither eye has"] * bool(missing)
        if parts:
            cases.append(Case(f"{names_of(photographs)}: {'; '.join(parts)}", ids(photographs)))
    return cases


def grades(records: Sequence[FundusRecord]) -> dict[str, list[Case]]:
    """Grades that their scale does not have, and grades against the label, by the name of the finding."""
    found: dict[str, list[Case]] = {"implausible-value": [], "grade-against-label": []}
    for r in records:
        for scale, value in r.grade.items():
            if scale not in scales() or value is None:
                continue
            try:
                name = from_grade(scale, value)
            except UserError:
                found["implausible-value"].append(Case(f"{r.id}: the scale {scale} has no {value}", (r.id,)))
                continue
            if r.diagnosis and OTHER not in r.diagnosis and grade_denies(name, r.diagnosis):
                text = f"{r.id}: {scale} {value} is {display(name)}, the label is {say(r.diagnosis)}"
                found["grade-against-label"].append(Case(text, (r.id,)))
    return found


def grade_denies(name: str, labels: tuple[str, ...]) -> bool:
    if no := entries()[name].denies:
        return any(is_a(x, no) for x in labels)
    return labels == (NORMAL,) and bool(diseases((name,)))


def gather(
    records: Iterable[FundusRecord], key: Callable[[FundusRecord], Hashable], least: int = 2
) -> list[list[FundusRecord]]:
    """Records with the same key, where there are so many at least."""
    groups: dict[Hashable, list[FundusRecord]] = defaultdict(list)
    for r in records:
        groups[key(r)].append(r)
    return [group for group in groups.values() if len(group) >= least]


def with_splits(records: Sequence[FundusRecord]) -> str:
    return listed(records, lambda r: r.split or "no split")


def with_labels(records: Sequence[FundusRecord]) -> str:
    return listed(records, lambda r: say(r.diagnosis or ()))


def listed(records: Sequence[FundusRecord], word: Callable[[FundusRecord], str]) -> str:
    """`id (word)` of each record; of many, one for each word and how many more have it."""
    if len(records) <= SHOWN:
        return ", ".join(f"{r.id} ({word(r)})" for r in records)
    having: dict[str, list[str]] = defaultdict(list)
    for r in records:
        having[word(r)].append(r.id)
    return ", ".join(f"{first}{f' and {len(rest)} more' * bool(rest)} ({w})" for w, (first, *rest) in having.items())


def names_of(records: Sequence[FundusRecord]) -> str:
    more = len(records) - SHOWN
    return ", ".join(ids(records)[:SHOWN]) + f" and {more} more" * (more > 0)


def ids(records: Sequence[FundusRecord]) -> tuple[str, ...]:
    return tuple(r.id for r in records)


def say(names: Iterable[str]) -> str:
    return " + ".join(display(n) for n in names) or "nothing"
