"""The diagnosis and a report in the model's own words."""

from typing import Any

import numpy as np

from mdf.dialogue import Turn
from mdf.evaluation.bootstrap import put, resample, weighted_mean
from mdf.evaluation.diagnosis import diagnosis_question
from mdf.evaluation.parse import parse_diagnoses, parse_eye
from mdf.evaluation.task import Material
from mdf.processor import Inputs

ANSWER_TOKENS = 24  # a generated diagnosis; longer is no diagnosis
REPORT_TOKENS = 120


class Generation:
    """Task `generate`, of at most `limit` photographs with a true diagnosis (0 = all)."""

    looks = True

    def __init__(self, material: Material, limit: int = 0):
        self.material = material
        self.rows = material.draw(material.judged, limit)
        self.wanted = set(self.rows)
        self.question, _ = diagnosis_question(material.model.processor)
        self.answers: dict[int, str] = {}
        self.reports: dict[int, str] = {}

    def see(self, rows: range, inputs: Inputs, masks: Any) -> None:
        mine = [i for i in rows if i in self.wanted]
        if not mine:
            return
        model = self.material.model
        some = inputs.select([i - rows.start for i in mine])
        report = model.processor.prompts.questions["report"]["ask"][0]
        for question, found, limit in (
            (self.question, self.answers, ANSWER_TOKENS),
            (report, self.reports, REPORT_TOKENS),
        ):
            conversation = [model.system_turn(), Turn("user", question)]
            texts = model.generate_answers(some, [conversation] * len(mine), max_new_tokens=limit)
            found.update(zip(mine, texts, strict=True))

    def metrics(self) -> dict:
        """`accuracy` of the generated diagnosis (names a true one and no wrong one), `parsed`: share that names any,
        and `report_eye`: share of the reports naming one eye that name the right one (left out where no eye is known).
        """
        m = self.material
        truth, groups = m.known(self.rows)
        parsed = [parse_diagnoses(self.answers[i], m.classes) for i in self.rows]
        right = [bool(p) and set(p) <= set(t) for p, t in zip(parsed, truth, strict=True)]
        weights = resample(groups, **m.options)
        part: dict = {"n": len(parsed)}
        put(part, "accuracy", weighted_mean(np.array(right, dtype=float)), weights)
        put(part, "parsed", weighted_mean(np.array([bool(p) for p in parsed], dtype=float)), weights)
        said = [parse_eye(self.reports[i]) for i in self.rows]
        eyes = [m.records[i].eye for i in self.rows]
        sides = np.array([float(s == eye) if s and eye else np.nan for s, eye in zip(said, eyes, strict=True)])
        if not np.isnan(sides).all():
            put(part, "report_eye", weighted_mean(sides), weights)
        return {"generation": part}

    def line(self, row: int) -> dict:
        if row not in self.answers:
            return {}
        text = self.answers[row]
        parsed = list(parse_diagnoses(text, self.material.classes))
        return {"generated": text, "report": self.reports[row], "parsed": parsed}
