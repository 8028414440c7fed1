"""AdamW with one learning rate for each part, its schedule, and the table of what trains."""

import math
from typing import Any

import torch
from torch import nn

from mdf.config import Config
from mdf.training.stages import stage_of

# What an embedding is called: words, positions, the class token. Norms, gates and biases are told by their shape.
EMBEDDINGS = ("embedding", "embed_tokens", "pos_embed", "position", "cls_token", "class_token")


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay acts on this tensor: matrices and kernels only, no norm, gate, bias or embedding."""
    return parameter.ndim >= 2 and not any(word in name for word in EMBEDDINGS)


def groups(model: Any, cfg: Config, stage: str) -> list[dict]:
    """Parameter groups of the tensors that train: keys params, part, peak (learning rate), lr, weight_decay."""
    settings = stage_of(cfg, stage)
    layers = {f"encoder.{n}": at for n, at in model.encoder.layers().items()}
    sorted_out: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = model.part_of(name)
        lr = getattr(settings.parts, part).lr
        if name.startswith("unet.net.encoder."):
            lr *= cfg.unet.encoder_lr_scale
        if name.startswith("encoder.clip.visual."):
            lr *= cfg.encoder.image_lr_scale
        if name in layers:  # as in BEiT (Bao et al. 2022), appendix: lr · decay^(layers above)
            layer, last = layers[name]
            lr *= cfg.encoder.layer_decay ** (last - layer)
        decay = settings.weight_decay if decays(name, parameter) else 0.0
        if name.startswith("fusion.") and name.endswith("gate"):  # Mllama has gates of its own
            part, lr, decay = "gates", cfg.fusion.gate_lr, 0.0
        sorted_out.setdefault((part, lr, decay), []).append(parameter)
    return [
        {"params": tensors, "part": part, "peak": lr, "lr": lr, "weight_decay": decay}
        for (part, lr, decay), tensors in sorted_out.items()
    ]


def make_optimizer(model: Any, cfg: Config, stage: str) -> torch.optim.AdamW:
    """AdamW over what trains in this stage, fused: it goes over the tensors once, which torch's default does not."""
    return torch.optim.AdamW(groups(model, cfg, stage), betas=(0.9, stage_of(cfg, stage).beta2), fused=True)


def share_of_peak(step: int, total: int, warmup: float, schedule: str = "cosine") -> float:
    """Learning rate of the optimiser step `step` (0 … total - 1) as a share of the peak.

    It rises over the first `warmup` of all steps, then falls along half a cosine towards zero, or stays where
    `schedule` is constant. A pure function of the step, so nothing of it has to be saved.
    """
    rising = math.ceil(warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def set_learning_rates(optimizer: Any, share: float) -> dict[str, float]:
    """Set every group to `share` of its peak; returns the highest rate of each part."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
        rates[group["part"]] = max(group["lr"], rates.get(group["part"], 0.0))
    return rates


def trainable_table(model: Any, cfg: Config, stage: str) -> str:
    """What trains in this stage as text: a row a part with its mode, tensors, parameters and peak learning rate."""
    parts = stage_of(cfg, stage).parts
    counts: dict[str, list[int]] = {}
    rates: dict[str, list[float]] = {}
    for group in groups(model, cfg, stage):
        rates.setdefault(group["part"], []).append(group["peak"])
    for name, parameter in model.named_parameters():
        row = counts.setdefault(model.part_of(name), [0, 0, 0, 0])
        row[0] += parameter.requires_grad
        row[1] += parameter.numel() if parameter.requires_grad else 0
        row[3] += parameter.numel()
    lines = [f"stage {stage}", f"  {'part':<10}{'mode':<8}{'tensors':>8}{'trained':>14}{'of all':>14}{'lr':>10}"]
    for part, (tensors, trained, _, every) in counts.items():
        settings = getattr(parts, part)
        low, high = (min(rates[part]), max(rates[part])) if part in rates else (0.0, 0.0)
        lr = f"{high:.1e}" if low == high else f"{low:.1e} to {high:.1e}"
        lr = lr if tensors else "-"
        lines.append(f"  {part:<10}{settings.mode:<8}{tensors:>8,}{trained:>14,}{every:>14,}{lr:>10}")
    gates = [p for n, p in model.fusion.named_parameters() if p.requires_grad and n.endswith("gate")]
    if gates:
        lines.append(
            f"  {'  gates':<10}{'full':<8}{len(gates):>8,}{len(gates):>14,}{'':>14}{cfg.fusion.gate_lr:>10.1e}"
        )
    if any(p.requires_grad for p in model.encoder.parameters()):
        lines += [f"  {line}" for line in model.encoder.describe()]
    if any(p.requires_grad for p in model.fusion.adapters.parameters()):
        lines += [f"  {line}" for line in model.fusion.describe()]
    return "\n".join(lines)
