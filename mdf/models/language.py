"""The language model: a stock transformers causal LM, peft's LoRA on its own layers, adapters reached by pre-hooks.

Shapes: B rows, T text tokens, d language width, A adapters, n heads of 64, G² memory vectors, N grounded positions.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mdf.config import LanguageConfig
from mdf.errors import UserError
from mdf.models.weights import language_path

MEMORY = "mdf_memory"  # keyword that carries the memory through the language model's forward


def load_language(cfg: LanguageConfig, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The pretrained causal LM in `dtype` and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = language_path(cfg.model, cfg.revision)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, revision=cfg.revision, dtype=dtype, attn_implementation=attention(cfg, dtype)
        )
        tokenizer = AutoTokenizer.from_pretrained(path, revision=cfg.revision)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"language.model: {cfg.model!r} does not load as a causal language model ({reason})") from error
    if model.config.model_type != "llama":
        raise UserError(
            f"language.model: {cfg.model!r} is a {model.config.model_type} model; LLaMA-style text models are supported"
        )
    return model, tokenizer


def attention(cfg: LanguageConfig, dtype: torch.dtype) -> str:
    """The implementation that `language.attention` stands for: auto is what was measured as the fastest for training
    with a mask (docs/decisions.md).
    """
    if cfg.attention != "auto":
        return cfg.attention
    return "eager" if dtype == torch.bfloat16 and not torch.cuda.is_available() else "sdpa"


def attach_lora(model: nn.Module, cfg: LanguageConfig) -> Any:
    """Wrap the language model with LoRA on its decoder layers' projections.

    The pattern is anchored to the decoder layers, so that nothing else of the whole model can match.
    """
    from peft import LoraConfig, get_peft_model

    targets = "|".join(map(re.escape, cfg.lora_targets))
    lora = LoraConfig(
        r=cfg.lora_rank,
        lora_alpha=cfg.lora_alpha,
        lora_dropout=cfg.lora_dropout,
        target_modules=rf"model\.layers\.\d+\.(self_attn|mlp)\.({targets})",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        raise UserError(
            f"language.lora_targets: {', '.join(cfg.lora_targets)} match no layer of this language model"
        ) from error


def bare(language: Any) -> Any:
    """The transformers model itself, below peft's wrapper where there is one."""
    return language.get_base_model() if hasattr(language, "get_base_model") else language


@torch.no_grad()
def hidden_rms(model: Any) -> list[float]:
    """Median over 64 tokens of the root mean square of each decoder layer's input, in the pretrained model.

    The median, because some tokens (the first, delimiters) carry activations a hundred times larger than all others.
    """
    ids = torch.arange(64, device=model.device)[None] * (model.config.vocab_size // 64)
    states = model.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    return [float(h[0].float().pow(2).mean(-1).sqrt().median()) for h in states[:-1]]


@dataclass
class MemoryCarrier:
    """What one forward call takes through the language model: keys and values, and how often each adapter ran.

    Made anew for each call and passed as an argument, never stored on a module: two forwards in flight cannot mix.
    """

    kv: Tensor  # [B,A,2,n,G²+1,64]
    grounded: Tensor | None = None  # bool [B,T], positions whose attention is wanted
    ran: list[int] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)  # [N,G²+1] of each adapter, where `grounded` was given


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
            hidden, attention = adapters[i](args[0], carrier.kv[:, i], carrier.grounded)
            if attention is not None:
                carrier.attention.append(attention)
            return (hidden, *args[1:]), kwargs

        return hook

    return [
        layer.register_forward_pre_hook(make(k), with_kwargs=True)
        for k, layer in enumerate(bare(language).model.layers)
    ]
