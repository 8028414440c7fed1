"""Does source alone tell the label? Each thing that is no eye (source, camera, size, …) guesses the label by itself."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from mdf.datasets.splits import fold_of, group_photographs
from mdf.datasets.validation.files import Look
from mdf.datasets.validation.report import Case
from mdf.records import FundusRecord

FEWEST = 20  # labelled photographs; with less nothing can be said
FOLDS = 5
ERRORS = 3  # standard errors above the majority share that count as more than chance
MUCH = 0.5  # of what the majority leaves wrong: guessing this much of it right "tells" the label
LITTLE = 0.03  # accuracy above the majority share that is worth a word

THINGS: dict[str, Callable[[FundusRecord, Look], Hashable]] = {
    "source": lambda r, look: r.source,
    "camera": lambda r, look: r.camera,
    "image size": lambda r, look: look.size,
    "file format": lambda r, look: look.form,
    "border": lambda r, look: look.border,
    "which texts and masks there are": lambda r, look: (tuple(sorted(r.texts)), tuple(sorted(r.masks))),
}


@dataclass(frozen=True)
class Shortcut:
    """How well one thing guesses the label of photographs whose patients it has not seen."""

    thing: str
    values: int  # different ones
    accuracy: float  # cross-validated
    majority: float  # share of the most frequent label
    bits: float  # mutual information with the label, corrected for the number of values
    entropy: float  # of the label, in bits
    photographs: int

    @property
    def error(self) -> float:
        """Standard error of the accuracy if it were the majority share."""
        return math.sqrt(max(self.majority * (1 - self.majority), 1e-9) / self.photographs)

    @property
    def hints(self) -> bool:
        return self.accuracy > self.majority + max(LITTLE, ERRORS * self.error)

    @property
    def tells(self) -> bool:
        return self.hints and self.accuracy - self.majority > MUCH * (1 - self.majority)

    def text(self) -> str:
        return (
            f"{self.thing} alone ({self.values} values): accuracy {self.accuracy:.3f}, majority {self.majority:.3f}, "
            f"{self.bits:.2f} of {self.entropy:.2f} bits of the label, {self.photographs} photographs"
        )


def shortcuts(records: Sequence[FundusRecord], looks: Sequence[Look], seed: int = 0) -> list[Shortcut]:
    """One for each thing that has more than one value, and one for all of them together; the best first.

    Empty where fewer than FEWEST photographs are labelled, all have the same label, or there are too few patients.
    """
    rows = [(r, look) for r, look in zip(records, looks, strict=True) if r.diagnosis and look.sha256]
    labelled = [r for r, _ in rows]
    labels = ["+".join(sorted(r.diagnosis or ())) for r in labelled]
    groups = group_photographs(labelled)
    if len(rows) < FEWEST or len(set(labels)) < 2 or len(set(groups.values())) < FOLDS:
        return []
    folds = fold_of(labelled, FOLDS, seed, groups)
    fold = [folds[r.id] for r in labelled]
    columns = {name: [value(r, look) for r, look in rows] for name, value in THINGS.items()}
    columns["all of these"] = list(zip(*columns.values(), strict=True))
    found = [judge(name, column, labels, fold) for name, column in columns.items() if len(set(column)) > 1]
    return sorted(found, key=lambda s: -s.accuracy)


def judge(thing: str, values: Sequence[Hashable], labels: Sequence[str], fold: Sequence[int]) -> Shortcut:
    """Each fold is guessed from the others: the most frequent label of the same value, of all where it is new."""
    right = 0
    for held_out in set(fold):
        counts: dict[Hashable, Counter[str]] = defaultdict(Counter)
        overall: Counter[str] = Counter()
        for value, label, f in zip(values, labels, fold, strict=True):
            if f != held_out:
                counts[value][label] += 1
                overall[label] += 1
        guess = {value: max(sorted(c), key=lambda label: (c[label], overall[label])) for value, c in counts.items()}
        usual = max(sorted(overall), key=overall.__getitem__)
        right += sum(
            guess.get(v, usual) == label for v, label, f in zip(values, labels, fold, strict=True) if f == held_out
        )
    count = len(labels)
    label_counts, value_counts, pairs = Counter(labels), Counter(values), Counter(zip(values, labels, strict=True))
    # Miller and Madow's correction: by chance alone many values share bits with many labels
    spare = (len(pairs) - len(value_counts) - len(label_counts) + 1) / (2 * count * math.log(2))
    bits = entropy(label_counts) + entropy(value_counts) - entropy(pairs) - spare
    majority = max(label_counts.values()) / count
    return Shortcut(thing, len(value_counts), right / count, majority, max(0.0, bits), entropy(label_counts), count)


def entropy(counts: Counter) -> float:
    """In bits."""
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values())


def shortcut_cases(found: Sequence[Shortcut]) -> dict[str, list[Case]]:
    return {
        "source-tells-label": [Case(s.text()) for s in found if s.tells],
        "source-hints-label": [Case(s.text()) for s in found if s.hints and not s.tells],
    }
