"""Llama 3.2 Vision, tiny and random, through the real loop: train, stop, go on, then chat, score and evaluate."""

import json
from pathlib import Path

import pytest
import torch

from mdf.config import PartConfig, save_config
from mdf.dialogue import Turn
from mdf.errors import UserError
from mdf.evaluation.evaluate import evaluate
from mdf.inference.predictor import Predictor
from mdf.models.fusion import MDFModel
from mdf.records import read_manifest
from mdf.training.dry_run import dry_run
from mdf.training.run import train
from tests.scripts import start
from tests.tiny_mllama import TILE, tiny_mllama_config
from tests.training.conftest import losses
from tests.training.test_loop import assert_same_run, crash, folder, stop_at

FUSE = {
    "run.stages": ("fuse",), "fuse.steps": 2, "fuse.losses": {"text": 1.0, "mask": 0.5, "grounding": 0.5},
    "fuse.parts.unet": PartConfig("full", 1e-3), "unet.masks": ("vessel", "microaneurysm", "drusen"),
    "language.image_size": 2 * TILE, "dialogue.apart": 0.5, "run.keep_last_every": 1, "fuse.batch_size": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def mllama(world, tmp_path_factory):
    """mllama(**overrides) -> Config on one language model and one set of phantoms."""
    runs = tmp_path_factory.mktemp("runs")

    def make(**overrides):
        return tiny_mllama_config(world, **{"run.dir": str(runs), **FUSE, **overrides})

    return make


@pytest.fixture(scope="module")
def trained(mllama):
    cfg = mllama(**{"run.name": "whole"})
    assert train(cfg) == 0
    return cfg


def test_a_stopped_run_goes_on_to_the_last_bit(mllama, trained, monkeypatch):
    cfg = mllama(**{"run.name": "cut"})
    stop_at(monkeypatch, "fuse", 1, crash)
    with pytest.raises(RuntimeError):
        train(cfg)
    assert train(cfg, resume=True) == 0
    assert_same_run(trained, cfg)
    assert len(losses(cfg)) == 2


def test_what_trains_moves_and_the_base_stays(trained):
    best = folder(trained) / "best"
    assert json.loads((best / "bases.json").read_text())["language"]["fingerprint"]
    assert "- **" in next((folder(trained) / "samples").iterdir()).read_text()
    before, after = MDFModel.build(trained, ()).state_dict(), MDFModel.from_pretrained(best).state_dict()
    moved = {n for n, t in before.items() if n in after and t.shape == after[n].shape and not torch.equal(t, after[n])}
    assert any("lora_B" in n and "cross_attn" in n for n in moved) and any(n.startswith("fusion.") for n in moved)
    assert not any(n.startswith("language.") and "lora_" not in n for n in moved)


def test_what_a_run_trained_answers_and_is_evaluated(trained, tmp_path):
    manifest = read_manifest(next(Path(trained.data.root).rglob("*.jsonl")))
    photograph = manifest.path(manifest.split("test")[0].image)
    predictor = Predictor(folder(trained) / "best", "cpu")
    read = predictor.read(photograph, force=True)
    talk = [Turn("system", predictor.prompts.system), Turn("user", "Left or right?"), Turn("assistant", "Left.")]
    assert isinstance(predictor.ask(read, "What is the diagnosis?", limit=4), str)
    assert isinstance(predictor.ask(read, "Are there drusen?", history=talk, limit=4), str)
    assert sum(predictor.diagnose(read).values()) == pytest.approx(1.0)
    assert len(predictor.presence(read)) > 0 and predictor.masks(read)
    some = manifest.split("test")[:4]
    metrics = evaluate(predictor.model, some, manifest, tmp_path / "out", batch_size=4, resamples=10)
    assert {"classification", "controls"} <= set(metrics)


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_one_step_of_every_mode(mllama, mode):
    """With gradient checkpointing, which also its own tower's layers have."""
    parts = {"fuse.parts.language": PartConfig(mode, 1e-4), "language.gradient_checkpointing": True}
    cfg = mllama(**{"run.name": mode, "fuse.steps": 1, "fuse.samples": 0, "fuse.eval_photographs": 2, **parts})
    assert train(cfg) == 0 and len(losses(cfg)) == 1
    names = (folder(cfg) / "trainable.txt").read_text()
    assert "adapter at layer 2 reads depth 1" in names and "prefix" not in names


def test_an_image_size_needs_a_vision_language_model(mllama):
    from tests.tiny_mllama import tiny_llama3

    text = str(tiny_llama3(Path(mllama().language.model).parent / "llama3"))
    with pytest.raises(UserError, match="no vision tower of its own; set it to 0"):
        train(mllama(**{"language.model": text}))
    cfg = mllama(**{"run.name": "text", "language.model": text, "language.image_size": 0, "fuse.steps": 1})
    assert train(cfg) == 0 and len(losses(cfg)) == 1


@pytest.mark.slow
def test_the_scripts_train_answer_and_evaluate(mllama, tmp_path):
    cfg = mllama(**{"run.name": "scripts", "fuse.steps": 1})
    save_config(cfg, tmp_path / "run.yaml")
    manifest = read_manifest(next(Path(cfg.data.root).rglob("*.jsonl")))
    photograph = manifest.path(manifest.split("test")[0].image)
    best, table = folder(cfg) / "best", next(Path(cfg.data.root).rglob("*.jsonl"))
    for words in (
        ("train.py", "--config", tmp_path / "run.yaml"),
        ("chat.py", "--checkpoint", best, "--image", photograph, "--ask", "What is the diagnosis?", "--max-tokens", 4),
        ("evaluate.py", "--checkpoint", best, "--data", table, "--out", tmp_path / "out", "--split", "test"),
    ):
        done = start(*words)
        assert done.returncode == 0, done.stderr
        assert "generation flags" not in done.stderr
    assert (tmp_path / "out" / "metrics.json").is_file()


def test_a_dry_run_shows_what_trains(mllama, capsys):
    assert dry_run(mllama()) == 0
    said = capsys.readouterr().out
    assert "<|image|>" in said and "everything is in place" in said
