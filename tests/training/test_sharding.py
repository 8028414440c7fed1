"""A model in shards trains as a whole one, and leaves checkpoints that one process reads."""

import json
from typing import Any

import pytest

from mdf.config import PartConfig
from mdf.models.fusion import MDFModel
from mdf.training.run import train
from tests.training.conftest import losses
from tests.training.test_loop import FUSE, assert_same_training, folder, launch
from tests.training.test_processes import HALF, LONG, accelerate, finish, saved, stop_after, stopped_at

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
MODES: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora-bf16": {"run.precision": "bf16"},
    "full": {f"fuse.parts.{part}": PartConfig("full", 1e-3) for part in ("encoder", "language")},
}


@pytest.mark.parametrize("mode", ["lora", *(pytest.param(m, marks=pytest.mark.slow) for m in ("full", "lora-bf16"))])
def test_two_processes_with_a_sharded_model_train_as_one_with_a_whole_one(tiny, tmp_path, mode):
    """Losses and gradients of two steps; what is saved is a whole checkpoint that one process reads."""
    settings = FUSE | MODES[mode]
    one = tiny(**settings)
    two = tiny(**settings, **HALF, **{"run.name": "two"})
    train(one)
    process = launch(two, tmp_path / "two.yaml", 2, env=FSDP2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "the model in shards (fsdp2)" in output
    if mode == "lora-bf16":
        assert losses(two) == pytest.approx(losses(one), rel=0.02)
    else:
        assert_same_training(one, two)
    files = [sorted(p.relative_to(folder(c)) for p in (folder(c) / "best").rglob("*")) for c in (one, two)]
    assert files[0] == files[1]
    first, second = (MDFModel.from_pretrained(folder(c) / "best").state_dict() for c in (one, two))
    assert all(tensor.shape == second[name].shape for name, tensor in first.items())
    assert json.loads((folder(one) / "best" / "bases.json").read_text()) == json.loads(
        (folder(two) / "best" / "bases.json").read_text()
    )


@pytest.mark.slow
def test_a_sharded_run_is_stopped_by_sigterm_and_goes_on_whole_on_one_process(tiny, tmp_path):
    whole, cut = tiny(**LONG), tiny(**LONG, **HALF, **{"run.name": "cut"})
    train(whole)
    output = stop_after(accelerate(cut, tmp_path / "cut.yaml", "fsdp2.yaml"), cut, 2)
    assert "continue with --resume" in output and 2 <= saved(cut)["step"] < 6, output
    assert train(tiny(**LONG, **{"run.name": "cut"}), resume=True) == 0
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-3)  # six of Adam's steps enlarge what is rounded


@pytest.mark.slow
def test_a_whole_run_goes_on_in_shards(tiny, tmp_path, monkeypatch):
    whole, cut = tiny(**LONG), tiny(**LONG, **{"run.name": "cut"})
    train(whole)
    stopped_at(cut, monkeypatch, 3)
    half = tiny(**LONG, **HALF, **{"run.name": "cut"})
    output = finish(accelerate(half, tmp_path / "cut.yaml", "fsdp2.yaml", "--", "--resume"))
    assert "processes: 1 then, 2 now" in output and "done:" in output, output
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-3)  # six of Adam's steps enlarge what is rounded
