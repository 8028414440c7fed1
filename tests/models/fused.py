"""What tests of the fused model share, whichever language model it has."""

from typing import Any

import torch
from torch import Tensor

from mdf.batches import Batch
from mdf.dialogue import Turn

ROW = ("input_ids", "attention_mask", "pixel_values", "unet_pixels", "prompt_mask")


def open_gates(model: Any) -> None:
    """Have FiLM and adapters act, whose last layers start at 0."""
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.5)
        if name.endswith("mlp.3.weight"):
            torch.nn.init.normal_(parameter, std=0.1)
        if name.startswith("fusion.adapters.") and name.endswith((".o.weight", ".ffn.2.weight")):
            torch.nn.init.normal_(parameter, std=0.1)


def run(model: Any, batch: Batch, **kwargs: Any) -> Any:
    """The model's forward on a batch."""
    return model(**{n: getattr(batch, n) for n in ROW}, **{**batch.backbone, **kwargs})


def asked(model: Any, *texts: str) -> list[list[Turn]]:
    """A conversation a question."""
    return [[model.system_turn(), Turn("user", text)] for text in texts]


def gradients_of_two_forwards(model: Any, batch: Batch) -> dict[str, Tensor]:
    """Gradients after two forwards on other photographs, both made before either goes back."""
    first = run(model, batch).logits.float().pow(2).mean()
    batch.pixel_values, batch.unet_pixels = batch.pixel_values.flip(0), batch.unet_pixels.flip(0)
    if batch.backbone:
        batch.backbone["tiles"] = batch.backbone["tiles"].flip(0)
    second = run(model, batch).logits.float().pow(2).mean()
    first.backward()
    second.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def without_gradient(model: Any) -> list[str]:
    """Names of the tensors that train and got no gradient, or zeros alone."""
    trains = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return [n for n, p in trains if p.grad is None or not p.grad.abs().any()]
