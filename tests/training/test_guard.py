"""What stops a run before a broken step is saved, and what does not."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from mdf.training.guard import FIRST, Guard, Level, NotFinite, Spike
from mdf.training.run import train
from mdf.training.saving import STATE
from tests.training.conftest import losses
from tests.training.test_loop import crash, folder, stop_at
from tests.training.test_stages import ROWS, batch_of

OK = {"unet": torch.tensor(1.0), "": torch.tensor(1.0)}


def level(values, factor=20.0) -> Level:
    made = Level(factor)
    for value in values:
        made.add(value)
    return made


def test_the_limit_is_as_its_formula_says():
    values = [1.0] * FIRST + [0.5, 0.4, 0.6] * 22
    spread = 1.4826 * 0.1  # half of the last 64 losses lie within 0.1 of their median, 0.5
    assert level(values).limit() == pytest.approx(0.5 + 20 * spread)
    assert level(values, factor=1.0).limit() == 1.0  # never below the start
    assert level([2.0] * 40).limit() == pytest.approx(2.0 + 20 * 0.05 * 2.0)
    assert level(values, factor=0.0).limit() == math.inf
    assert level([1.0] * (2 * FIRST - 1)).limit() == math.inf


def test_one_bad_step_does_not_move_the_limit():
    values = [1.0] * FIRST + [0.5, 0.4, 0.6] * 22
    assert level([*values, 1e6]).limit() == pytest.approx(level(values).limit(), rel=0.05)


@pytest.mark.parametrize("noise", [0.05, 0.3, 0.6])
def test_noisy_losses_that_fall_are_no_spikes(noise):
    """Ten stages of 1,000 steps whose losses are log-normal around a curve from 2 to 0.02."""
    generator = np.random.default_rng(0)
    for _ in range(10):
        made = Level(20.0)
        curve = 2.0 * 0.01 ** (np.arange(1000) / 1000) * np.exp(noise * generator.standard_normal(1000))
        for loss in curve.tolist():
            assert loss <= made.limit()
            made.add(loss)


def test_a_loss_that_jumps_beyond_its_start_is_a_spike_and_its_photographs_are_named():
    accelerator, guard = Accelerator(cpu=True), Guard("fuse", {"text": 1.0, "mask": 0.5}, 20.0)
    guard.saved = 50
    for step in range(60):
        guard.note(step, [batch_of()], [torch.tensor([0.4, 0.2])], OK)
    guard.note(60, [batch_of()], [torch.tensor([7.0, 0.2])], OK)
    with pytest.raises(Spike) as caught:
        guard.read(accelerator)
    message = str(caught.value)
    assert "fuse, step 60: the loss shot up to 7.1 (text 7, mask 0.2)" in message and "median of 0.5" in message
    assert "it is of step 50" in message and "--resume run.spike=0" in message
    assert message.endswith("on this process: " + ", ".join(str(i) for i in range(len(ROWS))))


def test_what_is_not_finite_is_named_with_the_photographs_of_its_micro_batch_alone():
    guard = Guard("fuse", {"text": 1.0, "mask": 0.5}, 20.0)
    other = batch_of()
    other.sample_ids = ["healthy"]
    broken = {"unet": torch.tensor(math.nan), "fusion": torch.tensor(1.0), "": torch.tensor(math.nan)}
    guard.note(1, [other, batch_of()], [torch.tensor([0.1, 0.2]), torch.tensor([0.1, math.nan])], broken)
    with pytest.raises(NotFinite) as caught:
        guard.read(Accelerator(cpu=True))
    message = str(caught.value)
    assert (
        "fuse, step 1: not finite: loss mask, gradient of unet. " in message
        and "Nothing of this stage was saved yet" in message
    )
    assert "healthy" not in message and message.endswith("7, 8, 9")


def test_a_run_stops_at_a_spike_keeps_the_last_checkpoint_and_goes_on_over_it_when_told(tiny, monkeypatch, capsys):
    """The losses before are those that last/ remembers: here they are set far lower than they were."""
    settings = {"run.stages": ("segment",), "segment.steps": 4, "segment.eval_every": 9, "run.keep_last_every": 2}
    cfg = tiny(**settings)
    stop_at(monkeypatch, "segment", 3, crash)
    with pytest.raises(RuntimeError, match="the power went"):
        train(cfg)
    path = folder(cfg) / "last" / STATE / "state.json"
    state = json.loads(path.read_text())
    assert state["level"]["recent"] == losses(cfg)[:2] == state["level"]["first"]
    path.write_text(json.dumps(state | {"level": {"first": [0.01] * 16, "recent": [0.01] * 40}}))
    assert train(cfg, resume=True) == 1
    assert "segment, step 3: the loss shot up to " in capsys.readouterr().err
    assert json.loads(path.read_text())["step"] == 2
    from tests.tiny import put

    assert train(put(cfg, "run.spike", 0.0), resume=True) == 0
    assert len(losses(cfg)) == 4 and Path(folder(cfg) / "best" / "model.safetensors").is_file()
