"""Whether embeddings are spread out or fall together, told from those of the validation photographs.

Shapes: N photographs with their captions, E embedding width. All embeddings are unit vectors.
"""

import torch
from torch import Tensor


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
