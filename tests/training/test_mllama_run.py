"""Llama 3.2 Vision, tiny and random, through the real loop: train, stop, go on, then chat, score and evaluate."""

import json
from pathlib import Path

import pytest
import torch

from mdf.config import PartConfig
from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.evaluation.evaluate import evaluate
from mdf.inference.predictor import Predictor
from mdf.models.fusion import MDFModel
from mdf.records import read_manifest
from mdf.training.dry_run import dry_run
from mdf.training.run import train
from tests.tiny_mllama import TILE, tiny_mllama_config
from tests.training.conftest import losses
from tests.training.test_loop import assert_same_run, crash, folder, stop_at

FUSE = {
    "run.stages": ("fuse",), "fuse.steps": 2, "fuse.losses": {"text": 1.0, "mask": 0.5, "grounding": 0.5},
    "fuse.parts.unet": PartConfig("full", 1e-3), "unet.masks": ("vessel", "microaneurysm", "drusen"),
    "language.image_size": 2 * TILE, "dialogue.apart": 0.5, "run.keep_last_every": 1,
}  # fmt: skip


@pytest.fixture
def mllama(world, tmp_path):
    """mllama(**overrides) -> Config whose runs lie in the test's own folder."""

    def make(**overrides):
        return tiny_mllama_config(world, **{"run.dir": str(tmp_path / "runs"), **FUSE, **overrides})

    return make


def test_a_stopped_run_goes_on_to_the_last_bit(mllama, monkeypatch):
    whole, cut = mllama(**{"run.name": "whole"}), mllama(**{"run.name": "cut"})
    assert train(whole) == 0
    assert len(losses(whole)) == 2 and "- **" in next((folder(whole) / "samples").iterdir()).read_text()
    stop_at(monkeypatch, "fuse", 1, crash)
    with pytest.raises(RuntimeError):
        train(cut)
    assert train(cut, resume=True) == 0
    assert_same_run(whole, cut)


def test_what_a_run_trained_answers_and_is_evaluated(mllama, tmp_path):
    """Each part's tensors moved that were to move, the base's own sight did not."""
    cfg = mllama(**{"language.gradient_checkpointing": True, "fuse.steps": 1})
    assert train(cfg) == 0
    best = folder(cfg) / "best"
    names = set(json.loads((best / "bases.json").read_text())["language"])
    assert "fingerprint" in names
    before, after = MDFModel.build(cfg, ()).state_dict(), MDFModel.from_pretrained(best).state_dict()
    moved = {n for n, t in before.items() if n in after and t.shape == after[n].shape and not torch.equal(t, after[n])}
    assert any("lora_B" in n and "cross_attn" in n for n in moved) and any(n.startswith("fusion.") for n in moved)
    assert not any("vision_model" in n or "projector" in n for n in moved)

    manifest = read_manifest(next(Path(cfg.data.root).rglob("*.jsonl")))
    photograph = manifest.path(manifest.split("test")[0].image)
    predictor = Predictor(best, "cpu")
    read = predictor.read(photograph, force=True)
    talk = [Turn("system", predictor.prompts.system), Turn("user", "Left or right?"), Turn("assistant", "Left.")]
    assert isinstance(predictor.ask(read, "What is the diagnosis?", limit=4), str)
    assert isinstance(predictor.ask(read, "Are there drusen?", history=talk, limit=4), str)
    assert sum(predictor.diagnose(read).values()) == pytest.approx(1.0)
    found = predictor.findings(read, predictor.masks(read))
    assert len(found) > 0

    some = manifest.split("test")[:4]
    metrics = evaluate(predictor.model, some, manifest, tmp_path / "out", batch_size=4, resamples=10)
    assert {"classification", "controls"} <= set(metrics)


def test_an_image_size_needs_a_vision_language_model(mllama):
    from tests.tiny_mllama import tiny_llama3

    text = str(tiny_llama3(Path(mllama().language.model).parent / "llama3"))
    with pytest.raises(UserError, match="no vision tower of its own; set it to 0"):
        train(mllama(**{"language.model": text}))
    cfg = mllama(**{"language.model": text, "language.image_size": 0, "fuse.steps": 1})
    assert train(cfg) == 0 and len(losses(cfg)) == 1


def test_a_dry_run_shows_what_trains(mllama, capsys):
    assert dry_run(mllama()) == 0
    said = capsys.readouterr().out
    assert "<|image|>" in said and "everything is in place" in said
