"""A run with a timm image tower and a BERT text tower, by the real loop, and its checkpoint somewhere else."""

import shutil
from pathlib import Path

import pytest
import torch

from mdf.models.fusion import MDFModel
from mdf.training.run import train
from tests.tiny_text import tiny_bert
from tests.training.conftest import losses

TOWERS = {
    "run.stages": ("align",), "align.steps": 2, "encoder.image": "test_efficientnet", "encoder.size": 64,
    "encoder.image_locked": 2, "encoder.text_lora": 2, "encoder.layer_decay": 0.8,
    "encoder.gradient_checkpointing": True, "encoder.init_logit_bias": -10.0,
}  # fmt: skip


def test_its_checkpoint_needs_nothing_that_the_run_was_made_from(tiny, tmp_path):
    bert = tiny_bert(tmp_path / "bert")
    cfg = tiny(**TOWERS, **{"encoder.text": str(bert)})
    train(cfg)
    run = Path(cfg.run.dir) / cfg.run.name
    assert len(losses(cfg)) == 2
    pixels, texts = torch.rand(2, 3, 64, 64), ["Glaucoma.", "hard exudates near the macula"]
    trained = MDFModel.from_pretrained(run / "last")
    images, captions = trained.embed_image(pixels), trained.embed_text(texts)
    before = MDFModel.build(cfg, ("normal",)).encoder.state_dict()
    after = trained.encoder.state_dict()
    fixed = trained.encoder.fixed
    assert all(torch.equal(before[n], after[n]) for n in fixed)
    moved = [
        n for n, _ in trained.encoder.named_parameters() if n not in fixed and not torch.equal(before[n], after[n])
    ]
    assert any("lora_B" in n for n in moved) and "clip.visual.head.proj.weight" in moved
    shutil.rmtree(bert)
    elsewhere = shutil.copytree(run / "last", tmp_path / "elsewhere")
    again = MDFModel.from_pretrained(elsewhere)
    assert torch.equal(again.embed_image(pixels), images) and torch.equal(again.embed_text(texts), captions)
    assert again.encoder.logit_bias.item() == pytest.approx(-10, abs=1e-6)  # no loss of this stage reads it
