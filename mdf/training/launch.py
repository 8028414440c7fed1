"""What the launcher asked for, and what of it does not work together with a configuration."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from mdf.checking import CONTRASTS
from mdf.config import Config
from mdf.errors import UserError


@dataclass(frozen=True)
class Launch:
    """How `accelerate launch`, torchrun or nobody started this process."""

    processes: int = 1
    sharding: str = "none"  # none | fsdp2 | zero2 | zero3: whether and how training is spread over the processes
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
        sharding = deepspeed_stage()
    elif yes("ACCELERATE_USE_MEGATRON_LM"):
        raise UserError("Megatron-LM is not supported; launch with configs/accelerate/ddp.yaml or fsdp2.yaml")
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise UserError(
            "dynamo_backend: compiled models are not supported, since adapters hook into the layers; set it to no in "
            "the launcher's file (`accelerate config` writes one), or launch with one of configs/accelerate"
        )
    return Launch(processes, sharding, reshard)


def deepspeed_stage() -> str:
    """zero2 or zero3, as the launcher's file asks for. Raises UserError for what else DeepSpeed may be told."""
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file.lower() != "none":
        raise UserError(
            f"deepspeed_config_file: {file} is not read, since batches, precision and clipping are the run's; leave it "
            "out, as in configs/accelerate/deepspeed_zero2.yaml"
        )
    for what in ("optimizer", "param"):
        device = os.environ.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{what.upper()}_DEVICE", "none")
        if device != "none":
            raise UserError(
                f"offload_{what}_device: {device} is not supported; set it to none and add GPUs, or train with lora"
            )
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage not in ("2", "3"):
        raise UserError(
            f"zero_stage: {stage} is not supported; set it to 2 or 3, or launch with configs/accelerate/ddp.yaml"
        )
    return f"zero{stage}"


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
    how = launch.sharding
    if how.startswith("zero") and find_spec("deepspeed") is None:
        yield (
            f"{how}: DeepSpeed is not installed: pip install 'mdf-mllm[deepspeed]', or launch with "
            "configs/accelerate/fsdp2.yaml"
        )
    if launch.processes == 1:
        yield f"{how} on one process shards nothing; launch with configs/accelerate/single_gpu.yaml"
    if quantize != "none":
        yield (
            f"language.quantize: {quantize} with {how}: packed weights lose their scales when they are cut up, and "
            "left whole they would take the memory that sharding was to save; launch with "
            "configs/accelerate/ddp.yaml, where each GPU holds the small base"
        )
    for name in cfg.run.stages:
        stage = getattr(cfg, name)
        contrasts = [loss for loss, weight in stage.losses.items() if weight > 0 and loss in CONTRASTS]
        if contrasts:
            yield (
                f"{name}.losses.{contrasts[0]} with {how}: photographs of all processes are compared by towers that "
                "each process holds whole; train this stage first, launched with configs/accelerate/ddp.yaml, then "
                "the others with run.start_from=CHECKPOINT"
            )
        if stage.optimizer != "adamw":
            yield (
                f"{name}.optimizer: {stage.optimizer} with {how}: bitsandbytes' kernels take no sharded tensors; set "
                f"{name}.optimizer=adamw, whose state is spread over the processes"
            )
        if stage.ema:
            yield (
                f"{name}.ema with {how}: averaged weights are swapped with the model's, which a sharded model does not "
                f"notice; set {name}.ema=0"
            )
