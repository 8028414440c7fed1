"""Task `reports`: the structured findings of a draft report against those of the record, and its eye sides.

Shapes: N photographs.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mdf.dialogue import QUADRANTS, SMALL_LESIONS
from mdf.evaluation.bootstrap import Metric, put, ratio, resample, weighted_mean
from mdf.evaluation.diagnosis import presence
from mdf.evaluation.task import Material
from mdf.imaging.decode import load_image
from mdf.imaging.eye_side import eye_side
from mdf.imaging.frame import Frame
from mdf.inference.findings import Answers, combine, in_words
from mdf.inference.measure import measure
from mdf.inference.predictor import nasal_side
from mdf.inference.report import Lesion
from mdf.inference.sides import from_picture
from mdf.measures import from_fovea
from mdf.processor import Inputs
from mdf.records import FundusRecord, stated

PARTS = ("presence", "quadrant", "band")
PLACES = (*QUADRANTS, "macula")


@dataclass
class Score:
    """What was found in one photograph: of each part of PARTS how many are said, true, and both."""

    said: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    true: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    both: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    unsaid: int = 0  # kinds of which the report does not say whether they are there
    invented: bool | None = None  # a lesion is said where there is none; None where there is some
    wrong_eye: bool | None = None  # None where it is not said, or not known
    abstained: bool = False  # of the eye
    off: list[float] = field(default_factory=list)  # disc diameters that distances from the fovea are off

    def add(self, part: str, said: set[str], true: set[str]) -> None:
        self.said[part] += len(said)
        self.true[part] += len(true)
        self.both[part] += len(said & true)


class Reports:
    """Sees every photograph as `draft` does, with neither free text nor diagnosis."""

    looks = True

    def __init__(self, material: Material):
        self.material = material
        self.scores: dict[int, Score] = {}
        self.said: dict[int, dict] = {}

    def see(self, rows: range, inputs: Inputs, masks: Any) -> None:
        m = self.material
        told = presence(m.model, inputs)
        names = () if m.model.config.stale_masks else m.model.config.masks
        maps = (m.model.segment(inputs) * inputs["field"]).float().cpu().numpy()
        settings = m.model.processor.preprocessing
        lights = inputs["unet_pixels"][:, 1].float().cpu().numpy() * settings.unet_std[1] + settings.unet_mean[1]
        thresholds = m.point.findings if m.point else {}
        for number, row in enumerate(rows):
            record = m.records[row]
            if record.findings is None:
                continue
            image = load_image(m.manifest.path(record.image))
            drawn = dict(zip(names, maps[number], strict=True)) if names else {}
            inside = inputs["field"][number, 0].cpu().numpy().astype(bool)
            side = from_picture(eye_side(image), nasal_side(drawn, inside))
            measured = measure(drawn, inside, Frame.of(image, settings), side.nasal, lights[number])
            answers = Answers(dict(zip(SMALL_LESIONS, map(float, told[number]), strict=True)), thresholds=thresholds)
            lesions = combine(measured, answers, m.model.processor.prompts)
            self.scores[row] = self.score(record, lesions, side.laterality.eye)
            kinds = {one.kind: [one.count, one.zones] for one in lesions if one.present}
            unsaid = [one.kind for one in lesions if one.present is None]
            self.said[row] = {"eye": side.laterality.eye, "lesions": kinds, "unsaid": unsaid}

    def score(self, record: FundusRecord, lesions: list[Lesion], eye: str | None) -> Score:
        """One photograph's report against its record."""
        score, prompts = Score(), self.material.model.processor.prompts
        true = {name: f for name, f in stated(record).items() if name in SMALL_LESIONS}
        said = {one.kind: one for one in lesions if one.kind in SMALL_LESIONS}
        there = {kind for kind, one in said.items() if one.present}
        score.add("presence", there, set(true))
        score.unsaid = sum(one.present is None for one in said.values())
        for kind in SMALL_LESIONS:
            one, finding = said.get(kind), true.get(kind)
            if one is None:
                continue
            zones = set(one.zones or ()) if one.present else set()
            places = {p for p in (finding.location or "").split(", ") if p in PLACES} if finding else set()
            # a record says of a lesion either the quadrants or that it lies in the macula
            asked = {"macula"} if places == {"macula"} else set(QUADRANTS)
            if places or finding is None:
                score.add("quadrant", zones & asked, places)
            if finding is None or finding.count:
                band = {in_words(prompts.band("count", finding.count))} if finding and finding.count else set()
                score.add("band", {one.band} if one.present and one.band else set(), band)
            if finding and one.present and one.nearest_fovea is not None:
                away = from_fovea(record, kind)
                score.off += [abs(away - one.nearest_fovea)] if away is not None else []
        score.invented = bool(there) if not true else None
        score.abstained = eye is None
        score.wrong_eye = None if eye is None or record.eye is None else eye != record.eye
        return score

    def metrics(self) -> dict:
        """`reports`: of each of PARTS `f1` over all photographs, precision and recall; of photographs without any
        lesion the share without one in the report; of eye sides how many are wrong and left open; the mean share of
        kinds that are left unsaid; how far distances from the fovea are off, each with its interval.
        """
        m = self.material
        rows = sorted(self.scores)
        scores = [self.scores[row] for row in rows]
        weights = resample([m.groups[row] for row in rows], **m.options)
        found: dict = {"n": len(rows), "unsaid": {}, "normal": {}, "eye": {}, "distance": {}}
        for part in PARTS:
            said, true, both = (np.array([getattr(s, k)[part] for s in scores]) for k in ("said", "true", "both"))
            found[part] = {"said": int(said.sum()), "true": int(true.sum())}
            put(found[part], "f1", f1(said, true, both), weights)
            put(found[part], "precision", share(both, said), weights)
            put(found[part], "recall", share(both, true), weights)
        put(found["unsaid"], "share", mean([s.unsaid / len(SMALL_LESIONS) for s in scores]), weights)
        found["normal"]["n"] = sum(s.invented is not None for s in scores)
        put(found["normal"], "nothing_invented", mean([not_(s.invented) for s in scores]), weights)
        found["eye"] |= {"wrong": sum(s.wrong_eye is True for s in scores)}
        put(found["eye"], "right_where_said", mean([not_(s.wrong_eye) for s in scores]), weights)
        put(found["eye"], "left_open", mean([float(s.abstained) for s in scores]), weights)
        off = mean([float(np.mean(s.off)) if s.off else None for s in scores])
        put(found["distance"], "mean_error", off, weights)
        return {"reports": found}

    def line(self, row: int) -> dict:
        return {"reports": self.said[row]} if row in self.said else {}


def not_(value: bool | None) -> float | None:
    return None if value is None else float(not value)


def mean(values: list[float | None]) -> Metric:
    """The mean of what is known of each photograph."""
    return weighted_mean(np.array([np.nan if v is None else v for v in values], dtype=float))


def share(part: np.ndarray, whole: np.ndarray) -> Metric:
    return lambda weights: ratio(weights @ part, weights @ whole)


def f1(said: np.ndarray, true: np.ndarray, both: np.ndarray) -> Metric:
    """Harmonic mean of precision and recall over all photographs together (micro)."""
    return lambda weights: ratio(2 * (weights @ both), weights @ said + weights @ true)
