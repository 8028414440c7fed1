"""The language model's free text, sentence by sentence, held against the structured findings of the same eye.

What the text says is read by the rules of mdf.evaluation.facts. A sentence of which one fact is contradicted is
contradicted; one of which every fact is borne out is supported; all others have no image evidence.
"""

from collections.abc import Sequence

from mdf.captions import split_sentences
from mdf.dialogue import QUADRANTS
from mdf.evaluation.facts import AFFIRMED, ASIDE, DENIED, Fact, Grade, read_facts
from mdf.inference.report import EyeReport, Lesion, Words
from mdf.vocabulary import NORMAL, from_grade, is_a, known

SUPPORTED, CONTRADICTED, UNSEEN = "supported", "contradicted", "no image evidence"
RATIO = 0.15  # by which a cup-disc ratio may differ from the measured one
LARGE_CUP = 0.6  # ratio above which a cup is enlarged
COUNTS = 0.25  # share by which a number may differ from the drawn one
SCALES = {"icdr": "ICDR", "uk": "NHS-FBG"}


def hold(text: str, eye: EyeReport) -> list[Words]:
    """Each sentence of the text with its verdict; `eye` has lesions, grades and impression."""
    return [judge(sentence.strip(), eye) for sentence in split_sentences(text) if sentence.strip()]


def judge(sentence: str, eye: EyeReport) -> Words:
    facts = read_facts(sentence)
    said = [fact for fact in facts.facts if fact.status != ASIDE]
    verdicts = [verdict(fact, eye) for fact in said]
    verdicts += [of_grade(grade, eye) for grade in facts.grades]
    verdicts += [of_ratio(one.ratio, eye) for one in facts.cup_disc]
    sides = facts.eyes - {"both"}
    if eye.laterality.eye and sides:
        verdicts.append(SUPPORTED if sides == {eye.laterality.eye} else CONTRADICTED)
    if CONTRADICTED in verdicts:
        found = CONTRADICTED
    else:
        found = SUPPORTED if verdicts and set(verdicts) == {SUPPORTED} else UNSEEN
    return Words(text=sentence, verdict=found, about=list(dict.fromkeys(fact.name for fact in said)))  # type: ignore[arg-type]


def verdict(fact: Fact, eye: EyeReport) -> str:
    """Whether the findings bear out one fact."""
    if fact.status not in (AFFIRMED, DENIED):
        return UNSEEN
    affirmed = fact.status == AFFIRMED
    if fact.name == NORMAL and affirmed and doubted(eye):
        return UNSEEN
    if fact.name in (NORMAL, "lesion"):
        return of_normal(eye, denied=affirmed == (fact.name == NORMAL))
    if fact.name == "enlarged_cup":
        ratio = eye.disc.cup_disc_ratio
        return UNSEEN if ratio is None else SUPPORTED if (ratio > LARGE_CUP) == affirmed else CONTRADICTED
    lesion = of_kind(eye.lesions or (), fact.name)
    if lesion is not None:
        return of_lesion(fact, lesion, affirmed=affirmed)
    return of_diagnosis(fact.name, eye, affirmed=affirmed) if known(fact.name) else UNSEEN


def doubted(eye: EyeReport) -> bool:
    """Whether the same report has a disease as the likeliest and gives no impression since the findings disagree."""
    said = eye.impression
    return bool(said and said.diagnosis is None and said.diagnoses and said.diagnoses[0].name != NORMAL)


def of_kind(lesions: Sequence[Lesion], name: str) -> Lesion | None:
    """The statement on what is named, or on the broader kind that it is of."""
    if not known(name):
        return None
    exact = next((one for one in lesions if one.kind == name), None)
    return exact or next((one for one in lesions if known(one.kind) and is_a(name, one.kind)), None)


def of_lesion(fact: Fact, lesion: Lesion, *, affirmed: bool) -> str:
    if lesion.present is None:
        return UNSEEN
    if lesion.present != affirmed:
        # of a narrower kind the absence of the broader says all, its presence nothing
        return UNSEEN if lesion.kind != fact.name and lesion.present else CONTRADICTED
    if not affirmed:
        return SUPPORTED
    if lesion.kind != fact.name or not lesion.seen:
        return UNSEEN
    if fact.count and lesion.count is not None:
        low, high = fact.count
        slack = max(1, round(COUNTS * lesion.count))
        if lesion.count + slack < low or (high is not None and lesion.count - slack > high):
            return CONTRADICTED
    places = {place for place in fact.places if place in (*QUADRANTS, "macula", "disc")}
    if places and lesion.zones is not None and not places <= set(lesion.zones):
        return CONTRADICTED
    return SUPPORTED


def of_normal(eye: EyeReport, *, denied: bool) -> str:
    """Of "no lesion" and "normal" (`denied`), and of their contrary."""
    lesions = eye.lesions or ()
    there = any(one.present for one in lesions)
    ratio = eye.disc.cup_disc_ratio
    large = ratio is not None and ratio > LARGE_CUP
    if denied:
        if there or large:
            return CONTRADICTED
        return SUPPORTED if lesions and all(one.present is False and one.seen for one in lesions) else UNSEEN
    return SUPPORTED if there or large else UNSEEN


def of_diagnosis(name: str, eye: EyeReport, *, affirmed: bool) -> str:
    """A disease is borne out by the impression of the same report where that rests on something in the photograph: two
    answers of one model do not bear each other out.
    """
    own = eye.impression.diagnosis if eye.impression else None
    if own is None:
        return UNSEEN
    same = is_a(own, name) or is_a(name, own)
    if (own == NORMAL or same) and same != affirmed:
        return CONTRADICTED
    return SUPPORTED if same and eye.impression and eye.impression.seen else UNSEEN


def of_grade(grade: Grade, eye: EyeReport) -> str:
    """A grade in words against the same scale's grade by rule."""
    scale = SCALES.get(grade.scale or "")
    own = next((g for g in eye.grades if g.scale == scale and g.value is not None), None)
    if own is None or own.value is None or scale is None:
        return UNSEEN
    try:
        from_grade(grade.scale or "", grade.value)
    except ValueError:
        return UNSEEN
    return SUPPORTED if own.value.upper() == grade.value.upper() else CONTRADICTED


def of_ratio(ratio: float, eye: EyeReport) -> str:
    own = eye.disc.cup_disc_ratio
    if own is None:
        return UNSEEN
    return SUPPORTED if abs(own - ratio) <= RATIO else CONTRADICTED
