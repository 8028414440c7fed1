"""Which photograph comes when: one order for all processes, of which each takes its share.

The order of the whole stage is a pure function of (seed, position), so that a step is the same however it is cut into
micro-batches and processes, and a run that is resumed goes on where it was.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

Key = tuple[int, int]  # (visit, index): FundusDataset augments by the first and reads the photograph of the second
VISIT = 1 << 20  # a photograph drawn again within an epoch has this added to its visit, so that it is augmented anew


def order(
    seed: int,
    epoch: int,
    size: int,
    groups: tuple[str, ...] | None = None,
    sources: tuple[str, ...] | None = None,
    weights: tuple[tuple[str, float], ...] = (),
) -> np.ndarray:
    """The `size` draws of one epoch: int64 [size, 2], a Key each.

    Without `groups` and `sources` a permutation. `groups` (one name a photograph) are drawn equally often, to within
    one. `sources` (likewise) are drawn in proportion to their `weights`, to within one, those of an epoch in random
    order; each with its groups balanced, where both are given. What is used up is drawn again.
    """
    rng = np.random.default_rng([seed, epoch])
    if sources is None:
        keys = draws(rng, np.arange(size), groups, size)
    else:
        members = {name: np.array([i for i, s in enumerate(sources) if s == name]) for name, _ in weights}
        counts = quotas(rng, [weight for _, weight in weights], size)
        turns = rng.permutation(np.repeat(np.arange(len(weights)), counts))
        keys = np.empty((size, 2), dtype=np.int64)
        for number, (name, _) in enumerate(weights):
            keys[turns == number] = draws(rng, members[name], groups, counts[number])
    return keys * [VISIT, 1] + [epoch, 0]


def draws(rng: np.random.Generator, members: np.ndarray, groups: tuple[str, ...] | None, count: int) -> np.ndarray:
    """int64 [count, 2]: how often a photograph was drawn before, and its index, which is one of `members`.

    With `groups`, they take turns in an order shuffled each round; a small group starts again when all of it is drawn.
    """
    if groups is None:
        rounds = -(-count // len(members))
        indices = np.concatenate([rng.permutation(members) for _ in range(rounds)] or [members[:0]])
        return np.column_stack([np.repeat(np.arange(rounds), len(members)), indices])[:count]
    of = {name: [int(i) for i in members if groups[i] == name] for name in sorted({groups[i] for i in members})}
    turns: list[str] = []
    while len(turns) < count:
        turns += [str(name) for name in rng.permutation(list(of))]
    drawn: dict[str, int] = dict.fromkeys(of, 0)
    queue: dict[str, list[int]] = {name: [] for name in of}
    found = np.empty((count, 2), dtype=np.int64)
    for row, name in enumerate(turns[:count]):
        if not queue[name]:
            queue[name] = rng.permutation(of[name]).tolist()
        found[row] = drawn[name] // len(of[name]), queue[name].pop()
        drawn[name] += 1
    return found


def quotas(rng: np.random.Generator, weights: Sequence[float], size: int) -> np.ndarray:
    """int64: `size` in proportion to `weights`; which shares are rounded up is drawn, so that no small one is lost."""
    exact = np.array(weights) / sum(weights) * size
    counts = np.floor(exact + 1e-9).astype(np.int64)
    left = size - int(counts.sum())
    if left:
        rest = np.clip(exact - counts, 0, None)
        counts[rng.choice(len(counts), left, replace=False, p=rest / rest.sum())] += 1
    return counts


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
    sources: tuple[str, ...] | None = None  # one a photograph: draw each in proportion to its weight
    weights: tuple[tuple[str, float], ...] = ()  # of the sources
    epoch: int = 0
    consumed: int = 0  # samples of this epoch that all processes together have consumed
    orders: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)  # of epochs

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
        keys: list[Key] = []
        while count > 0:
            epoch, first = divmod(start, self.size)
            some = self.order(epoch)[first : first + count].tolist()
            keys += [(visit, index) for visit, index in some]
            start, count = start + len(some), count - len(some)
        return keys

    def order(self, epoch: int) -> np.ndarray:
        """The draws of one epoch, the last two kept."""
        if epoch not in self.orders:
            for old in sorted(self.orders)[:-1]:
                del self.orders[old]
            self.orders[epoch] = order(self.seed, epoch, self.size, self.groups, self.sources, self.weights)
        return self.orders[epoch]

    def __iter__(self) -> Iterator[list[Key]]:
        position = self.epoch * self.size + self.consumed
        while True:
            yield self.keys(position + self.rank * self.batch_size, self.batch_size)
            position += self.batch_size * self.processes


def groups_of(diagnoses: Sequence[tuple[str, ...] | None]) -> tuple[str, ...]:
    """The name that each photograph is balanced by: its whole diagnosis."""
    return tuple("|".join(sorted(d)) if d else "unknown" for d in diagnoses)
