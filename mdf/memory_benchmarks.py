"""The memory of a fuse step with the U-Net frozen, over that of the same step without the fusion, by torch's own count.

What is held at most in a step: weights, moments, gradients, activations and whatever passes. The two references are the
baseline MLLM (the same encoder and prefix, no U-Net, no adapters) and the language model alone as a user of
transformers and peft trains it, whose loss makes the logits of every token.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mdf.batches import Batch
from mdf.benchmarks import LENGTH, Benchmarks, Row, allocated, training_batch
from mdf.config import Config
from mdf.fuse_benchmarks import language_model, plain_step
from mdf.models.language import attach_lora

LENGTHS = (LENGTH, 512)  # tokens of a conversation, half of them supervised


def memory(made: Benchmarks) -> list[Row]:
    """The rows of the benchmark `memory`, two a length."""
    rows = []
    for length in LENGTHS:
        batch = training_batch(made.cfg, made.fused, length).to(made.device)
        assert batch.input_ids is not None
        count, tokens = batch.input_ids.shape
        made.say(f"memory: noise for photographs, batch {count}, {tokens} tokens, {batch.supervised} supervised")

        fused, baseline = own_gib(made, made.cfg, batch), own_gib(made, made.baseline_cfg, batch)
        language = attach_lora(language_model(made), made.cfg.language)
        stock = step_gib(made, [language], plain_step(made, language, batch))
        name = f"step memory, T {tokens}"
        rows += [
            Row(name, "the baseline's", "GiB", [fused], [baseline], bar=1.15, at_least=False),
            Row(name, "transformers, peft", "GiB", [fused], [stock], bar=1.15, at_least=False),
        ]
    return rows


def own_gib(made: Benchmarks, cfg: Config, batch: Batch) -> float:
    """GiB of a step of ours, the features of frozen parts computed in it; without adapters there is no U-Net."""
    model = made.build(cfg)
    cfg = replace(cfg, fuse=replace(cfg.fuse, features_gb=0.0))
    parts = [model.encoder, model.fusion, model.language, *([model.unet] if cfg.fusion.depths else [])]
    return step_gib(made, parts, made.training_step(cfg, model, batch))


def step_gib(made: Benchmarks, parts: list[Any], step: Callable[[], Any]) -> float:
    """GiB held at most in a step that is not the first: weights, what the first left (moments), and what passes."""
    tensors = [t for part in parts for t in (*part.parameters(), *part.buffers())]
    weights = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    _, left = allocated(step, made.device)
    peak, _ = allocated(step, made.device)
    return (sum(weights.values()) + left + peak) / 2**30
