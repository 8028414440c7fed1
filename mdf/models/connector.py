"""The connector: what stands between the two image towers and the language model.

FiLM on each U-Net skip, patch projection into the memory, gated cross-attention adapters that read it, and the
projected prefix of encoder tokens that a text-only LLaMA sees at its image placeholder (as in LLaVA).

Shapes: B photographs, L depths, G² memory vectors, m memory width, A adapters, n heads of 64, d language width,
C encoder token width, E embedding width, P = side² prefix tokens, K masks, U the U-Net's input side.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdf.config import FusionConfig, LanguageConfig
from mdf.errors import UserError
from mdf.models.adapter import HEAD, GatedCrossAttention
from mdf.models.film import Film, FilmCondition
from mdf.models.patches import PatchProjection
from mdf.models.readings import width


def adapter_layers(cfg: FusionConfig, count: int) -> tuple[int, ...]:
    """Language layers that get an adapter: `fusion.layers`, or `fusion.adapters` many spread evenly over `count`."""
    if not cfg.depths:
        return ()
    layers = cfg.layers or tuple(int((i + 0.5) * count / cfg.adapters) for i in range(cfg.adapters))
    if len(set(layers)) != len(layers) or min(layers) < 0 or max(layers) >= count:
        raise UserError(
            f"fusion.layers: {list(layers)} are not different layers of a language model with layers 0 to {count - 1}"
        )
    if len(layers) < len(cfg.depths):
        raise UserError(
            f"fusion: {len(layers)} adapters cannot read {len(cfg.depths)} depths; "
            "raise fusion.adapters or name fewer depths"
        )
    return tuple(sorted(layers))


class Prefix(nn.Module):
    """Encoder tokens pooled to at most side×side and projected to the language width, at its word embeddings' scale."""

    def __init__(self, width: int, grid: tuple[int, int], side: int, language_width: int, embedding_rms: float):
        super().__init__()
        self.side = (min(side, grid[0]), min(side, grid[1]))
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, language_width), nn.GELU(), nn.Linear(language_width, language_width))
        self.scale = nn.Parameter(torch.full((language_width,), embedding_rms))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,P,d]."""
        x = F.adaptive_avg_pool2d(tokens, self.side).flatten(2).transpose(1, 2)
        x = self.mlp(self.norm(x))
        return F.rms_norm(x, x.shape[-1:]) * self.scale


class Fusion(nn.Module):
    """Memory, adapters and prefix. With `depths: []` only the prefix is left: the baseline MLLM."""

    def __init__(
        self,
        cfg: FusionConfig,
        language: LanguageConfig,
        *,
        channels: tuple[int, ...],
        masks: tuple[str, ...],
        unet_size: int,
        encoder_width: int,
        encoder_grid: tuple[int, int],
        embed_dim: int,
        language_width: int,
        language_layers: int,
        embedding_rms: float,
        hidden_rms: list[float] | None = None,
    ):
        super().__init__()
        self.depths = cfg.depths
        self.layers = adapter_layers(cfg, language_layers)
        self.width = (cfg.width or min(language_width, 1024)) // HEAD * HEAD
        self.prefix = Prefix(encoder_width, encoder_grid, language.prefix_side, language_width, embedding_rms)
        self.uses_prompt = bool(self.depths) and cfg.film.condition == "image+prompt"
        self.condition: FilmCondition | None = None
        hidden = 0 if cfg.film.condition == "none" else cfg.film.hidden
        if self.depths and hidden:
            self.condition = FilmCondition(embed_dim, language_width if self.uses_prompt else 0, hidden)
        self.masks = masks if self.depths and cfg.masks else ()
        self.grid = cfg.grid
        self.film = nn.ModuleList(Film(channels[d - 1], hidden) for d in self.depths)
        self.patches = nn.ModuleList(
            PatchProjection(channels[d - 1], unet_size // 2**d, cfg.grid, self.width, width(self.masks))
            for d in self.depths
        )
        self.adapters = nn.ModuleList(
            GatedCrossAttention(language_width, self.width, hidden_rms[k] if hidden_rms else 1.0) for k in self.layers
        )

    def depth_of(self, adapter: int) -> int:
        """l(k): index into `depths` that adapter number `adapter` reads; they go round from shallow to deep."""
        return adapter % len(self.depths)

    def memory(
        self, skips: list[Tensor], image_embeds: Tensor, prompt: Tensor | None, read: Tensor | None = None
    ) -> Tensor:
        """Skips [B,C_l,H_l,W_l] of the chosen depths, v [B,E], mean prompt embedding [B,d], and where `masks` are read
        their readings [B,G²,R] -> memory [B,L,G²,m].
        """
        c = self.condition(image_embeds, prompt) if self.condition is not None else None
        return torch.stack(
            [patch(film(skip, c), read) for film, patch, skip in zip(self.film, self.patches, skips, strict=True)], 1
        )

    def memory_kv(self, memory: Tensor) -> Tensor:
        """Memory [B,L,G²,m] -> keys and values of every adapter [B,A,2,n,G²+1,64]."""
        adapters = [cast(GatedCrossAttention, a) for a in self.adapters]
        return torch.stack([a.keys_values(memory[:, self.depth_of(i)]) for i, a in enumerate(adapters)], 1)

    def lighten(self, dtype: torch.dtype) -> None:
        """See `GatedCrossAttention.lighten`."""
        for adapter in self.adapters:
            cast(GatedCrossAttention, adapter).lighten(dtype)

    def describe(self) -> list[str]:
        """One line an adapter and a depth, for the table printed at start."""
        patches = [cast(PatchProjection, p) for p in self.patches]
        lines = [f"depth {d} (stride {2**d}): {p.describe()}" for d, p in zip(self.depths, patches, strict=True)]
        if self.masks:
            lines.append(f"every patch also carries {width(self.masks)} readings of the masks {', '.join(self.masks)}")
        return lines + [
            f"adapter at layer {k} reads depth {self.depths[self.depth_of(i)]}" for i, k in enumerate(self.layers)
        ]
