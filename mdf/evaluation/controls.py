"""Does the checkpoint use the picture? The diagnosis again without it, and what needs no model at all.

Shapes: N photographs, C candidate diagnoses.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, put, resample, weighted_mean
from mdf.evaluation.classification import accuracy, balanced_accuracy, softmax
from mdf.evaluation.diagnosis import Diagnosis, candidate_probabilities
from mdf.evaluation.task import Material
from mdf.processor import Inputs
from mdf.prototypes import single_truth, truth_table, truths
from mdf.records import FundusRecord

UNSEEN = ("blank", "shuffled", "text_only")  # the same question without the photograph


def shuffle(groups: Sequence[str], *, seed: int = 0) -> np.ndarray:
    """int [N]: for each photograph the row of another one, each used once and never one of the same patient.

    Raises UserError where one patient has more than half of the photographs, since then there is no such order.
    """
    rng = np.random.default_rng(seed)
    names, index, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    largest = int(sizes.max())
    if 2 * largest > len(index):
        raise UserError(
            f"one patient has {largest} of the {len(index)} photographs: they cannot all get another patient's; "
            "evaluate more patients, or leave `controls` out of --tasks"
        )
    # Patients in random order, each in one piece: a step as long as the longest piece always leaves it.
    order = np.lexsort((rng.random(len(index)), rng.permutation(len(names))[index]))
    other = np.empty(len(index), dtype=int)
    other[order] = np.roll(order, -largest)
    return other


def source_guess(records: Sequence[FundusRecord], learnt: Sequence[FundusRecord], classes: Sequence[str]) -> np.ndarray:
    """int [N]: the most frequent diagnosis among the photographs `learnt` of the same source and camera, else of all.

    What a model could say that tells where a photograph comes from and nothing of the retina. Ties go to the first.
    """
    counts: dict[tuple, Counter] = {}
    for record, names in zip(learnt, truths(learnt, classes), strict=True):
        for key in ((record.source, record.camera), ()):
            counts.setdefault(key, Counter()).update(classes.index(n) for n in names)
    every = counts.get((), Counter())
    guesses = []
    for record in records:
        seen = counts.get((record.source, record.camera)) or every
        guesses.append(min(range(len(classes)), key=lambda c: (-seen[c], c)))
    return np.array(guesses, dtype=int)


def control_metrics(
    truth: Sequence[Sequence[str]],
    probabilities: Mapping[str, np.ndarray],
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    source: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """What is reached with and without the picture, each accuracy and balanced accuracy with their intervals.

    `real` and what there is of UNSEEN (the keys of `probabilities`, float [N, C] each), `majority` (always the most
    frequent diagnosis of these photographs, no picture and no model), `source_only` where `source` int [N] is given,
    `gain`: balanced accuracy of `real` less the best of UNSEEN, drawn on the same resamples, and `option_removed`, see
    `removed`.
    """
    classes = list(classes)
    weights = resample(groups, resamples=resamples, seed=seed)
    guesses = {name: p.argmax(axis=1) for name, p in probabilities.items()}
    guesses["majority"] = np.full(len(truth), truth_table(truth, classes).sum(axis=0).argmax())
    if source is not None:
        guesses["source_only"] = source
    tables = {name: (single_truth(truth, guess, classes), guess) for name, guess in guesses.items()}
    metrics: dict = {"n": len(truth)}
    for name, (single, predicted) in tables.items():
        metrics[name] = {}
        put(metrics[name], "accuracy", accuracy(single, predicted, len(classes)), weights)
        put(metrics[name], "balanced_accuracy", balanced_accuracy(single, predicted, len(classes)), weights)
    real = balanced_accuracy(*tables["real"], len(classes))
    others = [balanced_accuracy(*tables[name], len(classes)) for name in UNSEEN if name in tables]
    put(metrics, "gain", lambda w: real(w) - np.max([other(w) for other in others], axis=0), weights)
    metrics["option_removed"] = removed(truth_table(truth, classes), probabilities["real"], weights)
    return metrics


def removed(true: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> dict:
    """Is the model less sure when no right answer is offered? `confidence`, the mean of the highest probability,
    `without_true`, the same after the true options are taken away and the rest is scaled to 1, and `fall`, the
    difference. Photographs of which every option is true are left out. `true` bool and `probabilities` float [N, C].
    """
    rest = np.where(true, 0, probabilities)
    total = rest.sum(axis=1)
    left = np.where(total > 0, rest.max(axis=1) / np.maximum(total, 1e-300), np.nan)
    sure = np.where(np.isnan(left), np.nan, probabilities.max(axis=1))
    part: dict = {}
    for name, values in (("confidence", sure), ("without_true", left), ("fall", sure - left)):
        put(part, name, weighted_mean(values), weights)
    return part


class Controls:
    """Task `controls`, on the photographs that `diagnosis` judges.

    All are asked the same question, so another patient's photograph was asked already, and a blank picture and no
    picture at all have one answer for everybody (a blank one for each way of cutting it to tiles).
    """

    looks = True

    def __init__(self, material: Material, diagnosis: Diagnosis):
        self.material, self.diagnosis = material, diagnosis
        self.other = shuffle([material.groups[i] for i in material.judged], seed=material.options["seed"])
        self.blank: dict[tuple, np.ndarray] = {}  # way of cutting -> probabilities [C]
        self.cut: dict[int, tuple] = {}  # row -> way of cutting

    def see(self, rows: range, inputs: Inputs, masks: Any) -> None:
        for i in rows:
            if i not in self.diagnosis.wanted:
                continue
            one = inputs.select([i - rows.start])
            key = tuple(one["aspect_ratio_ids"].flatten().tolist()) if "aspect_ratio_ids" in one else ()
            self.cut[i] = key
            if key not in self.blank:
                model, asked = self.material.model, self.diagnosis
                self.blank[key] = candidate_probabilities(model, one.blank(), asked.question, asked.answers)[0]

    def metrics(self) -> dict:
        m, asked = self.material, self.diagnosis
        truth, groups = m.known(m.judged)
        real = asked.table()
        text = softmax(np.array([m.model.score_text(asked.question, asked.answers)], dtype=float))
        tables = {
            "real": real,
            "blank": np.stack([self.blank[self.cut[i]] for i in m.judged]),
            "shuffled": real[self.other],
            "text_only": np.repeat(text, len(real), axis=0),
        }
        some = [m.records[i] for i in m.judged]
        learnt = m.manifest.split("train")
        source = source_guess(some, learnt, m.classes) if learnt else None
        return {"controls": control_metrics(truth, tables, m.classes, groups, source=source, **m.options)}

    def line(self, row: int) -> dict:
        return {}


NAMES = {
    "real": "with the photograph",
    "blank": "with a blank one",
    "shuffled": "with another patient's",
    "text_only": "without one",
    "source_only": "by where the photograph comes from",
    "majority": "always saying the most frequent diagnosis",
}


def verdict(metrics: dict) -> str:
    """One plain paragraph: what `control_metrics` says about the use of the picture."""

    def said(name: str) -> str:
        value, interval = metrics[name]["balanced_accuracy"], metrics[name]["balanced_accuracy_ci"]
        return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")

    interval = metrics["gain_ci"]
    if interval is None:
        answer = "Too few photographs to say whether this checkpoint uses the picture."
    elif interval[0] > 0:
        answer = "This checkpoint USES the picture: it does worse without it, beyond chance."
    else:
        answer = "NO SIGN that this checkpoint uses the picture: without it, it does as well within the interval."
    lines = [f"{said(name)} {words}" for name, words in NAMES.items() if name in metrics]
    return f"{answer}\nbalanced accuracy: {', '.join(lines)}"
