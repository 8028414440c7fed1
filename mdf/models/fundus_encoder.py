"""FundusEncoder: an open_clip image tower with its text tower; patch tokens and a global embedding from one pass.

Shapes: B photographs, S input side, N patch tokens on an h×w grid, C token width, E embedding width, T caption tokens.
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdf.config import EncoderConfig
from mdf.errors import UserError
from mdf.hub import quick_to_fail
from mdf.imaging.preprocess import CLIP_MEAN, CLIP_STD
from mdf.models import depth, encoder_weights, lora, towers, zoo, zoo_weights
from mdf.models.depthwise import depthwise_in_float32
from mdf.models.normalization import batchnorm_to_groupnorm, freeze_statistics
from mdf.models.shapes import nothing, without_content
from mdf.models.sides import SideHeads
from mdf.models.text_tower import TextTower
from mdf.models.weights import BUNDLED as BUNDLED_WEIGHTS
from mdf.models.weights import normalisation
from mdf.models.zoo_towers import ReleasedTower

MAX_LOGIT_SCALE = 100.0  # CLIP (Radford et al. 2021), section 2.5


def statistics(
    cfg: EncoderConfig, architecture: Mapping[str, Any] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that photographs are normalised with: a release's, else the configuration's, else
    those that the weights were trained with, else those that timm has for the image tower, else CLIP's.
    """
    known = known_statistics(cfg, architecture) or (timm_statistics(cfg.image) if cfg.image and cfg.weights else None)
    mean, std = known or (CLIP_MEAN, CLIP_STD)
    if "recipe" in (architecture or {}) or zoo.reference(cfg.weights)[0] is not None:
        return mean, std
    return tuple(cfg.mean) or mean, tuple(cfg.std) or std


def known_statistics(
    cfg: EncoderConfig, architecture: Mapping[str, Any] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of a release, a bundled trunk, timm's own, or a tag; None for another file and for
    random weights.
    """
    import open_clip

    if "recipe" in (architecture or {}):
        return zoo.colours((architecture or {})["recipe"])
    release, _ = zoo.reference(cfg.weights)
    if release is not None:
        return zoo.colours(release.recipe)
    if cfg.weights in BUNDLED_WEIGHTS:
        return normalisation(cfg.weights)
    if cfg.weights == encoder_weights.TIMM and cfg.image:
        return timm_statistics(cfg.image)
    tag = open_clip.get_pretrained_cfg(cfg.model, cfg.weights) if cfg.weights else {}
    return (tuple(tag.get("mean", CLIP_MEAN)), tuple(tag.get("std", CLIP_STD))) if tag else None


def timm_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of timm's own weights of a model; None where it has none."""
    import timm

    known = timm.get_pretrained_cfg(name)
    return (tuple(known.mean), tuple(known.std)) if known is not None else None


class FundusEncoder(nn.Module):
    """A CLIP model whose image tower also hands out its patch tokens.

    Works with open_clip's VisionTransformer, ModifiedResNet and timm towers, and with open_clip's text towers and
    BERT-family models of transformers.
    """

    def __init__(self, cfg: EncoderConfig, load: bool = True, architecture: dict[str, Any] | None = None):
        """Build the towers.

        Args:
            load: False leaves the named weights to a checkpoint.
            architecture: as a checkpoint keeps it; None = what `cfg` leads to.
        """
        super().__init__()
        release, file = (None, None) if architecture is not None else zoo.reference(cfg.weights)
        if load and release is not None and file is None:
            raise UserError(
                f"encoder.weights: {release.name} is named without its file; give {release.name}:FILE "
                f"({release.title}, from {release.source})"
            )
        self.architecture = towers.resolve(cfg, at_hand=load) if architecture is None else architecture
        # a look at a release without its file needs shapes and no numbers
        empty = release is not None and file is None
        self.clip = without_content(lambda: self._build(cfg, load)) if empty else self._build(cfg, load)
        if not cfg.weights:
            batchnorm_to_groupnorm(self.clip.visual)  # of a random tower only: `weights` always fill the image tower
        if load:
            self.architecture |= encoder_weights.load(self.clip, cfg, self.architecture)
        side = self.architecture["vision_cfg"]["image_size"]
        self.size: int = side[0] if isinstance(side, tuple | list) else side
        self.channels = 1 if self.architecture.get("recipe", {}).get("colour") == "grey" else 3
        towers.resize(self.clip.visual, self.size)
        if cfg.init_logit_scale is not None:  # over what the weights bring along
            nn.init.constant_(self.clip.logit_scale, math.log(cfg.init_logit_scale))
        if cfg.init_logit_bias is not None:
            self.clip.logit_bias = nn.Parameter(torch.full_like(self.clip.logit_scale, cfg.init_logit_bias))
        depthwise_in_float32(self.clip.visual)
        if not empty:
            self.clip.visual.to(memory_format=torch.channels_last)
        self._adapt(cfg)
        self.checkpointing = False
        self.settle(cfg)
        self.statistics = statistics(cfg, self.architecture)
        self.known_statistics = known_statistics(cfg, self.architecture)
        self.context_length: int = self.architecture["text_cfg"]["context_length"]
        self.width, self.grid, self.embed_dim = self._shapes(cfg)  # C, (h, w), E

    def _build(self, cfg: EncoderConfig, load: bool) -> Any:
        pretrained = load and cfg.weights == encoder_weights.TIMM
        try:
            with quick_to_fail() if pretrained else nullcontext():
                return towers.build(self.architecture, pretrained=pretrained)
        except Exception as error:
            if not pretrained:
                raise
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"encoder.weights: timm's own of {cfg.image} could not be fetched ({type(error).__name__}: {reason}); "
                "on a machine without a model hub put the checkpoint file on disk and give its path as encoder.weights"
            ) from error

    def _shapes(self, cfg: EncoderConfig) -> tuple[int, tuple[int, int], int]:
        """Width and grid of the patch tokens and width of the embedding, as one black photograph shows them."""
        recipe = self.architecture.get("recipe")
        try:
            with torch.no_grad(), nothing() if recipe else nullcontext():  # those may be large: nothing is computed
                pooled, tokens = self.features(torch.zeros(1, self.channels, self.size, self.size))
        except (AssertionError, RuntimeError) as error:
            raise UserError(
                f"encoder.size: {self.size} px do not go through the image tower {cfg.image or cfg.model} ({error})"
            ) from error
        return tokens.shape[1], (tokens.shape[2], tokens.shape[3]), pooled.shape[1]

    def _adapt(self, cfg: EncoderConfig) -> None:
        """Put LoRA into the blocks; raises UserError where a tower has no such layers."""
        for tower, count, rank in towers.settings(cfg):
            layer = depth.layers(self)[tower]
            depth.check(layer, tower, count, rank, cfg.layer_decay)
            if rank:
                blocks = {found[0] for n in layer if (found := depth.BLOCK.match(n))}
                inside = [m for n, m in self.named_modules() if f"{n}.".startswith(tuple(blocks))]
                if not lora.attach(inside, rank, cfg.lora_alpha or 2.0 * rank):
                    raise UserError(f"encoder.{tower}_lora: the blocks of the {tower} tower have nothing to adapt")

    def _lock(self, cfg: EncoderConfig) -> tuple[frozenset[str], list[nn.Module]]:
        """Parameters that no stage trains, and modules with none but locked ones, which stay in eval mode."""
        fixed, locked = set(), set()
        for tower, count, rank in towers.settings(cfg):
            own = {n: at for n, at in depth.layers(self)[tower].items() if not self.is_projection(n)}
            locked |= {n for n, at in own.items() if at < count or count < 0}
            if rank:
                fixed |= {n for n in own if "lora_" not in n}
        fixed |= {n for n, _ in self.named_parameters() if n.startswith("clip.sides.")}  # no loss reads them
        still = {id(p) for n, p in self.named_parameters() if n in locked}
        modules = [m for m in self.modules() if (ids := {id(p) for p in m.parameters()}) and ids <= still]
        return frozenset(fixed | locked), modules

    def settle(self, cfg: EncoderConfig) -> None:
        """Take up how the towers train, which weights do not depend on: what is locked, and gradient checkpointing.

        Raises UserError where a setting counts layers that a tower does not have.
        """
        for tower, count, rank in towers.settings(cfg):
            depth.check(depth.layers(self)[tower], tower, count, rank, cfg.layer_decay)
        self.fixed, self.locked = self._lock(cfg)
        if cfg.gradient_checkpointing != self.checkpointing:
            towers.set_checkpointing(self.clip, cfg.gradient_checkpointing, cfg.image or cfg.model)
        self.checkpointing = cfg.gradient_checkpointing

    def merge_lora(self) -> None:
        """Make plain weights of the LoRA of both towers, in place; what they compute stays the same to the bit."""
        lora.merge(self.clip)

    def layers(self) -> dict[str, tuple[int, int]]:
        """(layer, last layer of its tower) of each parameter of the towers (see `mdf.models.depth`)."""
        return {n: (at, max(t.values())) for t in depth.layers(self).values() for n, at in t.items()}

    def is_projection(self, name: str) -> bool:
        """Whether a parameter is of the new projection behind a timm trunk or a text model; a release has its own."""
        release = zoo.named(self.architecture["release"]) if "release" in self.architecture else None
        timm_head = hasattr(self.clip.visual, "trunk") and name.startswith("clip.visual.head.") and release is None
        own = release is not None and release.text is not None
        bert = isinstance(getattr(self.clip, "text", None), TextTower) and not own
        return timm_head or (bert and name.startswith("clip.text.proj."))

    def train(self, mode: bool = True) -> "FundusEncoder":
        super().train(mode)
        freeze_statistics(self)
        for module in self.locked:
            module.eval()
        return self

    def features(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,S,S] -> global embedding [B,E] (not normalised) and patch tokens as a map [B,C,h,w].

        A release whose recipe is grey reads [B,1,S,S].
        """
        tower = self.clip.visual
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        if isinstance(tower, ReleasedTower):
            pooled, x = tower.features(pixel_values)
        elif hasattr(tower, "trunk"):  # timm
            trunk = tower.trunk
            x = trunk.forward_features(pixel_values)
            pooled = tower.head(trunk.forward_head(x))
            if x.ndim == 3:
                x = x[:, getattr(trunk, "num_prefix_tokens", 0) :]
            elif x.shape[1] != trunk.num_features:  # Swin and its kin keep channels last
                x = x.permute(0, 3, 1, 2)
        elif hasattr(tower, "attnpool"):  # ModifiedResNet
            x = tower.stem(pixel_values)
            for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
                again = self.checkpointing and self.training
                x = checkpoint(layer, x, use_reentrant=False) if again else layer(x)
            pooled = tower.attnpool(x)
        elif tower.attn_pool is not None:  # CoCa's VisionTransformer, whose output tokens are queries, not patches
            out = tower.forward_intermediates(pixel_values, indices=1)
            pooled, x = out["image_features"], out["image_intermediates"][0]
        else:  # VisionTransformer
            keep, tower.output_tokens = tower.output_tokens, True
            pooled, x = tower(pixel_values)
            tower.output_tokens = keep
        return pooled, as_map(x, *pixel_values.shape[2:]) if x.ndim == 3 else x

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,S,S] -> unit global embedding [B,E] and patch map [B,C,h,w]."""
        pooled, tokens = self.features(pixel_values)
        return F.normalize(pooled, dim=-1), tokens

    def encode_text(self, caption_ids: Tensor) -> Tensor:
        """int64 [B,T] -> unit embeddings [B,E]."""
        return self.clip.encode_text(caption_ids, normalize=True)

    def encode_prompts(self, caption_ids: Tensor, *, side: str = "", pooling: str | None = None) -> Tensor:
        """`encode_text` through the head for eyes of a `side`, or with another pooling of a BERT text tower."""
        if side:
            return self._sides().text(self.clip.text.pooled(caption_ids), side)
        if pooling:
            return F.normalize(self.clip.text.proj(self.clip.text.pooled(caption_ids, pooling)), dim=-1)
        return self.encode_text(caption_ids)

    def encode_patient(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Photographs [B,3,S,S] of left and right eyes -> unit vectors [B,E] of patient, left and right (RET-CLIP).

        Raises UserError for an encoder without such heads.
        """
        sides = self._sides()
        left_embeds, right_embeds = self.features(left)[0], self.features(right)[0]
        patient = sides.both(left_embeds, right_embeds)
        return patient, sides.eye(left_embeds, "left"), sides.eye(right_embeds, "right")

    def encode_reports(self, caption_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """int64 [B,T] -> unit vectors [B,E] of patient, left and right, to compare with `encode_patient`'s."""
        sides, pooled = self._sides(), self.clip.text.pooled(caption_ids)
        return F.normalize(self.clip.text.proj(pooled), dim=-1), sides.text(pooled, "left"), sides.text(pooled, "right")

    def _sides(self) -> SideHeads:
        if not hasattr(self.clip, "sides"):
            raise UserError("this encoder has no heads for left eye, right eye and patient (RET-CLIP has)")
        return self.clip.sides

    @property
    def logit_scale(self) -> Tensor:
        """The multiplier of cosine similarities, at most 100; at the cap, too, its gradient is that below it."""
        scale = self.clip.logit_scale.exp()
        return scale + (scale.clamp(max=MAX_LOGIT_SCALE) - scale).detach()

    @torch.no_grad()
    def cap_logit_scale(self) -> None:
        """Put the parameter back to the cap, as CLIP does after every step: an optimiser would leave it behind."""
        self.clip.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))

    @property
    def logit_bias(self) -> Tensor | None:
        """What the sigmoid loss adds to a scaled cosine similarity (SigLIP, Zhai et al. 2023, section 3.2), or None."""
        return self.clip.logit_bias

    def describe(self) -> list[str]:
        """A line a tower: what was built, and how it is looked at."""
        vision, text = self.architecture["vision_cfg"], self.architecture["text_cfg"]
        visual = self.clip.visual
        text_tower = getattr(self.clip, "text", None) or self.clip.transformer
        image_name = vision.get("timm_model_name") or vision.get("release", {}).get("timm") or type(visual).__name__
        text_name = text["hf_config"]["model_type"] if "hf_config" in text else type(text_tower).__name__
        h, w = self.grid
        mean, std = (", ".join(f"{value:.3g}" for value in values) for values in self.statistics)
        lines = [
            f"image tower {image_name}: {towers.activation(visual)}, {self.size} px, {h} x {w} patches of width "
            f"{self.width}, pooling {towers.pooling(visual)}, embedding {self.embed_dim}",
            f"text tower {text_name}: {towers.activation(text_tower)}, up to {self.context_length} tokens, pooling "
            f"{towers.text_pooling(self.clip)}",
            f"photographs normalised with mean {mean}, standard deviation {std}",
        ]
        if self.known_statistics not in (None, self.statistics):
            lines[-1] += ": NOT those that its weights were trained with"
        return [*lines, *zoo_weights.describe(self.architecture)]


def as_map(x: Tensor, height: int, width: int) -> Tensor:
    """Patch tokens [B,N,C] of square patches of a photograph of that size -> [B,C,h,w]."""
    rows = round((x.shape[1] * height / width) ** 0.5)
    assert rows * (x.shape[1] // rows) == x.shape[1], f"{x.shape[1]} patches are no grid of {height} x {width} px"
    return x.transpose(1, 2).unflatten(2, (rows, -1))
