"""Whether embeddings are spread out or fall together, told from those of the validation photographs.

Shapes: N photographs with their captions, E embedding width. All embeddings are unit vectors.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

SHARE = 0.1  # of what there was: below it embeddings have collapsed
NARROW = 0.05  # -uniformity at which embeddings are nearly the same whatever there was: a mean cosine of about 0.988


def effective_rank(embeds: Tensor) -> float:
    """How many directions [N,E] fill, 1 … min(N,E): exp(-Σ p log p) of the singular values p that are scaled to sum to
    1 (Roy & Vetterli 2007, "The effective rank", section 2; RankMe of Garrido et al. 2023, equation 1).

    Nothing is centred: vectors that differ little from one another have a rank near 1.
    """
    p = torch.linalg.svdvals(embeds.double())
    p = p / p.sum()
    return float(torch.special.entr(p).sum().exp())


def alignment(images: Tensor, texts: Tensor) -> float:
    """Mean squared distance of a photograph and its caption, 0 (the same) … 4 (opposite); 2 is that of strangers
    (Wang & Isola 2020, section 4.1.1, α = 2).
    """
    return float((images.double() - texts.double()).pow(2).sum(1).mean())


def uniformity(embeds: Tensor) -> float:
    """log of the mean of exp(-2 d²) over the pairs of different photographs: 0 where all are the same, about -4 where
    they are spread evenly (Wang & Isola 2020, section 4.1.2, t = 2). [N,E], N ≥ 2.
    """
    return float(torch.pdist(embeds.double()).pow(2).mul(-2).exp().mean().log())


def widest(so_far: Mapping[str, float], found: Mapping[str, float]) -> dict[str, float]:
    """The largest spread (-uniformity) and rank of a stage, its start included; `found` as a validation names them."""
    if "val_rank" not in found:
        return dict(so_far)
    now = {"spread": -found["val_uniformity"], "rank": found["val_rank"]}
    return {name: max(value, so_far.get(name, value)) for name, value in now.items()}


def collapse(so_far: Mapping[str, float], found: Mapping[str, float]) -> str | None:
    """What has happened to the embeddings of a validation, or None where they are as they should be.

    A freshly initialised encoder embeds everything in a narrow cone, and draws it closer before it spreads it: what was
    the widest of this stage so far (`so_far`, from `widest`) has to shrink to a tenth of it before it is a collapse.

    - All the same: the spread is below a tenth of what it was, and narrow in itself. Classes of which one is frequent
      lie close together on average, too, but not as close.
    - Few directions: of the rank beyond 1 that there was, less than a tenth is left. Photographs of one caption may
      well fall together, so no more directions than there are captions are asked for.
    """
    if "val_rank" not in found or not so_far:
        return None
    spread, rank, captions = -found["val_uniformity"], found["val_rank"], int(found["val_captions"])
    if spread < min(SHARE * so_far["spread"], NARROW):
        return (
            "all photographs are embedded in nearly the same place "
            f"(uniformity {-spread:.2g}, was {-so_far['spread']:.2g}; effective rank {rank:.2f})"
        )
    if rank - 1 < SHARE * (min(so_far["rank"], captions) - 1):
        return (
            f"photographs with {captions} different captions are told apart along very few directions "
            f"(effective rank {rank:.2f}, was {so_far['rank']:.2f}; uniformity {-spread:.2g})"
        )
    return None


def advice(stage: str) -> str:
    """What to do about a collapse."""
    return (
        f"Lower {stage}.parts.encoder.lr or lengthen {stage}.warmup; have more and different captions in a batch "
        f"({stage}.batch_size, {stage}.balance=true, more of the records' texts); start from pretrained weights"
    )
