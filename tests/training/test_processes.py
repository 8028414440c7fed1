"""Several processes, as a user starts them: by accelerate's launcher, over machines, with signals, in other numbers.

Each photograph is a step's, however many processes share it, and a run that goes on with others goes on alike.
"""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mdf.batches import Batch
from mdf.config import Config, save_config
from mdf.errors import UserError
from mdf.models.fusion import MDFModel
from mdf.training.data import dataset, diagnoses_of, load_manifests, loader, sampler_of, stage_data
from mdf.training.run import train
from mdf.training.saving import STATE
from mdf.training.stages import Task
from tests.scripts import environment
from tests.training.conftest import losses, metrics
from tests.training.test_loop import FUSE, REPO, assert_same_run, assert_same_training, crash, folder, moments, stop_at

LONG = FUSE | {"fuse.steps": 6, "fuse.eval_every": 6, "run.keep_last_every": 1}
HALF = {"fuse.batch_size": 2}


def accelerate(cfg: Config, path: Path, file: str, *words: str, env: Any = None) -> subprocess.Popen:
    """`accelerate launch` with one of our files; words before "--" are the launcher's, those after it the script's."""
    save_config(cfg, path)
    cut = words.index("--") if "--" in words else len(words)
    start = [sys.executable, "-m", "accelerate.commands.launch"]
    start += ["--config_file", str(REPO / "configs" / "accelerate" / file), *words[:cut]]
    command = [*start, str(REPO / "scripts" / "train.py"), "--config", str(path), *words[cut + 1 :]]
    given = environment() | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"} | (env or {})
    return subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    """Its whole output, once it has ended."""
    return process.communicate(timeout=300)[0]


def free_port() -> str:
    with socket.socket() as at:
        at.bind(("127.0.0.1", 0))
        return str(at.getsockname()[1])


def saved(cfg: Config) -> dict[str, Any]:
    """state.json of last/; {} while there is none."""
    path = folder(cfg) / "last" / STATE / "state.json"
    try:
        return json.loads(path.read_text())
    except OSError:  # it is being replaced
        return {}


def stop_after(process: subprocess.Popen, cfg: Config, step: int) -> str:
    """SIGTERM, as from a scheduler, once `step` is saved; the output."""
    until = time.monotonic() + 240
    while saved(cfg).get("step", 0) < step and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    return finish(process)


def stopped_at(cfg: Config, monkeypatch, step: int) -> None:
    """A run on one process that lost its power after `step` was logged."""
    stop_at(monkeypatch, "fuse", step, crash)
    with pytest.raises(RuntimeError):
        train(cfg)


def test_processes_that_share_a_step_have_unequal_shares_of_its_tokens(tiny):
    """So that equal losses on one and on two processes are no accident of equal numbers."""
    cfg = tiny(**FUSE, **HALF)
    task, manifest = Task(cfg, "fuse"), load_manifests(cfg)
    model = MDFModel.build(cfg, diagnoses_of(manifest))
    data = stage_data(cfg, task, manifest["fuse"], model.processor.prompts, print)
    shares: list[Batch] = []
    for rank in range(2):
        sampler = sampler_of(cfg, task, data.train, rank, 2)
        keys = [sampler.keys(2 * rank, 2)]
        shares.append(next(iter(loader(dataset(cfg, task, data, model.processor, train=True), keys, workers=0))))
    assert shares[0].supervised != shares[1].supervised and not set(shares[0].sample_ids) & set(shares[1].sample_ids)


def test_two_machines_train_as_one_process(tiny, tmp_path):
    """Two launchers that meet at an address, each with one process; both name the run's folder. One step: the second
    would show what Adam makes of the first one's rounding.
    """
    one = tiny(**FUSE | {"fuse.steps": 1})
    two = tiny(**FUSE | {"fuse.steps": 1}, **HALF, **{"run.name": "two"})
    port = free_port()
    machines = [
        accelerate(two, tmp_path / f"{k}.yaml", "multi_node.yaml", "--num_processes", "2", "--machine_rank", str(k),
                   "--main_process_ip", "127.0.0.1", "--main_process_port", port)
        for k in range(2)
    ]  # fmt: skip
    train(one)
    outputs = [finish(m) for m in machines]
    assert [m.returncode for m in machines] == [0, 0], outputs
    assert "2 processes on cpu" in outputs[0] and "fuse 1/1" not in outputs[1]
    assert_same_training(one, two)


@pytest.mark.slow
def test_machines_that_were_started_with_other_numbers_say_so_and_stop(tiny, tmp_path):
    cfgs = [tiny(**FUSE), tiny(**FUSE | {"fuse.steps": 3})]
    port = free_port()
    machines = [
        accelerate(cfg, tmp_path / f"{k}.yaml", "multi_node.yaml", "--num_processes", str(2 + 2 * k), "--machine_rank",
                   str(k), "--main_process_ip", "127.0.0.1", "--main_process_port", port)
        for k, cfg in enumerate(cfgs)
    ]  # fmt: skip
    outputs = [finish(m) for m in machines]
    assert all(m.returncode for m in machines)
    assert (
        "error: processes were not started alike:\n  settings.fuse.steps: 2 on process 0, 3 on process 1" in outputs[0]
    )
    assert "processes of this machine: '1' on process 0, '2' on process 1" in outputs[0]
    assert not folder(cfgs[0]).exists()


@pytest.mark.slow
def test_a_run_that_one_process_cannot_resume_ends_on_all(tiny, tmp_path):
    output = finish(process := accelerate(tiny(**FUSE), tmp_path / "run.yaml", "ddp_cpu.yaml", "--", "--resume"))
    assert process.returncode and output.count("error: --resume: there is no run") == 1


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves_and_two_processes_resume_to_the_last_bit(tiny, tmp_path):
    whole, cut = (tiny(**LONG, **HALF, **{"run.name": name, "language.lora_dropout": 0.2}) for name in ("whole", "cut"))
    assert "done:" in finish(accelerate(whole, tmp_path / "whole.yaml", "ddp_cpu.yaml"))
    process = accelerate(cut, tmp_path / "cut.yaml", "ddp_cpu.yaml")
    output = stop_after(process, cut, 2)
    assert process.returncode and 2 <= saved(cut)["step"] < 6, output
    assert f"stopped after step {saved(cut)['step']} of fuse; continue with --resume" in output
    assert "done:" in finish(accelerate(cut, tmp_path / "cut.yaml", "ddp_cpu.yaml", "--", "--resume"))
    assert_same_run(whole, cut)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tiny, tmp_path, monkeypatch):
    """The same photographs in the same order: losses and gradients are those of the run that went on as it was."""
    whole, cut = tiny(**LONG), tiny(**LONG, **{"run.name": "cut"})
    train(whole)
    stopped_at(cut, monkeypatch, 3)
    state = saved(cut)
    with pytest.raises(UserError, match=r"4 · 1 · 1 = 4 then, 2 · 1 · 1 = 2 now; set fuse\.accumulation=2"):
        train(tiny(**LONG, **HALF, **{"run.name": "cut"}), resume=True)
    output = finish(accelerate(cut, tmp_path / "cut.yaml", "ddp_cpu.yaml", "--", "--resume"))
    assert "4 · 1 · 1 = 4 then, 4 · 2 · 1 = 8 now; set fuse.batch_size=2" in output
    assert saved(cut) == state
    half = tiny(**LONG, **HALF, **{"run.name": "cut"})
    output = finish(accelerate(half, tmp_path / "half.yaml", "ddp_cpu.yaml", "--", "--resume"))
    assert "processes: 1 then, 2 now. Photographs come in the same order" in output, output
    assert saved(cut)["step"] == 6 and saved(cut)["sampler"] == saved(whole)["sampler"]
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-4)
    assert (moments(cut) - moments(whole)).norm() < 1e-2 * moments(whole).norm()
    assert [line["step"] for line in metrics(cut) if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_a_step_may_be_cut_in_another_way_when_a_run_goes_on(tiny, monkeypatch):
    whole, cut = tiny(**LONG), tiny(**LONG, **{"run.name": "cut"})
    train(whole)
    stopped_at(cut, monkeypatch, 3)
    assert train(tiny(**LONG, **{"run.name": "cut", "fuse.batch_size": 1, "fuse.accumulation": 4}), resume=True) == 0
    assert losses(cut) == pytest.approx(losses(whole), rel=1e-4)
