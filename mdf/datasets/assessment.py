"""What can be told of each photograph of a manifest without a model: field, gradability, retina or not, eye."""

import csv
import dataclasses
import io
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mdf.datasets.validation.files import in_order, progress
from mdf.imaging.decode import load_image
from mdf.imaging.eye_side import EyeSide, eye_side
from mdf.imaging.field import find_field
from mdf.imaging.quality import Quality, assess
from mdf.records import FundusRecord, Manifest

COLUMNS = (
    "id", "image", "width", "height", "field_left", "field_top", "field_right", "field_bottom", "field_share", "retina",
    "retina_score", "gradable", "gradability", "illumination", "sharpness", "contrast", "field", "reasons", "eye",
    "eye_told", "eye_confidence",
)  # fmt: skip


@dataclass(frozen=True)
class Assessment:
    record: FundusRecord
    size: tuple[int, int]  # width and height, pixels
    box: tuple[int, int, int, int]  # of the field, see Field
    quality: Quality
    eye: EyeSide

    def row(self) -> list[str]:
        """The values of COLUMNS; what is not known is empty."""
        quality, parts = self.quality, self.quality.parts
        marks = [f"{parts[name]:.3f}" if parts else "" for name in ("illumination", "sharpness", "contrast", "field")]
        return [
            self.record.id, self.record.image, *map(str, self.size), *map(str, self.box), f"{quality.field_share:.4f}",
            "yes" if quality.is_retina else "no", f"{quality.retina:.2f}", quality.gradable, f"{quality.score:.3f}",
            *marks, "; ".join(quality.reasons), self.record.eye or "", self.eye.side or "",
            f"{self.eye.confidence:.3f}",
        ]  # fmt: skip


def assess_all(manifest: Manifest, workers: int = 0) -> list[Assessment]:
    """Assess every photograph with `workers` threads (0 = one a core); shows progress on stderr.

    Raises UserError at the first photograph that cannot be read.
    """

    def look(record: FundusRecord) -> Assessment:
        image = load_image(manifest.path(record.image))
        found = find_field(image)
        quality = assess(image, found)
        eye = eye_side(image, found) if quality.is_retina else EyeSide(None, 0.5)
        return Assessment(record, (image.shape[1], image.shape[0]), found.box, quality, eye)

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        return list(progress(in_order(pool, look, manifest.records), len(manifest.records)))


def table(assessments: Sequence[Assessment]) -> str:
    """A line of tab-separated values a photograph, below one of names; quoted where a name holds a tab."""
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows((COLUMNS, *(a.row() for a in assessments)))
    return text.getvalue()


def summary(assessments: Sequence[Assessment]) -> str:
    """Counts for people to read."""
    total, no_retina = len(assessments), [a for a in assessments if not a.quality.is_retina]
    gradable = Counter(a.quality.gradable for a in assessments)
    reasons = Counter(reason for a in assessments if a.quality.is_retina for reason in a.quality.reasons)
    named = [a for a in assessments if a.record.eye and a.eye.side]
    other = [a.record.id for a in named if a.eye.side != a.record.eye]
    silent = sum(a.eye.side is None for a in assessments)
    unknown = [a for a in assessments if not a.record.eye]
    lines = [
        f"{total} photographs: {total - len(no_retina)} of a retina, {len(no_retina)} not{examples(no_retina)}",
        "gradable: " + ", ".join(f"{gradable[grade]} {grade}" for grade in ("good", "barely", "not")),
        *(f"  {count} {reason}" for reason, count in reasons.most_common()),
        f"eye: told of {total - silent}, {silent} without an answer; {len(unknown)} are unknown in the manifest, of "
        f"which {sum(a.eye.side is not None for a in unknown)} can be told",
    ]
    if named:
        lines.append(f"  {len(other)} of {len(named)} differ from the manifest" + (f": {some(other)}" if other else ""))
    return "\n".join(lines)


def with_eyes(assessments: Sequence[Assessment]) -> list[FundusRecord]:
    """The records, with the eye where it was unknown and can be told; `extra.eye_from` then says so."""
    return [
        dataclasses.replace(a.record, eye=a.eye.side, extra={**a.record.extra, "eye_from": "photograph"})
        if a.record.eye is None and a.eye.side
        else a.record
        for a in assessments
    ]


def examples(assessments: Sequence[Assessment]) -> str:
    return f" ({some([a.record.id for a in assessments])})" if assessments else ""


def some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
