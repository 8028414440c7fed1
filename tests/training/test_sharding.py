"""A model in shards trains as a whole one, and leaves checkpoints that one process reads.

By FSDP2, and where DeepSpeed is installed by ZeRO: stage 2 with whole weights on each process, stage 3 without.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mdf.config import Config, PartConfig
from mdf.inference.predictor import Predictor
from mdf.models.fusion import MDFModel
from mdf.records import read_manifest
from mdf.training.run import train
from tests.tiny_mllama import TILE, tiny_mllama_config
from tests.training.conftest import losses, metrics
from tests.training.test_loop import FUSE, folder, launch, moments
from tests.training.test_processes import HALF, LONG, accelerate, finish, saved, stop_after, stopped_at

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}
SHARDINGS = {"fsdp2": FSDP2} | {
    f"zero{k}": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(k)} for k in (2, 3)
}
MODES: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora-bf16": {"run.precision": "bf16"},
    "full": {f"fuse.parts.{part}": PartConfig("full", 1e-3) for part in ("encoder", "language")},
}
MLLAMA: dict[str, Any] = {"language.image_size": 2 * TILE, "fuse.samples": 0}
ALL = [(sharding, mode) for sharding in SHARDINGS for mode in MODES]


def train_in_shards(cfg: Config, path: Path, sharding: str, *words: str) -> None:
    """Two processes; DeepSpeed is looked for first."""
    need(sharding)
    process = launch(cfg, path, 2, *words, env=SHARDINGS[sharding])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert f"the model in shards ({sharding})" in output


def need(sharding: str) -> None:
    if sharding.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")


def assert_same_two_steps(one: Config, two: Config) -> None:
    """Losses and first gradients to rounding; the second follow Adam's first update, the sign even of a rounding."""
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    norms = [next(line["grad_norm"] for line in metrics(cfg) if "grad_norm" in line) for cfg in (one, two)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    assert (moments(two) - moments(one)).norm() < 1e-3 * moments(one).norm()


def assert_whole_checkpoints(one: Config, two: Config) -> None:
    """Both best/ hold the same files and the same tensors by shape, on the same base."""
    files = [sorted(p.relative_to(folder(c)) for p in (folder(c) / "best").rglob("*")) for c in (one, two)]
    assert files[0] == files[1]
    first, second = (MDFModel.from_pretrained(folder(c) / "best").state_dict() for c in (one, two))
    assert all(tensor.shape == second[name].shape for name, tensor in first.items())
    bases = [json.loads((folder(c) / "best" / "bases.json").read_text()) for c in (one, two)]
    assert bases[0] == bases[1]


@pytest.mark.parametrize(
    ("sharding", "mode"), [a if a == ("fsdp2", "lora") else pytest.param(*a, marks=pytest.mark.slow) for a in ALL]
)
def test_two_processes_with_a_sharded_model_train_as_one_with_a_whole_one(tiny, tmp_path, sharding, mode):
    """Losses and gradients of two steps; what is saved is a whole checkpoint that one process reads."""
    need(sharding)
    settings = FUSE | MODES[mode]
    one = tiny(**settings)
    two = tiny(**settings, **HALF, **{"run.name": "two"})
    train(one)
    train_in_shards(two, tmp_path / "two.yaml", sharding)
    if mode == "lora-bf16":
        assert losses(two) == pytest.approx(losses(one), rel=0.02)
    else:
        assert_same_two_steps(one, two)
    assert_whole_checkpoints(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_llama_3_vision_trains_goes_on_and_answers_in_shards_as_it_does_whole(world, tmp_path, sharding, mode):
    """Its own tower and cross-attention layers, four tiles a photograph, layers computed again in backward."""
    need(sharding)
    settings = FUSE | MODES[mode] | MLLAMA | {"run.dir": str(tmp_path / "runs")}
    settings |= {"language.gradient_checkpointing": True}
    one = tiny_mllama_config(world, **settings)
    two = tiny_mllama_config(world, **settings, **HALF, **{"run.name": "two"})
    train(one)
    train_in_shards(two, tmp_path / "two.yaml", sharding)
    assert_same_two_steps(one, two)
    assert_whole_checkpoints(one, two)
    manifest = read_manifest(next(Path(one.data.root).rglob("*.jsonl")))
    photograph = manifest.path(manifest.split("test")[0].image)
    answers = []
    for cfg in (one, two):
        predictor = Predictor(folder(cfg) / "best", "cpu")
        answers.append(predictor.ask(predictor.read(photograph, force=True), "What is the diagnosis?", limit=8))
    assert answers[0] == answers[1]


@pytest.mark.slow
@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_sharded_run_of_llama_3_vision_goes_on_in_shards(world, tmp_path, sharding):
    need(sharding)
    settings = LONG | MLLAMA | HALF | {"run.dir": str(tmp_path / "runs"), "run.keep": 9}
    whole, cut = (tiny_mllama_config(world, **settings, **{"run.name": name}) for name in ("whole", "cut"))
    train_in_shards(whole, tmp_path / "whole.yaml", sharding)
    process = launch(cut, tmp_path / "cut.yaml", 2, env=SHARDINGS[sharding])
    output = stop_after(process, cut, 2)
    assert 2 <= saved(cut)["step"] < 6, output
    train_in_shards(cut, tmp_path / "cut.yaml", sharding, "--resume")
    assert losses(cut) == losses(whole)  # to the last bit


@pytest.mark.slow
@pytest.mark.parametrize("file", ["fsdp2", "deepspeed_zero2", "deepspeed_zero3"])
def test_a_sharded_run_is_stopped_by_sigterm_and_goes_on_whole_on_one_process(tiny, tmp_path, file):
    need(file.removeprefix("deepspeed_"))
    whole, cut = tiny(**LONG), tiny(**LONG, **HALF, **{"run.name": "cut"})
    train(whole)
    output = stop_after(accelerate(cut, tmp_path / "cut.yaml", f"{file}.yaml"), cut, 2)
    assert "continue with --resume" in output and 2 <= saved(cut)["step"] < 6, output
    assert train(tiny(**LONG, **{"run.name": "cut"}), resume=True) == 0
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-3)  # six of Adam's steps enlarge what is rounded


@pytest.mark.slow
@pytest.mark.parametrize("file", ["fsdp2", "deepspeed_zero2", "deepspeed_zero3"])
def test_a_whole_run_goes_on_in_shards(tiny, tmp_path, monkeypatch, file):
    need(file.removeprefix("deepspeed_"))
    whole, cut = tiny(**LONG), tiny(**LONG, **{"run.name": "cut"})
    train(whole)
    stopped_at(cut, monkeypatch, 3)
    half = tiny(**LONG, **HALF, **{"run.name": "cut"})
    output = finish(accelerate(half, tmp_path / "cut.yaml", f"{file}.yaml", "--", "--resume"))
    assert "processes: 1 then, 2 now" in output and "done:" in output, output
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-3)  # six of Adam's steps enlarge what is rounded
