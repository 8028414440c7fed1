"""What the curves of the written evaluation are drawn through, from the probabilities of its predictions.

Shapes: N photographs, C classes, E embedding width, P points of a curve, B bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 10
LEAST = 10  # answers in a bin
Z = 1.96  # of a 95 % interval


def thresholds(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many positives and how many negatives score at least as high as each score that occurs, from the highest on:
    float [P] each. `positive` bool and `score` float, both [N].
    """
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    return np.cumsum(positive[order])[ends].astype(float), np.cumsum(~positive[order])[ends].astype(float)


def roc(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """False and true positive rate [P] of one class against the rest; None where it has no positive or no negative."""
    if positive.all() or not positive.any():
        return None
    true, false = thresholds(positive, score)
    return np.append(0, false / false[-1]), np.append(0, true / true[-1])


def precision_recall(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Recall and precision [P], from the highest score on; None where the class has no positive."""
    if not positive.any():
        return None
    true, false = thresholds(positive, score)
    precision = true / (true + false)
    return np.append(0, true / true[-1]), np.append(precision[0], precision)


def area(x: np.ndarray, y: np.ndarray) -> float:
    """Under straight lines between the points: the AUROC of `roc`."""
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))


def average_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """Precision at each step of recall, weighted by the step, as in scikit-learn."""
    return float(np.sum(np.diff(recall) * precision[1:]))


def thin(x: np.ndarray, y: np.ndarray, most: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """The curve without points on a straight line between their neighbours, then at most `most` of them with both ends:
    drawn, it looks the same.
    """
    keep = np.ones(len(x), dtype=bool)
    if len(x) > 2:
        turns = (x[1:-1] - x[:-2]) * (y[2:] - y[1:-1]) - (y[1:-1] - y[:-2]) * (x[2:] - x[1:-1])
        keep[1:-1] = np.abs(turns) > 1e-12
    rows = np.flatnonzero(keep)
    if len(rows) > most:
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]
    return x[rows], y[rows]


def steps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve that reaches each x at the height of its y: what `average_precision` is the area of."""
    return np.repeat(x, 2)[1:-1], np.repeat(y, 2)[2:]


def wilson(right: float, n: float) -> tuple[float, float]:
    """95 % interval of a share of n independent answers (Wilson 1927), which stays in [0, 1] and is open at 0 and 1."""
    share, z2 = right / n, Z * Z
    middle, half = share + z2 / (2 * n), Z * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, float((middle - half) / (1 + z2 / n))), min(1.0, float((middle + half) / (1 + z2 / n)))


@dataclass(frozen=True)
class Bin:
    """Answers of about the same confidence."""

    n: int
    confidence: float  # their mean
    right: float  # share
    low: float  # 95 % interval of the share, photographs taken as independent
    high: float


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Answers sorted by confidence and cut into at most `bins` of equal number, not below LEAST; equal confidences stay
    together.

    `confidence` float and `right` bool, both [N].
    """
    order = np.argsort(confidence, kind="stable")
    values = confidence[order]
    cuts = [0]
    for edge in np.linspace(0, len(order), max(1, min(bins, len(order) // LEAST)) + 1)[1:-1].astype(int):
        edge = int(np.searchsorted(values, values[edge], side="left"))
        if edge > cuts[-1]:
            cuts.append(edge)
    parts = [order[a:b] for a, b in zip(cuts, [*cuts[1:], len(order)], strict=True)]
    return [
        Bin(len(p), float(confidence[p].mean()), float(right[p].mean()), *wilson(float(right[p].sum()), len(p)))
        for p in parts
        if len(p)
    ]


def principal(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components float [N, 2], and the share of the variance of each [2].

    A component's sign is such that its largest loading is positive, so that the same input gives the same picture.
    """
    centred = embeddings.astype(float) - embeddings.mean(axis=0)
    variance, vectors = np.linalg.eigh(centred.T @ centred)
    axes, total = vectors[:, ::-1][:, :2], max(float(variance.sum()), 1e-300)
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return centred @ axes, np.maximum(variance[::-1][:2], 0) / total


def umap(embeddings: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """float [N, 2] of UMAP on cosine distances; None where umap-learn is not installed or there are too few points."""
    if len(embeddings) < 16:
        return None
    try:
        from umap import UMAP
    except ImportError:
        return None
    return np.asarray(UMAP(metric="cosine", random_state=seed, n_jobs=1).fit_transform(embeddings), dtype=float)


def counted(names: Sequence[str], most: int) -> dict[str, int]:
    """How often each name occurs, the most frequent first; beyond `most` names the rarest are one, "others"."""
    count: dict[str, int] = {}
    for name in names:
        count[name] = count.get(name, 0) + 1
    ranked = sorted(count.items(), key=lambda item: (-item[1], item[0]))
    if len(ranked) <= most:
        return dict(ranked)
    return dict(ranked[: most - 1]) | {"others": sum(n for _, n in ranked[most - 1 :])}
