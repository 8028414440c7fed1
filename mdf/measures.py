"""How far lesions reach and how near to the fovea they come, from the boxes and points of a record.

Lengths are in disc diameters, the mean of the disc box's width and height, as clinicians measure on the retina: pixels
differ from camera to camera. Boxes are [left, top, right, bottom], a pixel's own from its number to the next.
"""

import numpy as np

from mdf.errors import UserError
from mdf.records import FundusRecord


def reach(record: FundusRecord, finding: str) -> float | None:
    """The longer side of the box that holds all boxes of `finding`, or None where they or the disc's are not known."""
    disc, lesions = diameter(record), boxes(record, finding)
    if disc is None or not len(lesions):
        return None
    return float(max(lesions[:, 2:].max(0) - lesions[:, :2].min(0)) / disc)


def from_fovea(record: FundusRecord, finding: str) -> float | None:
    """From the fovea to the nearest edge of a box of `finding`, 0 inside; None where something of it is not known."""
    disc, lesions, fovea = diameter(record), boxes(record, finding), record.points.get("fovea")
    if disc is None or not len(lesions) or fovea is None:
        return None
    at = numbers(record, "points.fovea", fovea, 2)
    if len(at) != 1:
        raise UserError(f"record {record.id}: points.fovea must be one point [x, y], got {len(at)}")
    middle = at[0] + 0.5  # of the pixel
    away = np.maximum(0, np.maximum(lesions[:, :2] - middle, middle - lesions[:, 2:]))
    return float(np.hypot(away[:, 0], away[:, 1]).min() / disc)


def diameter(record: FundusRecord) -> float | None:
    """Of the disc in pixels, or None where its box is not known."""
    found = boxes(record, "disc")
    return float((found[0, 2:] - found[0, :2]).mean()) if len(found) else None


def boxes(record: FundusRecord, name: str) -> np.ndarray:
    """float [n,4]: the boxes of `name`, none where the record has none."""
    found = record.boxes.get(name)
    made = np.zeros((0, 4)) if not found else numbers(record, f"boxes.{name}", found, 4)
    if (made[:, :2] >= made[:, 2:]).any():
        raise UserError(f"record {record.id}: boxes.{name}: [left, top, right, bottom] with left < right, top < bottom")
    return made


def numbers(record: FundusRecord, key: str, value: object, length: int) -> np.ndarray:
    """float [n,length] of one list of `length` numbers or several. Raises UserError for anything else."""
    try:
        made = np.atleast_2d(np.asarray(value, dtype=float))
    except (TypeError, ValueError):
        made = np.zeros(0)
    if made.ndim != 2 or made.shape[1] != length or not np.isfinite(made).all():
        what = "[x, y]" if length == 2 else "[left, top, right, bottom]"
        raise UserError(f"record {record.id}: {key} must be {what} in pixels or a list of them, got {value!r}")
    return made
