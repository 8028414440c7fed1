"""MDFConfig, what a checkpoint knows of its model, and MDFOutput, what a forward returns.

Shapes: as in `mdf.models.fusion`.
"""

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPast

from mdf.config import EncoderConfig, FilmConfig, FusionConfig, LanguageConfig, UNetConfig

# what transformers calls the keys and values of earlier tokens: `cache` from 5.24 on, `past_key_values` before
CACHE = "cache" if "cache" in {f.name for f in fields(BaseModelOutputWithPast)} else "past_key_values"


class MDFConfig(PretrainedConfig):
    """Sections encoder, unet, fusion and language of the run's configuration, and what the model learnt to name."""

    model_type = "mdf"

    def __init__(
        self,
        mdf: dict | None = None,
        lora: bool = False,
        stale_masks: bool = False,
        language: dict | None = None,
        encoder: dict | None = None,
        **kwargs: Any,
    ):
        self.mdf = mdf or {}
        self.lora = lora
        self.stale_masks = (
            stale_masks  # the U-Net's encoder trained after its decoder: masks are no longer to be trusted
        )
        self.language = language or {}  # the language model's own configuration
        self.encoder = encoder or {}  # the encoder's whole architecture, see `mdf.models.towers.resolve`
        super().__init__(**kwargs)

    @property
    def masks(self) -> list[str]:
        """Names of the U-Net's output maps, in order."""
        return list(self.mdf["unet"]["masks"]) if self.mdf else []

    def sections(self) -> tuple[EncoderConfig, UNetConfig, FusionConfig, LanguageConfig]:
        """The four sections as dataclasses."""

        def tuples(d: dict) -> dict:
            return {k: tuple(v) if isinstance(v, list) else v for k, v in d.items()}

        fusion = {"counts": 0, "extents": False} | tuples(self.mdf["fusion"])  # as before there were these readings
        fusion["film"] = FilmConfig(**fusion["film"])
        return (
            EncoderConfig(**self.mdf["encoder"]),
            UNetConfig(**tuples(self.mdf["unet"])),
            FusionConfig(**fusion),
            LanguageConfig(**tuples(self.mdf["language"])),
        )

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PretrainedConfig:
        """The language model's configuration, from which generation makes its cache."""
        if not self.language:
            return self
        from transformers import AutoConfig

        values = dict(self.language)
        return AutoConfig.for_model(values.pop("model_type"), **values).get_text_config()


@dataclass
class MDFOutput(BaseModelOutputWithPast):
    """What `forward` was asked for; the rest is None. Its cache goes by the name CACHE."""

    logits: Tensor | None = None  # [B,T,V], or [N_kept,V] where `keep` was given
    reduced: Any = None  # in place of logits, where `reduce` was given: what it made of hidden states and head
    image_embeds: Tensor | None = None  # [B,E] unit vectors
    text_embeds: Tensor | None = None  # [B,E] unit vectors
    logit_scale: Tensor | None = None  # scalar multiplier
    logit_bias: Tensor | None = None  # scalar that the sigmoid loss adds; None where the encoder has none
    mask_logits: Tensor | None = None  # [B,K,U,U]
    memory: Tensor | None = None  # [B,L,G²,m]
    attention: Tensor | None = None  # float32 [N,A,G²] of the positions `grounded`; the rest of 1 went to nothing
