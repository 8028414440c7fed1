"""Grounding: while an answer speaks of a lesion, the adapters look at the patches that hold it, or at nothing.

Supervised attention as in image captioning (Liu et al. 2017, "Attention correctness in neural image captioning"), with
lesion masks in place of word boxes.

Shapes: N grounded positions, A adapters, G² patches.
"""

from torch import Tensor

SMALLEST = 1e-6  # of a probability, before the logarithm


def grounding_loss(attention: Tensor, target: Tensor) -> Tensor:
    """Sum over positions of the mean over adapters of -log(attention on the right place).

    Args:
        attention: [N,A,G²], each row with a sum of at most 1; what is missing went to nothing.
        target: bool [N,G²], patches with the lesion that is spoken of; where there is none, nothing is the right place.
    """
    seen = (attention * target[:, None]).sum(-1)
    nothing = 1 - attention.sum(-1)
    right = seen.where(target.any(-1, keepdim=True), nothing)
    return -right.clamp(min=SMALLEST).log().mean(-1).sum()
