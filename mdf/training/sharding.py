"""A model spread over processes by PyTorch's FSDP2 or DeepSpeed, its tensors put together again for a checkpoint.

`fully_shard` and DeepSpeed are called by us and not by accelerate, which does not shard on CPUs and casts gates and
norms to bf16 with all the rest. accelerate carries processes, precision and devices as it does otherwise.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from mdf.models.checkpoint import fingerprint, own_tensors
from mdf.models.language import bare
from mdf.training.launch import Launch
from mdf.training.optimizer import load_state
from mdf.training.zero import Zero, gathered


def spread(
    accelerator: Any, launch: Launch, model: Any, make_optimizer: Callable[[], Any], max_norm: float
) -> tuple[Any, Any]:
    """The model and its optimizer over all processes, as `launch` says; gradients are clipped to `max_norm`."""
    if any(n.startswith("language.") for n in model.of_base):
        model.fingerprint_of_base = fingerprint(model.language)
    for parameter in model.parameters():  # convolutions lie channels-last, 1 x 1 kernels by their strides alone
        parameter.data = parameter.data.contiguous().view(-1).view(parameter.shape)
    if launch.sharding == "fsdp2":
        shard(model, accelerator.device, reshard=launch.reshard)
    model = accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)  # precision alone
    if launch.sharding == "fsdp2":
        return model, accelerator.prepare_optimizer(make_optimizer())
    optimizer = Zero(model, make_optimizer(), accelerator.device, stage=int(launch.sharding[-1]), max_norm=max_norm)
    return optimizer.engine, optimizer


def shard(model: Any, device: torch.device, *, reshard: bool) -> None:
    """Spread an MDFModel over all processes, in place: each keeps 1/processes of every tensor on `device`.

    Units that are gathered one at a time are the language model's layers (as transformers declares them); all else is
    one unit, since it is small, or read outside of its own forward: word embeddings, encoder, U-Net, fusion. `reshard`:
    a layer's whole tensors are given up between forward and backward, and gathered a second time.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    scalars = {p for p in model.parameters() if p.ndim == 0}  # cannot be cut; none of them trains here
    if any(p.requires_grad for p in scalars):
        raise AssertionError("a tensor of one number trains, whose gradient nobody would average")
    for scalar in scalars:
        scalar.data = scalar.data.to(device)
    units = set(bare(model.language)._no_split_modules)
    for module in model.language.modules():
        if type(module).__name__ in units:
            fully_shard(module, mesh=mesh, reshard_after_forward=reshard, ignored_params=scalars)
    fully_shard(model, mesh=mesh, reshard_after_forward=False, ignored_params=scalars)


def whole(tensor: Any, keep: bool) -> Any:
    """A tensor in one piece on the CPU, or None on a process that is not to keep it; all processes have to call it."""
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    if hasattr(tensor, "ds_id"):  # of DeepSpeed's stage 3
        with gathered(tensor):
            return tensor.detach().cpu().clone() if keep else None
    return tensor.detach().cpu() if keep else None


def whole_model(model: Any, keep: bool) -> dict[str, Tensor]:
    """What a checkpoint keeps of a sharded model, put together tensor by tensor on the process that keeps it."""
    state = model.state_dict(keep_vars=True)
    names = [*own_tensors(model, state), *(n for n in state if n.startswith("language.") and "lora_" in n)]
    tensors = {name: whole(state[name], keep) for name in names}
    return tensors if keep else {}


def whole_optimizer(optimizer: Any, keep: bool) -> dict[str, Any]:
    """The optimizer's state dictionary as one process would have it, likewise."""
    if isinstance(optimizer, Zero):
        return optimizer.state_dict(keep)
    state = optimizer.state_dict()
    moments = {
        number: {name: whole(v, keep) if isinstance(v, Tensor) else v for name, v in of.items()}
        for number, of in state["state"].items()
    }
    return {**state, "state": moments} if keep else {}


def spread_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Load a state dictionary of `whole_optimizer` or of one process; each process takes its part of it."""
    if isinstance(optimizer, Zero):
        optimizer.load_state_dict(state)
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def part(value: Any, parameter: Tensor) -> Any:
        if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
            value = value.to(parameter.device)
            return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
        return value

    moments = {
        number: {name: part(value, parameters[number]) for name, value in of.items()}
        for number, of in state["state"].items()
    }
    load_state(optimizer, {**state, "state": moments})
