"""Phantom fundus photographs, drawn so that image, masks, findings, grade and text agree exactly.

They are a teaching and testing aid: they look like a retina at a glance, and they are not medical data.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mdf.errors import UserError
from mdf.imaging.phantom_anatomy import Anatomy, Vessels, draw_anatomy, draw_vessels
from mdf.imaging.phantom_lesions import CLUSTERED, LESIONS, QUADRANTS, Canvas, Lesion
from mdf.imaging.phantom_paint import Scene, paint
from mdf.imaging.phantom_report import write_report
from mdf.records import Finding, FundusRecord

VERSION = 4  # raised when the same seed draws another photograph, or its record says more
DIAGNOSES = ("normal", "diabetic_retinopathy", "amd", "glaucoma")
SHARES = (0.2, 0.4, 0.2, 0.2)  # of the diagnoses; diabetic retinopathy alone has lesions in quadrants
MASKS = ("vessel", *LESIONS, "disc", "cup", "field")
LARGE_CUP = 0.6  # cup-disc ratio above which the cup is enlarged
BANDS = ((1, 5), (6, 20), (21, 26))  # numbers of lesions
MOST = {"haemorrhage": 20, "cotton_wool_spot": 10}  # more would be severe retinopathy; would find no room
MIN_SIZE = 96  # pixels; smaller, lesions run together and cannot be counted


@dataclass(frozen=True)
class Phantom:
    image: np.ndarray  # uint8 [S, S, 3]
    masks: dict[str, np.ndarray]  # name of MASKS -> bool [S, S]; all names are there, absent lesions are all false
    diagnosis: tuple[str, ...]
    findings: tuple[Finding, ...]
    grade: dict[str, int]  # {"icdr": 1..3} in diabetic retinopathy, else empty
    eye: str  # left | right
    texts: dict[str, str]  # {"report": ...}
    disc: tuple[float, float, float]  # x, y, radius in pixels
    fovea: tuple[float, float]  # x, y in pixels
    boxes: dict[str, list]  # disc -> [left, top, right, bottom] in pixels, name of a lesion -> a list of them

    def record(self, name: str, image: str, **more: Any) -> FundusRecord:
        """What a manifest says of it: `name` is the id, `image` the path of the photograph, `more` other fields."""
        return FundusRecord(
            id=name,
            image=image,
            eye=self.eye,
            diagnosis=self.diagnosis,
            findings=self.findings,
            texts=self.texts,
            boxes=self.boxes,
            points={"disc": list(self.disc[:2]), "fovea": list(self.fovea)},
            grade=self.grade,
            camera="phantom",
            source="phantom",
            license="CC0-1.0",
            **more,
        )


@dataclass(frozen=True)
class Sketch:
    """Everything of a phantom photograph that is decided before it is painted."""

    diagnosis: str
    anatomy: Anatomy
    vessels: Vessels
    field: np.ndarray  # bool [S, S]
    lesions: tuple[Lesion, ...]
    grade: dict[str, int]
    rng: np.random.Generator  # in the state in which painting begins


def check_size(size: int) -> None:
    """Raise UserError for a size at which lesions would run together."""
    if size < MIN_SIZE:
        raise UserError(
            f"phantom photographs need a size of at least {MIN_SIZE} pixels, got {size}: lesions would run together"
        )


def draw(seed: int, size: int = 256, eye: str | None = None) -> Phantom:
    """Draw the phantom photograph of `seed`, `size` pixels square; the same arguments give the same bytes.

    A finding is listed exactly if its mask is not empty, with the number of connected parts of the mask as count and
    the quadrants (round the field's centre) or the macula as location; an enlarged cup, a cup-disc ratio above 0.6, has
    the disc as location and no count. `eye` names the side, otherwise the seed draws it. Raises UserError for a size
    below 96.
    """
    return finish(sketch(seed, size, eye))


def sketch(seed: int, size: int = 256, eye: str | None = None, diagnosis: str | None = None) -> Sketch:
    """What `draw` paints; `diagnosis` names one of DIAGNOSES, otherwise the seed draws it."""
    check_size(size)
    rng = np.random.default_rng(seed)
    drawn = str(rng.choice(DIAGNOSES, p=SHARES))
    diagnosis = diagnosis or drawn
    anatomy = draw_anatomy(rng, size, diagnosis == "glaucoma", eye)
    vessels = draw_vessels(rng, anatomy)
    x, y = _pixels(size)
    inside = np.square(x - anatomy.centre[0]) + np.square(y - anatomy.centre[1]) < anatomy.radius**2
    field = inside & (np.abs(y - anatomy.centre[1]) < anatomy.clip * anatomy.radius)
    canvas = Canvas(rng, anatomy, field, vessels.mask)
    grade = _lesions(rng, canvas, diagnosis)
    return Sketch(diagnosis, anatomy, vessels, field, tuple(canvas.lesions), grade, rng)


def finish(sketch: Sketch) -> Phantom:
    """Paint a sketch and write down what it holds. The sketch's generator is left as it is."""
    rng, anatomy, field = deepcopy(sketch.rng), sketch.anatomy, sketch.field
    x, y = _pixels(anatomy.size)
    disc = _oval(x, y, anatomy.disc[:2], anatomy.disc[2], anatomy.oval)
    cup = _oval(x, y, anatomy.cup_centre, anatomy.disc[2] * anatomy.cup_ratio, anatomy.oval)
    masks = {"vessel": sketch.vessels.mask & field, **{kind: np.zeros_like(field) for kind in LESIONS}}
    boxes: dict[str, list] = {"disc": _box(anatomy)}
    for lesion in sketch.lesions:
        masks[lesion.kind][lesion.area] |= lesion.inside
        boxes.setdefault(lesion.kind, []).append(lesion.box)
    masks |= {"disc": (disc < 1) & field, "cup": (cup < 1) & field, "field": field}
    image = paint(rng, Scene(anatomy, sketch.vessels, sketch.lesions, x, y, disc, cup))
    findings = findings_of(anatomy, sketch.lesions)
    return Phantom(
        image=image,
        masks=masks,
        diagnosis=(sketch.diagnosis,),
        findings=findings,
        grade=sketch.grade,
        eye=anatomy.eye,
        texts={"report": write_report(rng, anatomy, sketch.diagnosis, findings, sketch.grade)},
        disc=anatomy.disc,
        fovea=anatomy.fovea,
        boxes=boxes,
    )


def findings_of(anatomy: Anatomy, lesions: Sequence[Lesion]) -> tuple[Finding, ...]:
    """The findings of an eye with these lesions, in the order of LESIONS."""
    if anatomy.cup_ratio > LARGE_CUP:
        return (Finding("enlarged_cup", location="disc"), *findings_of(replace(anatomy, cup_ratio=0.0), lesions))
    found = []
    for kind in LESIONS:
        places = [lesion.where for lesion in lesions if lesion.kind == kind]
        if places:
            where = ", ".join(place for place in (*QUADRANTS, "macula") if place in places)
            found.append(Finding(kind, location=where, count=len(places)))
    return tuple(found)


def _pixels(size: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.ogrid[:size, :size]
    return x.astype(np.float32), y.astype(np.float32)


def _box(anatomy: Anatomy) -> list[float]:
    (x, y, high), wide = anatomy.disc, anatomy.disc[2] / anatomy.oval
    return [x - wide + 0.5, y - high + 0.5, x + wide + 0.5, y + high + 0.5]  # a pixel's middle is half way to the next


def _oval(x: np.ndarray, y: np.ndarray, centre: tuple[float, ...], radius: float, oval: float) -> np.ndarray:
    """Distance from the centre, 1 on an outline `2 * radius` high."""
    return np.sqrt(np.square((x - centre[0]) * (oval / radius)) + np.square((y - centre[1]) / radius))


def _number(rng: np.random.Generator, kind: str) -> int:
    """How many lesions of a kind: each of the bands that answers name is as likely, so that the kind does not tell the
    band, and a model that has not counted cannot pass for one that has.
    """
    bands = [(low, min(high, MOST.get(kind, high))) for low, high in BANDS if low <= MOST.get(kind, high)]
    low, high = bands[int(rng.integers(len(bands)))]
    return int(rng.integers(low, high + 1))


def _lesions(rng: np.random.Generator, canvas: Canvas, diagnosis: str) -> dict[str, int]:
    """Place the lesions of a diagnosis on the canvas; its grade."""
    if diagnosis == "amd":
        canvas.place("drusen", "macula", _number(rng, "drusen"))
    if diagnosis != "diabetic_retinopathy":
        return {}
    grade = int(rng.integers(1, 4))
    wanted = {
        "cotton_wool_spot": 0,
        "haemorrhage": 0,
        "hard_exudate": 0,
        "microaneurysm": _number(rng, "microaneurysm"),
    }
    if grade > 1:
        kinds = [kind for kind in ("cotton_wool_spot", "haemorrhage", "hard_exudate") if rng.uniform() < 0.6]
        kinds = kinds or [str(rng.choice(("haemorrhage", "hard_exudate")))]
        wanted.update({kind: _number(rng, kind) for kind in kinds})
    for kind in ("cotton_wool_spot", "haemorrhage", "hard_exudate", "microaneurysm"):  # the large ones need room first
        where = list(rng.permutation(QUADRANTS)[: 1 if rng.uniform() < 0.7 else 2])
        counts = [wanted[kind]] if len(where) == 1 else [wanted[kind] - wanted[kind] // 2, wanted[kind] // 2]
        if kind == "haemorrhage" and grade == 3:  # severe: more than 20, in every quadrant
            where, counts = list(QUADRANTS), [int(count) for count in rng.integers(6, 9, size=4)]
        for quadrant, count in zip(where, counts, strict=True):
            canvas.place(kind, str(quadrant), count, clustered=kind in CLUSTERED)
    return {"icdr": grade}
