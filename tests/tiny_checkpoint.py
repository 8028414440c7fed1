"""A checkpoint that learnt nothing, with open gates, in the folder of a run, and the phantoms to evaluate it on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mdf.records import Manifest
from tests.tiny import tiny_config

DIAGNOSES = ("normal", "diabetic_retinopathy", "amd", "glaucoma")


@dataclass(frozen=True)
class TinyCheckpoint:
    run: Path  # holds best/
    model: Any
    manifest: Manifest
    data: Path  # the manifest's file

    @property
    def photograph(self) -> Path:
        return self.manifest.path(self.manifest.records[0].image)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    """Gates are open, so that the answers depend on the photograph."""
    import torch

    from mdf.datasets.phantom import draw_manifest
    from mdf.models.fusion import MDFModel

    folder = tmp_path_factory.mktemp("checkpoint")
    manifest = draw_manifest(folder / "phantoms", count=24, size=96, seed=0, val=0.25, test=0.25)
    model = MDFModel.build(tiny_config(folder, **{"fusion.depths": (1, 3)}), DIAGNOSES)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate"):
                parameter.fill_(1.0)
            if name.startswith("fusion.adapters.") and name.endswith((".o.weight", ".ffn.2.weight")):
                torch.nn.init.normal_(parameter, std=0.1)  # they start at 0
    model.save_pretrained(folder / "run" / "best")
    data = next((folder / "phantoms").rglob("*.jsonl"))
    return TinyCheckpoint(folder / "run", MDFModel.from_pretrained(folder / "run" / "best"), manifest, data)
