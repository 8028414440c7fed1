"""How a checkpoint's probabilities are read: a temperature, a threshold for each class and a confidence to abstain
below, fitted on validation photographs alone and kept beside the weights as `operating_point.json`.

Shapes: N photographs, C classes, D of them with a threshold.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.bootstrap import ratio
from mdf.evaluation.calibration import fit_temperature, scaled, top_label
from mdf.evaluation.classification import refuse_too_few, refuse_unusable
from mdf.evaluation.ranking import cumulated, halfway, ties
from mdf.evaluation.selective import fit_abstention
from mdf.files import read_json, write_text
from mdf.prototypes import truth_table

FILE = "operating_point.json"
SPLIT = "val"  # the only one that anything is fitted on


@dataclass(frozen=True)
class OperatingPoint:
    """What was fitted, and on what. Classes that validation had no photograph of, or nothing else of, have no
    threshold: nothing is decided about them.
    """

    classes: tuple[str, ...]  # the model's candidates, in its order
    temperature: float
    thresholds: Mapping[str, float]  # of the calibrated probability
    abstain_below: float  # confidence; 0 = every photograph is answered
    data_sha256: str  # of the manifest
    n: int  # validation photographs
    split: str = SPLIT
    findings: Mapping[str, float] = field(default_factory=dict)  # lesion -> threshold of "yes" to "are there any?"

    @property
    def decided(self) -> tuple[str, ...]:
        """The classes with a threshold, in the model's order."""
        return tuple(name for name in self.classes if name in self.thresholds)

    def calibrate(self, probabilities: np.ndarray) -> np.ndarray:
        """float [N,C]: the model's probabilities [N,C] after temperature scaling."""
        return scaled(probabilities, self.temperature)

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """bool [N,D]: yes or no for each of the classes `decided`, from the model's probabilities [N,C]."""
        columns = [self.classes.index(name) for name in self.decided]
        limits = np.array([self.thresholds[name] for name in self.decided])
        return self.calibrate(probabilities)[:, columns] >= limits

    def answers(self, probabilities: np.ndarray) -> np.ndarray:
        """bool [N]: whether the model is sure enough to answer, from its probabilities [N,C]."""
        return self.calibrate(probabilities).max(axis=1) >= self.abstain_below

    def write(self, checkpoint: Path) -> None:
        """Into a checkpoint's folder."""
        values = {**asdict(self), "thresholds": dict(self.thresholds), "findings": dict(self.findings)}
        write_text(checkpoint / FILE, json.dumps(values, indent=1) + "\n")


def fit_operating_point(
    truth: Sequence[Sequence[str]],
    probabilities: np.ndarray,
    classes: Sequence[str],
    groups: Sequence[str],
    splits: Sequence[str | None],
    data_sha256: str,
    *,
    risk: float | None = None,
) -> OperatingPoint:
    """Fit on the photographs whose split is val and on nothing else, whatever else is given.

    Args:
        truth: true diagnoses of each photograph, one or more of `classes`.
        probabilities: [N,C] as the model gives them.
        groups: the patient of each photograph.
        splits: the split of each photograph.
        data_sha256: of the manifest they stand in.
        risk: share of wrong answers that is accepted on validation, which sets `abstain_below`; None = always answer.
    Raises UserError without validation photographs, for fewer than two classes or patients among them, for scores that
    are not numbers and for a risk that is not reached.
    """
    rows = [i for i, split in enumerate(splits) if split == SPLIT]
    if not rows:
        raise UserError(
            "temperature and thresholds are fitted on the val split, and none of these photographs is in it; "
            "evaluate a manifest with one (`prepare.py split` makes it)"
        )
    truth, groups, probabilities = [truth[i] for i in rows], [groups[i] for i in rows], probabilities[rows]
    refuse_too_few(truth, classes, groups)
    refuse_unusable(probabilities, classes, groups)
    table = truth_table(truth, classes)
    temperature = fit_temperature(table, probabilities)
    calibrated = scaled(probabilities, temperature)
    thresholds = {
        name: fit_threshold(table[:, c], calibrated[:, c])
        for c, name in enumerate(classes)
        if 0 < table[:, c].sum() < len(rows)
    }
    below = 0.0 if risk is None else fit_abstention(*top_label(table, calibrated), risk)
    return OperatingPoint(tuple(classes), temperature, thresholds, below, data_sha256, len(rows))


def fit_findings(
    truth: Mapping[str, np.ndarray], probabilities: Mapping[str, np.ndarray], least: int = 5
) -> dict[str, float]:
    """The threshold of "yes" for each kind of lesion: `truth` bool and `probabilities` float [N] by its name.

    A kind that fewer than `least` photographs have, or lack, has none.
    """
    return {
        name: fit_threshold(there, probabilities[name])
        for name, there in truth.items()
        if least <= there.sum() <= len(there) - least
    }


def fit_threshold(positive: np.ndarray, score: np.ndarray) -> float:
    """The threshold with the greatest sensitivity + specificity (Youden 1950; the same as the greatest balanced
    accuracy), halfway between two scores; of several the lowest, which misses the fewest. `positive` bool [N] must
    hold both.
    """
    order, starts = ties(score)
    levels = score[order[starts]]
    found, alarms = (part[0] for part in cumulated(positive, score)(np.ones((1, len(score)))))
    gain = ratio(found, found[-1]) - ratio(alarms, alarms[-1])
    best = int(np.flatnonzero(gain >= gain.max() - 1e-9)[-1])
    below = levels[best + 1] if best + 1 < len(levels) else 0.0
    return halfway(levels[best], below)


def read_operating_point(checkpoint: Path, classes: Sequence[str]) -> OperatingPoint | None:
    """What lies in a checkpoint's folder, None where nothing was fitted.

    Raises UserError for a damaged file and for one that was fitted for other classes than the model's.
    """
    path = checkpoint / FILE
    if not path.exists():
        return None
    values = read_json(path)
    if problem := wrong(values):
        raise UserError(f"{path}: {problem}; delete the file to go without it, or fit it again")
    found = OperatingPoint(**{**values, "classes": tuple(values["classes"])})
    if found.classes != tuple(classes):
        raise UserError(
            f"{path} was fitted for the classes {', '.join(found.classes)}, the model's are {', '.join(classes)}; "
            "delete the file to go without it, or fit it again"
        )
    return found


def wrong(values: Mapping[str, Any]) -> str | None:
    """What is wrong with the values of a file, None where nothing is."""
    names = {f.name for f in fields(OperatingPoint)}
    if values.keys() | {"findings"} != names:  # files from before there were thresholds of findings lack them
        missing, extra = sorted(names - values.keys() - {"findings"}), sorted(values.keys() - names)
        return f"missing {', '.join(missing) or 'nothing'}, not known {', '.join(extra) or 'nothing'}"
    classes, thresholds = values["classes"], values["thresholds"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return "classes must be a list of names"
    if not isinstance(thresholds, dict) or not thresholds.keys() <= set(classes):
        return "thresholds must be of classes"
    findings = values.get("findings", {})
    if not isinstance(findings, dict):
        return "findings must be thresholds by name"
    numbers = {f"thresholds.{name}": (value, 0.0, 1.0) for name, value in thresholds.items()}
    numbers |= {f"findings.{name}": (value, 0.0, 1.0) for name, value in findings.items()}
    numbers |= {
        "temperature": (values["temperature"], 1e-6, math.inf),
        "abstain_below": (values["abstain_below"], 0.0, 1.0),
        "n": (values["n"], 1, math.inf),
    }
    for name, (value, low, high) in numbers.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not low <= value <= high:
            return f"{name} is {value!r}, which it cannot be"
    return None if values["split"] == SPLIT else f"it was fitted on the split {values['split']!r}, not on {SPLIT}"
