"""Next-token cross-entropy on the answers.

Shapes: B rows, T tokens, N supervised tokens, V vocabulary, d language width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

IGNORED = -100
ROWS = 256  # supervised tokens whose logits exist at a time; fewer would leave matrix units idle


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


def text_loss_by_rows(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor, rows: int = ROWS) -> Tensor:
    """`text_loss(head(hidden), targets)` for hidden states [N,d], with the logits of `rows` tokens in memory at a time.

    Nothing of size V is kept for backward, which computes each chunk's logits once more: 2·d·V operations a token (of
    Llama 3.2 11B a fortieth of a LoRA step), and N/rows times less memory than all logits at once. The sum over chunks
    is in float32, that of the gradients of a head that trains in the type of its weights. `head` is called as a module,
    so that sharded, quantised and adapted heads work as they are.
    """
    kind = hidden.device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    def part(states: Tensor, wanted: Tensor) -> Tensor:
        # a cast of the weights that all chunks share would add up their gradients in its bfloat16
        with torch.autocast(kind, dtype, enabled, cache_enabled=False):
            return text_loss(head(states), wanted)

    chunks = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.stack([checkpoint(part, states, wanted, use_reentrant=False) for states, wanted in chunks]).sum()
