"""The diagnosis by the likelihood of each candidate answer.

Shapes: B photographs of a batch, J with a true diagnosis, C candidate diagnoses.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mdf.dialogue import SMALL_LESIONS, Turn, diagnosis_answer
from mdf.errors import UserError
from mdf.evaluation.calibration import calibration_metrics
from mdf.evaluation.classification import ROBUST, class_table, classification_metrics, named_metric, softmax
from mdf.evaluation.multi_label import multi_label_metrics
from mdf.evaluation.operating_point import SPLIT, OperatingPoint, fit_findings, fit_operating_point
from mdf.evaluation.photographs import Progress, batches, load_inputs
from mdf.evaluation.selective import abstention_metrics, selective_metrics
from mdf.evaluation.subgroups import columns_of, subgroup_metrics
from mdf.evaluation.task import Material
from mdf.processor import Inputs
from mdf.records import Manifest, stated
from mdf.vocabulary import display


def candidate_probabilities(model: Any, inputs: Inputs, question: str, candidates: Sequence[str]) -> np.ndarray:
    """float [B, C]: softmax over the summed log-likelihoods of the candidate answers to one question."""
    rows = len(inputs["pixel_values"])
    conversation = [model.system_turn(), Turn("user", question)]
    return softmax(np.asarray(model.score(inputs, [conversation] * rows, [list(candidates)] * rows), dtype=float))


def diagnosis_question(processor: Any) -> tuple[str, list[str]]:
    """The question for the diagnosis as it is worded first, and the answer that names each candidate [C]."""
    prompts = processor.prompts
    return prompts.questions["diagnosis"]["ask"][0], [diagnosis_answer(prompts, (n,)) for n in processor.diagnoses]


def presence(model: Any, inputs: Inputs) -> np.ndarray:
    """float [B, lesions]: the probability of "yes" to "are there any?" of every kind of small lesion."""
    spec = model.processor.prompts.questions["presence"]
    count, kinds = len(inputs["pixel_values"]), len(SMALL_LESIONS)
    questions = [spec["ask"][0].format(finding=display(name)) for name in SMALL_LESIONS] * count
    conversations = [[model.system_turn(), Turn("user", question)] for question in questions]
    rows = [row for row in range(count) for _ in SMALL_LESIONS]
    scores = model.score(inputs, conversations, [[spec["yes"], spec["no"]]] * len(rows), rows=rows)
    return softmax(np.asarray(scores, dtype=float))[:, 0].reshape(count, kinds)


class Diagnosis:
    """Task `diagnosis`, and what `controls` compare with."""

    looks = True

    def __init__(self, material: Material):
        self.material = material
        self.question, self.answers = diagnosis_question(material.model.processor)
        self.wanted = set(material.judged)
        self.found: dict[int, np.ndarray] = {}  # row -> probabilities [C]

    def see(self, rows: range, inputs: Inputs, masks: Any) -> None:
        mine = [i for i in rows if i in self.wanted]
        if mine:
            some = inputs.select([i - rows.start for i in mine])
            table = candidate_probabilities(self.material.model, some, self.question, self.answers)
            self.found.update(zip(mine, table, strict=True))

    def table(self) -> np.ndarray:
        """float [J, C] of the judged photographs."""
        return np.stack([self.found[i] for i in self.material.judged])

    def metrics(self) -> dict:
        """`classification`, `calibration`, `selective` and `subgroups`; with an operating point `decided` (each
        diagnosis by its threshold), `calibrated` and `abstention` as well.
        """
        m, table = self.material, self.table()
        truth, groups = m.known(m.judged)
        given = truth, table, m.classes, groups
        found = {
            "classification": classification_metrics(*given, **m.options)
            | {"per_class": class_table(*given, **m.options)},
            "calibration": calibration_metrics(*given, **m.options),
            "selective": selective_metrics(*given, **m.options),
        }
        metrics = {name: named_metric(name, truth, table, m.classes) for name in ROBUST}
        gradable = [m.gradable[i] for i in m.judged] if m.gradable else None
        columns = columns_of([m.records[i] for i in m.judged], gradable)
        if columns:
            found["subgroups"] = subgroup_metrics(metrics, columns, groups, **m.options)
        if m.point is not None:
            honest = m.point.calibrate(table)
            found["calibrated"] = calibration_metrics(truth, honest, m.classes, groups, **m.options)
            known = [tuple(n for n in names if n in m.point.decided) for names in truth]
            try:
                yes = m.point.decide(table)
                found["decided"] = multi_label_metrics(known, yes, m.point.decided, groups, **m.options)
            except UserError as error:  # at the end of a long pass
                print(f"decisions by threshold left out: {error}")
            below = m.point.abstain_below
            found["abstention"] = abstention_metrics(truth, honest, m.classes, groups, below, **m.options)
        return found

    def line(self, row: int) -> dict:
        if row not in self.found:
            return {}
        p = self.found[row]
        named = {name: float(v) for name, v in zip(self.material.classes, p, strict=True)}
        return {"probabilities": named, "predicted": self.material.classes[int(p.argmax())]}


def fit(model: Any, manifest: Manifest, *, batch_size: int = 32, risk: float | None = None) -> OperatingPoint:
    """The operating point of a model from the val split of a manifest, see `fit_operating_point`.

    Raises UserError where the split has no photograph with a diagnosis that the model knows.
    """
    m = Material.of(model, manifest.split(SPLIT), manifest, batch_size, 0, 0)
    if not m.judged:
        raise UserError(
            f"the {SPLIT} split has no photograph with a diagnosis that the checkpoint knows; `prepare.py split` makes "
            "a split"
        )
    task, progress = Diagnosis(m), Progress("photographs", len(m.records))
    told: dict[str, list[tuple[bool, float]]] = {name: [] for name in SMALL_LESIONS}  # is it there, is it said so
    with torch.inference_mode():
        for rows in batches(len(m.records), batch_size):
            some = m.records[rows.start : rows.stop]
            inputs = model.look(load_inputs(model, some, manifest)[0])
            task.see(rows, inputs, None)
            searched = [i for i, record in enumerate(some) if record.findings is not None]
            for i, said in zip(searched, presence(model, inputs.select(searched)) if searched else (), strict=True):
                there = stated(some[i])
                for name, p in zip(SMALL_LESIONS, said, strict=True):
                    told[name].append((name in there, float(p)))
            progress.step(len(rows))
    truth, groups = m.known(m.judged)
    splits = [m.records[i].split for i in m.judged]
    point = fit_operating_point(truth, task.table(), m.classes, groups, splits, manifest.sha256, risk=risk)
    columns = {name: np.array(pairs, dtype=float).reshape(-1, 2).T for name, pairs in told.items()}
    findings = fit_findings({n: c[0] > 0 for n, c in columns.items()}, {n: c[1] for n, c in columns.items()})
    return replace(point, findings=findings)
