"""Where a run computes: processes, precision and threads, each chosen once and said aloud with its reason."""

import os
from typing import Any

import torch

from mdf.config import RunConfig
from mdf.errors import UserError
from mdf.memory import keep_freed_memory
from mdf.training.launch import Launch, launched, yes
from mdf.training.saving import differences

LAUNCHED = ("LOCAL_RANK", "ACCELERATE_MIXED_PRECISION")  # set by torchrun or `accelerate launch`


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_precision(wanted: str, *, cuda: bool) -> tuple[str, str]:
    """("fp32" | "bf16", why) for run.precision `wanted`."""
    if wanted != "auto":
        return wanted, "run.precision"
    if cuda:
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU has bf16 units") if able else ("fp32", "the GPU has no bf16 units")
    # mkldnn says yes to any AVX512, whose bf16 is emulated and slow
    units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    able = units and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if able:
        return "bf16", "the processor has bf16 units"
    return "fp32", "the processor has no bf16 units, without which bf16 is slower"


def choose_threads(wanted: int, local_processes: int) -> int | None:
    """CPU threads of this process, or None to leave torch as it is.

    A launcher exports OMP_NUM_THREADS=1, which would leave cores idle: that value is taken for the user's own only
    where there was none.
    """
    if wanted:
        return wanted
    chosen = os.environ.get("OMP_NUM_THREADS")
    launched = any(name in os.environ for name in LAUNCHED)
    if chosen and not (launched and chosen == "1"):
        return None
    return max(1, cores() // local_processes)


def make_accelerator(run: RunConfig, precision: str, launch: Launch | None = None, **tracking: Any) -> Any:
    """An Accelerator on the GPU where there is one, else on the CPU.

    Raises UserError where the launcher started another number of processes than it was asked for.
    """
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin

    launch = launch or launched()
    if launch.sharding != "none":
        # `mdf.training.sharding` does it, on CPUs too; transformers would load no weights on all processes but one
        for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
            os.environ.pop(name, None)
    cuda = torch.cuda.is_available() and not yes("ACCELERATE_USE_CPU")
    accelerator = Accelerator(
        cpu=not cuda,
        mixed_precision="bf16" if precision == "bf16" else "no",
        # our losses are those of the whole step already; ACCELERATE_GRADIENT_ACCUMULATION_STEPS would divide them again
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        **tracking,
    )
    if accelerator.num_processes != launch.processes:
        raise UserError(
            f"{launch.processes} processes were asked for and {accelerator.num_processes} take part; on CPUs use "
            "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N --num_machines 1 …`"
        )
    prepare_cpu(run, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return accelerator


def agree(accelerator: Any, failure: UserError | None, facts: dict[str, Any] | None = None) -> None:
    """Raise UserError on all processes where one of them met a failure, or where they differ in `facts`.

    Without it the others would wait for one that has gone, for as long as the network's time limit is. The message is
    printed once a machine: the other processes leave with exit code 2 alone.
    """
    if accelerator.num_processes == 1:
        if failure:
            raise failure
        return
    from accelerate.utils import gather_object

    everyone = gather_object([(str(failure) if failure else None, facts or {})])
    failures = {message: rank for rank, (message, _) in reversed(list(enumerate(everyone))) if message}
    lines = [f"process {rank} of {len(everyone)}: {message}" for message, rank in failures.items()]
    if len(failures) == 1 and all(message for message, _ in everyone):
        lines = list(failures)
    for rank, (_, other) in enumerate(everyone):
        if not failures and (
            differ := differences(everyone[0][1], other, sides=("on process 0", f"on process {rank}"))
        ):
            lines = ["processes were not started alike:", *(f"  {line}" for line in differ)]
            break
    if lines:
        if accelerator.is_local_main_process:
            raise UserError("\n".join(lines))
        raise SystemExit(2)


def prepare_cpu(run: RunConfig, local_processes: int) -> None:
    """Give this process its threads, and let it keep the memory that a step frees for the next one."""
    threads = choose_threads(run.threads, local_processes)
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()


def forget_accelerator() -> None:
    """Let the next run of this interpreter choose anew: accelerate keeps its choices for the life of the process."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def memory_gib(device: torch.device) -> float:
    """The most memory that this process has used so far, in GiB: of the GPU, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
