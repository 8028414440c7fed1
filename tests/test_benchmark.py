"""The benchmark script measures what it says, on a configuration that is too small for its numbers to mean anything."""

import json
import os
import subprocess
import sys

import pytest

from mdf.config import save_config
from tests.conftest import REPO, assert_refused
from tests.scripts import start
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """YAML file of the tiny configuration."""
    folder = tmp_path_factory.mktemp("benchmark")
    save_config(tiny_config(folder), folder / "tiny.yaml")
    return folder / "tiny.yaml"


def test_it_prints_ratios_beside_their_references_and_bars(settings, run_script, tmp_path):
    out = tmp_path / "ratios.json"
    done = run_script(
        "benchmark.py",
        "generate",
        "step",
        "evaluate",
        "--config",
        settings,
        "fuse.batch_size=2",
        "--repeats",
        2,
        "--json",
        out,
    )
    assert done.returncode == 0, done.stderr
    for part in ("precision fp32", "1 CPU threads", "noise for", ">= 0.9", "<= 1.35", "generate without fusion"):
        assert part in done.stdout
    found = json.loads(out.read_text())
    assert [(row["name"], row["bar"], row["bar_is"]) for row in found["rows"]] == [
        ("generate", 0.9, "at least"),
        ("step, U-Net frozen", 1.35, "at most"),
        ("step, U-Net trains", None, None),
        ("evaluate, eight candidate answers", 1.3, "at most"),
    ]
    for row in found["rows"]:
        assert len(row["measured"]) == len(row["reference"]) == 2
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["verdict"] in (("-",) if row["bar"] is None else ("ok", "short"))
        assert f"{row['ratio']:.3f}" in done.stdout


def test_the_memory_of_a_step_is_what_tensors_take_by_torchs_own_count(settings):
    """Weights and moments are in it on both sides, and of the U-Net only where the fusion reads it."""
    import torch

    from mdf.benchmarks import Benchmarks, allocated
    from mdf.config import load_config
    from mdf.memory_benchmarks import LENGTHS, memory

    made = Benchmarks(load_config(settings), say=lambda text: None)
    kept: list[torch.Tensor] = []

    def action() -> None:
        torch.zeros(3, 1024, 256).sum()
        kept.append(torch.zeros(2, 1024, 256))

    peak, left = allocated(action, made.device)
    assert left == 2 * 2**20 and 3 * 2**20 <= peak <= 3 * 2**20 + 4096
    rows = memory(made)
    assert [(r.name, r.reference_name) for r in rows] == [
        (f"step memory, T {length}", reference)
        for length in LENGTHS
        for reference in ("the baseline's", "transformers, peft")
    ]
    weights, unet = (sum(p.numel() * 4 for p in m.parameters()) / 2**30 for m in (made.fused, made.fused.unet))
    for row in rows:
        assert row.measured[0] > weights and row.bar == 1.15 and not row.at_least
    for length, row in zip(LENGTHS, rows[::2], strict=True):
        assert row.measured[0] - row.reference[0] > unet, length


def test_the_language_model_alone_is_measured_by_attention_and_by_bits(settings, monkeypatch):
    from mdf import language_benchmarks
    from mdf.benchmarks import Benchmarks
    from mdf.config import load_config
    from mdf.errors import UserError

    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(language_benchmarks, "LENGTHS", (16, 24))
    rows = language_benchmarks.language(Benchmarks(load_config(settings), say=lambda text: None), 1)
    assert [(r.name, r.reference_name) for r in rows] == [
        ("language step, eager, T 16", "sdpa"),
        ("language step, eager, T 24", "sdpa"),
        ("language step, T 16, nf4", "fp32"),
        ("language step, T 16, int8", "fp32"),
    ]
    assert all(row.measured[0] > 0 for row in rows)
    monkeypatch.setattr(language_benchmarks, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        language_benchmarks.need_bitsandbytes()


def test_a_verdict_follows_from_the_median_of_the_rounds():
    from mdf.benchmarks import Row, table

    lower = Row("a", "b", "tokens/s", [9.0, 8.0, 1.0], [10.0, 10.0, 10.0], bar=0.85)
    upper = Row("a", "b", "s", [9.0, 8.0, 1.0], [10.0, 10.0, 10.0], bar=0.85, at_least=False)
    assert (lower.ratio, lower.verdict, upper.verdict) == (0.8, "short", "ok")
    assert "0.800 (0.100-0.900)" in table([lower])


def test_actions_take_turns_after_the_warm_up():
    import torch

    from mdf.benchmarks import interleave

    order: list[str] = []
    actions = [lambda: order.append("a"), lambda: order.append("b")]
    seconds = interleave(actions, 3, warm_up=1, device=torch.device("cpu"))
    assert "".join(order) == "abababab"
    assert [len(times) for times in seconds] == [3, 3]


def test_a_training_batch_is_half_supervised_and_the_models_differ_in_their_adapters_alone(settings):
    import torch

    from mdf.benchmarks import LENGTH, Benchmarks, training_batch
    from mdf.config import load_config

    made = Benchmarks(load_config(settings), say=lambda text: None)
    batch = training_batch(made.cfg, made.fused)
    assert batch.input_ids.shape == (4, LENGTH)
    assert batch.supervised == 4 * LENGTH // 2
    fused, baseline = made.fused.state_dict(), made.baseline.state_dict()
    assert set(baseline) < set(fused)
    assert all(torch.equal(fused[name], tensor) for name, tensor in baseline.items() if "lora_" not in name)
    made.training_step(made.cfg, made.fused, batch)()
    assert any("adapters" in n and p.requires_grad for n, p in made.fused.named_parameters())
    assert not any(n.startswith("unet.") and p.requires_grad for n, p in made.fused.named_parameters())


def test_data_is_measured_against_the_same_work_written_plainly(settings, monkeypatch, tmp_path):
    import torch

    from mdf import data_benchmarks
    from mdf.config import load_config

    monkeypatch.setattr(data_benchmarks, "PHOTOGRAPHS", 8)
    monkeypatch.setattr(data_benchmarks, "PHANTOM_SIZE", 160)
    monkeypatch.setenv("MDF_CACHE", str(tmp_path / "cache"))
    cfg = load_config(settings)
    rows = data_benchmarks.data(cfg, 1, root=None, workers=0, say=lambda text: None)
    assert [(r.name, r.bar) for r in rows] == [
        ("data, from files", 1.5), ("data, from files", None), ("data, from cache", 5.0),
        ("data, from shards of files", None), ("data, from prepared shards", 5.0),
    ]  # fmt: skip
    made = data_benchmarks.Photographs(cfg, None, tmp_path / "made", 0)
    ways = [made.from_files(), made.from_files(made.cache), made.from_files(made.cache)]
    ways += [made.from_shards("files"), made.from_shards("prepared")]
    batches = [next(iter(way)) for way in ways]
    plain = next(made.plain())
    for batch in batches:  # all ways make the same tensors; the reference does the same work
        for row, id_ in enumerate(batch.sample_ids):
            for name in ("pixel_values", "unet_pixels", "field"):
                place = batches[0].sample_ids.index(id_)
                assert torch.equal(getattr(batch, name)[row], getattr(batches[0], name)[place]), name
    for name in ("pixel_values", "unet_pixels"):
        assert (plain[name] - getattr(batches[0], name)).abs().mean() < 0.1
    assert (plain["field"] == batches[0].field).float().mean() > 0.97


def test_both_sides_of_an_align_step_train_alike(settings):
    """What is compared is how a step is computed: the losses of three steps are the same, open_clip's and ours."""
    from mdf.align_benchmarks import align_settings, noise, our_step, plain_clip, plain_step
    from mdf.config import load_config
    from mdf.models.fusion import MDFModel
    from mdf.training.devices import forget_accelerator, make_accelerator

    cfg = align_settings(load_config(settings))
    accelerator = make_accelerator(cfg.run, "fp32")
    try:
        model = MDFModel.build(cfg, ())
        batch = noise(cfg, model, 0)
        plain = plain_step(cfg, plain_clip(model.encoder.clip), batch, accelerator, bf16=False)
        ours = our_step(cfg, model, batch, accelerator)
        losses = [(float(ours()), float(plain())) for _ in range(3)]
    finally:
        forget_accelerator()
    assert batch.pixel_values.shape[0] == cfg.align.batch_size == len(set(batch.caption_group.tolist()))
    assert losses[2][0] < losses[0][0]
    for own, reference in losses:
        assert own == pytest.approx(reference, rel=1e-4)


def test_the_plain_loop_has_no_layer_of_ours_and_computes_the_same():
    import torch

    from mdf.align_benchmarks import plain_clip
    from mdf.config import EncoderConfig
    from mdf.models.fundus_encoder import FundusEncoder

    encoder = FundusEncoder(EncoderConfig(model="fundus-lite0", size=64)).eval()
    plain = plain_clip(encoder.clip)
    assert any(type(m).__module__.startswith("mdf.") for m in encoder.clip.modules())
    assert not any(type(m).__module__.startswith("mdf.") for m in plain.modules())
    kernels = [p for p in plain.visual.parameters() if p.ndim == 4]
    assert kernels and all(p.is_contiguous() for p in kernels)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(plain.encode_image(pixels, normalize=True), encoder(pixels)[0], atol=1e-5)


ALIGN = [
    ("align step", "plain loop, open_clip", 1.0),
    ("align step", "plain loop, our towers", None),
    ("embedding", "bare encoder", 0.95),
    ("embedding, from files", "bare encoder", None),
]


@pytest.fixture
def photographs(photograph, tmp_path):
    """A folder of three."""
    for i in range(3):
        photograph(tmp_path / "photographs" / f"{i}.png", seed=i)
    return tmp_path / "photographs"


def test_align_measures_steps_and_embedding(settings, photographs):
    from mdf.align_benchmarks import align
    from mdf.config import load_config

    cfg = load_config(settings, ["align.batch_size=2"])
    said: list[str] = []
    rows, facts = align(cfg, 1, root=photographs, say=said.append)
    assert [(r.name, r.reference_name, r.bar) for r in rows] == ALIGN
    assert all(r.unit == "photographs/s" and min(r.measured + r.reference) > 0 for r in rows)
    assert facts["processes"] == 1 and "3 photographs" in said[-1]


def test_align_on_two_processes_speaks_once(settings, photographs, tmp_path):
    out = tmp_path / "align.json"
    words = ["--config", settings, "--repeats", 1, "--data-root", photographs, "--json", out]
    done = start("benchmark.py", "align", *words, "--processes", 2, "align.batch_size=2")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["processes"] == 2
    assert [(row["name"], row["reference_name"], row["bar"]) for row in found["rows"]] == ALIGN
    assert done.stdout.count("plain loop, open_clip") == 1


@pytest.fixture
def made(settings, monkeypatch):
    """Benchmarks of the tiny configuration, with losses small enough for a test."""
    pytest.importorskip("trl", reason="the extra `benchmark` is not installed")
    from mdf import fuse_benchmarks
    from mdf.benchmarks import Benchmarks
    from mdf.config import load_config

    monkeypatch.setattr(fuse_benchmarks, "VOCABULARY", 4096)
    monkeypatch.setattr(fuse_benchmarks, "LENGTHS", (64, 128))
    monkeypatch.setattr(fuse_benchmarks, "WARM_UP", 0)
    return Benchmarks(load_config(settings), say=lambda text: None)


def test_fuse_measures_steps_beside_trls_and_the_memory_of_the_loss(made):
    from mdf.fuse_benchmarks import fuse

    rows = fuse(made, 2)
    steps = [f"fuse step, T {length}{kept}" for length in (64, 128) for kept in ("", ", features kept") * 2]
    bars = [1.0, 1.0, None, None] * 2
    assert [(r.name, r.bar) for r in rows[:-2]] == list(zip(steps, bars, strict=True))
    assert [(r.name, r.bar) for r in rows[-2:]] == [("loss memory", 0.25), ("loss memory", None)]
    assert all(len(r.measured) == len(r.reference) == 2 and min(r.measured + r.reference) > 0 for r in rows[:-2])
    assert [r.verdict for r in rows[-2:]] == ["ok", "-"]  # bytes, not seconds


def test_trl_and_the_plain_loop_have_the_loss_of_the_same_tokens(made):
    from mdf.benchmarks import training_batch
    from mdf.fuse_benchmarks import beside_trl, language_model, plain_step
    from mdf.models.language import attach_lora

    batch = training_batch(made.cfg, made.fused, 64)
    losses = []
    plain = plain_step(made, attach_lora(language_model(made), made.cfg.language), batch)
    seconds, loss = beside_trl(made, language_model(made), batch, [lambda: losses.append(float(plain()))], 1)
    assert [len(s) for s in seconds] == [1, 1]
    assert loss == pytest.approx(losses[0], rel=1e-4)  # LoRA starts at 0, whatever its other half is


def test_without_trl_fuse_says_what_to_install(settings):
    code = "import runpy, sys; sys.modules['trl'] = None; "
    code += f"sys.argv = ['benchmark.py', 'fuse', '--config', {str(settings)!r}]; "
    code += "runpy.run_path('scripts/benchmark.py', run_name='__main__')"
    env = os.environ | {"PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, env=env, capture_output=True, text=True)
    assert_refused(done, "TRL", "pip install 'mdf-mllm[benchmark]'")


EPOCHS = """
import os, sys, psutil, torch
from pathlib import Path
from mdf import data_benchmarks
from mdf.config import load_config
torch.set_num_threads(1)
data_benchmarks.PHOTOGRAPHS = 96
made = data_benchmarks.Photographs(load_config(sys.argv[1], ["unet.size=256"]), None, Path(sys.argv[2]), 0)
memory = []
for way in (made.from_files, lambda: made.from_files(made.cache), lambda: made.from_shards("prepared")):
    for epoch in range(7):
        data_benchmarks.exhaust(way)
        memory.append(psutil.Process(os.getpid()).memory_info().rss / 2**20)
print(*memory)
"""


@pytest.mark.slow
def test_memory_is_flat_over_epochs(settings, tmp_path):
    """The first epoch fills caches of libraries. Of six more, the last three take no more than the three before.

    The allocator makes the size go up and down by 26 MiB over ten epochs without a trend, hence medians of three, and
    16 MiB: keeping one prepared photograph in four would add 18 in three epochs.
    """
    code = [sys.executable, "-c", EPOCHS, str(settings), str(tmp_path / "made")]
    done = subprocess.run(code, cwd=REPO, env=os.environ | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    memory = [float(word) for word in done.stdout.split()[-21:]]
    for first in (1, 8, 15):
        before, after = sorted(memory[first : first + 3])[1], sorted(memory[first + 3 : first + 6])[1]
        assert after < before + 16, memory


def test_wrong_input_is_refused(settings, run_script, tmp_path):
    assert_refused(
        run_script("benchmark.py", "sped"), "sped", "generate, step, evaluate, memory, fuse, language, align, data"
    )
    assert_refused(run_script("benchmark.py", "--repeats", 0), "--repeats")
    assert_refused(run_script("benchmark.py", "data", "--data-root", tmp_path / "no"), "there is no folder")
    assert_refused(run_script("benchmark.py", "data", "--workers", -1), "--workers")
    assert_refused(run_script("benchmark.py", "align", "--processes", 0), "--processes")
    assert_refused(run_script("benchmark.py", "step", "--processes", 2), "align alone")
    assert_refused(run_script("benchmark.py", "--json", tmp_path / "no" / "x.json"), "does not exist")
    assert_refused(run_script("benchmark.py", "--config", settings, "fusion.depths=[]"), "fusion.depths")


def test_help_needs_no_torch():
    code = "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['benchmark.py', '--help']; "
    code += "runpy.run_path('scripts/benchmark.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, env={"PYTHONPATH": str(REPO)}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"generate" in done.stdout
