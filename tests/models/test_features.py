"""What frozen encoder and U-Net make of a photograph is computed once, and nothing that is learnt from it changes."""

from dataclasses import replace

import pytest
import torch

from mdf.batches import FundusDataset, collate
from mdf.config import PartConfig
from mdf.datasets import load
from mdf.models.features import Remembered
from mdf.models.fusion import MDFModel
from mdf.training.stages import Task, remember
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    cfg = tiny_config(tmp_path_factory.mktemp("features"), **{"fuse.augment": False})
    manifest = load(cfg.data, cfg.run.seed)
    model = MDFModel.build(cfg, ("normal", "amd"))
    for name, parameter in model.named_parameters():
        if name.startswith("fusion.adapters.") and name.endswith((".o.weight", ".ffn.2.weight")):
            torch.nn.init.normal_(parameter, std=0.1)  # they start at 0, so that nothing is read
    data = FundusDataset(manifest.split("train"), manifest, model.processor, cfg.dialogue)
    return cfg, model, lambda rows: collate([data[i] for i in rows], model.processor)


def task_of(world, said=None, **settings):
    cfg, model, _ = world
    task = Task(replace(cfg, fuse=replace(cfg.fuse, **settings)), "fuse")
    model.set_trainable(task.stage.parts, tuple(task.weights))
    remember(task, model.train(), torch.device("cpu"), 12, ([] if said is None else said).append)
    return task


def learnt(task, model, batch, *, bf16):
    """Loss and gradients."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = task(model, batch)[0]["text"][0]
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None} | {"loss": loss.detach()}
    model.zero_grad()
    return found


@pytest.mark.parametrize(("bf16", "rounding"), [(False, 1e-5), (True, 2e-2)])
def test_loss_and_gradients_are_those_of_photographs_that_are_looked_at_anew(world, bf16, rounding):
    _, model, batch_of = world
    plain, kept = task_of(world, features_gb=0.0), task_of(world)
    assert plain.look is None and isinstance(kept.look, Remembered)
    for rows in ([0, 1, 2, 3], [0, 1, 2, 3], [3, 1, 0, 2], [2, 4, 1, 5]):  # new, known, another order, mixed
        expected = learnt(plain, model, batch_of(rows), bf16=bf16)
        found = learnt(kept, model, batch_of(rows), bf16=bf16)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert (found[name] - value).norm() <= rounding * value.norm() + 1e-7, name


def test_what_is_kept_of_a_photograph_does_not_depend_on_those_beside_it_to_the_last_bit(world):
    """Else a run that is resumed, and meets the photographs in other company, would not be the same run."""
    batch_of = world[2]
    looks = []
    for order in ([[0, 1, 2, 3]], [[3, 4, 1], [2, 0]], [[0], [1], [2], [3]]):
        look = task_of(world).look
        for rows in order:
            look(batch_of(rows).pixel_values, batch_of(rows).unet_pixels)
        looks.append(look(batch_of([0, 1, 2, 3]).pixel_values, batch_of([0, 1, 2, 3]).unet_pixels))
    first = looks[0]
    for other in looks[1:]:
        pairs = [(first.image_embeds, other.image_embeds), (first.tokens, other.tokens), (first.read, other.read)]
        for a, b in [*pairs, *zip(first.maps, other.maps, strict=True)]:
            assert torch.equal(a, b) and a.stride() == b.stride()


def test_each_photograph_is_looked_at_once_and_one_line_says_so(world):
    _, model, batch_of = world
    said, seen = [], []
    task = task_of(world, said)
    hooks = [part.register_forward_hook(lambda m, args, out: seen.append(len(args[0]))) for part in (model.encoder,)]
    for rows in ([0, 1, 2, 3], [4, 5, 6, 7], [3, 4, 1, 7], [6, 0, 5, 2]):
        with torch.no_grad():
            task(model, batch_of(rows))
    [hook.remove() for hook in hooks]
    assert seen == [1] * 8
    assert len(said) == 1 and "frozen encoder and U-Net make of 12 photographs is kept" in said[0]


def test_another_photograph_of_the_same_name_is_another(world):
    _, model, batch_of = world
    task, plain, batch = task_of(world), task_of(world, features_gb=0.0), batch_of([0, 1])
    with torch.no_grad():
        before = task(model, batch)[0]["text"][0]
        batch.unet_pixels = batch.unet_pixels + 0.5
        after = task(model, batch)[0]["text"][0]
        assert not torch.equal(before, after)
        torch.testing.assert_close(after, plain(model, batch)[0]["text"][0], rtol=1e-5, atol=0.0)


def test_nothing_is_kept_where_not_all_photographs_fit(world):
    _, model, batch_of = world
    said = []
    small, plain = task_of(world, said, features_gb=1e-4), task_of(world, features_gb=0.0)
    for _ in range(2):
        with torch.no_grad():
            batch = batch_of([0, 1, 2, 3])
            assert torch.equal(small(model, batch)[0]["text"][0], plain(model, batch)[0]["text"][0])
    assert not small.look.kept
    assert len(said) == 1 and "computed anew" in said[0] and "fuse.features_gb=1 keeps it" in said[0]


@pytest.mark.parametrize(
    "settings",
    [{"augment": True}, {"unet": "full"}, {"encoder": "full"}, {"losses": {"text": 1.0, "mask": 1.0}}],
)
def test_nothing_is_remembered_where_photographs_or_parts_change(world, settings):
    cfg = world[0]
    if part := next((p for p in ("unet", "encoder") if p in settings), None):
        settings = {"parts": replace(cfg.fuse.parts, **{part: PartConfig(settings[part])})}
    assert task_of(world, **settings).look is None
