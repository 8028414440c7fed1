"""One tiny Llama 3.2 Vision and its phantoms for all tests of models."""

from typing import Any

import pytest

from mdf.batches import Batch
from mdf.config import Config
from mdf.datasets import load
from mdf.records import Manifest
from tests.models.fused import open_gates
from tests.models.vision import build
from tests.tiny_mllama import TILE, tiny_mllama_config


@pytest.fixture(scope="session")
def vision(tmp_path_factory) -> tuple[Config, Manifest]:
    """Its configuration, four tiles a photograph, and its photographs."""
    cfg = tiny_mllama_config(tmp_path_factory.mktemp("vision"), **{"language.image_size": 2 * TILE})
    return cfg, load(cfg.data, cfg.run.seed)


@pytest.fixture(scope="session")
def opened(vision) -> tuple[Any, Batch]:
    """A model of it whose adapters act, in eval mode, and a batch; tests leave both as they are."""
    model, batch = build(vision)
    open_gates(model)
    return model.eval(), batch
