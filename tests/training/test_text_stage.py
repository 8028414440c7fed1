"""The text loss of a stage goes through the one forward, and is what the logits of all supervised tokens give."""

import pytest
import torch

from mdf.batches import FundusDataset, collate
from mdf.config import PartConfig
from mdf.datasets import load
from mdf.losses import text
from mdf.losses.text import shift, text_loss
from mdf.models.fusion import MDFModel
from mdf.models.language import bare
from mdf.training.stages import Task
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


def made(folder, **settings):
    """Task, model and a batch of four phantoms of the tiny configuration."""
    cfg = tiny_config(folder, **settings)
    manifest = load(cfg.data, cfg.run.seed)
    model, task = MDFModel.build(cfg, ("normal", "amd")), Task(cfg, "fuse")
    model.set_trainable(task.stage.parts, tuple(task.weights))
    data = FundusDataset(manifest.split("train")[:4], manifest, model.processor, cfg.dialogue)
    return task, model, collate([data[i] for i in range(4)], model.processor)


def gradients(model, loss):
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("mode", ["lora", "full"])  # full: the head's matrix is that of the word embeddings
def test_loss_and_every_gradient_are_those_of_the_logits(folder, monkeypatch, mode):
    monkeypatch.setattr(text.text_loss_by_rows, "__defaults__", (5,))
    task, model, batch = made(folder, **{"fuse.parts.language": PartConfig(mode)})
    assert bare(model.language).lm_head.weight is model.get_input_embeddings().weight
    terms, out = task(model, batch)
    loss, count = terms["text"]
    assert count == batch.supervised > 3 * 5 and out.logits is None
    given = {k: v for k, v in task.inputs(batch).items() if k != "reduce"}
    reference = text_loss(model(**given).logits, shift(batch.labels)[1])
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
    own, expected = gradients(model, loss), gradients(model, reference)
    assert own.keys() == expected.keys() and any("embed_tokens" in n for n in own) == (mode == "full")
    for name, gradient in expected.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_batch_without_a_supervised_token_has_loss_0_and_a_gradient(folder):
    task, model, batch = made(folder)
    batch.labels = torch.full_like(batch.labels, -100)
    ((loss, count),) = task(model, batch)[0].values()
    assert (loss.item(), count) == (0.0, 0.0)
    assert all(not g.any() for g in gradients(model, loss).values())
