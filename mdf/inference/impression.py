"""The impression: the likeliest diagnosis at the checkpoint's operating point, unless the findings contradict it."""

from collections.abc import Mapping, Sequence

import numpy as np

from mdf.evaluation.operating_point import OperatingPoint
from mdf.inference.grading import BASIC
from mdf.inference.report import Diagnosis, Disc, Evidence, Gradability, Impression, Lesion, Origin
from mdf.inference.sentences import LARGE_CUP
from mdf.vocabulary import NORMAL, display, is_a

CONFIDENT = 0.5  # probability of the first diagnosis below which there is no impression, without an operating point
SIGNS = {"diabetic_retinopathy": BASIC, "amd": ("drusen",)}  # lesions that bear a diagnosis out
NEEDED = ("diabetic_retinopathy",)  # diagnoses that are none without one of their signs


def calibrated(probabilities: Mapping[str, float], point: OperatingPoint | None) -> dict[str, float]:
    """The probabilities at the operating point, the highest first."""
    if point is None:
        return dict(sorted(probabilities.items(), key=lambda pair: -pair[1]))
    table = point.calibrate(np.array([[probabilities[name] for name in point.classes]]))[0]
    return dict(sorted(zip(point.classes, map(float, table), strict=True), key=lambda pair: -pair[1]))


def give_impression(
    probabilities: Mapping[str, float],
    point: OperatingPoint | None,
    gradability: Gradability,
    lesions: Sequence[Lesion] | None,
    disc: Disc,
) -> Impression | None:
    """The impression from the model's probabilities; None where the photograph cannot be graded.

    `diagnosis` is None where the first is not sure enough, or where the findings contradict it; the text says which.
    """
    if not gradability.may_grade:
        return None
    table = calibrated(probabilities, point)
    name, p = next(iter(table.items()))
    threshold = point.thresholds.get(name, CONFIDENT) if point else CONFIDENT
    least = max(threshold, point.abstain_below if point else 0.0)
    said = Impression(
        origin=Origin.SCORING,
        text="",
        probability=p,
        calibrated=point is not None,
        diagnoses=[Diagnosis(name=n, probability=min(1.0, q)) for n, q in table.items()],
        threshold=least,
    )
    if p < least:
        said.text = f"No confident impression: the most likely, {display(name)}, has a probability of only {p:.2f}."
    elif against := contradiction(name, lesions, disc):
        said.text = (
            f"No impression: the likeliest answer, {display(name)} (probability {p:.2f}), and the findings disagree: "
            f"{against}."
        )
    else:
        said.diagnosis, said.evidence = name, support(name, lesions, disc)
        said.text = f"{display(name).capitalize()} (probability {p:.2f})."
    return said


def contradiction(name: str, lesions: Sequence[Lesion] | None, disc: Disc) -> str | None:
    """What in the findings speaks against a diagnosis, in words; None where nothing does."""
    if name == NORMAL:
        there = [display(one.kind) for one in lesions or () if one.present]
        return f"{' and '.join(there)} in the picture" if there else None
    for disease in NEEDED:
        if is_a(name, disease):
            signs = [one for one in lesions or () if one.kind in SIGNS[disease]]
            if len(signs) == len(SIGNS[disease]) and all(one.present is False for one in signs):
                return "none of its lesions is seen"
    return None


def can_be_borne_out(name: str) -> bool:
    """Whether anything that is measured here could bear a diagnosis out."""
    return is_a(name, "glaucoma") or any(is_a(name, disease) for disease in SIGNS)


def support(name: str, lesions: Sequence[Lesion] | None, disc: Disc) -> list[Evidence]:
    """What in the picture bears a diagnosis out."""
    if name == NORMAL:
        absent = [one for one in lesions or () if one.seen]
        return [Evidence(text="no lesion in the masks")] if absent and not any(o.present for o in absent) else []
    if is_a(name, "glaucoma"):
        ratio = disc.cup_disc_ratio
        return [e for s in disc.statements for e in s.evidence] if ratio is not None and ratio > LARGE_CUP else []
    signs = next((kinds for disease, kinds in SIGNS.items() if is_a(name, disease)), ())
    return [
        Evidence(text=e.text, mask=e.mask)
        for one in lesions or ()
        if one.present and one.kind in signs
        for e in one.evidence
    ]
