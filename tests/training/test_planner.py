"""The planner's figures beside what autograd keeps and PyTorch's own memory counters say of tiny models."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from mdf.config import load_config
from mdf.errors import UserError
from mdf.models.architectures import architecture, count, known
from mdf.models.fusion import MDFModel
from mdf.training.optimizer import make_optimizer
from mdf.training.plan_table import report, verdict
from mdf.training.planner import GIB, Plan, emptied, empty_model, kept, longest_batch, plan
from mdf.training.stages import Task
from tests.tiny_mllama import tiny_mllama_config

DIAGNOSES = ("normal", "glaucoma")


def empty(cfg, stage):
    """The stage's model without content."""
    model, task = empty_model(cfg, torch.float32), Task(cfg, stage)
    model.set_trainable(task.stage.parts, tuple(task.weights))
    return model


def real(cfg, stage):
    """The same with content, its task, and the longest batch in numbers."""
    model, task = MDFModel.build(cfg, DIAGNOSES), Task(cfg, stage)
    model.set_trainable(task.stage.parts, tuple(task.weights))
    shown = MDFModel.build(cfg, DIAGNOSES)
    processor, shown = shown.processor, emptied(shown)
    shown.processor = processor
    batch = longest_batch(cfg, shown, task)

    def numbers(value):
        if isinstance(value, dict):
            return {k: numbers(v) for k, v in value.items()}
        return torch.ones(value.shape, dtype=value.dtype) if isinstance(value, Tensor) and not plain(value) else value

    return model, task, replace(batch, **{f.name: numbers(getattr(batch, f.name)) for f in fields(batch)})


def plain(tensor):
    from torch._subclasses.fake_tensor import FakeTensor

    return not isinstance(tensor, FakeTensor)


@pytest.fixture
def config(world, tiny, request):
    """The tiny configuration of a language model by name, with changes."""

    def make(kind, **changes):
        return tiny(**changes) if kind == "llama" else tiny_mllama_config(world, **{"fuse.samples": 0, **changes})

    return make


@pytest.mark.parametrize("kind", ["llama", "mllama"])
@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("segment", {}),
        ("align", {}),
        ("fuse", {}),
        ("fuse", {"language.gradient_checkpointing": True}),
        ("fuse", {"fuse.parts.language.mode": "full", "fuse.parts.unet.mode": "full", "fuse.losses.mask": 1.0}),
    ],
    ids=["segment", "align", "fuse", "checkpointed", "full"],
)
def test_activations_are_what_autograd_keeps(config, kind, stage, changes):
    if kind == "mllama" and stage != "fuse":
        pytest.skip("the same as with llama")
    changes = dict(changes)
    extra = changes.pop("fuse.losses.mask", None)
    cfg = config(kind, **changes)
    if extra:
        cfg = replace(cfg, fuse=replace(cfg.fuse, losses={**cfg.fuse.losses, "mask": extra}))
    model, task, batch = real(cfg, stage)
    counted = plan(cfg, empty(cfg, stage), stage, "fp32").activations
    assert sum(counted.values()) == pytest.approx(kept(model, task, batch, "fp32").bytes, rel=0.1)


@pytest.mark.parametrize("kind", ["llama", "mllama"])
@pytest.mark.parametrize("mode", ["lora", "full"])
def test_together_it_is_what_pytorchs_memory_counters_say(config, kind, mode):
    """The peak of whole steps, weights, gradients and the optimiser's moments included."""
    cfg = config(kind, **{"fuse.parts.language.mode": mode, "fuse.accumulation": 2})
    model, task, batch = real(cfg, "fuse")
    model.train()
    optimizer = make_optimizer(model, cfg, "fuse")

    def step():
        for _ in range(task.stage.accumulation):
            terms, _ = task(model, batch)
            task.total(terms, task.counts(batch), 1).backward()
            del terms
        optimizer.step()
        optimizer.zero_grad()

    step()  # makes the moments
    moments = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    tensors = [*model.parameters(), *model.buffers(), *moments]
    peak = sum(t.numel() * t.element_size() for t in tensors) + allocated(step)
    planned = plan(cfg, empty(cfg, "fuse"), "fuse", "fp32").total(1, False)
    assert planned == pytest.approx(peak, rel=0.1)


def allocated(run):
    """The most that PyTorch's allocator had handed out at once during `run`, beside what there was before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    assert most > 0
    return most


def test_a_plan_needs_no_weights_and_no_tokenizer():
    cfg = load_config("quickstart", ["language.model=HuggingFaceTB/SmolLM2-360M-Instruct", "fusion.layers=[]"])
    found = plan(cfg, empty(cfg, "fuse"), "fuse", "fp32")
    base = 4 * known()["HuggingFaceTB/SmolLM2-360M-Instruct"]["parameters"]
    assert base < found.weights["language"] < 1.1 * base
    assert found.cache["language"] == cfg.dialogue.max_length * 32 * 2 * 5 * 64 * 2


def test_the_shapes_are_those_of_the_published_models():
    assert {name: count(name) for name in known()} == {name: values["parameters"] for name, values in known().items()}
    with pytest.raises(UserError, match=r"give the folder with its config\.json"):
        architecture("somebody/else-7b")


def test_four_bits_are_half_a_byte_in_the_layers_alone(tiny):
    cfg = tiny()
    few = replace(cfg, language=replace(cfg.language, quantize="nf4"))
    model = empty(cfg, "fuse")
    whole, quantised = (plan(c, model, "fuse", "fp32") for c in (cfg, few))
    matrices = sum(
        p.numel() for n, p in model.language.named_parameters() if ".layers." in n and "lora_" not in n and p.ndim == 2
    )
    saved = whole.weights["language"] - quantised.weights["language"]
    assert saved == pytest.approx(matrices * (4 - 0.5159), rel=1e-3)
    assert quantised.total(8, True) is None and quantised.total(8, False) > 0


def test_moments_in_eight_bits_take_a_quarter(tiny):
    cfg = tiny()
    model = empty(cfg, "fuse")
    few = replace(cfg, fuse=replace(cfg.fuse, optimizer="adamw_8bit"))
    a, b = (sum(plan(c, model, "fuse", "fp32").optimizer.values()) for c in (cfg, few))
    assert 0.25 < b / a < 0.35


GROWN = {"weights": 40.0 * GIB, "gradients": 40.0 * GIB, "optimizer": 80.0 * GIB, "activations": 8.0 * GIB}


def test_sharding_divides_what_is_kept_and_copies_do_not():
    parts = {name: {"language": size} for name, size in GROWN.items()}
    found = Plan(1, 512, transient=2.0 * GIB, unit=1.0 * GIB, rest=3.0 * GIB, quantized=False, **parts)
    assert found.total(1, False) == found.total(1, True) == 170 * GIB
    assert found.total(8, False) == (170 + 40) * GIB  # a second copy of the gradients
    assert found.total(8, True) == (160 / 8 + 10 + 2 + 3) * GIB
    assert not found.fits(80) and found.fits(40, 8, True) and not found.fits(16, 64, True)


class TestReport:
    def test_it_says_what_fits_and_what_to_change_first(self, tiny):
        cfg = tiny(**{"fuse.batch_size": 4})
        model = empty(cfg, "fuse")
        found = plan(cfg, model, "fuse", "fp32")
        assert verdict(cfg, model, "fuse", "fp32", found, 24.0) == "fits on one GPU"
        text = verdict(cfg, model, "fuse", "fp32", found, 1.0)  # what the driver takes alone
        first = text.split("change first ")[1]
        assert (
            first.startswith("language.gradient_checkpointing=true (")
            and "fuse.batch_size=2 fuse.accumulation=2" in first
        )

    def test_it_is_for_the_card_that_is_asked_for(self, tiny):
        cfg = tiny()
        model = empty(cfg, "fuse")
        text = report(replace(cfg, run=replace(cfg.run, gpu_gb=16.0)), model, "fuse", "fp32")
        assert "  16 GB: fits on one GPU" in text and "40 GB" not in text
        lines = text.splitlines()
        assert [line.split()[0] for line in lines[2:6]] == ["encoder", "unet", "fusion", "language"]
        assert lines[0].startswith(
            "memory of fuse, GiB on each GPU, fp32: 4 photographs with conversations of 400 tokens"
        )
