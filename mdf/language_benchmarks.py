"""A training step of the language model alone with LoRA: by its implementation of attention, and by its bits.

What `language.attention: auto` chooses and what 4 bits cost in time rests on these (docs/decisions.md).
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from mdf.batches import Batch
from mdf.benchmarks import Benchmarks, Row, interleave, training_batch
from mdf.errors import UserError
from mdf.fuse_benchmarks import plain_step
from mdf.models.language import attach_lora, load_language

LENGTHS = (128, 512)  # tokens of a conversation, half of them supervised
PADDED = 8  # of every second row one token in so many is padding, so that attention has a mask to read
BITS = ("nf4", "int8")


def need_bitsandbytes() -> None:
    """Raises UserError where bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise UserError(
            "benchmark language measures weights of bitsandbytes, which is not installed: pip install bitsandbytes"
        )


def language(made: Benchmarks, repeats: int) -> list[Row]:
    """The rows of the benchmark `language`: seconds of a step."""
    rows = []
    for length in LENGTHS:
        batch = padded(made, length)
        eager, sdpa = compare(made, batch, [{"attention": "eager"}, {"attention": "sdpa"}], repeats)
        rows.append(Row(f"language step, eager, T {length}", "sdpa", "s", eager, sdpa))
    settings = [{"quantize": bits} for bits in ("none", *BITS)]
    whole, *few = compare(made, padded(made, LENGTHS[0]), settings, repeats)
    name = f"language step, T {LENGTHS[0]}"
    return rows + [Row(f"{name}, {b}", made.precision, "s", found, whole) for b, found in zip(BITS, few, strict=True)]


def padded(made: Benchmarks, length: int) -> Batch:
    """A batch whose every second row begins with padding."""
    batch = training_batch(made.cfg, made.fused, length).to(made.device)
    assert batch.attention_mask is not None
    batch.attention_mask[::2, : batch.attention_mask.shape[1] // PADDED] = 0
    return batch


def compare(made: Benchmarks, batch: Batch, settings: list[dict[str, Any]], repeats: int) -> list[list[float]]:
    """Seconds of the step under each of `settings` of the language model, in turns."""
    assert batch.input_ids is not None
    rows, length = batch.input_ids.shape
    made.say(f"language: {rows} x {length} tokens, {', '.join(f'{k} {v}' for s in settings for k, v in s.items())}")
    steps: list[Callable[[], Any]] = []
    for changed in settings:
        cfg = replace(made.cfg.language, **changed)
        model = load_language(cfg, made.dtype)[0].requires_grad_(False)
        if cfg.quantize == "none":  # else it lies there already
            model = model.to(made.device)
        steps.append(plain_step(made, attach_lora(model, cfg), batch))
    return interleave(steps, repeats, warm_up=1, device=made.device)
