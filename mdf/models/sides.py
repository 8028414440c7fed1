"""Heads for a left eye, a right eye and a patient, which RET-CLIP has beside its towers (Du et al., arXiv 2405.14137).

Shapes: B patients, E embedding width, d width of the pooled text.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdf.models.text_tower import projection

SIDES = ("left", "right")
LOGIT_SCALE = 90.0  # what RET-CLIP starts from


class SideHeads(nn.Module):
    """Maps of an eye's embedding, of both eyes' and of a report, each into a space of its own.

    Trained pairs: left eye and `text_left`, right eye and `text_right`, patient and the text tower's own projection.
    They learn nothing here: they are there to embed as their release does.
    """

    def __init__(self, embed_dim: int, text_width: int, text_proj: str = "relu"):
        super().__init__()
        self.left = nn.Linear(embed_dim, embed_dim, bias=False)
        self.right = nn.Linear(embed_dim, embed_dim, bias=False)
        self.patient = nn.Linear(2 * embed_dim, embed_dim, bias=False)
        self.text_left = projection(text_proj, text_width, embed_dim)
        self.text_right = projection(text_proj, text_width, embed_dim)
        self.logit_scale_left = nn.Parameter(torch.tensor(math.log(LOGIT_SCALE)))
        self.logit_scale_right = nn.Parameter(torch.tensor(math.log(LOGIT_SCALE)))

    def eye(self, image_embeds: Tensor, side: str) -> Tensor:
        """Embeddings of eyes [B,E], normalised or not -> unit vectors [B,E] to compare with `text(…, side)`."""
        return F.normalize(getattr(self, side)(image_embeds), dim=-1)

    def both(self, left: Tensor, right: Tensor) -> Tensor:
        """Embeddings [B,E] of the left and the right eyes, NOT normalised -> unit vectors of the patients [B,E]."""
        return F.normalize(self.patient(torch.cat((left, right), dim=-1)), dim=-1)

    def text(self, pooled: Tensor, side: str) -> Tensor:
        """Pooled texts [B,d] -> unit vectors [B,E]."""
        return F.normalize(getattr(self, f"text_{side}")(pooled), dim=-1)
