"""MDFModel: encoder, U-Net, fusion and language model as one module with one differentiable entry, `forward`.

Shapes: B rows (one photograph each), S encoder side, U U-Net side, K masks, T text tokens, V vocabulary, E embedding
width, L depths, A adapters, n heads of 64, G² memory vectors, N grounded positions, m memory width, P prefix tokens,
d language width, C caption tokens.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mdf.checking import CONTRASTS
from mdf.config import Config, PartsConfig
from mdf.dialogue import Prompts
from mdf.models.answers import AnsweringMixin
from mdf.models.chunks import in_chunks
from mdf.models.configuration import CACHE, MDFConfig, MDFOutput
from mdf.models.connector import Fusion, Prefix, pooled_prompt
from mdf.models.features import Features, Look
from mdf.models.fundus_encoder import FundusEncoder
from mdf.models.generation import FusedGenerationMixin
from mdf.models.language import (
    MemoryCarrier,
    attach_lora,
    bare,
    checkpoint_layers,
    decode,
    decoder,
    has_tower,
    hidden_rms,
    hook_adapters,
    load_language,
    weights_dtype,
)
from mdf.models.mllama import cross_layers, sight
from mdf.models.photographs import image_processor_of, preprocessing_of, refuse_sizes
from mdf.models.towers import captions_of, check_tokenizer
from mdf.models.unet import UNet
from mdf.processor import Inputs, MDFProcessor
from mdf.resources import bundled
from mdf.trained_on import TrainedOn

PARTS = ("encoder", "unet", "fusion", "language")


class MDFModel(PreTrainedModel, FusedGenerationMixin, AnsweringMixin):
    """The whole model. `build` makes one from a run's configuration, `from_pretrained` from a checkpoint directory."""

    config_class = MDFConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = False
    _is_stateful = False

    def __init__(self, config: MDFConfig, language: Any = None, load_bases: bool = True):
        super().__init__(config)
        encoder, unet, fusion, lm = config.sections()
        if language is None:
            language, _ = load_language(lm)
        config.language = language.config.to_dict()
        embedding = language.get_input_embeddings().weight
        self.encoder = FundusEncoder(encoder, load_bases, config.encoder or None)
        config.encoder = self.encoder.architecture
        self.unet = UNet(unet, load_bases)
        self.fusion = Fusion(
            fusion,
            lm,
            channels=self.unet.channels,
            masks=self.unet.masks,
            unet_size=unet.size,
            encoder_width=self.encoder.width,
            encoder_grid=self.encoder.grid,
            embed_dim=self.encoder.embed_dim,
            language_width=embedding.shape[1],
            language_layers=language.config.get_text_config().num_hidden_layers,
            cross_layers=cross_layers(language.config),
            embedding_rms=float(embedding.detach().float().pow(2).mean().sqrt()) if load_bases else 1.0,
            hidden_rms=hidden_rms(language) if load_bases and fusion.adapts else None,
        )
        self.language = attach_lora(language, lm) if config.lora else language
        self.hooks = hook_adapters(self.language, self.fusion.adapters, self.fusion.layers)
        self.generation_config = language.generation_config
        self.processor: MDFProcessor = None  # type: ignore[assignment]  # set by build and from_pretrained
        self.trained_on = TrainedOn()
        # parameters and buffers that still are what their named base holds: a checkpoint leaves them out
        self.of_base = {f"language.{n}" for n, _ in self.language.named_parameters() if "lora_" not in n}
        self.set_trainable(PartsConfig())

    # -- making and keeping -------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        cfg: Config,
        diagnoses: tuple[str, ...],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        load_bases: bool = True,
        language: tuple[Any, Any] | None = None,
    ) -> "MDFModel":
        """A model with the base weights that `cfg` names; `dtype` is that of the language model's frozen weights.

        Without `load_bases` encoder and U-Net keep random weights, which is of use only for a look at it; `language`,
        a language model and its tokenizer, then stands in for the one that `cfg` names.
        """
        torch.manual_seed(cfg.run.seed)
        sections = {k: asdict(getattr(cfg, k)) for k in PARTS}
        lora = any(getattr(cfg, stage).parts.language.mode == "lora" for stage in cfg.run.stages)
        base, tokenizer = language or load_language(cfg.language, weights_dtype(cfg, dtype))
        refuse_sizes(cfg, base)
        model = cls(MDFConfig(mdf=sections, lora=lora), language=base, load_bases=load_bases)
        if cfg.language.gradient_checkpointing:
            checkpoint_layers(model.language)
        prompts = Prompts(Path(cfg.dialogue.prompts) if cfg.dialogue.prompts else bundled("prompts"))
        model.processor = MDFProcessor(
            tokenizer,
            preprocessing_of(cfg),
            prompts,
            image_tokens=model.fusion.image_tokens,
            image_processor=image_processor_of(cfg) if has_tower(base) else None,
            context_length=model.encoder.context_length,
            diagnoses=diagnoses,
            questions=cfg.dialogue.kinds,
            captions=captions_of(model.encoder.architecture),
        )
        if load_bases:
            check_tokenizer(model.processor.caption_tokenizer, model.encoder.architecture)
        return model if model.device == torch.device(device) else model.to(device)

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, state_dict: dict[str, Tensor] | None = None, **_: Any
    ) -> None:
        """Write a checkpoint directory (see `mdf.models.checkpoint`)."""
        from mdf.models.checkpoint import save

        save(self, Path(save_directory), state_dict)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        quantize: str | None = None,
        language: dict[str, Any] | None = None,
        **_: Any,
    ) -> "MDFModel":  # type: ignore[override]
        """Read a checkpoint directory; every tensor is filled from it or from its named base, or nothing is loaded.

        `quantize` (none, nf4, int8) loads the language model otherwise than it was trained, with a warning; `language`
        has settings of it that no weight depends on, instead of the checkpoint's: attention, lora_dropout.
        """
        from mdf.models.checkpoint import load

        return load(cls, Path(folder), dtype, quantize, language).to(device).eval()

    def part_of(self, name: str) -> str:
        """The part that a parameter belongs to: encoder, unet, fusion or language."""
        part = name.removeprefix("module.").split(".")[0]
        assert part in PARTS, name
        return part

    def set_trainable(self, parts: PartsConfig, losses: tuple[str, ...] = ("mask", "contrastive", "text")) -> None:
        """Say which tensors train: `parts` of a stage with these losses; what no loss reaches stays frozen.

        Without a mask loss a U-Net that trains keeps its decoder, and the checkpoint says that its masks are stale.
        """
        for name, parameter in self.named_parameters():
            part = self.part_of(name)
            mode = getattr(parts, part).mode
            trains = mode == "full" or (mode == "lora" and "lora_" in name)
            if part == "unet" and "mask" not in losses:
                trains = trains and name.startswith("unet.net.encoder.")
            if part == "encoder" and not set(CONTRASTS) & set(losses):
                trains = trains and name.startswith("encoder.clip.visual.")
            trains = trains and name.removeprefix("encoder.") not in self.encoder.fixed
            parameter.requires_grad_(trains)
        if parts.unet.mode == "full":
            self.config.stale_masks = "mask" not in losses
        self.of_base -= {n for n, p in self.named_parameters() if p.requires_grad}
        self.train(self.training)

    def train(self, mode: bool = True) -> "MDFModel":
        """Frozen parts stay in eval mode whatever their parents are put in.

        Decoder layers that are to be recomputed are marked as training all the same, without their children: that is
        what transformers and our hooks look at, and gradients go through a frozen language model, too.
        """
        super().train(mode)
        if mode:
            for name in PARTS:
                part = getattr(self, name, None)
                if part is not None and not any(p.requires_grad for p in part.parameters()):
                    part.eval()
            if (language := getattr(self, "language", None)) is not None:
                for layer in decoder(language).layers:
                    layer.training = layer.training or getattr(layer, "gradient_checkpointing", False)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def get_input_embeddings(self) -> nn.Module:
        return bare(self.language).get_input_embeddings()

    # -- the one differentiable entry ---------------------------------------------------------------------------------

    def features(self, pixel_values: Tensor, unet_pixels: Tensor | None, *, masks: bool = False) -> Features:
        """What encoder and U-Net make of photographs, before any weight of the fusion."""
        found = Features(*self.encoder(pixel_values))
        if self.fusion.depths or masks:
            if unet_pixels is None:
                raise ValueError("unet_pixels [B,3,U,U] is missing: the fusion reads the U-Net's skips")
            found.maps = self.unet.encode(unet_pixels)
            if masks:
                found.mask_logits = self.unet.decode(found.maps)
            if self.fusion.depths and self.fusion.masks:
                with torch.no_grad():
                    drawn = self.unet.decode(found.maps) if found.mask_logits is None else found.mask_logits
                    found.read = self.fusion.readings(drawn.sigmoid())
        return found

    def see(
        self,
        pixel_values: Tensor,
        unet_pixels: Tensor | None,
        prompt: Tensor | None = None,
        *,
        masks: bool = False,
        look: Look | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Photographs -> unit embedding [B,E], prefix [B,P,d], memory [B,L,G²,m], mask logits [B,K,U,U] (or None each).

        What a vision tower of the language model's own sees is beside it, see `mdf.models.mllama.see_tiles`.
        """
        found = (
            self.features(pixel_values, unet_pixels, masks=masks) if look is None else look(pixel_values, unet_pixels)
        )
        prefix, memory = self.fusion.connect(found, prompt)
        if self.fusion.depths and found.maps[-1].requires_grad and not masks:
            nothing = 0.0 * found.maps[-1].sum()  # it feeds no skip: keep DDP from waiting for it
            if memory is not None:
                memory = memory + nothing
            elif prefix is not None:
                prefix = prefix + nothing
        return found.image_embeds, prefix, memory, found.mask_logits

    def prompt_of(self, input_ids: Tensor, prompt_mask: Tensor | None) -> Tensor | None:
        """What FiLM reads of the prompt, [B,d]: placeholders and padding are left out. None where it reads nothing."""
        if not self.fusion.uses_prompt:
            return None
        words = None if prompt_mask is None else prompt_mask & (input_ids != self.processor.image_token_id)
        return pooled_prompt(self.get_input_embeddings()(input_ids), words)

    def embed(self, input_ids: Tensor, prefix: Tensor | None) -> Tensor:
        """Word embeddings [B,T,d] with the projected photograph [B,P,d] at the placeholders."""
        if self.processor is None:
            raise ValueError("model.processor is not set; use MDFModel.build or MDFModel.from_pretrained")
        embeds = self.get_input_embeddings()(input_ids)
        at = input_ids == self.processor.image_token_id
        if prefix is None or (input_ids.shape[1] == 1 and not at.any()):
            return embeds
        return Prefix.place(embeds, at, prefix)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        unet_pixels: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        *,
        caption_ids: Tensor | None = None,
        keep: Tensor | None = None,
        reduce: Callable[[Tensor, nn.Module], Any] | None = None,
        look: Look | None = None,
        grounded: Tensor | None = None,
        want: tuple[str, ...] = ("text",),
        chunk: int = 0,
        position_ids: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        memory: Tensor | None = None,
        memory_kv: Tensor | None = None,
        prefix: Tensor | None = None,
        cross_attention_states: Tensor | None = None,
        cross_attention_mask: Tensor | None = None,
        logits_to_keep: int = 0,
        **backbone: Any,
    ) -> MDFOutput:
        """Everything that training differentiates.

        Args:
            input_ids, attention_mask: int64 [B,T]; the mask also bool [B,1,T,T], who sees whom.
            pixel_values, unet_pixels: float32 [B,3,S,S], [B,3,U,U]; not needed with `prefix` and `memory`/`memory_kv`.
            prompt_mask: bool [B,T], the tokens before the first answer.
            caption_ids: int64 [B,C] for `want` contrastive.
            keep: bool [B,T]; logits are computed there only.
            reduce: called with the hidden states [N,d] at `keep` ([B,T,d] without) and the language model's head, in
                place of making logits; its result is `reduced`. So all of training goes through one forward.
            look: called with pixel_values and unet_pixels in place of `features`, where encoder and U-Net are frozen.
            grounded: bool [B,T]; the adapters' attention over the patches is returned for these positions.
            want: which of text, contrastive, masks to compute.
            chunk: photographs, then captions, that the encoder holds at once where text is not wanted; 0 = all.
            memory, memory_kv: [B,L,G²,m], [B,A,2,n,G²+1,64] computed before; one row may serve several side by side.
            prefix: [B,P,d] computed before.
            cross_attention_states: [B,N,d] of the language model's own tower, computed before.
            cross_attention_mask: {0,1} [B,T,1,K], which of a photograph's tiles a token reads; never without, where the
                language model has a tower (`mdf.tiles`).
            logits_to_keep: logits of the last that many tokens only; 0 = all.
            backbone: `tiles`, `aspect_ratio_ids` and `aspect_ratio_mask` for that tower.
            cache: keys and values of earlier tokens; past_key_values is its name in transformers before 5.24.
        """
        out = MDFOutput()
        text = "text" in want
        if "masks" in want and not text and "contrastive" not in want:
            assert unet_pixels is not None
            out.mask_logits = self.unet(unet_pixels)
            return out
        if "contrastive" in want and not text:
            assert pixel_values is not None
            out.image_embeds = in_chunks(lambda x: self.encoder(x)[0], pixel_values, chunk)
            if "masks" in want:
                assert unet_pixels is not None
                out.mask_logits = self.unet(unet_pixels)
        elif pixel_values is not None and (len(want) > 1 or self.fusion.lacks(prefix, memory, memory_kv)):
            assert input_ids is not None
            prompt = self.prompt_of(input_ids, prompt_mask)
            out.image_embeds, prefix, memory, out.mask_logits = self.see(
                pixel_values, unet_pixels, prompt, masks="masks" in want, look=look
            )
        if "contrastive" in want:
            assert caption_ids is not None
            out.text_embeds = in_chunks(self.encoder.encode_text, caption_ids, 0 if text else chunk)
            out.logit_scale = self.encoder.logit_scale
            out.logit_bias = self.encoder.logit_bias
        if not text:
            return out
        assert input_ids is not None
        if self.fusion.layers and memory_kv is None:
            if memory is None:
                raise ValueError("neither pixel_values nor memory was given: the adapters have nothing to read")
            memory_kv = self.fusion.memory_kv(memory)
        out.memory = memory
        carrier = MemoryCarrier(memory_kv, grounded) if memory_kv is not None else None
        cache = past_key_values if cache is None else cache
        own = backbone | {
            "cross_attention_states": cross_attention_states,
            "cross_attention_mask": cross_attention_mask,
        }
        hidden, kept = decode(
            self.language,
            self.embed(input_ids, prefix),
            carrier,
            len(self.fusion.adapters),
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            use_cache=use_cache,
            **sight(bare(self.language), own, input_ids, self.processor.image_token_id, cache),
        )
        if carrier is not None and carrier.attention:
            out.attention = torch.stack(carrier.attention, 1)[..., :-1]
        setattr(out, CACHE, kept)
        hidden = hidden[keep] if keep is not None else hidden[:, -logits_to_keep:]
        head = bare(self.language).lm_head
        if reduce is not None:
            out.reduced = reduce(hidden, head)
        else:
            out.logits = head(hidden)
        return out

    # -- without gradients --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def embed_image(self, inputs: Inputs | Tensor) -> Tensor:
        """Photographs (the processor's output, or pixel_values [N,3,S,S]) -> unit embeddings [N,E]."""
        was, _ = self.training, self.eval()
        pixels = inputs if isinstance(inputs, Tensor) else inputs["pixel_values"]
        embeds = self.encoder(pixels.to(self.device))[0]
        self.train(was)
        return embeds

    @torch.no_grad()
    def embed_text(self, texts: list[str]) -> Tensor:
        """Captions -> unit embeddings [N,E] in the space of `embed_image`."""
        was, _ = self.training, self.eval()
        embeds = self.encoder.encode_text(self.processor.tokenize_captions(texts).to(self.device))
        self.train(was)
        return embeds

    @torch.no_grad()
    def segment(self, inputs: Inputs | Tensor) -> Tensor:
        """The processor's output or unet_pixels [N,3,U,U] -> probabilities [N,K,U,U] in the order of `config.masks`."""
        was, _ = self.training, self.eval()
        pixels = inputs if isinstance(inputs, Tensor) else inputs["unet_pixels"]
        probabilities = self.unet(pixels.to(self.device)).sigmoid()
        self.train(was)
        return probabilities

    def precision(self) -> torch.autocast:
        """What photographs are seen in where nothing trains: that of the language model's weights, as in training."""
        bf16 = self.get_input_embeddings().weight.dtype == torch.bfloat16 or torch.is_autocast_enabled(self.device.type)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)
