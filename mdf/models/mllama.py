"""Llama 3.2 Vision's own sight: its tower and projector, its cross-attention layers, and what they keep in the cache.

Shapes: B rows (one photograph each), K tiles at most a photograph, P patches a tile with its class token, d language
width, T text tokens.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mdf.tiles import TILES, refuse_unseen


def cross_layers(config: Any) -> tuple[int, ...]:
    """Decoder layers that read the language model's own image states instead of text; () for a text model."""
    return tuple(getattr(config.get_text_config(), "cross_attention_layers", None) or ())


def see_tiles(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """`given` with the tensors TILES replaced by what the tower of the Mllama `model` sees in them.

    That is `cross_attention_states` [B,K*P,d]. A tower that does not train keeps nothing for a backward pass.
    """
    rest = {k: v for k, v in given.items() if k not in TILES}
    if given.get("tiles") is None or rest.get("cross_attention_states") is not None:
        return rest
    tower = model.model.vision_model
    trains = torch.is_grad_enabled() and any(p.requires_grad for p in tower.parameters())
    with torch.set_grad_enabled(trains):
        seen = tower(*(given[name] for name in TILES)).last_hidden_state
    return rest | {"cross_attention_states": model.model.multi_modal_projector(seen).flatten(1, 3)}


def sight(model: Any, given: dict[str, Any], input_ids: Tensor, image_token_id: int, cache: Any) -> dict[str, Any]:
    """Of `given` what the language model takes beside words: of Mllama what its tower sees and which tokens read it.

    Raises ValueError where the image tokens of `input_ids` [B,T] and the photographs do not go together.
    """
    own = {k: v for k, v in given.items() if k == "cache_position"}  # of transformers before 5.24
    if not cross_layers(model.config):
        return own
    seen = see_tiles(model, given)
    names = ("cross_attention_states", "cross_attention_mask")
    own |= {name: seen[name] for name in names if seen.get(name) is not None}
    if names[0] in own or not holds_photograph(cache, model.config):
        refuse_unseen(input_ids, image_token_id, own.get(names[0]))
    return own


def holds_photograph(cache: Any, config: Any) -> bool:
    """Whether the cross-attention layers have their keys and values in the cache: then no states are given again."""
    layers = cross_layers(config)
    if cache is None or not layers or len(cache.layers) <= layers[0]:
        return False
    layer = cache.layers[layers[0]]
    return bool(layer.is_initialized) and layer.keys.numel() > 0


def refuse_unmasked(config: Any, length: int, states: Tensor | None, mask: Tensor | None, cache: Any) -> None:
    """Raises ValueError where image states would be read without `cross_attention_mask` [B,T,1,K] for `length` tokens.

    Without it transformers takes cross-attention for causal and cuts the keys to the length of the text, in silence.
    """
    if states is None and not holds_photograph(cache, config):
        return
    if mask is None or mask.shape[1] != length:
        got = "is missing" if mask is None else f"is for {mask.shape[1]} tokens"
        raise ValueError(f"cross_attention_mask {got}: {length} tokens read the photograph's image states")


def checkpoint_tower(model: Any) -> None:
    """Gradient checkpointing in the vision tower's layers too, which transformers leaves out."""
    for encoder in (model.model.vision_model.transformer, model.model.vision_model.global_transformer):
        for layer in encoder.layers:
            if isinstance(layer.forward, partial):  # done before
                continue
            layer.forward = partial(_again_in_backward, layer, layer.forward)


def _again_in_backward(layer: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    if layer.training and torch.is_grad_enabled():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return forward(*args, **kwargs)
