"""A model trained by DeepSpeed's ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054), and its moments put together again.

Stage 2 spreads gradients and moments over the processes, stage 3 weights too. DeepSpeed is called here and not by
accelerate, which casts all weights to bf16. With neither its bf16 nor its fp16 mode DeepSpeed leaves each tensor the
precision that it has, so that gates, norms and LoRA stay in float32; autocast is the model's own, as everywhere.
"""

import os
from typing import Any

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
BUCKET = 50_000_000  # values that are sent at a time: 200 MB; DeepSpeed's own 500 million would take 2 GB


class Zero:
    """Takes the place of a stage's optimizer; `engine` is the model as the processes share it."""

    def __init__(self, model: Any, optimizer: Any, device: torch.device, *, stage: int, max_norm: float):
        """`optimizer` is torch's AdamW over all that trains in `model`, which lies on `device` in stage 2. Gradients
        are clipped together to `max_norm`, 0 = not at all.
        """
        if device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        self.groups = [list(group["params"]) for group in optimizer.param_groups]  # DeepSpeed replaces them by its own
        settings = {
            "train_micro_batch_size_per_gpu": 1,  # of no effect: batches and accumulation are the loop's
            "gradient_accumulation_steps": 1,
            "gradient_clipping": max_norm,
            "steps_per_print": None,
            "zero_optimization": {
                "stage": stage,
                "overlap_comm": device.type == "cuda",
                "reduce_bucket_size": BUCKET,
                "allgather_bucket_size": BUCKET,
                "memory_efficient_linear": False,  # which would replace torch's own F.linear, for all
            },
        }
        self.stage, self.updates = stage, 0
        deepspeed.init_distributed(verbose=False)  # on the process group that is there
        hold_scalars(model)
        if stage == 3:
            for buffer in model.buffers():
                buffer.data = buffer.data.to(device)
            deepspeed.zero.Init(module=model, config_dict_or_path=settings)  # tensor by tensor: it need not fit whole
        self.engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
        self.make_moments()

    def make_moments(self) -> None:
        """Moments of zeros, which AdamW would make in its first step: DeepSpeed 0.19 looks for them when it has stepped
        its first group, and never finds those of the others.
        """
        zero = self.engine.optimizer
        for part in zero.fp32_partitioned_groups_flat if self.stage == 3 else zero.single_partition_of_fp32_groups:
            step = torch.zeros((), device=part.device)
            zero.optimizer.state[part] = {"step": step} | {name: torch.zeros_like(part) for name in MOMENTS}
        if self.stage == 2:
            zero._lazy_init_hp_params_optimizer_state()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Settings of the groups, in the order they were made in."""
        return self.engine.optimizer.param_groups

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of a micro-batch; `last` of the step."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self) -> dict[str, Tensor]:
        """Clip, update and forget the gradients; returns their norm before that as "", infinite where they were not
        finite: then nothing was updated.
        """
        self.engine.step()
        self.updates += self.engine.was_step_applied()
        return {"": torch.as_tensor(self.engine.get_global_grad_norm(), device=self.engine.device).float()}

    def state_dict(self, keep: bool = True) -> dict[str, Any]:
        """What torch's AdamW would give on one process, {} on one that is not to `keep` it; all have to call it."""
        from deepspeed.utils import safe_get_full_optimizer_state

        state: dict[int, dict[str, Any]] = {}
        groups: list[dict[str, Any]] = []
        for own, group in zip(self.groups, self.param_groups, strict=True):
            numbers = range(len(state), len(state) + len(own))
            groups.append({**group, "params": [*numbers]})
            for number, parameter in zip(numbers, own, strict=True):
                state[number] = {"step": torch.tensor(float(self.updates))}
                for name in MOMENTS if self.updates else ():
                    moment = safe_get_full_optimizer_state(parameter, name)
                    if keep:
                        state[number][name] = moment.detach().to("cpu", copy=True)  # stage 3 gives views
        return {"state": state if self.updates else {}, "param_groups": groups} if keep else {}

    def load_state_dict(self, given: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, or torch's AdamW: each process takes its part of the moments."""
        if not given["state"]:
            return
        self.updates = int(given["state"][0]["step"])
        for state in self.engine.optimizer.optimizer.state.values():
            state["step"].fill_(self.updates)
        every = [parameter for own in self.groups for parameter in own]
        for number, parameter in enumerate(every):
            for name in MOMENTS:
                self.set_moment(parameter, name, given["state"][number][name].to(self.engine.device))

    def set_moment(self, parameter: Any, name: str, value: Tensor) -> None:
        """Keep this process's part of a moment that is given whole."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.stage == 2:
            safe_set_full_optimizer_state(parameter, value, name)
            return
        size = parameter.ds_tensor.ds_numel  # the same on all processes, so that the last of them may have too many
        start = torch.distributed.get_rank() * size
        part = value.new_zeros(size)
        own = value.flatten()[start : start + size]
        part[: len(own)] = own
        safe_set_local_optimizer_state(parameter, part, name)


def hold_scalars(model: Any) -> None:
    """Make buffers of the parameters of one number, which DeepSpeed can neither send nor cut; none of them trains."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 0:
                assert not parameter.requires_grad, name
                delattr(module, name)
                module.register_buffer(name, parameter.detach())


def gathered(parameter: Tensor) -> Any:
    """A context in which a parameter of stage 3 is whole on every process."""
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])
