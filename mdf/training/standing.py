"""Where a stage stands after its validations: which was the best, how long ago, whether its embeddings collapsed."""

import math
from typing import Any

from mdf.config import StageConfig
from mdf.training.health import advice, collapse, widest
from mdf.training.validation import score_of


class Collapsed(ArithmeticError):
    """Embeddings fell together in a stage that stops on it; last/ is of that validation, best/ from before it."""


class Standing:
    """What the validations of one stage lead to; all of it goes through JSON, so that a resumed stage goes on alike.

    `by` is what the best is chosen by, see `mdf.training.validation.best_by`.
    """

    def __init__(self, name: str, stage: StageConfig, by: str):
        self.name, self.stage, self.by = name, stage, by
        self.best: dict[str, Any] = {"score": None, "step": None}
        self.waited = 0  # validations since the best
        self.widest: dict[str, float] = {}  # spread and rank of the embeddings, see `mdf.training.health`
        self.collapsed: str | None = None  # what happened to them
        self.known = False  # whether the validation before said so already
        self.ended = False  # whether `patience` is at its end
        self.unknown = False  # whether the last validation's score is not a number

    def judge(self, found: dict[str, float], step: int, *, last: bool) -> bool:
        """Take in a validation after `step`; whether it is the best so far. A tie keeps the earlier.

        Without validation photographs (`found` is {}) that is the `last` step. A collapsed one is never the best of a
        stage that stops on a collapse. One whose score is not a number is the best only as long as there is no other.
        """
        self.known = self.collapsed is not None
        self.collapsed, self.widest = collapse(self.widest, found), widest(self.widest, found)
        score = score_of(found, self.by) if found else None
        self.unknown = score is not None and math.isnan(score)
        if score is None:
            better = last
        elif self.unknown:  # nothing is greater or less than it, so that as a score it would stay the best for ever
            score, better = None, self.best["step"] is None
        else:
            better = self.best["score"] is None or score > self.best["score"]
        if self.stops:
            better = False
        if better:
            self.best = {"score": score, "step": step}
        self.waited = 0 if better else self.waited + 1
        self.ended = 0 < self.stage.patience <= self.waited and not last
        return better

    @property
    def stops(self) -> bool:
        """Whether the run has to stop because of a collapse."""
        return self.collapsed is not None and self.stage.stop_on_collapse

    def news(self, step: int) -> list[str]:
        """What a user should know after a validation, beyond its numbers."""
        lines = []
        if self.unknown:
            lines.append(
                f"{self.name}, step {step}: WARNING: the validation's {self.by} is not a number, so any other is "
                "better; a validation photograph may be damaged, or the learning rate too high"
            )
        if self.collapsed:
            what = f"still: {self.collapsed}" if self.known else f"{self.collapsed}. {advice(self.name)}"
            lines.append(f"{self.name}, step {step}: COLLAPSE: {what}")
        if self.ended:
            lines.append(
                f"{self.name}: {self.waited} validations without a better {self.by}, so it ends after step {step}; "
                f"best/ is of step {self.best['step']}"
            )
        return lines

    def refuse(self, step: int) -> None:
        """Raise Collapsed where the stage has to stop."""
        if self.stops:
            kept = f"best/ is of step {self.best['step']}" if self.best["step"] else "no step of it became best/"
            raise Collapsed(
                f"{self.name}, step {step}: stopped, because {self.collapsed}. {advice(self.name)}, in a run of "
                f"another name; {kept}. To go on all the same: --resume with {self.name}.stop_on_collapse=false"
            )

    def state(self) -> dict[str, Any]:
        """Everything but the settings."""
        return {name: getattr(self, name) for name in ("by", "best", "waited", "widest", "collapsed", "ended")}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` returned, or to the part of it that an older mdf saved."""
        for name, value in state.items():
            setattr(self, name, value)
        if self.best["score"] is not None and math.isnan(self.best["score"]):  # of an older mdf
            self.best = {**self.best, "score": None}
