"""What is said of two eyes together, and of one eye since an earlier report: differences of statements, by rule."""

from collections.abc import Mapping, Sequence

from mdf.errors import UserError
from mdf.inference.report import Earlier, Evidence, EyeReport, Lesion, Origin, Report, Statement
from mdf.vocabulary import display

ASYMMETRY = 0.2  # of the cup-disc ratios, from which on it is remarkable
CHANGE = 0.1  # of a cup-disc ratio, more than two drawings of one disc differ by


def rule(text: str, *evidence: Evidence) -> Statement:
    return Statement(origin=Origin.RULE, text=text, evidence=list(evidence))


def compare_eyes(eyes: Sequence[EyeReport]) -> list[Statement]:
    """What differs between the two eyes of a patient; none for one eye."""
    if len(eyes) < 2:
        return []
    if dark := [eye.title.lower() for eye in eyes if not eye.gradability.may_grade]:
        return [rule(f"The eyes are not compared: the {' and the '.join(dark)} cannot be graded.")]
    first, second = eyes
    ratios = [eye.disc.cup_disc_ratio for eye in eyes]
    said = []
    if ratios[0] is not None and ratios[1] is not None:
        apart = abs(ratios[0] - ratios[1])
        told = " and ".join(f"{r:.2f} ({eye.title.lower()})" for r, eye in zip(ratios, eyes, strict=True))
        remark = f", an asymmetry of {ASYMMETRY} or more" if round(apart, 2) >= ASYMMETRY else ", no asymmetry"
        said.append(rule(f"Cup-disc ratios {told}: a difference of {apart:.2f}{remark}.", *evidence_of("cup")))
    lesions: list[Mapping[str, Lesion]] = [{one.kind: one for one in eye.lesions or ()} for eye in eyes]
    for kind in dict.fromkeys(k for found in lesions for k in found):
        presents = [found[kind].present if kind in found else None for found in lesions]
        if set(presents) == {True, False}:
            at = first if presents[0] else second
            text = f"{display(kind).capitalize()} in the {at.title.lower()} only."
            said.append(rule(text, *evidence_of(kind)))
    for scale, (one, two) in graded(first, second).items():
        if one != two:
            said.append(rule(f"{scale}: {one} in the {first.title.lower()}, {two} in the {second.title.lower()}."))
    names = [eye.impression.diagnosis if eye.impression else None for eye in eyes]
    if names[0] and names[1] and names[0] != names[1]:
        said.append(
            rule(
                f"The impressions differ: {display(names[0])} ({first.title.lower()}), "
                f"{display(names[1])} ({second.title.lower()})."
            )
        )
    if not said:
        said = [rule("No difference between the eyes in what was assessed.")]
    if any(eye.lesions is None for eye in eyes):
        said.append(rule("Findings are not compared: they were not assessed in both eyes."))
    return said


def evidence_of(mask: str) -> list[Evidence]:
    return [Evidence(text=f"the masks of {mask.replace('_', ' ')}", mask=mask)]


def graded(first: EyeReport, second: EyeReport) -> dict[str, tuple[str, str]]:
    """The grades that both have, by scale."""
    mine, other = ({g.scale: g.value for g in eye.grades if g.value is not None} for eye in (first, second))
    return {scale: (mine[scale], other[scale]) for scale in mine if scale in other}


def check_earlier(earlier: Report, patient: str | None) -> None:
    """Raise UserError where an earlier report is said to be another patient's."""
    if patient and earlier.patient and patient != earlier.patient:
        raise UserError(
            f"the earlier report is of the patient {earlier.patient}, this one of {patient}; give the right one, or "
            "leave --earlier out"
        )


def since(eyes: Sequence[EyeReport], earlier: Report) -> tuple[Earlier, list[Statement]]:
    """Which earlier report it is, and what changed since: eye by eye, of what both assessed."""
    before = Earlier(id=earlier.id, created=earlier.created, reviewed=earlier.signed)
    said = []
    for eye in eyes:
        old = next((e for e in earlier.eyes if e.laterality.eye and e.laterality.eye == eye.laterality.eye), None)
        if eye.laterality.eye is None:
            said.append(rule("Not compared with the earlier report: the eye side is not known."))
        elif old is None:
            said.append(rule(f"{eye.title}: not in the earlier report."))
        elif not (eye.gradability.may_grade and old.gradability.may_grade):
            said.append(rule(f"{eye.title}: not compared, one of the photographs cannot be graded."))
        elif old.photograph.sha256 == eye.photograph.sha256:
            said.append(rule(f"{eye.title}: the earlier report is of the very same photograph."))
        else:
            said += changes(old, eye) or [rule(f"{eye.title}: no change in what both reports assessed.")]
    return before, said


def changes(old: EyeReport, new: EyeReport) -> list[Statement]:
    """What changed in one eye."""
    said = []
    before = {one.kind: one for one in old.lesions or ()}
    for one in new.lesions or ():
        was, name = before.get(one.kind), display(one.kind)
        if was is None or None in (was.present, one.present):
            continue
        if was.present != one.present:
            said.append(f"{name}: {'new' if one.present else 'no longer seen'}")
        elif one.band and was.band and one.band != was.band:
            said.append(f"{name}: {was.band}, now {one.band}")
    for scale, (was_value, value) in graded(old, new).items():
        if was_value != value:
            said.append(f"{scale}: {was_value}, now {value}")
    ratios = old.disc.cup_disc_ratio, new.disc.cup_disc_ratio
    if ratios[0] is not None and ratios[1] is not None and abs(ratios[1] - ratios[0]) >= CHANGE:
        said.append(f"cup-disc ratio: {ratios[0]:.2f}, now {ratios[1]:.2f}")
    names = [eye.impression.diagnosis if eye.impression else None for eye in (old, new)]
    if names[0] and names[1] and names[0] != names[1]:
        said.append(f"impression: {display(names[0])}, now {display(names[1])}")
    return [rule(f"{new.title}: {text}.") for text in said]
