"""Two routes from the memory into the image tokens, in place of cross-attention (`fusion.kind`).

All kinds make the memory alike: FiLM on each skip, patch projection with place, depth and the masks' readings, so that
they can be compared by the route alone. What differs is the grid, which here is that of the image tokens.

Shapes: B photographs, L depths, m memory width, P prefix tokens, S tokens a depth, d language width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelConcat(nn.Module):
    """The memory beside the encoder's tokens on channels, no token more (`kind: concat` and `film`).

    External direct fusion of Lin et al. (CVPR 2025, arXiv 2503.06063): an MLP over [encoder tokens ; skips]. Its first
    layer is the sum of one over each; this is the one over the skips. It starts at 0, so that at step 0 the prefix is
    exactly that of the baseline MLLM.
    """

    def __init__(self, depths: int, width: int, hidden: int):
        super().__init__()
        self.project = nn.Linear(depths * width, hidden, bias=False)
        nn.init.zeros_(self.project.weight)

    def forward(self, memory: Tensor) -> Tensor:
        """Memory [B,L,P,m] -> [B,P,hidden], to be added where the prefix has its own first layer's."""
        return self.project(memory.transpose(1, 2).flatten(2))


class DepthTokens(nn.Module):
    """Every memory vector as an image token of its own behind the prefix (`kind: tokens`).

    Sparse token integration of Dense Connector (Yao et al., NeurIPS 2024, arXiv 2405.13800), with U-Net skips in place
    of the encoder's earlier layers. Tokens have the size of word embeddings, as the prefix has.
    """

    def __init__(self, width: int, language_width: int, embedding_rms: float):
        super().__init__()
        self.project = nn.Linear(width, language_width)
        self.scale = nn.Parameter(torch.full((language_width,), embedding_rms))

    def forward(self, memory: Tensor) -> Tensor:
        """Memory [B,L,S,m] -> [B,L*S,d], depth after depth."""
        x = self.project(memory.flatten(1, 2))
        return F.rms_norm(x, x.shape[-1:]) * self.scale
