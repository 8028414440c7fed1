"""AdamW with a learning rate, warm-up and weight decay for each part, its schedule, and the table of what trains."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mdf.config import Config, PartConfig, StageConfig
from mdf.models import quantization, zoo_weights
from mdf.training.stages import stage_of

# What an embedding is called: words, positions, the class token. Norms, gates and biases are told by their shape.
EMBEDDINGS = ("embedding", "embed_tokens", "pos_embed", "position", "cls_token", "class_token")


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay acts on this tensor: matrices and kernels only, no norm, gate, bias or embedding."""
    return parameter.ndim >= 2 and not any(word in name for word in EMBEDDINGS)


def groups(model: Any, cfg: Config, stage: str) -> list[dict]:
    """Parameter groups of the tensors that train: keys params, part, peak (learning rate), lr, warmup, weight_decay."""
    settings = stage_of(cfg, stage)
    layers = {f"encoder.{n}": at for n, at in model.encoder.layers().items()}
    sorted_out: dict[tuple[str, float, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = model.part_of(name)
        lr, warmup, decay = of_part(settings, part)
        if name.startswith("unet.net.encoder."):
            lr *= cfg.unet.encoder_lr_scale
        if name.startswith("encoder.clip.visual."):
            lr *= cfg.encoder.image_lr_scale
        if name in layers:  # as in BEiT (Bao et al. 2022), appendix: lr · decay^(layers above)
            layer, last = layers[name]
            lr *= cfg.encoder.layer_decay ** (last - layer)
        decay = decay if decays(name, parameter) else 0.0
        if name.startswith("fusion.") and name.endswith("gate"):  # Mllama has gates of its own
            part, lr, decay = "gates", cfg.fusion.gate_lr, 0.0
        sorted_out.setdefault((part, lr, warmup, decay), []).append(parameter)
    return [
        {"params": tensors, "part": part, "peak": lr, "lr": lr, "warmup": warmup, "weight_decay": decay}
        for (part, lr, warmup, decay), tensors in sorted_out.items()
    ]


def of_part(settings: StageConfig, part: str) -> tuple[float, float, float]:
    """Peak learning rate, warm-up and weight decay of a part of the model: its own, or the stage's."""
    own: PartConfig = getattr(settings.parts, part)
    warmup = settings.warmup if own.warmup is None else own.warmup
    return own.lr, warmup, settings.weight_decay if own.weight_decay is None else own.weight_decay


def make_optimizer(model: Any, cfg: Config, stage: str) -> Any:
    """AdamW over what trains in this stage, as `optimizer` of the stage says.

    torch's own is fused: it goes over the tensors once, which torch's default does not. bitsandbytes' keep the two
    moments of tensors of 4,096 values or more in blocks of 256 with 8 bits a value (Dettmers et al. 2022, arXiv
    2110.02861), those of smaller ones in float32.
    """
    settings = stage_of(cfg, stage)
    given, betas = groups(model, cfg, stage), (0.9, settings.beta2)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(given, betas=betas, fused=True)
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    return (PagedAdamW8bit if settings.optimizer == "paged_adamw_8bit" else AdamW8bit)(given, betas=betas)


def moment_bytes(parameter: Tensor, optimizer: str) -> float:
    """Memory of the two moments of a tensor that trains, in bytes."""
    if optimizer == "adamw" or parameter.numel() < 4096:
        return 8.0 * parameter.numel()
    return 2 * parameter.numel() * (1 + 4 / 256)  # a byte a value, and a float32 scale a block


def load_state(optimizer: Any, state: dict[str, Any]) -> None:
    """Go on from what `optimizer.state_dict()` gave, also in an mdf that did not know all settings of a group yet."""
    settings = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        for name, value in own.items():
            group.setdefault(name, value)
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    if getattr(inner, "is_paged", False):
        page_again(inner)


def page_again(optimizer: Any) -> None:
    """Put the moments of a paged optimiser back into paged memory: bitsandbytes loads them into that of the GPU."""
    for parameter, state in optimizer.state.items():
        for name in ("state1", "state2"):
            if name in state:
                page = optimizer.get_state_buffer(parameter, dtype=state[name].dtype)
                state[name] = page.copy_(state[name])


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


def set_learning_rates(optimizer: Any, share: Callable[[float], float]) -> dict[str, float]:
    """Set every group to the share of its peak that `share` gives for its warm-up; returns the highest of each part."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share(group["warmup"])
        rates[group["part"]] = max(group["lr"], rates.get(group["part"], 0.0))
    return rates


def trainable_table(model: Any, cfg: Config, stage: str) -> str:
    """What trains in this stage as text: a row a part with its mode, tensors, parameters, peak learning rate, warm-up
    (share of the steps) and weight decay.
    """
    settings = stage_of(cfg, stage)
    counts: dict[str, list[int]] = {}
    rates: dict[str, list[float]] = {}
    for group in groups(model, cfg, stage):
        rates.setdefault(group["part"], []).append(group["peak"])
    for name, parameter in model.named_parameters():
        row, size = counts.setdefault(model.part_of(name), [0, 0, 0]), quantization.count(parameter)
        row[0] += parameter.requires_grad
        row[1] += size if parameter.requires_grad else 0
        row[2] += size
    head = f"  {'part':<10}{'mode':<8}{'tensors':>8}{'trained':>14}{'of all':>15}{'lr':>20}{'warm-up':>9}{'decay':>8}"
    lines = [f"stage {stage}", head]
    for part, (tensors, trained, every) in counts.items():
        low, high = (min(rates[part]), max(rates[part])) if part in rates else (0.0, 0.0)
        lr = f"{high:.1e}" if low == high else f"{low:.1e} to {high:.1e}"
        _, warmup, decay = of_part(settings, part)
        shown = f"{lr:>20}{warmup:>9g}{decay:>8g}" if tensors else f"{'-':>20}"
        mode = getattr(settings.parts, part).mode
        lines.append(f"  {part:<10}{mode:<8}{tensors:>8,}{trained:>14,}{every:>15,}{shown}")
    gates = [p for n, p in model.fusion.named_parameters() if p.requires_grad and n.endswith("gate")]
    if gates:
        rate = f"{cfg.fusion.gate_lr:>20.1e}{of_part(settings, 'fusion')[1]:>9g}{0:>8}"
        lines.append(f"  {'  gates':<10}{'full':<8}{len(gates):>8,}{len(gates):>14,}{'':>15}{rate}")
    if few := quantization.layers(model.language):
        lines.append(f"  language: {len(few)} layers with {quantization.bits(few)} weights, which stay as they are")
    if any(p.requires_grad for p in model.encoder.parameters()):
        lines += [f"  {line}" for line in model.encoder.describe()]
    else:
        lines += [f"  {line}" for line in zoo_weights.describe(model.encoder.architecture)]
    if model.unet.loaded:
        lines.append(f"  {model.unet.loaded}")
    if any(p.requires_grad for p in model.fusion.parameters()):
        lines += [f"  {line}" for line in model.fusion.describe()]
    lines.append(f"  optimiser: {settings.optimizer}")
    return "\n".join(lines)
