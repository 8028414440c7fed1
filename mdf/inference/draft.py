"""From a checkpoint and the photographs of one patient to a draft report, and the pictures that go with it.

The quality gate comes first: of a photograph that can barely or not be graded nothing is said but that, and what to do.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from mdf import __version__
from mdf.errors import UserError
from mdf.evaluation.facts import read_facts
from mdf.evaluation.operating_point import OperatingPoint
from mdf.files import sha256
from mdf.imaging.eye_side import EyeSide, eye_side
from mdf.imaging.field import Field, find_field
from mdf.imaging.frame import Frame
from mdf.imaging.quality import Quality
from mdf.inference import report as form
from mdf.inference.comparison import check_earlier, compare_eyes, since
from mdf.inference.findings import Answers, combine, may_be, most, owner
from mdf.inference.grading import DME, ICDR, NHS, grade_lesions
from mdf.inference.impression import calibrated, can_be_borne_out, give_impression
from mdf.inference.measure import Measured, measure
from mdf.inference.pictures import Pictures, place_masks
from mdf.inference.predictor import Photograph, Predictor, nasal_side
from mdf.inference.referral import RULES, check_rules, most_urgent, refer
from mdf.inference.report import EyeReport, Flag, Gradability, Grade, Lesion, Origin, Report, Statement
from mdf.inference.sentences import doubted, hold
from mdf.inference.sides import Found, Side, check_pair, choose_side
from mdf.trained_on import TrainedOn
from mdf.vocabulary import NORMAL, canonical, display, is_a

LIMITS = (
    "the retina outside the picture",
    "thickness of the retina: macular oedema needs OCT",
    "eye pressure, visual fields and the depth of the cup: a suspicious disc is no glaucoma yet",
    "visual acuity, symptoms and any change over time",
    "a disease that is not in the list of diagnoses; a normal photograph does not rule out disease",
)
SCALES = {ICDR: "icdr", NHS: "uk", DME: "dme"}  # a report's scale -> that of grades.yaml
NONE = ("0", "R0")  # grades that say that there is no retinopathy
UNASSESSED = "findings are not assessed by this checkpoint"
CENTRED = 1.0  # disc diameters from the middle of the field within which macula or disc is in the middle


@dataclass(frozen=True)
class Looked:
    """One photograph, and what is known of it before it is put into words."""

    photograph: Photograph
    sha256: str
    field: Field
    told: EyeSide
    side: Found
    masks: Mapping[str, np.ndarray]  # probabilities [U,U]; {} where they are not to be relied on
    inside: np.ndarray  # bool [U,U]
    frame: Frame


def draft(
    predictor: Predictor,
    photographs: Sequence[Photograph],
    *,
    eyes: Sequence[Side | None] = (),
    rules: str = RULES,
    patient: str | None = None,
    earlier: Report | None = None,
    signs: Sequence[Sequence[str]] = (),
    force: bool = False,
    maps: bool = False,
) -> tuple[Report, list[Pictures]]:
    """The report of one photograph, or of a left and a right eye, and the pictures of each eye in its order.

    Args:
        eyes: of each photograph its side, None or nothing where it is not given.
        rules: name of a rule set of referral.yaml.
        patient: a pseudonym.
        earlier: the report of an earlier visit, to say what changed.
        signs: of each photograph the findings that a person saw in it, by name.
        force: go on where both eyes look like the same side.
        maps: put into the pictures where the adapters of each depth looked.

    Raises UserError for more than two photographs, for eye sides that contradict each other, for two photographs of
    the same eye, for an unknown rule set or sign and for an earlier report of another patient.
    """
    if not 1 <= len(photographs) <= 2:
        raise UserError(f"a report is of one or two eyes, not of {len(photographs)} photographs")
    rules = check_rules(rules)
    given = [*eyes, *[None] * (len(photographs) - len(eyes))]
    named = [[canonical(name) for name in some] for some in (*signs, *[()] * (len(photographs) - len(signs)))]
    if earlier is not None:
        check_earlier(earlier, patient)
    looked = [look(predictor, photograph, side) for photograph, side in zip(photographs, given, strict=True)]
    if len(looked) == 2:
        paths, hashes = [one.photograph.path for one in looked], [one.sha256 for one in looked]
        check_pair(paths, hashes, [one.told for one in looked], [one.side for one in looked], force=force)
    point = predictor.operating_point
    made = [draft_eye(predictor, one, rules, point, seen) for one, seen in zip(looked, named, strict=True)]
    parts = [eye for eye, _ in made]
    compared = since(parts, earlier) if earlier is not None else (None, [])
    report = Report(
        software=software(predictor, point),
        patient=patient,
        eyes=parts,
        comparison=compare_eyes(parts),
        earlier=compared[0],
        since=compared[1],
        referral=most_urgent(parts),
    )
    pictures = [pictures for _, pictures in made]
    if maps:
        from mdf.inference.depth_maps import depth_maps

        looks = [depth_maps(predictor, one.photograph, eye) for one, eye in zip(looked, parts, strict=True)]
        pictures = [replace(shown, maps=look) for shown, look in zip(pictures, looks, strict=True)]
    return report, pictures


def look(predictor: Predictor, photograph: Photograph, given: Side | None) -> Looked:
    """What is needed of a photograph before anything is said. Raises UserError where its eye side is contradictory."""
    image = photograph.image
    found = find_field(image)
    masks = {} if predictor.model.config.stale_masks else predictor.masks(photograph)
    inside = photograph.inputs["field"][0, 0].cpu().numpy().astype(bool)
    told = eye_side(image, found)
    if photograph.quality.gradable != "good":
        told = EyeSide(None, 0.5)  # rules about disc and vessels say nothing where these are not seen
    return Looked(
        photograph=photograph,
        sha256=sha256(photograph.path),
        field=found,
        told=told,
        side=choose_side(photograph.path, given, told, nasal_side(masks, inside)),
        masks=masks,
        inside=inside,
        frame=Frame.of(image, predictor.processor.preprocessing),
    )


def draft_eye(
    predictor: Predictor, looked: Looked, rules: str, point: OperatingPoint | None, signs: Sequence[str]
) -> tuple[EyeReport, Pictures]:
    """The report of one eye, and its pictures."""
    photograph = looked.photograph
    gradability = gradability_of(photograph.quality)
    seen = [
        Lesion(kind=kind, present=True, origin=Origin.USER, evidence=[form.Evidence(text="seen by a person")])
        for kind in dict.fromkeys(signs)
    ]
    eye = EyeReport(
        laterality=looked.side.laterality,
        photograph=describe(looked),
        gradability=gradability,
        media=media(photograph.quality),
        limits=list(LIMITS),
        flags=[*warnings(photograph), *(looked.side.flags if gradability.is_retina else ())],
    )
    if not gradability.may_grade:
        sure = calibrated(predictor.diagnose(photograph), point) if gradability.is_retina else {}
        eye.lesions = seen or None
        eye.grades = grade_lesions(None, eye.macula, gradability) if gradability.is_retina else []
        texts = predictor.prompts.recommendations
        eye.referral = refer(gradability, seen, eye.grades, None, texts, rules, probabilities=sure)
        return eye, Pictures(photograph.image)
    eye.flags += unproven_masks(predictor.model.trained_on, looked.masks)
    measured = measure(looked.masks, looked.inside, looked.frame, looked.side.nasal, green(predictor, photograph))
    trained = predictor.processor.questions
    asked = not trained or "presence" in trained
    answers = answers_of(predictor, photograph, measured, point) if asked else Answers({})
    lesions = combine(measured, answers, predictor.prompts) if asked else []
    eye.disc, eye.vessels, eye.macula = measured.disc, measured.vessels, measured.macula
    found = [*seen, *(one for one in lesions if one.kind not in {s.kind for s in seen})]
    eye.lesions = found if asked else found or None
    exudate = next((one for one in found if one.kind == "hard_exudate" and one.present), None)
    eye.macula.nearest_exudate = exudate.nearest_fovea if exudate else None
    eye.photograph.fields = centred(looked, measured)
    eye.impression = give_impression(predictor.diagnose(photograph), point, gradability, found, eye.disc)
    diagnosis = eye.impression.diagnosis if eye.impression else None
    text = predictor.ask(photograph, predictor.prompts.questions["report"]["ask"][0])
    eye.grades = grade_lesions(found, eye.macula, gradability, most=most(found, predictor.prompts), diagnosis=diagnosis)
    if not found:  # nobody looked: all grades are open, and naming the worst would only alarm
        for grade in eye.grades:
            grade.between, grade.because, grade.needs = [], [UNASSESSED], []
    compare_grades(eye.grades, stated_grades(predictor, photograph, text))
    eye.words = hold(text, eye)
    eye.referral = refer(gradability, found, eye.grades, eye.impression, predictor.prompts.recommendations, rules)
    if not asked:
        text = "This checkpoint was not trained on questions about lesions: findings are not assessed."
        eye.flags.append(Flag(text=text, about="lesions"))
    eye.flags += disagreements(eye, answers, predictor)
    return eye, Pictures(photograph.image, layers(looked, measured, answers, asked))


def gradability_of(quality: Quality) -> Gradability:
    return Gradability(
        value=quality.gradable,  # type: ignore[arg-type]
        is_retina=quality.is_retina,
        reasons=list(quality.reasons),
        score=min(1.0, max(0.0, quality.score)),
        parts=quality.parts,
        forced=not quality.is_retina,
    )


def warnings(photograph: Photograph) -> list[Flag]:
    """What speaks against a report of the photograph."""
    quality, text = photograph.quality, photograph.warning
    if quality.is_retina and quality.gradable != "good":  # of which a report says less than an answer in chat
        can = "can barely be" if quality.gradable == "barely" else "cannot be"
        because = f" ({'; '.join(quality.reasons)})" if quality.reasons else ""
        text = f"This photograph {can} graded{because}: neither grade nor impression nor finding is read from it."
    return [Flag(text=text, about="photograph")] if text else []


def unproven_masks(trained: TrainedOn, masks: Collection[str]) -> list[Flag]:
    """That masks were learnt from drawings alone: what they miss in a person's eye, nobody has measured."""
    drawn = [name for name in trained.drawn() if name in masks]
    if not drawn:
        return []
    names = ", ".join(name.replace("_", " ") for name in drawn)
    which = "The masks" if len(drawn) == len(masks) else f"The masks of {names}"
    text = (
        f"{which} were learnt from drawn phantoms alone: on a person's photograph, what follows from them is unproven."
    )
    return [Flag(text=text, about="lesions")]


def media(quality: Quality) -> Statement | None:
    """How clearly the retina is seen, which is all that a photograph tells of the media."""
    if "sharpness" not in quality.parts:
        return None
    clear = quality.gradable == "good"
    text = "the retina is seen clearly" if clear else f"the view of the retina is limited: {'; '.join(quality.reasons)}"
    parts = ", ".join(f"{name} {part:.2f}" for name, part in quality.parts.items())
    return Statement(origin=Origin.MEASUREMENT, text=text, evidence=[form.Evidence(text=f"of 1: {parts}")])


def describe(looked: Looked) -> form.Photograph:
    """The photograph without the metadata of its file."""
    height, width = looked.photograph.image.shape[:2]
    left, top, right, bottom = looked.field.box
    whole = np.pi / 4 * max(right - left, bottom - top) ** 2
    view = 1.0 if looked.field.share == 1 else min(1.0, np.count_nonzero(looked.field.mask) / whole)
    return form.Photograph(
        name=looked.photograph.path.name, sha256=looked.sha256, width=width, height=height, view=round(view, 3)
    )


def centred(looked: Looked, measured: Measured) -> Literal["macula-centred", "disc-centred", "both"] | None:
    """What lies in the middle of the field: macula, disc, or the two beside it."""
    disc, fovea = measured.disc, measured.macula.centre
    if disc.box is None or disc.diameter is None or fovea is None:
        return None
    left, top, right, bottom = looked.field.box
    middle = ((left + right) / 2, (top + bottom) / 2)
    at = ((disc.box.left + disc.box.right) / 2, (disc.box.top + disc.box.bottom) / 2)
    to_disc, to_fovea = (float(np.hypot(x - middle[0], y - middle[1])) / disc.diameter for x, y in (at, fovea))
    if min(to_disc, to_fovea) > CENTRED:
        return "both"
    return "disc-centred" if to_disc < to_fovea else "macula-centred"


def green(predictor: Predictor, photograph: Photograph) -> np.ndarray:
    """The green channel as the U-Net sees it, float [U,U] in 0..1."""
    settings = predictor.processor.preprocessing
    pixels = photograph.inputs["unet_pixels"][0, 1].float().cpu().numpy()
    return pixels * settings.unet_std[1] + settings.unet_mean[1]


def answers_of(
    predictor: Predictor, photograph: Photograph, measured: Measured, point: OperatingPoint | None
) -> Answers:
    """What the language model says of the lesions; where and how many only of those that have no mask."""
    thresholds = dict(point.findings) if point else {}
    asked = Answers(predictor.presence(photograph), thresholds=thresholds)
    alone = [kind for kind in asked.present if kind not in measured.kinds and asked.affirms(kind)]
    quadrant, count = predictor.places(photograph, alone)
    return Answers(asked.present, quadrant, count, thresholds)


def stated_grades(predictor: Predictor, photograph: Photograph, text: str) -> dict[str, str]:
    """The model's own grades by the report's scales: its answers where it was trained on the question, or its words."""
    found = {}
    said = {grade.scale: grade.value for grade in read_facts(text).grades}
    for scale, name in SCALES.items():
        answer = predictor.grade(photograph, name)
        value = answer[0] if answer else said.get(name)
        if value is not None:
            found[scale] = value
    return found


def compare_grades(grades: Sequence[Grade], stated: Mapping[str, str]) -> None:
    """Write the model's own grades beside those by rule."""
    for grade in grades:
        grade.stated = stated.get(grade.scale)
        if grade.stated is not None and grade.value is not None:
            grade.disagrees = not grade.value.upper().startswith(grade.stated.upper())


def disagreements(eye: EyeReport, answers: Answers, predictor: Predictor) -> list[Flag]:
    """Where sources say different things, and what the checkpoint lacks."""
    flags = []
    for one in eye.lesions or ():
        if one.present is None and one.answered is not None:
            word = "yes" if answers.affirms(one.kind) else "no"
            seen = one.evidence[0].text if one.evidence else "no mask"
            name = display(one.kind).capitalize()
            text = f"{name}: cannot be said. The language model answers {word} (yes {one.answered:.2f}), but {seen}."
            flags.append(Flag(text=text, about=f"lesions.{one.kind}"))
    for grade in eye.grades:
        if grade.disagrees:
            text = f"{grade.scale}: {grade.value} follows from the findings, the model itself says {grade.stated}."
            flags.append(Flag(text=text, about=f"grades.{grade.scale}"))
    if doubted(eye) and eye.impression and is_a(eye.impression.diagnoses[0].name, "diabetic_retinopathy"):
        for grade in eye.grades:
            if grade.scale in (ICDR, NHS) and grade.value in NONE:
                text = f"{grade.scale} {grade.value} follows from findings that the likeliest diagnosis contradicts."
                flags.append(Flag(text=text, about=f"grades.{grade.scale}"))
    if eye.impression and eye.impression.diagnosis is None:
        flags.append(Flag(text=eye.impression.text, about="impression"))
    elif eye.impression and not eye.impression.evidence:
        flags.append(Flag(text=not_borne_out(eye, eye.impression.diagnosis or ""), about="impression"))
    if predictor.model.config.stale_masks:
        text = "The masks of this checkpoint are stale and left out: nothing was measured."
        flags.append(Flag(text=text, about="photograph"))
    else:
        blind = [display(one.kind) for one in eye.lesions or () if one.origin == Origin.SCORING]
        blind += [n for n, f in (("the optic disc", eye.disc.found), ("vessels", eye.vessels.found)) if f is None]
        if blind:
            text = f"This checkpoint has no mask of {', '.join(blind)}: nothing of it was measured."
            flags.append(Flag(text=text, about="photograph"))
    return flags


def not_borne_out(eye: EyeReport, diagnosis: str) -> str:
    """What to know of an impression that nothing measured in the photograph speaks for."""
    name = display(diagnosis)
    if eye.lesions is None and diagnosis == NORMAL:
        return f"The impression, {name}, is the model's answer alone: no lesion was looked for, none is ruled out."
    if diagnosis == NORMAL:
        return f"The impression, {name}, is the model's answer alone: nothing measured bears it out."
    if eye.lesions is None or not can_be_borne_out(diagnosis):
        return f"The impression, {name}, is the model's answer alone: nothing that is measured here can bear it out."
    return f"No finding bears the impression out: {name}."


def layers(looked: Looked, measured: Measured, answers: Answers, assessed: bool) -> dict[str, np.ndarray]:
    """One layer a mask on the photograph's own pixels; of lesions what the report counts with each kind, and with every
    kind that it may be what it counts with none. Where they are not `assessed` none is drawn: a mark that the report
    does not speak of would be taken for a finding.
    """
    own: dict[str, list[int]] = {kind: [] for kind in measured.kinds if assessed}
    for piece in measured.pieces if assessed else ():
        kind = owner(piece, answers)
        for name in [kind] if kind else may_be(piece):
            own[name].append(piece.label)
    drawn = {
        name: np.isin(measured.labels, own[name]) if name in own else mask * looked.inside
        for name, mask in looked.masks.items()
        if assessed or name not in measured.kinds
    }
    return place_masks(looked.frame, drawn)


@lru_cache(maxsize=8)
def fingerprint(weights: Path) -> str:
    """16 hexadecimal digits of the file of a checkpoint's own weights."""
    return sha256(weights)[:16]


def software(predictor: Predictor, point: OperatingPoint | None) -> form.Software:
    """What made the draft, without a path."""
    folder = predictor.checkpoint.resolve()
    used = {} if point is None else {"temperature": point.temperature, "abstain_below": point.abstain_below}
    used |= dict(point.thresholds) | dict(point.findings) if point else {}
    return form.Software(
        version=__version__,
        checkpoint=predictor.name,
        fingerprint=fingerprint(folder / "model.safetensors"),
        preprocessing=predictor.processor.preprocessing.hash(),
        masks=[] if predictor.model.config.stale_masks else list(predictor.model.config.masks),
        operating_point=used,
    )
