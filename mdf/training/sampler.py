"""Which photograph comes when: one order for all processes, of which each takes its share.

The order of the whole stage is a pure function of (seed, position), so that a step is the same however it is cut into
micro-batches and processes, and a run that is resumed goes on where it was.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

Key = tuple[int, int]  # (visit, index): FundusDataset augments by the first and reads the photograph of the second
VISIT = 1 << 20  # a photograph drawn again within an epoch has this added to its visit, so that it is augmented anew


@lru_cache(maxsize=2)
def order(seed: int, epoch: int, size: int, groups: tuple[str, ...] | None) -> list[Key]:
    """The `size` draws of one epoch.

    Without `groups` a permutation. With them (one name a photograph) every group is drawn equally often, to within one:
    groups take turns in an order shuffled each round, and a small group starts again when all of it has been drawn.
    """
    rng = np.random.default_rng([seed, epoch])
    if groups is None:
        return [(epoch, int(i)) for i in rng.permutation(size)]
    members = {name: [i for i, g in enumerate(groups) if g == name] for name in sorted(set(groups))}
    turns: list[str] = []
    while len(turns) < size:
        turns += [str(name) for name in rng.permutation(list(members))]
    drawn: dict[str, int] = dict.fromkeys(members, 0)
    queue: dict[str, list[int]] = {name: [] for name in members}
    keys = []
    for name in turns[:size]:
        if not queue[name]:
            queue[name] = rng.permutation(members[name]).tolist()
        keys.append((epoch + VISIT * (drawn[name] // len(members[name])), int(queue[name].pop())))
        drawn[name] += 1
    return keys


@dataclass(frozen=True)
class Sampler:
    """Batches of keys for this process: iterating yields them without end, from `consumed` samples into `epoch`.

    A step takes the next batch_size * accumulation * processes keys of the order. Its micro-batch j is the j-th
    consecutive batch_size * processes of them, of which this process takes the `rank`-th batch_size. An epoch's tail
    runs on into the next epoch, so that every step is of the same size. Must not go through `accelerator.prepare`,
    which would cut the share of this process up a second time.
    """

    size: int  # photographs
    seed: int
    batch_size: int  # a process and micro-batch
    accumulation: int = 1
    rank: int = 0
    processes: int = 1
    groups: tuple[str, ...] | None = None  # one a photograph: draw each equally often
    epoch: int = 0
    consumed: int = 0  # samples of this epoch that all processes together have consumed

    @property
    def step_size(self) -> int:
        """Photographs of one optimiser step, all processes together."""
        return self.batch_size * self.accumulation * self.processes

    def state(self) -> dict[str, int]:
        """What another sampler needs to go on from here."""
        return {"seed": self.seed, "epoch": self.epoch, "consumed": self.consumed}

    def after(self, steps: int) -> "Sampler":
        """The sampler `steps` optimiser steps later."""
        position = self.epoch * self.size + self.consumed + steps * self.step_size
        return replace(self, epoch=position // self.size, consumed=position % self.size)

    def keys(self, start: int, count: int) -> list[Key]:
        """The keys at the global positions start … start + count - 1."""
        at = range(start, start + count)
        return [order(self.seed, p // self.size, self.size, self.groups)[p % self.size] for p in at]

    def __iter__(self) -> Iterator[list[Key]]:
        position = self.epoch * self.size + self.consumed
        while True:
            yield self.keys(position + self.rank * self.batch_size, self.batch_size)
            position += self.batch_size * self.processes


def groups_of(diagnoses: Sequence[tuple[str, ...] | None]) -> tuple[str, ...]:
    """The name that each photograph is balanced by: its whole diagnosis."""
    return tuple("|".join(sorted(d)) if d else "unknown" for d in diagnoses)
