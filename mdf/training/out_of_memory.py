"""A run that has run out of memory: where, what the memory held, and the three settings to change first.

Where is read from the traceback of the error, so that a training that fits pays nothing for it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from mdf.checking import CONTRASTS
from mdf.config import Config, StageConfig
from mdf.training.launch import Launch
from mdf.training.stages import Task, stage_of

SAID = (  # how torch, CUDA, the C library and Metal say it, where the type of the error does not
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
ASKED = re.compile(r"tr(?:ied|ying) to allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)
GIB = {"bytes": 2.0**-30, "kib": 2.0**-20, "mib": 2.0**-10, "gib": 1.0, "tib": 2.0**10}
MODULES = {  # in whose functions, outside of any part of the model
    "mdf.losses": "the loss",
    "mdf.batches": "the reading of the batch",
    "mdf.training.data": "the reading of the batch",
    "mdf.training.ema": "the averaged weights",
    "mdf.training.saving": "the saving",
    "mdf.models.checkpoint": "the loading or saving of weights",
    "mdf.training.start": "the loading of the model",
}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, of a GPU or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


@dataclass
class Place:
    """Where an error came from: the part that was computing, the module in it, and the stage and step."""

    part: str
    module: str = ""
    task: Task | None = None
    model: Any = None
    step: int | None = None  # that was being made; None before the first
    backward: bool = False
    validating: bool = False

    def __str__(self) -> str:
        words = self.part + (f" ({self.module})" if self.module else "")
        if self.backward:
            words = "backward" if self.part == "backward" else f"backward, computing {words} again"
        return words + (", in the validation" if self.validating else "")


def frames(error: BaseException) -> Iterator[FrameType]:
    """From the outermost to the innermost."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def place_of(error: BaseException) -> Place:
    """The innermost part of the model, loss, backward or optimiser in the traceback."""
    from mdf.models.fusion import PARTS, MDFModel

    place = Place("the training loop")
    names: dict[int, str] = {}
    for frame in frames(error):
        own, module, function = frame.f_locals.get("self"), frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if own is not None and isinstance(getattr(own, "task", None), Task) and hasattr(own, "bare"):  # the Stage
            place.task, place.model = own.task, own.bare
            place.step = own.step + 1 if function == "fit" else place.step
        if isinstance(own, MDFModel) and not names:
            place.model = own
            names = {id(m): name for name, m in own.named_modules() if name}
        if module == "mdf.training.validation":
            place.validating = True
        found, inside = "", ""
        if isinstance(own, MDFModel) and function == "to":
            found = "the loading of the model"
        elif isinstance(own, torch.optim.Optimizer):
            found = "the optimiser"
        elif isinstance(own, nn.Module) and id(own) in names:
            name = names[id(own)]
            if name.partition(".")[0] in PARTS:
                found, inside = name.partition(".")[0], name
        elif function == "backward" and module.startswith(("torch._tensor", "torch.autograd")):
            found, place.backward = "backward", True
        else:
            found = next((label for start, label in MODULES.items() if module.startswith(start)), "")
        if found:
            place.part, place.module = found, inside
    return place


def explain(error: BaseException, cfg: Config, device: torch.device, launch: Launch | None = None) -> str:
    """The message: where it happened, what the memory holds, what to change first, and what is safe."""
    place = place_of(error)
    name = place.task.name if place.task else cfg.run.stages[0]
    what = f"the GPU's memory ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "memory"
    asked = ASKED.search(str(error))
    wanted = f", which asked for {float(asked[1]) * GIB[asked[2].lower()]:.3g} GiB more" if asked else ""
    when = f"step {place.step}" if place.step else "before its first step"
    lines = [f"{name}, {when}: {what} ran out in {place}{wanted}."]
    if place.model is not None:
        lines.append(held(place.model, device))
    sharded = launch is not None and launch.sharding != "none"
    settings = remedies(cfg, name, place, cuda=device.type == "cuda", sharded=sharded)[:3]
    if settings:
        lines += ["Change in this order, until it fits:", *(f"  {i}. {text}" for i, text in enumerate(settings, 1))]
    if len(settings) < 3:
        lines.append("What else helps is a device with more memory, or several: configs/accelerate/")
    folder = Path(cfg.run.dir) / cfg.run.name
    if (folder / "last").exists():
        lines.append(
            f"{folder / 'last'} is untouched. --resume takes another gradient_checkpointing; with other settings start "
            f"a run of another name, from its weights where their shapes stay: run.start_from={folder / 'last'}"
        )
    else:
        lines.append("Nothing was saved yet; start again with run.overwrite=true.")
    return "\n".join(lines)


def held(model: Any, device: torch.device) -> str:
    """What the weights and gradients of each part take, and what is used in all."""
    gib: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        tensors = [parameter, parameter.grad] if parameter.grad is not None else [parameter]
        part = model.part_of(name)
        gib[part] = gib.get(part, 0.0) + sum(t.numel() * t.element_size() for t in tensors) / 2**30
    parts = ", ".join(f"{part} {value:.2f}" for part, value in gib.items())
    text = f"Weights and gradients, GiB: {parts}"
    if device.type == "cuda":
        peak, total = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        rest = peak / 2**30 - sum(gib.values())
        return f"{text}; optimiser and activations at the peak {rest:.2f}; of {total / 2**30:.2f} on the GPU."
    from mdf.training.devices import memory_gib

    return f"{text}; the process used {memory_gib(device):.2f} at its peak."


ORDER = ("chunk", "batch", "language checkpointing", "encoder checkpointing", "quantize", "optimizer", "lora", "length",
         "unet size", "encoder size", "unet frozen", "encoder frozen", "ema", "samples", "rank")  # fmt: skip
FIRST = {  # what comes before that order, by the part that was computing
    "encoder": ("chunk", "batch", "encoder checkpointing", "encoder size", "encoder frozen"),
    "unet": ("batch", "unet size", "unet frozen"),
    "the loss": ("batch", "length"),
    "the optimiser": ("optimizer", "lora", "ema", "unet frozen", "encoder frozen", "quantize"),
    "the averaged weights": ("ema", "optimizer", "lora"),
    "the loading of the model": ("quantize", "lora", "encoder size"),
    "the loading or saving of weights": ("quantize", "lora"),
    "the training loop": ("quantize", "lora", "optimizer"),
}


def remedies(cfg: Config, name: str, place: Place, *, cuda: bool, sharded: bool = False) -> list[str]:
    """Settings of the stage that would save memory and are not yet at their end, the first to change first."""
    possible = savings(cfg, name, cuda=cuda, sharded=sharded)
    first = FIRST.get(place.part, ())
    if place.validating and "text" in stage_of(cfg, name).losses:
        first = ("samples", *first)
    return [possible[key] for key in dict.fromkeys((*first, *ORDER)) if key in possible]


def savings(cfg: Config, name: str, *, cuda: bool, sharded: bool = False) -> dict[str, str]:
    """Everything in this configuration that can be made to take less memory: a setting and what it costs.

    Nothing of few bits is proposed where the model is `sharded` over processes, which refuses it.
    """
    s: StageConfig = stage_of(cfg, name)
    losses = {loss for loss, weight in s.losses.items() if weight > 0}
    text, contrast = "text" in losses, bool(losses & set(CONTRASTS))
    language, parts = s.parts.language, s.parts
    found: dict[str, str] = {}
    if contrast and not text and s.batch_size > 1 and s.chunk != 1:
        chunk = (s.chunk or s.batch_size) // 2
        found["chunk"] = f"{name}.chunk={chunk} (the same gradient; the encoder computes forward twice)"
    least = 2 if "patient" in losses else 1
    if s.batch_size > least:
        half = max(least, s.batch_size // 2 // least * least)
        more = s.accumulation * -(-s.batch_size // half)
        fewer = ", but each photograph is compared with fewer" if contrast else ""
        found["batch"] = f"{name}.batch_size={half} {name}.accumulation={more} (the same step in smaller pieces{fewer})"
    if text and not cfg.language.gradient_checkpointing:
        found["language checkpointing"] = (
            "language.gradient_checkpointing=true (the same gradient, about 30 % more time)"
        )
    if (contrast or parts.encoder.mode != "frozen") and not cfg.encoder.gradient_checkpointing:
        found["encoder checkpointing"] = "encoder.gradient_checkpointing=true (the same gradient, about 30 % more time)"
    if text and language.mode != "full" and cfg.language.quantize == "none" and not sharded:
        found["quantize"] = "language.quantize=nf4 (QLoRA: its frozen weights in 4 bits)"
    if s.optimizer == "adamw" and cuda and not sharded:
        found["optimizer"] = f"{name}.optimizer=adamw_8bit (the optimiser's moments in a quarter of the memory)"
    elif s.optimizer == "adamw_8bit" and cuda and not sharded:
        found["optimizer"] = f"{name}.optimizer=paged_adamw_8bit (its moments in the host's memory where need be)"
    if text and language.mode == "full":
        then = "its own weights stay frozen" if sharded else "then language.quantize=nf4 is possible too"
        found["lora"] = f"{name}.parts.language.mode=lora ({then})"
    if text and cfg.dialogue.max_length > 256:
        found["length"] = f"dialogue.max_length={cfg.dialogue.max_length // 2} (fewer questions a conversation)"
    step = cfg.fusion.unet_step
    if "mask" in losses or (text and cfg.fusion.depths):
        smaller = max(step, cfg.unet.size // 2 // step * step)
        if smaller < cfg.unet.size:
            found["unet size"] = f"unet.size={smaller} (small lesions vanish first)"
        if parts.unet.mode == "full" and losses != {"mask"}:
            found["unet frozen"] = f"{name}.parts.unet.mode=frozen"
    if (text or contrast) and cfg.encoder.size > 64:
        found["encoder size"] = f"encoder.size={cfg.encoder.size // 2}"
    if parts.encoder.mode == "full" and text:
        found["encoder frozen"] = f"{name}.parts.encoder.mode=frozen"
    if s.ema:
        found["ema"] = f"{name}.ema=0 (no second copy of the trained weights)"
    if text and s.samples:
        found["samples"] = f"{name}.samples=0 (no answers are generated while training)"
    if text and language.mode == "lora" and cfg.language.lora_rank > 8:
        found["rank"] = f"language.lora_rank={cfg.language.lora_rank // 2}"
    return found
