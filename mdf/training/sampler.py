"""Which photograph comes when: one order for all processes, of which each takes its share.

The order of the whole stage is a pure function of (seed, position), so that a step is the same however it is cut into
micro-batches and processes, and a run that is resumed goes on where it was.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
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
    pairs: tuple[tuple[int, int], ...] | None = None,
) -> np.ndarray:
    """The `size` draws of one epoch: int64 [size, 2], a Key each.

    Without `groups` and `sources` a permutation. `groups` (one name a photograph) are drawn equally often, to within
    one. `sources` (likewise) are drawn in proportion to their `weights`, to within one, those of an epoch in random
    order; each with its groups balanced, where both are given. What is used up is drawn again.

    With `pairs` all this is so of blocks of two: a pair, or two of the other photographs. Counted from the first epoch
    on, blocks stand at even places, so that batches of an even size never cut one: where `size` is odd, one photograph
    that is in no pair comes last in the first epoch, first in the second, and so on.
    """
    rng = np.random.default_rng([seed, epoch])
    if pairs is None:
        indices = choose(rng, size, size, groups, sources, weights)
    else:
        kinds = list(zip(groups or sources or (), sources or groups or (), strict=True))
        blocks, odd = in_twos(rng, size, pairs, kinds)
        firsts = blocks[:, 0].tolist()
        of_blocks = [None if names is None else tuple(names[i] for i in firsts) for names in (groups, sources)]
        indices = blocks[choose(rng, len(blocks), size // 2, of_blocks[0], of_blocks[1], weights)].reshape(-1)
        indices = np.concatenate([odd, indices] if epoch % 2 else [indices, odd])
    return np.column_stack([times_before(indices) * VISIT + epoch, indices])


def choose(
    rng: np.random.Generator,
    size: int,
    count: int,
    groups: tuple[str, ...] | None,
    sources: tuple[str, ...] | None,
    weights: tuple[tuple[str, float], ...],
) -> np.ndarray:
    """int64 [count] of range(size), drawn as `order` says."""
    if sources is None:
        return draws(rng, np.arange(size), groups, count)
    members = {name: np.array([i for i, s in enumerate(sources) if s == name]) for name, _ in weights}
    counts = quotas(rng, [weight for _, weight in weights], count)
    turns = rng.permutation(np.repeat(np.arange(len(weights)), counts))
    indices = np.empty(count, dtype=np.int64)
    for number, (name, _) in enumerate(weights):
        indices[turns == number] = draws(rng, members[name], groups, counts[number])
    return indices


def draws(rng: np.random.Generator, members: np.ndarray, groups: tuple[str, ...] | None, count: int) -> np.ndarray:
    """int64 [count] of `members`, each as often as the others, to within one.

    With `groups`, they take turns in an order shuffled each round; a small group starts again when all of it is drawn.
    """
    if groups is None:
        rounds = -(-count // len(members))
        return np.concatenate([rng.permutation(members) for _ in range(rounds)] or [members[:0]])[:count]
    of = {name: [int(i) for i in members if groups[i] == name] for name in sorted({groups[i] for i in members})}
    turns: list[str] = []
    while len(turns) < count:
        turns += [str(name) for name in rng.permutation(list(of))]
    queue: dict[str, list[int]] = {name: [] for name in of}
    found = np.empty(count, dtype=np.int64)
    for place, name in enumerate(turns[:count]):
        if not queue[name]:
            queue[name] = rng.permutation(of[name]).tolist()
        found[place] = queue[name].pop()
    return found


def in_twos(
    rng: np.random.Generator, size: int, pairs: tuple[tuple[int, int], ...], kinds: list[tuple[str, str]]
) -> tuple[np.ndarray, np.ndarray]:
    """int64 [n,2]: the pairs, and the other photographs in twos as they fall; int64 [size % 2]: one of these others.

    With `kinds` (one a photograph) both of a two are of one kind, for which the last of an odd number takes another of
    its kind, or itself, a second time. Without, every photograph is returned once.
    """
    whole = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    others = rng.permutation(np.setdiff1d(np.arange(size), whole))
    odd = others[: size % 2]
    if not kinds:
        return np.concatenate([whole, others[len(odd) :].reshape(-1, 2)]), odd
    of_kind: dict[tuple[str, str], list[int]] = {}
    for index in others.tolist():
        of_kind.setdefault(kinds[index], []).append(index)
    twos = [i for kind in sorted(of_kind) for i in of_kind[kind] + of_kind[kind][: len(of_kind[kind]) % 2]]
    return np.concatenate([whole, np.array(twos, dtype=np.int64).reshape(-1, 2)]), odd


def times_before(indices: np.ndarray) -> np.ndarray:
    """int64 [n]: how often each of the numbers stood at an earlier place."""
    by_value = np.argsort(indices, kind="stable")
    first = np.flatnonzero(np.diff(indices[by_value], prepend=-1))  # of each value, where it begins
    counts = np.empty_like(indices)
    counts[by_value] = np.arange(len(indices)) - np.repeat(first, np.diff(first, append=len(indices)))
    return counts


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
    pairs: tuple[tuple[int, int], ...] | None = None  # photographs that stand side by side; needs an even batch_size
    epoch: int = 0
    consumed: int = 0  # samples of this epoch that all processes together have consumed
    bucket: int = 0  # consecutive draws that are sorted by `length`, see `window`
    length: Callable[[Key], int] | None = field(default=None, repr=False, compare=False)  # tokens of a conversation
    orders: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)  # of epochs
    windows: dict[int, list[Key]] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        if not self.bucket or self.length is None:
            return self.draws(start, count)
        numbers = range(start // self.bucket, (start + count - 1) // self.bucket + 1)
        first = start - numbers[0] * self.bucket
        return [key for number in numbers for key in self.window(number)][first : first + count]

    def window(self, number: int) -> list[Key]:
        """The draws number * bucket … (number + 1) * bucket - 1, sorted by length so that batches need little padding:
        from short to long, and back in the next window.

        Which draws they are does not depend on how a step is cut up, so a run goes on alike on other processes.
        """
        if number not in self.windows:
            for old in sorted(self.windows)[:-1]:
                del self.windows[old]
            assert self.length is not None
            draws = self.draws(number * self.bucket, self.bucket)
            self.windows[number] = sorted(draws, key=self.length, reverse=bool(number % 2))
        return self.windows[number]

    def draws(self, start: int, count: int) -> list[Key]:
        """The same as the permutations of the epochs have them, one after the other."""
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
            given = self.groups, self.sources, self.weights, self.pairs
            self.orders[epoch] = order(self.seed, epoch, self.size, *given)
        return self.orders[epoch]

    def __iter__(self) -> Iterator[list[Key]]:
        position = self.epoch * self.size + self.consumed
        while True:
            yield self.keys(position + self.rank * self.batch_size, self.batch_size)
            position += self.batch_size * self.processes


def groups_of(diagnoses: Sequence[tuple[str, ...] | None]) -> tuple[str, ...]:
    """The name that each photograph is balanced by: its whole diagnosis."""
    return tuple("|".join(sorted(d)) if d else "unknown" for d in diagnoses)


def pairs_of(people: Sequence[tuple[Hashable, Hashable, str | None] | None]) -> tuple[tuple[int, int], ...]:
    """(right, left) places of photographs that belong together; each photograph is in one pair at most.

    `people` has patient, study and eye of each photograph, or None for one that is not to be paired. A right eye goes
    with a left one of the same study as far as they go, then with one of another study of the same patient.
    """
    waiting: dict[Hashable, dict[Hashable, tuple[list[int], list[int]]]] = {}
    for place, person in enumerate(people):
        if person is not None:
            patient, study, eye = person
            waiting.setdefault(patient, {}).setdefault(study, ([], []))[eye == "left"].append(place)
    pairs: list[tuple[int, int]] = []
    for studies in waiting.values():
        rest: tuple[list[int], list[int]] = ([], [])
        for rights, lefts in studies.values():
            pairs += zip(rights, lefts, strict=False)
            rest[0].extend(rights[len(lefts) :])
            rest[1].extend(lefts[len(rights) :])
        pairs += zip(*rest, strict=False)
    return tuple(pairs)
