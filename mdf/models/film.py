"""FiLM (Perez et al. 2018): the photograph's global embedding, the prompt, or both scale and shift each skip.

Shapes: B photographs, E embedding width, d language width, h condition width, F_l [B,C_l,H_l,W_l].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FilmCondition(nn.Module):
    """c = W[v; pooled prompt], computed once a conversation: no answer and no later question can reach it.

    A width of 0 leaves v or the prompt out.
    """

    def __init__(self, embed_dim: int, prompt_width: int, hidden: int):
        super().__init__()
        self.image = nn.Linear(embed_dim, hidden) if embed_dim else None
        self.prompt = nn.Linear(prompt_width, hidden, bias=not embed_dim) if prompt_width else None
        self.scale = embed_dim**0.5  # v is a unit vector; this gives its entries unit variance

    def forward(self, image_embeds: Tensor, prompt: Tensor | None) -> Tensor:
        """v [B,E] and the mean prompt embedding [B,d] -> c [B,h]."""
        parts = [] if self.image is None else [self.image(image_embeds * self.scale)]
        if self.prompt is not None:
            assert prompt is not None
            parts.append(self.prompt(F.rms_norm(prompt, prompt.shape[-1:])))
        return sum(parts[1:], parts[0])


class Film(nn.Module):
    """F̃ = (1 + γ) ⊙ norm(F) + β with (γ, β) = MLP(c); the last layer starts at 0, so that F̃ starts as norm(F).

    norm is GroupNorm with one group and no affine part. Without a condition (hidden = 0) it is the norm alone.
    `bounded`: F̃ = (1 + tanh γ) ⊙ norm(F), a gain between 0 and 2, as text modulates vision in MoDA (arXiv 2506.01850)
    but for its sigmoid, which halves every feature at the start.
    """

    def __init__(self, channels: int, hidden: int, bounded: bool = False):
        super().__init__()
        self.bounded = bounded
        self.norm = nn.GroupNorm(1, channels, affine=False)
        self.mlp = None
        if hidden:
            first, last = nn.Linear(hidden, hidden), nn.Linear(hidden, channels if bounded else 2 * channels)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.mlp = nn.Sequential(nn.SiLU(), first, nn.SiLU(), last)

    def forward(self, skip: Tensor, condition: Tensor | None) -> Tensor:
        """[B,C,H,W] and c [B,h] -> [B,C,H,W]."""
        x = self.norm(skip)
        if self.mlp is None:
            return x
        if self.bounded:
            return x * (1 + self.mlp(condition).tanh())[:, :, None, None]
        gamma, beta = self.mlp(condition)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(beta, 1 + gamma, x)
