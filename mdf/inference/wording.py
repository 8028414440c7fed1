"""How a report is put into words, the same in every format. Text of people, files and models is made visible here; that
it is not markup is each format's own matter.
"""

import unicodedata

from mdf.inference.grading import NAMES
from mdf.inference.report import (
    UNGRADABLE,
    Evidence,
    EyeReport,
    Grade,
    Laterality,
    Lesion,
    Macula,
    Origin,
    Report,
    Review,
    Stated,
    Statement,
    Urgency,
)
from mdf.vocabulary import display, known, scales

NO_EVIDENCE = "no image evidence"
KEPT = {"\n", "\t", "\u200c", "\u200d"}  # the last two join letters, or keep them apart
ORIGINS = {
    Origin.MODEL_TEXT: "words that the language model wrote",
    Origin.SCORING: "the language model's probabilities of given answers",
    Origin.SEGMENTATION: "the U-Net's masks",
    Origin.MEASUREMENT: "measured in masks or pixels",
    Origin.RULE: "follows from other statements by a named rule",
    Origin.USER: "given or entered by a person",
}
FOLLOWS = {  # fields that change along with what a person changes
    "origin", "evidence", "probability", "calibrated", "flags", "because", "needs", "disagrees", "boxes", "by_zone",
    "nearest_fovea", "band", "centre", "fields", "statements", "comparison", "since",
}  # fmt: skip
URGENCIES = {
    Urgency.NONE: "no referral",
    Urgency.ROUTINE: "routine",
    Urgency.SOON: "soon (weeks)",
    Urgency.URGENT: "urgent (days)",
    Urgency.IMMEDIATE: "same day",
}
GRADABLE = {"good": "good", "barely": "barely gradable", "not": "not gradable"}
SCALES = {"NHS-FBG": "uk", "META-PM": "mmac", "KWB": "keith_wagener_barker"}  # a report's scale -> a record's


def plain(text: object) -> str:
    """`text` with every character that is not to be seen, or that turns the reading direction, shown as �."""
    return "".join(
        c if c in KEPT or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") else "�"
        for c in str(text).replace("\r\n", "\n").replace("\r", "\n").replace("\u00ad", "").replace("\u200b", "")
    )


def line(text: object) -> str:
    """`plain` on one line."""
    return " ".join(plain(text).split())


def shown(name: str) -> str:
    """A name of the vocabulary as it is said; any other as it stands, without underscores."""
    return display(name) if known(name) else line(name).replace("_", " ")


def initial(text: str) -> str:
    return text[:1].upper() + text[1:]


def title(report: Report) -> str:
    """What the report is of."""
    if not any(eye.gradability.is_retina for eye in report.eyes):
        return "No fundus photograph"
    names = [eye.title.lower() for _, eye in in_order(report)]
    return f"Colour fundus photograph{'s' if len(names) > 1 else ''}, {' and '.join(names)}"


def in_order(report: Report) -> list[tuple[int, EyeReport]]:
    """The eyes with their places in the report, the right eye first: it stands on the left, as the reader faces it."""
    return sorted(enumerate(report.eyes), key=lambda place: place[1].laterality.eye != "right")


def presence(lesion: Lesion) -> str:
    return {True: "present", False: "absent", None: "not said: sources disagree or are unsure"}[lesion.present]


def amount(lesion: Lesion) -> str:
    if lesion.present is not True:
        return ""
    return str(lesion.count) if lesion.count is not None else line(lesion.band or "")


def where(lesion: Lesion) -> str:
    if lesion.present is not True:
        return ""
    places = zoned(lesion) if lesion.zones else "place unknown" if lesion.zones is None else ""
    if lesion.nearest_fovea is None:
        return places
    near = f"nearest {lesion.nearest_fovea:.1f} disc diameters from the fovea"
    return f"{places}; {near}" if places else near


def zoned(lesion: Lesion) -> str:
    """Its zones, with how many lie in each where that is known."""
    numbers = lesion.by_zone or {}
    return ", ".join(f"{zone} {numbers[zone]}" if zone in numbers else zone for zone in lesion.zones or ())


def sources(lesion: Lesion) -> str:
    """What each source says of the lesion."""
    told = [] if lesion.answered is None else [f"language model: yes {lesion.answered:.2f}"]
    told.append("no such mask" if lesion.drawn is None else f"U-Net: {counted(lesion.drawn, 'region')}")
    return "; ".join(told)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sure(said: Stated) -> str:
    """The probability of a statement, and whether it is calibrated."""
    if said.probability is None:
        return ""
    return f"probability {said.probability:.2f}" + (", calibrated" if said.calibrated else "")


def unseen(said: Stated) -> bool:
    """Whether something is stated that nothing in the photograph speaks for, and no person answers for."""
    nothing = (isinstance(said, Grade) and said.value in (None, UNGRADABLE)) or (
        isinstance(said, Laterality) and said.eye is None
    )
    return not (said.seen or nothing or said.origin == Origin.USER)


def evidence(said: Stated) -> str:
    """What a statement rests on; empty for what a person said without naming any."""
    return "; ".join(line(e.text) for e in said.evidence) or (NO_EVIDENCE if unseen(said) else "")


def sentence(said: Statement) -> str:
    return line(said.text) or "(taken out by the reviewer)"


def scale_of(scale: str) -> str:
    """The name that records use for a report's scale."""
    return SCALES.get(scale, scale.lower().replace("-", "_").replace(" ", "_"))


def value_names(scale: str) -> dict[str, str]:
    """The values of a scale in capitals and what they mean: those by which grades are given, else those of grades.yaml;
    empty for a scale that neither knows.
    """
    if scale in NAMES:
        return NAMES[scale]
    known_scale = scales().get(scale_of(scale))
    return {value.upper(): display(name) for value, name in known_scale.values.items()} if known_scale else {}


def values_of(grade: Grade) -> dict[str, str]:
    """Values to choose from on the scale, and what they mean; empty where nobody knows such a scale or value."""
    values = value_names(grade.scale)
    return values if grade.value is None or grade.value in values else {}


def graded(grade: Grade) -> str:
    if grade.value is None:
        return "not given"
    return line(grade.value) + (f" ({line(grade.name)})" if grade.name else "")


FIELDS = {"both": "macula and disc on either side of the middle"}  # any other says itself


def reasons(grade: Grade) -> str:
    """The steps of the rule, then what it asks for beside the photograph."""
    needs = [f"needs {'; '.join(map(line, grade.needs))}"] if grade.needs else []
    return "; ".join([*map(line, grade.because), *needs])


def anatomy(eye: EyeReport) -> list[tuple[str, str]]:
    """What was measured of disc, vessels and macula: pairs of what and value."""
    disc, vessels, macula = eye.disc, eye.vessels, eye.macula
    found = {True: "found", False: "not found", None: "not assessed"}
    rows = [("Disc", found[disc.found])]
    if disc.cup_disc_ratio is not None:
        rows.append(("Vertical cup-disc ratio", f"{disc.cup_disc_ratio:.2f}"))
    if disc.diameter is not None:
        rows.append(("Disc diameter", f"{disc.diameter:.0f} pixels"))
    rows.append(("Vessels", found[vessels.found]))
    if vessels.density is not None:
        rows.append(("Vessel density", f"{vessels.density:.1%} of the field"))
    return rows + macular(macula)


def macular(macula: Macula) -> list[tuple[str, str]]:
    if macula.centre is None and macula.nearest_exudate is None:
        return [("Macula", "fovea not located")]
    if macula.nearest_exudate is None:
        return [("Macula", "fovea located")]
    return [("Exudate nearest to the fovea", f"{macula.nearest_exudate:.1f} disc diameters")]


def statements(eye: EyeReport) -> list[tuple[str, str, Statement]]:
    """The sentences about parts of the eye: path within the eye, part, statement."""
    found = [] if eye.media is None else [("media", "media", eye.media)]
    for part in ("disc", "vessels", "macula"):
        of_part = getattr(eye, part).statements
        found += [(f"{part}.statements.{i}", part, said) for i, said in enumerate(of_part)]
    return found


def boxes(said: Stated) -> list[tuple[int, int, int, int]]:
    """Every box that a statement rests on: left, top, width, height."""
    own = list(getattr(said, "boxes", ()))
    own += [box for e in said.evidence for box in e.boxes]
    places = [(b.left, b.top, b.right - b.left, b.bottom - b.top) for b in own]
    return list(dict.fromkeys(places))


def masks(said: list[Evidence]) -> list[str]:
    return list(dict.fromkeys(e.mask for e in said if e.mask))


def own_changes(review: Review) -> list[tuple[str, str, str]]:
    """Path, before and after of what the reviewer changed, without what only followed from it."""
    own = [change for change in review.changes if change.path.rpartition(".")[2] not in FOLLOWS]
    return [(change.path, valued(change.before), valued(change.after)) for change in own]


def valued(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return shown(str(value.get("kind", "")))
    if isinstance(value, list):
        return ", ".join(map(valued, value)) or "none"
    return "nothing" if value is None else line(value)


def reviewed(report: Report) -> str:
    """Who has signed the state that is shown, and when."""
    if not report.reviews:
        return "Not reviewed."
    last = report.reviews[-1]
    changes = counted(len(own_changes(last)), "change")
    return f"Review {last.version} by {line(last.reviewer)}, {last.signed:%Y-%m-%d %H:%M} UTC: {changes}."


def map_note(eye: EyeReport) -> str:
    """What the maps of an eye show, and what they do not."""
    first = eye.impression.diagnoses[0].name if eye.impression and eye.impression.diagnoses else "the impression"
    return (
        f"Where the adapters that read each depth of the U-Net looked for the words “{shown(first)}”, each map on its "
        "own scale. Where a model looked is no proof of what it saw there."
    )


def eye_side(eye: EyeReport) -> str:
    side, origin = eye.laterality.eye, eye.laterality.origin
    if side is None:
        return "not given, and the photograph does not tell it"
    if origin == Origin.USER:
        return f"{side}, as given"
    if origin == Origin.RULE:
        return f"{side}, by the file's name"
    return f"{side}, told from the photograph" + (f" ({sure(eye.laterality)})" if sure(eye.laterality) else "")


def quality(eye: EyeReport) -> str:
    g = eye.gradability
    text = GRADABLE[g.value] if g.is_retina else "no retina"
    return text + (f": {'; '.join(map(line, g.reasons))}" if g.reasons else "")
