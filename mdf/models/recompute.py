"""Gradient checkpointing of a transformers model, by whichever name its version has for it."""

from typing import Any


def recompute_layers(model: Any, yes: bool) -> None:
    """Have backward compute the layers of a transformers model again instead of keeping their activations, or not."""
    if hasattr(model, "activation_checkpointing_enable"):  # from transformers 5.24 on
        if yes:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        else:
            model.activation_checkpointing_disable()
    elif yes:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.gradient_checkpointing_disable()
