"""Questions about small lesions, answered by candidate likelihood: is it there, in which quadrant, how many.

These need the picture's detail and its place: a model that knows only the diagnosis cannot answer them well.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mdf.dialogue import SMALL_LESIONS, Prompts, Question, ask
from mdf.evaluation.bootstrap import RESAMPLES, known_mean, put, resample
from mdf.evaluation.classification import confusion, recalls
from mdf.records import FundusRecord

KINDS = ("presence", "quadrant", "count")


@dataclass(frozen=True)
class SpatialQuestion:
    """`question` about the photograph of row `row` in the list of records."""

    row: int
    question: Question

    @property
    def truth(self) -> int:
        return self.question.candidates.index(self.question.answer)


def spatial_questions(records: Sequence[FundusRecord], prompts: Prompts, *, seed: int = 0) -> list[SpatialQuestion]:
    """All questions that the records can answer. Presence is asked for every kind of small lesion as often where it is
    as where it is not (the rarer side decides how often); count of every lesion whose record knows it, quadrant of
    those that lie in one alone.
    """
    rng = np.random.default_rng(seed)
    chosen: list[SpatialQuestion] = []
    for lesion in SMALL_LESIONS:
        sides: tuple[list[SpatialQuestion], list[SpatialQuestion]] = ([], [])
        for row, record in enumerate(records):
            question = ask(record, "presence", prompts, (), finding=lesion)
            if question is not None:
                item = SpatialQuestion(row, question)
                sides[item.truth].append(item)
            for kind in ("quadrant", "count"):
                question = ask(record, kind, prompts, (), finding=lesion)
                if question is not None and question.candidates:
                    chosen.append(SpatialQuestion(row, question))
        size = min(map(len, sides))
        for side in sides:
            chosen += [side[i] for i in sorted(rng.permutation(len(side))[:size])]
    return sorted(chosen, key=lambda item: item.row)


def spatial_metrics(
    questions: Sequence[SpatialQuestion],
    predicted: Sequence[int],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """`presence`, `quadrant` and `count`: each `balanced_accuracy` with its interval, `chance` (1 / answers that occur)
    and `n`; `small_lesions.balanced_accuracy`: the mean of those three that could be asked. `groups` is the patient of
    each record.
    """
    if not questions:
        return {}
    weights = resample([groups[q.row] for q in questions], resamples=resamples, seed=seed)
    kind_of = np.array([q.question.kind for q in questions])
    truth, answer = np.array([q.truth for q in questions]), np.asarray(predicted)
    count = max(len(q.question.candidates) for q in questions)

    def balanced(kind: str) -> Callable[[np.ndarray], np.ndarray]:
        rows = np.flatnonzero(kind_of == kind)
        return lambda w: known_mean(recalls(confusion(truth[rows], answer[rows], count, w[:, rows])))

    asked = [kind for kind in KINDS if (kind_of == kind).any()]
    metrics: dict = {}
    for kind in asked:
        rows = kind_of == kind
        metrics[kind] = {"n": int(rows.sum()), "chance": 1 / len(np.unique(truth[rows]))}
        put(metrics[kind], "balanced_accuracy", balanced(kind), weights)
    metrics["small_lesions"] = {"n": len(questions)}
    parts = [balanced(kind) for kind in asked]
    put(
        metrics["small_lesions"],
        "balanced_accuracy",
        lambda w: known_mean(np.stack([p(w) for p in parts], axis=1)),
        weights,
    )
    return metrics
