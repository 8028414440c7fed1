"""Phantom fundus photographs, drawn so that image, masks, findings, grade and text agree exactly.

They are a teaching and testing aid: they look like a retina at a glance, and they are not medical data.
"""

from dataclasses import dataclass

import numpy as np

from mdf.errors import UserError
from mdf.imaging.phantom_anatomy import draw_anatomy, draw_vessels
from mdf.imaging.phantom_lesions import LESIONS, QUADRANTS, Canvas
from mdf.imaging.phantom_paint import Scene, paint
from mdf.imaging.phantom_report import write_report
from mdf.records import Finding

VERSION = 2  # raised when the same seed draws another photograph
DIAGNOSES = ("normal", "diabetic_retinopathy", "amd", "glaucoma")
SHARES = (0.2, 0.4, 0.2, 0.2)  # of the diagnoses; diabetic retinopathy alone has lesions in quadrants
MASKS = ("vessel", *LESIONS, "disc", "cup", "field")
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
    check_size(size)
    rng = np.random.default_rng(seed)
    diagnosis = str(rng.choice(DIAGNOSES, p=SHARES))
    anatomy = draw_anatomy(rng, size, diagnosis == "glaucoma", eye)
    vessels = draw_vessels(rng, anatomy)
    y, x = np.ogrid[:size, :size]
    y, x = y.astype(np.float32), x.astype(np.float32)
    inside = np.square(x - anatomy.centre[0]) + np.square(y - anatomy.centre[1]) < anatomy.radius**2
    field = inside & (np.abs(y - anatomy.centre[1]) < anatomy.clip * anatomy.radius)
    canvas = Canvas(rng, anatomy, field, vessels.mask)
    findings, grade = _lesions(rng, canvas, diagnosis)
    disc = _oval(x, y, anatomy.disc[:2], anatomy.disc[2], anatomy.oval)
    cup = _oval(x, y, anatomy.cup_centre, anatomy.disc[2] * anatomy.cup_ratio, anatomy.oval)
    masks = {
        "vessel": vessels.mask & field,
        **canvas.masks,
        "disc": (disc < 1) & field,
        "cup": (cup < 1) & field,
        "field": field,
    }
    image = paint(rng, Scene(anatomy, vessels, canvas.paint, x, y, disc, cup))
    return Phantom(
        image=image,
        masks=masks,
        diagnosis=(diagnosis,),
        findings=findings,
        grade=grade,
        eye=anatomy.eye,
        texts={"report": write_report(rng, anatomy, diagnosis, findings, grade)},
        disc=anatomy.disc,
        fovea=anatomy.fovea,
    )


def _oval(x: np.ndarray, y: np.ndarray, centre: tuple[float, ...], radius: float, oval: float) -> np.ndarray:
    """Distance from the centre, 1 on an outline `2 * radius` high."""
    return np.sqrt(np.square((x - centre[0]) * (oval / radius)) + np.square((y - centre[1]) / radius))


def _lesions(rng: np.random.Generator, canvas: Canvas, diagnosis: str) -> tuple[tuple[Finding, ...], dict[str, int]]:
    if diagnosis == "glaucoma":
        return (Finding("enlarged_cup", location="disc"),), {}
    if diagnosis == "amd":
        drusen = canvas.place("drusen", "macula", int(rng.integers(5, 26)))
        return (Finding("drusen", location="macula", count=drusen),), {}
    if diagnosis == "normal":
        return (), {}
    grade = int(rng.integers(1, 4))
    wanted = {"cotton_wool_spot": 0, "haemorrhage": 0, "hard_exudate": 0, "microaneurysm": int(rng.integers(3, 13))}
    if grade > 1:
        kinds = [kind for kind in ("cotton_wool_spot", "haemorrhage", "hard_exudate") if rng.uniform() < 0.6]
        kinds = kinds or [str(rng.choice(("haemorrhage", "hard_exudate")))]
        ranges = {"cotton_wool_spot": (1, 5), "haemorrhage": (2, 11), "hard_exudate": (4, 15)}
        wanted.update({kind: int(rng.integers(*ranges[kind])) for kind in kinds})
    findings = []
    for kind in ("cotton_wool_spot", "haemorrhage", "hard_exudate", "microaneurysm"):  # the large ones need room first
        where = list(rng.permutation(QUADRANTS)[: 1 if rng.uniform() < 0.7 else 2])
        counts = [wanted[kind]] if len(where) == 1 else [wanted[kind] - wanted[kind] // 2, wanted[kind] // 2]
        if kind == "haemorrhage" and grade == 3:  # severe: more than 20, in every quadrant
            where, counts = list(QUADRANTS), [int(count) for count in rng.integers(6, 9, size=4)]
        placed = {
            str(quadrant): canvas.place(kind, str(quadrant), count, kind == "hard_exudate")
            for quadrant, count in zip(where, counts, strict=True)
        }
        found = [quadrant for quadrant in QUADRANTS if placed.get(quadrant)]
        if found:
            findings.append(Finding(kind, location=", ".join(found), count=sum(placed.values())))
    order = {kind: place for place, kind in enumerate(LESIONS)}
    return tuple(sorted(findings, key=lambda finding: order[finding.name])), {"icdr": grade}
