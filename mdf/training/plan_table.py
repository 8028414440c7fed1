"""A plan of memory as text: a table, what fits which GPU, and what to change first where it does not."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from mdf.config import Config
from mdf.models.fusion import PARTS, MDFModel
from mdf.training.planner import GIB, GPUS, Plan, plan, state
from mdf.training.stages import stage_of

WORTH = 0.02  # share of the memory that a change has to save to be proposed
CARDS = (24.0, 40.0, 80.0)  # GiB, where neither run.gpu_gb nor a GPU says another


def cards(cfg: Config) -> tuple[float, ...]:
    """GiB of the GPUs to plan for."""
    if cfg.run.gpu_gb:
        return (cfg.run.gpu_gb,)
    if torch.cuda.is_available():
        return (round(torch.cuda.get_device_properties(0).total_memory / GIB, 1),)
    return CARDS


def report(cfg: Config, model: MDFModel, name: str, precision: str) -> str:
    """The plan of a stage of an emptied model as lines of text."""
    found = plan(cfg, model, name, precision)
    lines = [*table(found, name, precision), *spread(found)]
    for gib in cards(cfg):
        lines.append(f"  {gib:g} GB: " + verdict(cfg, model, name, precision, found, gib))
    return "\n".join(lines)


def table(found: Plan, name: str, precision: str) -> list[str]:
    """A row a part of the model."""
    what = f"{found.rows} photograph{'s' if found.rows > 1 else ''}"
    if found.tokens:
        what += f" with conversations of {found.tokens} tokens, half of them supervised"
    lines = [
        f"memory of {name}, GiB on each GPU, {precision}: {what}",
        f"  {'part':<10}{'weights':>9}{'gradients':>11}{'optimiser':>11}{'activations':>13}",
    ]
    for part in PARTS:
        sizes = found.weights[part], found.gradients[part], found.optimizer[part], found.activations[part]
        lines.append(row(part, *sizes))
    lines.append(f"  {'losses':<40}{found.activations['loss'] / GIB:>14.2f}")
    lines.append(f"  {'backward, beside these':<40}{found.transient / GIB:>14.2f}")
    own = sum(found.activations.values()) + found.transient
    weights, gradients, moments = (sum(c.values()) for c in (found.weights, found.gradients, found.optimizer))
    lines.append(row("together", weights, gradients, moments, own))
    if found.cache:
        shares = ", ".join(f"{part} {size / GIB:.3f}" for part, size in found.cache.items())
        lines.append(f"  keys and values while one conversation is answered: {shares}")
    return lines


def row(name: str, weights: float, gradients: float, optimizer: float, activations: float) -> str:
    numbers = (weights / GIB, gradients / GIB, optimizer / GIB, activations / GIB)
    return f"  {name:<10}{numbers[0]:>9.2f}{numbers[1]:>11.2f}{numbers[2]:>11.2f}{numbers[3]:>14.2f}"


def spread(found: Plan) -> list[str]:
    """A line of totals for each way of spreading the stage over GPUs."""
    lines = [f"  {'GPUs':<8}" + "".join(f"{count:>8}" for count in GPUS)]
    for title, sharded in (("DDP", False), ("FSDP2", True)):
        totals = [found.total(count, sharded) for count in GPUS]
        cells = "".join(f"{'-' if total is None else f'{total / GIB:.1f}':>8}" for total in totals)
        why = "  4- and 8-bit weights are not sharded" if sharded and found.quantized else ""
        lines.append(f"  {title:<8}{cells}{why}")
    return lines


def verdict(cfg: Config, model: MDFModel, name: str, precision: str, found: Plan, gib: float) -> str:
    """Whether a stage fits a GPU of so many GiB, and what to change in which order where it does not."""
    if found.fits(gib):
        return "fits on one GPU"
    many = [count for count in GPUS if found.fits(gib, count, True)]
    other = f"fits from {many[0]} GPUs with FSDP2" if many else "does not fit"
    steps: list[str] = []
    before = found.total(1, False) or 0.0
    for setting, changed in changes(cfg, model, name, precision, found):
        now = changed.total(1, False) or 0.0
        if now > (1 - WORTH) * before:
            continue
        before = now
        steps.append(f"{setting} ({now / GIB:.1f})")
        if changed.fits(gib):
            return f"{other}; for one GPU change first " + ", then ".join(steps)
    advice = f"; change first {', then '.join(steps)}, and still more GPUs are needed" if steps else ""
    return other + advice


def changes(cfg: Config, model: MDFModel, name: str, precision: str, found: Plan) -> Iterator[tuple[str, Plan]]:
    """Settings to change, each with the plan after it and all before it; what costs the result least comes first."""
    stage = stage_of(cfg, name)
    if found.tokens and not cfg.language.gradient_checkpointing:
        cfg = replace(cfg, language=replace(cfg.language, gradient_checkpointing=True))
        found = plan(cfg, model, name, precision)
        yield "language.gradient_checkpointing=true", found
    rows = stage.batch_size
    while rows > 1 and not stage.losses.keys() & {"contrastive", "label_aware", "label_overlap", "sigmoid", "patient"}:
        rows, before = rows // 2, rows
        found = scaled(found, rows / before)
        yield f"{name}.batch_size={rows} {name}.accumulation={stage.accumulation * stage.batch_size // rows}", found
    if stage.optimizer == "adamw":
        stage = replace(stage, optimizer="adamw_8bit")
        own: Any = {name: stage}
        cfg = replace(cfg, **own)
        found = replace(found, **state(cfg, model, name))
        yield f"{name}.optimizer=adamw_8bit", found
    modes = {stage_of(cfg, s).parts.language.mode for s in cfg.run.stages}
    if found.tokens and cfg.language.quantize == "none" and "full" not in modes:
        cfg = replace(cfg, language=replace(cfg.language, quantize="nf4"))
        found = replace(found, **state(cfg, model, name))
        yield "language.quantize=nf4", found
    if found.tokens > 512:
        found = scaled(found, 0.5)
        yield f"dialogue.max_length={found.tokens // 2}", found


def scaled(found: Plan, share: float) -> Plan:
    """The plan with activations of a share of the photographs or tokens."""
    own: dict[str, Any] = {part: size * share for part, size in found.activations.items()}
    return replace(found, rows=found.rows, activations=own, transient=found.transient * share)
