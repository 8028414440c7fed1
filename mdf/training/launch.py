"""What the launcher asked for, and what of it does not work together with a configuration."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from mdf.checking import CONTRASTS
from mdf.config import Config
from mdf.errors import UserError


@dataclass(frozen=True)
class Launch:
    """How `accelerate launch`, torchrun or nobody started this process."""

    processes: int = 1
    sharding: str = "none"  # none | fsdp2: whether the model is spread over the processes
    reshard: bool = True  # fsdp2: a layer's whole weights are given up between forward and backward


def yes(name: str, default: str = "false") -> bool:
    """Whether an environment variable says so."""
    return os.environ.get(name, default).lower() in ("1", "true", "yes")


def launched() -> Launch:
    """Read the environment. Raises UserError for what mdf does not train with at all."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if "WORLD_SIZE" not in os.environ and {"MASTER_ADDR", "ACCELERATE_MIXED_PRECISION"} <= os.environ.keys():
        # what accelerate's launcher of one process exports where it was asked for several
        raise UserError(
            "several processes were asked for and only this one was started: `accelerate launch --cpu` starts one. Use "
            "`ACCELERATE_USE_CPU=true accelerate launch --config_file configs/accelerate/ddp_cpu.yaml …`"
        )
    sharding, reshard = "none", True
    if yes("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise UserError(
                "fsdp_version: 1 packs frozen and trained tensors into one, so that all of them take the memory of "
                "training; set fsdp_version: 2, as in configs/accelerate/fsdp2.yaml"
            )
        if yes("FSDP_OFFLOAD_PARAMS"):
            raise UserError(
                "fsdp_offload_params: true is not supported, since parts of the model are read outside of the layers "
                "that would fetch them; set it to false and add GPUs, or train with lora"
            )
        sharding, reshard = "fsdp2", yes("FSDP_RESHARD_AFTER_FORWARD", "true")
    elif yes("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            "DeepSpeed: mdf does not train by it. It holds all weights in bf16, gates and norms too, and its "
            "checkpoints go on only in DeepSpeed, with the same number of processes. configs/accelerate/fsdp2.yaml "
            "spreads what ZeRO stage 3 does; with fsdp_reshard_after_forward: false it communicates as stage 2 does"
        )
    elif yes("ACCELERATE_USE_MEGATRON_LM"):
        raise UserError("Megatron-LM is not supported; launch with configs/accelerate/ddp.yaml or fsdp2.yaml")
    return Launch(processes, sharding, reshard)


def check_launch(cfg: Config, launch: Launch) -> None:
    """Raise UserError with all that this launch and the configuration cannot do together, before anything is loaded."""
    if found := list(conflicts(cfg, launch)):
        raise UserError("this launch and these settings do not go together:\n  " + "\n  ".join(found))


def conflicts(cfg: Config, launch: Launch) -> Iterator[str]:
    """A line each, with the reason and the way out."""
    quantize = cfg.language.quantize
    for name in cfg.run.stages:
        if quantize != "none" and getattr(cfg, name).parts.language.mode == "full":
            yield (
                f"{name}.parts.language.mode: full with language.quantize: {quantize}: packed "
                f"weights take no gradient; set {name}.parts.language.mode=lora or language.quantize=none"
            )
    if launch.sharding == "none":
        return
    if launch.processes == 1:
        yield "fsdp2 on one process shards nothing; launch with configs/accelerate/single_gpu.yaml"
    if quantize != "none":
        yield (
            f"language.quantize: {quantize} with fsdp2: packed weights lose their scales when they are cut up, and "
            "left whole they would take the memory that sharding was to save; launch with "
            "configs/accelerate/ddp.yaml, where each GPU holds the small base"
        )
    for name in cfg.run.stages:
        stage = getattr(cfg, name)
        contrasts = [loss for loss, weight in stage.losses.items() if weight > 0 and loss in CONTRASTS]
        if contrasts:
            yield (
                f"{name}.losses.{contrasts[0]} with fsdp2: photographs of all processes are compared by towers that "
                "each process holds whole; train this stage first, launched with configs/accelerate/ddp.yaml, then "
                "the others with run.start_from=CHECKPOINT"
            )
        if stage.optimizer != "adamw":
            yield (
                f"{name}.optimizer: {stage.optimizer} with fsdp2: bitsandbytes' kernels take no sharded tensors; set "
                f"{name}.optimizer=adamw, whose state is spread over the processes"
            )
        if stage.ema:
            yield (
                f"{name}.ema with fsdp2: averaged weights are swapped with the model's, which a sharded model does not "
                f"notice; set {name}.ema=0"
            )
