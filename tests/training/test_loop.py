"""The loop: how a step is cut up changes nothing, and a run that was stopped goes on as if it had not been."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mdf import __version__
from mdf.config import Config, PartConfig, save_config
from mdf.errors import UserError
from mdf.models.fusion import MDFModel
from mdf.trained_on import TrainedOn
from mdf.training import loop, saving
from mdf.training.loop import Stage
from mdf.training.run import train
from mdf.training.saving import STATE, recover
from tests.scripts import environment
from tests.training.conftest import losses, metrics

REPO = Path(__file__).resolve().parents[2]
SEGMENT = {"run.stages": ("segment",), "segment.steps": 2}
FUSE = {
    "run.stages": ("fuse",),
    "fuse.steps": 2,
    "fuse.losses": {"text": 1.0, "mask": 0.5, "grounding": 0.5},
    "fuse.parts.unet": PartConfig("full", 1e-3),
    "unet.masks": ("vessel", "microaneurysm", "drusen"),
}


def folder(cfg: Config) -> Path:
    return Path(cfg.run.dir) / cfg.run.name


def moments(cfg: Config) -> torch.Tensor:
    """AdamW's mean gradient as one vector: shows their direction, which the losses of a few steps do not."""
    state = torch.load(folder(cfg) / "last" / STATE / "optimizer.pt", weights_only=True)["state"]
    return torch.cat([s["exp_avg"].flatten() for s in state.values()])


def assert_same_training(a: Config, b: Config, tolerance: float = 1e-5) -> None:
    assert losses(a) == pytest.approx(losses(b), rel=tolerance)
    first, second = moments(a), moments(b)
    assert (first - second).norm() < tolerance * first.norm()


def launch(cfg: Config, path: Path, processes: int = 1, *words: str, env: Any = None) -> subprocess.Popen:
    """scripts/train.py as a user starts it."""
    save_config(cfg, path)
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    start = several if processes > 1 else []
    env = environment() | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"} | (env or {})
    command = [sys.executable, *start, str(REPO / "scripts" / "train.py"), "--config", str(path), *words]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def stop_at(monkeypatch, stage: str, step: int, act) -> None:
    """Have `act` happen once, after `step` of `stage` was logged."""
    log, done = Stage.log, []

    def logged(self, *args):
        log(self, *args)
        if (self.task.name, self.step) == (stage, step) and not done:
            done.append(True)
            act()

    monkeypatch.setattr(Stage, "log", logged)


def crash():
    raise RuntimeError("the power went")


@pytest.mark.parametrize("settings", [SEGMENT, FUSE], ids=["segment", "fuse"])
def test_accumulation_changes_nothing(tiny, settings):
    """Losses of every step; gradients of the first, since Adam's first update is the sign even of a rounding error."""
    stage = settings["run.stages"][0]
    cut = {f"{stage}.batch_size": 1, f"{stage}.accumulation": 4}
    for steps in (1, 2):
        configs = [
            tiny(**settings | {f"{stage}.steps": steps, "run.name": f"{name}-{steps}"} | given)
            for name, given in (("whole", {}), ("cut", cut))
        ]
        assert [train(c) for c in configs] == [0, 0]
        assert losses(configs[0]) == pytest.approx(losses(configs[1]), rel=1e-5)
        if steps == 1:
            assert_same_training(*configs)


@pytest.mark.parametrize(("stage", "steps"), [("segment", 1), ("align", 2), ("fuse", 1)])
def test_two_processes_train_as_one(tiny, tmp_path, stage, steps):
    """Each stage from the same weights: a stage that starts from another's inherits what Adam makes of its rounding, a
    first update being the sign even of a gradient of 1e-9. That is why gradients of the U-Net are those of one step.
    `align` compares four photographs at once on one process, and encodes them one by one on the two.
    """
    settings = SEGMENT | FUSE | {"run.stages": (stage,), f"{stage}.steps": steps}
    settings |= {"align.losses": {"contrastive": 1.0, "label_aware": 0.5}, "align.ema": 0.9}
    one = tiny(**settings)
    two = tiny(**settings, **{"run.name": "two", f"{stage}.batch_size": 2, "align.chunk": 1})
    train(one)
    process = launch(two, tmp_path / "two.yaml", 2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert json.loads((folder(two) / "environment.json").read_text())["processes"] == 2
    assert_same_training(one, two)
    # what is told of embeddings before the first step is that of all processes
    before = [[line for line in metrics(c) if line.pop("stage") and line["step"] == 0] for c in (one, two)]
    assert len(before[0]) == (stage == "align")
    assert all(a == pytest.approx(b, rel=1e-4) for a, b in zip(*before, strict=True))


def test_a_contrastive_batch_in_chunks_trains_as_a_whole_one(tiny):
    """Losses of every step, beside one of masks; gradients of the first step (see above)."""
    settings = {"run.stages": ("align",), "align.losses": {"contrastive": 1.0, "mask": 0.5}, "align.batch_size": 6}
    settings |= {"align.parts.unet": PartConfig("full", 1e-3), "align.augment": False}
    for steps in (1, 3):
        configs = [
            tiny(**settings, **{"align.steps": steps, "align.chunk": chunk, "run.name": f"chunk-{chunk}-{steps}"})
            for chunk in (0, 4)
        ]
        assert [train(c) for c in configs] == [0, 0]
        assert losses(configs[0]) == pytest.approx(losses(configs[1]), rel=1e-5)
        if steps == 1:
            assert_same_training(*configs)


ALL = {"segment.steps": 3, "align.steps": 3, "fuse.steps": 5, "run.keep_last_every": 2, "language.lora_dropout": 0.2}


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    from tests.tiny import tiny_config

    cfg = tiny_config(world, **{"run.dir": str(tmp_path_factory.mktemp("runs")), "fuse.samples": 0, **ALL})
    assert train(cfg) == 0
    return cfg


def assert_same_run(a: Config, b: Config) -> None:
    """To the last bit."""
    assert metrics(a) == metrics(b)
    first, second = (MDFModel.from_pretrained(folder(c) / "last").state_dict() for c in (a, b))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert (folder(a) / "best" / "model.safetensors").read_bytes() == (
        folder(b) / "best" / "model.safetensors"
    ).read_bytes()


def test_the_last_stage_knows_what_taught_the_first_ones_masks(undisturbed):
    trained = TrainedOn.read(folder(undisturbed) / "best")
    assert set(trained.masks) == set(undisturbed.unet.masks) == set(trained.drawn())  # phantoms, every one


@pytest.mark.parametrize(("stage", "step"), [("segment", 1), ("align", 1), ("fuse", 3)])
def test_resume_after_a_crash_is_exact(tiny, monkeypatch, undisturbed, stage, step):
    cfg = tiny(**ALL)
    stop_at(monkeypatch, stage, step, crash)
    with pytest.raises(RuntimeError):
        train(cfg)
    assert train(cfg, resume=True) == 0
    assert_same_run(undisturbed, cfg)


def lines(cfg: Config) -> int:
    """Of metrics.jsonl: grows with every step and validation."""
    path = folder(cfg) / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at_random(cfg: Config, path: Path, until: int, rng: random.Random) -> None:
    """Start or go on with a run and take its power away while it writes one of its next lines up to `until`."""
    process = launch(cfg, path, 1, *(["--resume"] if folder(cfg).exists() else []))
    moment = rng.randint(lines(cfg) + 1, max(until, lines(cfg) + 1))
    end = time.monotonic() + 240
    while lines(cfg) < moment and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.15))  # a step takes about as long
    process.kill()
    output, _ = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), output
    for checkpoint in (folder(cfg) / "last", folder(cfg) / "best", *(folder(cfg) / "kept").glob("[!.]*")):
        recover(checkpoint)
        if checkpoint.exists():
            MDFModel.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    ("kills", "seed"), [(3, 0), *(pytest.param(5, seed, marks=pytest.mark.slow) for seed in range(1, 6))]
)
def test_a_run_that_is_killed_at_random_moments_goes_on_to_the_last_bit(tiny, tmp_path, undisturbed, kills, seed):
    """No checkpoint is ever broken: last/, best/ and what is kept load after each `kill -9`."""
    cfg, rng, whole = tiny(**ALL, **{"run.keep": 2}), random.Random(seed), lines(undisturbed)
    for number in range(kills):
        kill_at_random(cfg, tmp_path / "run.yaml", whole * (number + 1) // kills, rng)
    assert train(cfg, resume=True) == 0
    assert_same_run(undisturbed, cfg)
    assert len(list((folder(cfg) / "kept").iterdir())) == 2


def test_the_newest_checkpoints_are_kept_whole_and_a_run_can_go_back_to_one(tiny):
    cfg = tiny(**FUSE | {"fuse.steps": 6, "fuse.eval_every": 6, "run.keep_last_every": 1, "run.keep": 3})
    assert train(cfg) == 0
    kept = sorted((folder(cfg) / "kept").iterdir())
    assert [path.name for path in kept] == [f"0-fuse-{step:06d}" for step in (4, 5, 6)]
    before, weights = metrics(cfg), (folder(cfg) / "last" / "model.safetensors").read_bytes()
    shutil.rmtree(folder(cfg) / "last")
    shutil.copytree(kept[0], folder(cfg) / "last")
    assert train(cfg, resume=True) == 0
    assert metrics(cfg) == before and (folder(cfg) / "last" / "model.safetensors").read_bytes() == weights


OLD = Path(__file__).with_name("state-0.1.0.json")


@pytest.mark.parametrize("older", [False, True], ids=["0.1.0", "without-standing"])
def test_a_run_that_an_older_mdf_started_goes_on(tiny, world, monkeypatch, undisturbed, older):
    """The stored state is as 0.1.0 wrote it: without version, format and settings that came later."""
    cfg = tiny(**ALL)
    stop_at(monkeypatch, "fuse", 3, crash)
    with pytest.raises(RuntimeError):
        train(cfg)
    path = folder(cfg) / "last" / STATE / "state.json"
    now = json.loads(path.read_text())
    old = json.loads(OLD.read_text().replace("WORLD", str(world)).replace("RUNS", cfg.run.dir))
    assert (old["stage"], old["step"]) == (now["stage"], now["step"]) and "format" not in old
    if older:
        old |= {"best": old.pop("standing")["best"]}
    path.write_text(json.dumps(old))
    assert train(cfg, resume=True) == 0
    assert losses(cfg) == losses(undisturbed)


def test_a_run_of_a_newer_mdf_is_refused_and_named(tiny):
    cfg = tiny(**SEGMENT)
    assert train(cfg) == 0
    path = folder(cfg) / "last" / STATE / "state.json"
    state = json.loads(path.read_text())
    assert state["mdf"] == __version__
    path.write_text(json.dumps(state | {"format": 99, "mdf": "7.0"}))
    with pytest.raises(
        UserError, match=rf"written by mdf 7\.0, in a form that mdf {__version__} does not know.*start_f"
    ):
        train(cfg, resume=True)
    gone = {**state["config"]["segment"], "sharpness": 1}
    path.write_text(json.dumps(state | {"config": {**state["config"], "segment": gone}, "mdf": "7.0"}))
    with pytest.raises(UserError, match=r"by mdf 7\.0; this is .*\n  segment\.sharpness: 1 in the run, None now"):
        train(cfg, resume=True)


def test_a_checkpoint_of_another_version_loads_or_says_which_version_wrote_it(tiny):
    cfg = tiny(**SEGMENT)
    assert train(cfg) == 0
    path = folder(cfg) / "best" / "config.json"
    written = json.loads(path.read_text())
    assert written["mdf_version"] == __version__
    older = {key: value for key, value in written.items() if key != "mdf_version"}
    del older["mdf"]["encoder"]["layer_decay"]  # a setting that came later
    path.write_text(json.dumps(older))
    assert MDFModel.from_pretrained(folder(cfg) / "best").config.sections()[0].layer_decay == 1.0
    newer = {**written, "mdf_version": "7.0", "mdf": {**written["mdf"], "unet": {**written["mdf"]["unet"], "sharp": 1}}}
    path.write_text(json.dumps(newer))
    with pytest.raises(UserError, match=rf"written by mdf 7\.0, does not .* of this mdf {__version__}.*sharp"):
        MDFModel.from_pretrained(folder(cfg) / "best")


def test_sigterm_saves_and_exits_143(tiny, monkeypatch, undisturbed):
    cfg = tiny(**ALL)
    stop_at(monkeypatch, "fuse", 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train(cfg) == 143
    state = json.loads((folder(cfg) / "last" / STATE / "state.json").read_text())
    assert (state["stage"], state["step"]) == ("fuse", 1)
    assert train(cfg, resume=True) == 0
    assert_same_run(undisturbed, cfg)


def test_an_existing_run_is_refused_and_a_finished_one_resumes_to_nothing(undisturbed, tiny):
    with pytest.raises(UserError, match=r"--resume.*run\.overwrite=true"):
        train(undisturbed)
    before = metrics(undisturbed)
    assert train(undisturbed, resume=True) == 0
    assert metrics(undisturbed) == before
    with pytest.raises(UserError, match="leave --resume away"):
        train(tiny(**{"run.name": "another"}), resume=True)


def test_resume_refuses_other_settings_but_not_logging(undisturbed):
    from tests.tiny import put

    with pytest.raises(UserError) as caught:
        train(put(put(undisturbed, "fuse.weight_decay", 0.5), "segment.parts.unet.lr", 0.5), resume=True)
    assert "fuse.weight_decay: 0.01 in the run, 0.5 now" in str(caught.value)
    assert "segment.parts.unet.lr" in str(caught.value)
    assert train(put(undisturbed, "run.log_every", 3), resume=True) == 0


def test_resume_takes_gradient_checkpointing(tiny, monkeypatch, undisturbed):
    """What a run that ran out of memory changes first; it trains on as before."""
    from tests.tiny import put

    cfg = tiny(**ALL)
    stop_at(monkeypatch, "fuse", 3, crash)
    with pytest.raises(RuntimeError):
        train(cfg)
    cfg = put(put(cfg, "language.gradient_checkpointing", True), "encoder.gradient_checkpointing", True)
    assert train(cfg, resume=True) == 0
    assert losses(cfg) == pytest.approx(losses(undisturbed), rel=1e-5)


def test_overwrite_replaces_a_run_and_nothing_else(tiny):
    cfg = tiny(**SEGMENT, **{"run.overwrite": True})
    folder(cfg).mkdir(parents=True)
    (folder(cfg) / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not the folder of a run"):
        train(cfg)
    (folder(cfg) / "thesis.tex").unlink()
    assert train(cfg) == 0
    (folder(cfg) / "last" / "stale").write_text("")
    assert train(cfg) == 0
    assert not (folder(cfg) / "last" / "stale").exists()


@pytest.mark.parametrize(
    ("owner", "writes", "at", "kept"),
    [
        (MDFModel, "save_pretrained", 2, 1),  # the second write of last/
        (loop, "write_tensors", 4, 1),  # its trainer_state/
        (saving, "link_tree", 2, 2),  # what is kept of it
    ],
    ids=["weights", "trainer-state", "kept"],
)
def test_a_full_disk_keeps_the_last_whole_checkpoint(tiny, monkeypatch, capsys, owner, writes, at, kept):
    from mdf import cli

    lengths = {"run.keep_last_every": 1, "segment.eval_every": 9, "segment.steps": 3, "run.keep": 2}
    cfg = tiny(**SEGMENT | lengths)
    write, calls = getattr(owner, writes), []

    def full(*args, **more):
        calls.append(args)
        if len(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args, **more)

    monkeypatch.setattr(owner, writes, full)
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: train(cfg))
    assert caught.value.code == 1 and "disk is full" in capsys.readouterr().err
    assert json.loads((folder(cfg) / "last" / STATE / "state.json").read_text())["step"] == kept
    for path in (folder(cfg) / "last", *(folder(cfg) / "kept").iterdir()):
        MDFModel.from_pretrained(path)
    assert not list(folder(cfg).rglob(".*"))
    assert train(cfg, resume=True) == 0


def test_a_loss_that_is_no_number_stops_the_run_names_the_photographs_and_keeps_the_last_checkpoint(tiny, capsys):
    lengths = {"run.keep_last_every": 1, "segment.steps": 9, "segment.eval_every": 9}
    cfg = tiny(**SEGMENT | lengths | {"segment.parts.unet": PartConfig("full", 1e30)})
    assert train(cfg) == 1
    error = capsys.readouterr().err
    assert "not finite: " in error and "gradient of unet" in error
    assert "photographs of the step on this process: phantom_" in error and f"it is of step {kept_step(cfg)}" in error
    assert f"segment, step {kept_step(cfg) + 1}:" in error


def kept_step(cfg: Config) -> int:
    return json.loads((folder(cfg) / "last" / STATE / "state.json").read_text())["step"]


def test_the_folder_of_a_run_holds_what_the_design_says(undisturbed):
    run = folder(undisturbed)
    names = {p.name for p in run.iterdir()}
    files = (
        "config.yaml environment.json trainable.txt data.jsonl data.meta.json metrics.jsonl first_batch.png curves.png"
    )
    assert names == {*files.split(), "samples", "last", "best"}
    assert not (run / "best" / STATE).exists()
    steps = [(line["stage"], line["step"]) for line in metrics(undisturbed) if "loss" in line]
    assert steps == [("segment", i) for i in (1, 2, 3)] + [("align", i) for i in (1, 2, 3)] + [
        ("fuse", i) for i in range(1, 6)
    ]
    validations = [line for line in metrics(undisturbed) if "val_loss" in line]
    assert {"val_dice", "val_dice_vessel", "val_dice_disc"} <= set(validations[0])
    assert (run / "trainable.txt").read_text().count("stage ") == 3


def test_the_baseline_trains_and_writes_samples(tiny):
    cfg = tiny(**{"run.stages": ("fuse",), "fuse.steps": 2, "fusion.depths": (), "fuse.samples": 1, "data.val": 0.25})
    assert train(cfg) == 0
    text = (folder(cfg) / "samples" / "fuse-000002.md").read_text()
    assert "What is the diagnosis?" in text and "reference:" in text and "answer:" in text


def test_starts_from_a_checkpoint(tiny, undisturbed):
    start = str(folder(undisturbed) / "best")
    cfg = tiny(**{"run.stages": ("fuse",), "fuse.steps": 1, "run.start_from": start, "fuse.parts.fusion.lr": 1e-9,
                  "fuse.parts.language.lr": 1e-9, "fusion.gate_lr": 1e-9, "fuse.weight_decay": 0.0})  # fmt: skip
    assert train(cfg) == 0
    before, after = (MDFModel.from_pretrained(p).state_dict() for p in (start, folder(cfg) / "last"))
    assert all(torch.allclose(tensor, after[name], atol=1e-6) for name, tensor in before.items())
    with pytest.raises(UserError, match=r"unet\.masks"):
        train(tiny(**{"run.name": "other", "run.start_from": start, "unet.masks": ("vessel",)}))
    with pytest.raises(UserError, match=r"shown its photographs in another way.*\n  encoder_mean: "):
        train(tiny(**{"run.name": "other", "run.start_from": start, "encoder.mean": (0.0, 0.0, 0.0)}))


def test_a_stage_without_its_data_is_refused(tiny):
    with pytest.raises(UserError, match=r"segment: none of the .* training photographs"):
        train(tiny(**SEGMENT, **{"unet.masks": ("fovea",)}))


def test_no_validation_photographs_keep_the_last_step_as_the_best(tiny, world, capsys):
    cfg = tiny(**SEGMENT, **{"data.val": 0.0, "data.root": str(world / "without-val")})
    assert train(cfg) == 0
    assert "no validation photographs" in capsys.readouterr().out
    assert (folder(cfg) / "best" / "model.safetensors").is_file()


def test_bf16_trains_every_stage(tiny):
    cfg = tiny(**{"run.precision": "bf16", "segment.steps": 1, "align.steps": 1, "fuse.steps": 2, "fuse.samples": 1})
    assert train(cfg) == 0
    assert json.loads((folder(cfg) / "environment.json").read_text())["precision"] == "bf16"
    assert losses(cfg)[0] == pytest.approx(losses_in_fp32(tiny), rel=0.03)


def losses_in_fp32(tiny) -> float:
    cfg = tiny(**{"run.stages": ("segment",), "run.name": "fp32", "segment.steps": 1})
    train(cfg)
    return losses(cfg)[0]
