"""Tensors that have shapes and no content."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn


@cache
def nothing() -> Any:
    """The mode in which tensors have shapes and no content; one for all, since two do not mix."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def without_content(build: Callable[[], nn.Module]) -> Any:
    """The module that `build` makes, with tensors of the mode `nothing`; it takes no memory and next to no time."""
    with torch.device("meta"):
        made = build()
    new: dict[int, torch.Tensor] = {}
    for module in made.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None or not tensor.is_meta:
                    continue
                if id(tensor) not in new:
                    with nothing():
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                    trains = isinstance(tensor, nn.Parameter)
                    new[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if trains else empty
                tensors[name] = new[id(tensor)]  # type: ignore[assignment]
    return made
