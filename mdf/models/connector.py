"""The connector: what stands between the two image towers and the language model.

FiLM on each U-Net skip, patch projection into the memory, gated cross-attention adapters that read it, and the
projected prefix of encoder tokens that a text-only LLaMA sees at its image placeholder (as in LLaVA). A language model
with a vision tower of its own gets no prefix. Other kinds of fusion take the memory into the prefix instead of adapters
(mdf/models/visual_tokens.py).

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
from mdf.models.features import Features
from mdf.models.film import Film, FilmCondition
from mdf.models.patches import PatchProjection
from mdf.models.readings import readings, width
from mdf.models.visual_tokens import ChannelConcat, DepthTokens


def adapter_layers(cfg: FusionConfig, count: int, cross: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Language layers that get an adapter: `fusion.layers`, or `fusion.adapters` many spread evenly over `count`.

    A language model whose layers `cross` read image states of its own has them right after some of these: it leaves
    such a layer out where there is no photograph, and an adapter on it would never run.
    """
    if not cfg.depths or cfg.kind != "cross_attention":
        return ()
    sites = tuple(k + 1 for k in cross if k + 1 < count and k + 1 not in cross) if cross else tuple(range(count))
    if not cfg.layers and cfg.adapters > len(sites):
        raise UserError(
            f"fusion.adapters: {cfg.adapters} do not fit; this language model has {len(sites)} layers for them"
        )
    layers = cfg.layers or tuple(sites[int((i + 0.5) * len(sites) / cfg.adapters)] for i in range(cfg.adapters))
    if len(set(layers)) != len(layers) or min(layers) < 0 or max(layers) >= count:
        raise UserError(
            f"fusion.layers: {list(layers)} are not different layers of a language model with layers 0 to {count - 1}"
        )
    if wrong := sorted(set(layers) & set(cross)):
        raise UserError(
            f"fusion.layers: {wrong} are cross-attention layers of the language model, which it leaves out without a "
            f"photograph; the layers after them are {list(sites)}"
        )
    if len(layers) < len(cfg.depths):
        raise UserError(
            f"fusion: {len(layers)} adapters cannot read {len(cfg.depths)} depths; "
            "raise fusion.adapters or name fewer depths"
        )
    return tuple(sorted(layers))


def memory_grid(cfg: FusionConfig, prefix: "Prefix | None", unet_size: int) -> int:
    """G, the patches a side that each skip is cut into: what adapters read, or as many as there are image tokens."""
    if cfg.kind == "cross_attention" or not cfg.depths:
        return cfg.grid
    if cfg.kind == "tokens":
        return cfg.token_side
    assert prefix is not None  # mdf.checking refuses language models with a tower of their own
    if unet_size % (16 * prefix.side[0]):
        raise UserError(
            f"unet.size: {unet_size} is not divisible by 16 * {prefix.side[0]}, so that its skips do not fall on the "
            f"{prefix.side[0]}x{prefix.side[1]} image tokens that fusion.kind={cfg.kind} puts them into; change it, or "
            "language.prefix_side"
        )
    return prefix.side[0]


class Prefix(nn.Module):
    """Encoder tokens pooled to at most side×side and projected to the language width, at its word embeddings' scale."""

    def __init__(self, width: int, grid: tuple[int, int], side: int, language_width: int, embedding_rms: float):
        super().__init__()
        self.side = (min(side, grid[0]), min(side, grid[1]))
        self.tokens = self.side[0] * self.side[1]
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, language_width), nn.GELU(), nn.Linear(language_width, language_width))
        self.scale = nn.Parameter(torch.full((language_width,), embedding_rms))

    def forward(self, tokens: Tensor, beside: Tensor | None = None) -> Tensor:
        """[B,C,h,w] -> [B,P,d]; `beside` [B,P,d] is what the MLP's first layer gives of channels that are not ours."""
        x = F.adaptive_avg_pool2d(tokens, self.side).flatten(2).transpose(1, 2)
        first, curve, last = self.mlp
        x = first(self.norm(x))
        x = last(curve(x if beside is None else x + beside))
        return F.rms_norm(x, x.shape[-1:]) * self.scale

    @staticmethod
    def place(embeds: Tensor, at: Tensor, prefix: Tensor) -> Tensor:
        """Word embeddings [B,T,d] with the prefix [B,P,d] at the placeholders `at` bool [B,T]."""
        counts = at.sum(1)
        if (counts != prefix.shape[1]).any():
            raise ValueError(f"rows hold {counts.tolist()} image tokens where the photograph has {prefix.shape[1]}")
        return embeds.masked_scatter(at[..., None], prefix.to(embeds.dtype))


def pooled_prompt(embeds: Tensor, prompt: Tensor | None) -> Tensor:
    """Mean [B,d] of the word embeddings [B,T,d] of `prompt` bool [B,T], the words before the first answer."""
    if prompt is None:
        raise ValueError("prompt_mask [B,T] is missing: film.condition reads the prompt")
    mask = prompt[..., None].to(embeds.dtype)
    return ((embeds * mask).sum(1) / mask.sum(1).clamp(min=1)).float()


class Fusion(nn.Module):
    """Memory, adapters and prefix. With `depths: []` only the prefix is left: the baseline MLLM.

    Of a kind other than cross_attention there are no adapters: the memory goes into the prefix, by `beside` (concat,
    film) or behind it as `tokens`. `cross_layers` are those of a language model with a vision tower of its own, which
    needs no prefix.
    """

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
        cross_layers: tuple[int, ...] = (),
        embedding_rms: float,
        hidden_rms: list[float] | None = None,
    ):
        super().__init__()
        self.depths, self.kind, self.depth_tokens = cfg.depths, cfg.kind, cfg.depth_tokens
        self.layers = adapter_layers(cfg, language_layers, cross_layers)
        self.width = (cfg.width or min(language_width, 1024)) // HEAD * HEAD
        self.prefix: Prefix | None = None
        if not cross_layers:
            self.prefix = Prefix(encoder_width, encoder_grid, language.prefix_side, language_width, embedding_rms)
        self.uses_prompt = bool(self.depths) and "prompt" in cfg.film.condition
        self.condition: FilmCondition | None = None
        hidden = 0 if cfg.film.condition == "none" else cfg.film.hidden
        if self.depths and hidden:
            image = embed_dim if "image" in cfg.film.condition else 0
            self.condition = FilmCondition(image, language_width if self.uses_prompt else 0, hidden)
        self.masks = masks if self.depths and cfg.masks else ()
        self.counts, self.extents = cfg.counts, cfg.extents
        number = width(self.masks, self.counts, self.extents)
        self.grid = memory_grid(cfg, self.prefix, unet_size)
        self.film = nn.ModuleList(Film(channels[d - 1], hidden, self.kind == "film") for d in self.depths)
        self.patches = nn.ModuleList(
            PatchProjection(channels[d - 1], unet_size // 2**d, self.grid, self.width, number) for d in self.depths
        )
        self.adapters = nn.ModuleList(
            GatedCrossAttention(
                language_width, self.width, hidden_rms[k] if hidden_rms else 1.0, cfg.gate_init, cfg.zero_output
            )
            for k in self.layers
        )
        self.beside: ChannelConcat | None = None
        self.tokens: DepthTokens | None = None
        if self.depths and self.kind in ("concat", "film"):
            self.beside = ChannelConcat(len(self.depths), self.width, language_width)
        elif self.depths and self.kind == "tokens":
            self.tokens = DepthTokens(self.width, language_width, embedding_rms)

    @property
    def image_tokens(self) -> int:
        """Tokens that a photograph takes in the language model's input; 1 where that has a tower of its own."""
        return 1 if self.prefix is None else self.prefix.tokens + self.depth_tokens

    def depth_of(self, adapter: int) -> int:
        """l(k): index into `depths` that adapter number `adapter` reads; they go round from shallow to deep."""
        return adapter % len(self.depths)

    def connect(self, found: Features, prompt: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """What the language model reads of photographs: image tokens [B,P,d] and memory [B,L,G²,m], None each where
        there is none. `prompt` [B,d] is the mean prompt embedding.
        """
        beside = memory = None
        if self.depths:
            memory = self.memory([found.maps[d] for d in self.depths], found.image_embeds, prompt, found.read)
        if self.beside is not None:
            beside, memory = self.beside(memory), None
        prefix = self.prefix(found.tokens, beside) if self.prefix is not None else None
        if self.tokens is not None:
            prefix, memory = torch.cat([cast(Tensor, prefix), self.tokens(memory)], 1), None
        return prefix, memory

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

    def lacks(self, prefix: Tensor | None, memory: Tensor | None, memory_kv: Tensor | None) -> bool:
        """Whether something that the language model reads of the photograph through us is not computed yet."""
        unread = len(self.adapters) > 0 and memory is None and memory_kv is None
        return unread or (self.prefix is not None and prefix is None)

    def lighten(self, dtype: torch.dtype) -> None:
        """See `GatedCrossAttention.lighten`."""
        for adapter in self.adapters:
            cast(GatedCrossAttention, adapter).lighten(dtype)

    def readings(self, probabilities: Tensor, *, follow: bool = False) -> Tensor:
        """What every patch carries of the masks [B,K,U,U] -> [B,G²,R], see readings.py."""
        return readings(probabilities, self.masks, self.grid, self.counts, self.extents, follow=follow)

    def describe(self) -> list[str]:
        """One line an adapter and a depth, for the table printed at start."""
        patches = [cast(PatchProjection, p) for p in self.patches]
        lines = [f"depth {d} (stride {2**d}): {p.describe()}" for d, p in zip(self.depths, patches, strict=True)]
        if self.masks:
            number = width(self.masks, self.counts, self.extents)
            lines.append(f"every patch also carries {number} readings of the masks {', '.join(self.masks)}")
        if self.beside is not None:
            lines.append(f"{self.kind}: patches lie beside the encoder's {self.image_tokens} image tokens, on channels")
        if self.tokens is not None:
            lines.append(f"tokens: {self.grid}x{self.grid} image tokens a depth, {self.image_tokens} in all")
        return lines + [
            f"adapter at layer {k} reads depth {self.depths[self.depth_of(i)]}" for i, k in enumerate(self.layers)
        ]
