"""How many FLOPs a step has to do, and how many a device can do: what MFU (model FLOPs utilisation) is the ratio of.

A matrix product with N weights takes 2N FLOPs a token forward, 2N for the gradient of its input and 2N for that of its
weights: 4N where it is frozen and gradients pass through, 6N where it trains (Chowdhery et al. 2022, appendix B).
Encoder and U-Net, whose convolutions use a weight often, are counted by torch over one photograph. Attention scores
and what gradient checkpointing computes again are not counted.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdf.batches import Batch
from mdf.models.features import Features
from mdf.models.language import bare
from mdf.training.stages import Task

# dense bf16 TFLOP/s with float32 sums, from the makers' data sheets; the first whose words are all in the name
PEAKS = (
    ("b200", 2250.0),
    ("gh200", 989.0),
    ("h200", 989.0),
    ("h100 nvl", 835.0),
    ("h100 pcie", 756.0),
    ("h100", 989.0),
    ("h800", 989.0),
    ("h20", 148.0),
    ("a100", 312.0),
    ("a800", 312.0),
    ("a40", 149.7),
    ("a30", 165.0),
    ("a10g", 70.0),
    ("a10", 125.0),
    ("l40s", 362.0),
    ("l40", 181.0),
    ("l4", 121.0),
    ("6000 ada", 364.2),
    ("a6000", 154.8),
    ("5090", 209.5),
    ("4090", 165.2),
    ("3090", 71.0),
    ("mi300x", 1307.4),
    ("mi250x", 383.0),
)


def peak_flops(device: torch.device, given: float) -> float | None:
    """FLOP/s of one device: `given` TFLOP/s where above 0, else that of the GPU's name; None where it is not known."""
    if given:
        return given * 1e12
    return named_peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def named_peak(name: str) -> float | None:
    """FLOP/s of a GPU by its name, such as "NVIDIA H100 80GB HBM3"; None where PEAKS does not have it."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    return next((peak * 1e12 for key, peak in PEAKS if set(key.split()) <= words), None)


@dataclass(frozen=True)
class Costs:
    """FLOPs, forward and backward, of a photograph, a token that the language model reads, and a supervised one."""

    image: float
    token: float
    supervised: float

    def of(self, images: int, tokens: int, supervised: int) -> float:
        return images * self.image + tokens * self.token + supervised * self.supervised


def size(parameter: Tensor) -> int:
    """Weights in a parameter; one in 4 bits keeps two a byte."""
    packed = getattr(parameter, "quant_state", None)
    return math.prod(packed.shape) if packed is not None else parameter.numel()


def weights(parameters: Iterable[Tensor]) -> tuple[int, int]:
    """Weights that are multiplied with (vectors are only added or scaled by): all of them, and those that train."""
    matrices = [p for p in parameters if p.ndim > 1]
    return sum(map(size, matrices)), sum(size(p) for p in matrices if p.requires_grad)


def passes(parameters: Iterable[Tensor], through: bool = False) -> float:
    """What forward and backward cost over forward alone: 1 where nothing trains, 2 where gradients only pass
    `through`, 3 where all of it trains.
    """
    every, trained = weights(parameters)
    return 1.0 + float(through or trained > 0) + trained / max(every, 1)


@torch.no_grad()
def counted(compute: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the FLOPs of its products and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        result = compute()
    return result, float(counter.get_total_flops())


def costs(model: Any, task: Task, batch: Batch) -> Costs:
    """What a step of the stage costs. `model` is the bare MDFModel in the stage's modes, `batch` is on its device."""
    text, contrast, masks = (kind in task.want for kind in ("text", "contrastive", "masks"))
    encoder, unet, fusion = model.encoder, model.unet, model.fusion
    image, through = 0.0, False  # `through`: gradients pass the fusion on their way to a tower that trains
    if text or contrast:
        (embeds, tokens), flops = counted(lambda: encoder(batch.pixel_values[:1]))
        image += flops * passes(encoder.clip.visual.parameters())
        through = any(p.requires_grad for p in encoder.clip.visual.parameters())
    if contrast:
        captions = batch.caption_ids[:1]  # type: ignore[index]
        text_tower = [p for name, p in encoder.named_parameters() if not name.startswith("clip.visual.")]
        image += counted(lambda: encoder.encode_text(captions))[1] * passes(text_tower)
    features = probabilities = None
    if masks or (text and fusion.depths):
        features, flops = counted(lambda: unet.encode(batch.unet_pixels[:1]))
        image += flops * passes(unet.net.encoder.parameters())
        through |= any(p.requires_grad for p in unet.net.encoder.parameters())
        if masks or fusion.masks:
            probabilities, flops = counted(lambda: unet.decode(features).sigmoid())
            decoder = [*unet.net.decoder.parameters(), *unet.net.segmentation_head.parameters()]
            image += flops * (passes(decoder, through) if masks else 1.0)
    if not text:
        return Costs(image, 0.0, 0.0)
    _, flops = counted(lambda: connect(model, embeds, tokens, features, probabilities))
    image += flops * passes(fusion.parameters(), through) + of_vision(model.language)
    head = bare(model.language).get_output_embeddings().weight
    by_token = [p for adapter in fusion.adapters for m in (adapter.q, adapter.o, adapter.ffn) for p in m.parameters()]
    for name, parameter in model.language.named_parameters():
        if parameter is not head and "embed" not in name and not is_vision(name):
            by_token.append(parameter)
    every, trained = weights(by_token)
    return Costs(image, 4.0 * every + 2.0 * trained, size(head) * (6.0 if head.requires_grad else 4.0))


def connect(model: Any, embeds: Tensor, tokens: Tensor, features: Any, probabilities: Tensor | None) -> None:
    """What the fusion computes once a photograph: image tokens, memory, the adapters' keys and values."""
    fusion, words = model.fusion, model.get_input_embeddings().weight
    prompt = words.new_zeros(1, words.shape[1], dtype=torch.float32) if fusion.uses_prompt else None
    read = None
    if fusion.masks:
        assert probabilities is not None
        read = fusion.readings(probabilities)
    _, memory = fusion.connect(Features(embeds, tokens, features or [], read), prompt)
    if memory is not None:
        fusion.memory_kv(memory)


def is_vision(name: str) -> bool:
    """Whether a parameter of a language model belongs to its own image tower or the projector behind it."""
    return "vision_model." in name or "multi_modal_projector." in name


def of_vision(language: Any) -> float:
    """FLOPs of a photograph, forward and backward, in the language model's own image tower; 0 where it has none."""
    own = [(n, p) for n, p in language.named_parameters() if is_vision(n)]
    if not own:
        return 0.0
    vision = bare(language).config.vision_config
    tokens = getattr(vision, "max_num_tiles", 1) * ((vision.image_size // vision.patch_size) ** 2 + 1)
    used = [p for n, p in own if "embedding" not in n or "patch_embedding" in n]
    return 2.0 * tokens * weights(used)[0] * passes(used)
