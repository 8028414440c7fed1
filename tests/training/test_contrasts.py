"""Runs of the stage align with the losses of patients, of pairs and of shared diagnoses."""

import os
import signal
from itertools import islice

import torch

from mdf import datasets
from mdf.training.data import sampler_of
from mdf.training.run import train
from mdf.training.stages import Task
from tests.training.conftest import losses, metrics
from tests.training.test_loop import assert_same_run, assert_same_training, launch, stop_at

ALIGN = {
    "run.stages": ("align",),
    "align.losses": {"patient": 1.0, "sigmoid": 0.5, "label_overlap": 0.5},
    "align.steps": 2,
    "align.eval_every": 2,
    "encoder.init_logit_bias": -10.0,
    "encoder.init_logit_scale": 10.0,
}


def test_two_processes_train_as_one(tiny, tmp_path):
    """One compares four photographs at once, the two have one patient or two single eyes each, encoded one by one."""
    one, two = tiny(**ALIGN), tiny(**ALIGN, **{"run.name": "two", "align.batch_size": 2, "align.chunk": 1})
    assert train(one) == 0
    process = launch(two, tmp_path / "two.yaml", 2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert_same_training(one, two)
    assert all(line["loss_patient"] > 0 for line in metrics(one) if "loss" in line)


def test_a_run_on_patients_goes_on_as_if_it_had_not_been_stopped(tiny, monkeypatch):
    whole, stopped = tiny(**ALIGN), tiny(**ALIGN, **{"run.name": "stopped"})
    assert train(whole) == 0
    stop_at(monkeypatch, "align", 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert train(stopped) == 143
    assert train(stopped, resume=True) == 0
    assert_same_run(whole, stopped)


def test_every_batch_of_one_class_is_counted_and_the_first_is_said(tiny, capsys):
    cfg = tiny(**ALIGN | {"align.losses": {"label_aware": 1.0}, "align.batch_size": 2, "align.steps": 8})
    records = datasets.load(cfg.data, 0).split("train")
    drawn = islice(sampler_of(cfg, Task(cfg, "align"), list(records)), 8)
    same = [len({records[i].diagnosis for _, i in batch}) == 1 for batch in drawn]
    assert 0 < sum(same) < 8
    assert train(cfg) == 0
    counted = [line.get("one_class_batches", 0) for line in metrics(cfg) if "loss" in line]
    assert counted == [sum(same[: step + 1]) for step in range(8)]
    said = [line for line in capsys.readouterr().out.splitlines() if "a batch holds one class only" in line]
    assert len(said) == 1 and said[0].startswith(f"align, step {same.index(True) + 1}:")
    assert "align.balance=true or a larger align.batch_size" in said[0]
    norms = [line["grad_norm"] for line in metrics(cfg) if "loss" in line]
    assert [norm == 0 for norm in norms] == same


def test_balanced_patients_train(tiny):
    cfg = tiny(**ALIGN | {"align.balance": True, "align.accumulation": 2})
    assert train(cfg) == 0
    assert torch.tensor(losses(cfg)).isfinite().all() and len(losses(cfg)) == 2
