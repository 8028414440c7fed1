"""Which of the prompts' questions a person asked, and what can be said to it beside the model's own words.

A question of a closed list of answers gets the probability of each; one about what no photograph shows gets a rule's
answer; any other has neither, which is said.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mdf.dialogue import QUADRANTS, SMALL_LESIONS, Prompts, Turn, diagnosis_answer, sentence
from mdf.evaluation.classification import softmax
from mdf.evaluation.operating_point import OperatingPoint
from mdf.processor import Inputs
from mdf.vocabulary import display, lookup, squash

ABOUT_LESION = ("presence", "quadrant", "count", "size", "distance")
WHERE_THERE = ABOUT_LESION[1:]  # mean something only where there are any


@dataclass(frozen=True)
class Asked:
    """A question of questions.yaml: its kind, and the lesion (canonical name) or topic that it is about, if any."""

    kind: str
    subject: str | None = None


@dataclass(frozen=True)
class Reading:
    """Probabilities of the answers to a question in its standard wording, asked alone: the same as in a report.

    `present` is the probability that there are any, of a question that means nothing otherwise; `likely` says whether
    that is enough.
    """

    asked: Asked
    probabilities: dict[str, float]  # by answer, the highest first; they sum to 1
    calibrated: bool = False  # the operating point's temperature was applied
    thresholds: Mapping[str, float] = field(default_factory=dict)  # by answer
    abstains: bool = False  # the operating point is not sure enough of any
    present: float | None = None
    likely: bool = True

    @property
    def first(self) -> str:
        """The likeliest answer."""
        return next(iter(self.probabilities))

    def above(self, answer: str) -> bool | None:
        """Whether an answer reaches its threshold; None where it has none."""
        limit = self.thresholds.get(answer)
        return None if limit is None else self.probabilities[answer] >= limit


def recognise(text: str, prompts: Prompts) -> Asked | None:
    """What was asked, in any of the wordings of questions.yaml or by a topic that no photograph tells; None: unknown
    words, or a lesion that the prompts do not ask about.
    """
    said = squash(text)
    if not said:
        return None
    for kind in ("diagnosis", "eye"):
        if said in map(squash, wordings(prompts, kind)):
            return Asked(kind)
    topics = prompts.questions.get("unknown", {}).get("topics", {})
    for topic in topics:
        if re.search(rf"\b{re.escape(squash(topic))}\b", said):
            return Asked("unknown", topic)
    for kind in ABOUT_LESION:
        for wording in wordings(prompts, kind):
            before, _, after = (squash(part) for part in wording.partition("{finding}"))
            inside = re.fullmatch(rf"{re.escape(before)} ?(.+?) ?{re.escape(after)}", said)
            if inside and (name := lookup(inside[1])) in SMALL_LESIONS:
                return Asked(kind, name)
    return None


def wordings(prompts: Prompts, kind: str) -> list[str]:
    """Every way to ask, none where the prompts lack the kind."""
    spec = prompts.questions.get(kind, {})
    return [*spec.get("ask", ()), *spec.get("more", ())]


def cannot_be_told(asked: Asked, prompts: Prompts) -> str:
    """The answer to a question of kind `unknown`."""
    spec = prompts.questions["unknown"]
    return spec["answer"].format(topic=asked.subject, source=spec["topics"][asked.subject])


def candidates(asked: Asked, prompts: Prompts, diagnoses: Sequence[str]) -> list[str]:
    """The answers that a question has; none where its list is open or the prompts lack it."""
    spec = prompts.questions.get(asked.kind, {})
    if asked.kind == "diagnosis":
        return [diagnosis_answer(prompts, (name,)) for name in diagnoses]
    if asked.kind == "presence":
        return [spec["yes"], spec["no"]]
    if asked.kind == "quadrant":
        return [sentence(spec["answer"].format(location=q)) for q in QUADRANTS]
    if asked.kind == "eye":
        return [sentence(spec["answer"].format(eye=side)) for side in ("left", "right")]
    return [band[1] for band in spec.get("bands", ())]


def read(model: Any, inputs: Inputs, asked: Asked, point: OperatingPoint | None = None) -> Reading | None:
    """The probabilities of the answers about one photograph; None where the question has no closed list."""
    processor = model.processor
    answers = candidates(asked, processor.prompts, processor.diagnoses)
    if len(answers) < 2:
        return None
    found = probabilities(model, inputs, asked, answers)
    calibrated = asked.kind == "diagnosis" and point is not None
    thresholds: dict[str, float] = {}
    abstains = False
    if calibrated:
        assert point is not None
        abstains = not bool(point.answers(found[None])[0])
        found = point.calibrate(found[None])[0]
        by_name = dict(zip(processor.diagnoses, answers, strict=True))
        thresholds = {by_name[name]: limit for name, limit in point.thresholds.items()}
    present = None
    enough = point.findings.get(asked.subject) if point and asked.subject else None  # threshold of "are there any?"
    if asked.kind == "presence" and enough is not None:
        thresholds = {answers[0]: enough}
    if asked.kind in WHERE_THERE:
        there = Asked("presence", asked.subject)
        present = float(probabilities(model, inputs, there, candidates(there, processor.prompts, ()))[0])
    ranked = sorted(zip(answers, map(float, found), strict=True), key=lambda pair: -pair[1])
    likely = present is None or present >= (0.5 if enough is None else enough)
    return Reading(asked, dict(ranked), calibrated, thresholds, abstains, present, likely)


def probabilities(model: Any, inputs: Inputs, asked: Asked, answers: list[str]) -> np.ndarray:
    """float [C]: softmax over the log-likelihoods of the answers to the first wording of the question."""
    question = model.processor.prompts.questions[asked.kind]["ask"][0]
    if asked.subject is not None:
        question = question.format(finding=display(asked.subject))
    scores = model.score(inputs, [[model.system_turn(), Turn("user", question)]], [answers])
    return softmax(np.asarray(scores, dtype=float))[0]
