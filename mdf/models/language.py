"""The language model: a stock transformers model, peft's LoRA on its decoder layers, adapters reached by pre-hooks.

A text model of the LLaMA architecture (Llama 3, SmolLM2) or Llama 3.2 Vision, whose own sight is `mdf.models.mllama`.

Shapes: B rows, T text tokens, d language width, A adapters, n heads of 64, G² memory vectors, N grounded positions.
"""

import re
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdf.config import Config, LanguageConfig
from mdf.errors import UserError
from mdf.models import quantization
from mdf.models.configuration import CACHE
from mdf.models.mllama import checkpoint_tower, cross_layers, refuse_unmasked
from mdf.models.recompute import recompute_layers
from mdf.models.weights import language_path

MEMORY = "mdf_memory"  # keyword that carries the memory through the language model's forward
CLASSES = {"llama": "LlamaForCausalLM", "mllama": "MllamaForConditionalGeneration"}  # model_type -> transformers' class
BLOCKS = "self_attn|cross_attn|mlp"  # of a decoder layer


def load_language(cfg: LanguageConfig, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The pretrained language model in `dtype`, its frozen weights as `cfg.quantize` says, and its tokenizer."""
    import transformers

    path = language_path(cfg.model, cfg.revision)
    bits = quantization.options(cfg.quantize, path, dtype)
    try:
        kind = transformers.AutoConfig.from_pretrained(path, revision=cfg.revision).model_type
    except (OSError, ValueError) as error:
        raise UserError(f"language.model: {cfg.model!r} has no readable config.json ({_first(error)})") from error
    if kind not in CLASSES:
        raise UserError(
            f"language.model: {cfg.model!r} is a {kind} model; "
            "LLaMA-style text models and Llama 3.2 Vision are supported"
        )
    try:
        model, report = getattr(transformers, CLASSES[kind]).from_pretrained(
            path,
            revision=cfg.revision,
            dtype=dtype,
            attn_implementation=attention(cfg, dtype),
            output_loading_info=True,
            **bits,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, revision=cfg.revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"language.model: {cfg.model!r} does not load as a {CLASSES[kind]} ({_first(error)})"
        ) from error
    refuse_gaps(cfg.model, report)
    refuse_other_tokens(cfg.model, model, tokenizer)
    return quantization.settle(model), tokenizer


def weights_dtype(cfg: Config, dtype: torch.dtype) -> torch.dtype:
    """What a run's language model is kept in: `dtype`, but float32 where its own weights train in any stage, since the
    small steps of fine-tuning are lost in bfloat16.
    """
    full = any(getattr(cfg, stage).parts.language.mode == "full" for stage in cfg.run.stages)
    return torch.float32 if full else dtype


def _first(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def refuse_gaps(name: str, report: dict[str, Any]) -> None:
    """Raises UserError where transformers would go on with random weights, or without some of the file's."""
    found = {"missing": report["missing_keys"], "not part of the model": report["unexpected_keys"]}
    if lines := [f"{len(keys)} {what} ({', '.join(sorted(keys)[:4])})" for what, keys in found.items() if keys]:
        raise UserError(f"language.model: the weights of {name!r} do not fit its config.json: {'; '.join(lines)}")


def refuse_other_tokens(name: str, model: Any, tokenizer: Any) -> None:
    """Raises UserError where the tokenizer is not that of the model: ids would mean other words, or none."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise UserError(
            f"language.model: the tokenizer of {name!r} has {len(tokenizer)} tokens, the model {rows} word embeddings; "
            "embeddings are never resized: take tokenizer and model of one release"
        )
    wanted = getattr(model.config, "image_token_index", None)
    if wanted is not None and (got := tokenizer.get_vocab().get("<|image|>")) != wanted:
        raise UserError(
            f"language.model: <|image|> is token {got} of the tokenizer of {name!r} and {wanted} of its model; "
            "take tokenizer and model of one release"
        )


def has_tower(language: Any) -> bool:
    """Whether the language model sees the photograph through a vision tower of its own."""
    return bool(cross_layers(bare(language).config))


def checkpoint_layers(language: Any) -> None:
    """Gradient checkpointing in every decoder layer, and in those of the model's own vision tower."""
    model = bare(language)
    recompute_layers(model, True)
    model.disable_input_require_grads()  # for reentrant checkpointing; ours would go down to frozen embeddings
    if has_tower(model):
        checkpoint_tower(model)


def attention(cfg: LanguageConfig, dtype: torch.dtype) -> str:
    """The implementation that `language.attention` stands for: auto is what was measured as the fastest for training
    with a mask (docs/decisions.md).
    """
    if cfg.attention != "auto":
        return cfg.attention
    return "eager" if dtype == torch.bfloat16 and not torch.cuda.is_available() else "sdpa"


def attach_lora(model: nn.Module, cfg: LanguageConfig) -> Any:
    """Wrap the language model with LoRA on its decoder layers' projections.

    The pattern is anchored to the decoder layers, so that nothing else of the whole model can match: no vision tower,
    no projector, no output head. A target is a projection (`q_proj`, wherever it is) or one of a block
    (`self_attn.q_proj`). Raises UserError for a target that matches nothing.
    """
    from peft import LoraConfig, get_peft_model

    places = {t: re.escape(t) if "." in t else rf"({BLOCKS})\.{re.escape(t)}" for t in cfg.lora_targets}
    layers = r"model\.(language_model\.)?layers\.\d+\."
    names = [name for name, _ in model.named_modules()]
    idle = [t for t, place in places.items() if not any(re.fullmatch(layers + place, name) for name in names)]
    if idle:
        raise UserError(f"language.lora_targets: {', '.join(idle)} match no layer of this language model")
    lora = LoraConfig(
        r=cfg.lora_rank,
        lora_alpha=cfg.lora_alpha,
        lora_dropout=cfg.lora_dropout,
        target_modules=rf"{layers}({'|'.join(places.values())})",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():  # peft 0.21 asks by the name that transformers had before 5.24
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(model, lora)


def bare(language: Any) -> Any:
    """The transformers model itself, below peft's wrapper where there is one."""
    return language.get_base_model() if hasattr(language, "get_base_model") else language


def decoder(language: Any) -> Any:
    """The module that holds the decoder layers, `layers`."""
    model = bare(language).model
    return getattr(model, "language_model", model)


@torch.no_grad()
def hidden_rms(model: Any) -> list[float]:
    """Median over 64 tokens of the root mean square of each decoder layer's input, in the pretrained model.

    The median, because some tokens (the first, delimiters) carry activations a hundred times larger than all others.
    Only text goes through: a layer that is left out without a photograph has 1.
    """
    found = [1.0] * len(decoder(model).layers)

    def note(k: int) -> Any:
        def hook(_: nn.Module, args: tuple) -> None:
            found[k] = float(args[0][0].float().pow(2).mean(-1).sqrt().median())

        return hook

    hooks = [layer.register_forward_pre_hook(note(k)) for k, layer in enumerate(decoder(model).layers)]
    ids = torch.arange(64, device=model.device)[None] * (model.config.get_text_config().vocab_size // 64)
    decoder(model)(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


class MemoryCarrier:
    """What one forward call takes through the language model: keys and values, and how often each adapter ran.

    Made anew for each call and passed as an argument, never stored on a module: two forwards in flight cannot mix. Not
    a dataclass: FSDP2 hands each layer a copy of those, in which what an adapter notes would be lost.
    """

    def __init__(self, kv: Tensor, grounded: Tensor | None = None):
        self.kv = kv  # [B,A,2,n,G²+1,64]
        self.grounded = grounded  # bool [B,T], positions whose attention is wanted
        self.ran: list[int] = []
        self.attention: list[Tensor] = []  # [N,G²+1] of each adapter, where `grounded` was given


def hook_adapters(language: Any, adapters: nn.ModuleList, layers: tuple[int, ...]) -> list[Any]:
    """Let adapter i act on the input of decoder layer `layers[i]`; returns the hooks, whose `remove()` undoes it."""
    adapter_of = {layer: i for i, layer in enumerate(layers)}

    def make(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            carrier: MemoryCarrier | None = kwargs.pop(MEMORY, None)
            if carrier is None or layer not in adapter_of:
                return args, kwargs
            i = adapter_of[layer]
            carrier.ran.append(i)
            given = args[0], carrier.kv[:, i], carrier.grounded
            if module.training and getattr(module, "gradient_checkpointing", False) and torch.is_grad_enabled():
                hidden, attention = checkpoint(adapters[i], *given, use_reentrant=False)  # as the layer itself
            else:
                hidden, attention = adapters[i](*given)
            if attention is not None:
                carrier.attention.append(attention)
            return (hidden, *args[1:]), kwargs

        return hook

    return [
        layer.register_forward_pre_hook(make(k), with_kwargs=True) for k, layer in enumerate(decoder(language).layers)
    ]


def decode(
    language: Any,
    embeds: Tensor,
    carrier: MemoryCarrier | None,
    adapters: int,
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    cache: Any = None,
    use_cache: bool | None = None,
    **backbone: Any,
) -> tuple[Tensor, Any]:
    """Word embeddings [B,T,d] through the decoder layers -> last hidden states [B,T,d] and the cache.

    Every one of the `adapters` runs exactly once, or it is an error. `backbone` is the language model's own:
    cross_attention_states and cross_attention_mask of Mllama.
    """
    extra = {k: v for k, v in backbone.items() if v is not None}
    states, mask = extra.get("cross_attention_states"), extra.get("cross_attention_mask")
    refuse_unmasked(bare(language).config, embeds.shape[1], states, mask, cache)
    if carrier is not None:
        extra[MEMORY] = carrier
    if attention_mask is not None and attention_mask.ndim == 4:  # eager attention adds its mask
        attention_mask = torch.zeros_like(attention_mask, dtype=embeds.dtype).masked_fill(
            ~attention_mask, torch.finfo(embeds.dtype).min
        )
    decoded = bare(language).model(
        inputs_embeds=embeds,
        attention_mask=attention_mask,
        position_ids=position_ids,
        use_cache=use_cache,
        **{CACHE: cache},
        **extra,
    )
    if carrier is not None and carrier.ran != list(range(adapters)):
        raise RuntimeError(f"adapters {carrier.ran} ran, expected each of {adapters} once: the hooks are not in place")
    return decoded.last_hidden_state, getattr(decoded, CACHE)
