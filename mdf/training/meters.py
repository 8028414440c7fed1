"""What is measured while a stage trains: speed, the share of the device's peak, gradient norms, gates.

None of it waits for the device but the line it is written in.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mdf.batches import Batch
from mdf.training.flops import Costs


def tokens_read(batch: Batch) -> int:
    """Tokens of the conversations that the language model reads, image tokens counted and padding not."""
    return 0 if batch.attention_mask is None else int(batch.attention_mask.sum())


class Meter:
    """Photographs and tokens of all processes since the last reading, and the time that their steps took."""

    def __init__(self, costs: Costs | None, peak: float):
        """`costs` None: MFU is left out. `peak` in FLOP/s of all devices together."""
        self.costs, self.peak = costs, peak
        self.seconds = 0.0  # of the stage, up to the last reading
        self.start()

    def start(self) -> None:
        """Count from here."""
        self.clock, self.images, self.supervised, self.read = time.monotonic(), 0, 0, 0

    def step(self, images: int, supervised: float, read: int) -> None:
        """Take in a step: its photographs, supervised tokens, and tokens that the language model read."""
        self.images, self.supervised, self.read = (
            self.images + images,
            self.supervised + int(supervised),
            self.read + read,
        )

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is no training, such as validating and saving."""
        before = time.monotonic()
        try:
            yield
        finally:
            self.clock += time.monotonic() - before

    def values(self) -> dict[str, float]:
        """images_per_second, tokens_per_second (supervised) and processed_tokens_per_second, and mfu where the peak is
        known; starts anew.
        """
        passed = max(time.monotonic() - self.clock, 1e-9)
        self.seconds += passed
        found = {
            "images_per_second": round(self.images / passed, 3),
            "tokens_per_second": round(self.supervised / passed, 1),
            "processed_tokens_per_second": round(self.read / passed, 1),
        }
        if self.costs:
            work = self.costs.of(self.images, self.read, self.supervised)
            found["mfu"] = round(work / passed / self.peak, 4)
        self.start()
        return found


def clip_gradients(optimizer: Any, max_norm: float) -> dict[str, Tensor]:
    """Clip all gradients together to `max_norm` (0 = not at all); returns their L2 norm before that by part, and that
    of all as "".

    The norms of the tensors are needed for clipping anyway, so that those of the parts cost nothing.
    """
    alike: dict[Any, list[Tensor]] = {}  # those of one part that are spread over the same processes, or not at all
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike.setdefault((group["part"], mesh_of(parameter.grad)), []).append(parameter)
    norms: dict[str, Tensor] = {}
    for (part, _), own in alike.items():
        norm = whole(torch.nn.utils.get_total_norm([p.grad for p in own]))  # type: ignore[misc]
        norms[part] = torch.hypot(norms[part], norm) if part in norms else norm
    norms[""] = torch.linalg.vector_norm(torch.stack([*norms.values()]))
    for (_, mesh), own in alike.items() if max_norm else ():
        torch.nn.utils.clip_grads_with_norm_(own, max_norm, spread(norms[""], mesh))
    return norms


def mesh_of(tensor: Tensor) -> Any:
    """The device mesh that a DTensor is spread over; None for a plain tensor."""
    return getattr(tensor, "device_mesh", None)


def spread(value: Tensor, mesh: Any) -> Tensor:
    """A number that every process has, as what DTensors of `mesh` are multiplied with."""
    if mesh is None:
        return value
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(value, mesh)


def whole(value: Tensor) -> Tensor:
    """A tensor that is spread over processes, gathered."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


@torch.no_grad()
def gates(fusion: Any) -> dict[str, float]:
    """tanh of each adapter's gates, gate_attn_K and gate_ffn_K of the adapter at language layer K: the share of its
    update that the language model gets, in -1..1.
    """
    found: dict[str, Tensor] = {}
    for layer, adapter in zip(fusion.layers, fusion.adapters, strict=True):
        for name, gate in (("attn", adapter.attn_gate), ("ffn", adapter.ffn_gate)):
            if (value := whole(gate.detach())).numel():  # elsewhere, where DeepSpeed partitions the weights
                found[f"gate_{name}_{layer}"] = value.reshape(()).tanh()
    values = torch.stack([*found.values()]).tolist() if found else []
    return {name: round(value, 6) for name, value in zip(found, values, strict=True)}
