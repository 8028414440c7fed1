"""Masks turned into numbers: the disc and its cup, where the fovea lies, and of each lesion how many, where, how far.

Shapes: U the U-Net's input side. What comes out is in pixels of the photograph as it was given and in disc diameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from mdf.dialogue import QUADRANTS
from mdf.imaging.frame import Frame
from mdf.inference.predictor import SMALLEST_REGION, nasal_side
from mdf.inference.report import ZONES, Box, Disc, Evidence, Macula, Origin, Statement, Vessels
from mdf.models.readings import ANATOMY, CUP, DISC

VESSEL = "vessel"
SMALLEST_DISC = 0.002  # of the field; a disc takes 1 to 5 %, a speck is none
# From the middle of the disc to the fovea in vertical disc diameters: 4.8 mm of 1.9 mm, the fovea a little lower
# (Jonas et al. 2015, doi 10.1371/journal.pone.0131701).
FOVEA_TEMPORAL, FOVEA_BELOW = 2.5, 0.25
NEAR = 1.0  # disc diameters from the fovea: the zone "macula", and what M1 and significant oedema ask for


@dataclass(frozen=True)
class Regions:
    """The connected regions of one lesion's mask."""

    boxes: list[Box] = field(default_factory=list)  # one a region, the largest first
    by_zone: dict[str, int] | None = None  # regions in each of ZONES that has some; None where the side is unknown
    nearest_fovea: float | None = None  # disc diameters from the fovea to the nearest edge
    peak: float = 0.0  # highest probability of the mask

    @property
    def count(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Measured:
    """All that the masks of one photograph say. What has no mask is not assessed (None), see `missing`."""

    disc: Disc
    vessels: Vessels
    macula: Macula
    lesions: dict[str, Regions]  # of the masks that are neither vessels nor anatomy
    nasal: int | None  # +1 where the nasal half is on the right of the photograph, -1 on the left

    @property
    def missing(self) -> list[str]:
        """What could not be looked for because the checkpoint draws no such mask."""
        have = {VESSEL: self.vessels.found, "optic disc": self.disc.found}
        return [name for name, found in have.items() if found is None] + ([] if self.lesions else ["lesions"])


class Square:
    """The U-Net's square of a photograph: its pixels there and back."""

    def __init__(self, frame: Frame, side: int):
        self.frame, self.scale = frame, frame.side / side

    def point(self, x: float, y: float) -> tuple[float, float]:
        """x, y of the photograph; 0.5, 0.5 is the middle of the square's first pixel."""
        row, column = self.frame.corner
        return column + x * self.scale, row + y * self.scale

    def box(self, rows: slice, columns: slice) -> Box:
        (left, top), (right, bottom) = self.point(columns.start, rows.start), self.point(columns.stop, rows.stop)
        ends = (self.frame.width, self.frame.height)
        x, y = max(0, min(int(left), ends[0] - 1)), max(0, min(int(top), ends[1] - 1))
        far = min(max(round(right), x + 1), ends[0]), min(max(round(bottom), y + 1), ends[1])
        return Box(left=x, top=y, right=far[0], bottom=far[1])


def measure(masks: Mapping[str, np.ndarray], inside: np.ndarray, frame: Frame, eye: str | None = None) -> Measured:
    """Measure masks, probabilities float [U,U] by name, inside the field bool [U,U]. `eye` is left, right or None."""
    square = Square(frame, inside.shape[0])
    drawn = {name: (np.asarray(mask) >= 0.5) & inside for name, mask in masks.items()}
    disc, middle = measure_disc(drawn, inside, square)
    nasal = nasal_side(dict(masks), inside, eye)
    unit = disc.diameter / square.scale if disc.diameter else None  # pixels of the square
    fovea = None
    if middle and unit and nasal:
        x, y = middle[0] - nasal * FOVEA_TEMPORAL * unit, middle[1] + FOVEA_BELOW * unit
        if 0 <= int(x) < inside.shape[1] and 0 <= int(y) < inside.shape[0] and inside[int(y), int(x)]:
            fovea = (x, y)
    lesions = {
        name: measure_regions(drawn[name], np.asarray(masks[name]), inside, square, nasal, fovea, unit, drawn.get(DISC))
        for name in masks
        if name not in ANATOMY
    }
    exudates = lesions.get("hard_exudate")
    macula = Macula(nearest_exudate=exudates.nearest_fovea if exudates else None)
    if fovea:
        macula.centre = square.point(*fovea)
        text = f"fovea {FOVEA_TEMPORAL:g} disc diameters temporal of the disc and {FOVEA_BELOW:g} below, by rule"
        macula.statements = [Statement(origin=Origin.RULE, text=text, evidence=[Evidence(text="the disc", mask=DISC)])]
    return Measured(disc, measure_vessels(drawn, inside), macula, lesions, nasal)


def largest(mask: np.ndarray) -> np.ndarray | None:
    """The largest connected region of a mask, None where there is none."""
    labels, count = ndimage.label(mask)
    if not count:
        return None
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()


def measure_disc(
    drawn: Mapping[str, np.ndarray], inside: np.ndarray, square: Square
) -> tuple[Disc, tuple[float, float] | None]:
    """The disc, and its middle x, y in the square's pixels."""
    if DISC not in drawn:
        return Disc(), None
    region = largest(drawn[DISC])
    if region is None or region.sum() < SMALLEST_DISC * inside.sum():
        return Disc(found=False), None
    rows, columns = ndimage.find_objects(region.astype(np.uint8))[0]
    disc = Disc(found=True, box=square.box(rows, columns), diameter=(rows.stop - rows.start) * square.scale)
    y, x = ndimage.center_of_mass(region)
    middle = (float(x) + 0.5, float(y) + 0.5)
    cup = largest(drawn[CUP] & region) if CUP in drawn else None
    if CUP in drawn:
        high = 0 if cup is None else int(cup.any(axis=1).sum())
        disc.cup_disc_ratio = round(high / (rows.stop - rows.start), 2)
        seen = Evidence(text="heights of the masks of cup and disc", mask=CUP, boxes=[disc.box] if disc.box else [])
        text = f"vertical cup-disc ratio {disc.cup_disc_ratio:.2f}"
        disc.statements = [Statement(origin=Origin.MEASUREMENT, text=text, evidence=[seen])]
    return disc, middle


def measure_vessels(drawn: Mapping[str, np.ndarray], inside: np.ndarray) -> Vessels:
    if VESSEL not in drawn:
        return Vessels()
    density = float(drawn[VESSEL].sum() / max(1, inside.sum()))
    text = f"vessels take {100 * density:.0f} % of the field of view"
    seen = Evidence(text="the mask of vessels", mask=VESSEL)
    statement = Statement(origin=Origin.MEASUREMENT, text=text, evidence=[seen])
    return Vessels(found=density > 0, density=round(density, 4), statements=[statement] if density else [])


def measure_regions(
    mask: np.ndarray,
    probabilities: np.ndarray,
    inside: np.ndarray,
    square: Square,
    nasal: int | None,
    fovea: tuple[float, float] | None,
    unit: float | None,
    disc: np.ndarray | None,
) -> Regions:
    """The regions of one lesion's mask bool [U,U] of at least SMALLEST_REGION pixels; `fovea` and `unit`, a disc
    diameter, are in pixels of the square.
    """
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    kept = [int(i) + 1 for i in np.argsort(-sizes, kind="stable") if sizes[i] >= SMALLEST_REGION]
    peak = float((probabilities * inside).max())
    if not kept:
        return Regions([], {} if nasal else None, None, peak)
    places = ndimage.find_objects(labels)
    boxes = [square.box(*places[i - 1]) for i in kept]
    nearest = None
    away = {}
    if fovea and unit:
        y, x = np.indices(mask.shape) + 0.5
        distance = np.hypot(x - fovea[0], y - fovea[1]) / unit
        away = dict(zip(kept, ndimage.minimum(distance, labels, kept), strict=True))
        nearest = round(float(min(away.values())), 2)
    if nasal is None:
        return Regions(boxes, None, nearest, peak)
    rows, columns = np.nonzero(inside)
    centre = (rows.mean(), columns.mean())
    found = dict.fromkeys(ZONES, 0)
    for i, (y, x) in zip(kept, ndimage.center_of_mass(mask, labels, kept), strict=True):
        up = "supero" if y < centre[0] else "infero"
        found[up + ("nasal" if (x - centre[1]) * nasal > 0 else "temporal")] += 1
        found["macula"] += bool(away) and away[i] <= NEAR
        found["disc"] += disc is not None and bool(disc[int(y), int(x)])
    return Regions(boxes, {zone: n for zone, n in found.items() if n}, nearest, peak)


def quadrants(by_zone: Mapping[str, int]) -> dict[str, int]:
    """The numbers by quadrant alone, all four of them."""
    return {q: by_zone.get(q, 0) for q in QUADRANTS}
