"""The dry run, and the script around both."""

import subprocess
import sys

import pytest
import segmentation_models_pytorch as smp
import torch

from mdf.config import load_config, save_config
from mdf.models.architectures import known
from mdf.preview import marked
from mdf.training.data import diagnoses_of, load_manifests
from mdf.training.dry_run import dry_run, first_batch
from mdf.training.planner import emptied, kept, longest_batch, plan
from mdf.training.stages import Task
from mdf.training.start import first_model
from tests.conftest import REPO, assert_refused


def test_shows_the_parts_the_batch_and_the_supervised_span(tiny, capsys):
    cfg = tiny(**{"dialogue.diagnosis_first": 1.0})
    assert dry_run(cfg, strict=True) == 0
    printed = capsys.readouterr().out
    for stage in cfg.run.stages:
        assert f"stage {stage}\n" in printed and f"memory of {stage}, GiB on each GPU, fp32: 4 photographs" in printed
    assert "| <|im_start|>assistant\n  | [[" in printed and "<|im_end|>]]" in printed
    assert "<filename>×4" in printed and "[[<|im_start|>" not in printed
    assert "unet_pixels     float32  [4, 3, 64, 64]" in printed


def test_a_released_lesion_u_net_looks_at_1024_pixels_beside_an_encoder_at_224(tiny, tmp_path, capsys):
    whole = smp.Unet("tu-seresnext50_32x4d", encoder_weights=None, classes=5)
    torch.save({f"model.{name}": value for name, value in whole.state_dict().items()}, tmp_path / "lesions.pt")
    large = {"unet.size": 1024, "encoder.size": 224, "run.stages": ("fuse",), "fuse.batch_size": 1}
    assert dry_run(tiny(**large, **{"unet.weights": f"fundus-lesions:{tmp_path / 'lesions.pt'}"}), strict=True) == 0
    printed = capsys.readouterr().out
    assert "unet_pixels     float32  [1, 3, 1024, 1024]" in printed
    assert "pixel_values    float32  [1, 3, 224, 224]" in printed
    assert "U-Net encoder tu-seresnext50_32x4d: 382 tensors" in printed
    assert dry_run(tiny(**large, **{"unet.weights": "fundus-lesions"})) == 0
    assert "NOT CHECKED: model: unet.weights: fundus-lesions is a release and names no file" in capsys.readouterr().out


def test_what_is_not_at_hand_is_not_checked(tiny, tmp_path, capsys):
    cfg = tiny(**{"data.name": "folder", "data.root": str(tmp_path / "nowhere")})
    assert dry_run(cfg) == 0
    assert "NOT CHECKED: data: " in capsys.readouterr().out
    assert dry_run(cfg, strict=True) == 2


def aligning(tiny, **changes):
    cfg = tiny(**{"run.stages": ("align",), "align.batch_size": 12, **changes})
    manifests = load_manifests(cfg)
    model, task = first_model(cfg, diagnoses_of(manifests), torch.float32), Task(cfg, "align")
    model.set_trainable(task.stage.parts, tuple(task.weights))
    return model, task, first_batch(cfg, task, manifests["align"], model)


def test_a_contrastive_batch_in_chunks_needs_less_memory(tiny):
    needed = []
    for chunk in (0, 2):
        model, task, _ = aligning(tiny, **{"align.chunk": chunk})
        needed.append(kept(emptied(model), task, longest_batch(tiny(), model, task), "fp32").bytes)
    assert 0 < needed[1] < needed[0] / 3  # a sixth, and what does not grow with the photographs


def test_what_is_counted_without_computing_is_what_a_step_keeps(tiny):
    model, task, batch = aligning(tiny)
    real = kept(model, task, batch, "fp32").bytes
    cfg = tiny(**{"run.stages": ("align",), "align.batch_size": 12})
    # beside the encoder's there are those of the loss, 12 x 12 numbers a few times over
    assert sum(plan(cfg, emptied(model), "align", "fp32").activations.values()) == pytest.approx(real, rel=0.02)


def test_weights_that_are_not_at_hand_leave_the_rest_to_look_at(tiny, capsys):
    cfg = tiny(**{"run.stages": ("align",), "encoder.weights": "nowhere.safetensors"})
    assert dry_run(cfg) == 0 and dry_run(cfg, strict=True) == 2
    printed = capsys.readouterr().out
    assert "NOT CHECKED: model: encoder.weights" in printed
    assert "stage align\n" in printed and "memory of align, GiB" in printed


@pytest.mark.parametrize("recipe", ["flair", "mm_fundus_clip", "ret_clip"])
def test_a_recipe_is_a_configuration_that_loads(recipe):
    cfg = load_config(recipe, [])
    assert cfg.run.stages == ("align",) and cfg.align.batch_size >= 128
    own = {"flair": {"label_aware": 1.0}, "ret_clip": {"patient": 1.0}, "mm_fundus_clip": {"contrastive": 1.0}}
    assert cfg.align.losses == own[recipe], "and none of the configuration that it extends"


@pytest.mark.slow
def test_a_recipe_is_looked_at_without_its_weights_and_data(capsys):
    assert dry_run(load_config("ret_clip", ["align.batch_size=4"])) == 0
    printed = capsys.readouterr().out
    assert "image tower VisionTransformer: QuickGELU, 224 px" in printed and "up to 100 tokens" in printed
    assert "NOT CHECKED: data: " in printed and "memory of align, GiB" in printed


LANGUAGE = ["llama32_11b_qlora", "llama32_11b_lora", "llama32_11b_full", "llama32_11b_joint", "llama32_1b", "smollm2"]


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_configuration_of_a_language_model_loads_and_says_what_it_needs(name):
    cfg = load_config(name)
    assert cfg.run.name == name and cfg.language.model in known()
    head = [line for line in (REPO / "configs" / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    text = "\n".join(head)
    assert f"--config configs/{name}.yaml" in text and "# Memory: " in text and "# Time: " in text


@pytest.mark.slow
@pytest.mark.parametrize("name", LANGUAGE)
def test_it_is_looked_at_without_weights_tokenizer_and_data(name, capsys, monkeypatch):
    """Its language model is neither here nor fetched, and yet the memory of every stage is known."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cfg = load_config(name, ["run.gpu_gb=24"])
    assert dry_run(cfg) == 0
    printed = capsys.readouterr().out
    assert "NOT CHECKED: data: " in printed
    assert ("NOT CHECKED: model: language.model" in printed) == (cfg.language.model != "smollm2-135m")
    for stage in cfg.run.stages:
        assert f"memory of {stage}, GiB" in printed
    assert dry_run(cfg, strict=True) == 2


def test_the_mark_goes_round_the_supervised_tokens():
    class Tokenizer:
        def decode(self, ids, **_):
            return "".join(chr(i) for i in ids)

    ids = [ord(c) for c in "question:yes.question:no."]
    labels = [i if 9 <= k < 13 or k >= 22 else -100 for k, i in enumerate(ids)]
    assert marked(ids, labels, Tokenizer()) == "question:[[yes.]]question:[[no.]]"


def test_the_script_refuses_wrong_input_without_a_traceback(run_script, tiny, tmp_path):
    save_config(tiny(), tmp_path / "run.yaml")
    assert_refused(run_script("train.py", "--config", tmp_path / "run.yaml", "fuse.step=3"), "fuse.step", "fuse.steps")
    assert_refused(run_script("train.py", "--config", tmp_path / "run.yaml", "--resume"), "leave --resume away")
    assert run_script("train.py", "--help").returncode == 0


def test_help_loads_no_torch():
    code = (
        "import runpy, sys\nsys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path('scripts/train.py', run_name='__main__')\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env={"PYTHONPATH": str(REPO)}, check=True, capture_output=True
    )
