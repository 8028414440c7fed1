"""What stops a run before a broken step is saved: a loss or gradient that is no number, and a loss that shoots up.

Steps are noted as they are made and read together, before a line is logged and before anything is saved, so that the
device is waited for once for all of them.

Shapes: m micro-batches of a step, n losses, P parts, S steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from mdf.batches import Batch

SHOWN = 32  # ids of photographs in a message, at most
WINDOW, FIRST = 64, 16  # steps that the loss is compared with; first steps, which say where it started
FLOOR = 0.05  # of the median: the least that steps are taken to differ
SIGMA = 1.4826  # median absolute deviation -> standard deviation of a normal distribution


class Unsound(ArithmeticError):
    """The weights are not to be saved after this step; nothing of it was."""


class NotFinite(Unsound):
    """A loss or gradient became infinite or not a number."""


class Spike(Unsound):
    """The loss shot up far beyond what it has been."""


class Level:
    """Where the loss of a stage stands, robustly: one bad step does not move it.

    A loss is a spike above limit = max(median of the FIRST losses, m + factor · s), with m the median of the last
    WINDOW losses and s = max(1.4826 · median |loss - m|, 0.05 · |m|): far outside of what they differ by, and at the
    same time worse than at the start, which an odd photograph late in training is not. There is no limit before
    2 · FIRST losses.
    """

    def __init__(self, factor: float):
        self.factor = factor
        self.first: list[float] = []
        self.recent: list[float] = []

    def limit(self) -> float:
        """The highest loss of the next step that is no spike."""
        if not self.factor or len(self.recent) < 2 * FIRST:
            return math.inf
        middle = median(self.recent)
        spread = SIGMA * median(abs(loss - middle) for loss in self.recent)
        return max(median(self.first), middle + self.factor * max(spread, FLOOR * abs(middle)))

    def add(self, loss: float) -> None:
        """Take in the loss of a step."""
        if len(self.first) < FIRST:
            self.first.append(loss)
        self.recent = [*self.recent[1 - WINDOW :], loss]

    def state(self) -> dict[str, list[float]]:
        return {"first": self.first, "recent": self.recent}

    def restore(self, state: dict[str, list[float]]) -> None:
        self.first, self.recent = state["first"], state["recent"]


@dataclass
class Noted:
    """One step: `ids` of this process's photographs and `shares` [n] of the losses, a micro-batch each; gradient norms
    before clipping by part, "" being that of all.
    """

    step: int
    ids: list[list[str]]
    shares: list[Tensor]
    norms: dict[str, Tensor]


@dataclass
class Read:
    """The same as numbers: each loss of all processes, and the norms."""

    losses: list[float]
    norms: dict[str, float]


class Guard:
    """Reads the steps of one stage, and raises Unsound at the first after which the weights cannot be trusted."""

    def __init__(self, stage: str, weights: dict[str, float], factor: float):
        self.stage, self.weights = stage, weights
        self.level = Level(factor)
        self.saved: int | None = None  # step of the last checkpoint of this stage
        self.pending: list[Noted] = []

    def note(self, step: int, batches: Sequence[Batch], shares: list[Tensor], norms: dict[str, Tensor]) -> None:
        """Remember a step; waits for nothing. `shares` [n] a micro-batch: each loss's part of the whole step's."""
        self.pending.append(Noted(step, [batch.sample_ids for batch in batches], shares, norms))

    def read(self, accelerator: Any) -> list[Read]:
        """What the steps noted since the last call came to, the same on all processes.

        Raises NotFinite or Spike, the photographs of this process being named in it.
        """
        pending, self.pending = self.pending, []
        if not pending:
            return []
        own = [torch.stack(step.shares) for step in pending]  # [m,n] each
        sums = accelerator.reduce(torch.stack([x.sum(0) for x in own]), "sum")  # [S,n]
        norms = torch.stack([torch.stack([*step.norms.values()]) for step in pending]).to(sums)  # [S,P]
        numbers = iter(torch.cat([x.flatten() for x in (sums, norms, *own)]).tolist())  # the one wait for the device

        def rows(count: int, width: int) -> list[list[float]]:
            return [[next(numbers) for _ in range(width)] for _ in range(count)]

        losses, by_part = rows(*sums.shape), rows(*norms.shape)
        mine = [rows(*x.shape) for x in own]
        found = []
        for step, values, part_values, shares in zip(pending, losses, by_part, mine, strict=True):
            made = Read(values, dict(zip(step.norms, part_values, strict=True)))
            self.judge(step, made, shares)
            found.append(made)
        return found

    def judge(self, step: Noted, made: Read, shares: list[list[float]]) -> None:
        """Raise where a step is unsound; else it becomes part of what later steps are compared with."""
        named = dict(zip(self.weights, made.losses, strict=True))
        broken = [f"loss {name}" for name, value in named.items() if not math.isfinite(value)]
        broken += [f"gradient of {part}" for part, norm in made.norms.items() if part and not math.isfinite(norm)]
        if broken or not all(map(math.isfinite, made.norms.values())):
            bad = [ids for ids, row in zip(step.ids, shares, strict=True) if not all(map(math.isfinite, row))]
            raise NotFinite(
                f"{self.stage}, step {step.step}: not finite: {', '.join(broken) or 'the gradient'}. {self.kept()} "
                f"Resumed as it is the run would come to the same step: start another from last/ (run.name=NAME "
                f"run.start_from=…/last) with lower learning rates of {self.stage}.parts, a lower "
                f"{self.stage}.max_grad_norm or run.precision=fp32. {self.photographs(bad or step.ids)}"
            )
        loss, limit = sum(self.weights[name] * value for name, value in named.items()), self.level.limit()
        if loss > limit:
            terms = ", ".join(f"{name} {value:.4g}" for name, value in named.items())
            raise Spike(
                f"{self.stage}, step {step.step}: the loss shot up to {loss:.4g} ({terms}), where the last "
                f"{len(self.level.recent)} steps had a median of {median(self.level.recent):.4g} and {limit:.4g} was "
                f"the limit of run.spike={self.level.factor:g}. {self.kept()} Look at the photographs first. "
                f"Resumed as it is the run would come to the same step: go on over it with --resume run.spike=0, or "
                f"start another from last/ (run.name=NAME run.start_from=…/last) with lower learning rates of "
                f"{self.stage}.parts or a lower {self.stage}.max_grad_norm. {self.photographs(step.ids)}"
            )
        self.level.add(loss)

    def kept(self) -> str:
        if self.saved is None:
            return "Nothing of this stage was saved yet."
        return f"Nothing since the last checkpoint was saved; it is of step {self.saved}."

    @staticmethod
    def photographs(batches: list[list[str]]) -> str:
        ids = [sample for batch in batches for sample in batch]
        more = f" … ({len(ids)} in all)" if len(ids) > SHOWN else ""
        return f"The photographs of the step on this process: {', '.join(ids[:SHOWN])}{more}"
