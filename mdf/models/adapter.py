"""Gated cross-attention adapter in front of one language layer, after Flamingo (Alayrac et al. 2022, section 2.2).

Shapes: B rows, T text tokens, d language width, m memory width, G² memory vectors and one that is nothing, n heads of
64, N grounded positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = 64  # width of a head


class GatedCrossAttention(nn.Module):
    """h ← h + tanh(a)·Attn(norm(h)W_q, M W_k, M W_v)W_o, then h ← h + tanh(b)·FFN(norm(h)).

    W_o and the FFN's last layer start at 0: at step 0 the language model is exactly the pretrained one, and yet both
    learn from the first step, as LoRA's B does. Gates that start at 0 in front of random weights, as Flamingo's, were
    pulled back to 0 before the weights behind them had learnt anything (docs/decisions.md); `gate` 0 with `zero` False
    starts so. Both updates are in units of `scale`, the size of the hidden states at this layer of the pretrained
    language model (SmolLM2: 4 at layer 6, 16 at layer 24); without it they would move it by a hundredth and learning
    would wait for the weights to grow.

    Beside the patches a head may read nothing: a key and a value of zeros, as `add_zero_attn` of torch's own attention
    does. So "there is none" has somewhere to look, and more lesions weigh more against it.
    """

    scale: Tensor

    def __init__(self, width: int, memory_width: int, scale: float = 1.0, gate: float = 0.5, zero: bool = True):
        """`gate`: what both gates start at, before tanh; `zero`: W_o and the FFN's last layer start at 0."""
        super().__init__()
        m = memory_width
        self.heads = m // HEAD
        self.attn_norm, self.ffn_norm = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.q, self.k = nn.Linear(width, m, bias=False), nn.Linear(m, m, bias=False)
        self.v, self.o = nn.Linear(m, m, bias=False), nn.Linear(m, width, bias=False)
        last = nn.Linear(2 * m, width, bias=False)
        self.ffn = nn.Sequential(nn.Linear(width, 2 * m, bias=False), nn.GELU(), last)
        self.register_buffer("scale", torch.tensor(scale))
        self.attn_gate, self.ffn_gate = nn.Parameter(torch.full((1,), gate)), nn.Parameter(torch.full((1,), gate))
        if zero:
            nn.init.zeros_(self.o.weight)
            nn.init.zeros_(last.weight)

    def lighten(self, dtype: torch.dtype) -> None:
        """Keep the matrices in `dtype`, norms and gates as they are: for a model that answers and is not trained any
        more, where a token takes as long as reading all weights.
        """
        for part in (self.q, self.k, self.v, self.o, self.ffn):
            part.to(dtype)

    def keys_values(self, memory: Tensor) -> Tensor:
        """Memory [B,G²,m] -> keys and values [B,2,n,G²+1,64], the last ones nothing; computed once a prompt."""
        memory = memory.to(self.k.weight.dtype)
        kv = torch.stack([self.k(memory), self.v(memory)], 1)
        return F.pad(kv.unflatten(-1, (self.heads, HEAD)).transpose(2, 3), (0, 0, 0, 1))

    def forward(self, hidden: Tensor, kv: Tensor, grounded: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """[B,T,d] and [B,2,n,G²+1,64] -> [B,T,d] in the dtype of `hidden`, and attention [N,G²+1], its mean over heads,
        of the positions `grounded` bool [B,T].

        `kv` may have one row for several of `hidden` that stand side by side, as candidate answers to one question do.
        """
        dtype = self.attn_norm.weight.dtype
        q = self.q(self.attn_norm(hidden.to(dtype)).to(self.q.weight.dtype))
        q = q.reshape(len(kv), -1, self.heads, HEAD).transpose(1, 2)
        k, v = kv.to(q.dtype).unbind(1)
        read = self.read(q, k, v)
        attention = None if grounded is None else self.attention(q, k, grounded)
        update = self.o(read.transpose(1, 2).reshape(*hidden.shape[:2], -1))
        hidden = hidden + (self.attn_gate.tanh() * self.scale * update).to(hidden.dtype)
        update = self.ffn(self.ffn_norm(hidden.to(dtype)).to(self.q.weight.dtype))
        return hidden + (self.ffn_gate.tanh() * self.scale * update).to(hidden.dtype), attention

    @staticmethod
    def read(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries [B,n,T,64], keys and values [B,n,G²+1,64] -> [B,n,T,64]; every query sees every patch."""
        if q.device.type == "cpu":  # torch's fused kernel takes four times as long there, most of it backwards
            return (q @ k.transpose(2, 3) / HEAD**0.5).softmax(-1, dtype=torch.float32).to(v.dtype) @ v
        # called directly, because attention dispatchers may default to a causal mask
        return F.scaled_dot_product_attention(q, k, v, is_causal=False)

    @staticmethod
    def attention(q: Tensor, k: Tensor, grounded: Tensor) -> Tensor:
        """Queries [B,n,T,64] at `grounded` bool [B,T], keys [B,n,G²+1,64] -> attention float32 [N,G²+1], row by row."""
        rows = [
            (queries[:, here].float() @ keys.float().transpose(1, 2) / HEAD**0.5).softmax(-1).mean(0)
            for queries, keys, here in zip(q, k, grounded, strict=True)
        ]
        return torch.cat(rows)
