"""Whether a generated text agrees with what is known of its photograph, fact by fact (`mdf.evaluation.facts`).

What a record does not assess is not judged: where `findings` is None a lesion that the text names is neither right nor
wrong, where it is () the lesion is invented. A record's findings are taken for all that there are, its diagnosis too
(but "no glaucoma" alone says nothing of other diseases).

A claim is supported where a true entry is it, is below it (the text says retinopathy, true is its mild stage) or is
above it (the text names a stage and the record none: stages are judged as grades). A true entry is recalled where the
text affirms it or something below it.

Shapes: N photographs, R resamples. Figures are ratios of sums over the photographs drawn unless said otherwise.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, Metric, put, ratio, resample, weighted_mean
from mdf.evaluation.facts import AFFIRMED, DENIED, UNCERTAIN, Fact, TextFacts, read_facts
from mdf.evaluation.wording import LESION, wording
from mdf.records import Finding, FundusRecord, stated
from mdf.vocabulary import NORMAL, entries, is_a, kind, scales, written

STRUCTURES = {"abnormal_optic_disc": "disc", "abnormal_macula": "macula", "abnormal_vessels": None}
GENERAL = {"abnormal", "other", LESION, *STRUCTURES}  # too broad to be right or wrong as a claim
HALVES = {
    "superior": ("superotemporal", "superonasal"),
    "inferior": ("inferotemporal", "inferonasal"),
    "nasal": ("superonasal", "inferonasal"),
    "temporal": ("superotemporal", "inferotemporal"),
}
SORTS, PARTS = ("finding", "diagnosis"), ("true", "recalled", "claimed", "supported")
COUNTS = (
    *(f"{sort}_{part}" for sort in SORTS for part in PARTS),
    *("unjudged", "negatives", "confirmed", "contradictions"),
)
ALL = ("superotemporal", "inferotemporal", "superonasal", "inferonasal")


def expand(place: str) -> tuple[str, ...]:
    """The places of a record that a word of a text may mean; "all quadrants" are all of them together."""
    return HALVES.get(place, (place,))


def said_places(fact: Fact) -> tuple[str, ...]:
    return tuple(p for place in fact.places for p in (ALL if place == "all_quadrants" else (place,)))


def true_places(finding: Finding) -> set[str]:
    return set(finding.location.split(", ")) if finding.location else set()


def right_place(fact: Fact, finding: Finding) -> bool | None:
    """Whether every place said holds the finding and none of its places is left out; None where one side is silent."""
    said, true = said_places(fact), true_places(finding)
    if not said or not true:
        return None
    meant = {p for place in said for p in expand(place)}
    return true <= meant and all(true & set(expand(place)) for place in said)


def right_count(fact: Fact, finding: Finding) -> bool | None:
    """Whether the number lies in what was said; None where one side is silent."""
    if fact.count is None or finding.count is None:
        return None
    low, high = fact.count
    return low <= finding.count and (high is None or finding.count <= high)


class Known:
    """What is known of a photograph."""

    def __init__(self, record: FundusRecord):
        self.record = record
        whole = stated(record)
        self.findings = {f.name: whole[f.name] for f in record.findings or ()}
        self.named = [d for d in record.diagnosis or () if kind(d) in ("diagnosis", "finding")]
        self.true = tuple(dict.fromkeys(d for d in (*self.named, *self.findings) if d not in GENERAL))
        self.broad = [d for d in self.named if d in GENERAL]  # "other disease" may be any that is one
        self.denied = [d for name in record.diagnosis or () if (d := entries()[name].denies)]

    def assessed(self, name: str) -> bool:
        """Whether the record says if `name` is there."""
        if name == LESION or kind(name) == "finding":
            return self.record.findings is not None
        if any(is_a(name, broad) for broad in self.broad):
            return False
        if self.named or self.record.diagnosis == ():
            return True
        return any(is_a(name, d) for d in self.denied)  # all that "no glaucoma" says; "blurred" says nothing

    def supports(self, name: str) -> bool | None:
        """Whether a claim is right; None where that is not known."""
        if any(is_a(name, true) or is_a(true, name) for true in self.true):
            return True
        if name == NORMAL and self.true:
            return False
        return False if self.assessed(name) else None

    def confirms_absence(self, fact: Fact) -> bool | None:
        """Whether something denied is truly not there; None where that is not known. A denial for one place is judged
        by that place.
        """
        if fact.name in STRUCTURES:  # "the macula is normal" is no finding, but wrong where one lies there
            place = STRUCTURES[fact.name]
            return False if place and any(place in true_places(f) for f in self.findings.values()) else None
        if fact.name == LESION:
            there = [t for t in self.true if any(is_a(t, lesion) for lesion in wording().lesions)]
        else:
            there = [t for t in self.true if is_a(t, fact.name)]
        if there and fact.places:
            located = [true_places(self.findings[t]) if t in self.findings else set() for t in there]
            if not all(located):
                return None
            meant = {p for place in said_places(fact) for p in expand(place)}
            return not any(places & meant for places in located)
        return False if there else True if self.assessed(fact.name) else None


def own_facts(read: TextFacts, eye: str | None) -> list[Fact]:
    """The facts on the photograph's own eye, where the text speaks of both."""
    if eye is None or eye not in read.eyes:
        return list(read.facts)
    return [f for f in read.facts if f.eye in (None, eye, "both")]


def claims(facts: Iterable[Fact], status: str) -> dict[str, Fact]:
    """What is said with that status, a fact a name, less what another one says: "retinopathy" is no more than "mild
    retinopathy", but "no retinopathy" is more than "no mild retinopathy".
    """
    named: dict[str, Fact] = {}
    for fact in facts:
        if fact.status == status:
            named[fact.name] = joined(named[fact.name], fact) if fact.name in named else fact

    def said_by(other: str, name: str) -> bool:
        return is_a(name, other) and not named[other].places if status == DENIED else is_a(other, name)

    known = [n for n in named if n != LESION]
    return {n: f for n, f in named.items() if n == LESION or not any(o != n and said_by(o, n) for o in known)}


def joined(first: Fact, second: Fact) -> Fact:
    """Two facts of one name and status as one. Denied without a place is denied everywhere; affirmed here and there is
    affirmed in both places, and what was counted in places apart is added up.
    """
    places = tuple(dict.fromkeys((*first.places, *second.places)))
    if first.status == DENIED:
        return replace(first, places=places if first.places and second.places else ())
    count = first.count or second.count
    mine, others = ({p for place in said_places(f) for p in expand(place)} for f in (first, second))
    if first.count and second.count and mine and others and not mine & others:
        (low, high), (least, most) = first.count, second.count
        count = low + least, None if high is None or most is None else high + most
    return replace(first, places=places, count=count)


def judge(text: str, record: FundusRecord) -> dict[str, float]:
    """How one text stands to its record: numbers of facts by kind, NaN where the record does not know."""
    read, known = read_facts(text), Known(record)
    facts = own_facts(read, record.eye)
    affirmed = claims([f for f in facts if f.name not in GENERAL and kind_of(f.name) != "quality"], AFFIRMED)
    doubted = {f.name for f in facts if f.status == UNCERTAIN}
    found: dict[str, float] = dict.fromkeys(COUNTS, 0.0)
    for true in known.true:
        sort = "finding" if true in known.findings or kind(true) == "finding" else "diagnosis"
        recalled = any(is_a(name, true) for name in affirmed) or (true.startswith("suspected_") and true in doubted)
        found[f"{sort}_true"] += 1
        found[f"{sort}_recalled"] += recalled
    for name in affirmed:
        supported = known.supports(name)
        sort = "finding" if kind(name) == "finding" else "diagnosis"
        if supported is None:
            found["unjudged"] += 1
            continue
        found[f"{sort}_claimed"] += 1
        found[f"{sort}_supported"] += supported
        found["contradictions"] += name == NORMAL and not supported
    for fact in claims([f for f in facts if kind_of(f.name) != "quality"], DENIED).values():
        absent = known.confirms_absence(fact)
        if absent is not None and fact.name not in STRUCTURES:
            found["negatives"] += 1
            found["confirmed"] += absent
        found["contradictions"] += absent is False
    found["hedged"] = len(doubted)
    found["against_itself"] = against_itself(facts)
    found |= details(affirmed, known) | sides(read, record.eye) | graded(read, affirmed, record)
    positives = found["finding_true"] + found["diagnosis_true"]
    right = found["finding_recalled"] + found["diagnosis_recalled"] + found["confirmed"]
    total = positives + found["negatives"]
    found["consistency"] = right / total if total else np.nan
    found["invented"] = np.nan if record.findings is None else found["finding_claimed"] - found["finding_supported"]
    return found


def kind_of(name: str) -> str:
    return "finding" if name == LESION else kind(name)


def against_itself(facts: Sequence[Fact]) -> bool:
    """Whether the text affirms and denies the same thing, of one eye and one place."""
    denied = [f for f in facts if f.status == DENIED]
    return any(
        a.name == d.name
        and (a.eye == d.eye or "both" in (a.eye, d.eye))
        and (not a.places or not d.places or bool(set(a.places) & set(d.places)))
        for a in facts
        if a.status == AFFIRMED
        for d in denied
    )


def details(affirmed: dict[str, Fact], known: Known) -> dict[str, float]:
    """Number of recalled findings with a place, with a number, and of the right ones among them."""
    pairs = [(f, known.findings[t]) for n, f in affirmed.items() for t in known.findings if is_a(n, t)]
    places = [r for f, t in pairs if (r := right_place(f, t)) is not None]
    counts = [r for f, t in pairs if (r := right_count(f, t)) is not None]
    return {
        "placed": len(places),
        "placed_right": sum(places),
        "counted": len(counts),
        "counted_right": sum(counts),
    }


def sides(read: TextFacts, eye: str | None) -> dict[str, float]:
    """1 or 0: an eye is said, it is the right one alone; NaN where the record's eye, or the text's, is not known."""
    if eye is None:
        return {"eye_said": np.nan, "eye_right": np.nan, "eye_wrong": np.nan}
    right = read.eyes == {eye}
    return {
        "eye_said": float(bool(read.eyes)),
        "eye_right": float(right) if read.eyes else np.nan,
        "eye_wrong": float(bool(read.eyes) and not right),
    }


def graded(read: TextFacts, affirmed: Iterable[str], record: FundusRecord) -> dict[str, float]:
    """1 or 0: a grade of the record's scale is said, as a number or by the stage's name, and all that are said are
    right. NaN where the record has none.
    """
    own = {scale: value for scale, value in record.grade.items() if scale in scales() and value is not None}
    if not own:
        return {"grade_said": np.nan, "grade_right": np.nan}
    said, right = [], True
    for scale, value in own.items():
        values = scales()[scale].values
        numbers = {written(g.value) for g in read.grades if g.scale == scale or (g.scale is None and len(own) == 1)}
        names = list(values.values())
        stages = {v for v, name in values.items() if name in affirmed and names.count(name) == 1}
        said += [*numbers, *stages]
        right &= numbers | stages <= {written(value)}
    return {"grade_said": float(bool(said)), "grade_right": float(right) if said else np.nan}


def consistency_metrics(
    generated: Sequence[str],
    records: Sequence[FundusRecord],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Figures by name, each with `NAME_ci`; those that no record can tell are left out.

    `positive_recall` and `clinical_consistency` belong together: the second, (recalled + confirmed) / (true + denied) a
    photograph as in FundusExpert, rises with every true "no …" that the text lists. Further: `negative_confirmed`;
    `unsupported_claim`, share of the judged claims; `invented_lesions` a photograph; `contradiction` and
    `self_contradiction`, shares of photographs; precision, recall and F1 of `finding_` and `diagnosis_`; `eye_said`,
    `eye_right` among those, `eye_wrong` of all; `grade_said`, `grade_right`; `place_right` and `count_right` among
    recalled findings of which both sides say it; `hedged` and `unjudged` claims a photograph.
    """
    if not len(generated) == len(records) == len(groups):
        raise ValueError(
            f"{len(generated)} texts, {len(records)} records and {len(groups)} groups do not belong together"
        )
    if not records:
        raise UserError("no photograph to judge texts of: the split is empty")
    rows = [judge(text, record) for text, record in zip(generated, records, strict=True)]
    table = {key: np.array([row[key] for row in rows], dtype=float) for key in rows[0]}
    table["any_contradiction"] = np.minimum(table["contradictions"], 1)
    for what in PARTS:
        table[what] = table[f"finding_{what}"] + table[f"diagnosis_{what}"]
    table["unsupported"] = table["claimed"] - table["supported"]
    found: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        name: share(table[top], table[bottom]) for name, (top, bottom) in RATIOS.items()
    }
    found |= {name: weighted_mean(table[key]) for name, key in MEANS.items()}
    for sort in SORTS:
        found[f"{sort}_f1"] = harmonic(found[f"{sort}_precision"], found[f"{sort}_recall"])
    weights, metrics = resample(groups, resamples=resamples, seed=seed), {"n": len(records)}
    one = np.ones((1, len(records)))
    for name, metric in found.items():
        if not np.isnan(metric(one)[0]):
            put(metrics, name, metric, weights)
    return metrics


RATIOS = {
    "positive_recall": ("recalled", "true"),
    "negative_confirmed": ("confirmed", "negatives"),
    "unsupported_claim": ("unsupported", "claimed"),
    "finding_precision": ("finding_supported", "finding_claimed"),
    "finding_recall": ("finding_recalled", "finding_true"),
    "diagnosis_precision": ("diagnosis_supported", "diagnosis_claimed"),
    "diagnosis_recall": ("diagnosis_recalled", "diagnosis_true"),
    "place_right": ("placed_right", "placed"),
    "count_right": ("counted_right", "counted"),
}
MEANS = {
    "clinical_consistency": "consistency",
    "contradiction": "any_contradiction",
    "self_contradiction": "against_itself",
    "invented_lesions": "invented",
    "eye_said": "eye_said",
    "eye_right": "eye_right",
    "eye_wrong": "eye_wrong",
    "grade_said": "grade_said",
    "grade_right": "grade_right",
    "hedged": "hedged",
    "unjudged": "unjudged",
}


def share(top: np.ndarray, bottom: np.ndarray) -> Metric:
    """The metric "sum over sum" of values [N]; NaN where nothing is drawn that counts."""
    return lambda weights: ratio(weights @ top, weights @ bottom)


def harmonic(
    first: Callable[[np.ndarray], np.ndarray], second: Callable[[np.ndarray], np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    """The metric "harmonic mean of two": 0 where both are 0 or nothing is claimed, NaN where nothing is true."""

    def metric(weights: np.ndarray) -> np.ndarray:
        a, b = np.nan_to_num(first(weights)), second(weights)
        return np.where(a + b > 0, 2 * a * b / np.where(a + b > 0, a + b, 1), np.where(np.isnan(b), np.nan, 0.0))

    return metric
