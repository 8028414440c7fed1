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
        self.more: dict[str, list[np.ndarray]] = {}  # of other measures likewise

    def see(self, rows: range, inputs: Inputs, masks: Any) -> None:
        drawn = self.material.model.segment(inputs).float().cpu().numpy()
        true, known = np.stack([m for m, _ in masks]), np.stack([k for _, k in masks])
        field = inputs["field"].cpu().numpy()
        overlap, wrong = segmentation.dice(drawn, true, known, field)
        for name, values in segmentation.further(drawn, true, known, field, self.names).items():
            self.more.setdefault(name, []).extend(values)
        self.overlap.extend(overlap)
        self.wrong.extend(wrong)

    def metrics(self) -> dict:
        m = self.material
        if m.model.config.stale_masks:
            print("the checkpoint's masks are stale: its U-Net's encoder was trained on after the decoder")
        tables = np.stack(self.overlap), np.stack(self.wrong)
        more = {name: np.stack(values) for name, values in self.more.items()}
        return {"segmentation": segmentation.segmentation_metrics(*tables, self.names, m.groups, more, **m.options)}

    def line(self, row: int) -> dict:
        return {}
