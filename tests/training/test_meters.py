"""What is measured while a stage trains is what it says it is."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mdf.config import PartConfig
from mdf.training.data import dataset, diagnoses_of, load_manifests, loader, sampler_of, stage_data
from mdf.training.flops import Costs, costs, named_peak, peak_flops, weights
from mdf.training.meters import Meter, clip_gradients, gates, whole
from mdf.training.optimizer import make_optimizer
from mdf.training.run import train
from mdf.training.stages import Task
from mdf.training.start import first_model
from tests.training.test_loop import folder

CPU = torch.device("cpu")


def made(tiny, stage: str, **settings):
    """Model, task and first micro-batch of a stage."""
    cfg = tiny(**{"run.stages": (stage,), **settings})
    manifests = load_manifests(cfg)
    model, task = first_model(cfg, diagnoses_of(manifests), torch.float32), Task(cfg, stage)
    model.set_trainable(task.stage.parts, tuple(task.weights))
    data = stage_data(cfg, task, manifests[stage], model.processor.prompts, print)
    keys = sampler_of(cfg, task, data.train).keys(0, task.stage.batch_size)
    batch = next(iter(loader(dataset(cfg, task, data, model.processor, train=True), [keys], workers=0)))
    return cfg, model.train(), task, batch


SCORES = ("bmm", "attention")  # products of attention scores, in the names of torch's operations


def executed(model, task, batch) -> float:
    """FLOPs that torch counts in a whole step, attention scores of one with a language model left out."""
    with FlopCounterMode(display=False) as counter:
        terms, _ = task(model, batch)
        task.total(terms, task.counts(batch), 1).backward()
    counts = counter.get_flop_counts()["Global"].items()
    left_out = SCORES if batch.input_ids is not None else ()
    return float(sum(number for name, number in counts if not any(score in str(name) for score in left_out)))


@pytest.mark.parametrize("mode", ["lora", "full", "frozen"])
def test_a_language_model_costs_four_a_frozen_weight_and_six_a_trained_one(tiny, mode):
    _, model, task, batch = made(tiny, "fuse", **{"fuse.parts.language": PartConfig(mode)})
    found = costs(model, task, batch)
    layers = [p for n, p in model.language.named_parameters() if "layers" in n]
    frozen = sum(p.numel() for p in layers if p.ndim == 2 and not p.requires_grad)
    trained = sum(p.numel() for p in layers if p.ndim == 2 and p.requires_grad)
    adapters = sum(p.numel() for a in model.fusion.adapters for m in (a.q, a.o, a.ffn) for p in m.parameters())
    assert found.token == 4 * frozen + 6 * trained + 6 * adapters
    head = model.get_input_embeddings().weight.numel()
    assert found.supervised == head * (6 if mode == "full" else 4)


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("segment", {}),
        ("align", {}),
        ("fuse", {}),
        ("fuse", {"fuse.parts.unet": PartConfig("full"), "fuse.losses": {"text": 1.0, "mask": 1.0}}),
    ],
    ids=["segment", "align", "fuse", "fuse with the U-Net"],
)
def test_the_count_is_about_what_torch_executes(tiny, stage, settings):
    """The first layers' input gradients are not executed. (torch counts depthwise convolutions wrongly: resnet18.)"""
    _, model, task, batch = made(tiny, stage, **settings, **{"unet.encoder": "resnet18"})
    rows = len(batch.sample_ids)
    read = 0 if batch.input_ids is None else batch.input_ids.numel()
    counted = costs(model, task, batch).of(rows, read, batch.supervised if read else 0)
    assert counted == pytest.approx(executed(model, task, batch), rel=0.05)


def test_peaks_are_found_by_the_words_of_a_name():
    assert named_peak("NVIDIA H100 80GB HBM3") == 989e12
    assert named_peak("NVIDIA H100 PCIe") == 756e12
    assert named_peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert named_peak("NVIDIA A10G") == 70e12 and named_peak("NVIDIA A10") == 125e12
    assert named_peak("NVIDIA GeForce RTX 4090") == 165.2e12
    assert named_peak("Tesla V100-SXM2-16GB") is None
    assert peak_flops(CPU, 0.0) is None and peak_flops(CPU, 2.0) == 2e12


def test_the_meter_divides_by_the_time_of_steps_alone(monkeypatch):
    clock = iter([0.0, 10.0, 15.0, 25.0, 25.0])  # start; a pause from 10 to 15; reading at 25; start again
    monkeypatch.setattr("mdf.training.meters.time.monotonic", lambda: next(clock))
    meter = Meter(Costs(image=100.0, token=10.0, supervised=1.0), peak=1000.0)
    meter.step(8, 20.0, 300)
    with meter.paused():
        pass
    values = meter.values()
    assert (values["images_per_second"], values["tokens_per_second"]) == (0.4, 1.0)
    assert values["processed_tokens_per_second"] == 15.0
    assert values["mfu"] == pytest.approx((800 + 3000 + 20) / 20 / 1000)
    assert meter.seconds == 20.0 and meter.images == 0


def test_clipping_is_torchs_own_and_tells_the_norm_of_each_part(tiny):
    cfg, model, task, batch = made(tiny, "fuse")
    terms, _ = task(model, batch)
    task.total(terms, task.counts(batch), 1).backward()
    before = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    norms = clip_gradients(make_optimizer(model, cfg, "fuse"), 1e-3)
    after = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        if name in before:
            parameter.grad = before[name].clone()
    total = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    assert norms[""] == pytest.approx(float(total), rel=1e-5) and total > 1e-3
    assert all(torch.allclose(p.grad, after[n], rtol=1e-4) for n, p in model.named_parameters() if n in before)
    assert set(norms) == {"fusion", "language", "gates", ""}
    own = [p for n, p in before.items() if n.startswith("language.")]
    assert norms["language"] == pytest.approx(float(torch.nn.utils.get_total_norm(own)), rel=1e-5)


def test_gradients_that_are_spread_over_processes_are_clipped_with_the_others(tmp_path):
    """As FSDP2 leaves them: some DTensors, some plain; here all processes are this one."""
    import torch.distributed as dist
    from torch.distributed import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        torch.manual_seed(0)
        plain = [torch.nn.Parameter(torch.randn(4, 4)) for _ in range(3)]
        spread = [*(torch.nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])) for p in plain[:2]), plain[2]]
        for parameter, gradient in zip(spread, torch.randn(3, 4, 4), strict=True):
            own = distribute_tensor(gradient, mesh, [Shard(0)]) if parameter is not plain[2] else gradient.clone()
            parameter.grad = own
        norm = float(torch.linalg.vector_norm(torch.stack([whole(p.grad) for p in spread])))
        parts = [{"params": spread[:1], "part": "a"}, {"params": spread[1:], "part": "b"}]
        norms = clip_gradients(torch.optim.SGD(parts), 0.5)
        assert float(norms[""]) == pytest.approx(norm) and set(norms) == {"a", "b", ""}
        clipped = torch.linalg.vector_norm(torch.stack([whole(p.grad) for p in spread]))
        assert float(clipped) == pytest.approx(0.5, rel=1e-4)
    finally:
        dist.destroy_process_group()


def test_gates_are_named_by_the_layer_that_they_open(tiny):
    _, model, *_ = made(tiny, "fuse")
    with torch.no_grad():
        model.fusion.adapters[1].ffn_gate.fill_(-0.25)
    found = gates(model.fusion)
    assert list(found) == [f"gate_{name}_{layer}" for layer in model.fusion.layers for name in ("attn", "ffn")]
    assert found[f"gate_ffn_{model.fusion.layers[1]}"] == pytest.approx(-0.244919)
    assert found["gate_attn_0"] == pytest.approx(0.462117)


def test_a_line_of_a_run_has_them_all(tiny, capsys):
    cfg = tiny(**{"run.stages": ("fuse",), "fuse.steps": 2, "run.log_every": 2, "run.peak_tflops": 0.05})
    assert train(cfg) == 0
    lines = [json.loads(line) for line in (folder(cfg) / "metrics.jsonl").read_text().splitlines()]
    line = next(line for line in lines if "loss" in line)
    assert line["processed_tokens_per_second"] > line["tokens_per_second"] > 0 and 0 < line["mfu"] < 1
    parts = [line[f"grad_norm_{part}"] for part in ("fusion", "language", "gates")]
    assert sum(norm**2 for norm in parts) ** 0.5 == pytest.approx(line["grad_norm"], rel=1e-5)
    assert len([name for name in line if name.startswith("gate_")]) == 8
    assert " MFU " in capsys.readouterr().out
    assert (folder(cfg) / "curves.png").stat().st_size > 1000


def test_without_a_known_peak_mfu_is_left_out_and_that_is_said(tiny, capsys):
    cfg = tiny(**{"run.stages": ("segment",), "segment.steps": 1})
    assert train(cfg) == 0
    assert "no MFU: the peak of this cpu is not known; run.peak_tflops says it" in capsys.readouterr().out
    assert "mfu" not in (folder(cfg) / "metrics.jsonl").read_text()


def test_weights_in_four_bits_are_counted_whole():
    packed = torch.zeros(32, 1, dtype=torch.uint8)
    packed.quant_state = type("State", (), {"shape": (8, 8)})()
    assert weights([packed, torch.zeros(3, 3), torch.zeros(5)]) == (64 + 9, 0)
