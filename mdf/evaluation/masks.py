"""Masks drawn by the U-Net against the true ones."""

from typing import Any

import numpy as np

from mdf.evaluation import segmentation
from mdf.evaluation.task import Material
from mdf.processor import Inputs


class Masks:
    """Task `masks`: see `mdf.evaluation.segmentation`."""

    looks = False

    def __init__(self, material: Material):
        self.material = material
        self.names = list(material.model.config.masks)
        self.overlap: list[np.ndarray] = []  # [K] a photograph
        self.wrong: list[np.ndarray] = []

    def see(self, rows: range, inputs: Inputs, masks: Any) -> None:
        drawn = self.material.model.segment(inputs).float().cpu().numpy()
        true, known = np.stack([m for m, _ in masks]), np.stack([k for _, k in masks])
        overlap, wrong = segmentation.dice(drawn, true, known, inputs["field"].cpu().numpy())
        self.overlap.extend(overlap)
        self.wrong.extend(wrong)

    def metrics(self) -> dict:
        m = self.material
        if m.model.config.stale_masks:
            print("the checkpoint's masks are stale: its U-Net's encoder was trained on after the decoder")
        tables = np.stack(self.overlap), np.stack(self.wrong)
        return {"segmentation": segmentation.segmentation_metrics(*tables, self.names, m.groups, **m.options)}

    def line(self, row: int) -> dict:
        return {}
