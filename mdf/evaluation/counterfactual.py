"""Counterfactual pairs of phantoms: does the answer change where the photograph does, and only as it should?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mdf.dialogue import ABOUT, SMALL_LESIONS, Prompts, Question, Turn, ask
from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, put, resample, weighted_mean
from mdf.evaluation.photographs import batches
from mdf.evaluation.spatial import kinds_of
from mdf.evaluation.task import Material
from mdf.imaging.phantom import check_size
from mdf.imaging.phantom_pairs import CHANGES, Pair, draw_pair
from mdf.processor import Inputs

NEEDS = {"lesion": "presence", "quadrant": "quadrant", "count": "count", "cup": "diagnosis"}  # the answer that changes


@dataclass(frozen=True)
class PairQuestion:
    """The same question about both photographs of a pair, each with its own true answer."""

    pair: int
    change: str
    finding: str  # what changed in the photograph
    asked: tuple[Question, Question]

    @property
    def truth(self) -> tuple[int, int]:
        """Numbers of the true answers among the candidates."""
        first, second = (q.candidates.index(q.answer) for q in self.asked)
        return first, second

    @property
    def changes(self) -> bool:
        return self.truth[0] != self.truth[1]


def pair_questions(
    pair: Pair, number: int, kinds: Sequence[str], prompts: Prompts, diagnoses: Sequence[str], seed: int
) -> list[PairQuestion]:
    """All questions of `kinds` whose answer changes in the pair, and by `seed` as many whose answer must not."""
    found = []
    for kind in kinds:
        for finding in SMALL_LESIONS if kind == "presence" or kind in ABOUT else (None,):
            both = [ask(record, kind, prompts, tuple(diagnoses), finding=finding) for record in pair.records]
            one, other = both
            if one and other and one.answer in one.candidates and other.answer in other.candidates:
                found.append(PairQuestion(number, pair.change, pair.finding, (one, other)))
    moved, still = [q for q in found if q.changes], [q for q in found if not q.changes]
    order = np.random.default_rng([seed, number]).permutation(len(still))
    return moved + [still[i] for i in sorted(order[: len(moved)])]


class Counterfactual:
    """Task `counterfactual`. It needs none of the photographs that are evaluated: it draws its own."""

    looks = False

    def __init__(self, material: Material):
        processor = material.model.processor
        self.material = material
        self.asked = Counterfactuals(
            processor.prompts, processor.diagnoses, processor.questions, seed=material.options["seed"]
        )

    def see(self, rows: range, inputs: Inputs, masks: Any) -> None:
        """Nothing of these."""

    def metrics(self) -> dict:
        with torch.inference_mode():
            self.asked.ask(self.material.model, self.material.batch_size)
        return {"counterfactual": self.asked.figures(**self.material.options)}

    def line(self, row: int) -> dict:
        return {}


class Counterfactuals:
    """`ask(model)` draws the pairs and asks, batch by batch; then `figures()` and `lines()`.

    Photographs are drawn on the fly, always the same ones for a seed.
    """

    def __init__(
        self,
        prompts: Prompts,
        diagnoses: Sequence[str],
        trained: Sequence[str] = (),
        *,
        pairs: int = 120,
        seed: int = 0,
        size: int = 256,
    ):
        """`prompts` and `diagnoses` as the checkpoint has them, `trained` the kinds of questions that it knows
        (`processor.questions`; () = presence, quadrant, count, eye, and the diagnosis where it names several).
        `pairs` are shared among the kinds of change evenly, `size` is the photographs' side in pixels.

        Raises UserError where there are fewer pairs than kinds of change.
        """
        check_size(size)
        self.prompts, self.diagnoses, self.seed, self.size = prompts, tuple(diagnoses), seed, size
        others = [k for k in ("eye", "diagnosis") if k in trained or not trained]
        self.kinds = (*kinds_of(trained), *others)
        both = {"normal", "glaucoma"} <= set(diagnoses)
        self.changes = [c for c in CHANGES if NEEDS[c] in self.kinds and (c != "cup" or both)]
        if pairs < len(self.changes):
            raise UserError(
                f"counterfactual pairs: {pairs} are fewer than the kinds of change {', '.join(self.changes)}"
            )
        self.pairs = pairs
        self.questions: list[PairQuestion] = []
        self.answers: list[tuple[int, int]] = []  # numbers of the answers given, in the order of `questions`

    def draw(self, number: int) -> Pair:
        """Pair `number`, from 0."""
        bands = [end for end, _ in self.prompts.spec("count")["bands"] if end is not None]
        change = self.changes[number % len(self.changes)]
        return draw_pair(int(np.random.default_rng([self.seed, number]).integers(2**53)), change, self.size, bands)

    def ask(self, model: Any, batch_size: int = 16) -> None:
        """Ask `model` about all pairs; `batch_size` photographs and questions at once."""
        self.questions, self.answers = [], []
        for numbers in batches(self.pairs, max(1, batch_size // 2)):
            pairs = [self.draw(number) for number in numbers]
            inputs = model.processor([photograph.image for pair in pairs for photograph in pair.photographs])
            inputs = model.look(inputs.to(model.device))
            flat: list[tuple[int, Question]] = []  # photograph of the batch, and what is asked about it
            for row, (number, pair) in enumerate(zip(numbers, pairs, strict=True)):
                questions = pair_questions(pair, number, self.kinds, self.prompts, self.diagnoses, self.seed)
                self.questions += questions
                flat += [(2 * row + side, q.asked[side]) for q in questions for side in (0, 1)]
            answers: list[int] = []
            for part in batches(len(flat), batch_size):
                rows, asked = zip(*(flat[i] for i in part), strict=True)
                turns = [[model.system_turn(), Turn("user", question.text)] for question in asked]
                scores = model.score(inputs, turns, [list(q.candidates) for q in asked], rows=list(rows))
                answers += [int(np.argmax(line)) for line in scores]
            self.answers += zip(answers[::2], answers[1::2], strict=True)

    def figures(self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict:
        """Shares of questions, each with an interval in which whole pairs are drawn, of all pairs, `by_change` and
        `by_question`: by what changes, and by what is asked.

        `changed_right`: where the truth changes, both answers are right. `unchanged_same`: where it does not, both are
        the same, right or wrong. `consistency`: either, as the truth asks for. As many questions change as do not, so
        that a model that ignores the photograph has a consistency of one half.
        """
        weights = resample([str(q.pair) for q in self.questions], resamples=resamples, seed=seed)
        moves = np.array([q.changes for q in self.questions])
        right = np.array([a == q.truth for q, a in zip(self.questions, self.answers, strict=True)])
        same = np.array([one == other for one, other in self.answers])
        change = np.array([q.change for q in self.questions])
        kind = np.array([q.asked[0].kind for q in self.questions])

        def part(rows: np.ndarray) -> dict:
            found: dict = {"pairs": len({q.pair for q, here in zip(self.questions, rows, strict=True) if here})}
            found["questions"] = int(rows.sum())
            for name, values, mine in (
                ("changed_right", right, moves),
                ("unchanged_same", same, ~moves),
                ("consistency", np.where(moves, right, same), np.ones_like(moves)),
            ):
                put(found, name, weighted_mean(np.where(rows & mine, values, np.nan)), weights)
            return found

        whole = part(np.ones_like(moves))
        return {
            **whole,
            "by_change": {name: part(change == name) for name in self.changes},
            "by_question": {name: part(kind == name) for name in self.kinds if (kind == name).any()},
        }

    def lines(self) -> list[dict]:
        """One object a question of a pair, for a file of predictions."""
        return [
            {
                "pair": q.pair,
                "change": q.change,
                "finding": q.finding,
                "question": q.asked[0].text,
                "truth": [question.answer for question in q.asked],
                "answer": [question.candidates[a] for question, a in zip(q.asked, given, strict=True)],
            }
            for q, given in zip(self.questions, self.answers, strict=True)
        ]
