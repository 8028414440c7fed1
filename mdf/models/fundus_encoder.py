"""FundusEncoder: an open_clip image tower with its text tower; patch tokens and a global embedding from one pass.

Shapes: B photographs, S input side, N patch tokens on an h×w grid, C token width, E embedding width, T caption tokens.
"""

import contextlib
import io
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdf.config import EncoderConfig
from mdf.errors import UserError
from mdf.imaging.preprocess import CLIP_MEAN, CLIP_STD
from mdf.models.depthwise import depthwise_in_float32
from mdf.models.normalization import batchnorm_to_groupnorm, freeze_statistics
from mdf.models.weights import BUNDLED as BUNDLED_WEIGHTS
from mdf.models.weights import normalisation, trunk_state

ARCHITECTURES = Path(__file__).parent.parent / "data" / "open_clip"
MAX_LOGIT_SCALE = 100.0  # CLIP (Radford et al. 2021), section 2.5


def architecture(name: str) -> dict:
    """The open_clip configuration of `name`: one of mdf/data/open_clip, a JSON file, or a name that open_clip knows."""
    import open_clip

    for path in (ARCHITECTURES / f"{name}.json", Path(name)):
        if path.suffix == ".json" and path.is_file():
            return json.loads(path.read_text())
    config = open_clip.get_model_config(name)
    if config is None:
        import difflib

        known = open_clip.list_models() + [p.stem for p in ARCHITECTURES.glob("*.json")]
        near = difflib.get_close_matches(name, known, 5)
        raise UserError(
            f"encoder.model: open_clip knows no architecture {name!r}; nearest: {', '.join(near) or 'none'}"
        )
    return config


def statistics(cfg: EncoderConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that photographs are normalised with: those that the weights were trained with, the
    configuration's where that is not known (a file), else CLIP's.

    Raises UserError where `encoder.mean` or `encoder.std` is not what the weights are known to be trained with.
    """
    known = known_statistics(cfg)
    given = tuple(cfg.mean), tuple(cfg.std)
    for name, known_value, value in zip(("mean", "std"), known or (), given, strict=False):
        if value and value != known_value:
            raise UserError(
                f"encoder.{name}: {cfg.weights} was trained with {list(known_value)}, not {list(value)}; "
                "leave the setting out"
            )
    mean, std = known or (CLIP_MEAN, CLIP_STD)
    return given[0] or mean, given[1] or std


def known_statistics(cfg: EncoderConfig) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of a bundled trunk or an open_clip tag; None for a file and for random weights."""
    import open_clip

    if cfg.weights in BUNDLED_WEIGHTS:
        return normalisation(cfg.weights)
    tag = open_clip.get_pretrained_cfg(cfg.model, cfg.weights) if cfg.weights else {}
    return (tuple(tag.get("mean", CLIP_MEAN)), tuple(tag.get("std", CLIP_STD))) if tag else None


class FundusEncoder(nn.Module):
    """A CLIP model whose image tower also hands out its patch tokens.

    Works with open_clip's VisionTransformer, ModifiedResNet and timm towers.
    """

    def __init__(self, cfg: EncoderConfig, load: bool = True):
        """Build the towers; `load` False leaves the named weights to a checkpoint."""
        super().__init__()
        import open_clip

        config = architecture(cfg.model)
        if cfg.size:
            config["vision_cfg"]["image_size"] = cfg.size
        custom = "hf_model_name" in config.get("text_cfg", {}) or config.pop("custom_text", False)
        vision_only = {
            k: v
            for k, v in config.items()
            if k in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "init_logit_bias")
        }
        build = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        with contextlib.redirect_stdout(io.StringIO()):
            self.clip = build(**vision_only)
        if not cfg.weights:
            batchnorm_to_groupnorm(self.clip.visual)
        elif load:
            self._load(cfg, config)
        if cfg.init_logit_scale is not None:  # over what the weights bring along
            nn.init.constant_(self.clip.logit_scale, math.log(cfg.init_logit_scale))
        if cfg.init_logit_bias is not None:
            self.clip.logit_bias = nn.Parameter(torch.full_like(self.clip.logit_scale, cfg.init_logit_bias))
        depthwise_in_float32(self.clip.visual)
        self.clip.visual.to(memory_format=torch.channels_last)
        self.statistics = statistics(cfg)
        size = self.clip.visual.image_size
        self.size: int = size[0] if isinstance(size, tuple | list) else size
        self.context_length: int = config["text_cfg"].get("context_length", 77)
        with torch.no_grad():
            pooled, tokens = self.features(torch.zeros(1, 3, self.size, self.size))
        self.width: int = tokens.shape[1]  # C
        self.grid: tuple[int, int] = (tokens.shape[2], tokens.shape[3])  # h, w
        self.embed_dim: int = pooled.shape[1]  # E

    def _load(self, cfg: EncoderConfig, config: dict) -> None:
        """Fill the towers from an open_clip checkpoint, or the image trunk alone from a bundled timm trunk."""
        assert cfg.weights is not None
        timm_name = config["vision_cfg"].get("timm_model_name")
        if cfg.weights == "efficientnet-lite0-imagenet":
            if timm_name is None:
                raise UserError(f"encoder.weights: {cfg.weights} fills a timm trunk, and {cfg.model} has none")
            self.clip.visual.trunk.load_state_dict(trunk_state(cfg.weights, timm_name), strict=True)
            return
        path = Path(cfg.weights)
        if not path.is_file():
            import open_clip

            tags = open_clip.list_pretrained_tags_by_model(cfg.model)
            if cfg.weights not in tags:
                raise UserError(
                    f"encoder.weights: {cfg.weights!r} is no file and no open_clip tag of {cfg.model} "
                    f"(tags: {', '.join(tags) or 'none'})"
                )
            try:
                path = Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(cfg.model, cfg.weights)))
            except Exception as error:
                raise UserError(
                    f"encoder.weights: {cfg.model}/{cfg.weights} could not be fetched ({type(error).__name__}); "
                    "on a machine without a model hub put the checkpoint file on disk and give its path "
                    "as encoder.weights"
                ) from error
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
        state = {k.removeprefix("module."): v for k, v in state.items()}
        missing, unexpected = self.clip.load_state_dict(state, strict=False)
        if missing or unexpected:
            raise UserError(
                f"encoder.weights: {path} does not fit {cfg.model}; nothing loaded. "
                f"Missing: {', '.join(missing[:5]) or 'none'} ({len(missing)}), "
                f"unexpected: {', '.join(unexpected[:5]) or 'none'} ({len(unexpected)})"
            )

    def train(self, mode: bool = True) -> "FundusEncoder":
        super().train(mode)
        freeze_statistics(self)
        return self

    def features(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,S,S] -> global embedding [B,E] (not normalised) and patch tokens as a map [B,C,h,w]."""
        tower = self.clip.visual
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        if hasattr(tower, "trunk"):  # timm
            x = tower.trunk.forward_features(pixel_values)
            pooled = tower.head(tower.trunk.forward_head(x))
            if x.ndim == 3:
                x = x[:, tower.trunk.num_prefix_tokens :]
        elif hasattr(tower, "attnpool"):  # ModifiedResNet
            x = tower.stem(pixel_values)
            for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
                x = layer(x)
            pooled = tower.attnpool(x)
        else:  # VisionTransformer
            keep, tower.output_tokens = tower.output_tokens, True
            pooled, x = tower(pixel_values)
            tower.output_tokens = keep
        if x.ndim == 3:
            side = int(x.shape[1] ** 0.5)
            x = x.transpose(1, 2).unflatten(2, (side, -1))
        return pooled, x

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,S,S] -> unit global embedding [B,E] and patch map [B,C,h,w]."""
        pooled, tokens = self.features(pixel_values)
        return F.normalize(pooled, dim=-1), tokens

    def encode_text(self, caption_ids: Tensor) -> Tensor:
        """int64 [B,T] -> unit embeddings [B,E]."""
        return self.clip.encode_text(caption_ids, normalize=True)

    @property
    def logit_scale(self) -> Tensor:
        """The multiplier of cosine similarities, at most 100."""
        return self.clip.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)

    @property
    def logit_bias(self) -> Tensor | None:
        """What the sigmoid loss adds to a scaled cosine similarity (SigLIP, Zhai et al. 2023, section 3.2), or None."""
        return self.clip.logit_bias
