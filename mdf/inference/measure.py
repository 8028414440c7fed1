"""Masks turned into numbers: the disc and its cup, where the fovea lies, and the single lesions with place and size.

Shapes: U the U-Net's input side. What comes out is in pixels of the photograph as it was given and in disc diameters,
the vertical diameter of the eye's own disc. Whose lesion a drawn piece is, is said in findings.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mdf.imaging.frame import Frame
from mdf.inference.regions import logit, take_apart
from mdf.inference.report import Box, Disc, Evidence, Macula, Origin, Statement, Vessels
from mdf.models.readings import ANATOMY, CUP, DISC

VESSEL = "vessel"
SMALLEST_DISC = 0.002  # of the field; a disc takes 1 to 5 %, a speck is none
# Discs are 1.5 to 2.2 mm high and fields of 30 to 60 degrees 8.7 to 18 mm wide; what is drawn and is of another size,
# or much longer than wide, is a piece of a disc or something else that is bright. 150 phantoms: 0.13 to 0.16, 1.0 to
# 1.15; of 23 discs drawn on photographs of ODIR-5K the 3 that are none, or a piece of one, lie outside.
DISC_HEIGHT = (0.08, 0.25)  # of the field's diameter
DISC_SHAPE = (0.6, 1.7)  # height over width
SMALLEST_CUP = 0.2  # of the disc; less is a piece of a cup, or none. Phantoms: 0.26 and more
FOVEA_TEMPORAL, FOVEA_BELOW = 2.4, 0.25  # disc diameters from the middle of the disc to the fovea, on average
# The fovea is the darkest spot so near to that place: darker over FINE than over COARSE (standard deviations). Of 100
# phantoms half lie within 0.06 and 9 of 10 within 0.12 disc diameters of the true one, by the place alone 0.35 and 0.5.
SEARCH, FINE, COARSE = 0.7, 0.3, 1.0
NEAR = 1.0  # disc diameters from the fovea: the zone "macula", and what M1 and significant oedema ask for


@dataclass(frozen=True)
class Piece:
    """One lesion as it is drawn, by whichever masks."""

    label: int  # in `Measured.labels`
    box: Box
    covers: tuple[str, ...]  # lesion masks that hold at least half of it, else the one that holds most
    width: float | None  # disc diameters, of a circle of its area; None without a disc
    quadrant: str | None  # None where the nasal side is not known
    to_fovea: float | None  # disc diameters from the fovea to its nearest edge
    on_disc: bool

    @property
    def zones(self) -> list[str]:
        near = self.to_fovea is not None and self.to_fovea <= NEAR
        return [
            *([self.quadrant] if self.quadrant else []),
            *(["macula"] if near else []),
            *(["disc"] if self.on_disc else []),
        ]


@dataclass(frozen=True)
class Measured:
    """All that the masks of one photograph say. What has no mask is not assessed (None)."""

    disc: Disc
    vessels: Vessels
    macula: Macula
    pieces: list[Piece]
    labels: np.ndarray  # int [U,U], 0 where there is no piece
    kinds: tuple[str, ...]  # lesions that have a mask
    nasal: int | None  # +1 where the nasal half is on the right of the photograph, -1 on the left


class Square:
    """The U-Net's square of a photograph and the photograph's own pixels."""

    def __init__(self, frame: Frame, side: int):
        self.frame, self.scale = frame, frame.side / side

    def point(self, x: float, y: float) -> tuple[float, float]:
        """x, y of the photograph; 0.5, 0.5 is the middle of the square's first pixel."""
        row, column = self.frame.corner
        return column + x * self.scale, row + y * self.scale

    def box(self, rows: slice, columns: slice) -> Box:
        (left, top), (right, bottom) = self.point(columns.start, rows.start), self.point(columns.stop, rows.stop)
        width, height = self.frame.width, self.frame.height
        x, y = max(0, min(round(left), width - 1)), max(0, min(round(top), height - 1))
        far_x, far_y = min(max(round(right), x + 1), width), min(max(round(bottom), y + 1), height)
        return Box(left=x, top=y, right=far_x, bottom=far_y)


def measure(
    masks: Mapping[str, np.ndarray],
    inside: np.ndarray,
    frame: Frame,
    nasal: int | None = None,
    light: np.ndarray | None = None,
) -> Measured:
    """Measure masks, probabilities float [U,U] by name, inside the field bool [U,U].

    `nasal` is +1 where the nasal half is on the right, -1 on the left, None where that is not known: then there are
    neither quadrants nor a fovea. `light` is the green channel float [U,U], in which the fovea is the darkest spot.
    """
    square = Square(frame, inside.shape[0])
    drawn = {name: (np.asarray(mask) >= 0.5) & inside for name, mask in masks.items()}
    disc, region = measure_disc(drawn, inside, square)
    unit = disc.diameter / square.scale if disc.diameter else None  # pixels of the square
    fovea, seen = None, False
    if region is not None and unit and nasal:
        fovea, seen = find_fovea(region, unit, nasal, inside, drawn, light)
    macula = Macula(centre=square.point(*fovea) if fovea else None)
    if fovea:
        rule = f"{FOVEA_TEMPORAL:g} disc diameters temporal of the disc and {FOVEA_BELOW:g} below"
        text = f"fovea: the darkest spot about {rule}" if seen else f"fovea taken to be {rule}"
        macula.statements = [
            Statement(origin=Origin.MEASUREMENT, text=text, evidence=[Evidence(text="place of the disc", mask=DISC)])
        ]
    kinds = tuple(name for name in masks if name not in ANATOMY)
    labels, pieces = np.zeros(inside.shape, dtype=np.int32), list[Piece]()
    if kinds:
        heights = np.stack([logit(np.asarray(masks[name]) * inside) for name in kinds])
        labels, pieces = measure_pieces(heights, kinds, inside, square, nasal, fovea, unit, region)
    return Measured(disc, measure_vessels(drawn, inside), macula, pieces, labels, kinds, nasal)


def largest(mask: np.ndarray) -> np.ndarray | None:
    """The largest connected region of a mask, None where there is none."""
    labels, count = ndimage.label(mask)
    if not count:
        return None
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()


def height_of(region: np.ndarray) -> float:
    """Height in pixels of the ellipse with the region's spread: a spur or a notch hardly changes it."""
    rows = np.nonzero(region)[0]
    return float(4 * np.sqrt(rows.var() + 1 / 12)) if len(rows) else 0.0


def measure_disc(drawn: Mapping[str, np.ndarray], inside: np.ndarray, square: Square) -> tuple[Disc, np.ndarray | None]:
    """The disc, and its region bool [U,U]."""
    if DISC not in drawn:
        return Disc(), None
    region = largest(drawn[DISC])
    if region is None or region.sum() < SMALLEST_DISC * inside.sum():
        return Disc(found=False), None
    box = square.box(*ndimage.find_objects(region.astype(np.uint8))[0])
    if doubt := no_disc(region, inside):
        text = f"what is drawn as the disc {doubt}: it is taken for none, and nothing is measured by it"
        seen = Evidence(text="the mask of the disc", mask=DISC, boxes=[box])
        return Disc(found=False, statements=[Statement(origin=Origin.MEASUREMENT, text=text, evidence=[seen])]), None
    disc = Disc(found=True, box=box, diameter=round(height_of(region) * square.scale, 2))
    if CUP in drawn:
        cup = largest(drawn[CUP] & region)
        seen = Evidence(text="heights of the masks of cup and disc", mask=CUP, boxes=[box])
        text = "no cup is drawn in the disc, so that their ratio is not measured"
        ratio = 0.0 if cup is None else min(1.0, height_of(cup) / height_of(region))
        if ratio >= SMALLEST_CUP:
            disc.cup_disc_ratio = round(ratio, 2)
            text = f"vertical cup-disc ratio {ratio:.2f}, as it is drawn"
        elif ratio:
            text = f"too little of a cup is drawn ({ratio:.2f} of the disc), so that their ratio is not measured"
        disc.statements = [Statement(origin=Origin.MEASUREMENT, text=text, evidence=[seen])]
    return disc, region


def no_disc(region: np.ndarray, inside: np.ndarray) -> str:
    """Why a region bool [U,U] can be no disc; empty where it can."""
    diameter = max(int(np.ptp(places)) + 1 for places in np.nonzero(inside))
    share, shape = height_of(region) / diameter, height_of(region) / max(height_of(region.T), 1e-6)
    if not DISC_HEIGHT[0] <= share <= DISC_HEIGHT[1]:
        return f"is too {'small' if share < DISC_HEIGHT[0] else 'large'} ({share:.0%} of the field)"
    if not DISC_SHAPE[0] <= shape <= DISC_SHAPE[1]:
        return f"is too {'flat' if shape < DISC_SHAPE[0] else 'narrow'}"
    return ""


def find_fovea(
    disc: np.ndarray,
    unit: float,
    nasal: int,
    inside: np.ndarray,
    drawn: Mapping[str, np.ndarray],
    light: np.ndarray | None,
) -> tuple[tuple[float, float] | None, bool]:
    """x, y of the fovea in the square's pixels, and whether a dark spot was found there; None where its place lies
    outside of the field. `unit` is a disc diameter in pixels.
    """
    y, x = ndimage.center_of_mass(disc)
    x, y = float(x) - nasal * FOVEA_TEMPORAL * unit, float(y) + FOVEA_BELOW * unit
    rows, columns = np.indices(inside.shape)
    near = (np.hypot(columns - x, rows - y) < SEARCH * unit) & inside
    if not (0 <= round(x) < inside.shape[1] and 0 <= round(y) < inside.shape[0] and inside[round(y), round(x)]):
        return None, False
    if light is not None and near.any():
        bare = inside & ~np.any(list(drawn.values()), axis=0)  # neither vessels nor lesions
        fine, coarse = (smoothed(light, bare, spread * unit) for spread in (FINE, COARSE))
        depth = np.where(near, fine - coarse, np.inf)
        row, column = np.unravel_index(int(depth.argmin()), depth.shape)
        if depth[row, column] < 0:
            return (float(column) + 0.5, float(row) + 0.5), True
    return (x + 0.5, y + 0.5), False


def smoothed(values: np.ndarray, where: np.ndarray, spread: float) -> np.ndarray:
    """Gaussian mean of the values `where` they count."""
    weight = ndimage.gaussian_filter(where.astype(np.float32), spread)
    return ndimage.gaussian_filter(np.where(where, values, 0).astype(np.float32), spread) / np.maximum(weight, 1e-3)


def measure_vessels(drawn: Mapping[str, np.ndarray], inside: np.ndarray) -> Vessels:
    if VESSEL not in drawn:
        return Vessels()
    density = float(drawn[VESSEL].sum() / max(1, inside.sum()))
    text = f"vessels take {100 * density:.0f} % of the field of view"
    seen = Evidence(text="the mask of vessels", mask=VESSEL)
    statement = Statement(origin=Origin.MEASUREMENT, text=text, evidence=[seen])
    return Vessels(found=density > 0, density=round(density, 4), statements=[statement] if density else [])


def measure_pieces(
    heights: np.ndarray,
    kinds: tuple[str, ...],
    inside: np.ndarray,
    square: Square,
    nasal: int | None,
    fovea: tuple[float, float] | None,
    unit: float | None,
    disc: np.ndarray | None,
) -> tuple[np.ndarray, list[Piece]]:
    """The single lesions of all masks together, logits [K,U,U]: labels [U,U] and what is known of each. `fovea` and
    `unit`, a disc diameter, are in pixels of the square.
    """
    labels, count = take_apart(heights.max(axis=0))
    if not count:
        return labels, []
    index = range(1, count + 1)
    shares = np.stack([ndimage.mean(height > 0, labels, index) for height in heights], axis=1)  # [pieces, K]
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    places = ndimage.find_objects(labels)
    middles = ndimage.center_of_mass(labels > 0, labels, index)
    away = None
    if fovea and unit:
        rows, columns = np.indices(inside.shape) + 0.5
        away = ndimage.minimum(np.hypot(columns - fovea[0], rows - fovea[1]) / unit, labels, index)
    rows, columns = np.nonzero(inside)
    centre = (rows.mean(), columns.mean())
    pieces = []
    for i, (y, x) in enumerate(middles):
        covers = tuple(name for name, share in zip(kinds, shares[i], strict=True) if share >= 0.5)
        quadrant = None
        if nasal:
            side = "nasal" if (x - centre[1]) * nasal > 0 else "temporal"
            quadrant = ("supero" if y < centre[0] else "infero") + side
        pieces.append(
            Piece(
                label=i + 1,
                box=square.box(*places[i]),
                covers=covers or (kinds[int(shares[i].argmax())],),
                width=2 * float(np.sqrt(areas[i] / np.pi)) / unit if unit else None,
                quadrant=quadrant,
                to_fovea=float(away[i]) if away is not None else None,
                on_disc=disc is not None and bool(disc[int(y), int(x)]),
            )
        )
    return labels, pieces
