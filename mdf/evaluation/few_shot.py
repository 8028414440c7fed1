"""Few-shot learning on frozen embeddings: k photographs a class, and what the class texts know already.

Three methods, none of which needs validation photographs (with k a class there are none):

- `clap`, the class-adaptive linear probe (Silva-Rodríguez et al. 2024, "A Closer Look at the Few-Shot Adaptation of
  Large Vision-Language Models"): class weights W start as the texts' embeddings T and minimise
  CE(s·x·ŵᵀ, y) + Σ_c λ_c ‖w_c − t_c‖², where λ_c is the mean zero-shot probability of class c over its own k
  photographs: what the texts know is held fast, what they do not know is learnt. Without a photograph λ is 1.
  The authors' code takes the mean over the classes in place of the sum, and 300 steps of SGD in place of L-BFGS.
- `tip_adapter` (Zhang et al. 2022): s·x·tᵀ + α·exp(−β(1 − x·Kᵀ))·V, the k·C photographs K with one-hot labels V.
- `tip_adapter_f`: the same with keys K that are trained.

Shapes: S = k·C support photographs, Q photographs judged, C classes, E embedding width. All embeddings are unit
vectors, s is the model's multiplier of cosines.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mdf.errors import UserError
from mdf.evaluation.bootstrap import RESAMPLES, put, resample
from mdf.evaluation.classification import ROBUST, named_metric

SHOTS = (1, 4, 16)
SEEDS = 5
ALPHA, BETA = 1.0, 5.0  # those of FLAIR (Silva-Rodríguez et al. 2023), not searched
KEY_STEPS, KEY_LR = 200, 1e-3  # AdamW with a cosine, over all support photographs at once
PROBE_STEPS = 200  # of L-BFGS


def draw_support(
    truth: Sequence[Sequence[str]], classes: Sequence[str], shots: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows int [S] and classes int [S] of `shots` photographs a class, drawn by the seed, fewer where there are fewer.

    A photograph with several diagnoses is drawn once, for the rarest of them first.
    """
    rng = np.random.default_rng([seed, shots])
    members = {c: [i for i, names in enumerate(truth) if name in names] for c, name in enumerate(classes)}
    taken: dict[int, int] = {}
    for c in sorted(members, key=lambda c: (len(members[c]), c)):
        free = [i for i in members[c] if i not in taken]
        taken |= {free[j]: c for j in rng.permutation(len(free))[:shots]}
    rows = sorted(taken, key=lambda i: (taken[i], i))
    return np.array(rows, dtype=int), np.array([taken[i] for i in rows], dtype=int)


def class_confidence(support: Tensor, labels: Tensor, texts: Tensor, scale: float) -> Tensor:
    """λ [C]: the mean zero-shot probability of each class over its own support photographs; 1 where it has none."""
    own = (scale * support @ texts.T).softmax(dim=1)[torch.arange(len(labels)), labels]
    total = torch.zeros(len(texts), dtype=own.dtype).index_add_(0, labels, own)
    count = torch.bincount(labels, minlength=len(texts))
    return torch.where(count > 0, total / count.clamp(min=1), torch.ones_like(total))


def clap(support: Tensor, labels: Tensor, texts: Tensor, scale: float, query: Tensor) -> Tensor:
    """Logits [Q,C] of the class-adaptive linear probe fitted to support [S,E] with labels int64 [S], texts [C,E]."""
    confidence = class_confidence(support, labels, texts, scale)
    weights = texts.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([weights], max_iter=PROBE_STEPS, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(scale * support @ F.normalize(weights, dim=1).T, labels)
        loss = loss + (confidence * (weights - texts).pow(2).sum(dim=1)).sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    return scale * query @ F.normalize(weights.detach(), dim=1).T


def with_cache(query: Tensor, keys: Tensor, values: Tensor, texts: Tensor, scale: float) -> Tensor:
    """Tip-Adapter's logits [Q,C]; keys [S,E], values one-hot [S,C]."""
    return scale * query @ texts.T + ALPHA * torch.exp(-BETA * (1 - query @ keys.T)) @ values


def tip_adapter(support: Tensor, labels: Tensor, texts: Tensor, scale: float, query: Tensor) -> Tensor:
    """Logits [Q,C] of Tip-Adapter, which trains nothing; arguments as for `clap`."""
    values = F.one_hot(labels, len(texts)).to(texts.dtype)
    return with_cache(query, support, values, texts, scale)


def tip_adapter_f(support: Tensor, labels: Tensor, texts: Tensor, scale: float, query: Tensor) -> Tensor:
    """Logits [Q,C] of Tip-Adapter-F, whose keys start as the support photographs and are trained on them."""
    values = F.one_hot(labels, len(texts)).to(texts.dtype)
    keys = support.clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([keys], lr=KEY_LR, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, KEY_STEPS)
    for _ in range(KEY_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(with_cache(support, keys, values, texts, scale), labels).backward()
        optimizer.step()
        schedule.step()
    return with_cache(query, keys.detach(), values, texts, scale)


METHODS: dict[str, Callable[[Tensor, Tensor, Tensor, float, Tensor], Tensor]] = {
    "clap": clap,
    "tip_adapter": tip_adapter,
    "tip_adapter_f": tip_adapter_f,
}


def few_shot_metrics(
    train_embeds: np.ndarray,
    train_truth: Sequence[Sequence[str]],
    embeds: np.ndarray,
    truth: Sequence[Sequence[str]],
    class_embeds: np.ndarray,
    scale: float,
    classes: Sequence[str],
    groups: Sequence[str],
    *,
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """For every number of shots and method the mean over the seeds of each of ROBUST: `NAME`, `NAME_ci` (over patients,
    the draws held fixed) and `NAME_sd`, the standard deviation over the draws.

    `train_embeds` [·,E] with its truth is what support is drawn from, `embeds` [Q,E] with `truth` and `groups` what is
    judged, `class_embeds` [C,E] the texts'. `shots_K.support` counts the photographs, of the draw with
    the fewest. Raises UserError where no training photograph is of one of the classes.
    """
    if not any(set(names) & set(classes) for names in train_truth):
        raise UserError("few_shot: no training photograph has a diagnosis among the classes")
    weights = resample(groups, resamples=resamples, seed=seed)
    texts, query = torch.from_numpy(class_embeds).double(), torch.from_numpy(embeds).double()
    metrics: dict = {"n": len(truth), "classes": len(classes), "seeds": seeds}
    for k in shots:
        tables: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
        sizes = []
        for draw in range(seeds):
            rows, labels = draw_support(train_truth, classes, k, seed + draw)
            support = torch.from_numpy(train_embeds[rows]).double()
            sizes.append(len(rows))
            for name, method in METHODS.items():
                logits = method(support, torch.from_numpy(labels), texts, scale, query)
                tables[name].append(logits.softmax(dim=1).numpy())
        part: dict = {"support": min(sizes)}  # draws differ where a photograph is of several classes
        if min(sizes) < k * len(classes):
            print(f"few_shot: {min(sizes)} training photographs instead of {k} for each of {len(classes)} classes")
        for name, drawn in tables.items():
            part[name] = averaged(truth, drawn, classes, weights)
        metrics[f"shots_{k}"] = part
    return metrics


def mean_of(metrics: Sequence[Callable[[np.ndarray], np.ndarray]]) -> Callable[[np.ndarray], np.ndarray]:
    """The metric "mean of these", all on the same resamples."""
    return lambda weights: np.mean([metric(weights) for metric in metrics], axis=0)


def averaged(
    truth: Sequence[Sequence[str]], tables: Sequence[np.ndarray], classes: Sequence[str], weights: np.ndarray
) -> dict:
    """Mean over the tables [Q,C] of each of ROBUST, its interval, and the standard deviation over the tables."""
    part: dict = {}
    for name in ROBUST:
        each = [named_metric(name, truth, table, classes) for table in tables]
        put(part, name, mean_of(each), weights)
        points = [metric(np.ones((1, len(truth))))[0] for metric in each]
        part[f"{name}_sd"] = float(np.std(points, ddof=1)) if len(points) > 1 else 0.0
    return part
