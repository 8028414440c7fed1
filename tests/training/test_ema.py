"""Averaged weights: what they are, and that a checkpoint of them is whole and a resumed run the same."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mdf.models.fusion import MDFModel
from mdf.training.ema import Average
from mdf.training.run import train
from mdf.training.saving import STATE
from tests.training.test_loop import assert_same_run, crash, folder, stop_at

EMA = {"run.stages": ("align", "segment"), "align.steps": 4, "align.ema": 0.9, "segment.steps": 1,
       "run.keep_last_every": 1, "align.eval_every": 2}  # fmt: skip


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model


def move(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model[1].parameters():
            parameter += torch.randn_like(parameter)


def test_the_average_is_that_of_torch_once_its_decay_is_reached_and_shorter_before():
    model = net()
    own, reference = Average(model, 0.5), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    reference.update_parameters(model)  # the first copies
    start = model[1].weight.detach().clone()
    for step in range(8, 20):  # (1 + 8) / (10 + 8) = 0.5
        move(model)
        own.update(step)
        reference.update_parameters(model)
    assert torch.allclose(own.mean["1.weight"], reference.module[1].weight, atol=1e-6)
    early, weight = Average(model, 0.999), model[1].weight.detach().clone()
    move(model)
    early.update(1)
    assert torch.allclose(early.mean["1.weight"], 2 / 11 * weight + 9 / 11 * model[1].weight, atol=1e-6)
    assert not torch.equal(start, weight)


def test_only_what_trains_is_held():
    assert set(Average(net(), 0.9).mean) == {"1.weight", "1.bias"}


def test_the_model_holds_the_average_as_long_as_the_context_lasts():
    model = net()
    average = Average(model, 0.9)
    move(model)
    raw, mean = model[1].weight.detach().clone(), average.mean["1.weight"].clone()
    with average.applied():
        assert torch.equal(model[1].weight, mean)
    assert torch.equal(model[1].weight, raw) and torch.equal(average.mean["1.weight"], mean)


@pytest.fixture(scope="module")
def averaged(world, tmp_path_factory):
    from tests.tiny import tiny_config

    cfg = tiny_config(world, **{"run.dir": str(tmp_path_factory.mktemp("runs")), **EMA})
    assert train(cfg) == 0
    return cfg


@pytest.mark.parametrize(("stage", "step"), [("align", 3), ("segment", 1)])
def test_resume_is_exact(tiny, monkeypatch, averaged, stage, step):
    """A crash after the checkpoint of `step` - 1; `segment` starts from the averaged best of `align`."""
    cfg = tiny(**EMA)
    stop_at(monkeypatch, stage, step, crash)
    with pytest.raises(RuntimeError):
        train(cfg)
    assert train(cfg, resume=True) == 0
    assert_same_run(averaged, cfg)


def test_a_checkpoint_holds_the_average_and_the_trainers_state_the_weights_that_train(tiny):
    cfg = tiny(**EMA | {"run.stages": ("align",), "align.steps": 2})
    assert train(cfg) == 0
    raw = torch.load(folder(cfg) / "last" / STATE / "weights.pt", weights_only=True)
    last, best = (MDFModel.from_pretrained(folder(cfg) / name).state_dict() for name in ("last", "best"))
    assert raw and all(name.startswith("encoder.") for name in raw)
    assert all(torch.equal(tensor, best[name]) for name, tensor in last.items())
    name = "encoder.clip.visual.proj"
    assert not torch.equal(raw[name], last[name])
    plain = tiny(**EMA | {"run.stages": ("align",), "align.steps": 2, "align.ema": 0.0, "run.name": "plain"})
    assert train(plain) == 0  # averaging changes nothing of the training itself
    trained = MDFModel.from_pretrained(folder(plain) / "last").state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in raw.items())
    assert not (folder(plain) / "last" / STATE / "weights.pt").exists()
