"""The fused model on a tiny Llama 3.2 Vision."""

from dataclasses import replace
from typing import Any

import numpy as np

from mdf.batches import Batch, FundusDataset, collate
from mdf.models.fusion import MDFModel
from mdf.models.language import bare

DIAGNOSES = ("normal", "diabetic_retinopathy", "amd", "glaucoma")


def build(world: tuple, **changes: Any) -> tuple[Any, Batch]:
    """A model of `world`'s configuration with other sections, and a batch of three photographs."""
    cfg, manifest = world
    model = MDFModel.build(replace(cfg, **changes), DIAGNOSES)
    dialogue = replace(cfg.dialogue, apart=0.0)
    data = FundusDataset(manifest.split("train")[:3], manifest, model.processor, dialogue, masks=cfg.unet.masks)
    return model, collate([data[i] for i in range(3)], model.processor)


def stock(model: Any) -> Any:
    """transformers' own model inside."""
    return bare(model.language)


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    """Noise."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 255, (80, 90, 3), dtype=np.uint8) for _ in range(count)]
