"""Questions about small lesions, answered by candidate likelihood: is it there, in which quadrant, how many; and of
checkpoints that were trained on them, how large an area, how far from the fovea.

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
MEASURES = ("size", "distance")


def kinds_of(trained: Sequence[str]) -> tuple[str, ...]:
    """What a checkpoint is asked: KINDS always, MEASURES where it was `trained` on them (`processor.questions`)."""
    return (*KINDS, *(kind for kind in MEASURES if kind in trained))


@dataclass(frozen=True)
class SpatialQuestion:
    """`question` about the photograph of row `row` in the list of records."""

    row: int
    question: Question

    @property
    def truth(self) -> int:
        return self.question.candidates.index(self.question.answer)


def spatial_questions(
    records: Sequence[FundusRecord], prompts: Prompts, *, kinds: Sequence[str] = KINDS, seed: int = 0
) -> list[SpatialQuestion]:
    """All questions of `kinds` that the records can answer. Presence is asked for every kind of small lesion as often
    where it is as where it is not (the rarer side decides how often); count, size and distance of every lesion whose
    record knows it, quadrant of those that lie in one alone.
    """
    rng = np.random.default_rng(seed)
    chosen: list[SpatialQuestion] = []
    for lesion in SMALL_LESIONS:
        sides: tuple[list[SpatialQuestion], list[SpatialQuestion]] = ([], [])
        for row, record in enumerate(records):
            for kind in kinds:
                question = ask(record, kind, prompts, (), finding=lesion)
                if question is None or not question.candidates:
                    continue
                item = SpatialQuestion(row, question)
                (sides[item.truth] if kind == "presence" else chosen).append(item)
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
    """Of each kind that was asked `balanced_accuracy` with its interval, `chance` (1 / answers that occur), `by_name`
    and `n`; `small_lesions.balanced_accuracy`: the mean of those of KINDS. `groups` is the patient of each record.

    `by_name` is the balanced accuracy of knowing the lesion's name and these records' answers, but no picture: cotton
    wool spots are few, and exudates lie close together.
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

    asked = [kind for kind in (*KINDS, *MEASURES) if (kind_of == kind).any()]
    lesion = np.array([q.question.finding or "" for q in questions])
    metrics: dict = {}
    for kind in asked:
        rows = kind_of == kind
        metrics[kind] = {"n": int(rows.sum()), "chance": 1 / len(np.unique(truth[rows]))}
        metrics[kind]["by_name"] = by_name(lesion[rows], truth[rows])
        put(metrics[kind], "balanced_accuracy", balanced(kind), weights)
    metrics["small_lesions"] = {"n": int(np.isin(kind_of, KINDS).sum())}
    parts = [balanced(kind) for kind in asked if kind in KINDS]
    if not parts:
        return metrics
    put(
        metrics["small_lesions"],
        "balanced_accuracy",
        lambda w: known_mean(np.stack([p(w) for p in parts], axis=1)),
        weights,
    )
    return metrics


def by_name(lesion: np.ndarray, truth: np.ndarray) -> float:
    """The highest balanced accuracy of one answer a lesion; its name and the true answer, [N] each."""
    names, answers = np.unique(lesion, return_inverse=True)[1], np.unique(truth, return_inverse=True)[1]
    table = np.zeros((names.max() + 1, answers.max() + 1))
    np.add.at(table, (names, answers), 1)
    return float((table / table.sum(0)).max(1).sum() / table.shape[1])
