"""What an answer hangs on: gradients of its log-odds against other answers, by patch and by pixel.

Weights are never trained here: gradients go to what is looked at alone and nothing is left behind.

Shapes: B conversations, L depths, G patches a side, m memory width, C encoder token width on its h x w grid, S encoder
input side, U U-Net input side, P prefix tokens, d language width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mdf.dialogue import Turn
from mdf.models.answer_rows import AnswerRows, answer_rows
from mdf.models.degraded import blurred
from mdf.models.features import Features
from mdf.models.language import bare
from mdf.models.mllama import see_tiles
from mdf.processor import Inputs

if TYPE_CHECKING:
    from mdf.models.fusion import MDFModel

STEPS = 16  # points on the way from the blurred photograph to the real one; see docs/decisions.md
LOGIT = 30.0  # beyond it a mask's probability is 0 or 1 to 13 digits, and the root of 0 has no gradient


@dataclass(frozen=True)
class PatchAttribution:
    """First-order effect on the log-odds of each patch, positive where it speaks for the answer."""

    odds: Tensor  # float32 [B]
    memory: Tensor | None  # float32 [B,L,G,G]; None without adapters, or where patches reach the prefix alone
    encoder: Tensor | None  # float32 [B,h,w]; None where the language model reads no prefix


@dataclass(frozen=True)
class PixelAttribution:
    """Integrated gradients of the log-odds, summed over colours; all of it together is about `change`."""

    unet: Tensor  # float32 [B,U,U]
    encoder: Tensor  # float32 [B,S,S]
    change: Tensor  # float32 [B], log-odds of the photograph less those of the blurred one


def patch_attribution(
    model: "MDFModel",
    inputs: Inputs,
    conversations: Sequence[list[Turn]],
    candidates: Sequence[Sequence[str]],
    *,
    rows: Sequence[int] | None = None,
) -> PatchAttribution:
    """Gradient times activation, summed over channels, on the last maps that keep their place: the memory of each depth
    and the encoder's patch tokens (HiResCAM, Draelos and Carin 2020; Grad-CAM without its mean over the map, which
    loses what the gradient says of the place).

    A memory vector of zeros is the adapters' own "nothing", so that on the memory it is the estimated loss in log-odds
    if a patch held nothing. Of the encoder's tokens the embedding is left out, which reaches FiLM alone.

    Args:
        inputs: photographs as the processor returns them; what `MDFModel.look` saw in them is computed anew.
        candidates: for each conversation the answer, then the others that it is held against; none = its
            log-likelihood is taken.
        rows: for each conversation its photograph of `inputs`; None = its own number.
    """
    was, _ = model.training, model.eval()
    with torch.inference_mode(False), torch.enable_grad():
        batch, row_of = candidate_rows(model, conversations, candidates)
        pixels = photographs(model, inputs, rows, len(row_of))
        prompt = prompt_of(model, batch, row_of)
        with torch.no_grad(), model.precision():
            found = model.features(pixels["pixel_values"], pixels["unet_pixels"])
            own = of_tower(model, pixels)
        tokens = found.tokens.requires_grad_()
        with model.precision():
            prefix, memory = model.fusion.connect(found, prompt)
            memory = None if memory is None else memory.detach().requires_grad_()
            looked_at = [x for x in (memory, None if prefix is None else tokens) if x is not None]
            if not looked_at:
                raise ValueError("the model has neither adapters nor a prefix: there are no patches to attribute to")
            odds = log_odds(model, batch, row_of, prefix, memory, own)
        gradients = torch.autograd.grad(odds.sum(), looked_at)
    model.train(was)
    parts = [(x * g).detach().float() for x, g in zip(looked_at, gradients, strict=True)]
    grid = (model.fusion.grid, model.fusion.grid)
    return PatchAttribution(
        odds.detach(),
        None if memory is None else parts[0].sum(-1).unflatten(-1, grid),
        None if prefix is None else parts[-1].sum(1),
    )


def pixel_attribution(
    model: "MDFModel",
    inputs: Inputs,
    conversations: Sequence[list[Turn]],
    candidates: Sequence[Sequence[str]],
    *,
    rows: Sequence[int] | None = None,
    steps: int = STEPS,
) -> PixelAttribution:
    """Integrated gradients (Sundararajan et al. 2017) on the pixels of U-Net and encoder from the blurred photograph to
    the real one: midpoints of `steps` equal parts of a straight line. Arguments as in `patch_attribution`.

    Gradients go through the U-Net's skips and through the masks that the memory reads. A vision tower of the language
    model's own keeps seeing the real photograph, and its share is not part of `change`.
    """
    was, _ = model.training, model.eval()
    with torch.inference_mode(False), torch.enable_grad():
        batch, row_of = candidate_rows(model, conversations, candidates)
        real = photographs(model, inputs, rows, len(row_of))
        plain = blurred(real)
        prompt = prompt_of(model, batch, row_of)
        with torch.no_grad(), model.precision():
            own = of_tower(model, real)

        def odds_of(x: Tensor, u: Tensor) -> Tensor:
            with model.precision():
                found = features(model, x, u)
                return log_odds(model, batch, row_of, *model.fusion.connect(found, prompt), own)

        ends = [(p["pixel_values"], p["unet_pixels"]) for p in (plain, real)]
        total = [torch.zeros_like(x) for x in ends[0]]
        for step in range(steps):
            at = [torch.lerp(a, b, (step + 0.5) / steps).requires_grad_() for a, b in zip(*ends, strict=True)]
            gradients = torch.autograd.grad(odds_of(*at).sum(), at, allow_unused=True)
            total = [t if g is None else t + g / steps for t, g in zip(total, gradients, strict=True)]
        with torch.no_grad():
            change = odds_of(*ends[1]) - odds_of(*ends[0])
    model.train(was)
    encoder, unet = ((t * (b - a)).sum(1).float() for t, a, b in zip(total, *ends, strict=True))
    return PixelAttribution(unet, encoder, change)


def candidate_rows(
    model: "MDFModel", conversations: Sequence[list[Turn]], candidates: Sequence[Sequence[str]]
) -> tuple[AnswerRows, list[range]]:
    """Each conversation with each of its candidates as a row, and the rows of each conversation."""
    starts = [0]
    for options in candidates:
        starts.append(starts[-1] + len(options))
    turns = [t for t, options in zip(conversations, candidates, strict=True) for _ in options]
    rows = answer_rows(model, turns, [option for options in candidates for option in options])
    return rows, [range(a, b) for a, b in pairwise(starts)]


def photographs(model: "MDFModel", inputs: Inputs, rows: Sequence[int] | None, count: int) -> Inputs:
    """One photograph a conversation, in tensors that autograd may follow (those of inference mode may not)."""
    if "prefix" in inputs or "memory_kv" in inputs:
        inputs = Inputs({k: v for k, v in inputs.items() if k not in ("prefix", "memory_kv", "cross_attention_states")})
    chosen = inputs.select(list(range(count)) if rows is None else list(rows)).to(model.device)
    return Inputs({k: v.clone() for k, v in chosen.items()})


def of_tower(model: "MDFModel", pixels: Inputs) -> dict[str, Tensor]:
    """What a vision tower of the language model's own sees, and which tiles are real; {} without one."""
    seen = {**pixels, **see_tiles(bare(model.language), pixels)}
    return {k: seen[k] for k in ("cross_attention_states", "aspect_ratio_mask") if k in seen}


def prompt_of(model: "MDFModel", rows: AnswerRows, row_of: list[range]) -> Tensor | None:
    """What FiLM reads of each conversation's prompt, [B,d] (see `MDFModel.prompt_of`)."""
    first = [r.start for r in row_of]
    with torch.no_grad():
        return model.prompt_of(rows.words["input_ids"][first], rows.words["prompt_mask"][first])


def features(model: "MDFModel", pixel_values: Tensor, unet_pixels: Tensor) -> Features:
    """What `MDFModel.features` finds, but with the gradient of the masks that the memory reads."""
    found = Features(*model.encoder(pixel_values))
    if model.fusion.depths:
        found.maps = model.unet.encode(unet_pixels)
        if model.fusion.masks:
            drawn = model.unet.decode(found.maps).float().clamp(-LOGIT, LOGIT)
            found.read = model.fusion.readings(drawn.sigmoid(), follow=True)
    return found


def log_odds(
    model: "MDFModel",
    rows: AnswerRows,
    row_of: list[range],
    prefix: Tensor | None,
    memory: Tensor | None,
    own: dict[str, Tensor],
) -> Tensor:
    """float32 [B]: log-likelihood of each conversation's first candidate, less the logarithm of the others' summed
    likelihoods where there are any. Differentiable in prefix [B,P,d] and memory [B,L,G²,m].
    """
    of = torch.tensor([b for b, r in enumerate(row_of) for _ in r], device=model.device)
    seen = Inputs({k: v[of] for k, v in own.items()})
    given = {k: v[of] for k, v in (("prefix", prefix), ("memory", memory)) if v is not None}
    out = model(**rows.of_photographs(model, seen), **given, keep=rows.reads)
    each = -F.cross_entropy(out.logits.float(), rows.targets, reduction="none")
    summed = each.new_zeros(len(rows.reads)).index_add(0, rows.reads.nonzero()[:, 0], each)
    return torch.stack(
        [summed[r.start] - (summed[r.start + 1 : r.stop].logsumexp(0) if len(r) > 1 else 0) for r in row_of]
    )
