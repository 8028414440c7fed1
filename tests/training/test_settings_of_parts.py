"""Runs that train over a base of few bits, with moments of few bits, or all parts at once; and what is refused."""

import os
from dataclasses import replace

import pytest
import torch

from mdf.checking import problems
from mdf.config import PartConfig, PartsConfig
from mdf.errors import UserError
from mdf.inference.export import refuse_quantised
from mdf.models.fusion import MDFModel
from mdf.models.quantization import layers
from mdf.training.run import train
from mdf.training.saving import STATE
from mdf.training.start import first_model, next_model
from tests.training.conftest import losses
from tests.training.test_loop import assert_same_run, assert_same_training, crash, folder, launch, stop_at

FUSE = {"run.stages": ("fuse",), "fuse.steps": 5, "fuse.eval_every": 2, "run.keep_last_every": 1}
FEW = {"language.quantize": "nf4", "run.precision": "bf16", "language.lora_dropout": 0.1}
FULL = PartConfig("full", 1e-3)
# the best of the paper's settings: U-Net and language model fully fine-tuned, text with an auxiliary mask loss
PAPER = {
    "fuse.parts": PartsConfig(unet=FULL, fusion=FULL, language=PartConfig("full", 1e-4)),
    "fuse.losses": {"text": 1.0, "mask": 0.5},
}
# what its authors call future work: everything in one schedule
SYNCHRONISED = {
    "fuse.parts": PartsConfig(FULL, FULL, FULL, PartConfig("full", 1e-4)),
    "fuse.losses": {"text": 1.0, "grounding": 0.1, "mask": 0.5, "contrastive": 0.2, "label_aware": 0.2},
}


def resumed(tiny, monkeypatch, settings):
    """Two runs of the same settings, one of them cut after step 3 and resumed."""
    whole, cut = tiny(**settings), tiny(**settings, **{"run.name": "cut"})
    assert train(whole) == 0
    stop_at(monkeypatch, "fuse", 3, crash)
    with pytest.raises(RuntimeError, match="the power went"):
        train(cut)
    assert train(cut, resume=True) == 0
    return whole, cut


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_a_run_over_a_base_of_few_bits_resumes_to_the_last_bit(tiny, monkeypatch, quantize):
    """Validations lie before and after where it was cut, so that they change nothing of the base either."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no wheel for this system")
    whole, cut = resumed(tiny, monkeypatch, FUSE | FEW | {"language.quantize": quantize})
    assert_same_run(whole, cut)
    read = MDFModel.from_pretrained(folder(whole) / "best")
    assert len(layers(read.language)) == 28
    assert (
        f"28 layers with {'4-bit (nf4)' if quantize == 'nf4' else '8-bit (int8)'} weights"
        in (folder(whole) / "trainable.txt").read_text()
    )


@pytest.mark.slow
def test_lora_over_smollm2_in_4_bits_learns_to_answer(tiny):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no wheel for this system")
    short = {
        "fuse.steps": 8,
        "fuse.eval_every": 8,
        "fuse.eval_photographs": 2,
        "fuse.batch_size": 2,
        "fuse.warmup": 0.0,
    }
    cfg = tiny(**FUSE | FEW | short | {"language.model": "smollm2-135m", "dialogue.turns": 1})
    assert train(cfg) == 0
    assert sum(losses(cfg)[-2:]) < 0.7 * sum(losses(cfg)[:2])


def test_a_language_model_that_is_to_train_in_full_is_kept_in_float32_from_stage_to_stage(tiny, tmp_path):
    """In bfloat16 the steps of fine-tuning would be lost, without an error."""
    cfg = tiny(**FUSE | PAPER)
    first_model(cfg, (), torch.bfloat16).save_pretrained(tmp_path / "one")  # as after a stage that left it frozen
    started = replace(cfg, run=replace(cfg.run, start_from=str(tmp_path / "one")))
    for model in (next_model(cfg, tmp_path / "one", torch.bfloat16), first_model(started, (), torch.bfloat16)):
        assert {p.dtype for p in model.language.parameters()} == {torch.float32}


def test_a_run_with_moments_of_8_bits_resumes_to_the_last_bit(tiny, monkeypatch):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no wheel for this system")
    whole, cut = resumed(tiny, monkeypatch, FUSE | {"fuse.optimizer": "adamw_8bit"})
    assert_same_run(whole, cut)
    state = torch.load(folder(cut) / "last" / STATE / "optimizer.pt", weights_only=True)["state"]
    assert any(t.dtype == torch.uint8 for s in state.values() for v in s.values() if isinstance(v, dict)
               for t in v.values())  # fmt: skip


@pytest.mark.parametrize("settings", [PAPER, SYNCHRONISED], ids=["paper", "synchronised"])
def test_every_part_learns_in_one_schedule_and_the_masks_stay_good(tiny, settings):
    cfg = tiny(**FUSE | settings | {"fuse.steps": 3, "fuse.eval_every": 3})
    assert problems(cfg) == []
    torch.manual_seed(cfg.run.seed)
    before = first_model(cfg, ("normal", "diabetic_retinopathy", "amd", "glaucoma"), torch.float32).state_dict()
    assert train(cfg) == 0
    after = MDFModel.from_pretrained(folder(cfg) / "last")
    assert after.config.stale_masks is False
    moved = {n for n, p in after.named_parameters() if not torch.equal(p, before[n])}
    assert moved >= {"language.model.embed_tokens.weight", "language.model.layers.3.mlp.up_proj.weight"}
    for part in (n for n in ("encoder", "unet", "fusion", "language") if getattr(cfg.fuse.parts, n).mode == "full"):
        own = {n for n, _ in after.named_parameters() if n.startswith(f"{part}.") and n.endswith("weight")}
        assert len(own & moved) > 0.9 * len(own), part
    assert any(n.startswith("unet.net.decoder.") for n in moved) and any(n.endswith("gate") for n in moved)
    assert ("encoder.clip.visual.proj" in moved) == (settings is SYNCHRONISED)


class TestRefused:
    @pytest.mark.parametrize("quantize", ["nf4", "int8"])
    def test_full_fine_tuning_of_quantised_weights(self, tiny, quantize):
        cfg = tiny(**FUSE | PAPER | {"language.quantize": quantize})
        assert problems(cfg) == [
            f"fuse.parts.language.mode: full, but language.quantize is {quantize}, and weights of so few bits cannot "
            "train; set it to lora, which trains over them, or language.quantize=none"
        ]

    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("language.quantize", "fp4", "language.quantize: 'fp4' must be one of none, nf4, int8"),
            ("fuse.optimizer", "adam", "fuse.optimizer: 'adam' must be one of adamw, adamw_8bit, paged_adamw_8bit"),
            ("fuse.parts.fusion", PartConfig("full", warmup=1.0), "fuse.parts.fusion.warmup: 1.0 is outside [0, 1)"),
            (
                "fuse.parts.fusion",
                PartConfig("full", weight_decay=-1.0),
                "fuse.parts.fusion.weight_decay: -1.0 must be",
            ),
        ],
    )
    def test_a_setting_out_of_range(self, tiny, key, value, said):
        assert any(line.startswith(said) for line in problems(tiny(**{key: value})))

    def test_paged_moments_without_a_gpu(self, tiny, monkeypatch):
        monkeypatch.setattr(os, "environ", os.environ | {"ACCELERATE_USE_CPU": "true"})
        cfg = tiny(**FUSE | {"fuse.optimizer": "paged_adamw_8bit"})
        with pytest.raises(UserError, match=r"this run is on the CPU; set fuse\.optimizer=adamw_8bit, or adamw"):
            train(cfg)

    def test_lora_of_one_base_over_another(self, tiny):
        whole = tiny(**FUSE | {"fuse.steps": 1})
        assert train(whole) == 0
        start = {"run.start_from": str(folder(whole) / "best"), "run.name": "few"}
        with pytest.raises(UserError, match=r"language\.quantize: 'none' there, 'nf4' here"):
            train(tiny(**FUSE | FEW | start))


def test_a_stage_over_4_bits_starts_from_an_encoder_that_was_trained_without_them(tiny):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no wheel for this system")
    before = tiny(**{"run.stages": ("align",), "align.steps": 1})
    assert train(before) == 0
    start = str(folder(before) / "best")
    model = first_model(tiny(**FUSE | FEW | {"run.start_from": start}), ("normal",), torch.bfloat16)
    assert model.config.mdf["language"]["quantize"] == "nf4" and len(layers(model.language)) == 28
    learnt = MDFModel.from_pretrained(start).encoder.state_dict()
    assert all(torch.equal(tensor, learnt[n]) for n, tensor in model.encoder.state_dict().items())
    assert model.config.lora


def test_lora_learnt_over_4_bits_goes_on_over_whole_weights_and_can_be_exported_then(tiny, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no wheel for this system")
    before = tiny(**FUSE | FEW)
    assert train(before) == 0
    start = {"run.start_from": str(folder(before) / "best"), "run.name": "whole"}
    with pytest.warns(UserWarning, match="was trained with language.quantize nf4 and is loaded with none"):
        assert train(tiny(**FUSE | FEW | start | {"language.quantize": "none"})) == 0
    merged = MDFModel.from_pretrained(folder(before).parent / "whole" / "best")
    assert merged.config.lora and merged.config.mdf["language"]["quantize"] == "none"
    refuse_quantised(merged.config)  # nothing is left to refuse


@pytest.mark.slow
def test_two_processes_over_4_bits_train_as_one(tiny, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no wheel for this system")
    settings = FUSE | {"language.quantize": "nf4", "fuse.steps": 2, "fuse.eval_every": 2}
    one, two = tiny(**settings), tiny(**settings, **{"run.name": "two", "fuse.batch_size": 2})
    assert train(one) == 0
    process = launch(two, tmp_path / "two.yaml", 2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert_same_training(one, two)
