"""One world (language model, phantoms) for all training tests; each test has its own runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from mdf.config import Config
from tests.tiny import tiny_config


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("world")


@pytest.fixture
def tiny(world, tmp_path):
    """tiny(**overrides) -> Config whose runs lie in the test's own folder."""

    def make(**overrides: Any) -> Config:
        return tiny_config(world, **{"run.dir": str(tmp_path / "runs"), "fuse.samples": 0, **overrides})

    return make


def metrics(cfg: Config) -> list[dict]:
    """The lines of a run's metrics.jsonl without what a clock says."""
    path = Path(cfg.run.dir) / cfg.run.name / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    timed = ("images_per_second", "tokens_per_second", "processed_tokens_per_second", "mfu", "memory_gib", "seconds")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def losses(cfg: Config) -> list[float]:
    """The training loss of each logged step."""
    return [line["loss"] for line in metrics(cfg) if "loss" in line]
