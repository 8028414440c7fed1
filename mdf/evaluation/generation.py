"""The diagnosis and a report in the model's own words, put down and judged by `mdf.evaluation.generated`."""

from typing import Any

from mdf.curriculum import CATARACT_SCORE
from mdf.dialogue import Turn
from mdf.evaluation.diagnosis import diagnosis_question
from mdf.evaluation.generated import answer_metrics, text_metrics
from mdf.evaluation.parse import parse_diagnoses
from mdf.evaluation.severity import severity_metrics
from mdf.evaluation.task import Material, draw
from mdf.processor import Inputs

ANSWER_TOKENS = 24  # a generated diagnosis or score; longer is none
REPORT_TOKENS = 220  # descriptions of some sets are long; most reports end before half of it


class Generation:
    """Task `generate`, of at most `limit` photographs drawn by the seed (0 = all)."""

    looks = True

    def __init__(self, material: Material, limit: int = 0):
        self.material = material
        prompts = material.model.processor.prompts
        self.rows = draw(range(len(material.records)), limit, material.options["seed"])
        if len(self.rows) < len(material.records):
            print(f"generate: {len(self.rows)} of {len(material.records)} photographs, drawn by the seed (--generated)")
        judged = set(material.judged)
        self.questions = {  # name -> question, tokens of the answer, rows that are asked
            "generated": (diagnosis_question(material.model.processor)[0], ANSWER_TOKENS, judged & set(self.rows)),
            "report": (prompts.questions["report"]["ask"][0], REPORT_TOKENS, set(self.rows)),
        }
        scored = {i for i in self.rows if CATARACT_SCORE in material.records[i].grade}
        if scored and "severity" in prompts.questions:  # not in the prompts of older checkpoints
            self.questions["severity"] = (prompts.questions["severity"]["ask"][0], ANSWER_TOKENS, scored)
        self.texts: dict[str, dict[int, str]] = {name: {} for name in self.questions}  # name -> row -> text

    def see(self, rows: range, inputs: Inputs, masks: Any) -> None:
        model = self.material.model
        for name, (question, limit, wanted) in self.questions.items():
            mine = [i for i in rows if i in wanted]
            if mine:
                conversation = [model.system_turn(), Turn("user", question)]
                some = inputs.select([i - rows.start for i in mine])
                texts = model.generate_answers(some, [conversation] * len(mine), max_new_tokens=limit)
                self.texts[name].update(zip(mine, texts, strict=True))

    def metrics(self) -> dict:
        """`generation`: of the diagnosis (left out where none is known) `accuracy` and how it could be read; `report`
        and, of cataract photographs, `severity` besides.
        """
        m = self.material
        part: dict = {}
        if answers := self.texts["generated"]:
            truth, groups = m.known(list(answers))
            part |= answer_metrics(list(answers.values()), truth, m.classes, groups, **m.options)
        reports = self.texts["report"]
        part["report"] = text_metrics(
            list(reports.values()), [m.records[i] for i in reports], [m.groups[i] for i in reports], **m.options
        )
        if scores := self.texts.get("severity"):
            who = [m.groups[i] for i in scores]
            part["severity"] = severity_metrics(list(scores.values()), [m.records[i] for i in scores], who, **m.options)
        return {"generation": part}

    def line(self, row: int) -> dict:
        line: dict = {name: texts[row] for name, texts in self.texts.items() if row in texts}
        if "generated" in line:
            line["parsed"] = list(parse_diagnoses(line["generated"], self.material.classes))
        return line
