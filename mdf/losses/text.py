"""Next-token cross-entropy on the answers.

Shapes: B rows, T tokens, N supervised tokens, V vocabulary.
"""

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100


def shift(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Labels int64 [B,T] -> where a logit is needed (bool [B,T]) and what it has to predict (int64 [N]).

    The logit at t predicts the token at t+1, so the mask is the labels' shifted one to the left.
    """
    keep = labels.new_zeros(labels.shape).bool()
    keep[:, :-1] = labels[:, 1:] != IGNORED
    return keep, labels[:, 1:][keep[:, :-1]]


def text_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum (not mean) of -log softmax(logits)[target] over logits [N,V], in float32.

    The trainer divides by the supervised tokens of the whole step, all micro-batches and processes together, so that
    how a batch is cut up changes nothing.
    """
    return F.cross_entropy(logits.float(), targets, reduction="sum")
