"""The diagnosis by the likelihood of each candidate answer.

Shapes: B photographs of a batch, J with a true diagnosis, C candidate diagnoses.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mdf.dialogue import Turn, diagnosis_answer
from mdf.evaluation.classification import classification_metrics, softmax
from mdf.evaluation.task import Material
from mdf.processor import Inputs


def candidate_probabilities(model: Any, inputs: Inputs, question: str, candidates: Sequence[str]) -> np.ndarray:
    """float [B, C]: softmax over the summed log-likelihoods of the candidate answers to one question."""
    rows = len(inputs["pixel_values"])
    conversation = [model.system_turn(), Turn("user", question)]
    return softmax(np.asarray(model.score(inputs, [conversation] * rows, [list(candidates)] * rows), dtype=float))


def diagnosis_question(processor: Any) -> tuple[str, list[str]]:
    """The question for the diagnosis as it is worded first, and the answer that names each candidate [C]."""
    prompts = processor.prompts
    return prompts.questions["diagnosis"]["ask"][0], [diagnosis_answer(prompts, (n,)) for n in processor.diagnoses]


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
        m = self.material
        truth, groups = m.known(m.judged)
        return {"classification": classification_metrics(truth, self.table(), m.classes, groups, **m.options)}

    def line(self, row: int) -> dict:
        if row not in self.found:
            return {}
        p = self.found[row]
        named = {name: round(float(v), 6) for name, v in zip(self.material.classes, p, strict=True)}
        return {"probabilities": named, "predicted": self.material.classes[int(p.argmax())]}
