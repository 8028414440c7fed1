"""The exponential moving average of the weights that train: what a stage validates and saves where it keeps one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """θ̄ ← d·θ̄ + (1 - d)·θ after each optimiser step t = 1, 2, …, with d = min(decay, (1 + t)/(10 + t)), so that the
    first steps, still near the start, are soon forgotten (as TensorFlow's ExponentialMovingAverage has it).

    Only tensors that train are held, in float32: the rest is the same in both. Every process computes the same.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if other := [name for name, p in self.trained.items() if p.dtype != torch.float32]:
            raise ValueError(f"tensors that train are float32, {other[0]} is {self.trained[other[0]].dtype}")
        self.mean = {name: p.detach().clone() for name, p in self.trained.items()}
        self.swapped = False

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the optimiser step `step` (1, 2, …)."""
        assert not self.swapped
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.mean.values()), [p.detach() for p in self.trained.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averaged weights as long as the context lasts; nothing is copied."""
        assert not self.swapped
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        self.swapped = not self.swapped
        for name, parameter in self.trained.items():
            parameter.data, self.mean[name] = self.mean[name], parameter.data

    def raw(self) -> dict[str, Tensor]:
        """The weights that the optimiser goes on from, for the trainer's state."""
        assert not self.swapped
        return {name: p.detach().cpu() for name, p in self.trained.items()}

    @torch.no_grad()
    def restore(self, raw: dict[str, Tensor]) -> None:
        """Go on from a checkpoint: the model holds its averaged weights, `raw` those that were saved beside them."""
        assert raw.keys() == self.trained.keys()
        for name, parameter in self.trained.items():
            self.mean[name].copy_(parameter)
            parameter.copy_(raw[name])
