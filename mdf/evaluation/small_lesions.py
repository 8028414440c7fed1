"""Questions about small lesions, put to the language model."""

from typing import Any

import numpy as np

from mdf.dialogue import Turn
from mdf.evaluation.photographs import batches
from mdf.evaluation.spatial import SpatialQuestion, spatial_metrics
from mdf.evaluation.task import Material
from mdf.processor import Inputs


class SmallLesions:
    """Task `spatial`: see `mdf.evaluation.spatial`."""

    looks = True

    def __init__(self, material: Material, questions: list[SpatialQuestion]):
        self.material, self.questions = material, questions
        self.answers: list[int] = []  # in the order of the questions, which is that of the photographs
        self.asked: dict[int, list[dict]] = {}  # row -> its lines

    def see(self, rows: range, inputs: Inputs, masks: Any) -> None:
        model = self.material.model
        mine = [q for q in self.questions if q.row in rows]
        for part in batches(len(mine), self.material.batch_size):
            some = [mine[i] for i in part]
            conversations = [[model.system_turn(), Turn("user", q.question.text)] for q in some]
            candidates = [list(q.question.candidates) for q in some]
            scores = model.score(inputs, conversations, candidates, rows=[q.row - rows.start for q in some])
            for item, row in zip(some, scores, strict=True):
                self.answers.append(int(np.argmax(row)))
                q = item.question
                line = {"kind": q.kind, "question": q.text, "truth": q.answer, "answer": q.candidates[self.answers[-1]]}
                self.asked.setdefault(item.row, []).append(line)

    def metrics(self) -> dict:
        m = self.material
        return {"spatial": spatial_metrics(self.questions, self.answers, m.groups, **m.options)}

    def line(self, row: int) -> dict:
        return {"spatial": self.asked[row]} if row in self.asked else {}
