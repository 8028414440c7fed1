"""Gated cross-attention adapter in front of one language layer, after Flamingo (Alayrac et al. 2022, section 2.2).

Shapes: B rows, T text tokens, d language width, m memory width, G² memory vectors, n heads of 64.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = 64  # width of a head


class GatedCrossAttention(nn.Module):
    """h ← h + tanh(a)·Attn(norm(h)W_q, M W_k, M W_v)W_o, then h ← h + tanh(b)·FFN(norm(h)).

    The gates a and b start at 0: at step 0 the language model is exactly the pretrained one. Both updates are in units
    of `scale`, the size of the hidden states at this layer of the pretrained language model (SmolLM2: 4 at layer 6, 16
    at layer 24); without it an open gate would move them by a hundredth and learning would wait for the weights to
    grow.
    """

    scale: Tensor

    def __init__(self, width: int, memory_width: int, scale: float = 1.0):
        super().__init__()
        m = memory_width
        self.heads = m // HEAD
        self.attn_norm, self.ffn_norm = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.q, self.k = nn.Linear(width, m, bias=False), nn.Linear(m, m, bias=False)
        self.v, self.o = nn.Linear(m, m, bias=False), nn.Linear(m, width, bias=False)
        self.ffn = nn.Sequential(nn.Linear(width, 2 * m, bias=False), nn.GELU(), nn.Linear(2 * m, width, bias=False))
        self.register_buffer("scale", torch.tensor(scale))
        self.attn_gate, self.ffn_gate = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def keys_values(self, memory: Tensor) -> Tensor:
        """Memory [B,G²,m] -> keys and values [B,2,n,G²,64]; computed once a prompt."""
        kv = torch.stack([self.k(memory), self.v(memory)], 1)
        return kv.unflatten(-1, (self.heads, HEAD)).transpose(2, 3)

    def forward(self, hidden: Tensor, kv: Tensor) -> Tensor:
        """[B,T,d] and [B,2,n,G²,64] -> [B,T,d] in the dtype of `hidden`."""
        dtype = self.attn_norm.weight.dtype
        q = self.q(self.attn_norm(hidden.to(dtype))).unflatten(-1, (self.heads, HEAD)).transpose(1, 2)
        k, v = kv.to(q.dtype).unbind(1)
        # every query sees every patch: called directly, because attention dispatchers may default to a causal mask
        read = F.scaled_dot_product_attention(q, k, v, is_causal=False)
        update = self.o(read.transpose(1, 2).flatten(2))
        hidden = hidden + (self.attn_gate.tanh() * self.scale * update).to(hidden.dtype)
        update = self.ffn(self.ffn_norm(hidden.to(dtype)))
        return hidden + (self.ffn_gate.tanh() * self.scale * update).to(hidden.dtype)
