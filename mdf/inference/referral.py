"""What to do next, by a named rule set: mdf/data/referral.yaml says what follows from a grade, a finding, a diagnosis.

Of all lines that fit an eye the most urgent one is its recommendation, and all of them are its reasons. What a
diagnosis says in words is the line of the checkpoint's prompts/recommendations.yaml, which a clinician can edit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from mdf.curriculum import joined, nearest_line
from mdf.errors import UserError
from mdf.inference.grading import ICDR, NHS
from mdf.inference.report import EyeReport, Gradability, Grade, Impression, Lesion, Origin, Referral, Urgency
from mdf.resources import DATA
from mdf.vocabulary import OTHER, display, is_a, kind, known, read_yaml

RULES = "ICO 2017"  # the default
FILE = DATA / "referral.yaml"
ORDER = list(Urgency)
STATUSES = {  # how a line of the table is known -> what is said of that
    "confirmed": "",
    "memory": " (rule from memory, not checked in its source)",
    "own": " (mdf's own rule, of no guideline)",
}
NO_RETINA = "Take a photograph of the retina: this picture is none."
DIABETIC = "diabetic_retinopathy"


@dataclass(frozen=True)
class Line:
    """One thing that speaks for a recommendation."""

    urgency: Urgency
    refer: bool | None
    text: str
    because: str

    @property
    def weight(self) -> tuple[int, int]:
        return weight(self)


def weight(said: Line | Referral) -> tuple[int, int]:
    """More urgent, then to be referred, then not to be said."""
    return ORDER.index(said.urgency), {True: 2, None: 1, False: 0}[said.refer]


@cache
def table() -> dict[str, Any]:
    """The rules that come with mdf. Raises UserError that lists what is wrong with them."""
    raw = read_yaml(FILE)
    if wrong := problems(raw):
        raise UserError(f"{FILE} cannot be used:\n" + "\n".join(f"  {line}" for line in wrong))
    return raw


def problems(raw: Mapping[str, Any]) -> list[str]:
    """What is wrong with a table of rules, a line each: a clinician edits it."""
    missing = [
        key for key in ("sure", "sets", "findings", "diagnoses", "other_diagnosis", "no_diagnosis") if key not in raw
    ]
    if missing:
        return [f"`{key}:` is missing" for key in missing]
    lines = {
        f"{name}: {scale} {value}": (line, True)
        for name, rules in raw["sets"].items()
        for scale, values in rules["grades"].items()
        for value, line in values.items()
    }
    lines |= {f"findings.{name}": (line, True) for name, line in raw["findings"].items()}
    lines |= {f"diagnoses.{name}": (line, False) for name, line in raw["diagnoses"].items()}
    lines |= {name: (raw[name], False) for name in ("other_diagnosis", "no_diagnosis")}
    wrong = [f"{n}: no name of the vocabulary" for n in (*raw["findings"], *raw["diagnoses"]) if not known(n)]
    wrong += [
        f"{name}: about and source must say where it is from"
        for name, rules in raw["sets"].items()
        if not {"about", "source"} <= rules.keys()
    ]
    for where, (line, worded) in lines.items():
        if line.get("urgency") not in ORDER:
            wrong.append(f"{where}: urgency must be one of {', '.join(ORDER)}")
        if line.get("refer", "") not in (True, False, None):
            wrong.append(f"{where}: refer must be true, false or null")
        if line.get("status") not in STATUSES:
            wrong.append(f"{where}: status must be one of {', '.join(STATUSES)}")
        if worded and not line.get("text"):
            wrong.append(f"{where}: text is missing")
    return wrong


def rule_sets() -> tuple[str, ...]:
    return tuple(table()["sets"])


def check_rules(name: str) -> str:
    """The name of a rule set as it is written in the table. Raises UserError for one that there is not."""
    for one in rule_sets():
        if one.lower() == name.strip().lower():
            return one
    raise UserError(f"--rules {name}: no such rule set; choose from {', '.join(rule_sets())}")


def line_of(row: Mapping[str, Any], text: str, because: str) -> Line:
    return Line(Urgency(row["urgency"]), row["refer"], text, f"{because}{STATUSES[row['status']]}")


def refer(
    gradability: Gradability,
    lesions: Sequence[Lesion] | None,
    grades: Sequence[Grade],
    impression: Impression | None,
    recommendations: Mapping[str, str],
    rules: str = RULES,
    *,
    probabilities: Mapping[str, float] | None = None,
) -> Referral:
    """The recommendation for one eye.

    `probabilities` of the diagnoses count where the photograph cannot be graded: an urgent one that is sure overrides.
    """
    given = [line for one in lesions or () if one.present for line in of_finding(one, recommendations)]
    if gradability.may_grade:
        lines = [
            *of_grades(grades, rules),
            *of_impression(impression, grades, recommendations, rules),
            *given,
            *of_no_grade(grades, rules),  # last: what is known says more than what is missing, where they are level
        ]
    else:
        reasons = "; ".join(gradability.reasons) or gradability.value
        can = "can barely" if gradability.value == "barely" else "cannot"
        what = f"the photograph {can} be graded" if gradability.is_retina else "this is no photograph of a retina"
        text = recommendations["ungradable"] if gradability.is_retina else NO_RETINA
        lines = [Line(Urgency.ROUTINE, None, text, f"{what} ({reasons})"), *given]
        if gradability.is_retina:
            lines += of_ungradable(probabilities or {}, recommendations)
    first = max(lines, key=lambda line: line.weight)
    because = [first.because, *(line.because for line in lines if line is not first)]
    text, sent = first.text, first.refer
    sure = max((line for line in lines if line.refer), key=lambda line: line.weight, default=None)
    if sent is None and sure:  # what may be more urgent does not take back what is certain
        text, sent = f"{sure.text} {first.text}", True
    return Referral(origin=Origin.RULE, urgency=first.urgency, refer=sent, text=text, rules=rules, because=because)


def of_grades(grades: Sequence[Grade], rules: str) -> Iterable[Line]:
    for grade in grades:
        values = table()["sets"][rules]["grades"].get(grade.scale)
        if values is None:
            continue
        possible = [grade.value] if grade.value is not None else grade.between
        if sent_anyway(grade, values):
            least, *possible = possible
            yield line_of(values[least], values[least]["text"], f"{grade.scale} is {least} or more, {rules}")
        for value in possible:
            if (row := values.get(value)) is None:
                continue
            if grade.value is not None:
                yield line_of(row, row["text"], f"{grade.scale} {value}, {rules}")
            elif row["refer"] or Urgency(row["urgency"]) != Urgency.NONE:
                text = f"A clinician should grade the photograph; if it is {grade.scale} {value}: {row['text']}"
                line = line_of(row, text, f"{grade.scale} may be {value}, {rules}")
                yield replace(line, refer=None)


def sent_anyway(grade: Grade, values: Mapping[str, Any]) -> bool:
    """Whether a grade is open, and both the lowest and the highest value that it may have are to be referred."""
    return (
        grade.value is None
        and len(grade.between) > 1
        and all(v in values and values[v]["refer"] is True for v in grade.between)
    )


def said_by_grade(grades: Sequence[Grade], rules: str) -> bool:
    """Whether a grade of retinopathy says if it is to be referred: it has a value, or all that it may have say so."""
    for grade in grades:
        values = table()["sets"][rules]["grades"].get(grade.scale)
        if grade.scale not in (ICDR, NHS) or values is None:
            continue
        sent = {values[v]["refer"] for v in grade.between if v in values}
        if grade.value or (len(grade.between) > 1 and len(sent) == 1):
            return True
    return False


def of_no_grade(grades: Sequence[Grade], rules: str) -> Iterable[Line]:
    """That the scales by which the rules decide have no value."""
    if missing := [g.scale for g in grades if g.value is None and g.scale in table()["sets"][rules]["grades"]]:
        text = "A clinician should grade the photograph."
        yield Line(Urgency.ROUTINE, None, text, f"{joined(missing)} not given")


def of_finding(one: Lesion, recommendations: Mapping[str, str]) -> Iterable[Line]:
    """What a finding says, and a diagnosis that a person named as one."""
    if not known(one.kind):
        return
    rows = table()["findings"]
    if lines := [line_of(rows[n], rows[n]["text"], display(one.kind)) for n in rows if is_a(one.kind, n)]:
        yield from lines
    elif one.origin == Origin.USER and kind(one.kind) == "diagnosis":
        row = nearest_line(table()["diagnoses"], one.kind) or table()["other_diagnosis"]
        yield line_of(row, advice(one.kind, row, recommendations), f"{display(one.kind)}, seen by a person")


def advice(diagnosis: str, row: Mapping[str, Any], recommendations: Mapping[str, str]) -> str:
    """What to do about a diagnosis: its own line or that of a broader one. The line for any other disease does not say
    that something is urgent, so that of an urgent one is made here.
    """
    text = nearest_line({name: line for name, line in recommendations.items() if name != OTHER}, diagnosis)
    when = {Urgency.IMMEDIATE: "the same day", Urgency.URGENT: "urgently"}.get(Urgency(row["urgency"]))
    if text is None and when:
        return f"Refer {when}: {display(diagnosis)}."
    return text or nearest_line(recommendations, diagnosis) or recommendations["default"]


def of_impression(
    impression: Impression | None, grades: Sequence[Grade], recommendations: Mapping[str, str], rules: str
) -> Iterable[Line]:
    """What the diagnosis says; of retinopathy in diabetes its grade says it, where there is one."""
    name = impression.diagnosis if impression else None
    if name is None:
        yield line_of(table()["no_diagnosis"], recommendations["uncertain"], "no confident impression")
        return
    row = nearest_line(table()["diagnoses"], name) or table()["other_diagnosis"]
    if row is table()["diagnoses"][DIABETIC] and said_by_grade(grades, rules):
        return
    yield line_of(row, advice(name, row, recommendations), f"impression: {display(name)}")


def of_ungradable(probabilities: Mapping[str, float], recommendations: Mapping[str, str]) -> Iterable[Line]:
    """Urgent diagnoses that the model is sure of although the photograph cannot be graded."""
    for name, p in probabilities.items():
        row = nearest_line(table()["diagnoses"], name)
        urgent = row is not None and ORDER.index(Urgency(row["urgency"])) >= ORDER.index(Urgency.URGENT)
        if row is not None and urgent and p >= table()["sure"]:
            text = advice(name, row, recommendations)
            yield line_of(row, text, f"sign of {display(name)} (probability {p:.2f}) in spite of the quality")


def most_urgent(eyes: Sequence[EyeReport]) -> Referral | None:
    """The recommendation for the patient: that of the eye which is more urgent, named."""
    given = [(eye, eye.referral) for eye in eyes if eye.referral is not None]
    if not given:
        return None
    eye, first = max(given, key=lambda pair: weight(pair[1]))
    if len(eyes) == 1:
        return first.model_copy(deep=True)
    if len({one.text for _, one in given}) == 1 and len(given) == len(eyes):
        because = list(dict.fromkeys(reason for _, one in given for reason in one.because))
        return first.model_copy(update={"text": f"Both eyes: {first.text}", "because": because}, deep=True)
    others = [f"{other.title}: {one.text}" for other, one in given if other is not eye]
    return first.model_copy(
        update={"text": f"{eye.title}: {first.text}", "because": [*first.because, *others]}, deep=True
    )
