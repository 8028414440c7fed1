"""The curriculum: questions that lead from what is seen to what follows from it, each answered by the record alone.

find, grade, severity, explain, differential, refer, follow_up; unknown (what no colour photograph tells) and unrecorded
(what this record lacks). Words and lists are in prompts/questions.yaml, referral in prompts/recommendations.yaml;
names, stages and expert descriptions come from the vocabulary.
"""

import string
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mdf.errors import UserError
from mdf.records import FundusRecord, stated
from mdf.vocabulary import ancestors, describe, display, from_grade, is_a, kind, lookup, near, scales

if TYPE_CHECKING:
    from mdf.dialogue import Prompts

WORDS = dict.fromkeys(("presence", "quadrant", "count", "size", "distance"), "finding")
WORDS |= {"grade": "scale", "unknown": "topic"}
ANSWER_WORDS: dict[str, dict[str, tuple[str, ...]]] = {  # of each line that an answer is made of
    "diagnosis": {"answer": ("diagnosis",)},
    "presence": {"yes": (), "no": ()},
    "quadrant": {"answer": ("location",)},
    "eye": {"answer": ("eye",)},
    "report": {"answer": ("report",)},
    "find": {"some": ("findings",), "none": ()},
    "grade": {"answer": ("value", "name")},
    "severity": {"answer": ("score",)},
    "explain": {"answer": ("diagnosis",), "some": ("findings",), "none": (), "typical": ("diagnosis", "description")},
    "differential": {"answer": ("diagnosis", "others")},
    "unknown": {"answer": ("topic", "source")},
    "unrecorded": {"answer": ()},
}
LISTS = {"grade": "scales", "differential": "by_diagnosis", "follow_up": "by_diagnosis", "unknown": "topics"}
BANDED = ("count", "size", "distance")  # answered by the band that a number falls into
CATARACT_SCORE = "csdi"  # name of the score in a record's `grade`
RULES = ("default", "uncertain", "ungradable")  # lines of recommendations.yaml beside those of diagnoses


class Fact(NamedTuple):
    """A true answer, and the word that the question is asked with (a scale, a topic), if any."""

    answer: str
    word: str | None = None


def joined(names: Iterable[str]) -> str:
    """ "a, b and c"."""
    *head, last = dict.fromkeys(names)
    return f"{', '.join(head)} and {last}" if head else last


def pick(choices: list[Any], rng: np.random.Generator | None) -> Any:
    """One of them, the first without `rng`."""
    return choices[0 if rng is None else int(rng.integers(len(choices)))]


def diseases(record: FundusRecord) -> list[str]:
    """What the record says there is: no judgement of the photograph, and no mere "no glaucoma"."""
    return [d for d in record.diagnosis or () if kind(d) in ("diagnosis", "finding")]


def nearest_line(lines: Mapping[str, Any], name: str) -> Any | None:
    """The line of `name`, else that of the nearest broader entry that has one."""
    return next((lines[n] for n in (name, *ancestors(name)) if n in lines), None)


def seen(record: FundusRecord, spec: Mapping[str, str]) -> str | None:
    """The findings of the record in the words `some` or `none`; None where nobody looked for them."""
    if record.findings is None:
        return None
    if not record.findings:
        return spec["none"]
    return spec["some"].format(findings=joined(display(f.name) for f in record.findings))


def find(record: FundusRecord, prompts: "Prompts", rng: np.random.Generator | None) -> Fact | None:
    text = seen(record, prompts.questions["find"])
    return None if text is None else Fact(text[:1].upper() + text[1:])


def grade(record: FundusRecord, prompts: "Prompts", rng: np.random.Generator | None) -> Fact | None:
    spec = prompts.questions["grade"]
    graded = [scale for scale in spec["scales"] if record.grade.get(scale) is not None]
    if not graded:
        return None
    scale = pick(graded, rng)
    value = record.grade[scale]
    try:
        name = display(from_grade(scale, value))
    except UserError as error:
        raise UserError(
            f"record {record.id}: grade.{scale}: {error}; "
            f"correct it, or take {scale} out of grade.scales in questions.yaml"
        ) from None
    shown = f"{value:g}" if isinstance(value, int | float) else str(value)
    return Fact(spec["answer"].format(value=shown, name=name), spec["scales"][scale])


def severity(record: FundusRecord, prompts: "Prompts", rng: np.random.Generator | None) -> Fact | None:
    """The score of a cataract, 0 to 10, which is no grade of a scale: its values have no names."""
    score = record.grade.get(CATARACT_SCORE)
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 10:
        where = f"record {record.id}: grade.{CATARACT_SCORE}"
        raise UserError(f"{where}: {score!r} must be a number from 0 to 10; correct it")
    return Fact(prompts.spec("severity")["answer"].format(score=f"{score:g}"))


def explain(record: FundusRecord, prompts: "Prompts", rng: np.random.Generator | None) -> Fact | None:
    if not record.diagnosis:
        return None
    spec = prompts.questions["explain"]
    said = joined(display(d) for d in record.diagnosis)
    parts = [spec["answer"].format(diagnosis=said[:1].upper() + said[1:])]
    parts += [text] if (text := seen(record, spec)) else []
    parts += [spec["typical"].format(diagnosis=display(d), description=describe(d)) for d in record.diagnosis]
    return Fact(" ".join(parts))


def refer(record: FundusRecord, prompts: "Prompts", rng: np.random.Generator | None) -> Fact | None:
    rules = prompts.recommendations
    lines = [nearest_line(rules, d) or rules["default"] for d in diseases(record)]
    if not lines and any(is_a(d, "low_quality") for d in record.diagnosis or ()):
        lines = [rules["ungradable"]]
    return Fact(" ".join(dict.fromkeys(lines))) if lines else None


def differential(record: FundusRecord, prompts: "Prompts", rng: np.random.Generator | None) -> Fact | None:
    spec, own = prompts.questions["differential"], diseases(record)
    others = [n for d in own for n in nearest_line(spec["by_diagnosis"], d) or ()]
    others = [n for n in others if not any(is_a(n, d) or is_a(d, n) for d in own)]
    if not others:
        return None
    words = {"diagnosis": joined(map(display, own)), "others": joined(map(display, others))}
    return Fact(spec["answer"].format(**words))


def follow_up(record: FundusRecord, prompts: "Prompts", rng: np.random.Generator | None) -> Fact | None:
    listed = prompts.questions["follow_up"]["by_diagnosis"]
    steps = [step for d in diseases(record) if (step := nearest_line(listed, d))]
    return Fact(" ".join(dict.fromkeys(steps))) if steps else None


def unknown(record: FundusRecord, prompts: "Prompts", rng: np.random.Generator | None) -> Fact:
    spec = prompts.questions["unknown"]
    topic, source = pick(list(spec["topics"].items()), rng)
    return Fact(spec["answer"].format(topic=topic, source=source), topic)


ANSWERS: dict[str, Callable[[FundusRecord, "Prompts", np.random.Generator | None], Fact | None]] = {
    "find": find,
    "grade": grade,
    "severity": severity,
    "explain": explain,
    "refer": refer,
    "differential": differential,
    "follow_up": follow_up,
    "unknown": unknown,
}


def lacking(record: FundusRecord, lesions: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """Questions, as kind and lesion, that could be asked of such a photograph and that this record cannot answer."""
    missing: list[tuple[str, str | None]] = [("eye", None)] if record.eye is None else []
    missing += [("diagnosis", None)] if record.diagnosis is None else []
    if record.findings is None:
        return missing + [("presence", name) for name in lesions]
    here = [f for name, f in stated(record).items() if name in lesions]
    missing += [("quadrant", f.name) for f in here if not f.location]
    return missing + [("count", f.name) for f in here if f.count is None]


def problems(questions: Any) -> list[str]:
    """What is wrong with questions.yaml, a line each: a clinician edits it."""
    if not isinstance(questions, dict) or not all(isinstance(spec, dict) for spec in questions.values()):
        return ["must hold `kind:` lines with ask and answer below each"]
    wrong = []
    for name, spec in questions.items():
        words: tuple[str, ...] = (WORDS[name],) if name in WORDS else ()
        for key in ("ask", "more") if name != "unrecorded" else ():
            lines = spec.get(key, [] if key == "more" else None)
            if not isinstance(lines, list) or (key == "ask" and not lines):
                wrong.append(f"{name}.{key}: must be a list of questions")
            else:
                wrong += [f"{name}.{key}: {line!r} {why}" for line in lines if (why := misplaced(line, words))]
        for key, words in ANSWER_WORDS.get(name, {}).items():
            why = misplaced(spec.get(key), words)
            wrong += [f"{name}.{key}: {spec.get(key)!r} {why}"] if why else []
        if name in BANDED and (why := misbanded(spec.get("bands"))):
            wrong.append(f"{name}.bands: {why}")
        if name in LISTS:
            wrong += [f"{name}.{LISTS[name]}: {line}" for line in list_problems(name, spec.get(LISTS[name]))]
    return wrong


def misbanded(bands: Any) -> str | None:
    """What is wrong with a list of bands, or None."""
    if not isinstance(bands, list) or not all(isinstance(b, list) and len(b) == 2 for b in bands) or not bands:
        return "must be a list of [upper end, answer]"
    ends, answers = [end for end, _ in bands], [answer for _, answer in bands]
    if not all(isinstance(answer, str) and answer for answer in answers) or len(set(answers)) < len(answers):
        return "each band must have an answer of its own, a text"
    if ends[-1] is not None or not all(isinstance(end, int | float) for end in ends[:-1]):
        return "the upper ends must be numbers, and the last one null, so that every number has a band"
    return None if ends[:-1] == sorted(set(ends[:-1])) else "the upper ends must rise"


def list_problems(name: str, listed: Any) -> list[str]:
    """What is wrong with the list below `scales`, `by_diagnosis` or `topics` of one question."""
    if not isinstance(listed, dict) or not listed:
        return ["must hold lines `name: …`"]
    wrong = []
    for key, value in listed.items():
        many = name == "differential"
        texts = value if many and isinstance(value, list) else [value]
        if isinstance(value, list) != many or not all(isinstance(t, str) and t for t in texts):
            wrong.append(f"{key}: must be followed by " + ("names such as [amd, glaucoma]" if many else "a text"))
        elif name in ("differential", "follow_up"):
            wrong += [why for n in (key, *(texts if many else ())) if (why := misnamed(n))]
        elif name == "grade" and key not in scales():
            wrong.append(f"{key!r} is no grading scale; known: {', '.join(scales())}")
    return wrong


def rule_problems(rules: Any) -> list[str]:
    """What is wrong with recommendations.yaml, a line each."""
    if not isinstance(rules, dict):
        return ["must hold lines `diagnosis: recommendation`"]
    wrong = [f"the line `{needed}: …` is missing" for needed in RULES if needed not in rules]
    wrong += [f"{name}: must be followed by a text" for name, text in rules.items() if not isinstance(text, str)]
    return wrong + [why for name in rules if name not in RULES and (why := misnamed(name))]


def misnamed(name: Any) -> str | None:
    """What is wrong with the name of a diagnosis, or None; a synonym would never be found again."""
    found = lookup(str(name))
    if found is None:
        return f"{name!r} is not in the vocabulary{near(name)}"
    return None if found == name else f"{name!r}: write {found}, the canonical name"


def misplaced(line: Any, wanted: tuple[str, ...]) -> str | None:
    """What is wrong with a line that holds the `wanted` {words}, or None."""
    if not isinstance(line, str) or not line.strip():
        return "must be a text"
    try:
        used = {name for _, name, _, _ in string.Formatter().parse(line) if name is not None}
    except ValueError as error:
        return f"has a brace too many or too few ({error})"
    if used == set(wanted):
        return None
    return f"must hold {' and '.join(f'{{{w}}}' for w in wanted) or 'no word in braces'}" + (
        " and no other word in braces" if wanted else ""
    )
