"""Out of memory: the message says where, and what to change. Every failure here is one of the allocator's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mdf.config import PartConfig, load_config, save_config
from mdf.losses.text import text_loss
from mdf.models.fusion import MDFModel
from mdf.training.launch import Launch, conflicts
from mdf.training.out_of_memory import Place, explain, is_out_of_memory, place_of, remedies
from mdf.training.run import train
from mdf.training.saving import STATE
from mdf.training.start import refuse
from tests.conftest import REPO
from tests.training.test_loop import crash, stop_at

ROWS = 10**11  # more than any machine can address, so that nothing is ever allocated


@pytest.fixture(scope="module")
def model(world):
    from tests.tiny import tiny_config

    return MDFModel.build(tiny_config(world), ("normal",))


def failing(act) -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        act()
    assert is_out_of_memory(caught.value), caught.value
    return caught.value


def endless(*shape: int) -> torch.Tensor:
    """ROWS rows that take no memory, as long as nobody copies them."""
    return torch.zeros(1, *shape).expand(ROWS, *shape)


def test_the_part_that_was_computing_is_named(model):
    tokens = torch.zeros(1, 8, dtype=torch.long)
    acts = {
        "encoder": lambda: model(pixel_values=endless(3, 64, 64), caption_ids=tokens, want=("contrastive",)),
        "unet": lambda: model(unet_pixels=endless(3, 64, 64), want=("masks",)),
        "fusion (fusion.adapters.0.k)": lambda: model(input_ids=tokens, memory=endless(4, 16, 64)),
        "language (language.": lambda: model(input_ids=tokens.expand(ROWS, 8), memory=torch.zeros(1, 4, 16, 64)),
        "the loss": lambda: text_loss(endless(512), tokens[0, :1].expand(ROWS)),
    }
    for part, act in acts.items():
        assert str(place_of(failing(act))).startswith(part)


def test_backward_and_the_optimiser_are_told_apart():
    weight = torch.zeros(1, 8, requires_grad=True)
    loss = F.embedding(torch.zeros(2, dtype=torch.long), weight.expand(ROWS, 8)).sum()
    assert str(place_of(failing(loss.backward))) == "backward"
    parameter = torch.nn.Parameter(torch.zeros(1).expand(10 * ROWS))
    parameter.grad = torch.zeros(1).expand(10 * ROWS)
    optimizer = torch.optim.AdamW([parameter])
    assert str(place_of(failing(optimizer.step))) == "the optimiser"


def test_what_gradient_checkpointing_computes_again_is_named():
    from torch.utils.checkpoint import checkpoint

    weight = torch.zeros(1, requires_grad=True)
    calls = []

    def compute(x):
        calls.append(x)
        if len(calls) > 1:
            text_loss(endless(512), torch.zeros(1, dtype=torch.long).expand(ROWS))
        return x * weight

    out = checkpoint(compute, torch.ones(1, requires_grad=True), use_reentrant=False)
    assert str(place_of(failing(out.backward))) == "backward, computing the loss again"


def test_other_errors_are_none_of_it():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(MemoryError())


def test_the_settings_are_those_of_this_configuration_in_an_order_that_fits_the_part(tiny):
    keys = lambda cfg, stage, part, cuda=True: [  # noqa: E731
        text.split("=")[0] for text in remedies(cfg, stage, Place(part), cuda=cuda)
    ]
    cfg = tiny(**{"unet.size": 128, "fuse.parts.language": PartConfig("full")})
    assert keys(cfg, "fuse", "language")[:3] == [
        "fuse.batch_size", "language.gradient_checkpointing", "fuse.optimizer"]  # fmt: skip
    assert keys(cfg, "fuse", "the optimiser")[:2] == ["fuse.optimizer", "fuse.parts.language.mode"]
    assert keys(cfg, "fuse", "unet")[:2] == ["fuse.batch_size", "unet.size"]
    assert keys(cfg, "align", "encoder")[:3] == ["align.chunk", "align.batch_size", "encoder.gradient_checkpointing"]
    assert "fuse.optimizer" not in keys(cfg, "fuse", "the optimiser", cuda=False)
    lora = tiny(**{"fuse.batch_size": 1, "language.gradient_checkpointing": True})
    assert keys(lora, "fuse", "backward")[0] == "language.quantize"
    batch = remedies(tiny(**{"fuse.batch_size": 5, "fuse.accumulation": 2}), "fuse", Place("the loss"), cuda=True)[0]
    assert batch.startswith("fuse.batch_size=2 fuse.accumulation=6 ")


def test_every_setting_that_is_proposed_can_be_set(tiny, tmp_path):
    cfg = tiny(**{"unet.size": 128, "fuse.ema": 0.9, "align.ema": 0.9, "encoder.size": 128})
    save_config(cfg, tmp_path / "cfg.yaml")
    for stage in cfg.run.stages:
        proposed = remedies(cfg, stage, Place("backward"), cuda=True)
        assert proposed
        for text in proposed:
            load_config(str(tmp_path / "cfg.yaml"), text.partition(" (")[0].split())


@pytest.mark.parametrize(
    ("launch", "cuda", "settings"),
    [
        (Launch(8, "fsdp2"), True, {"fuse.parts.language": PartConfig("full")}),
        (Launch(8, "fsdp2"), True, {}),
        (Launch(8, "zero3"), True, {"language.quantize": "none"}),
        (Launch(), True, {"fuse.optimizer": "adamw_8bit"}),
        (Launch(), False, {"fuse.optimizer": "adamw_8bit"}),
    ],
)
def test_nothing_is_proposed_that_this_launch_or_device_refuses(tiny, tmp_path, monkeypatch, launch, cuda, settings):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr("mdf.training.start.refuse_missing", lambda what: None)  # of bitsandbytes, which can be fetched
    monkeypatch.setattr("mdf.training.launch.find_spec", lambda name: name)
    cfg = tiny(**{"run.stages": ("fuse",), "unet.size": 128, **settings})
    save_config(cfg, tmp_path / "cfg.yaml")
    for part in ("the optimiser", "backward", "language"):
        proposed = remedies(cfg, "fuse", Place(part), cuda=cuda, sharded=launch.sharding != "none")
        assert len(proposed) >= 3
        for text in proposed:
            changed = load_config(str(tmp_path / "cfg.yaml"), text.partition(" (")[0].split())
            assert list(conflicts(changed, launch)) == [], text
            refuse(changed)


LIMITED = """
import resource, sys
from mdf.config import load_config
from mdf.training.run import train
import mdf.models.fusion, mdf.training.validation, accelerate, peft  # what is loaded late needs memory, too
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20,) * 2)
sys.exit(train(load_config(sys.argv[1], []), resume=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is set from Linux's /proc")
def test_a_run_that_runs_out_of_memory_says_so_and_keeps_its_checkpoint(tiny, tmp_path, monkeypatch):
    """A resumed run in a process that may have 150 MB more than when it began."""
    settings = {"run.stages": ("segment",), "segment.batch_size": 16, "segment.steps": 2, "unet.size": 128}
    cfg = tiny(**settings, **{"run.keep_last_every": 1, "segment.eval_every": 9})
    stop_at(monkeypatch, "segment", 2, crash)
    with pytest.raises(RuntimeError, match="the power went"):
        train(cfg)
    last = Path(cfg.run.dir) / cfg.run.name / "last"
    before = {path: path.read_bytes() for path in last.rglob("*") if path.is_file()}
    assert json.loads((last / STATE / "state.json").read_text())["step"] == 1
    save_config(cfg, tmp_path / "cfg.yaml")
    env = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "cfg.yaml"), "150"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("error:") == 1
    for words in (
        "segment, before its first step: memory ran out in unet (unet.net.",
        "which asked for ",
        "Weights and gradients, GiB: encoder",
        "1. segment.batch_size=8 segment.accumulation=2 (the same step",
        "2. unet.size=64",
        f"{last} is untouched",
    ):
        assert words in done.stderr, done.stderr
    assert {path: path.read_bytes() for path in last.rglob("*") if path.is_file()} == before


def test_the_message_before_anything_was_saved(tiny, model):
    error = failing(lambda: model(unet_pixels=endless(3, 64, 64), want=("masks",)))
    text = explain(error, tiny(), torch.device("cpu"))
    assert text.startswith("segment, before its first step: memory ran out in unet (unet), which asked for ")
    assert "Nothing was saved yet" in text


def test_a_run_that_has_no_memory_ends_with_exit_code_1_and_one_message(tiny, capsys):
    """A decoder of 10^10 channels."""
    assert train(tiny(**{"unet.decoder_channels": (10**10, 16, 8, 8, 8)})) == 1
    error = capsys.readouterr().err
    assert error.count("error:") == 1 and "memory ran out in the loading of the model, which asked for " in error
